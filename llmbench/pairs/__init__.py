"""Is the target better than the baseline, by how much, with what certainty: a verdict or none.

The rule is in docs/contract.md, "What a comparison must prove". A ratio above 1 always means that
the target is better, for times and rates alike.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from llmbench import stats
from llmbench.bars import Bar, bar_of
from llmbench.errors import CannotSay
from llmbench.pairs.checks import checks_of
from llmbench.pairs.ratios import Ratio, block_logs, equivalent, p_value, ratio_of
from llmbench.pairs.refusals import (
    check_asked,
    check_one,
    check_side,
    differences,
    outcome,
    prepared,
    usable,
)
from llmbench.pairs.served import kinship
from llmbench.pairs.sides import Check, Sides
from llmbench.pairs.tails import tails_of
from llmbench.pairs.verdicts import ENOUGH_BLOCKS, STEADY_CV, Claim, Comparison, judged
from llmbench.params import ONCE

__all__ = ["ENOUGH_BLOCKS", "STEADY_CV", "Claim", "Comparison", "claims", "compare", "judged"]
GROUP = ("run", "fingerprint", "study", "model", "batch_size", "output_tokens", "device",
         "threads", "seed", "window", "weights")  # what is never pooled  # fmt: skip
CHILD = ("run", "fingerprint", "study", "model", "device", "threads", "seed", "weights")  # its own
UNIT = ("run", "fingerprint", "session", "process_run")  # names one process run, where they exist
ASKED = (*GROUP, "prompt", "prompt_tokens")
SERVED = ("impl", "attention_impl", "weight_format", "build", "versions")


def compare(
    frame: pd.DataFrame,
    target: str,
    baseline: str,
    metric: str | Sequence[str] = "decode_tok_per_s",
    at_least: float = 1.0,
    *,
    by: str = "engine",
    bars: Sequence[Bar] = (),
) -> Comparison:
    """Whether `target` is at least `at_least` times as good as `baseline` in `metric`.

    `bars` ask other ratios of the claims that they name. `frame`: a row a repeat with the columns
    `by`, `metric`, `process_run` and `block`, ours or not; what else it has of ours is used. Of
    several metrics each gives claims of its own, corrected together. The interval is Student's over
    process-run means of block log-ratios. Raises: BadParams for names and numbers that are wrong,
    CannotSay when no rows can be paired.
    """
    metrics = [metric] if isinstance(metric, str) else list(dict.fromkeys(metric or ()))
    check_asked(frame, target, baseline, metrics, at_least, by)
    found = []
    for name in metrics:
        found += claims(frame, target, baseline, name, at_least, by=by, bars=bars)
    return Comparison(judged(found))


def claims(
    frame: pd.DataFrame, target: str, baseline: str, metric: str, at_least: float, *, by: str,
    bars: Sequence[Bar] = (),
) -> list[Claim]:  # fmt: skip
    """The claims of one metric, not judged yet: `judged` corrects those that are told together.

    What was asked of both sides and cannot be paired is a claim too, without a ratio.
    Raises: as `compare`.
    """
    check_asked(frame, target, baseline, [metric], at_least, by)
    rows = prepared(frame, by, [metric])
    may_enter = pd.Series(False, rows.index)
    may_enter[usable(rows[rows[by].isin([target, baseline])], metric, by).index] = True
    asked = [rows[(rows[by] == name) & ~_twin(rows)] for name in (target, baseline)]
    for name, side in zip((target, baseline), asked, strict=True):
        check_side(side, side[may_enter[side.index]], name)
    found, refusals = [], []
    for group, mine, theirs in _groups(*asked, by, pooled=metric in ONCE):
        about = dict(group) | {"metric": metric, "baseline": baseline}
        asked_of = bar_of(bars, at_least, about)
        one = _One(target, baseline, metric, asked_of, by, group, (mine, theirs), may_enter)
        try:
            found.append(_claim(one, rows))
        except CannotSay as error:
            refusals.append(error)
            found.append(_unsaid(one, error))
    if not found:
        raise CannotSay(f"{target} and {baseline} have no question in common",
                        why=differences(*asked, ASKED) or "they share no model and no prompt",
                        kept="all rows", how="measure both side by side in one study")  # fmt: skip
    if len(refusals) == len(found):
        raise refusals[0]
    return found


class _One(NamedTuple):
    """What one claim is about, with all rows that were asked of each side."""

    target: str
    baseline: str
    metric: str
    at_least: float
    by: str
    group: tuple[tuple[str, Any], ...]
    asked: tuple[pd.DataFrame, pd.DataFrame]
    may_enter: pd.Series

    @property
    def sides(self) -> list[pd.DataFrame]:
        """The rows of each side that may enter."""
        return [side[self.may_enter[side.index]] for side in self.asked]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _twin(rows: pd.DataFrame) -> pd.Series:
    return rows["twin"] if "twin" in rows else pd.Series(False, rows.index)


def _claim(one: _One, rows: pd.DataFrame) -> Claim:
    """The claim of one group, not judged yet. Raises: CannotSay below two process runs."""
    mine, theirs = one.sides
    for name, asked, side in zip((one.target, one.baseline), one.asked, one.sides, strict=True):
        check_side(asked, side, name)
        check_one(side, name, one.by)
    unit = [name for name in UNIT if name in mine and name in theirs]
    logs = _logs(mine, theirs, one.metric, unit)
    runs = logs.groupby(unit).ngroups if len(logs) else 0
    if runs < 2:
        raise CannotSay(
            f"{_count(runs, 'process run')} of one session with both {one.target} and "
            f"{one.baseline}; an interval needs two",
            why=differences(mine, theirs, ASKED) or _why_few(one, len(logs)),
            kept="all rows",
            how="measure both side by side with process_runs: 6 and blocks: 5",
        )
    found, (aa, otherwise) = ratio_of(logs, unit), _noise(rows, one, unit)
    once = one.metric in ONCE
    sides = Sides(mine, theirs, one.asked, unit, _audits(rows, one))
    checks = checks_of(sides, logs, aa, one.metric, otherwise)
    return Claim(
        group=one.group, target=one.target, baseline=one.baseline, metric=one.metric,
        at_least=one.at_least, ratio=found.ratio, low=found.low, high=found.high,
        bootstrap=(found.bootstrap_low, found.bootstrap_high),
        noise_floor=aa.noise if aa and aa.estimable else None, p=p_value(found, one.at_least),
        equivalent=equivalent(found), prompts=None if once else _span(mine),
        process_runs=found.process_runs, blocks=found.blocks,
        left_out=_left_out(one.asked, unit if once else [*unit, "block"], found.blocks),
        cv=found.cv,
        cv_sides=tuple(stats.coefficient_of_variation(side[one.metric]) for side in one.sides),
        formats=tuple(_format(side) for side in one.sides), checks=checks,
        tails=tails_of({one.target: mine, one.baseline: theirs}, one.metric, unit),
        runs=tuple(("/".join(map(str, run)), float(rows["log"].mean()))
                   for run, rows in logs.groupby(unit)),
        beside=_beside(rows, one), kinship=kinship(sides),
    )  # fmt: skip


def _logs(mine: pd.DataFrame, theirs: pd.DataFrame, metric: str, unit: list[str]) -> pd.DataFrame:
    """`block_logs`; of what a process tells once, one a process run."""
    logs = block_logs(mine, theirs, metric, unit)
    return logs.drop_duplicates(unit) if metric in ONCE else logs


def _beside(rows: pd.DataFrame, one: _One) -> str:
    """That llama.cpp, on which Ollama is built, was not measured beside it; '' where it was."""
    if one.by != "engine" or one.baseline != "ollama":
        return ""
    for name, value in one.group:
        rows = rows[rows[name].fillna("") == value] if name in ("run", "model") else rows
    seen = (rows["engine"] == "llamacpp").any()
    return "" if seen else "llama.cpp was not measured beside Ollama"


def _why_few(one: _One, blocks: int) -> str:
    """How many blocks could be paired, and how the rows of each side ended."""
    ended = [f"{name}: {outcome(asked)}" for name, asked in
             zip((one.target, one.baseline), one.asked, strict=True)]  # fmt: skip
    return f"they share {_count(blocks, 'block')} ({'; '.join(ended)})"


def _unsaid(one: _One, error: CannotSay) -> Claim:
    """A claim without a ratio: both sides were asked, and at least one has no answer to pair."""
    nothing = (math.nan, math.nan)
    why = f"{error.what} ({error.why})" if error.why else error.what
    return Claim(
        group=one.group, target=one.target, baseline=one.baseline, metric=one.metric,
        at_least=one.at_least, ratio=math.nan, low=math.nan, high=math.nan, bootstrap=nothing,
        noise_floor=None, p=1.0, equivalent=None, process_runs=0, blocks=0,
        left_out=max(len(side) for side in one.asked), cv=math.nan, cv_sides=nothing,
        formats=("", ""), checks=(Check("both sides measured", False, why),), tails=(),
    )  # fmt: skip


def _audits(rows: pd.DataFrame, one: _One) -> list[list[dict]]:
    """What the children of each side told once, whatever size they were asked for then."""
    if "audit" not in rows:
        return [[], []]
    same = ~_twin(rows)
    for name, value in one.group:
        if name in CHILD:
            same &= rows[name].fillna("") == value
    return [rows.loc[same & (rows[one.by] == name), "audit"].dropna().tolist()
            for name in (one.target, one.baseline)]  # fmt: skip


def _noise(rows: pd.DataFrame, one: _One, unit: list[str]) -> tuple[Ratio | None, str]:
    """The ratio of an engine to its twin where both were asked the same as the claim's sides.

    Of the sides where one has a twin, else of another engine of the same run; None without any, and
    in words how the two were served, where that was not alike.
    """
    twin = _twin(rows)
    asked = one.asked[0]
    known = [n for n in ASKED if n in rows and n != one.by]
    cells = asked[known].drop_duplicates()
    for name in dict.fromkeys([one.target, one.baseline, *sorted(rows.loc[twin, one.by].dropna())]):
        its = rows[rows[one.by] == name]
        its = usable(its, one.metric, one.by)
        pair = [its[twin[its.index] == which] for which in (True, False)]
        copy, first = (some.merge(cells, on=known) for some in pair) if known else pair
        both = len(copy) and len(first)
        if both and len(logs := _logs(copy, first, one.metric, unit)):
            return ratio_of(logs, unit), _served_otherwise(copy, first)
    return None, ""


def _served_otherwise(copy: pd.DataFrame, first: pd.DataFrame) -> str:
    """In what an engine and its twin differ, of how they served; '' where in nothing."""
    told = [
        f"{column} {_told(first[column])} against {_told(copy[column])}"
        for column in SERVED
        if column in copy and set(copy[column].dropna()) != set(first[column].dropna())
    ]
    return f"the engine and its twin were served differently: {', '.join(told)}" if told else ""


def _told(values: pd.Series) -> str:
    return " and ".join(sorted(map(str, values.unique())))


def _groups(
    mine: pd.DataFrame, theirs: pd.DataFrame, by: str, *, pooled: bool
) -> Iterator[tuple[tuple, pd.DataFrame, pd.DataFrame]]:
    """What both sides were asked, apart where it may not be pooled: named prompts are one group.

    `pooled`: prompts of every length are.
    """
    names = [name for name in GROUP if name in mine and name in theirs and name != by]
    names = [n for n in names if mine[n].notna().any() and theirs[n].notna().any()]
    sides = [side.assign(_exact=0 if pooled else _exact(side)) for side in (mine, theirs)]
    keys = [*names, "_exact"]
    sides = [side.fillna(dict.fromkeys(names, "")) for side in sides]
    apart = [dict(list(side.groupby(keys, dropna=False, sort=True))) for side in sides]
    for key in apart[0]:
        if key in apart[1]:
            about = dict(zip(keys, key, strict=True))
            length = about.pop("_exact")
            group = about | ({"prompt_tokens": int(length)} if length else {})
            yield (
                tuple(group.items()),
                mine.loc[apart[0][key].index],
                theirs.loc[apart[1][key].index],
            )


def _exact(side: pd.DataFrame) -> Any:
    """The length of prompts that differ in nothing else; 0 for named ones, which are pooled."""
    if "prompt_tokens" not in side:
        return 0
    named = side["prompt"] != "exact" if "prompt" in side else False
    return side["prompt_tokens"].where(~np.asarray(named, bool) & np.ones(len(side), bool), 0)


def _left_out(asked: tuple[pd.DataFrame, pd.DataFrame], block: list[str], paired: int) -> int:
    """Blocks, named by the columns `block`, asked of either side that did not enter."""
    blocks = pd.concat(side[block] for side in asked).drop_duplicates()
    return len(blocks) - paired


def _span(side: pd.DataFrame) -> tuple[int, int] | None:
    """The shortest and the longest prompt, in tokens."""
    lengths = side["prompt_tokens"].dropna() if "prompt_tokens" in side else side.iloc[:0]
    return (int(lengths.min()), int(lengths.max())) if len(lengths) else None


def _format(side: pd.DataFrame) -> str:
    """In which format a side holds its weights; '' where that is not known."""
    known = side["weight_format"].dropna().unique() if "weight_format" in side else []
    return " and ".join(map(str, known))
