"""A planted truth → the records that the whole pipeline makes of it, on virtual time.

The plan, the prompts, the timed repeat and the records are those of a real run; only the engine is
the fake one under every name of the study, and its sleeps pass on a clock that waits for nobody.
So a thousand sessions take minutes, and what statistics say is held against what was planted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from llmbench.audits import audited
from llmbench.engines.fake import FakeEngine
from llmbench.models.source import find_model
from llmbench.models.tokenizer import Tokenizer
from llmbench.params import Study
from llmbench.points import plan
from llmbench.record import SCHEMA_VERSION, Energy, Point, Quiet, Repeat
from llmbench.timing import time_repeat, warm_up
from llmbench.turns import process_seed
from llmbench.workload import prompt_ids

PLACE = "planted"  # id of the circumstances, and fingerprint of a machine that does not exist
ENVIRONMENTS = MappingProxyType({PLACE: MappingProxyType({"fingerprint": PLACE, "roofs": None})})
WHEN = "2026-01-01T00:00:00+00:00"  # a label: virtual sessions have no date
STILL, NO_ENERGY = Quiet(machine_busy_share=0.0).model_dump(), Energy().model_dump()
Order = Callable[[Sequence[Repeat]], Iterable[Repeat]]


class VirtualClock:
    """Time passes only when somebody sleeps; on a machine that is `slower` sleeps take longer."""

    def __init__(self) -> None:
        self.ns = 0
        self.slower = 0.0  # share by which every sleep is longer than it should be

    def now_ns(self) -> int:
        """Nanoseconds slept so far."""
        return self.ns

    def sleep_s(self, seconds: float) -> None:
        """Pass `seconds`, and what the machine adds to them."""
        self.ns += round(seconds * (1 + self.slower) * 1e9)


@dataclass
class Played:
    """One contender in one process run: a fake engine under the contender's name."""

    point: Point
    engine: FakeEngine
    served: dict[str, Any]
    warmed: set[tuple] = field(default_factory=set)
    audited: bool = False


class Session:
    """All turns of a study on one virtual machine."""

    def __init__(
        self, study: Study, planted: Mapping[str, Mapping[str, Any]], clock: VirtualClock
    ) -> None:
        self.study, self.planted, self.clock = study, planted, clock
        self.tokenizer = _tokenizer(study.models[0])
        self.children: dict[tuple[int, str], Played] = {}
        self.prompts: dict[tuple, list[list[int]]] = {}
        self.points: dict[int, dict[str, Any]] = {}  # by id: each point is one object

    def row(self, repeat: Repeat, sequence: int, warmups: int) -> dict[str, Any]:
        """The record of one repeat as the store would read it back."""
        child = self._child(repeat)
        engine, tokens = child.engine, repeat.point.output_tokens
        first = repeat.point.cell not in child.warmed
        child.warmed.add(repeat.point.cell)
        other = repeat.model_copy(update={"repeat": -1})
        warm = warm_up(engine, self._prompt(other), tokens, clock=self.clock,
                       times=warmups if first else 0)  # fmt: skip
        raw, witness = time_repeat(engine, self._prompt(repeat), tokens, clock=self.clock,
                                   warmup_s=warm)  # fmt: skip
        point = self.points.setdefault(id(repeat.point), repeat.point.model_dump())
        return {
            "schema_version": SCHEMA_VERSION, "key": repeat.key, "point": point,
            "process_run": repeat.process_run, "block": repeat.block, "repeat": repeat.repeat,
            "status": "ok", "reason": None, "flags": [], "measured_at": WHEN, "sequence": sequence,
            "session": "planted",
            "served": child.served, "raw": raw.model_dump(), "memory": None, "energy": NO_ENERGY,
            "witness": witness.model_dump(), "quiet": STILL, "audit": self._audit(child, repeat),
            "environment": PLACE,
        }  # fmt: skip

    def _child(self, repeat: Repeat) -> Played:
        """The contender's engine in this process run, loaded when it is first asked."""
        point, who = repeat.point, (repeat.process_run, repeat.point.contender)
        if who not in self.children:
            engine = FakeEngine(sleep=self.clock.sleep_s)
            seed = process_seed(point, repeat.process_run)
            asked = {"threads": point.threads, "process_seed": seed}
            served = engine.load(None, {**self.planted[point.engine], **asked})
            named = {"engine": point.engine, "child": f"{seed:08x}"}
            self.children[who] = Played(point, engine, served.model_dump() | named)
        return self.children[who]

    def _prompt(self, repeat: Repeat) -> list[list[int]]:
        """The prompt, which is the same for every contender and in every process run."""
        asked = (repeat.point.cell, repeat.block, repeat.repeat)
        if asked not in self.prompts:
            self.prompts[asked] = prompt_ids(repeat, self.tokenizer)
        return self.prompts[asked]

    def _audit(self, child: Played, repeat: Repeat) -> dict[str, Any] | None:
        """What a fresh child says to the fixed questions, on its first record."""
        if child.audited:
            return None
        child.audited = True
        return audited(child.engine, self.tokenizer, repeat, clock=self.clock,
                       trained=None).model_dump()  # fmt: skip


@lru_cache
def _tokenizer(model: str) -> Tokenizer:
    """Loaded once, as by a child that stays loaded over its blocks."""
    return find_model(model).tokenizer


def play(
    name: str, study: Study, planted: Mapping[str, Mapping[str, Any]], *,
    machine_drift: float = 0.0, order: Order = tuple,
) -> list[dict[str, Any]]:  # fmt: skip
    """The rows (dicts shaped as `record.Record`) of every repeat that the study plans.

    `planted`: a fake engine's options for each engine the study names. `machine_drift`: the share
    by which the machine is slower at the end of the session than at its start, for everybody.
    `order` changes the order of the plan's turns; what is asked stays the same.
    """
    turns = [repeat for group in plan(name, study) for repeat in group.repeats]
    warmups = -(-study.warmups // len({repeat.point.cell for repeat in turns}))
    clock = VirtualClock()
    session = Session(study, planted, clock)
    rows = []
    for sequence, repeat in enumerate(order(turns)):
        clock.slower = machine_drift * sequence / len(turns)
        rows.append(session.row(repeat, sequence, warmups))
    return rows


def one_after_the_other(first: str) -> Order:
    """The order of a bad design: every turn of the engine `first`, then all the others'."""
    return lambda turns: sorted(turns, key=lambda repeat: repeat.point.engine != first)
