"""A folder's GGUF file, made when first needed and kept, for engines that take nothing else."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

from llmbench.errors import BadParams, StoreFailed
from llmbench.models.checksum import exports_folder, is_whole, sha256_of, sums_file
from llmbench.models.export import KINDS, VERSION, write_gguf
from llmbench.models.gguf_vocab import Tell
from llmbench.models.llamacpp_library import llamacpp
from llmbench.models.new_file import part_beside, replacing
from llmbench.models.requantize import requantize
from llmbench.models.source import ModelSource

ExportType = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"]
SAID = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def gguf_of(source: ModelSource, kind: str, tell: Tell = lambda note: None) -> Path:
    """The GGUF file of `source`'s folder in `kind`, the same for the same weights and words.

    One that no longer has the bytes that were written is made again, and that is told.
    Raises: Missing (of a type that only llama.cpp makes, without it), Unsupported, StoreFailed when
    there is no room for it.
    """
    digest = hashlib.sha256(f"{VERSION} {source.name} {source.sha256}".encode())
    for name in SAID:
        path = source.folder / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    file = exports_folder() / f"{digest.hexdigest()[:24]}-{kind}.gguf"
    if is_whole(file):
        return file
    if file.exists():
        print(f"models: {file.name} is not as it was written and is made again",
              file=sys.stderr, flush=True)  # fmt: skip
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreFailed(f"models: {file.parent} cannot be made: {error.strerror}",
                          how="move LLMBENCH_CACHE") from error  # fmt: skip
    return _keep(source, file, kind, tell)


def _keep(source: ModelSource, file: Path, kind: str, tell: Tell) -> Path:
    """`file`, written and its sha256 beside it before it has its name; nobody writes it again."""
    with replacing(file, True) as part:
        if kind in KINDS:
            write_gguf(source.name, part, kind, tell)
        else:  # a type that only llama.cpp makes, from our exact one
            llamacpp()
            with part_beside(file.with_suffix(".F32")) as whole:
                write_gguf(source.name, whole, "F32", tell)
                requantize(whole, part, kind, force=True, tell=tell)
        with replacing(sums_file(file), True) as sums:
            sums.write_text(f"{sha256_of(part)}\n", encoding="ascii")
    file.chmod(0o444)
    return file


def file_of(source: ModelSource, kind: str | None) -> Path:
    """The GGUF file of `source`: itself, or its folder's export in `kind` (none: F32, exact).

    Raises: BadParams when a file of one type is asked for in another, and as `gguf_of`.
    """
    if source.file is None:
        return gguf_of(source, kind or "F32")
    if kind:
        raise BadParams(f"models: weights: {kind} for {source.name}",
                        why="a GGUF file has its own", how="leave `weights` out")  # fmt: skip
    return source.file


def as_gguf(source: ModelSource, kind: str | None) -> ModelSource:
    """`source` as it is without a `kind`; else read from the GGUF file of its folder in `kind`.

    Its name and sha256 stay the folder's. Raises: as `file_of`.
    """
    return replace(source, folder=None, file=file_of(source, kind)) if kind else source
