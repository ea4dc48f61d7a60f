"""Which `impl` of edge serves what is asked: for the engine, and for whoever foretells it."""

from collections.abc import Mapping
from typing import Any

from llmbench.errors import Unsupported

OPTIONS_OF = {"reference": ("dtype", "attention_impl"), "cpu": ("kv_type", "isa")}  # and nobody's


def impl_of(options: Mapping[str, Any]) -> str:
    """The impl for `options` and their `device`: C++ on a CPU, the reference on a GPU.

    An option that one impl has alone asks for that one. Raises: Unsupported for one that is not for
    this device.
    """
    asked, device = options.get("impl") or "auto", options.get("device", "cpu")
    if asked == "cpu" and device != "cpu":
        raise Unsupported(f"engine edge: impl cpu does not run on the device {device}",
                          how="device: cpu, or impl: reference")  # fmt: skip
    if asked != "auto":
        return asked
    for impl, own in OPTIONS_OF.items():
        if any(options.get(name) is not None for name in own):
            return impl
    return "cpu" if device == "cpu" else "reference"
