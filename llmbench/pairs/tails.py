"""Tails of both sides: no estimate but a limit that is surely kept, or how many runs it needs."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from llmbench import stats
from llmbench.pairs.ratios import is_rate
from llmbench.units import seconds, significant

QUANTILES = (0.90, 0.95, 0.99)


class Tail(NamedTuple):
    """In `quantile` of all process runs of `name` no repeat is worse than `limit`, 99 % sure."""

    name: str
    metric: str
    quantile: float
    limit: float  # in the metric's unit; NaN with fewer process runs than `needed`
    process_runs: int
    needed: int

    @property
    def told(self) -> str:
        """The limit, or how many process runs it needs."""
        if math.isnan(self.limit):
            return f"needs {self.needed} process runs, has {self.process_runs}"
        if is_rate(self.metric):
            return f"at least {significant(self.limit, 4)}"
        timed = self.metric.endswith("_s")
        return f"at most {seconds(self.limit) if timed else significant(self.limit, 4)}"


def tails_of(
    sides: Mapping[str, pd.DataFrame], metric: str, unit: Sequence[str]
) -> tuple[Tail, ...]:
    """The tails of each side; of a rate the low end is the bad one.

    Repeats of one process resemble each other, so each process run counts once, with its worst.
    """
    found = []
    for name, rows in sides.items():
        costs = 1 / rows[metric] if is_rate(metric) else rows[metric]
        worst = costs.groupby([rows[column] for column in unit]).max()
        for quantile in QUANTILES:
            bound = stats.tail_bound(worst, quantile)
            limit = 1 / bound.value if is_rate(metric) else bound.value
            needed = stats.early_stopping(quantile, 0)
            found.append(Tail(name, metric, quantile, limit, bound.n, needed))
    return tuple(found)
