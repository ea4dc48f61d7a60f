"""Medians, exact intervals, percentiles with their resolvability, stability.

Works on any DataFrame with the named columns. The unit of statistics is the process run: repeats
inside one process are not independent, so they are first reduced to their median.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import pandas as pd
import scipy

from llmbench.errors import BadParams
from llmbench.units import significant

UNIT = ("run", "fingerprint", "process_run", "child")  # names one process, where they exist
LABELS = frozenset(
    {"preview", "unsteady", "beyond_context"}
)  # flags that say how sure a row is, or that it tells costs only; all others exclude it
UNSTABLE_IQR = 0.10  # torch.utils.benchmark warns at the same share of the median
CACHED, SURELY_CACHED = 0.5, 0.9  # shares of its first time in which a prompt betrays a cache
DRIFT = 0.01  # change over the window of a process run that counts as drift
DRIFT_REPEATS = 6  # fewer say nothing of a trend
STEADY_REPEATS = 10  # fewer say nothing of levels
LEVEL_PENALTY = 10.0  # times ln n, in variances: what a change of level must explain
DRIFT_CONFIDENCE = 0.99  # of very many groups, few may be excluded by chance


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; NaN at an end that the sample cannot bound."""

    value: float
    low: float
    high: float
    n: int
    confidence: float
    estimable: bool
    note: str = ""


# -- which rows may enter --------------------------------------------------------------------------


def claimable(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that may enter a claim: status `ok` and no flags but `LABELS`."""
    return frame[_may_enter(frame)]


def _may_enter(frame: pd.DataFrame) -> pd.Series:
    """Boolean a row; a frame without `status` and `flags` (not ours) is taken as it is."""
    keep = pd.Series(True, index=frame.index)
    if "status" in frame:
        keep &= (frame["status"] == "ok").to_numpy(bool)
    if "flags" in frame:
        codes, kinds = pd.factorize(frame["flags"], use_na_sentinel=False)
        keep &= np.array([LABELS.issuperset(flags) for flags in kinds], bool)[codes]
    return keep


# -- exact intervals of quantiles ------------------------------------------------------------------


@lru_cache(maxsize=4096)
def quantile_ranks(n: int, q: float, confidence: float) -> tuple[int, int]:
    """Ranks (from 1) of the order statistics that bound the q-quantile; 0 or n + 1: no such end.

    Equal tails; where the extreme order statistic is needed for one end, the other takes what is
    left of the error, so that an interval exists for every n >= `smallest_n`.
    Source: Hahn and Meeker, Statistical Intervals (1991), section 5.2.
    """
    below = scipy.stats.binom(n, q)  # how many of n observations lie below the quantile
    tail = (1 - confidence) / 2 * (1 + 1e-9)
    low, high = _highest_low(below, tail), _lowest_high(below, tail, n)
    if n < smallest_n(q, confidence):
        return low, high
    if high > n:
        low, high = _highest_low(below, 2 * tail - below.sf(n - 1)), n
    elif low < 1:
        low, high = 1, _lowest_high(below, 2 * tail - below.cdf(0), n)
    return low, high


def _highest_low(below: "scipy.stats.rv_discrete", error: float) -> int:
    """Largest rank l with P(quantile < x_l) = P(below <= l - 1) within `error`; 0: none."""
    rank = int(below.ppf(error))
    return rank if below.cdf(rank) > error else rank + 1


def _lowest_high(below: "scipy.stats.rv_discrete", error: float, n: int) -> int:
    """Smallest rank u with P(quantile > x_u) = P(below >= u) within `error`; n + 1: none."""
    return min(int(below.isf(error)) + 1, n + 1)


@lru_cache
def smallest_n(q: float, confidence: float = 0.95) -> int:
    """Fewest observations whose extremes bound the q-quantile with `confidence`."""
    n = 1
    while 1 - q**n - (1 - q) ** n < confidence:
        n += 1
    return n


def quantile_interval(values: Iterable[float], q: float, confidence: float = 0.95) -> Interval:
    """The q-quantile (linear between order statistics) with its exact, distribution-free interval.

    Raises: BadParams when a value is NaN.
    """
    ordered = np.sort(np.asarray(list(values), dtype=float))
    if np.isnan(ordered).any():
        raise BadParams("a quantile of NaN was asked for", how="drop the missing values first")
    n = len(ordered)
    needed = smallest_n(q, confidence)
    low, high = quantile_ranks(n, q, confidence) if n else (0, 1)
    bottom = float(ordered[low - 1]) if low >= 1 else math.nan
    top = float(ordered[high - 1]) if high <= n else math.nan
    note = "" if n >= needed else f"not estimable: n={n}, needs {needed}"
    value = float(np.quantile(ordered, q)) if n else math.nan
    return Interval(value, bottom, top, n, confidence, n >= needed, note)


def median_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """The median with its exact interval; at 95 % it needs six values."""
    return quantile_interval(values, 0.5, confidence)


def mean_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """The mean with Student's interval; it needs two values, which should be roughly normal."""
    known = np.asarray(list(values), float)
    n, mean = len(known), float(known.mean()) if len(known) else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n, confidence, False, f"not estimable: n={n}")
    reach = float(scipy.stats.t.ppf((1 + confidence) / 2, n - 1)) * known.std(ddof=1) / math.sqrt(n)
    return Interval(mean, mean - reach, mean + reach, n, confidence, True)


