"""What other people's libraries say of the same numbers: statsmodels, scipy, vLLM's definitions."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import quantile_test, ttest_1samp
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW
from statsmodels.tools.eval_measures import aicc, bic

from llmbench import metrics, planted, stats
from llmbench.laws.fits import MODELS, TERMS, all_fits
from llmbench.pairs.power import power
from llmbench.pairs.ratios import MARGIN, equivalent, holm, p_value, ratio_of
from tests.test_laws import SIZES
from tests.test_metrics import record

SEEDS = st.integers(0, 2**32 - 1)
UNIT = ["process_run"]


# -- laws: least squares of the relative error -----------------------------------------------------


def least_squares(model: str, n: np.ndarray, t: np.ndarray):
    """The same fit by statsmodels, without our bound: coefficients may fall below 0."""
    columns = np.stack([TERMS[term](n) / t for term in MODELS[model]], axis=1)
    widths = np.linalg.norm(columns, axis=0)
    return sm.OLS(np.ones_like(t), columns / widths).fit(), widths


@pytest.mark.parametrize("seed", range(20))
def test_aicc_and_bic_are_statsmodels_up_to_one_constant(seed):
    """Wherever our bound at 0 does not bind. Differences, which alone are used, are then equal."""
    n = SIZES.astype(float)
    noise = 0.3 * np.random.default_rng(seed).normal(size=len(n))
    t = (1 + n / 500 + (n / 3000) ** 2) * np.exp(noise)
    compared, same = [], len(n) * (1 + math.log(2 * math.pi))  # of the normal likelihood
    for fit in all_fits(n, t):
        theirs, widths = least_squares(fit.model, n, t)
        if theirs.params.min() <= 0:
            continue
        k = len(theirs.params) + 1  # and the variance of the noise
        assert fit.coefficients == pytest.approx(theirs.params / widths, rel=1e-6)
        assert fit.criterion() == pytest.approx(aicc(theirs.llf, len(n), k) - same, abs=1e-6)
        assert fit.criterion(True) == pytest.approx(bic(theirs.llf, len(n), k) - same, abs=1e-6)
        compared.append((fit.criterion(), theirs.aic + 2 * k * (k + 1) / (len(n) - k - 1) + 2))
    assert len(compared) >= 3
    ours, theirs = np.diff(np.array(compared), axis=0).T
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


# -- pairs: Student over process runs, Holm, two one-sided tests, power ----------------------------


def block_logs_of(seed: int, spread: float = 0.014) -> tuple[pd.DataFrame, np.ndarray]:
    """Log-ratios of 2 to 12 process runs of 1 to 6 blocks each, and each run's mean."""
    draw = np.random.default_rng(seed)
    level, runs = draw.normal(0, 0.02), draw.integers(2, 13)
    groups = [draw.normal(level, spread, draw.integers(1, 7)) for _ in range(runs)]
    rows = [(run, block, log) for run, logs in enumerate(groups) for block, log in enumerate(logs)]
    frame = pd.DataFrame(rows, columns=[*UNIT, "block", "log"])
    return frame, np.array([logs.mean() for logs in groups])


@pytest.mark.parametrize("seed", range(40))
def test_interval_and_p_are_scipys_t_test_of_process_run_means(seed):
    logs, means = block_logs_of(seed)
    found, theirs = ratio_of(logs, UNIT), ttest_1samp(means, 0.0)
    ends = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(ends.low), math.exp(ends.high)))
    assert found.ratio == pytest.approx(math.exp(means.mean()))
    for bar in (1.0, 1.03, 0.5):
        assert p_value(found, bar) == pytest.approx(ttest_1samp(means, math.log(bar)).pvalue)
    assert (p_value(found, 1.0) < 0.05) == (not found.low <= 1 <= found.high)


