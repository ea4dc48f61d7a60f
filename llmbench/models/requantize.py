"""A GGUF file in another type, through llama.cpp's own quantiser: K-quants are only its own."""

import ctypes
from pathlib import Path

from llmbench.errors import BadParams, Unsupported
from llmbench.hardware import default_threads
from llmbench.models.export import KINDS, export, write_gguf
from llmbench.models.gguf_vocab import Tell
from llmbench.models.llamacpp_library import forget_log, last_words, llamacpp, log_lines
from llmbench.models.new_file import check_target, part_beside, replacing
from llmbench.models.source import find_model

FILE_TYPES = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_0",
              "Q5_1", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16")  # fmt: skip


def export_any(
    model: str, file: Path, kind: str, *, force: bool = False, tell: Tell = lambda note: None
) -> Path:
    """The GGUF file of `model` in `kind`: our own types, or one of llama.cpp's from our F32.

    A model that is a GGUF file already goes through llama.cpp in any case.

    Raises: BadParams, Missing (llama.cpp for its types), Unsupported, StoreFailed.
    """
    given = model.startswith(("gguf:", "ollama:"))
    if kind in KINDS and not given:
        return export(model, file, kind, force=force, tell=tell)
    _check_file_type(kind)
    llamacpp()
    check_target(file, force)
    if given:
        return requantize(find_model(model).file, file, kind, force=force, tell=tell)
    with part_beside(file) as whole:
        write_gguf(model, whole, "F32", tell)
        return requantize(whole, file, kind, force=force, tell=tell)


def requantize(
    file: Path, target: Path, kind: str, *, force: bool = False, tell: Tell = lambda note: None
) -> Path:
    """`target`: the tensors of the GGUF `file` in llama.cpp's file type `kind`, as Q4_K_M.

    `tell` hears how many tensors llama.cpp wrote in another type, because of their shape.
    Raises: BadParams, Missing without llama.cpp, StoreFailed, Unsupported when it refuses, as it
    does with a file that is quantised already.
    """
    _check_file_type(kind)
    library = llamacpp()
    check_target(target, force)
    if target.exists() and target.samefile(file):
        raise BadParams(f"export: {target} is the file to be read", how="name another one")
    asked = library.llama_model_quantize_default_params()
    asked.ftype = getattr(library, f"LLAMA_FTYPE_MOSTLY_{kind}")
    asked.nthread = default_threads()
    forget_log()
    with replacing(target, force) as part:
        if library.llama_model_quantize(bytes(file), bytes(part), ctypes.byref(asked)):
            raise Unsupported(f"export: llama.cpp does not write {file.name} in {kind}",
                              why=last_words(), how="start from an F32, F16 or BF16 file",
                              )  # fmt: skip
        for line in log_lines():
            if "fallback quantization" in line and " of " in line:
                tell(f"{kind}: {line.split(':', 1)[-1].strip(' !W')}")
    return target


def _check_file_type(kind: str) -> None:
    """Raises: BadParams when llama.cpp has no such file type."""
    if kind not in FILE_TYPES:
        raise BadParams(f"export: no type {kind!r}",
                        how=f"types: {', '.join([*KINDS, *FILE_TYPES[:3]])} and so on")  # fmt: skip
