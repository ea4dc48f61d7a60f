"""What a comparison says: claims with ratio, interval, noise floor, checks, and their verdict."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from llmbench.pairs.checks import failing
from llmbench.pairs.ratios import holm
from llmbench.pairs.sides import Check
from llmbench.pairs.tails import Tail
from llmbench.params import ONCE
from llmbench.units import significant

ALPHA = 0.05
ENOUGH_BLOCKS = 10  # fewer are a preview
ENOUGH_LOADS = 5  # process runs, of what each tells once
STEADY_CV = 0.05  # a success needs ratios of single blocks that vary by less
SAID = ("preview", "sentence", "why", "steady", "met", "variance")


@dataclass(frozen=True)
class Claim:
    """One comparison that may not be pooled with another; NaN where nothing could be paired."""

    group: tuple[tuple[str, Any], ...]  # what it is about
    target: str
    baseline: str
    metric: str
    at_least: float
    ratio: float
    low: float
    high: float
    bootstrap: tuple[float, float]
    noise_floor: float | None
    p: float  # two-sided, against `at_least`; after Holm over all claims judged together
    equivalent: bool | None  # within 2 % of each other, by two one-sided tests
    process_runs: int
    blocks: int
    left_out: int  # blocks asked of both sides that did not enter
    cv: float  # of the blocks' ratios
    cv_sides: tuple[float, float]  # the plain ones, of target and baseline
    formats: tuple[str, str]  # in which the weights are held, of target and baseline
    checks: tuple[Check, ...]
    tails: tuple[Tail, ...]  # what surely few process runs exceed, of both sides
    prompts: tuple[int, int] | None = None  # tokens of the shortest and the longest
    runs: tuple[tuple[str, float], ...] = ()  # the natural log of each process run's ratio
    kinship: str = ""  # in which way weights of two formats are the same
    beside: str = ""  # what a reader would want to see beside it and was not measured
    together: int = 1  # how many claims were corrected together
    verdict: str | None = None  # yes, no, inconclusive; None: not comparable

    @property
    def model(self) -> str:
        """The model it is about, and the format of its weights where one was asked of all sides."""
        about = dict(self.group)
        return ", ".join(filter(None, (about.get("model"), about.get("weights"))))

    @property
    def preview(self) -> bool:
        """Too few blocks for a claim."""
        return self.blocks < (ENOUGH_LOADS if self.once else ENOUGH_BLOCKS)

    @property
    def once(self) -> bool:
        """Whether each process run tells one value, whatever it was asked."""
        return self.metric in ONCE

    @property
    def steady(self) -> bool | None:
        """The variance gate: whether the blocks' ratios vary by less than 5 %; None: not known."""
        return self.cv < STEADY_CV if math.isfinite(self.cv) else None

    @property
    def met(self) -> bool | None:
        """Whether the success asked for is reached: the bar and the variance gate; None: unsaid."""
        if self.verdict is None or self.preview:
            return None
        if self.verdict == "no" or not self.steady:
            return False
        return True if self.verdict == "yes" else None

    @property
    def variance(self) -> str:
        """What the variance gate says, the plain coefficients of variation beside it."""
        if self.steady is None:
            return f"How much the blocks' ratios vary{self._where} is not known."
        mine, theirs = (f"{significant(100 * cv, 2)} %" for cv in self.cv_sides)
        gate = f"below {100 * STEADY_CV:g} %"
        fails = f"not {gate}" if self.preview else f"not {gate}, so a success counts as not met"
        told = gate if self.steady else fails
        return (f"{self._preview}Between blocks the ratio of {self.target} to {self.baseline} in "
                f"{self.metric}{self._where} varies by {significant(100 * self.cv, 2)} % "
                f"(plain: {self.target} {mine}, {self.baseline} {theirs}): {told}.")  # fmt: skip

    @property
    def _preview(self) -> str:
        return "Preview, not a claim: " if self.preview else ""

    @property
    def sentence(self) -> str:
        """What may be said, with everything that a reader needs to doubt it."""
        asked = "better" if self.at_least == 1 else f"at least {self.at_least:g} times as good"
        if self.verdict in ("yes", "no"):
            return f"{self._numbers}; {asked}: {self.verdict}."
        if self.verdict:
            return f"{self._preview}{self._numbers}; {asked}: inconclusive, {self.why}."
        if math.isnan(self.ratio):
            return (f"{self.target} and {self.baseline} cannot be compared in {self.metric}"
                    f"{self._where}: {self.why}.")  # fmt: skip
        return f"{self._preview}Not comparable ({self.why}): {self._numbers}."

    @property
    def _where(self) -> str:
        """'on builtin:tiny after prompts of 11 to 23 tokens, 48 tokens out, batch 2'."""
        about = dict(self.group)
        where = f" on {about['model']}" if "model" in about else ""
        where += f" in {about['weights']}" if about.get("weights") else ""
        if self.once:
            return where
        if "prompt_tokens" in about:
            where += f" at {about['prompt_tokens']:,} tokens"
        elif self.prompts:
            low, high = self.prompts
            span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            where += f" after prompts of {span} tokens"
        out, rows = about.get("output_tokens"), about.get("batch_size", 1)
        where += f", {out:,} tokens out" if out else ""
        return where + (f", batch {rows:,}" if rows != 1 else "")

    @property
    def _numbers(self) -> str:
        """The ratio with its evidence."""
        floor = "not known"
        if self.noise_floor is not None:
            floor = f"{significant(100 * self.noise_floor, 2)} %"
        each = "one value each" if self.once else f"{self.blocks} blocks"
        counts = f"{self.process_runs} process runs, {each}"
        counts += f" and {self.left_out} left out" if self.left_out else ""
        mine, theirs = self.formats
        held = f", weights in {mine} against {theirs}" if mine != theirs else ""
        related = any(check.name == "same weights" and check.passed for check in self.checks)
        held += f": {self.kinship}" if held and self.kinship and related else ""
        beside = f"; {self.beside}" if self.beside else ""
        return (
            f"{self.target} is {significant(self.ratio)} times as good as {self.baseline} in "
            f"{self.metric}{self._where} (95 % interval {_ratio(self.low)}–{_ratio(self.high)}, "
            f"{counts}, noise floor {floor}{held}{beside})"
        )

    @property
    def why(self) -> str:
        """Why there is no yes and no no; '' where there is one."""
        if self.verdict is None:
            return "; ".join(f"{check.name}: {check.detail}" for check in failing(self.checks))
        if self.verdict != "inconclusive":
            return ""
        if self.preview:
            return (f"a claim needs {ENOUGH_LOADS} process runs" if self.once else
                    f"a claim needs {ENOUGH_BLOCKS} blocks")  # fmt: skip
        if self.low <= self.at_least <= self.high:
            equal = ": the two are equal within 2 %" if self.equivalent else ""
            return f"the interval holds {self.at_least:g}{equal}"
        if self.p >= ALPHA:
            return f"p = {self.p:.2g} after Holm's correction for {self.together} claims"
        return "the difference lies within the noise floor"


