"""Planted truth through the whole pipeline: it is found again, and what must be refused is."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from llmbench import checker, metrics, planted, stats
from llmbench.engines.fake import FakeEngine
from llmbench.pairs import compare
from llmbench.params import Contender, Scaling
from llmbench.points import plan
from llmbench.record import Record
from llmbench.sweep import measure_study
from llmbench.turns import process_seed

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from proving import page, refusals, trials  # noqa: E402

FOUND, BEYOND = "interval excludes 1", "and beyond the noise floor"
COVERED = {"ratio covered": 232, "median covered": 232}  # of 250
STILL = {"edge": trials.LAW, "transformers": trials.LAW}


def session(planted_truth=STILL, seed=17, process_runs=6, **circumstances):
    study = trials.comparison(process_runs, seed)
    return planted.play("ollama_comparison", study, planted_truth, **circumstances)


def noisy(ratio: float) -> dict[str, dict[str, float]]:
    slow = trials.LAW | {"run_noise": 0.008, "noise": 0.013}
    return {"edge": slow | {n: v / ratio for n, v in trials.LAW.items()}, "transformers": slow}


def frame_of(rows):
    return metrics.frame_of(rows, planted.ENVIRONMENTS, "planted")


def facts(found) -> tuple[float, ...]:
    return found.ratio, found.low, found.high, found.noise_floor


# -- the planted session ---------------------------------------------------------------------------


def test_rows_are_records_that_the_checker_accepts():
    rows = session(noisy(1.03))
    keys = {Record.model_validate(row).key for row in rows}
    assert len(keys) == len(rows) == 6 * 5 * 3
    assert checker.check_rows(rows, planted.ENVIRONMENTS) == []
    assert len(stats.claimable(frame_of(rows))) == 90


def test_without_noise_the_law_itself_is_measured():
    frame = frame_of(session())
    assert frame["tpot_s"].to_numpy() == pytest.approx(np.full(90, 0.02))
    assert frame["ttft_s"].to_numpy() == pytest.approx(np.full(90, 1e-3 + 16e-5))


def test_every_process_has_noise_of_its_own_and_a_seed_repeats_it():
    frame, again = frame_of(session(noisy(1))), frame_of(session(noisy(1)))
    assert frame["tpot_s"].equals(again["tpot_s"])
    means = frame.groupby("child")["tpot_s"].mean()
    assert len(means) == 18 and means.nunique() == 18


def test_a_drifting_machine_is_slower_for_everybody_and_in_every_order():
    for order in (tuple, planted.one_after_the_other("edge")):
        rows = session(machine_drift=0.08, order=order)
        times = frame_of(rows).sort_values("sequence")["tpot_s"].to_numpy() / 0.02
        assert times == pytest.approx(1 + 0.08 * np.arange(90) / 90)
    engines = frame_of(rows).sort_values("sequence")["engine"].tolist()
    assert engines == ["edge"] * 30 + ["transformers"] * 60


# -- trials ----------------------------------------------------------------------------------------


def test_a_handful_of_trials_finds_what_was_planted():
    same, other = (trials.tried(scenario, range(24)) for scenario in (trials.AA, trials.AB))
    assert same["ratio covered"] >= 20 and other["ratio covered"] >= 20
    assert same[FOUND] <= 4 and other[FOUND] >= 21
    assert same["median covered"] >= 21 and same["refused: not interleaved"] == 0


def test_drift_deceives_a_then_b_and_not_blocks():
    blocks, after = (trials.tried(s, range(16)) for s in (trials.BLOCKS, trials.A_THEN_B))
    assert blocks[FOUND] <= 4 and after[FOUND] >= 14
    assert (blocks["refused: not interleaved"], after["refused: not interleaved"]) == (0, 16)


def test_percentiles_are_covered_or_refused():
    found = trials.tails_tried(range(20))
    assert found["p90 covered"] >= 17 and found["p95 covered"] >= 17 and found["p99 refused"] == 20


def test_theory_of_the_default_design():
    assert trials.expected(0.03, 6) == pytest.approx((0.98, 0.967), abs=0.002)
    assert trials.expected(0.03, 5)[0] == pytest.approx(0.93, abs=0.002)
    assert trials.expected(0.0, 6)[0] == pytest.approx(0.05, abs=0.002)


@pytest.mark.slow
@pytest.mark.exhaustive  # of one in twenty, 250 trials hold more than 20 in 1.5 % of cases
@pytest.mark.parametrize(
    ("scenario", "first", "count", "at_least", "at_most"),
    [
        (trials.AA, 0, 250, COVERED, {FOUND: 20}),
        (trials.AB, 1000, 250, COVERED | {FOUND: 237, BEYOND: 237}, {}),
        (trials.BLOCKS, 2000, 250, {}, {FOUND: 20, "refused: not interleaved": 0}),
        (trials.A_THEN_B, 3000, 50, {FOUND: 47, "refused: not interleaved": 50}, {}),
    ],
)  # fmt: skip
def test_the_first_quarter_of_the_proofs_trials(scenario, first, count, at_least, at_most):
    found = trials.tried(scenario, range(first, first + count))
    assert all(found[name] >= bar for name, bar in at_least.items()), found
    assert all(found[name] <= bar for name, bar in at_most.items()), found


@pytest.mark.slow
def test_the_first_quarter_of_the_trials_of_percentiles():
    found = trials.tails_tried(range(250))
    assert min(found["p90 covered"], found["p95 covered"]) >= 232 and found["p99 refused"] == 250


class TwoLaws(Scaling):
    """One engine under two names, by its options: the slower takes 3 % longer and has a twin."""

    @property
    def contenders(self):
        fast, slow = (
            {"decode_s": seconds, "unit_s": 1e-6, "run_noise": 0.01} for seconds in (0.01, 0.0103)
        )
        return [Contender("fake", fast), Contender("fake", slow), Contender("fake", slow, True)]


def true_ratio(study: Scaling) -> float:
    """What the noise drawn in this study's process runs makes of 3 %: their geometric mean."""
    slow_over_fast = 0.0
    for repeat in (r for group in plan("scaling", study) for r in group.repeats):
        if not repeat.point.twin and repeat.block == 0:
            options, slept = repeat.point.engine_options, []
            engine = FakeEngine(sleep=slept.append)
            seed = process_seed(repeat.point, repeat.process_run)
            engine.load(None, options | {"process_seed": seed})
            list(engine.stream([[1]], 2))
            sign = 1 if options["decode_s"] == 0.0103 else -1
            slow_over_fast += sign * math.log(slept[-1]) / study.process_runs
    return math.exp(slow_over_fast)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.alone
