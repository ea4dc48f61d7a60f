"""The two sides of a comparison, and what one condition of it says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

PAIR = ("block", "prompt", "prompt_tokens", "batch_size")  # names a pair within a process run


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


def by_pair(sides: Sides, column: str) -> pd.DataFrame:
    """What both sides of a pair tell of `column`: a row a pair, sets in the columns `mine theirs`.

    `again`: whether a turn of the pair was taken a second time, which has seeded tokens of its own.
    """
    keys = [*sides.unit, *PAIR]
    told = []
    for name, side in (("mine", sides.target), ("theirs", sides.baseline)):
        again = side["repeat"] > 0 if "repeat" in side else pd.Series(False, side.index)
        by = side.assign(_again=again).groupby([key for key in keys if key in side])
        told.append(by.agg(**{name: (column, frozenset), f"{name}_again": ("_again", "any")}))
    both = pd.concat(told, axis=1, join="inner")
    return both.assign(again=both["mine_again"] | both["theirs_again"])
