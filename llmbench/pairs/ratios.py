"""Paired ratios: from blocks to process runs to an interval, beside a bootstrap and a noise floor.

All differences are of logarithms, so that a ratio and its inverse are equally far from 1.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy

CONFIDENCE = 0.95
RESAMPLES, SEED = 9_999, 17
MARGIN = 0.02  # two engines within so much of each other count as equal


@dataclass(frozen=True)
class Ratio:
    """A ratio with its interval; the unit is the process run."""

    ratio: float
    low: float  # NaN where there is only one process run
    high: float
    bootstrap_low: float  # percentile bootstrap over process runs, then blocks: a check
    bootstrap_high: float
    process_runs: int
    blocks: int
    cv: float  # of the ratios of single blocks
    log_sd: float  # of the process runs' mean log-ratios

    @property
    def estimable(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low)

    @property
    def noise(self) -> float:
        """Of an A/A pair, the noise floor: half the interval's width, or more where it misses 1."""
        return max((self.high - self.low) / 2, abs(self.ratio - 1))


def is_known(metric: str) -> bool:
    """Whether the name of `metric` tells if more or less of it is better."""
    return metric.endswith(("_s", "_bytes", "_j"))


def is_rate(metric: str) -> bool:
    """Whether more of `metric` is better: rates end in `_per_s`, all else are costs."""
    return metric.endswith("_per_s")


def block_logs(
    target: pd.DataFrame, baseline: pd.DataFrame, metric: str, unit: Sequence[str]
) -> pd.DataFrame:
    """Columns `unit` and `log`: ln(target / baseline) of each block, above 0 where the target wins.

    Of several prompts in a block the mean of the log-ratios; repeats of one prompt are averaged as
    logarithms first. Only what both sides have enters.
    """
    cell = [n for n in ("prompt", "prompt_tokens") if n in target and n in baseline]
    keys = [*unit, "block", *cell]
    sides = [side.assign(log=np.log(side[metric].to_numpy(float))).groupby(keys)["log"].mean()
             for side in (target, baseline)]  # fmt: skip
    difference = (sides[0] - sides[1]).dropna() * (1 if is_rate(metric) else -1)
    blocks = difference.groupby([*unit, "block"]).mean()
    return blocks.rename("log").reset_index()


def ratio_of(logs: pd.DataFrame, unit: Sequence[str]) -> Ratio:
    """The ratio of `block_logs`: Student's interval over the process runs' means."""
    groups = [rows["log"].to_numpy(float) for _, rows in logs.groupby(list(unit), sort=True)]
    means = np.array([group.mean() for group in groups])
    n, middle = len(means), float(means.mean())
    spread = float(means.std(ddof=1)) if n > 1 else math.nan
    student = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) if n > 1 else math.nan
    reach = float(student) * spread / math.sqrt(n)
    low, high = bootstrap(groups)
    ratios = np.exp(logs["log"].to_numpy(float))
    cv = float(ratios.std(ddof=1) / ratios.mean()) if len(ratios) > 1 else math.nan
    return Ratio(*map(math.exp, (middle, middle - reach, middle + reach)), low, high, n, len(logs),
                 cv, spread)  # fmt: skip


def bootstrap(groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """Percentile interval of the ratio: process runs are drawn again, then blocks within each.

    Source: Kalibera and Jones, ISMM 2013, section 9; NaN for a single process run.
    """
    if len(groups) < 2:
        return math.nan, math.nan
    random = np.random.default_rng(SEED)
    sizes = np.array([len(group) for group in groups])
    padded = np.zeros((len(groups), sizes.max()))
    for row, group in enumerate(groups):
        padded[row, : len(group)] = group
    runs = random.integers(0, len(groups), (RESAMPLES, len(groups)))
    total = np.zeros(runs.shape)
    for place in range(sizes.max()):  # a draw a block; the runs have about equally many
        drawn = (random.random(runs.shape) * sizes[runs]).astype(int)
        total += np.where(place < sizes[runs], padded[runs, drawn], 0.0)
    means = (total / sizes[runs]).mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return math.exp(low), math.exp(high)


def p_value(found: Ratio, bar: float) -> float:
    """Two-sided p of the true ratio being `bar`; 1 where there is no interval."""
    if not found.estimable:
        return 1.0
    distance = abs(math.log(found.ratio) - math.log(bar))
    error = found.log_sd / math.sqrt(found.process_runs)
    if error == 0:
        return 1.0 if distance == 0 else 0.0
    return float(2 * scipy.stats.t.sf(distance / error, found.process_runs - 1))


def holm(p_values: Iterable[float]) -> list[float]:
    """Adjusted p-values. Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70."""
    p = np.asarray(list(p_values), float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted.tolist()


def equivalent(found: Ratio, margin: float = MARGIN) -> bool | None:
    """Whether both one-sided tests say that the ratio lies within the margin of 1 (TOST, 5 %).

    None without an interval. Source: Schuirmann, J. Pharmacokinetics Biopharm. 15 (1987), 657-680.
    """
    if not found.estimable:
        return None
    reach = scipy.stats.t.ppf(0.95, found.process_runs - 1) * found.log_sd / found.process_runs**0.5
    middle, edge = math.log(found.ratio), math.log1p(margin)
    return bool(-edge < middle - reach and middle + reach < edge)
