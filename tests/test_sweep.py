"""Plan + store + real children: what is done stays done, a fault becomes a record."""

import json
import shlex
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psutil
import pytest

from llmbench import engines, store, tables
from llmbench.errors import BadParams, Missing, ServesSlowly, StoreFailed, StudyFailed
from llmbench.findings import about, circumstances
from llmbench.findings.windows import window_sentences
from llmbench.hardware import environment, usable_cpus
from llmbench.metrics import read
from llmbench.models import shapes
from llmbench.models.source import find_model
from llmbench.sweep import describe_machine, measure, status
from llmbench.turns import PATIENCE_S, Patience
from llmbench.worker import Child, ChildLost

SMALL = {"engines": ["fake"], "batch_sizes": [1], "context_lens": [10, 20, 30], "process_runs": 2,
         "blocks": 1, "output_tokens": 2, "threads": 1}  # fmt: skip


@pytest.fixture
def outputs(tmp_path):
    """An outputs folder whose run `r` already knows the roofs, so that none are measured."""
    folder = store.create_run("r", tmp_path)
    roofs = {"bytes_per_s": 1e10, "flops_per_s": 1e11, "source": "planted", "raw": {}}
    store.add_environment(folder, environment({"roofs": roofs, "roof_threads": 1}))
    return tmp_path


def run(outputs, **fields):
    return measure("scaling", outputs=outputs, **(SMALL | {"run_id": "r"} | fields))


def rows(outputs):
    found, faults = store.read_rows(outputs / "r")
    assert not faults
    return [row for row in found if row["repeat"] == 0]  # without those tried again when disturbed


def test_every_planned_repeat_once_and_nothing_the_second_time(outputs):
    first, second = run(outputs), run(outputs)
    assert (first.planned, first.measured, first.complete) == (6, 6, True)
    assert (second.measured, second.settled, second.complete) == (0, 6, True)
    assert len({row["key"] for row in rows(outputs)}) == 6


def test_a_larger_plan_measures_only_what_is_new(outputs):
    run(outputs)
    assert run(outputs, context_lens=[10, 20, 30, 40]).measured == 2


def test_a_model_without_room_on_the_disk_is_left_out_and_the_others_are_measured(
    outputs, monkeypatch
):
    monkeypatch.setenv("LLMBENCH_CACHE", str(outputs / "cache"))
    monkeypatch.setattr(shapes, "free_bytes", lambda name: 10**8)
    done = run(outputs, models=["shape:llama-3.1-8b", "builtin:tiny"])
    assert (done.measured, done.complete, list(done.left_out)) == (6, True, ["shape:llama-3.1-8b"])
    (said,) = circumstances.deferred([about(outputs / "r")])
    assert said.startswith("shape:llama-3.1-8b was left out of scaling in r: models: ")
    assert "MiB of disk" in said
    with pytest.raises(StoreFailed, match="MiB of disk"):
        run(outputs, models=["shape:llama-3.1-8b"])


def test_another_machine_measures_again(outputs, monkeypatch):
    run(outputs)
    monkeypatch.setattr("llmbench.sweep.fingerprint", lambda _: "0" * 16)
    assert run(outputs).measured == 6


@pytest.mark.parametrize(
    ("planted", "expected", "reason"),
    [
        ({"oom_above": 25}, "oom", "planted: 30 tokens"),
        ({"crash_above": 25}, "failed", "signal SIGKILL"),
        ({"crash_above": 25, "crash": "SIGSEGV"}, "failed", "signal SIGSEGV"),
        ({"crash_above": 25, "crash": "exit"}, "failed", "exit code 0"),
        ({"hang_above": 25}, "timeout", "no answer within 3 s"),
    ],
)
def test_a_fault_becomes_a_record_and_the_sweep_goes_on(outputs, planted, expected, reason):
    done = run(outputs, engine_options={"fake": planted}, process_runs=1, timeout_s=3.0)
    by_size = {r["point"]["prompt_tokens"]: (r["status"], r["reason"]) for r in rows(outputs)}
    assert by_size[10][0] == by_size[20][0] == "ok"
    assert by_size[30][0] == expected
    assert reason in by_size[30][1]
    assert done.complete == (expected == "oom")


