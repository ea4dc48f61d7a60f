"""What each contender can do for a request: the rule that fires, and all that stands behind it."""

from collections.abc import Iterable
from dataclasses import dataclass

from llmbench.advice.measured import Evidence, Need, Span
from llmbench.advice.rules import SERVING, Case, fired

VERDICTS = ("measured", "extrapolated", "refused")


@dataclass(frozen=True)
class Choice:
    """What one contender can do for the request."""

    name: str
    run: str
    model: str
    engine: str
    options: str
    threads: int
    verdict: str  # measured, extrapolated or refused
    rule: str
    sentence: str
    tokens: int | None  # of the text, in this model's
    window: int | None
    window_from: str | None  # measured or predicted
    trained_context: int | None
    seconds: Span | None
    need: Need | None
    fits: bool | None  # None: not known
    evidence: tuple[Evidence, ...]


def best_of_each(cases: Iterable[Case]) -> list[Choice]:
    """A choice a contender, fastest first: best verdict, smallest window, newest run."""
    newest = sorted(cases, key=lambda case: case.measured.measured_at, reverse=True)
    made = [(case.measured.who, choice(case)) for case in newest]
    best: dict[tuple, Choice] = {}
    for who, one in made:
        if who not in best or _rank(one) < _rank(best[who]):
            best[who] = one
    return sorted(best.values(), key=lambda one: (VERDICTS.index(one.verdict), _time(one)))


def _rank(one: Choice) -> tuple:
    order = [rule.name for rule in SERVING]
    return VERDICTS.index(one.verdict), order.index(one.rule), one.window or 0


def _time(one: Choice) -> float:
    known = [t for t in (one.seconds and one.seconds.value, one.seconds and one.seconds.low) if t]
    return known[0] if known else float("inf")


def choice(case: Case) -> Choice:
    """The rule that fires for a contender and a request, and all that it says."""
    rule, one = fired(SERVING, case), case.measured
    serves = rule.verdict != "refused"
    sized = serves or rule.name == "too-little-memory-free"
    known = sized and case.need.bytes is not None and case.free_bytes is not None
    return Choice(
        name=one.name, run=one.run, model=one.model, engine=one.engine, options=one.options,
        threads=one.threads, verdict=rule.verdict, rule=rule.name, sentence=rule.says(case),
        tokens=case.tokens, window=case.window if sized else None,
        window_from=("measured" if case.reached else "predicted") if sized else None,
        trained_context=case.trained, seconds=case.seconds if serves else None,
        need=case.need if sized else None,
        fits=case.need.bytes <= case.free_bytes if known else None, evidence=case.evidence(),
    )  # fmt: skip