@lru_cache(maxsize=4096)
def early_stopping(p: float, over_limit: int, confidence: float = 0.99) -> int:
    """Queries needed so that the p-quantile surely keeps a limit that `over_limit` of them broke.

    Source: MLPerf inference rules, appendix "Early stopping criterion".
    """
    broken = over_limit + 1  # queries until the next breach, were the quantile right at the limit
    return int(scipy.stats.nbinom.ppf(confidence, broken, 1 - p)) + broken


def tail_bound(values: Iterable[float], p: float, confidence: float = 0.99) -> Interval:
    """The least value that at most 1 - p of all repeats surely exceed; NaN while too few are known.

    As many of the largest values may lie beyond it as `early_stopping` allows.
    Source: MLPerf inference rules, appendix "Early stopping criterion".
    """
    ordered = np.sort(np.asarray(list(values), float))
    n, needed = len(ordered), early_stopping(p, 0, confidence)
    if n < needed:
        note = f"not estimable: n={n}, needs {needed}"
        return Interval(math.nan, math.nan, math.nan, n, confidence, False, note)
    beyond = 0
    while early_stopping(p, beyond + 1, confidence) <= n:
        beyond += 1
    bound = float(ordered[n - 1 - beyond])
    return Interval(bound, math.nan, bound, n, confidence, True)


def coefficient_of_variation(values: Iterable[float]) -> float:
    """Standard deviation (n - 1) as a share of the mean; NaN for fewer than two values."""
    values = np.asarray(list(values), dtype=float)
    return float(values.std(ddof=1) / values.mean()) if len(values) > 1 else math.nan


# -- frames ----------------------------------------------------------------------------------------


