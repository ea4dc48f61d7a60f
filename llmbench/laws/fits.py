"""The fitted forms, their evidence, and what the best of them says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy

from llmbench.laws.samples import Sample
from llmbench.stats import Interval

BOOTSTRAPS = 400
MATERIAL = 0.05  # a term below this share of the time at every measured size does not count
TERMS = {
    "1": lambda n: np.ones_like(n),
    "n": lambda n: n,
    "n log n": lambda n: n * np.log2(n),
    "n^2": lambda n: n**2,
}
MODELS = {
    "a": ("1",),
    "a + b n": ("1", "n"),
    "a + b n log n": ("1", "n log n"),
    "a + b n + c n log n": ("1", "n", "n log n"),
    "a + b n^2": ("1", "n^2"),
    "a + b n + c n^2": ("1", "n", "n^2"),
}
EVIDENCE = ["model", "law", "a", "b", "c", "aicc", "delta", "share", "bic"]


@dataclass(frozen=True)
class Fit:
    """One formula fitted to one sample."""

    model: str
    coefficients: np.ndarray  # one a term, >= 0
    residuals: np.ndarray  # (m,) 1 - fitted / measured
    law: str

    @property
    def scatter(self) -> float:
        """Root mean square of the relative residuals."""
        return math.sqrt(float(self.residuals @ self.residuals) / len(self.residuals))

    def criterion(self, bayes: bool = False) -> float:
        """AICc, or BIC. The noise variance counts as a parameter; 1e-12 is no error at all."""
        m, k = len(self.residuals), len(self.coefficients) + 1
        spread = 2 * m * math.log(max(self.scatter, 1e-12))
        if bayes:
            return spread + k * math.log(m)
        return spread + 2 * k + 2 * k * (k + 1) / (m - k - 1)


def fitted(model: str, n: np.ndarray, t: np.ndarray) -> Fit:
    """Non-negative least squares of the relative error. Source: Lawson and Hanson (1974)."""
    terms = MODELS[model]
    matrix = np.stack([TERMS[term](n) / t for term in terms], axis=1)  # (m, terms)
    scale = np.linalg.norm(matrix, axis=0)
    scaled, _ = scipy.optimize.nnls(matrix / scale, np.ones_like(t))
    coefficients = scaled / scale
    shares = matrix * coefficients
    fitted = shares.sum(axis=1)
    largest = (shares / np.maximum(fitted, 1e-300)[:, None]).max(axis=0)
    grows = [term for term, share in zip(terms, largest, strict=True)
             if term != "1" and share >= MATERIAL]  # fmt: skip
    law = "constant" if not grows else grows[0] if len(grows) == 1 else "mixed"
    return Fit(model, coefficients, 1 - fitted, law)


def all_fits(n: np.ndarray, t: np.ndarray) -> list[Fit]:
    """Every formula of MODELS fitted to costs t (m,) at sizes n (m,)."""
    return [fitted(model, n, t) for model in MODELS]


def resampled_fits(sample: Sample) -> list[Fit]:
    """The best fit of each bootstrap sample: process runs drawn again within each size."""
    draw = np.random.default_rng(40)
    columns = [np.median(draw.choice(values, (BOOTSTRAPS, len(values))), axis=1)
               for values in sample.units]  # fmt: skip
    return [min(all_fits(sample.n, t), key=Fit.criterion) for t in np.stack(columns, axis=1)]


def evidence_table(fits: Sequence[Fit], refits: Sequence[Fit]) -> pd.DataFrame:
    """A row a model, best first; `share`: of refits in which its formula was best."""
    best = min(fit.criterion() for fit in fits)
    wins = [fit.model for fit in refits]
    rows = []
    for fit in fits:
        padded = [*fit.coefficients, math.nan, math.nan][:3]
        rows.append({
            "model": fit.model, "law": fit.law, **dict(zip("abc", map(float, padded), strict=True)),
            "aicc": fit.criterion(), "delta": fit.criterion() - best,
            "share": wins.count(fit.model) / len(wins) if wins else math.nan,
            "bic": fit.criterion(bayes=True),
        })  # fmt: skip
    table = pd.DataFrame(rows, columns=EVIDENCE)
    return table.sort_values("delta", kind="stable", ignore_index=True)


def knee_of(coefficients: Mapping[str, float]) -> float:
    """The size at which the growing terms equal the floor; NaN when there is none above 1."""
    floor = coefficients["1"]

    def excess(n: float) -> float:
        terms = {t: c for t, c in coefficients.items() if t != "1"}
        return float(sum(c * TERMS[t](np.float64(n)) for t, c in terms.items())) - floor

    top = 2.0
    while excess(top) < 0 and top < 1e12:
        top *= 2
    if floor <= 0 or excess(1.0) >= 0 or excess(top) < 0:
        return math.nan
    return float(scipy.optimize.brentq(excess, 1.0, top))


def held_out_error(sample: Sample, model: str) -> float:
    """Largest relative error at the largest quarter of the sizes, predicted from the others."""
    kept = len(sample.n) - max(1, len(sample.n) // 4)
    fit = fitted(model, sample.n[:kept], sample.t[:kept])
    terms = zip(MODELS[model], fit.coefficients, strict=True)
    told = sum(c * TERMS[term](sample.n[kept:]) for term, c in terms)
    return float(np.abs(told / sample.t[kept:] - 1).max())


def local_exponent(sample: Sample) -> Interval:
    """Slope of log t against log n over the upper half of the sizes, with its 95 % interval."""
    upper = slice(len(sample.n) // 2, None)
    line = scipy.stats.linregress(np.log(sample.n[upper]), np.log(sample.t[upper]))
    count = len(sample.n[upper])
    half = float(scipy.stats.t.ppf(0.975, count - 2) * line.stderr)
    slope = float(line.slope)
    return Interval(slope, slope - half, slope + half, count, 0.95, True)