def test_real_children_find_a_planted_3_percent(tmp_path, monkeypatch):
    monkeypatch.setattr("llmbench.turns.BUSY_SHARE", 2.0)  # sleeps are not disturbed by others
    lows = []
    for seed in range(5):
        study = TwoLaws(batch_sizes=[1], context_lens=[16], output_tokens=8, blocks=5, threads=1,
                        seed=seed, run_id=f"two-{seed}")  # fmt: skip
        frame = metrics.read(measure_study("scaling", study, outputs=tmp_path).folder)
        engine = np.where(frame["options"].str.contains("0.0103"), "slow", "fast")
        found = compare(frame.assign(engine=engine), "fast", "slow")
        assert (found.process_runs, found.blocks) == (6, 30)
        assert found.ratio == pytest.approx(true_ratio(study), rel=0.01)
        lows.append(found.low)
    assert sum(low > 1 for low in lows) >= 4, lows  # each of them in 97.6 % of all trials


# -- refusals --------------------------------------------------------------------------------------


def test_what_must_be_refused_is_refused_with_its_reason():
    said = list(refusals.sentences().values())
    reasons = ("n=50, needs 299", "5 sizes of context_len; a law needs 8",
               "one engine ran after the other", "without a count of output tokens",
               "of what memory can deliver")  # fmt: skip
    assert all(said) and all(r in s for r, s in zip(reasons, said, strict=True)), said
    assert refusals.percentile_of(299) == ""
    assert refusals.law_of(tuple(16 * 2**i for i in range(9))) == ""


def test_an_uncounted_row_enters_no_claim():
    rows = session()
    short = frame_of([rows[0] | {"witness": None}, *rows[1:]])
    assert short["flags"].iloc[0] == ("short",) and len(stats.claimable(short)) == 89


# -- metamorphic -----------------------------------------------------------------------------------


