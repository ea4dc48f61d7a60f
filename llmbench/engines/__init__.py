"""The table of engines: a name → an engine, imported when it is asked for."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from llmbench.engines.base import Engine
from llmbench.errors import BadParams, Missing
from llmbench.impls import impl_of
from llmbench.kernels.build import cpu_library
from llmbench.params import ENGINES, one_of

MODULES = {  # what an engine imports, and what brings it
    "edge": (("torch", "safetensors"), "pip install 'llmbench[transformers]'"),  # impl: reference
    "fake": ((), ""),
    "llamacpp": (("llama_cpp",), "make llamacpp"),
    "ollama": (("ollama",), "pip install 'llmbench[ollama]'"),
    "transformers": (("torch", "transformers", "safetensors"),
                     "pip install 'llmbench[transformers]'"),
}  # fmt: skip


def check_installed(name: str, options: Mapping[str, Any]) -> None:
    """Raises: Missing when what the engine needs with `options` (and `device`) is not here.

    That is its packages, a server, or a compiler.
    """
    modules, remedy = MODULES[name]
    if name == "edge" and impl_of(options) == "cpu":
        cpu_library()
        modules = ()
    if lost := [module for module in modules if find_spec(module) is None]:
        raise Missing(f"engine {name} is not installed here: no {', '.join(lost)}",
                      kept="nothing was started", how=remedy)  # fmt: skip
    if name == "ollama":
        from llmbench.engines.ollama_server import find_binary, host_from_environment

        options.get("host") or host_from_environment() or find_binary()


def create(name: str) -> Engine:
    """A fresh engine called `name`, with nothing loaded. Raises: BadParams."""
    try:
        one_of("engine", tuple(ENGINES), name)
    except ValueError as error:
        raise BadParams(f"{name!r} {error}") from None
    module, _, kind = ENGINES[name].partition(":")
    return getattr(import_module(module), kind)()
