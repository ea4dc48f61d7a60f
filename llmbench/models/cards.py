"""The catalog as people read it: what each model is, and what it would need on this machine."""

from typing import Any

from llmbench import catalog
from llmbench.errors import LlmbenchError
from llmbench.hardware import machine
from llmbench.models import shapes
from llmbench.models.ollama_tags import tags_here
from llmbench.models.predict import predict, spec_of

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
HERE = ("builtin:", "gguf:", "ollama:")  # names of what lies on this machine
FORMS = ("float32", "bfloat16", "int8", "nf4")


def models(name: str | None = None) -> list[dict[str, Any]]:
    """A row a catalog model, `builtin:tiny` first and the other Ollama tags here last.

    With `name` that model's card as one row.

    Bytes are predicted, for one row of 2,048 tokens in bfloat16; `fits` is about the main
    memory here. A name that the catalog does not know may be a file or a tag on this machine.
    Raises: BadParams for an unknown name, Missing for a tag that is not here.
    """
    if name is None:
        known = [_row(entry) for entry in catalog.models().values()]
        others = [tag for tag in tags_here() if tag.lower() not in catalog.names()]
        return [_own("builtin:tiny"), *known, *(_tag(f"ollama:{tag}") for tag in others)]
    known = catalog.names() if name.startswith("ollama:") else ()
    if name.startswith(HERE) and name.removeprefix("ollama:").lower() not in known:
        return [_own(name) | {"predicted_bytes": _needs(name)}]
    entry = catalog.model(name.removeprefix("shape:"))
    card = entry.model_dump(exclude_none=True, exclude_defaults=True)
    return [_row(entry) | card | {"predicted_bytes": _needs(entry.name)}]


def _own(name: str) -> dict[str, Any]:
    """A row of a model on this machine, from its own weights' header or config."""
    spec = spec_of(name)
    licence = "ships with llmbench" if name.startswith("builtin:") else None
    return {"name": name, "family": spec.model_type, "trained_context": spec.trained_context,
            "licence": licence, "gated": False, "use": name} | _memory(name)  # fmt: skip


def _tag(name: str) -> dict[str, Any]:
    """A row of a tag on this machine; of a damaged one, what is wrong with it."""
    try:
        return _own(name)
    except LlmbenchError as error:
        return {"name": name, "family": "unknown", "trained_context": None, "licence": None,
                "gated": False, "use": error.what, "parameters": None, "peak_bytes": None,
                "fits": None}  # fmt: skip


def _row(entry: catalog.CatalogModel) -> dict[str, Any]:
    found = entry.architecture
    uses = [f"ollama:{entry.ollama_tag}"] if entry.ollama_tag in tags_here() else []
    uses += [f"shape:{entry.name}"] if entry.name in shapes.known_shapes() else []
    return {"name": entry.name, "family": found.model_type if found else "spectral",
            "trained_context": found.trained_context if found else None,
            "licence": entry.licence, "gated": entry.gated,
            "use": " or ".join(uses) or "its folder"} | (
        _memory(entry.name) if found else {"parameters": entry.parameters_claimed,
                                           "peak_bytes": None, "fits": None})  # fmt: skip


def _memory(name: str) -> dict[str, Any]:
    """Parameters, predicted bytes at 2,048 tokens in bfloat16, and whether they fit here."""
    here = machine()
    limit = here.cgroup_memory_bytes or here.memory_bytes
    try:
        found = predict(name, context_len=2048, dtype="bfloat16", device_bytes=limit)
    except LlmbenchError:
        known = catalog.models().get(name)
        return {"parameters": known.parameters if known else None, "peak_bytes": None,
                "fits": None}  # fmt: skip
    return {"parameters": found.parameters, "peak_bytes": found.peak_bytes, "fits": found.fits}


def _needs(name: str) -> dict[str, dict[int, int]]:
    """Predicted peak bytes by form of the weights and context length, up to the trained one."""
    try:
        trained = spec_of(name).trained_context or LENGTHS[-1]
        return {form: {n: predict(name, context_len=n, dtype=form).peak_bytes
                       for n in LENGTHS if n <= trained} for form in FORMS}  # fmt: skip
    except LlmbenchError:
        return {}
