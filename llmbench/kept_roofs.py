"""Roofs that were measured on this machine before, kept in the cache with their date and load.

Memory of a shared machine swings within minutes, and a governor or a battery changes arithmetic, so
they are reused for an hour, and only when other programs let the machine alone at the time.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmbench import store
from llmbench.errors import StoreFailed
from llmbench.hardware import Roofs
from llmbench.models.shapes import cache_folder

MAX_AGE_S = 3600.0
QUIET_SHARE = 0.10  # of all cores: more used by other programs, and the roofs are not kept


def roofs_file(fingerprint: str, threads: int) -> Path:
    """Where the roofs of so many threads of this machine are kept."""
    return cache_folder() / "machines" / fingerprint / f"{threads}-threads" / "roofs.json"


def keep(roofs: Roofs, fingerprint: str) -> str:
    """Keep measured `roofs`; empty when they were kept, else why not.

    A cache that cannot be written is no fault: the roofs are measured again next time.
    """
    busy = roofs.raw["others_busy_share"]
    if busy > QUIET_SHARE:
        return f"other programs used {100 * busy:.0f} % of the CPU meanwhile"
    path = roofs_file(fingerprint, roofs.raw["threads"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.snapshot(path, TypeAdapter(Roofs).dump_json(roofs))
    except (OSError, StoreFailed) as error:
        return f"the cache cannot be written: {error}"
    return ""


def kept(fingerprint: str, threads: int, max_age_s: float | None = MAX_AGE_S) -> Roofs | None:
    """The kept roofs of so many threads, not older than `max_age_s` (None: of any age).

    A file that cannot be read, or says what it cannot know (another thread count, a date to come),
    counts as none.
    """
    try:
        text = roofs_file(fingerprint, threads).read_bytes()
        roofs = TypeAdapter(Roofs).validate_json(text, strict=True)
        age_s = _age_s(roofs.raw)
    except (OSError, ValidationError, KeyError, TypeError, ValueError):
        return None
    old = age_s < 0 or (max_age_s is not None and age_s > max_age_s)
    return None if old or roofs.raw.get("threads") != threads else roofs


def _age_s(raw: dict[str, Any]) -> float:
    """Seconds since the roofs were measured, by the wall clock."""
    return (datetime.now(UTC) - datetime.fromisoformat(raw["taken_at"])).total_seconds()
