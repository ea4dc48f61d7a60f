"""What must hold before two engines may be compared, each as data: held, failed or not recorded."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from llmbench.pairs.agreement import outputs_agree
from llmbench.pairs.ratios import Ratio
from llmbench.pairs.sides import Check, Sides, by_pair
from llmbench.pairs.turns import whole
from llmbench.stats import cached

VOID = 0.03  # an A/A interval that misses 1 by more takes every verdict away
LUCK = 0.001  # an order as one-sided as this is no chance
PACE, PACE_LUCK = 0.03, 0.001  # change of a ratio within process runs that is no chance
OTHERS_S = 0.03  # CPU seconds of the other engines in a turn that the kernel's ticks can tell


FEATURES = {"avx2": "AVX2", "avx512f": "AVX512", "avx512_vnni": "AVX512_VNNI"}  # /proc, ggml
BUILT_WITH = re.compile(r"(\w+)\s*=\s*([01])")  # as ggml lists its features

NEEDED = ("same weights", "same prompts", "outputs agree", "no answer from a cache",
          "turns interleaved")  # without their evidence, no verdict  # fmt: skip


def checks_of(
    sides: Sides, logs: pd.DataFrame, aa: Ratio | None, metric: str, served_otherwise: str = ""
) -> tuple[Check, ...]:
    """Every check of one comparison, in the order in which a reader asks.

    `logs`: the blocks' log-ratios. `aa`: the A/A pair's; `served_otherwise`: why it is none.
    """
    return (
        _weights(sides),
        _prompts(sides),
        _same(sides, "served_threads", "same threads"),
        _same(sides, "served_device", "same device"),
        _same(sides, "output_tokens", "same output length"),
        _same(sides, "window", "same context window"),
        outputs_agree(sides),
        *whole(sides),
        _cache(sides),
        _interleaved(sides),
        _others(sides),
        _pace(logs, sides.unit),
        *_health(sides),
        _aa(aa, metric, served_otherwise),
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
    reach = stats.t.ppf(1 - PACE_LUCK / 2, len(changes) - 1) * error
    changed = abs(middle) >= PACE and abs(middle) > reach
    detail = f"it changes by {100 * np.expm1(middle):+.1f} % from the first block to the last"
    return Check(name, not changed, detail)


def _health(sides: Sides) -> Iterator[Check]:
    """Whether native engines were built for this processor; nothing where no engine tells."""
    name, lacking, told = "built for this machine", {}, False
    for side in (sides.target, sides.baseline):
        builds = side["build"].dropna() if "build" in side and "isa" in side else ()
        for place, build in builds.items() if len(builds) else ():
            told = True
            have = {word for word, on in BUILT_WITH.findall(build) if on == "1"}
            asked = {FEATURES[feature] for feature in side.at[place, "isa"] if feature in FEATURES}
            if asked - have:
                lacking[_who(side, place)] = ", ".join(sorted(asked - have))
    if told:
        detail = "; ".join(f"{who} without {what}, which this machine has"
                           for who, what in lacking.items())  # fmt: skip
        yield Check(name, not lacking, detail or "with all that its processor offers")


def _who(side: pd.DataFrame, place: Any) -> str:
    return str(side.at[place, "engine"]) if "engine" in side else "one side"


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
