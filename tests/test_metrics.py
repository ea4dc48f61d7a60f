"""Definitions, identities and flags of the frame, on rows made by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench import metrics, stats, store
from llmbench.models.cost import prefill_flops
from llmbench.models.source import find_model
from llmbench.models.spec import spec_from_config
from llmbench.record import Memory, Point, Quiet, Raw, Record, Repeat, Served, Witness

ROOMS = Path(__file__).parents[1] / "docs" / "rooms.md"
MS = 1_000_000  # ns
ENVIRONMENTS = {
    "here": {"fingerprint": "f1", "roofs": {"bytes_per_s": 1e9, "flops_per_s": 1e12}},
    "bare": {"fingerprint": "f2", "roofs": None},
}


def point(**fields) -> Point:
    asked = {"study": "scaling", "model": "m", "model_sha256": "0" * 64, "engine": "edge",
             "engine_options": {}, "batch_size": 2, "prompt": "exact", "prompt_tokens": 100,
             "output_tokens": 5, "device": "cpu", "threads": 2, "seed": 1,
             "memory_limit_bytes": 0}  # fmt: skip
    return Point(**asked | fields)


def record(asked=None, *, process_run=0, block=0, repeat=0, steps=None, sha="s", **fields) -> dict:
    """A sound row: prefill 9 ms, tokens at 10, 12, 14, 16, 18 ms."""
    asked = asked or point()
    steps = [10 * MS + 2 * MS * k for k in range(asked.output_tokens)] if steps is None else steps
    key = Repeat(point=asked, process_run=process_run, block=block, repeat=repeat).key
    served = Served(engine=asked.engine, impl="cpu", weight_format="float32", weight_bytes=10**5,
                    kv_bytes_per_token=64, threads=2, device="cpu", load_s=0.5)  # fmt: skip
    parts = {
        "status": "ok", "measured_at": "2026-01-01T00:00:00", "environment": "here",
        "sequence": 1000 * process_run + 10 * block + repeat, "served": served,
        "raw": Raw(submit_ns=1, prefill_ns=9 * MS, step_ns=steps, end_ns=max(steps, default=0),
                   warmup_s=[0.2, 0.1]),
        "memory": Memory(rss_peak_bytes=10**6), "quiet": Quiet(machine_busy_share=0.01),
        "witness": Witness(output_sha256=sha, output_tokens=len(steps), end_reason="length"),
    }  # fmt: skip
    numbered = {"process_run": process_run, "block": block, "repeat": repeat}
    return Record(key=key, point=asked, **numbered, **parts | fields).model_dump()


def flags(rows) -> list[tuple]:
    """Flags without the label `preview`."""
    frame = metrics.frame_of(rows, ENVIRONMENTS, "r")
    return [tuple(f for f in names if f != "preview") for names in frame["flags"]]


def test_definitions_by_hand():
    frame = metrics.frame_of([record()], ENVIRONMENTS, "r")
    row = frame.iloc[0]
    wanted = {"ttft_s": 0.010, "prefill_s": 0.009, "e2e_s": 0.018, "tpot_s": 0.002,
              "prefill_tok_per_s": 200 / 0.009, "decode_tok_per_s": 2 * 4 / 0.008,
              "kv_read_bytes": 64 * np.mean([100, 101, 102, 103]), "warmup_s": 0.3,
              "mbu": (1e5 + 2 * 64 * 101.5) / 0.002 / 1e9, "load_s": 0.5}  # fmt: skip
    assert {name: row[name] for name in wanted} == pytest.approx(wanted)
    np.testing.assert_allclose(row["itl_s"], [0.002] * 4)
    assert row["warmups"] == 2
    assert (row["run"], row["fingerprint"], row["context_len"]) == ("r", "f1", 100)
    assert list(frame.columns) == metrics.COLUMNS


def test_of_weights_that_a_step_does_not_read_the_roof_knows_nothing():
    told = record()
    told["served"]["step_weight_bytes"] = 4 * 10**4
    row = metrics.frame_of([told], ENVIRONMENTS, "r").iloc[0]
    assert row["weight_bytes"] == 1e5
    assert row["mbu"] == pytest.approx((4e4 + 2 * 64 * 101.5) / 0.002 / 1e9)


def test_the_columns_are_those_of_the_page():
    page = ROOMS.read_text(encoding="utf-8").split("## The frame")[1]
    named = {word for part in page.split("`")[1::2] for word in part.split()}
    assert set(metrics.COLUMNS) - {"preview"} <= named


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 10**10)), min_size=1, max_size=12))
def test_identities_hold_for_any_chunking(chunks):
    """Chunks of several tokens come at one time: gaps inside a chunk are 0."""
    times = np.cumsum([gap for _, gap in chunks])
    steps = [int(t) for (tokens, _), t in zip(chunks, times, strict=True) for _ in range(tokens)]
    asked = point(output_tokens=len(steps))
    row = metrics.frame_of([record(asked, steps=steps)], ENVIRONMENTS).iloc[0]
    n = len(steps)
    decode = row["tpot_s"] * (n - 1) if n > 1 else 0.0
    assert row["ttft_s"] + decode == pytest.approx(row["e2e_s"], abs=1e-6)
    assert row["itl_s"].sum() == pytest.approx(row["e2e_s"] - row["ttft_s"], abs=1e-6)
    assert len(row["itl_s"]) == n - 1 and np.isnan(row["tpot_s"]) == (n == 1)


def test_splitting_a_chunk_changes_the_gaps_alone():
    whole = record(steps=[10 * MS, 14 * MS, 14 * MS, 18 * MS, 18 * MS])
    split = record(steps=[10 * MS, 12 * MS, 14 * MS, 17 * MS, 18 * MS])
    one, two = (metrics.frame_of([row], ENVIRONMENTS).iloc[0] for row in (whole, split))
    assert one["tpot_s"] == two["tpot_s"] and one["e2e_s"] == two["e2e_s"]
    assert one["itl_s"].tolist() != two["itl_s"].tolist()


def test_what_is_unknown_is_nan():
    asked = point(output_tokens=1)
    served = record()["served"] | {"kv_bytes_per_token": None}
    rows = [record(asked, environment="bare"),
            record(raw=Raw(submit_ns=1, step_ns=[1, 2, 3, 4, 5]), served=Served(**served)),
            record(status="oom", raw=None, served=None, memory=None, quiet=None, witness=None),
            record(environment="absent")]  # fmt: skip
    frame = metrics.frame_of(rows, ENVIRONMENTS)
    assert frame["tpot_s"].isna().tolist() == [True, False, True, False]
    assert frame["prefill_s"].isna().tolist() == [False, True, True, False]
    assert frame["mbu"].isna().all() and frame["mfu"].isna().all()
    assert frame["fingerprint"].tolist() == ["f2", "f1", "f1", "unknown"]
    assert len(frame["itl_s"][2]) == 0 and frame["impl"][2] is None
    assert frame["warmups"].tolist() == [2, 0, 0, 2]


def test_rows_may_share_their_parts():
    """The store gives equal parts as one object; a frame is the same either way."""
    one, two, three = record(), record(process_run=1), record(point(prompt_tokens=7))
    shared = two | {name: one[name] for name in ("point", "served")}
    apart, together = (metrics.frame_of([one, row, three], ENVIRONMENTS) for row in (two, shared))
    pd.testing.assert_frame_equal(apart.drop(columns="itl_s"), together.drop(columns="itl_s"))
    assert together["prompt_tokens"].tolist() == [100, 100, 7]


def test_mfu_of_a_shipped_model():
    source = find_model("builtin:tiny")
    ours = point(model=source.name, model_sha256=source.sha256)
    other = point(model=source.name, model_sha256="1" * 64)
    frame = metrics.frame_of([record(ours), record(other)], ENVIRONMENTS)
    flops = prefill_flops(spec_from_config(source.config), 100, 2)
    assert frame["mfu"][0] == pytest.approx(flops / 0.009 / 1e12)
    assert np.isnan(frame["mfu"][1])


def test_the_compute_roof_is_that_of_the_dtype_that_served():
    rates = {"float32": 1e12, "bfloat16": 4e12}
    roofs = {"bytes_per_s": 1e9, "flops_per_s": 1e12, "flops_by_dtype": rates}
    source = find_model("builtin:tiny")
    asked = point(model=source.name, model_sha256=source.sha256)
    rows = [record(asked), record(asked), record(asked)]
    for row, dtype in zip(rows, ("float32", "bfloat16", "float16"), strict=True):
        row["served"] = row["served"] | {"weight_format": dtype}
    share = metrics.frame_of(rows, {"here": {"fingerprint": "f", "roofs": roofs}})["mfu"]
    assert share[0] == pytest.approx(4 * share[1])
    assert np.isnan(share[2])


def test_a_roof_holds_for_the_threads_it_was_probed_with():
    roofs = {"bytes_per_s": 1e9, "flops_per_s": 1e12, "raw": {"threads": 2}}
    rows = [record(), record(point(threads=4)), record(point(device="cuda"))]
    frame = metrics.frame_of(rows, {"here": {"fingerprint": "f", "roofs": roofs}})
    assert frame["mbu"].notna().tolist() == [True, False, False]


def test_gaps_stay_within_their_row():
    one, two = record(), record(point(output_tokens=2), steps=[30 * MS, 33 * MS])
    gaps = metrics.frame_of([one, two, one], ENVIRONMENTS)["itl_s"]
    assert [len(itl) for itl in gaps] == [4, 1, 4]
    np.testing.assert_allclose(np.concatenate(gaps.tolist()), [*[0.002] * 4, 0.003, *[0.002] * 4])


def test_an_empty_run_has_the_columns():
    frame = metrics.frame_of([], {})
    assert list(frame.columns) == metrics.COLUMNS and frame.empty


def test_times_twice_as_long():
    slow = record(steps=[2 * t for t in record()["raw"]["step_ns"]])
    one, two = (metrics.frame_of([row], ENVIRONMENTS).iloc[0] for row in (record(), slow))
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        assert two[name] == pytest.approx(2 * one[name])
    assert two["decode_tok_per_s"] == pytest.approx(one["decode_tok_per_s"] / 2)


def test_short():
    assert flags([record(steps=[MS, 2 * MS])]) == [("short",)]
    assert flags([record(steps=[MS], status="engine_lost")]) == [()]


def test_duplicate_is_the_later_of_two_settled_rows():
    later = record(measured_at="2026-01-02T00:00:00")
    assert flags([later, record()]) == [("duplicate",), ()]
    elsewhere = record(measured_at="2026-01-02T00:00:00", environment="bare")
    assert flags([record(), elsewhere]) == [(), ()]


def test_another_try_after_a_timeout_is_no_duplicate():
    lost = record(status="timeout", raw=None, witness=None)
    assert flags([lost, record(measured_at="2026-01-02T00:00:00")]) == [(), ()]


def test_incorrect_is_the_minority_of_process_runs():
    rows = [record(process_run=run, sha="odd" if run == 2 else "even") for run in range(4)]
    assert flags(rows) == [(), (), ("incorrect",), ()]
    assert flags([*rows[:2], record(process_run=5, block=1, sha="odd")]) == [(), (), ()]
    assert flags([rows[0], rows[2]]) == [("incorrect",), ("incorrect",)]  # no majority


def drifting(share: float) -> list[dict]:
    """Ten repeats of one process run whose times grow by `share` over it, and ten steady ones."""
    rows = []
    for run, growth in ((0, share), (1, 0.0)):
        for block in range(10):
            wiggle = 1 + growth * block / 9 + 0.0005 * (block % 3)
            steps = [int(t * wiggle) for t in record()["raw"]["step_ns"]]
            rows.append(record(process_run=run, block=block, steps=steps))
    return rows


def test_drift_flags_the_process_run_that_drifts():
    assert flags(drifting(0.08)) == [("drift", "unsteady")] * 10 + [()] * 10
    assert flags(drifting(0.004)) == [()] * 20  # below 1 %
    assert flags(drifting(0.08)[:5]) == [()] * 5  # too few to tell


def stepping(share: float, at: int) -> list[dict]:
    """Two processes of twenty repeats; the first is slower by `share` from its `at`-th on."""
    rows = []
    for run, change in ((0, share), (1, 0.0)):
        for block in range(20):
            wiggle = 1 + change * (block >= at) + 0.002 * (block % 3)
            steps = [int(t * wiggle) for t in record()["raw"]["step_ns"]]
            rows.append(record(process_run=run, block=block, steps=steps))
    return rows


def test_a_process_that_keeps_no_level_is_labelled_and_may_still_be_claimed():
    rows = metrics.frame_of(stepping(0.05, 10), ENVIRONMENTS)
    labelled = rows["flags"].map(lambda flags: "unsteady" in flags)
    assert labelled.tolist() == [True] * 20 + [False] * 20
    assert not any("unsteady" in names for names in flags(stepping(0.005, 10)))  # below 1 %
    assert not any("unsteady" in names for names in flags(stepping(0.05, 1)))  # one odd repeat
    assert "unsteady" in stats.LABELS


def test_order_on_disk_changes_nothing():
    rows = drifting(0.08)
    turned = flags(rows[::-1])
    assert turned[::-1] == flags(rows)


def test_preview_of_one_engine_and_of_a_comparison():
    five = [record(process_run=run) for run in range(5)]
    assert metrics.frame_of(five, ENVIRONMENTS)["preview"].all()
    assert not metrics.frame_of([*five, record(process_run=5)], ENVIRONMENTS)["preview"].any()
    both = [record(point(engine=engine), process_run=run, block=block)
            for engine in ("edge", "ollama") for run in range(5) for block in range(2)]  # fmt: skip
    assert not metrics.frame_of(both, ENVIRONMENTS)["preview"].any()
    fewer = metrics.frame_of(both[:-1], ENVIRONMENTS)
    assert fewer["preview"].tolist() == [False] * 10 + [True] * 9
    assert fewer["flags"].iloc[-1] == ("preview",)
    assert len(metrics.claimable(fewer)) == 19  # a label, not an exclusion


def test_stored_flags_stay_and_exclude():
    frame = metrics.frame_of([record(flags=["cold", "preview"])], ENVIRONMENTS)
    assert frame["flags"][0] == ("cold", "preview") and frame["preview"][0]
    assert metrics.claimable(frame).empty


def fill(folder, rows) -> None:
    """A run on disk."""
    (folder / "records").mkdir(parents=True)
    environments = {"environments": ENVIRONMENTS}
    (folder / "environment.json").write_text(json.dumps(environments))
    with store.Journal(folder) as journal:
        for row in rows:
            journal.append(Record(**row))


def test_read_joins_runs_and_knows_copies(tmp_path):
    fill(tmp_path / "a", [record(), record(process_run=1)])
    fill(tmp_path / "b", [record(), record(process_run=1, measured_at="2026-01-03T00:00:00")])
    frame = metrics.read(tmp_path / "a", tmp_path / "b")
    assert frame["run"].tolist() == ["a", "a", "b", "b"]
    copied = ["duplicate" in names for names in frame["flags"]]
    assert sum(copied) == 1 and copied.index(True) >= 2  # the same measurement in both folders
    assert frame.attrs["unread"] == 0
    pd.testing.assert_frame_equal(
        metrics.read(tmp_path / "a").drop(columns="itl_s"), frame[:2].drop(columns="itl_s")
    )


def test_a_run_without_rows_changes_nothing(tmp_path):
    fill(tmp_path / "a", [record()])
    fill(tmp_path / "empty", [])
    frame = metrics.read(tmp_path / "empty", tmp_path / "a")
    assert frame["batch_size"].dtype == np.int64 and len(frame) == 1
    assert list(metrics.read(tmp_path / "empty").columns) == metrics.COLUMNS


def test_read_counts_what_it_cannot_read(tmp_path):
    fill(tmp_path / "a", [record()])
    journal = next((tmp_path / "a" / "records").iterdir())
    journal.write_bytes(journal.read_bytes() + b"{torn")
    frame = metrics.read(tmp_path / "a")
    assert len(frame) == 1 and frame.attrs["unread"] == 1


def test_other_options_and_other_children_are_told_apart():
    from llmbench import findings
    from tests import synthetic

    one = synthetic.rows(process_runs=6)
    other = synthetic.rows(process_runs=6, slower=10.0).assign(options='{"unit_s":0.1}')
    table = findings.summary(pd.concat([one, other], ignore_index=True), "prefill_s")
    assert len(table) == 2 * len(findings.summary(one, "prefill_s"))
    reloaded = one.assign(child=one["block"].map(str))
    assert set(findings.summary(reloaded, "prefill_s")["process_runs"]) == {12}


@pytest.mark.parametrize(
    ("views", "held"),
    [
        ({"rss_peak_bytes": 7, "tree_peak_bytes": 5, "tree_rss_bytes": 6}, 7),  # in one process
        ({"rss_peak_bytes": None, "tree_peak_bytes": 9, "tree_rss_bytes": 6}, 9),  # its servers too
        ({"rss_peak_bytes": None, "tree_peak_bytes": None, "tree_rss_bytes": 6}, 6),
    ],
)
def test_the_memory_of_an_engine_is_the_most_that_its_processes_held(views, held):
    row = record() | {"memory": Memory(**views).model_dump()}
    assert metrics.frame_of([row], ENVIRONMENTS, "r")["peak_bytes"].item() == held
