"""A large file that appears whole or not at all, whoever is killed meanwhile."""

import fcntl
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmbench.errors import BadParams, StoreFailed


@contextmanager
def replacing(file: Path, force: bool) -> Iterator[Path]:
    """A path beside `file` to write to; afterwards it is on disk and called `file`, or gone.

    Raises: StoreFailed when it cannot be written, BadParams when `file` has come to be meanwhile.
    """
    with part_beside(file) as part:
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        check_target(file, force)
        os.replace(part, file)
        directory = os.open(file.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)


@contextmanager
def part_beside(file: Path) -> Iterator[Path]:
    """An empty file beside `file` that is gone afterwards, unless it was renamed.

    Those that killed processes left are removed: nobody holds their lock. Raises: StoreFailed.
    """
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        for left in file.parent.glob(f".{glob.escape(file.name)}.*.part"):
            _remove_unless_held(left)
        with part.open("xb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            try:
                yield part
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise StoreFailed(f"export: {file} cannot be written: {error.strerror or error}",
                          kept="what was there before", how="free space, or name another place",
                          ) from error  # fmt: skip


def _remove_unless_held(left: Path) -> None:
    try:
        with left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
    except (BlockingIOError, FileNotFoundError):  # somebody writes it, or has just finished
        pass


def check_target(file: Path, force: bool) -> None:
    """Raises: BadParams when `file` cannot be written, or is there and not to be replaced."""
    if file.is_dir() or not file.parent.is_dir():
        raise BadParams(f"export: {file} is a folder, or lies in none that exists")
    if file.exists() and not force:
        raise BadParams(f"export: {file} is there already", kept="the file", how="--force")
