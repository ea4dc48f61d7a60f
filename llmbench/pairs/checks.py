"""What must hold before two engines may be compared, each as data: held, failed or not recorded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from llmbench.pairs.ratios import Ratio

VOID = 0.03  # an A/A interval that misses 1 by more takes every verdict away
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.15}  # of log-probabilities, by format
OTHER_TOLERANCE = 1.0  # of quantised weights: far from noise, near enough to be the same model
CACHED = 0.5  # share of its first time in which a repeated prompt betrays a cache
LUCK = 0.001  # an order as one-sided as this is no chance
OTHERS_S = 0.03  # CPU seconds of the other engines in a turn that the kernel's ticks can tell


class Check(NamedTuple):
    """One condition of a comparison."""

    name: str
    passed: bool | None  # None: the data do not tell
    detail: str


@dataclass(frozen=True)
class Sides:
    """The rows of the two sides that may enter, and every turn that was taken, flagged or not."""

    target: pd.DataFrame
    baseline: pd.DataFrame
    turns: tuple[pd.DataFrame, pd.DataFrame]
    unit: list[str]  # columns that name a process run of one session
    audits: Sequence[Sequence[dict]] = ((), ())  # what each child told once, at any size

    def known(self, column: str) -> bool:
        """Whether both sides tell the column."""
        return all(column in side and side[column].notna().any()
                   for side in (self.target, self.baseline))  # fmt: skip

    def values(self, column: str) -> list[list[str]]:
        """The distinct values of each side."""
        return [sorted({_text(value) for value in side[column].dropna()})
                for side in (self.target, self.baseline)]  # fmt: skip


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


NEEDED = ("same weights", "outputs agree", "turns interleaved")  # without them, no verdict


def checks_of(sides: Sides, aa: Ratio | None, metric: str) -> tuple[Check, ...]:
    """Every check of one comparison, in the order in which a reader asks."""
    return (
        _weights(sides),
        _prompts(sides),
        _same(sides, "served_threads", "same threads"),
        _same(sides, "served_device", "same device"),
        _same(sides, "output_tokens", "same output length"),
        _same(sides, "window", "same context window"),
        _outputs(sides),
        _cache(sides),
        _interleaved(sides),
        _others(sides),
        _aa(aa, metric),
    )


def _same(sides: Sides, column: str, name: str) -> Check:
    if not sides.known(column):
        return Check(name, None, "not recorded")
    mine, theirs = sides.values(column)
    same = mine == theirs and len(mine) <= 1
    if column == "window" and mine == theirs == ["0"]:
        return Check(name, True, "none was asked for")
    return Check(name, same, ", ".join(mine) if same else f"{', '.join(mine)} against "
                 f"{', '.join(theirs)}")  # fmt: skip


def _weights(sides: Sides) -> Check:
    found = _same(sides, "model_sha256", "same weights")
    if not sides.known("weight_format") or found.passed is None:
        return found
    mine, theirs = sides.values("weight_format")
    how = ", ".join(mine) if mine == theirs else f"{', '.join(mine)} against {', '.join(theirs)}"
    detail = f"sha256 {found.detail[:12]}, held as {how}" if found.passed else "other files"
    return found._replace(detail=detail)


def _prompts(sides: Sides) -> Check:
    """The same ids were given to both sides of a block; a disturbed turn's second has others."""
    name = "same prompts"
    if not sides.known("prompt_sha256"):
        return Check(name, None, "the prompts' ids were not recorded")
    keys = [*sides.unit, "block", "prompt", "prompt_tokens", "batch_size"]
    sums = [side.groupby([key for key in keys if key in side])["prompt_sha256"].agg(frozenset)
            for side in (sides.target, sides.baseline)]  # fmt: skip
    both = pd.concat(sums, axis=1, join="inner", keys=["mine", "theirs"])
    same = [bool(mine & theirs) for mine, theirs in both.itertuples(index=False)]
    told = f"the same ids in {sum(same)} of {len(same)} pairs"
    if all(same):
        return Check(name, True, told)
    again = sum(
        side.get("repeat", pd.Series([0])).max() > 0 for side in (sides.target, sides.baseline)
    )
    if again and 2 * sum(same) >= len(same):
        return Check(name, True, f"{told}; in the others a disturbed turn was taken again, which "
                     "begins with other seeded tokens")  # fmt: skip
    return Check(name, False, f"{told}: they were not asked the same")


def _outputs(sides: Sides) -> Check:
    """Log-probabilities of the same prefixes, as the audits of the children told them."""
    name = "outputs agree"
    audits = [_distinct(some) for some in sides.audits]
    if not all(audits):
        return Check(name, None, "no log-probabilities were recorded")
    worst = max(distance(one, other) for one in audits[0] for other in audits[1])
    formats = {f for values in sides.values("weight_format") for f in values} if (
        sides.known("weight_format")) else {"float32"}  # fmt: skip
    allowed = max(TOLERANCE.get(f, OTHER_TOLERANCE) for f in formats)
    if not np.isfinite(worst):
        return Check(name, False, "they were asked for other prefixes")
    detail = f"largest difference of a log-probability {worst:.2g}, allowed {allowed:g}"
    return Check(name, bool(worst <= allowed), detail)


