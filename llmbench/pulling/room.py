"""Is there room on the disk before anything is fetched."""

import shutil
from pathlib import Path

from llmbench.errors import StoreFailed
from llmbench.units import MiB, nbytes

SPARE = 256 * MiB  # left for everybody else


def check_room(folder: Path, needed: int, name: str) -> None:
    """Raises: StoreFailed when the disk of `folder`, which may not exist yet, lacks the room."""
    place = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if needed and free < needed + SPARE:
        raise StoreFailed(
            f"pull: {name} needs {nbytes(needed)} of disk and {nbytes(SPARE)} to spare; "
            f"{nbytes(free)} are free",
            kept="nothing was fetched",
            how="free some space, or set HF_HOME (a hub) or LLMBENCH_CACHE (tags) to another disk",
        )
