"""The catalog as people read it: what each model is, and what it would need on this machine."""

from typing import Any

from llmbench import catalog
from llmbench.errors import LlmbenchError
from llmbench.hardware import machine
from llmbench.models import shapes
from llmbench.models.predict import predict, spec_of
from llmbench.models.source import locate

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
FORMS = ("float32", "bfloat16", "int8", "nf4")


def models(name: str | None = None) -> list[dict[str, Any]]:
    """A row a catalog model, `builtin:tiny` first; with `name` that model's card as one row.

    Bytes are predicted, for one row of 2,048 tokens in bfloat16; `fits` is about the main
    memory here. Raises: BadParams for an unknown name.
    """
    if name is None:
        return [_builtin(), *(_row(entry) for entry in catalog.models().values())]
    if name == "builtin:tiny":
        return [_builtin() | {"predicted_bytes": _needs(name)}]
    if name.startswith("builtin:"):
        locate(name)
    entry = catalog.model(name.removeprefix("shape:"))
    card = entry.model_dump(exclude_none=True, exclude_defaults=True)
    return [_row(entry) | card | {"predicted_bytes": _needs(entry.name)}]


def _builtin() -> dict[str, Any]:
    spec = spec_of("builtin:tiny")
    return {"name": "builtin:tiny", "family": spec.model_type, "trained_context":
            spec.trained_context, "licence": "ships with llmbench", "gated": False,
            "use": "builtin:tiny"} | _memory("builtin:tiny")  # fmt: skip


def _row(entry: catalog.CatalogModel) -> dict[str, Any]:
    found = entry.architecture
    own = entry.name in shapes.known_shapes()
    return {"name": entry.name, "family": found.model_type if found else "spectral",
            "trained_context": found.trained_context if found else None,
            "licence": entry.licence, "gated": entry.gated,
            "use": f"shape:{entry.name}" if own else "its folder"} | (
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
