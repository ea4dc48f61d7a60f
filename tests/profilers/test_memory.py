"""Memory views of this process, checked against memory that the test itself takes."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from llmbench import hardware
from llmbench.profilers import memory

MiB = 2**20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from Linux's /proc")


def take(size: int) -> bytearray:
    """`size` bytes, every page touched."""
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    return block


def test_rss_grows_by_what_is_touched() -> None:
    before = memory.rss_bytes()
    block = take(64 * MiB)
    assert 60 * MiB < memory.rss_bytes() - before < 80 * MiB
    del block


def test_a_process_that_is_gone_has_no_rss() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert memory.rss_bytes(child.pid) is None


@linux
def test_a_tree_counts_each_process_once_and_shared_pages_by_their_view(tmp_path: Path) -> None:
    code = (
        "import mmap, os, subprocess, sys\n"
        "held = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 64 << 20)\n"
        "sum(held[::4096])\n"
        "child = subprocess.Popen([sys.executable, *sys.argv[2:]]) if len(sys.argv) > 2 else None\n"
        "print('ready', flush=True)\n"
        "input()\n"
    )
    file = tmp_path / "weights"
    file.write_bytes(bytes(64 * MiB))
    words = ["-c", code, str(file)]
    both = [sys.executable, *words, *words]
    with subprocess.Popen(both, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert [parent.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        [child] = psutil.Process(parent.pid).children()
        tree = memory.tree_bytes([parent.pid, child.pid])
        parent.communicate(b"\n\n")
    assert tree.processes == 2
    assert tree.rss > 128 * MiB > tree.pss > 64 * MiB > tree.uss
    assert memory.tree_bytes([parent.pid]) == memory.Tree(0, 0, 0, 0)


@linux
def test_the_peak_outlives_the_block_and_can_be_reset() -> None:
    if not memory.reset_peak():
        pytest.skip("this kernel does not let a process reset its own high-water mark")
    before = memory.peak_rss_bytes()
    block = take(64 * MiB)
    del block
    high = memory.peak_rss_bytes()
    assert high - before > 56 * MiB
    assert memory.reset_peak()
    assert high - memory.peak_rss_bytes() > 32 * MiB


@linux
def test_beyond_the_limit_an_allocation_fails_in_the_process() -> None:
    code = (
        "from llmbench.profilers.memory import limit_address_space, virtual_bytes\n"
        "used = virtual_bytes()\n"
        "limit = limit_address_space(200 * 2**20)\n"
        "assert abs(limit - used - 200 * 2**20) < 2**24, (limit, used)\n"
        "kept = bytearray(100 * 2**20)\n"
        "try:\n"
        "    bytearray(150 * 2**20)\n"
        "except MemoryError:\n"
        "    print('refused')\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout == "refused\n", done.stderr


def test_a_system_without_the_limit_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SELF", Path("/nowhere"))
    assert memory.limit_address_space(1) is None
    assert memory.peak_rss_bytes() is None
    assert memory.reset_peak() is False


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for room in (hardware, memory):
        monkeypatch.setattr(room, "cgroup_dirs", lambda controller: (tmp_path,))
    return tmp_path


def test_a_control_group_can_leave_less_than_the_machine(group: Path) -> None:
    free = memory.available_bytes()
    (group / "memory.max").write_text(f"{300 * MiB}\n")
    (group / "memory.current").write_text(f"{100 * MiB}\n")
    assert memory.available_bytes() == 200 * MiB < free
    (group / "memory.current").write_text(f"{400 * MiB}\n")
    assert memory.available_bytes() == 0
    (group / "memory.max").write_text("max\n")
    assert memory.available_bytes() > 200 * MiB


@pytest.mark.parametrize(
    ("name", "text"),
    [("memory.events", "low 0\noom 4\noom_kill 3\n"),
     ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")],
)  # fmt: skip
def test_kills_are_counted_in_both_versions(group: Path, name: str, text: str) -> None:
    assert memory.oom_kills() is None
    (group / name).write_text(text)
    assert memory.oom_kills() == 3


@linux
def test_alone_a_mapped_file_counts_whole_whoever_else_maps_it(tmp_path: Path) -> None:
    code = (
        "import mmap, os, sys\n"
        "held = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 64 << 20)\n"
        "sum(held[::4096])\n"
        "own = bytearray(b'x') * (32 << 20)\n"
        "print('ready', flush=True)\n"
        "input()\n"
    )
    file = tmp_path / "weights"
    file.write_bytes(bytes(64 * MiB))
    words = [sys.executable, "-c", code, str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **pipes) as one, subprocess.Popen(words, **pipes) as other:
        assert [each.stdout.readline() for each in (one, other)] == [b"ready\n"] * 2
        each, pss = memory.alone_bytes([one.pid]), memory.tree_bytes([one.pid]).pss
        both = memory.alone_bytes([one.pid, other.pid])
        for process in (one, other):
            process.communicate(b"\n")
    assert 96 * MiB < each < 116 * MiB  # of the file, its own block, and Python
    assert pss < each - 24 * MiB  # half of the file is the other's
    assert 32 * MiB < both - each < 48 * MiB  # the file is there once
