"""The sha256 of a file, hashed again only when the file changed, and the file of a sha256."""

import hashlib
import os
from pathlib import Path

BESIDE = ".sha256"  # after an export's name: the file that holds its sha256
_known: dict[tuple[int, int, int, int], str] = {}


def sha256_of(file: Path) -> str:
    """The sha256 of `file`'s bytes, read once a process while inode, size and time are the same.

    A link to a file that was hashed is the same file. It takes about 1 s a GB.
    """
    with file.open("rb") as opened:
        before = _state(opened.fileno())
        if before not in _known:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
            if _state(opened.fileno()) != before:  # written meanwhile: never take it as known
                return found
            _known[before] = found
        return _known[before]


def exports_folder() -> Path:
    """Where the exports of folders are kept for engines that take nothing else."""
    from llmbench.models.shapes import cache_folder

    return cache_folder() / "gguf"


def sums_file(file: Path) -> Path:
    """Where the sha256 of a kept export stands."""
    return file.with_name(file.name + BESIDE)


def kept_export(sha256: str) -> Path | None:
    """The kept export with these bytes; None when it is not here, or holds others by now."""
    for sums in exports_folder().glob(f"*{BESIDE}"):
        file = sums.with_name(sums.name.removesuffix(BESIDE))
        if sums.read_text(encoding="ascii").strip() == sha256 and is_whole(file):
            return file
    return None


def is_whole(file: Path) -> bool:
    """Whether a kept export is there and has the bytes that were written."""
    sums = sums_file(file)
    if not (file.is_file() and sums.is_file()):
        return False
    return sha256_of(file) == sums.read_text(encoding="utf-8", errors="replace").strip()


def _state(descriptor: int) -> tuple[int, int, int, int]:
    told = os.fstat(descriptor)
    return told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns
