"""The watch over a process tree, held against memory that processes of the test take."""

import subprocess
import sys

import psutil
import pytest

from llmbench.profilers import tree_watch
from llmbench.profilers.memory import tree_bytes
from llmbench.profilers.tree_watch import ShareWatch, TreeWatch, watched
from llmbench.units import MiB

HOLD = """
import sys
block = bytearray(int(sys.argv[1]) << 20)
block[::4096] = b"x" * len(block[::4096])
print("held", flush=True)
input()
del block
print("freed", flush=True)
input()
"""


@pytest.fixture
def hold():
    """Start a process that holds so many MiB, then frees them on a line."""
    started = []

    def start(size: int) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(size)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Ticks:
    """A clock that a test sets forward."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_peak_outlives_what_was_freed(hold):
    process = hold(64)
    watch = TreeWatch([process.pid])
    watch.sample()
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"freed\n"
    watch.sample()
    now = psutil.Process(process.pid).memory_info().rss
    assert watch.peak_bytes - now > 56 * MiB
    assert watch.views()["tree_peak_bytes"] == watch.peak_bytes


def test_several_processes_are_added_up_and_the_dead_are_not_in_it(hold):
    one, two = hold(48), hold(64)
    alone, both = TreeWatch([two.pid]), TreeWatch([one.pid, two.pid, one.pid])
    alone.sample()
    both.sample()
    assert 48 * MiB < both.peak_bytes - alone.peak_bytes < 80 * MiB
    for process in (one, two):
        process.kill()
        process.wait()
    none = TreeWatch([one.pid, two.pid])
    none.sample()
    both.sample()
    assert (none.peak_bytes, none.views()["tree_peak_bytes"]) == (0, None)
    assert both.samples == 2


def test_who_takes_the_place_of_one_that_is_gone_is_seen(hold, monkeypatch):
    members = [hold(16), hold(48)]
    found = iter([psutil.Process(process.pid)] for process in members)
    monkeypatch.setattr(tree_watch, "family", lambda pid: next(found))
    watch = TreeWatch([1], Ticks())
    watch.sample()
    members[0].kill()
    members[0].wait()
    watch.sample()
    assert watch.peak_bytes < 48 * MiB
    watch.sample()
    assert watch.peak_bytes > 48 * MiB


def test_who_belongs_is_looked_up_again_after_some_seconds(monkeypatch):
    asked, clock = [], Ticks()
    monkeypatch.setattr(tree_watch, "family", lambda pid: asked.append(pid) or [])
    watch = TreeWatch([1], clock)
    for now in (100.0, 102.5, 104.9, 105.0, 109.9, 110.1):
        clock.now = now
        watch.sample()
    assert len(asked) == 3


def test_the_period_is_the_mean_of_what_was_kept():
    clock = Ticks()
    watch = TreeWatch([], clock)
    assert watch.period_s is None
    for now in (103.0, 103.1, 103.4):
        clock.now = now
        watch.sample()
    assert watch.period_s == pytest.approx(0.2)


def test_an_answer_is_awaited_in_short_waits_with_a_sample_before_each_and_one_after():
    answers, waits, watch = iter([False, False, True]), [], TreeWatch([])
    assert watched(lambda s: waits.append(s) or next(answers), 60.0, watch)
    assert waits == [tree_watch.PERIOD_S] * 3
    assert watch.samples == 4


def test_the_deadline_holds_with_a_watch_and_without():
    for watch in (None, TreeWatch([])):
        waits = []
        assert not watched(lambda s, w=waits: w.append(s), 0.01, watch)
        assert max(waits) <= 0.01


def test_shares_are_sampled_with_their_period_and_the_largest_is_kept(hold):
    process, ticks = hold(64), Ticks()
    watch = ShareWatch([process.pid], ticks)
    watch.sample()
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"freed\n"
    for _ in range(2):
        ticks.now += 0.03
        watch.sample()
    told = watch.views()
    assert told["shares_period_s"] == pytest.approx(0.03)
    assert 64 * MiB < told["tree_uss_peak_bytes"] <= told["tree_pss_peak_bytes"]
    assert tree_bytes([process.pid]).uss < 64 * MiB


def test_shares_are_looked_at_twenty_times_a_second_or_more(hold):
    watch, asked = ShareWatch([hold(1).pid]), []
    watched(lambda wait: (asked.append(wait), len(asked) == 5)[1], 10.0, watch)
    assert max(asked) <= 1 / 20 and len(watch.at) == 6