def _distinct(audits: Sequence[dict]) -> list[dict]:
    """The audits that tell log-probabilities, equal ones once: mostly those of every process."""
    told = {str((a["next_ids"], a["next_logprobs"])): a for a in audits if a["next_ids"]}
    return list(told.values())


def distance(one: dict, other: dict) -> float:
    """Largest difference of a token's log-probability that the two lists of likeliest ones show.

    A token that only one of them holds is in the other at most as likely as its last one. Infinite
    where they were asked for other prefixes.
    """
    if one.get("prefixes") != other.get("prefixes") or len(one["next_ids"]) != len(
        other["next_ids"]
    ):
        return float("inf")
    worst = 0.0
    for ids, logs, other_ids, other_logs in zip(
        one["next_ids"], one["next_logprobs"], other["next_ids"], other["next_logprobs"],
        strict=True,
    ):  # fmt: skip
        mine, theirs = (
            dict(zip(ids, logs, strict=True)),
            dict(zip(other_ids, other_logs, strict=True)),
        )
        for here, there in ((mine, theirs), (theirs, mine)):
            least = min(there.values())
            worst = max(worst, *(abs(log - there[i]) if i in there else log - least
                                 for i, log in here.items()))  # fmt: skip
    return worst


def _cache(sides: Sides) -> Check:
    name = "no answer from a cache"
    shares = [_repeated(audits) for audits in sides.audits]
    if not all(map(np.isfinite, shares)):
        return Check(name, None, "no prompt was repeated on purpose")
    detail = "a repeated prompt takes " + " and ".join(f"{s:.2f}" for s in shares) + (
        " of its first time (target, baseline)")  # fmt: skip
    return Check(name, bool(min(shares) >= CACHED), detail)


def _repeated(audits: Sequence[dict]) -> float:
    shares = [a["again_s"] / a["prompt_s"] for a in audits if a.get("again_s") and a["prompt_s"]]
    return float(np.median(shares)) if shares else np.nan


def _interleaved(sides: Sides) -> Check:
    """Judged on every turn that was taken: what is left out later must not change the design."""
    name = "turns interleaved"
    if not all("sequence" in turns for turns in sides.turns):
        return Check(name, None, "no column sequence")
    both = pd.concat([turns.assign(_side=side) for side, turns in enumerate(sides.turns)])
    apart = [_apart(rows) for _, rows in both.groupby(sides.unit)]
    apart = [found for found in apart if found is not None]
    if any(apart):
        told = f"one engine ran after the other in {sum(apart)} of {len(apart)} process runs"
        return Check(name, False, f"{told}: a drift of the machine would look like a difference")
    blocks = both.sort_values("sequence").groupby([*sides.unit, "block"])["_side"]
    firsts = blocks.first()[blocks.nunique() == 2]
    count, of = int((firsts == 0).sum()), len(firsts)
    told = f"the target came first in {count} of {of} blocks"
    if of and stats.binomtest(count, of).pvalue < LUCK:
        return Check(name, False, f"{told}: that is no random order")
    return Check(name, True, told)


def _apart(rows: pd.DataFrame) -> bool | None:
    """Whether all turns of one side came before all of the other; None with one turn of a side."""
    order = rows.sort_values("sequence")["_side"].to_numpy()
    if min((order == 0).sum(), (order == 1).sum()) < 2:
        return None
    return int(np.abs(np.diff(order)).sum()) == 1


def _others(sides: Sides) -> Check:
    name = "the other engines idle"
    if not sides.known("others_cpu_s"):
        return Check(name, None, "not recorded")
    most = pd.concat([sides.target["others_cpu_s"], sides.baseline["others_cpu_s"]]).max()
    return Check(name, bool(most <= OTHERS_S), f"at most {most:.3f} s of CPU time in a turn")


def _aa(aa: Ratio | None, metric: str) -> Check:
    name = "A/A pair"
    if aa is None or not aa.estimable:
        return Check(name, False, "no engine was measured twice in two process runs or more: "
                     "there is no noise floor")  # fmt: skip
    low, high = 1 / (1 + VOID), 1 + VOID
    detail = f"the same engine twice in {metric}: {aa.ratio:.3f} ({aa.low:.3f} to {aa.high:.3f})"
    return Check(name, bool(aa.low <= high and aa.high >= low), detail)


def failing(checks: tuple[Check, ...]) -> Iterator[Check]:
    """The checks that failed, and those without whose evidence there is no verdict."""
    for check in checks:
        if check.passed is False or (check.passed is None and check.name in NEEDED):
            yield check
