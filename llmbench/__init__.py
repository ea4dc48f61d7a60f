"""llmbench: which engine is faster, by how much, with what certainty; how cost grows; what fits.

    import llmbench
    run = llmbench.measure("scaling", models=["builtin:tiny"], context_lens=[128, 256, 512])
    frame = llmbench.read(run.folder)

Importing is light: each function below wakes its room when it is first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_FACADE = {
    "run": "llmbench.campaign:run",
    "measure": "llmbench.sweep:measure",
    "plan": "llmbench.outlook:outlook",
    "status": "llmbench.sweep:status",
    "report": "llmbench.page:write_page",
    "read": "llmbench.metrics:read",
    "scaling": "llmbench.laws:scaling",
    "compare": "llmbench.pairs:compare",
    "check": "llmbench.checker:check",
    "merge": "llmbench.store:merge",
    "doctor": "llmbench.diagnosis:doctor",
    "predict": "llmbench.models.predict:predict_here",
    "generate": "llmbench.trial:generate",
    "validate": "llmbench.validation:validate",
    "load": "llmbench.engines.loaded:load",
}

__all__ = ["__version__", *_FACADE]


def __getattr__(name: str) -> Any:
    if name not in _FACADE:
        raise AttributeError(f"module 'llmbench' has no attribute {name!r}")
    module, _, function = _FACADE[name].partition(":")
    return getattr(import_module(module), function)


def __dir__() -> list[str]:
    return sorted([*globals(), *_FACADE])
