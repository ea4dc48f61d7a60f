"""What must hold before two engines may be compared, each as data: held, failed or not recorded."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import scipy

from llmbench.pairs.agreement import outputs_agree
from llmbench.pairs.ratios import Ratio
from llmbench.pairs.served import builds, health, lengths, same, weights, windows
from llmbench.pairs.sides import PAIR, Check, Sides, by_pair
from llmbench.pairs.turns import whole
from llmbench.stats import cached

VOID = 0.03  # an A/A interval that misses 1 by more takes every verdict away
LUCK = 0.001  # an order as one-sided as this is no chance
PACE, PACE_LUCK = 0.03, 0.001  # change of a ratio within process runs that is no chance
OTHERS_S = 0.03  # CPU seconds of the other engines in a turn that the kernel's ticks can tell


# without their evidence, no verdict
NEEDED = ("same weights", "same prompts", "same threads", "same device", "same output length",
          "same context window", "outputs agree", "no answer from a cache",
          "turns interleaved", "built for this machine")  # fmt: skip


def checks_of(
    sides: Sides, logs: pd.DataFrame, aa: Ratio | None, metric: str, served_otherwise: str = ""
) -> tuple[Check, ...]:
    """Every check of one comparison, in the order in which a reader asks.

    `logs`: the blocks' log-ratios. `aa`: the A/A pair's; `served_otherwise`: why it is none.
    """
    return (
        weights(sides),
        _prompts(sides),
        same(sides, "served_threads", "same threads"),
        same(sides, "served_device", "same device"),
        lengths(sides),
        windows(sides),
        outputs_agree(sides),
        *whole(sides),
        _cache(sides),
        _interleaved(sides),
        _others(sides),
        _pace(logs, sides.unit),
        builds(sides),
        *health(sides),
        _aa(aa, metric, served_otherwise),
    )


def _prompts(sides: Sides) -> Check:
    """The same ids were given to both sides of a block; a disturbed turn's second has others."""
    name = "same prompts"
    if not sides.known("prompt_sha256"):
        return Check(name, None, "the prompts' ids were not recorded")
    both = by_pair(sides, "prompt_sha256")
    same = [bool(mine & theirs) for mine, theirs in zip(both["mine"], both["theirs"], strict=True)]
    told = f"the same ids in {sum(same)} of {len(same)} pairs"
    if all(same):
        return Check(name, True, told)
    if all(both.loc[~np.array(same), "again"]) and 2 * sum(same) >= len(same):
        return Check(name, True, f"{told}; in each of the others a disturbed turn was taken again, "
                     "which begins with other seeded tokens")  # fmt: skip
    return Check(name, False, f"{told}: they were not asked the same")


def _cache(sides: Sides) -> Check:
    name = "no answer from a cache"
    shares = [_repeated(audits) for audits in sides.audits]
    if not all(shares):
        return Check(name, None, "no prompt was repeated on purpose")
    detail = "a repeated prompt takes " + " and ".join(f"{np.median(s):.2f}" for s in shares) + (
        " of its first time (target, baseline)")  # fmt: skip
    return Check(name, not any(map(cached, shares)), detail)


def _repeated(audits: Sequence[dict]) -> list[float]:
    """The second time as a share of the first, of each child."""
    return [a["again_s"] / a["prompt_s"] for a in audits if a.get("again_s") and a.get("prompt_s")]


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
    keys = [*sides.unit, *(key for key in PAIR if key in both)]
    pairs = both.sort_values("sequence").groupby(keys)["_side"]
    firsts = pairs.first()[pairs.nunique() == 2]
    count, of = int((firsts == 0).sum()), len(firsts)
    told = f"the target came first in {count} of {of} pairs"
    if of and scipy.stats.binomtest(count, of).pvalue < LUCK:
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


def _pace(logs: pd.DataFrame, unit: Sequence[str]) -> Check:
    """Whether the ratio is the same at both ends of a process run: one engine alone may drift.

    The change over a process run, by a straight line through its blocks, with Student's interval
    over process runs; a machine that drifts changes both sides alike, and no ratio.
    """
    name = "ratio keeps over the blocks"
    runs = [run for _, run in logs.groupby(list(unit)) if len(run) > 2]
    changes = [np.polyfit(run["block"], run["log"], 1)[0] * np.ptp(run["block"]) for run in runs]
    if len(changes) < 2:
        return Check(name, None, "too few blocks in a process run")
    middle, error = np.mean(changes), np.std(changes, ddof=1) / len(changes) ** 0.5
    reach = scipy.stats.t.ppf(1 - PACE_LUCK / 2, len(changes) - 1) * error
    changed = abs(middle) >= PACE and abs(middle) > reach
    detail = f"it changes by {100 * np.expm1(middle):+.1f} % from the first block to the last"
    return Check(name, not changed, detail)


def _aa(aa: Ratio | None, metric: str, served_otherwise: str) -> Check:
    name = "A/A pair"
    if served_otherwise:
        return Check(name, False, served_otherwise)
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
