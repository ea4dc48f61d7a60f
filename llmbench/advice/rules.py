"""The rules: each a name, a condition and a sentence; the first of a table that holds fires.

`SERVING` is asked of every contender: does it serve this request, and in which window. `RANKING`
is asked of those that serve by measurement: which is recommended. `CUTTING` is asked of the
request: is it read whole or in pieces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from llmbench.advice.measured import Evidence, Measured, Need, Span
from llmbench.units import nbytes, seconds

EN = "\N{EN DASH}"
SMALLEST = 512  # tokens; no smaller window is proposed


class Rule(NamedTuple):
    """One rule. Both functions are pure and take what the table is asked about."""

    name: str
    holds: Callable[[Any], bool]
    says: Callable[[Any], str]
    verdict: str = ""  # of SERVING: measured, extrapolated or refused


def fired(table: Sequence[Rule], case: Any) -> Rule:
    """The first rule of `table` that holds; the last one of each always does."""
    return next(rule for rule in table if rule.holds(case))


# -- does a contender serve the request ------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One contender and one request. None: not known."""

    measured: Measured
    tokens: int | None  # of the text, in this model's tokens
    output_tokens: int
    trained: int | None  # tokens
    free_bytes: int | None  # on this machine now; None: memory is not asked about

    @property
    def whole(self) -> int:
        """Tokens of text and answer together."""
        return (self.tokens or 0) + self.output_tokens

    @cached_property
    def reached(self) -> int | None:
        """The smallest measured size that holds the whole."""
        return self.measured.reaching(self.whole)

    @property
    def window(self) -> int:
        """The smallest that serves: measured, else the next power of two or the trained context."""
        return self.reached or next_window(self.whole, self.trained)

    @cached_property
    def need(self) -> Need:
        """Bytes of that window."""
        return self.measured.need(self.window)

    @cached_property
    def seconds(self) -> Span:
        """Of reading and answering; bounds where the measurement does not reach."""
        ask = self.measured.seconds if self.reached else self.measured.seconds_beyond
        return ask(self.tokens or 0, self.output_tokens)

    @property
    def largest(self) -> int:
        """The largest size that was measured."""
        return max(self.measured.prompts)

    def evidence(self) -> tuple[Evidence, ...]:
        """The rows the verdict leans on: those behind window and time, or the largest measured."""
        if not self.reached:
            return (self.measured.evidence(self.largest),)
        sizes = self.measured.sizes_behind(self.tokens or 0, self.output_tokens)
        return tuple(self.measured.evidence(size) for size in sizes)


def next_window(tokens: int, trained: int | None) -> int:
    """The smallest power of two that holds `tokens`, the trained context where that is less."""
    power = max(SMALLEST, 1 << (tokens - 1).bit_length())
    return min(power, trained) if trained and trained >= tokens else power


def _out_of_memory(case: Case) -> bool:
    oom = case.measured.oom_tokens
    return not case.reached and oom is not None and oom <= case.window


def _too_little_memory(case: Case) -> bool:
    known = case.free_bytes is not None and case.need.bytes is not None
    return known and case.need.bytes > case.free_bytes


def _memory(case: Case) -> str:
    """The memory check in words."""
    if case.free_bytes is None:
        return ""
    if case.need.bytes is None:
        return f"; memory not checked: {case.need.why}"
    word = "" if case.need.source == "measured" else "predicted: "
    return f"; memory: {word}{case.need.why}, {nbytes(case.free_bytes)} are free"


def _measured_window(case: Case) -> str:
    return (f"{case.measured.name}: the measured window of {case.window:,} tokens serves "
            f"{case.whole:,}, in {told(case.seconds)}{_memory(case)}")  # fmt: skip


def _measured_length(case: Case) -> str:
    prompt = case.measured.prompts[case.window]
    return (f"{case.measured.name}: a prompt of {prompt:,} tokens and {case.window - prompt:,} of "
            f"answer were measured, which is no less than {case.whole:,}, in "
            f"{told(case.seconds)}{_memory(case)}")  # fmt: skip


def _extrapolated(case: Case) -> str:
    what = "the trained context" if case.window == case.trained else "the next power of two"
    return (f"{case.measured.name}: extrapolated, not measured: {case.whole:,} tokens are more "
            f"than the {case.largest:,} that were; predicted window {case.window:,}, {what}; "
            f"{told(case.seconds)}{_memory(case)}")  # fmt: skip


