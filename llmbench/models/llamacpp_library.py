"""llama.cpp in this process: its library, imported where it is used, and what it logs."""

from collections import deque
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from llmbench.errors import Missing

LINES = 4096  # of the log that are kept
_log: deque[str] = deque(maxlen=LINES)
_kept: list[Any] = []  # the callback, which the library holds by address only


def llamacpp() -> ModuleType:
    """The `llama_cpp` module, its log turned to `log_lines`. Raises: Missing."""
    if find_spec("llama_cpp") is None:
        raise Missing("llama.cpp is not installed here", how="make llamacpp")
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:  # a build for another machine
        raise Missing("llama.cpp's library cannot be loaded", why=str(error),
                      how="make llamacpp builds it for this machine") from error  # fmt: skip
    if not _kept:
        _kept.append(llama_cpp.llama_log_callback(_keep))
        llama_cpp.llama_log_set(_kept[0], None)
        llama_cpp.llama_backend_init()
    return llama_cpp


def _keep(level: int, text: bytes, data: Any) -> None:
    _log.append(text.decode(errors="replace"))


def forget_log() -> None:
    """Begin a new log."""
    _log.clear()


def log_lines() -> list[str]:
    """What llama.cpp has logged since `forget_log`, its last lines."""
    return "".join(_log).splitlines()


def last_words(count: int = 3) -> str:
    """The end of the log, for an error's message."""
    return "; ".join(line.strip() for line in log_lines()[-count:])
