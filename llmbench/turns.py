"""Turns: one contender's child within a group, the stillness of everybody else, what a turn flags.

In a group every contender has a lane. One is at work at a time; its turn begins when the other
engines' processes use no CPU time, and what they and all other processes used in it is kept.
"""

import math
import os
import secrets
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from llmbench.errors import BadParams, ServesSlowly
from llmbench.hardware import load_average
from llmbench.points import Group
from llmbench.profilers.clock import busy_cpu_s
from llmbench.record import Point, Quiet, Repeat, Served
from llmbench.worker import Child, ChildLost

BUSY_SHARE = 0.10  # of all cores, used by other processes during a repeat: contaminated
BUSY_FLOOR_S = 0.03  # CPU seconds below which the kernel's ticks cannot tell
FAILURES = ("failed", "timeout", "engine_lost")  # after some in a row an engine is given up
IDLE_WINDOW_S, IDLE_TRIES = 0.02, 250
AUDITED_RUNS = 2  # process runs of a comparison that are audited: a second, since one may be odd
PATIENCE_S, QUIET_WINDOW_S, QUIET_TRIES = 30.0, 0.25, 12


@dataclass
class Lane:
    """One contender in one group: its child, what it serves, how often it failed in a row."""

    first: Point
    timeout_s: float
    process_run: int
    longest: Repeat | None = None  # whose length compared contenders are audited at
    child: Child | None = None
    loaded: bool = False
    served: Served | None = None
    failures: int = 0
    refusal: dict[str, Any] | None = None  # loading is not possible at all: said for each repeat
    warmed: set[tuple] = field(default_factory=set)
    audited: bool = False  # this child
    lost_in_audit: bool = False  # no other child is asked

    def wake(self) -> None:
        """Have a fresh child that imports what its engine needs, while others do the same."""
        self.child, self.warmed, self.audited = Child(self.first.threads), set(), False
        self.child.wake(self.first.engine, self._options())

    def _options(self) -> dict[str, Any]:
        """The engine's own, the type of its weights, and where it runs."""
        place = {"device": self.first.device, "threads": self.first.threads}
        weights = {"weights": self.first.weights} if self.first.weights else {}
        return self.first.engine_options | weights | place

    def load(self) -> None:
        """Have a child with the model loaded, a fresh one if need be. Raises: ChildLost."""
        if self.loaded or self.refusal:
            return
        if not self.child:
            self.wake()
            self.child.awake(self.timeout_s)
        options = self._options()
        if self.first.engine == "fake":
            options["process_seed"] = process_seed(self.first, self.process_run)
        answer = self.child.ask(
            {"do": "load", "engine": self.first.engine, "model": self.first.model,
             "sha256": self.first.model_sha256, "options": options,
             "memory_limit_bytes": self.first.memory_limit_bytes, "window": self.first.window},
            self.timeout_s,
        )  # fmt: skip
        for word in answer.get("slowly", ()):
            warnings.warn(word, ServesSlowly, stacklevel=2)
        if answer["status"] == "ok":
            named = {"child": secrets.token_hex(4)}
            self.served, self.loaded = Served.model_validate(answer["served"] | named), True
            self.child.servers = answer["servers"] and answer["servers"][:1]
            if self.served.file_sha256:  # what a folder was exported to
                self.child.holds = self.first.model, self.served.file_sha256
        else:
            self.close()
            if answer["status"] in FAILURES:
                raise ChildLost(answer["status"], answer["reason"])
            self.refusal = answer

    def take_turn(self, repeat: Repeat, warmups: int, probe: bool = False) -> dict[str, Any]:
        """The answer to one repeat; a lost child becomes an answer too.

        With `probe` the child first reads as much memory as its weights have, and tells how fast.
        """
        watch, read = None, None
        try:
            self.load()
            if self.refusal:
                return self.refusal
            shape = repeat.point.cell
            times = 0 if shape in self.warmed else warmups
            asked = {"do": "repeat", "repeat": repeat.model_dump(), "warmups": times}
            read = self._read_probe() if probe else None
            watch = self.child.watch()
            answer = self.child.ask(asked, self.timeout_s, watch)
            self.warmed.add(shape)
        except ChildLost as lost:
            answer = {"status": lost.status, "reason": lost.what}
        if watch:
            answer["memory"] = answer.get("memory", {}) | watch.views()
        if answer["status"] not in ("ok", "refused"):
            self.close()  # a traceback may hold memory: the next repeat gets a fresh child
        self.failures = self.failures + 1 if answer["status"] in FAILURES else 0
        return answer | {"read_bytes_per_s": read}

    def _read_probe(self) -> float | None:
        """Bytes/s; None where there is no room for the buffer. Raises: ChildLost."""
        asked = {"nbytes": self.served.weight_bytes, "threads": self.first.threads}
        return self.child.ask({"do": "read_probe"} | asked, self.timeout_s).get("read_bytes_per_s")

    def take_audit(self, repeat: Repeat) -> dict[str, Any] | None:
        """What the child says to fixed questions, once; None when it did so or cannot.

        Contenders that are compared are asked at the length of the longest prompt, which may take
        longer than all their turns: in the first `AUDITED_RUNS` process runs only.
        """
        if self.audited or self.lost_in_audit or not self.child:
            return None
        if self.longest and self.process_run >= AUDITED_RUNS:
            return None
        self.audited = True
        try:
            asked = {"do": "audit", "repeat": (self.longest or repeat).model_dump()}
            return self.child.ask(asked, self.timeout_s).get("audit")
        except ChildLost:
            self.lost_in_audit = True
            self.close()
            return None

    def take_shares(self, repeat: Repeat) -> dict[str, Any]:
        """Peaks of the shares of memory while the child answers once more, untimed; {}: not known.

        A child that is lost here is replaced as one that is lost in its audit.
        """
        watch = self.child and self.child.watch_shares()
        if not watch:
            return {}
        try:
            asked = {"do": "answer", "repeat": (self.longest or repeat).model_dump()}
            told = self.child.ask(asked, self.timeout_s, watch)
        except ChildLost:
            self.close()
            return {}
        return watch.views() if told["status"] == "ok" else {}

    def release(self, answer: dict[str, Any]) -> None:
        """Add to `answer` what the child holds once its model is released, and end the child."""
        if answer["status"] == "ok" and self.child:
            try:
                told = self.child.ask({"do": "release"}, self.timeout_s)
            except ChildLost as lost:
                told = {"reason": lost.what}
            left = told.get("released") or {"reason": told["reason"]}
            answer["memory"] = answer["memory"] | {"released": left}
        self.close()

    def close(self) -> None:
        """End the child."""
        if self.child:
            self.child.kill()
        self.child, self.loaded = None, False


