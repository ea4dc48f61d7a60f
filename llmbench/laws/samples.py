"""What a law is fitted to: the process-run medians of one series at each size, or why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from llmbench.errors import BadParams
from llmbench.stats import claimable, process_run_medians
from llmbench.units import seconds, significant

MIN_SIZES, MIN_RANGE = 8, 8.0  # fewer sizes or a narrower range are refused
MIN_RUNS = 3  # process runs a size, for the bootstrap
ENOUGH_SIZES = 19
SERIES = (
    "run",
    "fingerprint",
    "study",
    "model",
    "model_sha256",
    "engine",
    "batch_size",
    "prompt",
    "prompt_tokens",
    "context_len",
    "output_tokens",
    "device",
    "threads",
    "seed",
    "options",
    "weights",
)  # asked
SERVED = ("impl", "attention_impl", "weight_format")
SAME_AXIS = {"prompt_tokens": "context_len", "context_len": "prompt_tokens"}


@dataclass(frozen=True)
class Sample:
    """What is fitted: the process-run medians of y at each size of x."""

    x: str
    y: str
    n: np.ndarray  # (m,) distinct sizes, ascending
    units: tuple[np.ndarray, ...]  # m arrays: the process-run medians at each size

    @cached_property
    def t(self) -> np.ndarray:
        """(m,) median cost at each size."""
        return np.array([np.median(values) for values in self.units])

    def show(self, value: float) -> str:
        """A cost with its unit, where the column's name tells one."""
        return seconds(value) if self.y.endswith("_s") else significant(value)


def one_series(frame: pd.DataFrame, x: str, y: str, group: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one series. Raises: BadParams."""
    absent = [c for c in (x, y, *group) if c not in frame]
    if absent:
        raise BadParams(f"scaling: no column {absent[0]!r}", how=f"columns: {', '.join(frame)}")
    for column, value in group.items():
        frame = frame[frame[column] == value]
    mixed = [c for c in SERIES if c in frame and c not in (x, SAME_AXIS.get(x))
             and frame[c].nunique(dropna=False) > 1]  # fmt: skip
    if mixed:
        raise BadParams(
            f"scaling: the rows mix several {' and '.join(mixed)}",
            why="one law describes one series",
            how="choose with group={...}, or take every series with laws_by_group",
        )
    return frame


def check_values(units: pd.DataFrame, x: str, y: str) -> None:
    """Raises: BadParams for sizes below 1 or costs that are not above 0."""
    if not (units[x] >= 1).all():
        raise BadParams(f"scaling: {x} has sizes below 1", how="give sizes in tokens or rows")
    if not (np.isfinite(units[y]) & (units[y] > 0)).all():
        raise BadParams(f"scaling: {y} has values that are not above 0", how="run llmbench check")


def sample_of(units: pd.DataFrame, x: str, y: str) -> Sample:
    """The sample of rows: medians of process runs where there is such a column, else the rows."""
    medians = process_run_medians(units, y, [x]) if "process_run" in units else units
    by_size = [(n, values.to_numpy(float)) for n, values in medians.groupby(x, sort=True)[y]]
    sizes = np.array([n for n, _ in by_size], float)
    return Sample(x, y, sizes, tuple(values for _, values in by_size))


def censored_sizes(rows: pd.DataFrame, x: str) -> tuple[tuple[float, str, int], ...]:
    """Sizes with rows that may not enter: (size, status or flags, rows)."""
    out = rows.loc[rows.index.difference(claimable(rows).index)]
    if out.empty:
        return ()
    why = out["status"] if "status" in out else pd.Series("ok", index=out.index)
    if "flags" in out:
        why = why.where(why != "ok", out["flags"].map(", ".join))
    counts = out.groupby([out[x], why.rename("why")]).size()
    return tuple((float(n), str(text), int(count)) for (n, text), count in counts.items())


def refusal_of(units: pd.DataFrame, sample: Sample) -> str:
    """Why no law may be looked for; empty when one may."""
    m = len(sample.n)
    if m < MIN_SIZES:
        return f"{m} sizes of {sample.x}; a law needs {MIN_SIZES}, better {ENOUGH_SIZES}"
    if sample.n[-1] < MIN_RANGE * sample.n[0]:
        return (f"{sample.x} spans a factor of {sample.n[-1] / sample.n[0]:.3g}; "
                f"a law needs {MIN_RANGE:.0f}")  # fmt: skip
    for column in SERVED:
        if column in units and units[column].nunique() > 1:
            names = ", ".join(sorted(units[column].dropna().astype(str).unique()))
            return f"the sizes were served by several {column}: {names}; measure with one"
    return ""


def cautions_of(
    good: pd.DataFrame, y: str, sample: Sample, censored: Sequence[tuple[float, str, int]]
) -> list[str]:
    """Sentences that belong beside any answer."""
    found = []
    if censored:
        listed = ", ".join(f"{n:,.0f} ({why}, {_count(rows)})" for n, why, rows in censored)
        found.append(f"not in the fit: {sample.x} {listed}")
    if missing := int(good[y].isna().sum()):
        found.append(f"{_count(missing)} without {y} are not in the fit")
    if len(beyond := _beyond(good, sample.x)):
        found.append(f"{sample.x} from {min(beyond):,.0f} on is beyond the trained context: cost "
                     "only")  # fmt: skip
    if len(sample.n) and np.all(np.log2(sample.n) % 1 == 0):
        found.append(f"every {sample.x} is a power of two: other lengths may be slower")
    return found


def _beyond(good: pd.DataFrame, x: str) -> list[float]:
    """The sizes of rows that are longer than their model was trained for."""
    flags = good["flags"] if "flags" in good else pd.Series([()] * len(good), good.index)
    return [size for size, names in zip(good[x], flags, strict=True) if "beyond_context" in names]


def _count(rows: int) -> str:
    return f"{rows:,} row{'s' * (rows != 1)}"