@dataclass(frozen=True)
class Comparison:
    """All claims of one target against one baseline.

    `.ratio .low .high .noise_floor .checks .sentence …` are those of the claim that decides.
    """

    claims: tuple[Claim, ...]

    @property
    def deciding(self) -> Claim:
        """The weakest claim of those that say what the whole says."""
        said = [claim for claim in self.claims if claim.verdict == self.verdict]
        return min(said, key=lambda claim: -math.inf if math.isnan(claim.low) else claim.low)

    @property
    def verdict(self) -> str | None:
        """`yes` when every claim is; `no` when one is; None when one is not comparable."""
        found = {claim.verdict for claim in self.claims}
        order = ("no", None, "inconclusive", "yes")
        return next(verdict for verdict in order if verdict in found)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in {*Claim.__dataclass_fields__, *SAID}:
            raise AttributeError(name)
        return getattr(self.deciding, name)

    def facts(self) -> dict[str, Any]:
        """Everything, for programs; what is not finite is null."""
        claims = [asdict(c) | {"group": dict(c.group), "preview": c.preview, "sentence": c.sentence,
                               "steady": c.steady, "met": c.met, "variance": c.variance,
                               "runs": dict(c.runs),
                               "checks": [check._asdict() for check in c.checks],
                               "tails": [tail._asdict() for tail in c.tails]}
                  for c in self.claims]  # fmt: skip
        return _finite({"verdict": self.verdict, "claims": claims})


def judged(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """The claims with their verdicts; their p-values are corrected for being several (Holm)."""
    claims = tuple(claims)
    adjusted = holm(claim.p for claim in claims)
    return tuple(_judged(replace(claim, p=p, together=len(claims)))
                 for claim, p in zip(claims, adjusted, strict=True))  # fmt: skip


def _ratio(value: float) -> str:
    """Three decimals near 1, four digits far from it."""
    return f"{value:.3f}" if 0.1 <= value < 10 else significant(value, 4)


def _judged(claim: Claim) -> Claim:
    """The claim with its verdict."""
    if any(failing(claim.checks)):
        return claim
    if claim.preview:
        return replace(claim, verdict="inconclusive")
    sure = claim.p < ALPHA
    equal = min(1.0, claim.at_least)  # that it is not much worse needs no difference from 1
    different = abs(claim.ratio - equal) > (claim.noise_floor or 0.0)
    if sure and claim.ratio > claim.at_least and different:
        return replace(claim, verdict="yes")
    if sure and claim.ratio < claim.at_least:
        return replace(claim, verdict="no")
    return replace(claim, verdict="inconclusive")


def _finite(value: Any) -> Any:
    """`value` with null for what JSON cannot keep."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