SERVING = (
    Rule("tokens-not-counted", lambda case: case.tokens is None,
         lambda case: f"{case.measured.name}: refused: its tokenizer is not here, so the text's "
                      "tokens are not known", "refused"),
    Rule("beyond-trained-context", lambda case: bool(case.trained) and case.whole > case.trained,
         lambda case: f"{case.measured.name}: refused: it was trained for {case.trained:,} tokens, "
                      f"not {case.whole:,}", "refused"),
    Rule("ran-out-of-memory", _out_of_memory,
         lambda case: f"{case.measured.name}: refused: it ran out of memory at "
                      f"{case.measured.oom_tokens:,} tokens", "refused"),
    Rule("too-little-memory-free", _too_little_memory,
         lambda case: f"{case.measured.name}: refused: a window of {case.window:,} tokens needs "
                      f"more than the {nbytes(case.free_bytes)} that are free; {case.need.source}: "
                      f"{case.need.why}", "refused"),
    Rule("measured-window", lambda case: bool(case.reached)
         and case.measured.study == "context_windows", _measured_window, "measured"),
    Rule("measured-length", lambda case: bool(case.reached), _measured_length, "measured"),
    Rule("next-power-of-two", lambda case: case.trained is not None, _extrapolated,
         "extrapolated"),
    Rule("trained-context-unknown", lambda case: True,
         lambda case: f"{case.measured.name}: refused: {case.whole:,} tokens are more than the "
                      f"{case.largest:,} that were measured, and how many it was trained for is "
                      "not known here", "refused"),
)  # fmt: skip


# -- which of those that serve is recommended ------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """Those that serve a request by measurement, fastest first, as (name, seconds)."""

    of: str  # 'up to 2,048 tokens', for people
    times: tuple[tuple[str, Span], ...]

    @property
    def best(self) -> str:
        return self.times[0][0]

    @property
    def surely(self) -> bool:
        """Whether the fastest one's interval ends before every other's begins."""
        lows, high = [other.low for _, other in self.times[1:]], self.times[0][1].high
        return high is not None and None not in lows and high < min(lows)


def _overlapping(ranked: Ranked) -> str:
    return (f"{ranked.of}: {ranked.best}, the fastest of {len(ranked.times)} measured by its "
            f"median, {told(ranked.times[0][1])}, but not surely: the intervals overlap or are "
            "not estimable")  # fmt: skip


RANKING = (
    Rule("none-measured", lambda ranked: not ranked.times,
         lambda ranked: f"{ranked.of}: none measured on this machine"),
    Rule("only-one-measured", lambda ranked: len(ranked.times) == 1,
         lambda ranked: f"{ranked.of}: {ranked.best}, the only one measured, "
                        f"{told(ranked.times[0][1])}"),
    Rule("fastest-surely", lambda ranked: ranked.surely,
         lambda ranked: f"{ranked.of}: {ranked.best}, surely the fastest of {len(ranked.times)} "
                        f"measured, {told(ranked.times[0][1])}; next {ranked.times[1][0]}, "
                        f"{told(ranked.times[1][1])}"),
    Rule("fastest-not-surely", lambda ranked: True, _overlapping),
)  # fmt: skip


# -- whole, or in pieces ---------------------------------------------------------------------------


class Cut(NamedTuple):
    """A request: how many were asked, serve it measured, extrapolated, in pieces; the best plan."""

    asked: int
    measured: int
    extrapolated: int
    plans: int
    plan: str  # the best one in words


CUTTING = (
    Rule("read-whole", lambda cut: cut.measured > 0,
         lambda cut: "no need to cut the text: a measured window holds it"),
    Rule("pieces-instead-of-extrapolation", lambda cut: cut.plans > 0 and cut.extrapolated > 0,
         lambda cut: f"no measured window holds it; as measured, in pieces: {cut.plan}"),
    Rule("pieces", lambda cut: cut.plans > 0,
         lambda cut: f"it fits no window here; in pieces: {cut.plan}"),
    Rule("nothing-to-cut-for", lambda cut: not cut.asked,
         lambda cut: "a plan in pieces needs measured rows too"),
    Rule("no-plan", lambda cut: True,
         lambda cut: "no measured window has room for a piece and its answer in the memory here"),
)  # fmt: skip
RULES = {rule.name: rule for table in (SERVING, RANKING, CUTTING) for rule in table}


def told(span: Span) -> str:
    """'1.20 s (95 % interval 1.15-1.25 s, 6 process runs)', or the bounds."""
    if span.kind == "bounds":
        if span.low is None:
            return "its time is not known"
        return (f"between {seconds(span.low)}, if it grows on as last measured, and "
                f"{seconds(span.high)}, if with the square")  # fmt: skip
    if span.value is None:
        return "time not measured"
    ends = between(span.low, span.high)
    ends = f"95 % interval {ends}" if ends else "no interval"
    runs = f"{span.process_runs} process run{'s' * (span.process_runs != 1)}"
    return f"{seconds(span.value)} ({ends}, {runs})"


def between(low: float | None, high: float | None) -> str:
    """'162 - 192 ms', the unit once where both have the same; '' when one is not known."""
    if low is None or high is None:
        return ""
    first, last = seconds(low), seconds(high)
    (number, _, unit), same = first.partition(" "), last.partition(" ")[2]
    return f"{number if unit == same else first} {EN} {last}"