def test_a_crash_names_the_model_and_the_bytes_of_its_file(outputs):
    run(outputs, engine_options={"fake": {"crash_above": 1}}, process_runs=1, context_lens=[10])
    [lost] = rows(outputs)
    sha256 = find_model("builtin:tiny").sha256
    assert f"signal SIGKILL, with builtin:tiny (sha256 {sha256[:12]})" in lost["reason"]


def test_failures_are_tried_again_and_settled_rows_are_not(outputs):
    planted = {"engine_options": {"fake": {"crash_above": 25}}, "process_runs": 1}
    run(outputs, **planted)
    assert run(outputs, **planted).statuses == {"failed": 1}


def test_an_engine_that_only_fails_is_left_alone(outputs):
    sizes = list(range(10, 20))
    done = run(outputs, engine_options={"fake": {"crash_above": 1}}, context_lens=sizes,
               process_runs=1)  # fmt: skip
    assert (done.measured, done.planned, done.settled) == (3, 10, 0)
    with pytest.raises(StudyFailed, match="10 of 10 repeats"):
        done.assert_complete()


def test_what_an_engine_cannot_do_is_said_for_each_repeat(outputs):
    done = run(outputs, device="cuda", process_runs=1)
    assert done.statuses == {"unsupported": 3}
    assert all("no device 'cuda'" in row["reason"] for row in rows(outputs))


def test_unknown_engine_options_stop_before_anything_starts(outputs):
    with pytest.raises(BadParams, match=r"did you mean 'law'"):
        run(outputs, engine_options={"fake": {"lew": "n"}})
    assert rows(outputs) == []


def test_the_budget_defers_and_the_same_call_goes_on(outputs):
    slow = {"engine_options": {"fake": {"decode_s": 0.1}}}
    first = run(outputs, budget_minutes=0.005, **slow)
    assert first.deferred == first.planned - first.settled > 0
    first.assert_complete()
    assert run(outputs, **slow).complete


def test_engines_of_a_comparison_are_interleaved_and_never_overlap(outputs):
    run(outputs, engines=["fake", "transformers"], context_lens=[16, 24], blocks=2, process_runs=1)
    found = sorted(rows(outputs), key=lambda r: r["sequence"])
    assert {r["status"] for r in found} == {"ok"}
    pairs = [tuple(r["point"]["engine"] for r in found[i : i + 2]) for i in range(0, 8, 2)]
    assert all(sorted(pair) == ["fake", "transformers"] for pair in pairs)
    turns = [(r["raw"]["submit_ns"], r["raw"]["submit_ns"] + r["raw"]["end_ns"]) for r in found]
    assert all(a_end <= b for (_, a_end), (b, _) in pairwise(turns))


def test_warm_ups_are_kept_apart_and_their_absence_is_flagged(outputs):
    run(outputs, process_runs=1)
    assert [len(r["raw"]["warmup_s"]) for r in rows(outputs)] == [1, 1, 1]
    run(outputs, process_runs=1, warmups=0, seed=3)
    cold = [r for r in rows(outputs) if r["point"]["seed"] == 3]
    assert all("cold" in r["flags"] and r["raw"]["warmup_s"] == [] for r in cold)


def test_process_runs_ask_the_same_questions(outputs):
    run(outputs)
    hashes = {}
    for row in rows(outputs):
        key = (row["point"]["prompt_tokens"], row["block"])
        hashes.setdefault(key, set()).add(row["witness"]["output_sha256"])
    assert all(len(same) == 1 for same in hashes.values())


def test_status_counts_from_the_records(outputs):
    run(outputs)
    told = status("r", outputs)
    assert told["studies"]["scaling"] == {"planned": 6, "left": 0, "ok": 6}
    assert "llmbench measure" in told["command"]
    place = shlex.quote(str(outputs / "r"))
    assert told["next"] == [f"llmbench report {place}", f"llmbench scaling {place}"]


def test_what_is_not_done_has_no_next_but_the_command_that_goes_on(outputs):
    run(outputs, engine_options={"fake": {"crash_above": 25}})
    told = status("r", outputs)
    assert told["studies"]["scaling"]["left"] == 2
    assert told["next"] == [] and told["command"]