def process_run_medians(frame: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """Columns `by`, the process run's, `metric` (median of its repeats) and `repeats`.

    Takes every row in which `metric` is known: filter with `claimable` first.
    """
    keys = [*by, *(name for name in UNIT if name in frame and name not in by)]
    if not keys:
        raise BadParams("no column names a process run or a group", how="give `by`")
    groups = frame[frame[metric].notna()].groupby(keys, dropna=False, sort=False)[metric]
    return groups.agg(["median", "size"]).reset_index().set_axis([*keys, metric, "repeats"], axis=1)


def summarise(frame: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """A row a group of `by`: `metric median low high estimable process_runs repeats cv`.

    Statistics are of process-run medians over claimable rows; the interval is exact, 95 %. A group
    without such rows stays, with NaN and counts of 0.
    """
    by = list(by)
    group = frame.groupby(by, dropna=False, sort=False).ngroup().to_numpy(int)
    table = frame[by].iloc[np.unique(group, return_index=True)[1]].reset_index(drop=True)
    used = [name for name in UNIT if name in frame]
    rows = frame[[metric, *used]].assign(_group=group)[_may_enter(frame)]
    if used:
        runs = process_run_medians(rows, metric, ["_group"])
    else:
        runs = rows[rows[metric].notna()].assign(repeats=1)
    table["metric"] = metric
    table = table.join(_medians(runs, metric, len(table)))
    return table.sort_values(by, ignore_index=True) if len(by) else table


def _medians(runs: pd.DataFrame, metric: str, groups: int) -> pd.DataFrame:
    """Median, interval and counts of each of `groups` groups, from their process-run medians."""
    runs = runs.sort_values(["_group", metric])
    values, group = runs[metric].to_numpy(float), runs["_group"].to_numpy(int)
    n = np.bincount(group, minlength=groups)
    first = n.cumsum() - n
    ranks = {int(size): quantile_ranks(int(size), 0.5, 0.95) for size in np.unique(n) if size}
    ends = np.array([ranks.get(int(size), (0, 1)) for size in n], int).reshape(-1, 2)
    padded = np.append(values, np.nan)

    def ranked(rank: np.ndarray) -> np.ndarray:
        return padded[np.where((rank >= 1) & (rank <= n), first + rank - 1, len(values))]

    median = np.where(n > 0, (ranked((n + 1) // 2) + ranked(n // 2 + 1)) / 2, np.nan)
    shares = runs.groupby("_group")[metric].agg(["mean", "std"]).reindex(range(groups))
    return pd.DataFrame({
        "median": median, "low": ranked(ends[:, 0]), "high": ranked(ends[:, 1]),
        "estimable": n >= smallest_n(0.5, 0.95), "process_runs": n,
        "repeats": np.bincount(group, runs["repeats"], minlength=groups).astype(int),
        "cv": (shares["std"] / shares["mean"]).to_numpy(),
    })  # fmt: skip


# -- answers from a cache --------------------------------------------------------------------------


def cached(shares: Sequence[float]) -> bool:
    """Whether prompts given again took so little of their first time, one value a process.

    Less than half in the middle, or surely less than nine tenths: the upper end of the median's
    interval. Source of the tenth: MLPerf Inference, compliance test 04.
    """
    found = median_interval(shares)
    return bool(found.value < CACHED or (found.estimable and found.high < SURELY_CACHED))


# -- stability -------------------------------------------------------------------------------------


def trend(order: Sequence[float], values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Relative change over the window: Theil-Sen slope x window / median, with its interval."""
    order, values = np.asarray(order, float), np.asarray(values, float)
    n = len(values)
    if n < DRIFT_REPEATS or np.ptp(order) == 0:
        nothing = f"not estimable: n={n}, needs {DRIFT_REPEATS}"
        return Interval(math.nan, math.nan, math.nan, n, confidence, False, nothing)
    slope, _, low, high = scipy.stats.theilslopes(values, order, confidence)
    share = np.ptp(order) / np.median(values)
    return Interval(slope * share, low * share, high * share, n, confidence, True)


def may_drift(values: np.ndarray) -> bool:
    """Whether so many pairs of `values`, in their order, go one way that `trend` is worth its time.

    With n values Kendall's S has the variance n (n - 1) (2 n + 5) / 18; an interval of 99 %
    excludes 0 only beyond 2.58 of its roots.
    """
    n = len(values)
    if n < DRIFT_REPEATS:
        return False
    score = np.triu(np.sign(values[None, :] - values[:, None])).sum()
    return bool(abs(score) > 2.2 * np.sqrt(n * (n - 1) * (2 * n + 5) / 18))


def drifts(order: Sequence[float], values: Sequence[float]) -> bool:
    """Whether the values drift: by at least 1 % over the window, and surely not by nothing."""
    found = trend(order, values, DRIFT_CONFIDENCE)
    return found.estimable and abs(found.value) >= DRIFT and found.low * found.high > 0


def levels(values: Sequence[float]) -> list[float]:
    """The medians of the stretches between which the logarithms of `values` change their level.

    PELT with squared error on the values in their order; the noise is taken from neighbours'
    differences, stretches have at least three values.
    Source: Killick, Fearnhead, Eckley, JASA 107 (2012), 1590-1598; Barrett et al., OOPSLA 2017.
    """
    import ruptures

    logs = np.log(np.asarray(values, float))
    neighbours = np.median(np.abs(np.diff(logs))) if len(logs) > 1 else 0.0
    noise = max(neighbours / (NormalDist().inv_cdf(0.75) * math.sqrt(2)), DRIFT / 10)
    search = ruptures.KernelCPD(kernel="linear", min_size=3).fit(logs[:, None] / noise)
    ends = search.predict(pen=LEVEL_PENALTY * math.log(len(logs)))
    return [float(np.exp(np.median(part))) for part in np.split(logs, ends[:-1])]


def steady(values: Sequence[float]) -> bool:
    """Whether the values, in their order, keep one level within 1 %; too few are taken as steady.

    The stricter form of Barrett's rule: the last level must begin with the first value that counts.
    """
    if len(values) < STEADY_REPEATS:
        return True
    found = levels(values)
    return max(found) / min(found) - 1 < DRIFT


def stability(frame: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """A row a group of `by`: `metric lag1 drift iqr repeats warnings`, of claimable rows.

    `lag1`: autocorrelation of neighbouring repeats within process runs; `drift`: largest relative
    change within one; `iqr`: interquartile range / median; `warnings`: sentences.
    """
    by = list(by)
    used = [*dict.fromkeys([*by, *UNIT, "sequence", metric])]
    rows = claimable(frame)[[name for name in used if name in frame]]
    rows = rows[rows[metric].notna()]
    rows = rows.sort_values("sequence") if "sequence" in rows else rows
    found = []
    for key, group in rows.groupby(by, dropna=False, sort=True):
        facts = _stability(group, metric)
        found.append((*key, metric, *facts.values(), _warnings(metric, **facts)))
    return pd.DataFrame(
        found, columns=[*by, "metric", "lag1", "drift", "iqr", "repeats", "warnings"]
    )


def _stability(group: pd.DataFrame, metric: str) -> dict[str, float]:
    unit = [name for name in UNIT if name in group]
    values = group.groupby(unit, dropna=False)[metric] if unit else [("", group[metric])]
    series = [run.to_numpy(float) for _, run in values]
    centred = [values - values.mean() for values in series]
    before = np.concatenate([values[:-1] for values in centred])
    after = np.concatenate([values[1:] for values in centred])
    total = sum(float(values @ values) for values in centred)
    judged = any(len(values) >= DRIFT_REPEATS for values in series)
    drift = [trend(range(len(v)), v, DRIFT_CONFIDENCE) for v in series if may_drift(v)]
    sure = [t.value for t in drift if t.low * t.high > 0]
    lower, middle, upper = np.quantile(group[metric], [0.25, 0.5, 0.75])
    return {
        "lag1": float(before @ after) / total if len(before) > 2 and total > 0 else math.nan,
        "drift": max(sure, key=abs, default=0.0 if judged else math.nan),
        "iqr": float((upper - lower) / middle),
        "repeats": len(group),
    }


def _warnings(metric: str, lag1: float, drift: float, iqr: float, repeats: int) -> tuple[str, ...]:
    found = []
    if iqr >= UNSTABLE_IQR:
        found.append(f"{metric}: the interquartile range is {_percent(iqr)} of the median; "
                     "close other programs or take more process runs")  # fmt: skip
    if abs(drift) >= DRIFT:
        found.append(f"{metric}: it changes by {_percent(drift)} over a process run; "
                     "warm up longer or let the machine cool")  # fmt: skip
    if lag1 > 1.96 / math.sqrt(repeats):
        found.append(f"{metric}: neighbouring repeats resemble each other (lag-1 correlation "
                     f"{lag1:.2f} over {repeats}); only process runs are independent")  # fmt: skip
    return tuple(found)


def _percent(share: float) -> str:
    return f"{significant(100 * share, 2)} %"
