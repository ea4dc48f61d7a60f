"""What is left of a model once it is released: processes and the page cache, each by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.profilers import release

MiB = 2**20
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux's kernel")


def stored(path: Path, size: int = 8 * MiB + 5) -> Path:
    """A file of `size` bytes that is on the disk, so that the kernel may drop its pages."""
    path.write_bytes(bytes(size))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def test_pages_of_a_file_are_counted_as_they_are_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(release, "STRETCH", 2 * MiB)
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True)
    if kind.stdout.strip() in ("tmpfs", "ramfs"):
        pytest.skip("its files live in memory")
    file = stored(tmp_path / "weights")
    assert release.cached_bytes([file]) == 0
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
        opened.seek(5 * MiB)
        opened.read(1)
    assert 0 < release.cached_bytes([file]) < MiB
    file.read_bytes()
    assert release.cached_bytes([file, file]) == 2 * (8 * MiB + 5)


def test_a_process_is_seen_with_what_it_holds_itself_and_what_it_maps(tmp_path: Path) -> None:
    file = stored(tmp_path / "weights", 64 * MiB)
    code = ("import mmap, os, sys\nheld = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 64 << 20)\n"
            "own = bytearray(b'x') * (32 << 20)\nsum(held[::4096])\n"
            "print('ready', flush=True)\ninput()\n")  # fmt: skip
    words = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        told = release.held_after([child.pid], [file])
        child.communicate(b"\n")
    assert told["rss_bytes"] > 96 * MiB
    assert 32 * MiB < told["anonymous_bytes"] < 64 * MiB <= told["file_bytes"]
    assert told["reason"] is None
    gone = release.held_after([child.pid], [file])
    assert gone["rss_bytes"] == 0 and gone["reason"] is None


def test_a_file_that_cannot_be_seen_is_not_called_uncached() -> None:
    told = release.held_after([os.getpid()], [])
    assert told["cached_bytes"] is None and "cannot be seen" in told["reason"]


def test_what_cannot_be_read_is_null_and_says_why(tmp_path: Path, monkeypatch) -> None:
    def refused(pid: int) -> dict[str, int]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(release, "_shares", refused)
    told = release.held_after([os.getpid()], [tmp_path / "nowhere"])
    assert told["rss_bytes"] is told["anonymous_bytes"] is told["cached_bytes"] is None
    assert "Permission denied" in told["reason"] and "page cache" in told["reason"]


def test_a_file_of_somebody_else_is_not_guessed_at(tmp_path: Path, monkeypatch) -> None:
    file = stored(tmp_path / "weights")
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="somebody else"):
        release.cached_bytes([file])
