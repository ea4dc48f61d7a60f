"""Which measured model and window for a text of this length, and the rule and rows behind it.

Only rows of this machine recommend anything; those of other machines are listed, and no more.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import pandas as pd

from llmbench.advice.choices import Choice, best_of_each
from llmbench.advice.measured import Evidence, Measured, Span, lengths, series, sound
from llmbench.advice.plans import Plan, plan_for
from llmbench.advice.rules import CUTTING, RANKING, RULES, Case, Cut, Ranked, fired, next_window
from llmbench.errors import BadParams, LlmbenchError
from llmbench.hardware import available_bytes, machine
from llmbench.hardware import fingerprint as fingerprint_of
from llmbench.models.predict import spec_of

__all__ = ["CLASSES", "RULES", "Advice", "Choice", "Plan", "Recommended", "advise"]
CLASSES = (("short", 0, 2048), ("medium", 2048, 32_768), ("long", 32_768, 131_072),
           ("very long", 131_072, None))  # fmt: skip
ANSWER = 64  # tokens; in general
DOUBLINGS = 4  # windows that a proposed measurement has
SMALLEST, MODEL = 512, "builtin:tiny"  # of a proposed measurement, when nothing is measured yet


@dataclass(frozen=True)
class Recommended:
    """The recommendation for a length class, or for a request. `model` None: none measured."""

    name: str
    above: int  # tokens, text and answer together
    up_to: int | None  # None: no end
    measured_to: int | None  # for which length the rule was asked
    rule: str
    sentence: str
    model: str | None = None
    engine: str | None = None
    window: int | None = None
    seconds: Span | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Advice:
    """Everything that can be said; `answered` says whether a measured row answers at all."""

    tokens: int | Mapping[str, int] | None
    output_tokens: int
    fingerprint: str
    free_bytes: int
    classes: tuple[Recommended, ...]
    answer: Recommended | None = None  # None: no length was asked about
    choices: tuple[Choice, ...] = ()
    cutting: str = ""  # the rule
    cutting_sentence: str = ""
    plans: tuple[Plan, ...] = ()
    others: tuple[dict[str, Any], ...] = ()
    unused: Mapping[str, int] = field(default_factory=dict)  # rows here by what excludes them
    measure: str = ""  # the command that would measure what is missing

    @property
    def answered(self) -> bool:
        """Whether a row of this machine answers."""
        if self.tokens is None:
            return any(found.model for found in self.classes)
        return bool(self.plans) or any(c.verdict != "refused" for c in self.choices)

    def facts(self) -> dict[str, Any]:
        """Everything, for programs."""
        request = {"tokens": self.tokens, "output_tokens": self.output_tokens}
        rest = {name: _plain(getattr(self, name)) for name in
                ("answer", "choices", "cutting", "cutting_sentence", "plans", "classes", "others",
                 "unused", "measure")}  # fmt: skip
        return {"request": request, "here": {"fingerprint": self.fingerprint,
                "free_bytes": self.free_bytes}, "answered": self.answered, **rest}  # fmt: skip


def advise(
    frame: pd.DataFrame, *, tokens: int | Mapping[str, int] | None = None, output_tokens: int = 64,
    fingerprint: str | None = None, free_bytes: int | None = None, document: str | None = None,
) -> Advice:  # fmt: skip
    """What the measured rows of `frame` (see `llmbench.read`) recommend, in general and for a text.

    `tokens`: the text's length, one for all models or a mapping model → tokens; None: in general
    only. `fingerprint` and `free_bytes` stand for this machine as it is now when not given;
    `document` names the file in commands. Raises: BadParams for a length below 1.
    """
    _check(tokens, output_tokens)
    here = fingerprint or fingerprint_of(machine())
    free = available_bytes() if free_bytes is None else free_bytes
    own = frame[frame["fingerprint"] == here]
    found = series(own)
    trained = {model: _trained(model) for model in {m.model for m in found}}
    told = Advice(
        tokens,
        output_tokens,
        here,
        free,
        others=_others(frame, here),
        classes=tuple(_for_class(found, trained, *c) for c in CLASSES),
        unused=_unused(own),
        measure=_measure(found, trained, tokens, output_tokens),
    )
    return told if tokens is None else _for_request(told, found, trained, document)  # fmt: skip


def _check(tokens: int | Mapping[str, int] | None, output_tokens: int) -> None:
    counts = [] if tokens is None else tokens.values() if isinstance(tokens, Mapping) else [tokens]
    for name, value in [("tokens", n) for n in counts] + [("output_tokens", output_tokens)]:
        if value < 1:
            raise BadParams(f"{name} is {value}; must be at least 1")


def _trained(model: str) -> int | None:
    """Tokens a model was trained for; None where its architecture is not known here."""
    try:
        return spec_of(model).trained_context
    except LlmbenchError:
        return None


# -- a request -------------------------------------------------------------------------------------


def _for_request(
    told: Advice, found: list[Measured], trained: Mapping[str, int | None], document: str | None
) -> Advice:
    counts = told.tokens
    cases = [Case(one, counts.get(one.model) if isinstance(counts, Mapping) else counts,
                  told.output_tokens, trained[one.model], told.free_bytes)
             for one in found]  # fmt: skip
    choices = best_of_each(cases)
    served = [c for c in choices if c.verdict == "measured"]
    plans = [] if served else _plans(cases, document)
    guessed = sum(one.verdict == "extrapolated" for one in choices)
    best = plans[0].sentence if plans else ""
    cut = Cut(len(choices), len(served), guessed, len(plans), best)
    rule = fired(CUTTING, cut)
    answer = _recommended("for this text", 0, None, served)
    return replace(told, choices=tuple(choices), answer=answer, cutting=rule.name,
                   cutting_sentence=rule.says(cut), plans=tuple(plans))  # fmt: skip


def _plans(cases: Iterable[Case], document: str | None) -> list[Plan]:
    """A plan a contender: the fewest pieces first, then the fastest."""
    made: dict[tuple, Plan] = {}
    for case in cases:
        plan, who = plan_for(case, document), case.measured.who
        if plan and (who not in made or plan.layout.window > made[who].layout.window):
            made[who] = plan
    return sorted(made.values(), key=lambda p: (p.layout.pieces, p.seconds.value or float("inf")))


# -- in general ------------------------------------------------------------------------------------


def _for_class(
    found: list[Measured], trained: Mapping[str, int | None], name: str, above: int,
    up_to: int | None,
) -> Recommended:  # fmt: skip
    """The recommendation for the longest text of the class that any measurement reaches."""
    reach = [min(max(one.prompts), trained[one.model] or max(one.prompts)) for one in found]
    longest = max((min(r, up_to or r) for r in reach), default=0)
    if longest <= max(above, 1):
        return _recommended(name, above, up_to, [])
    answer = min(ANSWER, longest // 2)
    cases = [Case(one, longest - answer, answer, trained[one.model], None) for one in found]
    served = [c for c in best_of_each(cases) if c.verdict == "measured"]
    return replace(_recommended(name, above, up_to, served), measured_to=longest)


def _recommended(name: str, above: int, up_to: int | None, served: list[Choice]) -> Recommended:
    """What RANKING says of those that serve."""
    ranked = Ranked(_length(name, above, up_to), tuple((c.name, c.seconds) for c in served))
    rule = fired(RANKING, ranked)
    told = Recommended(name, above, up_to, None, rule.name, rule.says(ranked))
    if not served:
        return told
    best = served[0]
    behind = tuple(row for one in served for row in one.evidence)
    return replace(told, model=best.model, engine=best.engine, window=best.window,
                   seconds=best.seconds, evidence=behind)  # fmt: skip


def _length(name: str, above: int, up_to: int | None) -> str:
    """'medium (2,048 to 32,768 tokens)'."""
    if not above:
        return f"{name} (up to {up_to:,} tokens)" if up_to else name
    return f"{name} ({above:,} to {up_to:,} tokens)" if up_to else f"{name} (above {above:,})"


# -- what recommends nothing -----------------------------------------------------------------------


def _others(frame: pd.DataFrame, here: str) -> tuple[dict[str, Any], ...]:
    """What other machines measured: a row a run, model and engine; it recommends nothing."""
    rows = sound(lengths(frame[frame["fingerprint"] != here]))
    keys = ["run", "fingerprint", "model", "engine"]
    return tuple(dict(zip(keys, key, strict=True)) | {"largest_tokens": int(part["reach"].max()),
                                                      "rows": len(part)}
                 for key, part in rows.groupby(keys, sort=True))  # fmt: skip


def _unused(own: pd.DataFrame) -> dict[str, int]:
    """Rows of this machine that fire nothing, by status or flag."""
    rows = lengths(own)
    rows = rows.drop(index=sound(rows).index)
    why = [s if s != "ok" else ", ".join(sorted(set(f) - {"unsteady"}))
           for s, f in zip(rows["status"], rows["flags"], strict=True)]  # fmt: skip
    return dict(sorted(Counter(why).items()))


def _measure(
    found: list[Measured], trained: Mapping[str, int | None],
    tokens: int | Mapping[str, int] | None, output_tokens: int,
) -> str:  # fmt: skip
    """The command that measures windows up to the one that the request needs."""
    models = sorted({one.model for one in found}) or [MODEL]
    engines = sorted({one.engine for one in found})
    limits = [trained.get(m, _trained(m)) for m in models]
    limit = None if None in limits else max(limits)
    counts = tokens.values() if isinstance(tokens, Mapping) else [tokens or 0]
    longest = max(counts, default=0) + output_tokens
    top = max(next_window(longest, limit), 2 * SMALLEST)
    top = min(top, limit) if limit else top
    sizes = [*(w for w in (SMALLEST << i for i in range(40)) if w < top), top]
    words = ["llmbench", "measure", "context_windows", "--models", *models,
             *(["--engines", *engines] if engines else []),
             "--context-lens", *map(str, sizes[-DOUBLINGS:])]  # fmt: skip
    return shlex.join(words)


def _plain(value: Any) -> Any:
    """Nested results as dicts and lists."""
    if hasattr(value, "facts"):
        return {name: _plain(inner) for name, inner in value.facts().items()}
    if hasattr(value, "_asdict"):
        return {name: _plain(inner) for name, inner in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if is_dataclass(value):
        return {name: _plain(inner) for name, inner in vars(value).items()}
    return dict(value) if isinstance(value, Mapping) else value
