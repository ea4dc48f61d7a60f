"""Golden numbers, planted truths and refusals of the statistics."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, quantile_test

from llmbench import stats
from llmbench.errors import BadParams

GOLDEN_RANKS = [(6, 1, 6), (10, 2, 9), (20, 6, 15), (30, 10, 21), (100, 40, 61)]
GOLDEN_STOPPING = {
    0.90: [44, 64, 81, 127, 197],
    0.95: [90, 130, 165, 259, 398],
    0.99: [459, 662, 838, 1307, 2010],
}


def frame(runs=6, repeats=4, **columns) -> pd.DataFrame:
    """`runs` process runs of `repeats`, ttft_s = 1 + run / 100 + repeat / 1000."""
    rows = [{"process_run": r, "run": "a", "fingerprint": "f", "status": "ok", "flags": (),
             "sequence": r * repeats + k, "engine": "edge", "ttft_s": 1 + r / 100 + k / 1000}
            for r in range(runs) for k in range(repeats)]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


@pytest.mark.parametrize(("n", "low", "high"), GOLDEN_RANKS)
def test_median_ranks_are_the_golden_ones(n, low, high):
    found = stats.median_interval(range(1, n + 1))
    assert (found.low, found.high, found.n, found.estimable) == (low, high, n, True)
    assert found.value == (n + 1) / 2 and found.note == ""


@settings(deadline=None, max_examples=60)
@given(st.integers(72, 400), st.sampled_from([0.05, 0.25, 0.5, 0.9, 0.95]))
def test_interval_equals_scipy_where_both_ends_exist(n, q):
    values = np.random.default_rng(n).normal(size=n)
    theirs = quantile_test(values, p=q).confidence_interval(0.95)
    ours = stats.quantile_interval(values, q)
    assert (ours.low, ours.high) == (theirs.low, theirs.high)


@pytest.mark.parametrize(("q", "n"), [(0.5, 6), (0.9, 29), (0.95, 59), (0.99, 299), (0.999, 2995)])
def test_fewest_observations(q, n):
    assert stats.smallest_n(q, 0.95) == n
    values = list(range(n))
    enough, short = stats.quantile_interval(values, q), stats.quantile_interval(values[1:], q)
    assert enough.estimable and enough.high == n - 1 and math.isfinite(enough.low)
    assert not short.estimable and math.isnan(short.high)
    assert short.note == f"not estimable: n={n - 1}, needs {n}"


def test_five_values_have_no_interval_of_the_median():
    found = stats.median_interval([5, 1, 4, 2, 3])
    assert found.value == 3 and math.isnan(found.low) and math.isnan(found.high)
    assert found.note == "not estimable: n=5, needs 6"
    assert math.isnan(stats.median_interval([]).value)
    with pytest.raises(BadParams, match="NaN"):
        stats.median_interval([1.0, math.nan])


def test_error_left_by_one_end_serves_the_other():
    """At n = 60 the maximum may end a p95 only with 4.6 % error: 0.4 % are left for the low end."""
    low, high = stats.quantile_ranks(60, 0.95, 0.95)
    left = 0.05 - 0.95**60
    assert high == 60 and binom.cdf(low - 1, 60, 0.95) <= left < binom.cdf(low, 60, 0.95)
    assert stats.quantile_ranks(60, 0.05, 0.95) == (1, 61 - low)


@pytest.mark.parametrize(("n", "q"), [(8, 0.5), (60, 0.95), (65, 0.05), (120, 0.9)])
def test_intervals_cover_at_least_what_they_say(n, q):
    draw = np.random.default_rng(3)
    low, high = stats.quantile_ranks(n, q, 0.95)
    samples = np.sort(draw.random((4000, n)), axis=1)
    covered = np.mean((samples[:, low - 1] <= q) & (q <= samples[:, high - 1]))
    assert covered > 0.94


@pytest.mark.parametrize("n", [10, 20, 60])
def test_noise_alone_is_seldom_taken_for_a_change_of_level(n):
    random = np.random.default_rng(n)
    noisy = np.exp(0.01 * random.normal(size=(400, n)))
    assert np.mean([not stats.steady(values) for values in noisy]) <= 0.03
    noisy[:, n // 2 :] *= 1.08
    assert np.mean([stats.steady(values) for values in noisy]) <= 0.05


def test_levels_are_the_medians_between_changes():
    values = np.concatenate([np.full(8, 1.0), np.full(12, 1.2)]) * (1 + 0.001 * (np.arange(20) % 2))
    assert stats.levels(values) == pytest.approx([1.0005, 1.2006], rel=1e-3)
    assert stats.steady(values[8:]) and stats.steady([1, 2, 3]) and not stats.steady(values)
    assert stats.steady([1, 1, 1, 1, 1, 9, 1, 1, 1, 1, 1])  # an outlier is no level


def test_a_tail_bound_is_kept_as_often_as_it_says():
    assert not stats.tail_bound(range(43), 0.9).estimable
    assert stats.tail_bound(range(44), 0.9).value == 43  # MLPerf: 44, 64, 81 for 0, 1, 2 beyond
    assert stats.tail_bound(range(64), 0.9).value == 62
    assert stats.tail_bound(range(81), 0.9).value == 78
    random = np.random.default_rng(1)
    true = -np.log(0.1)  # the 90th percentile of an exponential
    kept = [stats.tail_bound(random.exponential(size=100), 0.9).value >= true for _ in range(1000)]
    assert np.mean(kept) >= 0.985


def test_early_stopping_is_the_golden_table():
    for p, wanted in GOLDEN_STOPPING.items():
        assert [stats.early_stopping(p, t) for t in (0, 1, 2, 5, 10)] == wanted


def test_coefficient_of_variation_uses_n_minus_1():
    assert stats.coefficient_of_variation([9, 11]) == pytest.approx(math.sqrt(2) / 10)
    assert math.isnan(stats.coefficient_of_variation([1]))


def test_the_unit_is_the_process_run():
    runs = stats.process_run_medians(frame(), "ttft_s", ["engine"])
    assert runs["ttft_s"].tolist() == pytest.approx([1.0015 + r / 100 for r in range(6)])
    assert runs["repeats"].tolist() == [4] * 6
    cell = stats.summarise(frame(), "ttft_s", ["engine"]).iloc[0]
    assert cell["median"] == pytest.approx(1.0265)
    assert (cell["low"], cell["high"]) == pytest.approx((1.0015, 1.0515))
    assert cell["cv"] == pytest.approx(stats.coefficient_of_variation(runs["ttft_s"]))
    assert (cell["process_runs"], cell["repeats"], cell["estimable"]) == (6, 24, True)


def test_process_runs_of_two_runs_are_not_one():
    both = pd.concat([frame(runs=3), frame(runs=3, run="b")])
    assert stats.summarise(both, "ttft_s", ["engine"])["process_runs"].item() == 6


def test_excluded_groups_stay_with_nothing():
    lost = frame(engine="lost", flags=[("short",)] * 24)
    table = stats.summarise(pd.concat([frame(), lost]), "ttft_s", ["engine"])
    gone = table[table["engine"] == "lost"].iloc[0]
    assert math.isnan(gone["median"]) and math.isnan(gone["low"])
    assert (gone["process_runs"], gone["repeats"], gone["estimable"]) == (0, 0, False)
    assert table["process_runs"].tolist() == [6, 0]


@pytest.mark.parametrize("by", [["engine"], ["engine", "process_run"]])
def test_an_empty_frame_has_no_groups(by):
    table = stats.summarise(frame().iloc[:0], "ttft_s", by)
    assert table.empty
    assert list(table.columns) == list(stats.summarise(frame(), "ttft_s", by).columns)


def test_preview_is_a_label_and_does_not_exclude():
    assert len(stats.claimable(frame(flags=[("preview",)] * 24))) == 24
    assert len(stats.claimable(frame(flags=[("preview", "drift")] * 24))) == 0
    assert len(stats.claimable(frame(status="oom"))) == 0


def test_summary_takes_a_frame_that_is_not_ours_and_missing_names():
    other = pd.DataFrame({"who": ["x"] * 6 + [None] * 3, "t": [*range(1, 7), 7.0, 8.0, np.nan]})
    table = stats.summarise(other, "t", ["who"])
    assert table["median"].tolist() == [3.5, 7.5]
    assert table["estimable"].tolist() == [True, False]
    assert table["process_runs"].tolist() == [6, 2]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(0.1, 10), min_size=1, max_size=12), min_size=1, max_size=8))
def test_summary_equals_one_interval_a_group(groups):
    rows = [(g, i, v) for g, values in enumerate(groups) for i, v in enumerate(values)]
    table = stats.summarise(pd.DataFrame(rows, columns=["g", "process_run", "t"]), "t", ["g"])
    for (_, row), values in zip(table.iterrows(), groups, strict=True):
        one = stats.median_interval(values)
        got = row[["median", "low", "high"]].astype(float)
        np.testing.assert_allclose(got, (one.value, one.low, one.high))


def test_doubling_times_doubles_the_summary_and_order_changes_nothing():
    base = stats.summarise(frame(), "ttft_s", ["engine"])
    twice = stats.summarise(frame().eval("ttft_s = 2 * ttft_s"), "ttft_s", ["engine"])
    mixed = stats.summarise(frame().sample(frac=1, random_state=1), "ttft_s", ["engine"])
    for end in ("median", "low", "high"):
        assert twice[end].item() == pytest.approx(2 * base[end].item())
        assert mixed[end].item() == base[end].item()


def test_trend_finds_a_planted_drift_and_not_noise():
    noise = 0.001 * np.random.default_rng(5).normal(size=20)
    rising = stats.trend(range(20), 1 + noise + np.linspace(0, 0.05, 20))
    assert rising.value == pytest.approx(0.05, abs=0.005) and rising.low > 0.04
    assert stats.drifts(range(20), 1 + noise + np.linspace(0, 0.05, 20))
    assert not stats.drifts(range(20), 1 + noise)
    assert not stats.drifts(range(20), 1 + np.linspace(0, 0.009, 20))  # below 1 %
    wild = [1.0, 1.3, 0.9, 1.1, 1.2, 0.95, 1.25, 1.15]  # a large slope that may be nothing
    assert stats.trend(range(8), wild).value > 0.01 and not stats.drifts(range(8), wild)
    assert not stats.trend(range(5), [1, 2, 3, 4, 5]).estimable


def test_stability_warns_with_numbers():
    draw = np.random.default_rng(6)
    steady = frame(repeats=20, ttft_s=1 + 0.001 * draw.normal(size=120))
    calm = stats.stability(steady, "ttft_s", ["engine"]).iloc[0]
    assert calm["warnings"] == () and abs(calm["lag1"]) < 0.3 and calm["repeats"] == 120
    rising = stats.stability(
        steady.assign(ttft_s=1 + np.tile(np.linspace(0, 0.3, 20), 6)), "ttft_s", ["engine"]
    ).iloc[0]
    assert rising["drift"] == pytest.approx(0.3 / 1.15, rel=0.01) and rising["lag1"] > 0.8
    assert [w.split(":")[1].split(" ")[1] for w in rising["warnings"]] == [
        "the",
        "it",
        "neighbouring",
    ]
    assert "26 %" in rising["warnings"][1]
