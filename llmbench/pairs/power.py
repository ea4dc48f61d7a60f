"""What a design can see, before it is run."""

import math

from scipy import optimize, stats

ASSUMED_SD = 0.014  # of a process run's log-ratio: 1 % in each of two engines


def power(difference: float, process_runs: int, sd: float, confidence: float = 0.95) -> float:
    """Probability that the interval excludes 1 when the true ratio is 1 + `difference`.

    `sd`: standard deviation of process runs' mean log-ratios. Source: the noncentral t of the
    paired t test; Cohen, Statistical Power Analysis (1988), chapter 2.
    """
    bar = stats.t.ppf((1 + confidence) / 2, process_runs - 1)
    shift = math.log1p(difference) * math.sqrt(process_runs) / sd
    if shift > 30:  # beyond what the library computes; certain
        return 1.0
    return float(stats.nct.sf(bar, process_runs - 1, shift))


def detectable(
    process_runs: int, sd: float, power_wanted: float = 0.95, confidence: float = 0.95
) -> float:
    """Smallest true difference, as a fraction, that this many process runs see so often.

    NaN for fewer than two, which have no interval.
    """
    if process_runs < 2:
        return math.nan
    missing = lambda d: power(d, process_runs, sd, confidence) - power_wanted  # noqa: E731
    top = 0.001
    while missing(top) < 0:
        top *= 2
    return float(optimize.brentq(missing, 1e-9, top, xtol=1e-6))
