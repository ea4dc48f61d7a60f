"""Which measured models suit an edge device: a rule with stated thresholds, fired by rows."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from llmbench import stats
from llmbench.findings.numbers import EN, count, fixed, model_names
from llmbench.findings.protocol import Peak, Side, label, peak_memory, sides
from llmbench.stats import Interval
from llmbench.units import GiB, nbytes

WORDS = {True: "yes", False: "no", None: "cannot be said"}
COLUMNS = ["Model", "Engine", "Batch (rows)", "Decode rate (tok/s)", "95 % interval", "Slowest at",
           "Peak memory", "Memory of", "Suits", "Why", "Rows", "Label"]  # fmt: skip


class Rule(NamedTuple):
    """What a model needs to reach on the machine that measured it."""

    decode_tok_per_s: float = 10.0  # somewhat above the speed of reading
    peak_bytes: float = 4 * GiB  # a device of 8 GiB, half of which is for everything else

    @property
    def told(self) -> str:
        """The thresholds in words."""
        return (
            f"decode at least {self.decode_tok_per_s:g} tok/s at the lower end of the interval, "
            f"peak memory at most {nbytes(self.peak_bytes)}"
        )


EDGE = Rule()


@dataclass(frozen=True)
class Suited:
    """What the rule says of one model with one engine, and the rows that say it."""

    model: str
    engine: str
    batch_size: int
    rate: Interval  # tok/s with the slowest kind of prompt; Student's, of logs over process runs
    slowest: str  # that kind of prompt
    peak: Peak
    run: str
    repeats: int
    preview: bool
    rule: Rule

    @property
    def fast(self) -> bool | None:
        """Whether it decodes fast enough; None where the interval holds the bar, or is none."""
        bar = self.rule.decode_tok_per_s
        if not self.rate.estimable or self.rate.low < bar <= self.rate.high:
            return None
        return self.rate.low >= bar

    @property
    def small(self) -> bool | None:
        """Whether it needs little enough memory; None where that is not known."""
        return None if math.isnan(self.peak.bytes) else self.peak.bytes <= self.rule.peak_bytes

    @property
    def suits(self) -> bool | None:
        """Whether the rule fires; a preview cannot say."""
        if self.preview:
            return None
        states = (self.fast, self.small)
        return False if False in states else None if None in states else True

    @property
    def why(self) -> str:
        """What keeps the rule from firing; '' when it fires."""
        peak = self.peak.view if self.small is None else f"needs {nbytes(self.peak.bytes)}"
        seen = [(self.fast, f"decodes {self.speed}"), (self.small, f"memory: {peak}")]
        if self.preview:
            return "; ".join(["preview: too few blocks for a claim", *(text for _, text in seen)])
        return "; ".join(text for state, text in seen if state is not True and state is self.suits)

    @property
    def speed(self) -> str:
        """'41.2 tok/s (40.8-41.6)'."""
        return f"{fixed(self.rate.value, 1)} tok/s ({self.ends or 'no interval'})"

    @property
    def ends(self) -> str:
        """The ends of the rate's interval; '' without one."""
        known = self.rate.estimable
        return f"{fixed(self.rate.low, 1)}{EN}{fixed(self.rate.high, 1)}" if known else ""

    @property
    def rows(self) -> str:
        """Which rows say it."""
        runs = count(self.rate.n, "process run")
        return f"{count(self.repeats, 'repeat')} of {runs} of run {self.run}"


def suited(frame: pd.DataFrame, rule: Rule = EDGE) -> list[Suited]:
    """What `rule` says of each model and engine of the study `ollama_comparison`."""
    groups: dict[tuple, list[Side]] = {}
    for side in sides(frame):
        first = side.rows.iloc[0]
        key = (first["run"], first["fingerprint"], side.model, side.engine, side.batch_size)
        groups.setdefault(key, []).append(side)
    return [_suited(some, rule) for some in groups.values()]


def _suited(some: list[Side], rule: Rule) -> Suited:
    rates = {side.asked: _rate(side.rows) for side in some}
    slowest = min(rates, key=lambda asked: rates[asked].value)
    every = pd.concat([side.rows for side in some])
    return Suited(
        some[0].model, some[0].engine, some[0].batch_size, rates[slowest], slowest,
        peak_memory(every), every["run"].iloc[0], len(every),
        any(side.preview for side in some), rule,
    )  # fmt: skip


def _rate(rows: pd.DataFrame) -> Interval:
    """Geometric mean of the decode rate in tok/s, Student's interval of its log over runs."""
    known = rows[rows["decode_tok_per_s"] > 0]
    logs = np.log(known["decode_tok_per_s"]).groupby(known["process_run"]).mean()
    found = stats.mean_interval(logs)
    ends = (math.exp(end) for end in (found.value, found.low, found.high))
    return Interval(*ends, found.n, found.confidence, found.estimable, found.note)


def devices_table(frame: pd.DataFrame, rule: Rule = EDGE) -> pd.DataFrame:
    """A row a model and engine, `COLUMNS`: whether it suits by the rule, and why not."""
    rows = [(one.model, one.engine, one.batch_size, fixed(one.rate.value, 1), one.ends or EN,
             one.slowest, nbytes(one.peak.bytes), one.peak.view, WORDS[one.suits], one.why,
             one.rows, label(one.preview)) for one in suited(frame, rule)]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def device_sentences(frame: pd.DataFrame, rule: Rule = EDGE) -> list[str]:
    """A sentence an engine and run: which models suit, which not, of which it cannot be said."""
    groups: dict[tuple, list[Suited]] = {}
    for one in suited(frame, rule):
        groups.setdefault((one.engine, one.batch_size, one.run), []).append(one)
    return [_sentence(some, rule) for some in groups.values()]


def _sentence(some: list[Suited], rule: Rule) -> str:
    short = model_names(one.model for one in some)
    alike = len({one.rows for one in some}) == 1
    heads = {True: "suited", False: "not suited", None: "cannot be said of"}
    of = {state: [_numbers(short[one.model], one, alike) for one in some if one.suits is state]
          for state in heads}  # fmt: skip
    told = "; ".join(
        f"{head}: {', '.join(of[state])}" for state, head in heads.items() if of[state]
    )
    preview = "Preview, not a claim: " if any(one.preview for one in some) else ""
    each = f"; {'each ' * (len(some) > 1)}by {some[0].rows}" if alike else ""
    return (f"{preview}{some[0].engine} for an edge device by the rule ({rule.told}, on the "
            f"machine that measured): {told}{each}.")  # fmt: skip


def _numbers(name: str, one: Suited, alike: bool) -> str:
    told = one.why or f"{one.speed}, {nbytes(one.peak.bytes)}"
    return f"{name} ({told}{'' if alike else f'; {one.rows}'})"
