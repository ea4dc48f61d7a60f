"""Memory of a process, each view under its name. None: this system cannot tell."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from llmbench.hardware import available_bytes as available_bytes
from llmbench.hardware import cgroup_dirs

SELF = Path("/proc/self")


@dataclass(frozen=True)
class Tree:
    """Bytes over several processes; a view that one of them does not show is None.

    Pages that processes share count in each as rss, by their share as pss, not at all as uss.
    """

    rss: int
    pss: int | None
    uss: int | None
    processes: int


def tree_bytes(pids: Iterable[int]) -> Tree:
    """Memory of the processes `pids`, of all below them, each once; those that are gone are not.

    Reading pss and uss walks the page tables: some ms a GiB, so never during a timed turn.
    """
    found = {p.pid: p for pid in pids for p in family(pid)}
    seen = [view for p in found.values() if (view := _views(p))]
    pss, uss = ([view[i] for view in seen] for i in (1, 2))
    return Tree(sum(view[0] for view in seen), None if None in pss else sum(pss),
                None if None in uss else sum(uss), len(seen))  # fmt: skip


def alone_bytes(pids: Iterable[int]) -> int | None:
    """Memory of these processes and of all below them, as pss would tell it were they alone.

    Anonymous pages of each, and pages of a file once, whole, whoever else maps them: two engines
    that map one file would share its pss, and each seem to hold half. None where not readable.
    """
    anonymous, files = 0, {}
    for process in {p.pid: p for pid in pids for p in family(pid)}.values():
        try:
            maps = process.memory_maps(grouped=True)
        except (psutil.Error, AttributeError):  # no such view on this system
            return None
        for each in maps:
            own = getattr(each, "anonymous", 0)
            anonymous += own
            files[each.path] = max(files.get(each.path, 0), each.rss - own)
    return anonymous + sum(files.values())


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it; empty when it is gone."""
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _views(process: psutil.Process) -> tuple[int, int | None, int | None] | None:
    """(rss, pss, uss) of one process; None when it is gone."""
    try:
        full = process.memory_full_info()
        return full.rss, getattr(full, "pss", None), full.uss
    except psutil.AccessDenied:
        rss = rss_bytes(process.pid)
        return None if rss is None else (rss, None, None)
    except psutil.NoSuchProcess:
        return None


def rss_bytes(pid: int | None = None) -> int | None:
    """Resident set of a process (this one without `pid`); None when it is gone or not ours.

    Pages of a memory-mapped weight file count once touched, and stop counting when evicted.
    """
    try:
        return psutil.Process(pid).memory_info().rss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def reset_peak() -> bool:
    """Start the kernel's high-water mark of this process afresh; whether that was possible.

    Source: proc(5), /proc/pid/clear_refs: writing 5 resets the peak resident set size.
    """
    try:
        (SELF / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_rss_bytes() -> int | None:
    """The kernel's high-water mark of this process's resident set since `reset_peak`."""
    return _status_bytes("VmHWM")


def virtual_bytes() -> int | None:
    """Address space of this process: what RLIMIT_AS limits."""
    return _status_bytes("VmSize")


def limit_address_space(extra_bytes: int) -> int | None:
    """Allow this process `extra_bytes` more of address space than it has now; the limit in force.

    An allocation beyond it fails at once, in this process, instead of waking the kernel's OOM
    killer. None where there is no such limit: then nothing was changed. Only on Linux, where the
    kernel honours it. Reserved but untouched memory counts too.
    """
    used = virtual_bytes()
    if used is None or not sys.platform.startswith("linux"):
        return None
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = used + extra_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    return limit


def oom_kills() -> int | None:
    """How often the kernel's OOM killer struck in this process's control group, so far."""
    for folder in cgroup_dirs("memory"):
        for name in ("memory.events", "memory.oom_control"):
            for line in _text(folder / name).splitlines():
                key, _, count = line.partition(" ")
                if key == "oom_kill" and count.isdecimal():
                    return int(count)
    return None


def _status_bytes(key: str) -> int | None:
    for line in _text(SELF / "status").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024  # the kernel's kB are KiB
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
