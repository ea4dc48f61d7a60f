"""llama.cpp in this process: its library, imported where it is used, and what it says of itself."""

import ctypes
import re
from collections import deque
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from llmbench.errors import Missing, Unsupported
from llmbench.hardware import release

# The first llama-cpp-python with a llama.cpp of b8146 or newer. Source: CVE-2026-27940, a GGUF file
# that writes beyond its buffers (mended in b8146, February 2026); 0.3.16 is of August 2025.
FLOOR = "0.3.17"
LINES = 4096  # of the log that are kept
DEBUG, CONTINUED = 1, 5  # enum ggml_log_level
_log: deque[str] = deque(maxlen=LINES)
_levels = [0]  # of the line that is being logged
_kept: list[Any] = []  # the callback, which the library holds by address only


def llamacpp(*, allow_old: bool = False) -> ModuleType:
    """The `llama_cpp` module, its log turned to `log_lines`.

    Raises: Missing, Unsupported for a version with a known hole unless `allow_old`.
    """
    if find_spec("llama_cpp") is None:
        raise Missing("llama.cpp is not installed here",
                      how="make llamacpp, or without the repository "
                      "pip install 'llmbench[llamacpp]'")  # fmt: skip
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:  # a build for another machine
        raise Missing("llama.cpp's library cannot be loaded", why=str(error),
                      how="make llamacpp builds it for this machine") from error  # fmt: skip
    if is_old(llama_cpp.__version__) and not allow_old:
        raise Unsupported(f"llama.cpp here is of llama-cpp-python {llama_cpp.__version__}",
                          why=f"before {FLOOR} a crafted model file writes to foreign memory",
                          how="make llamacpp; or engine_options: {llamacpp: {allow_old: true}}, "
                          "which is recorded")  # fmt: skip
    if not _kept:
        _kept.append(llama_cpp.llama_log_callback(_keep))
        llama_cpp.llama_log_set(_kept[0], None)
        llama_cpp.llama_backend_init()
    return llama_cpp


def is_old(version: str) -> bool:
    """Whether a llama-cpp-python is below the floor; a version that is no number is."""
    return release(version) < release(FLOOR)


def _keep(level: int, text: bytes, data: Any) -> None:
    """One part of a line; those for llama.cpp's own developers are left out."""
    continued = level == CONTINUED and _levels[0] == DEBUG
    if level != CONTINUED:
        _levels[0] = level
    if level != DEBUG and not continued:
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


def logged(pattern: str) -> str | None:
    """The first group of the last logged line that has `pattern`."""
    found = [match[1].strip() for line in log_lines() if (match := re.search(pattern, line))]
    return found[-1] if found else None


# -- what a loaded model is; `library` is the module, `model` its handle ---------------------------


def file_key(library: ModuleType, model: Any, key: str) -> str:
    """The text of a key of the model's file; empty when it has none."""
    room = ctypes.create_string_buffer(256)
    size = library.llama_model_meta_val_str(model, key.encode(), room, len(room))
    return room.value.decode() if size >= 0 else ""


def kv_bytes_per_token(library: ModuleType, model: Any, itemsize: int) -> int | None:
    """Bytes of a token's keys and values in all layers; None when layers differ in their heads."""
    kind = file_key(library, model, "general.architecture")
    heads, kv, size = (file_key(library, model, f"{kind}.attention.{name}")
                       for name in ("head_count", "head_count_kv", "key_length"))  # fmt: skip
    try:
        head_dim = int(size or library.llama_model_n_embd(model) // int(heads))
        return 2 * library.llama_model_n_layer(model) * int(kv or heads) * head_dim * itemsize
    except ValueError:
        return None


def offloaded(library: ModuleType, model: Any) -> tuple[int, int]:
    """Layers on a GPU and layers in all, the head being one, as llama.cpp logged them."""
    told = logged(r"offloaded (\d+/\d+) layers to GPU")
    on_gpu, _, layers = (told or f"0/{library.llama_model_n_layer(model) + 1}").partition("/")
    return int(on_gpu), int(layers)
