"""Will it fit here, and how long must it take at least: spec and hardware, nothing fitted."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from llmbench.errors import BadParams, Missing, Unsupported
from llmbench.hardware import Roofs, machine
from llmbench.models import cost, source
from llmbench.models.header import read_header
from llmbench.models.spec import Spec, spec_from_catalog, spec_from_config, spec_from_header
from llmbench.units import nbytes

KV_ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Prediction:
    """What a model will need, in bytes and seconds, before anything is loaded."""

    parameters: int
    weight_bytes: int
    kv_bytes: int  # of all rows at `context_len`
    activation_bytes: int  # an estimate; the other byte counts are exact
    peak_bytes: int  # the sum of the three
    fits: bool | None  # None: the device's memory is not known
    why: str
    prefill_s_at_least: float | None = None  # roof lower bounds; None without roofs
    decode_s_per_token_at_least: float | None = None  # one step, which gives each row a token


def predict(
    model: str | Spec,
    *,
    context_len: int,
    batch_size: int = 1,
    dtype: str = "float16",
    kv_dtype: str | None = None,
    device_bytes: int | None = None,
    roofs: Roofs | None = None,
) -> Prediction:
    """What `model` needs for `batch_size` rows of `context_len` tokens in one device's memory.

    `dtype` is a name of `cost.FORMATS`: a float type, or "int8", "nf4" (double quantisation) and
    "nf4-single" as bitsandbytes stores them, with embedding, head and norms left in 16 bits.
    The runtime's own memory (a CUDA context, libraries, allocator slack) is not in it.
    Raises: BadParams, Missing, Unsupported.
    """
    spec = model if isinstance(model, Spec) else spec_of(model)
    stored, itemsize = _formats(dtype, kv_dtype)
    _positive(context_len=context_len, batch_size=batch_size)
    weights = cost.weight_bytes(spec, stored)
    kv = batch_size * context_len * cost.kv_bytes_per_token(spec, itemsize)
    activations = cost.activation_bytes(spec, context_len, batch_size, stored.kept_itemsize)
    peak = weights + kv + activations
    fits = None if device_bytes is None else peak <= device_bytes
    prefill_s, decode_s = _bounds(spec, stored, itemsize, context_len, batch_size, roofs)
    return Prediction(
        parameters=cost.parameters(spec).total,
        weight_bytes=weights,
        kv_bytes=kv,
        activation_bytes=activations,
        peak_bytes=peak,
        fits=fits,
        why=_why(spec, (weights, kv, activations), context_len, device_bytes),
        prefill_s_at_least=prefill_s,
        decode_s_per_token_at_least=decode_s,
    )


def predict_here(
    model: str | Spec,
    *,
    context_len: int,
    batch_size: int = 1,
    dtype: str = "float16",
    kv_dtype: str | None = None,
    device_bytes: int | None = None,
    roofs: Roofs | None = None,
) -> Prediction:
    """`predict` for a device of `device_bytes`; without them, for this machine's memory."""
    here = machine()
    memory = device_bytes or here.cgroup_memory_bytes or here.memory_bytes
    return predict(model, context_len=context_len, batch_size=batch_size, dtype=dtype,
                   kv_dtype=kv_dtype, device_bytes=memory, roofs=roofs)  # fmt: skip


def spec_of(name: str) -> Spec:
    """The spec of a model: `builtin:`, `gguf:`, a folder, `shape:`, `ollama:`, or of the catalog.

    Of a tag that is here its file tells, of another one the catalog.

    Raises: BadParams for an unknown name, Missing or Unsupported when no spec can be had.
    """
    if name.startswith("gguf:"):
        return spec_from_header(read_header(source.locate(name), texts=False))
    if name.startswith("ollama:"):
        return _spec_of_tag(name)
    if name.startswith("spectral:"):
        raise Unsupported(
            f"models: memory of {name!r} is not predicted from its name",
            why="its cost follows from other numbers than those of a transformer's config",
        )
    if name.startswith("builtin:") or Path(name).expanduser().is_dir():
        config = source.locate(name) / "config.json"
        return spec_from_config(json.loads(config.read_text(encoding="utf-8")))
    spec = spec_from_catalog(name.removeprefix("shape:"))
    if name.startswith("shape:"):  # made without longrope, so trained for less
        trained = source.shapes().shape_architecture(name).trained_context
        return replace(spec, trained_context=trained)
    return spec


def _spec_of_tag(name: str) -> Spec:
    try:
        file = source.locate(name)
    except Missing as not_here:
        try:
            return spec_from_catalog(name)
        except BadParams:
            raise not_here from None
    return spec_from_header(read_header(file, texts=False))


def _formats(dtype: str, kv_dtype: str | None) -> tuple[cost.Format, int]:
    if dtype not in cost.FORMATS:
        raise BadParams(f"dtype is {dtype!r}", how=f"one of {', '.join(cost.FORMATS)}")
    kv = kv_dtype or (dtype if dtype in KV_ITEMSIZE else "float16")
    if kv not in KV_ITEMSIZE:
        raise BadParams(f"kv_dtype is {kv!r}", how=f"one of {', '.join(KV_ITEMSIZE)}")
    return cost.FORMATS[dtype], KV_ITEMSIZE[kv]


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise BadParams(f"{name} is {value}; must be ≥ 1")


def _bounds(
    spec: Spec,
    stored: cost.Format,
    itemsize: int,
    context_len: int,
    batch_size: int,
    roofs: Roofs | None,
) -> tuple[float | None, float | None]:
    """Seconds of prefill and of one decode step that no implementation can beat under `roofs`.

    Source: Williams, Waterman, Patterson, Roofline, CACM 52(4) 2009: max(FLOPs/P, bytes/BW).
    """
    if roofs is None:
        return None, None
    read = cost.weight_read_bytes(spec, stored, batch_size)
    kv = batch_size * cost.kv_read_bytes(spec, context_len, itemsize)
    prefill = cost.prefill_flops(spec, context_len, batch_size)
    decode = cost.decode_flops(spec, context_len, batch_size)
    return (
        max(prefill / roofs.flops_per_s, read / roofs.bytes_per_s),
        max(decode / roofs.flops_per_s, (read + kv) / roofs.bytes_per_s),
    )


def _why(
    spec: Spec, parts: tuple[int, int, int], context_len: int, device_bytes: int | None
) -> str:
    weights, kv, activations = (nbytes(part) for part in parts)
    needs = f"{weights} of weights + {kv} of KV cache + about {activations} of activations"
    peak = sum(parts)
    if device_bytes is None:
        verdict = f"needs {nbytes(peak)} ({needs}); the memory here is not known"
    else:
        word = "fits" if peak <= device_bytes else "does not fit"
        verdict = f"{word}: needs {nbytes(peak)} ({needs}) of {nbytes(device_bytes)}"
    if spec.trained_context and context_len > spec.trained_context:
        verdict += f"; the model was trained to {spec.trained_context} tokens, not {context_len}"
    return verdict