def test_equivalence_is_statsmodels_two_one_sided_tests():
    edge, told = math.log1p(MARGIN), []
    for seed in range(300):
        logs, means = block_logs_of(seed, spread=0.012)
        p, *_ = DescrStatsW(means).ttost_mean(-edge, edge)
        told.append(p < 0.05)
        assert equivalent(ratio_of(logs, UNIT)) == told[-1], (seed, p)
    assert 30 < sum(told) < 270  # both answers were met


@settings(deadline=None, max_examples=25)  # theirs takes a tenth of a second
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_statsmodels(p_values):
    _, theirs, *_ = multipletests(p_values, method="holm")
    np.testing.assert_allclose(holm(p_values), theirs, atol=1e-12)


@pytest.mark.parametrize("runs", [2, 3, 6, 12])
@pytest.mark.parametrize("claims", [1, 6])
@pytest.mark.parametrize("difference", [0.003, 0.01, 0.03, 0.06])
def test_power_is_statsmodels(runs, claims, difference):
    """Theirs two-sided counts errors of sign too: the other tail, gone where power is useful."""
    alpha, sd = 0.05 / claims, 0.014
    ours = power(difference, runs, sd, confidence=1 - alpha)
    asked = {"effect_size": math.log1p(difference) / sd, "nobs": runs}
    right = TTestPower().power(**asked, alpha=alpha / 2, alternative="larger")
    either = TTestPower().power(**asked, alpha=alpha, alternative="two-sided")
    assert ours == pytest.approx(right, abs=1e-9)
    if np.isfinite(either):  # the library gives up on the other tail where it is next to nothing
        assert ours - 1e-9 <= either <= ours + alpha / 2
        assert ours < 0.5 or either == pytest.approx(ours, abs=1e-4)


# -- stats: medians --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(st.integers(6, 400), SEEDS, st.booleans())
def test_interval_of_the_median_is_scipys(n, seed, ties):
    values = np.random.default_rng(seed).normal(size=n)
    values = values.round(1) if ties else values
    theirs = quantile_test(values, p=0.5).confidence_interval(0.95)
    ours = stats.median_interval(values)
    assert (ours.low, ours.high) == (theirs.low, theirs.high)
    assert ours.value == pytest.approx(np.median(values))


# -- metrics: vLLM's clock on a stream of chunks ---------------------------------------------------


def vllm(arrivals: np.ndarray, tokens: int) -> dict[str, object]:
    """What vLLM's serving benchmark keeps of a request whose chunks came `arrivals` s after it.

    Source: vllm, benchmarks/serve.py (`calculate_metrics`: latency minus ttft, over
    output_len - 1) and benchmarks/lib/endpoint_request_func.py (a gap a chunk, `latency` is the
    time of the last chunk).
    """
    ttft, latency = arrivals[0], arrivals[-1]
    return {"ttft": ttft, "latency": latency, "itl": np.diff(arrivals),
            "tpot": (latency - ttft) / (tokens - 1)}  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=20), SEEDS)
def test_times_are_vllms_for_any_chunking(chunks, seed):
    """Tokens of one chunk arrive together: ours are a gap a token, vLLM's a gap a chunk."""
    gaps_ns = np.random.default_rng(seed).integers(1_000_000, 50_000_000, len(chunks))
    arrivals_ns = gaps_ns.cumsum()
    row = record(steps=np.repeat(arrivals_ns, chunks).tolist())
    ours = metrics.frame_of([row], planted.ENVIRONMENTS).iloc[0]
    theirs = vllm(arrivals_ns / 1e9, sum(chunks))
    assert ours["tpot_s"] == pytest.approx(theirs["tpot"])
    assert (ours["ttft_s"], ours["e2e_s"]) == pytest.approx((theirs["ttft"], theirs["latency"]))
    assert ours["itl_s"].sum() == pytest.approx(theirs["latency"] - theirs["ttft"])
    np.testing.assert_allclose(ours["itl_s"][ours["itl_s"] > 0], theirs["itl"])
    assert len(ours["itl_s"]) == sum(chunks) - 1
