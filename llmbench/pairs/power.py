"""What a design can see, before it is run."""

import math
from functools import lru_cache

import numpy as np
import scipy

RUN_SD, REPEAT_SD = 0.008, 0.006 * math.sqrt(5)  # assumed, of an engine's log times
DRAWS, SEED = 20_000, 17


def side_sd(blocks: int) -> float:
    """Assumed standard deviation of an engine's mean log time over a process run's blocks.

    1 % with five blocks: what differs between process runs stays, what differs between repeats
    shrinks.
    """
    return math.hypot(RUN_SD, REPEAT_SD / math.sqrt(blocks))


def power(difference: float, process_runs: int, sd: float, confidence: float = 0.95) -> float:
    """Probability that the interval excludes 1 when the true ratio is 1 + `difference`.

    `sd`: standard deviation of process runs' mean log-ratios. Source: the noncentral t of the
    paired t test; Cohen, Statistical Power Analysis (1988), chapter 2.
    """
    bar = scipy.stats.t.ppf((1 + confidence) / 2, process_runs - 1)
    shift = math.log1p(difference) * math.sqrt(process_runs) / sd
    if shift > 30:  # beyond what the library computes; certain
        return 1.0
    return float(scipy.stats.nct.sf(bar, process_runs - 1, shift))


@lru_cache
def simulated(
    difference: float, process_runs: int, sd: float, confidence: float = 0.95, draws: int = DRAWS
) -> tuple[float, float]:
    """Shares of intervals that exclude 1, and of those also beyond the noise floor.

    Normal draws with the standard deviation `sd` (see `side_sd`) for a process run of target,
    baseline and twin, and Student's interval: the rule of a verdict, without any pipeline.
    """
    draw = np.random.default_rng(SEED)
    logs = sd * draw.standard_normal((3, draws, process_runs))
    ratio, twins = logs[0] + math.log1p(difference) - logs[1], logs[1] - logs[2]
    reach, reach_95 = (scipy.stats.t.ppf((1 + c) / 2, process_runs - 1) / math.sqrt(process_runs)
                       for c in (confidence, 0.95))  # fmt: skip
    middle, half = ratio.mean(axis=1), reach * ratio.std(axis=1, ddof=1)
    floor = np.maximum(np.expm1(reach_95 * twins.std(axis=1, ddof=1)),
                       np.abs(np.expm1(twins.mean(axis=1))))  # fmt: skip
    apart = np.abs(middle) > half
    return float(apart.mean()), float((apart & (np.abs(np.expm1(middle)) > floor)).mean())


def detectable(process_runs: int, blocks: int, wanted: float = 0.95, claims: int = 1) -> float:
    """Smallest true difference, as a fraction, of which `wanted` of all runs are sure.

    Sure: the interval, corrected for several claims, excludes 1, and the ratio lies beyond the
    noise floor. NaN for fewer than two process runs, which have no interval.
    """
    if process_runs < 2:
        return math.nan
    draws = max(2_000, DRAWS * 10 // max(10, process_runs))  # as exact, from fewer and longer rows
    level, sd = 1 - 0.05 / claims, side_sd(blocks)

    def missing(difference: float) -> float:
        return simulated(difference, process_runs, sd, level, draws)[1] - wanted

    top = 0.001
    while missing(top) < 0:
        top *= 2
    return float(scipy.optimize.brentq(missing, 1e-9, top, xtol=1e-5))
