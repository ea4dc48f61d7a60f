"""Does an advantage grow with the context: how the ratio of a comparison changes with length."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from llmbench.findings.comparisons import Told
from llmbench.findings.numbers import EN, METRICS, count, fixed
from llmbench.pairs import Claim
from llmbench.pairs.ratios import holm, p_value, ratio_of

ALPHA = 0.05
COLUMNS = ["Target", "Baseline", "Metric", "Model", "Lengths (tokens)", "Ratio at the shortest",
           "Ratio at the longest", "Per doubling", "95 % interval", "Process runs", "It",
           "Label"]  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """How one ratio changes with the length of the prompt; NaN where no slope is estimable."""

    run: str
    target: str
    baseline: str
    metric: str
    model: str
    lengths: tuple[int, ...]  # of the comparable claims, in tokens
    ratios: tuple[float, ...]  # at these lengths
    lows: tuple[float, ...]  # their 95 % intervals
    highs: tuple[float, ...]
    per_doubling: float  # what a doubling of the length multiplies the ratio by
    low: float  # 95 %, Student's over process runs
    high: float
    p: float  # of no change at all; after Holm over all that are told together
    process_runs: int  # that have every length
    left_out: tuple[int, ...]  # lengths that were asked, and at which no ratio may be told
    preview: bool

    @property
    def word(self) -> str:
        """'grows', 'shrinks', 'does not surely change', or that it cannot be said."""
        if not math.isfinite(self.low):
            return "cannot be said"
        if self.p >= ALPHA:
            return "does not surely change"
        return "grows" if self.per_doubling > 1 else "shrinks"

    @property
    def sentence(self) -> str:
        """The word with its numbers."""
        preview = "Preview, not a claim: " if self.preview else ""
        label = METRICS[self.metric].label.lower()
        who = f"{self.target} against {self.baseline} in {label} on {self.model}"
        out = ", ".join(f"{length:,}" for length in self.left_out)
        out = f"; left out, since not comparable: {out} tokens" if out else ""
        if not math.isfinite(self.low):
            return (f"{preview}{who}: whether the ratio grows with the prompt cannot be said, "
                    f"{self._why}{out}.")  # fmt: skip
        first, last = (fixed(self.ratios[end], 3) for end in (0, -1))
        return (
            f"{preview}{who}: the ratio is {first} at {self.lengths[0]:,} tokens and {last} at "
            f"{self.lengths[-1]:,}; each doubling of the prompt multiplies it by "
            f"{fixed(self.per_doubling, 3)} (95 % interval {self.interval}, "
            f"{count(self.process_runs, 'process run')}, {len(self.lengths)} lengths): "
            f"it {self.word} with the prompt{out}."
        )

    @property
    def interval(self) -> str:
        """'1.020-1.041', or a dash."""
        known = math.isfinite(self.low)
        return f"{fixed(self.low, 3)}{EN}{fixed(self.high, 3)}" if known else EN

    @property
    def _why(self) -> str:
        if len(self.lengths) < 2:
            return f"{count(len(self.lengths), 'length')} with a ratio that may be told"
        return f"{count(self.process_runs, 'process run')} with all lengths; an interval needs two"


def growth(told: Iterable[Told]) -> list[Growth]:
    """How each ratio that was asked at several lengths changes with them, corrected together.

    From claims whose checks hold. Within each process run a straight line through the mean
    log-ratios over log2(length); Student's interval of its slope over process runs.
    """
    found = [_growth(one, group, claims) for one in told for group, claims in _groups(one)]
    adjusted = holm(one.p for one in found)
    return [replace(one, p=p) for one, p in zip(found, adjusted, strict=True)]


def _groups(one: Told) -> Iterator[tuple[dict[str, Any], list[Claim]]]:
    """The claims that differ in nothing but the length, from the shortest; one alone is none."""
    groups: dict[tuple, list[Claim]] = {}
    for claim in one.comparison.claims if one.comparison else ():
        about = dict(claim.group)
        if about.pop("prompt_tokens", None) is not None:
            groups.setdefault(tuple(about.items()), []).append(claim)
    for group, claims in groups.items():
        if len(claims) > 1:
            yield dict(group), sorted(claims, key=_length)


def _length(claim: Claim) -> int:
    return dict(claim.group)["prompt_tokens"]


def _growth(one: Told, group: dict[str, Any], claims: Sequence[Claim]) -> Growth:
    usable = [claim for claim in claims if claim.verdict is not None and claim.runs]
    lengths = [_length(claim) for claim in usable]
    runs = {_length(claim): pd.Series(dict(claim.runs)) for claim in usable}
    logs = pd.DataFrame(runs).dropna()
    known, slope, p = len(lengths) > 1 and len(logs) > 1, None, 1.0
    if known:
        slopes = np.polyfit(np.log2(lengths), logs.to_numpy().T, 1)[0]
        slope = ratio_of(pd.DataFrame({"run": logs.index, "log": slopes}), ["run"])
        p = p_value(slope, 1.0)
    change = (slope.ratio, slope.low, slope.high) if slope else (math.nan,) * 3
    return Growth(
        group.get("run", ""), one.target, one.baseline, one.metric, claims[0].model,
        tuple(lengths), *(tuple(getattr(c, name) for c in usable)
                          for name in ("ratio", "low", "high")),
        *change, p, len(logs), tuple(_length(c) for c in claims if c not in usable),
        any(claim.preview for claim in usable),
    )  # fmt: skip


def growth_table(told: Iterable[Told]) -> pd.DataFrame:
    """A row a ratio that was asked at several lengths, `COLUMNS`."""
    rows = []
    for one in growth(told):
        ends = [fixed(r, 3) for r in (*one.ratios[:1], *one.ratios[-1:])] or ["", ""]
        rows.append((one.target, one.baseline, METRICS[one.metric].label, one.model,
                     ", ".join(f"{n:,}" for n in one.lengths), *ends,
                     fixed(one.per_doubling, 3), one.interval, one.process_runs, one.word,
                     "preview" if one.preview else ""))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def growth_sentences(told: Iterable[Told]) -> list[str]:
    """A sentence a ratio that was asked at several lengths."""
    return [one.sentence for one in growth(told)]
