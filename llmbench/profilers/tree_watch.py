"""The largest memory of a process tree while it works, sampled from outside of it.

The watcher is the process that waits for the answer, so nothing is added to the one that is timed.
A sample reads one line a process (some 20 µs each). Who belongs to the tree takes some ms to look
up: that is done when one of it is gone, and every few seconds. In all this is some 0.4 % of a core.
Shares of shared pages (pss, uss) are never sampled in a timed turn: one reading of a GiB of memory
of its own took 19 ms (of a mapped file 1.4 ms, at most 11), and holds up whatever that process maps
meanwhile. `ShareWatch` samples them while an engine answers once for nobody's clock.
"""

import time
from collections.abc import Callable

import psutil

from llmbench.profilers.memory import family, tree_bytes

PERIOD_S = 0.04  # 25 Hz
SHARES_WAIT_S = 0.015  # between two readings of shares: 20 Hz or more while one takes up to 35 ms
FAMILY_S = 5.0


class TreeWatch:
    """Samples of the resident memory of `pids` and of all below them, added up.

    What is there for less than a period can be missed: for a single process the kernel's own
    high-water mark (`memory.peak_rss_bytes`) misses nothing.
    """

    wait_s = PERIOD_S

    def __init__(self, pids: list[int], clock: Callable[[], float] = time.monotonic) -> None:
        self.pids, self.clock = pids, clock
        self.peak_bytes = self.samples = 0
        self._members: list[psutil.Process] = []
        self._looked_up = -FAMILY_S + (started := clock())
        self._first = self._last = started

    def sample(self) -> None:
        """Look once."""
        self._last = self.clock()
        if self._last - self._looked_up >= FAMILY_S:
            found = {p.pid: p for pid in self.pids for p in family(pid)}
            self._members, self._looked_up = list(found.values()), self._last
        self._first = self._first if self.samples else self._last
        self.samples += 1
        seen = [_rss(process) for process in self._members]
        self.peak_bytes = max(self.peak_bytes, sum(seen))
        if 0 in seen:  # perhaps another has taken its place
            self._looked_up = self._last - FAMILY_S

    @property
    def period_s(self) -> float | None:
        """Mean time between two samples; None when there are not two."""
        gaps = self.samples - 1
        return (self._last - self._first) / gaps if gaps > 0 else None

    def views(self) -> dict[str, int | float | None]:
        """Fields of a record's memory."""
        return {"tree_peak_bytes": self.peak_bytes or None, "sampling_period_s": self.period_s}


class ShareWatch:
    """Samples of the memory of `pids` and all below them: by share (pss), and not shared (uss)."""

    wait_s = SHARES_WAIT_S

    def __init__(self, pids: list[int], clock: Callable[[], float] = time.monotonic) -> None:
        self.pids, self.clock = pids, clock
        self.pss_bytes, self.uss_bytes, self.at = 0, 0, []

    def sample(self) -> None:
        """Look once; what the kernel does not tell counts as nothing."""
        self.at.append(self.clock())
        seen = tree_bytes(self.pids)
        self.pss_bytes = max(self.pss_bytes, seen.pss or 0)
        self.uss_bytes = max(self.uss_bytes, seen.uss or 0)

    def views(self) -> dict[str, int | float | None]:
        """Fields of a record's memory."""
        gaps = len(self.at) - 1
        period = (self.at[-1] - self.at[0]) / gaps if gaps > 0 else None
        return {"tree_pss_peak_bytes": self.pss_bytes or None,
                "tree_uss_peak_bytes": self.uss_bytes or None,
                "shares_period_s": period}  # fmt: skip


def watched(
    poll: Callable[[float], bool], timeout_s: float, watch: TreeWatch | ShareWatch | None
) -> bool:
    """`poll(timeout_s)` in short waits, with a sample before each and one at the end."""
    if watch is None:
        return poll(timeout_s)
    end = time.monotonic() + timeout_s
    while True:
        watch.sample()
        left = end - time.monotonic()
        if poll(max(0.0, min(watch.wait_s, left))):
            watch.sample()
            return True
        if left <= watch.wait_s:
            return False


def _rss(process: psutil.Process) -> int:
    """Resident bytes of one process; 0 when it is gone."""
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0