def process_seed(point: Point, process_run: int) -> int:
    """Seeds the fake engine's noise: another one for every process, a twin's too."""
    return zlib.crc32(f"{point.seed}/{process_run}/{point.contender}".encode())


class Stillness:
    """CPU time of everybody else around one turn."""

    def __init__(self, lane: Lane, others: list[Child]) -> None:
        self.lane, self.others = lane, others
        self.child = lane.child
        self.others_s, self.busy_s, self.at = self._others(), busy_cpu_s(), time.perf_counter()
        self.own_s = self._own()

    def quiet(self, waited_s: float, read_bytes_per_s: float | None = None) -> Quiet:
        """How still it was since this object was made."""
        self.wall_s = time.perf_counter() - self.at
        self.foreign_s = max(0.0, busy_cpu_s() - self.busy_s - (self._own() - self.own_s))
        share = min(1.0, self.foreign_s / (self.wall_s * (psutil.cpu_count() or 1)))
        gone = self.child is not None and self.lane.child is not self.child  # with its CPU time
        return Quiet(idle_wait_s=waited_s, others_cpu_s=max(0.0, self._others() - self.others_s),
                     machine_busy_share=None if gone else share,
                     load_average=load_average(),
                     read_bytes_per_s=read_bytes_per_s)  # fmt: skip

    def _others(self) -> float:
        return sum(child.cpu_s() for child in self.others)

    def _own(self) -> float:
        return self.lane.child.cpu_s() if self.lane.child else 0.0


def flags_of(answer: dict[str, Any], warmups: int, still: Stillness) -> list[str]:
    """What the turn itself can tell; the reading wing adds what needs several rows."""
    flags = list(answer.get("flags", []))
    if not warmups:
        flags.append("cold")
    busy = (
        answer["quiet"].machine_busy_share or 0.0
    ) > BUSY_SHARE and still.foreign_s > BUSY_FLOOR_S
    if busy or answer["quiet"].others_cpu_s > BUSY_FLOOR_S:
        flags.append("contaminated")
    return list(dict.fromkeys(flags))


class Patience:
    """Seconds that a sweep may wait, in all, for other programs to leave the machine alone.

    LLMBENCH_PATIENCE_S of them, else `PATIENCE_S`. Raises: BadParams.
    """

    def __init__(self) -> None:
        told = os.environ.get("LLMBENCH_PATIENCE_S", str(PATIENCE_S))
        try:
            self.left_s = float(told)
        except ValueError:
            self.left_s = math.nan
        if not 0 <= self.left_s < math.inf:
            raise BadParams(f"LLMBENCH_PATIENCE_S is {told!r}, which is no number of seconds",
                            how="0 waits for nobody")  # fmt: skip

    def wait_for_quiet(self) -> bool:
        """Wait a while for a quiet moment; whether there was one."""
        for _ in range(QUIET_TRIES):
            if self.left_s <= 0:
                break
            before = busy_cpu_s()
            time.sleep(QUIET_WINDOW_S)
            self.left_s -= QUIET_WINDOW_S
            share = (busy_cpu_s() - before) / QUIET_WINDOW_S / (psutil.cpu_count() or 1)
            if share < BUSY_SHARE:
                return True
        return False


def wait_until_idle(children: list[Child]) -> float:
    """Seconds waited until none of `children` used CPU time during a window."""
    started = time.perf_counter()
    for _ in range(IDLE_TRIES if children else 0):
        before = sum(child.cpu_s() for child in children)
        time.sleep(IDLE_WINDOW_S)
        if sum(child.cpu_s() for child in children) == before:
            break
    return time.perf_counter() - started


@contextmanager
def open_lanes(group: Group, timeout_s: float) -> Iterator[dict[str, Lane]]:
    """A lane for each contender, loaded before the first turn, ended after the last."""
    firsts: dict[str, Point] = {}
    for repeat in group.repeats:
        firsts.setdefault(repeat.point.contender, repeat.point)
    compared = any(point.twin for point in firsts.values())
    longest = max(group.repeats, key=lambda r: (r.point.prompt_tokens, r.point.prompt))
    with ExitStack() as stack:
        lanes = {c: Lane(p, timeout_s, group.process_run, longest if compared else None)
                 for c, p in firsts.items()}  # fmt: skip
        for lane in lanes.values():
            stack.callback(lane.close)
            lane.wake()
        steps = [(lane, do) for do in (_await, Lane.load) for lane in lanes.values()]
        for lane, do in steps:  # nobody loads, which is timed, while others still import
            try:
                do(lane)
            except ChildLost:
                lane.close()  # its first turn tries again and records why
        yield lanes


def _await(lane: Lane) -> None:
    lane.child.awake(lane.timeout_s)