def test_a_run_in_the_usual_place_is_next_called_by_its_name(outputs, monkeypatch):
    run(outputs)
    monkeypatch.setenv("LLMBENCH_OUTPUTS", str(outputs))
    assert status("r")["next"][0] == "llmbench report r"
    monkeypatch.delenv("LLMBENCH_OUTPUTS")
    monkeypatch.chdir(outputs)
    assert status("r", outputs)["next"][0] == "llmbench report ./r"


def test_shards_join_to_the_whole(outputs, tmp_path):
    for part in ("1/2", "2/2"):
        measure("scaling", shard=part, outputs=outputs, **SMALL, run_id="r")
    assert len({row["key"] for row in rows(outputs)}) == 6


def test_the_environment_is_kept_and_named_by_each_row(outputs):
    run(outputs)
    known = json.loads((outputs / "r" / "environment.json").read_text())["environments"]
    assert {row["environment"] for row in rows(outputs)} <= set(known)


def test_a_child_ends_with_its_parents_lifeline():
    child = Child(threads=1)
    with pytest.raises(ChildLost, match="no answer within"):
        child.ask({"do": "load", "engine": "fake", "model": "builtin:tiny",
                   "sha256": find_model("builtin:tiny").sha256, "options": {"load_s": 60.0},
                   "memory_limit_bytes": 0}, 2.0)  # fmt: skip
    assert not psutil.pid_exists(child.process.pid)
    child.kill()


def test_a_disturbed_repeat_is_tried_once_more_and_both_are_kept(outputs, monkeypatch):
    busy = iter(range(1000))  # every look finds one more CPU second used by others
    monkeypatch.setattr("llmbench.turns.busy_cpu_s", lambda: float(next(busy)))
    monkeypatch.setattr("llmbench.turns.Patience.wait_for_quiet", lambda self: True)
    done = run(outputs, process_runs=1, context_lens=[10])
    assert (done.planned, done.measured, done.settled) == (1, 1, 1)
    first, second = store.read_rows(outputs / "r")[0]
    assert (first["repeat"], second["repeat"]) == (0, 1)
    assert first["flags"] == ["contaminated"]
    assert first["key"] != second["key"]
    assert run(outputs, process_runs=1, context_lens=[10]).measured == 0


def test_the_last_repeat_of_a_process_tells_what_releasing_its_model_leaves(outputs, monkeypatch):
    quiet = iter([False, True])  # the second window is disturbed, and taken again
    monkeypatch.setattr("llmbench.sweep._probe", lambda threads: {"roofs": None})  # it waits, too
    monkeypatch.setattr("llmbench.sweep.flags_of", lambda answer, warmups, still: ["contaminated"])
    monkeypatch.setattr("llmbench.turns.Patience.wait_for_quiet", lambda self: next(quiet))
    measure("context_windows", outputs=outputs, run_id="r", engines=["fake"], prompts=[],
            context_lens=[32, 64], output_tokens=4, process_runs=1, blocks=1)  # fmt: skip
    found = store.read_rows(outputs / "r")[0]
    assert [(r["repeat"], r["memory"]["released"] is not None) for r in found] == [
        (0, True), (0, False), (1, True)
    ]  # fmt: skip
    assert found[0]["memory"]["released"]["rss_bytes"] > 0


def test_studies_of_speed_alone_release_nothing(outputs):
    run(outputs, process_runs=1)
    assert {str(row["memory"]["released"]) for row in rows(outputs)} == {"None"}


def test_an_engine_that_sets_a_window_aside_is_told_which(outputs, monkeypatch):
    asked = []
    monkeypatch.setattr("llmbench.turns.Child.ask", lambda self, message, timeout_s: (
        asked.append(message), {"status": "refused", "reason": "enough is seen"})[1])  # fmt: skip
    measure("context_windows", outputs=outputs, run_id="r", engines=["fake"], prompts=["hello"],
            context_lens=[32, 64], output_tokens=4, process_runs=1, blocks=1)  # fmt: skip
    loads = [message["window"] for message in asked if message["do"] == "load"]
    assert sorted(loads) == [32, 64, 2048]