def with_raw(rows, change):
    """`rows` with `change` applied to every time of their raw parts."""
    return [row | {"raw": row["raw"] | change(row["raw"])} for row in rows]


def doubled(raw):
    return {"prefill_ns": 2 * raw["prefill_ns"], "end_ns": 2 * raw["end_ns"],
            "step_ns": [2 * ns for ns in raw["step_ns"]]}  # fmt: skip


def test_twice_the_times_are_twice_the_latency_and_the_same_ratio():
    rows = session(noisy(1.03))
    once, twice = frame_of(rows), frame_of(with_raw(rows, doubled))
    for name in ("ttft_s", "tpot_s", "e2e_s", "prefill_s"):
        assert twice[name].to_numpy() == pytest.approx(2 * once[name].to_numpy())
    assert twice["decode_tok_per_s"].to_numpy() == pytest.approx(once["decode_tok_per_s"] / 2)
    same = facts(compare(once, "edge", "transformers"))
    assert facts(compare(twice, "edge", "transformers")) == pytest.approx(same)


def test_the_order_of_the_rows_changes_nothing():
    rows = session(noisy(1.03))
    mixed = [rows[i] for i in np.random.default_rng(3).permutation(len(rows))]
    one, other = frame_of(rows), frame_of(mixed)
    assert facts(compare(other, "edge", "transformers")) == pytest.approx(
        facts(compare(one, "edge", "transformers")))  # fmt: skip
    by_key = other.set_index("key").loc[one["key"]]
    assert by_key["flags"].tolist() == one["flags"].tolist()
    assert by_key["tpot_s"].tolist() == one["tpot_s"].tolist()


def test_a_swapped_order_of_measuring_changes_drift_flags_only():
    study = {"process_runs": 1, "blocks": 12}
    rows = refusals.planted_rows(**study)
    ramp = [row | {"raw": row["raw"] | {"step_ns": [ns * (100 + row["sequence"]) // 100
                                                    for ns in row["raw"]["step_ns"]]}}
            for row in rows]  # fmt: skip
    mixed = np.random.default_rng(8).permutation(len(rows)).tolist()
    shuffled = [row | {"sequence": place} for row, place in zip(ramp, mixed, strict=True)]
    steady, moved = frame_of(ramp), frame_of(shuffled)
    assert all("drift" in flags for flags in steady["flags"])
    assert not any("drift" in flags for flags in moved["flags"])
    assert steady["tpot_s"].tolist() == moved["tpot_s"].tolist()


def test_a_split_chunk_changes_itl_and_nothing_else():
    rows = session()

    def split(raw):
        first, _, third, *rest = raw["step_ns"]
        return {"step_ns": [first, (first + third) // 3, third, *rest]}

    def joined(raw):
        first, _, third, *rest = raw["step_ns"]
        return {"step_ns": [first, third, third, *rest]}

    one, two = frame_of(with_raw(rows, joined)), frame_of(with_raw(rows, split))
    assert (one["itl_s"].iloc[0] != two["itl_s"].iloc[0]).any()
    for name in ("ttft_s", "tpot_s", "e2e_s", "decode_tok_per_s"):
        assert one[name].tolist() == two[name].tolist()


# -- the page --------------------------------------------------------------------------------------


def test_the_page_is_what_its_results_say():
    results = json.loads((ROOT / "docs" / "proof.json").read_text(encoding="utf-8"))
    assert page.text(results) == (ROOT / "docs" / "proof.md").read_text(encoding="utf-8")
    assert results["trials"] >= 1000 and all(results["refusals"].values())
    names = {row["outcome"] for row in results["rows"]}
    assert {FOUND, BEYOND, "ratio covered", "median covered", "p99 refused"} <= names


def test_a_page_of_other_results_shows_their_numbers(tmp_path):
    results = json.loads((ROOT / "docs" / "proof.json").read_text(encoding="utf-8"))
    results["rows"][0] |= {"count": 123, "share": 0.123, "low": 0.1, "high": 0.15}
    path = page.write(results, tmp_path)
    assert "123 of 1,000 (12.3 %; 10.0 % to 15.0 %)" in path.read_text(encoding="utf-8")
    assert len(list((tmp_path / "figures").glob("proof_*.svg"))) == 4
