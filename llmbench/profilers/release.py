"""What is left of a model in memory once it is released: in processes, and in the page cache."""

import ctypes
import gc
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

STRETCH = 2**30  # bytes of a file that are mapped at once: the address space may be limited
SHARES = {"Pss_Anon": "anonymous_bytes", "Pss_File": "file_bytes"}


def held_after(pids: Iterable[int], files: Iterable[Path]) -> dict[str, Any]:
    """`record.Released` of the processes that are still there and of the model's `files`."""
    gc.collect()  # what only waits to be collected is not held
    held, why = [], []
    for pid in pids:
        try:
            held.append({"rss_bytes": psutil.Process(pid).memory_info().rss} | _shares(pid))
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue  # a server that ended with its model holds nothing
        except (psutil.AccessDenied, OSError) as error:
            held.append({})
            why.append(f"memory of a process cannot be read: {_words(error)}")
    found = {name: _sum(one.get(name) for one in held) for name in ("rss_bytes", *SHARES.values())}
    found["cached_bytes"] = None
    try:
        found["cached_bytes"] = cached_bytes(files)
    except OSError as error:
        why.append(f"the page cache cannot be read: {_words(error)}")
    return found | {"reason": "; ".join(dict.fromkeys(why)) or None}


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum; None when one of them is not known."""
    known = list(values)
    return None if None in known else sum(known)


def cached_bytes(files: Iterable[Path]) -> int:
    """Bytes of `files` that the kernel keeps in its page cache, whoever read them.

    Raises: OSError where it does not tell, or where no file is known. It tells whoever may write
    the file; to others it calls every page resident. Source: mincore(2), "Since Linux 5.2".
    """
    known = list(files)
    if not known:
        raise FileNotFoundError("the file that served cannot be seen")
    return sum(map(_cached, known))


def _cached(file: Path) -> int:
    size, owner = file.stat().st_size, file.stat().st_uid
    if owner != os.geteuid() and not os.access(file, os.W_OK):
        raise PermissionError(f"{file.name} belongs to somebody else")
    with file.open("rb") as opened:
        return sum(_resident(opened.fileno(), start, min(STRETCH, size - start))
                   for start in range(0, size, STRETCH))  # fmt: skip


def _resident(descriptor: int, start: int, length: int) -> int:
    """Bytes of one stretch of an open file that are in the page cache."""
    mincore = getattr(ctypes.CDLL(None, use_errno=True), "mincore", None)
    if mincore is None:
        raise OSError("this system has no mincore")
    pages = -(-length // mmap.PAGESIZE)
    told = (ctypes.c_ubyte * pages)()
    # a private copy, because only a writable map has an address here; nothing is written
    with mmap.mmap(descriptor, length, access=mmap.ACCESS_COPY, offset=start) as stretch:
        first = ctypes.c_char.from_buffer(stretch)
        code = mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(length), told)
        del first  # else the map cannot be closed
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    resident = bytes(page & 1 for page in told)
    return min(length, resident.count(1) * mmap.PAGESIZE)


def _shares(pid: int) -> dict[str, int]:
    """Bytes of a process by kind, shared pages by its share of them."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name in SHARES:
            found[SHARES[name]] = int(value.split()[0]) * 1024  # the kernel's kB are KiB
    return found


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