@pytest.mark.parametrize("asked", [False, True])
def test_windows_beyond_the_trained_context_only_when_asked_and_labelled(
    outputs, asked, monkeypatch
):
    monkeypatch.setattr("llmbench.turns.Patience.wait_for_quiet", lambda self: False)
    measure("context_windows", outputs=outputs, run_id="r", engines=["fake"], prompts=["hello"],
            context_lens=[2048, 4096], output_tokens=4, answer_tokens=4, process_runs=1, blocks=1,
            beyond_trained=asked, threads=1)  # fmt: skip
    told = {row["point"]["window"]: (row["status"], "beyond_context" in row["flags"])
            for row in rows(outputs) if row["point"]["prompt"] == "exact"}  # fmt: skip
    assert told == {2048: ("ok", False), 4096: ("ok", True) if asked else ("refused", False)}
    frame = read(outputs / "r")
    frame["flags"] = [tuple({*flags} & {"beyond_context"}) for flags in frame["flags"]]
    table = tables.windows_table(frame)
    assert list(table["Doubling"]) == ["2,048 → 4,096 (cost only)"] * asked
    said = window_sentences(frame)
    assert ("2,048 → 4,096 tokens (cost only), takes" in " ".join(said)) == asked


def test_patience_ends_and_is_as_long_as_it_was_told(monkeypatch):
    monkeypatch.setattr("llmbench.turns.busy_cpu_s", time.perf_counter)  # a core is always busy
    monkeypatch.setattr("llmbench.turns.psutil.cpu_count", lambda: 1)
    monkeypatch.setenv("LLMBENCH_PATIENCE_S", "0.5")
    patience = Patience()
    assert not patience.wait_for_quiet() and patience.left_s == 0.0
    monkeypatch.setattr("llmbench.turns.busy_cpu_s", lambda: 0.0)
    assert not patience.wait_for_quiet()  # even now: nothing is left of it
    monkeypatch.delenv("LLMBENCH_PATIENCE_S")
    assert Patience().left_s == PATIENCE_S and Patience().wait_for_quiet()


@pytest.mark.parametrize("told", ["for ever", "", "nan", "inf", "-1"])
def test_a_patience_that_is_no_number_of_seconds_stops_before_anything(told, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_PATIENCE_S", told)
    with pytest.raises(BadParams, match="no number of seconds"):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_changed_since_the_plan_are_not_measured(outputs, monkeypatch):
    same = find_model("builtin:tiny")
    changed = type(same)(same.name, same.folder, "0" * 64)
    monkeypatch.setattr("llmbench.points.find_model", lambda name: changed)
    run(outputs, process_runs=1, context_lens=[10])
    assert "changed since the plan" in rows(outputs)[0]["reason"]


def test_an_unknown_message_is_an_answer_not_a_crash():
    child = Child(threads=1)
    try:
        assert child.ask({"do": "nonsense"}, 20.0)["status"] == "failed"
    finally:
        child.kill()


def test_roofs_are_measured_once_and_used_by_other_runs_of_the_hour(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    measured = []

    def probe(threads):
        taken = (datetime.now(UTC) - timedelta(hours=2 * (not measured))).isoformat()
        measured.append(threads)
        raw = {"threads": threads, "others_busy_share": 0.0, "taken_at": taken}
        return {"roofs": {"bytes_per_s": 1e10 * len(measured), "flops_per_s": 1e11,
                          "source": "planted", "raw": raw}, "roofs_reason": None}  # fmt: skip

    monkeypatch.setattr("llmbench.sweep._probe", probe)
    told = [describe_machine(name, 1, tmp_path)["roofs"] for name in ("a", "a", "b", "c")]
    assert [roofs["bytes_per_s"] for roofs in told] == [1e10, 1e10, 2e10, 2e10]
    assert measured == [1, 1], "the first was two hours old; the second served run c"


def test_the_tree_is_watched_over_the_turn_and_the_period_is_kept(outputs):
    run(outputs, engine_options={"fake": {"decode_s": 0.15}}, process_runs=1)
    for row in rows(outputs):
        memory = row["memory"]
        assert memory["tree_peak_bytes"] > 10 * 2**20
        assert memory["tree_peak_bytes"] >= 0.9 * memory["tree_rss_bytes"]
        assert memory["sampling_period_s"] > 0


def test_what_a_lost_child_held_is_kept(outputs):
    run(outputs, engine_options={"fake": {"hang_above": 25}}, process_runs=1, timeout_s=2.0)
    [lost] = [row for row in rows(outputs) if row["status"] == "timeout"]
    assert lost["memory"]["tree_peak_bytes"] > 10 * 2**20


def test_shares_of_memory_are_sampled_once_a_child_apart_from_its_turns(outputs):
    run(outputs)
    audited = {row["key"]: row["memory"] for row in rows(outputs) if row["audit"]}
    others = [row["memory"] for row in rows(outputs) if not row["audit"]]
    assert audited and others
    for told in audited.values():
        assert 0 < told["tree_uss_peak_bytes"] <= told["tree_pss_peak_bytes"]
    assert {told["tree_pss_peak_bytes"] for told in others} == {None}


def test_formats_of_weights_reach_the_engines_and_the_frame(outputs, own_cache):
    measure("ollama_comparison", outputs=outputs, run_id="r", target="edge", baselines=["fake"],
            weights=["Q8_0", "F16"], prompts=["hello"], output_tokens=2, process_runs=1, blocks=1,
            warmups=0, threads=1)  # fmt: skip
    frame = read(outputs / "r")
    frame = frame[frame["repeat"] == 0]  # others followed a disturbed one
    assert len(frame) == 6 and (frame["status"] == "ok").all()
    fake = frame[frame["engine"] == "fake"]
    assert (fake["weights"] == fake["weight_format"]).all()  # what it was asked to serve
    kept = sorted(path.name.rpartition("-")[2] for path in own_cache.rglob("*.gguf"))
    assert kept == ["F16.gguf", "Q8_0.gguf"]


def test_memory_is_probed_before_every_turn_and_what_loading_takes_is_kept(outputs):
    measure("ollama_comparison", outputs=outputs, run_id="r", target="edge", baselines=["fake"],
            prompts=["hello"], output_tokens=2, process_runs=1, blocks=2, warmups=0,
            threads=1)  # fmt: skip
    frame = read(outputs / "r")
    assert set(frame["engine"]) == {"edge", "fake"} and frame["twin"].any()
    assert (frame["read_bytes_per_s"] > 0).all()
    held = frame.groupby(["engine", "twin"])["held_bytes"].first()
    weights = frame.loc[frame["engine"] == "edge", "weight_bytes"].iloc[0]
    assert held["edge", False] > held["fake", False] + weights and held["fake", True] > 0
    assert (frame["loaded_pss_bytes"] <= frame["loaded_bytes"]).all()


def test_who_measures_is_told_that_an_engine_serves_slowly(outputs):
    many = usable_cpus() + 1
    with pytest.warns(ServesSlowly, match=f"{many} threads on"):
        run(outputs, engines=["edge"], context_lens=[10], process_runs=1, threads=many)


def test_a_type_that_only_llamacpp_makes_is_refused_without_it_before_anything(
    outputs, monkeypatch
):
    there = engines.find_spec
    monkeypatch.setattr(
        engines, "find_spec", lambda name: None if name == "llama_cpp" else there(name)
    )
    with pytest.raises(Missing, match="no llama_cpp"):
        measure("ollama_comparison", outputs=outputs, run_id="r", target="edge",
                baselines=["fake"], weights=["Q8_0", "Q4_K_M"])  # fmt: skip
    assert not rows(outputs)


def test_a_file_that_cannot_be_made_is_told_by_each_repeat(outputs, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    done = measure("ollama_comparison", outputs=outputs, run_id="r", target="edge",
                   baselines=["fake"], weights=["Q8_0"], prompts=["hello"], output_tokens=2,
                   process_runs=1, blocks=1, warmups=0, threads=1,
                   engine_options={"edge": {"impl": "reference"}})  # fmt: skip
    assert done.statuses == {"ok": 2, "failed": 1}  # the planted law reads no file
    [lost] = [row for row in rows(outputs) if row["status"] == "failed"]
    assert "cannot be made" in lost["reason"]


def test_a_comparison_is_audited_in_its_first_process_runs_only(outputs):
    measure(
        "ollama_comparison",
        outputs=outputs,
        run_id="r",
        target="edge",
        baselines=["fake"],
        prompts=["hello"],
        output_tokens=2,
        process_runs=3,
        blocks=1,
        warmups=0,
        threads=1,
    )
    frame = read(outputs / "r")
    asked = frame[frame["audit"].notna()]
    assert set(frame["process_run"]) == {0, 1, 2}
    assert asked.groupby("process_run").size().to_dict() == {0: 3, 1: 3}  # a contender's child each
