"""The command line: exit codes, data on stdout, words on stderr, light to start."""

import json
import subprocess
import sys

import pytest

from llmbench import store
from llmbench.hardware import environment
from tests.said import llmbench as command

FAKE = ["--engines", "fake", "--context-lens", "10", "20", "--batch-sizes", "1"]
FAKE += ["--process-runs", "1", "--blocks", "1", "--threads", "1", "--output-tokens", "2"]


@pytest.fixture
def llmbench(tmp_path):
    """The command, with outputs in a folder whose run `r` knows the roofs."""
    folder = store.create_run("r", tmp_path)
    roofs = {"bytes_per_s": 1e10, "flops_per_s": 1e11, "source": "planted", "raw": {}}
    store.add_environment(folder, environment({"roofs": roofs, "roof_threads": 1}))

    def run(*words, code=0):
        outputs = [] if words[0] in ("doctor", "--help", "--version") else ["--outputs", tmp_path]
        done = command(*words, *outputs)
        assert done.returncode == code, done.stderr
        return done

    return run


def test_measure_takes_lists_and_prints_facts(llmbench):
    facts = json.loads(llmbench("measure", "scaling", *FAKE, "--run-id", "r", "--json").stdout)
    assert (facts["planned"], facts["measured"], facts["statuses"]) == (2, 2, {"ok": 2})
    again = json.loads(llmbench("measure", "scaling", *FAKE, "--run-id", "r", "--json").stdout)
    assert again["measured"] == 0
    assert again["flagged"]["flags"]["preview"] == again["flagged"]["rows"] == 2
    assert [line.split()[1] for line in again["next"]] == ["report", "scaling"]


def test_measure_ends_with_what_is_flagged_and_what_to_do_next(llmbench):
    said = llmbench("measure", "scaling", *FAKE, "--run-id", "r").stdout.splitlines()
    assert said[-3].startswith("2 of 2 rows are flagged: ") and "preview 2" in said[-3]
    assert [line.split()[2] for line in said[-2:]] == ["report", "scaling"]


def test_measure_reads_values_with_the_strictness_of_a_file(llmbench):
    said = llmbench("measure", "scaling", "--block", "1", code=2).stderr
    assert "did you mean 'blocks'" in said
    assert (
        "must be a valid integer" in llmbench("measure", "scaling", "--blocks", "x", code=2).stderr
    )
    assert "one value" in llmbench("measure", "scaling", "--blocks", "1", "2", code=2).stderr
    assert "did you mean 'scaling'" in llmbench("measure", "scalin", code=2).stderr


def test_measure_a_study_of_a_file(llmbench, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("studies:\n  scaling: {engines: [fake], context_lens: [8], process_runs: 1,"
                    " threads: 1, run_id: r}\n")  # fmt: skip
    assert json.loads(llmbench("measure", str(path), "--json").stdout)["settled"] == 4
    assert "fields stand in" in llmbench("measure", str(path), "--blocks", "1", code=2).stderr
    assert "has scaling" in llmbench("measure", str(path), "--only", "x", code=2).stderr


def test_failures_end_with_1_and_say_what_is_kept_and_how_to_go_on(llmbench):
    planted = ["--engine-options", "{fake: {crash_above: 15}}"]
    said = llmbench("measure", "scaling", *FAKE, *planted, "--run-id", "r", code=1).stderr
    assert "1 of 2 repeats failed" in said
    assert "kept:" in said
    assert "go on:" in said


def test_out_of_memory_is_data(llmbench):
    planted = ["--engine-options", "{fake: {oom_above: 15}}"]
    llmbench("measure", "scaling", *FAKE, *planted, "--run-id", "r", code=0)


def test_nothing_possible_here_ends_with_3(llmbench):
    said = llmbench("measure", "scaling", *FAKE, "--device", "cuda", "--run-id", "r", code=3).stderr
    assert "llmbench doctor" in said


def test_plan_status_check_and_report_of_a_run(llmbench, tmp_path):
    llmbench("measure", "scaling", *FAKE, "--run-id", "r")
    told = json.loads(llmbench("status", "r", "--json").stdout)
    assert told["studies"]["scaling"] == {"planned": 2, "left": 0, "ok": 2}
    said = llmbench("status", "r").stdout
    assert "2 ok of 2 planned, 0 left" in said and "{" not in said
    assert "next: llmbench report " in said and "go on" not in said
    checked = llmbench("check", "r").stdout
    assert "no faults found" in checked
    assert "2 of 2 rows carry flags that keep them out of claims: " in checked
    assert "preview 2" in checked
    page = llmbench("report", "r").stdout.strip()
    assert page.endswith("report.html")
    assert (tmp_path / "r" / "report.html").is_file()


def test_too_little_for_a_law_ends_with_4(llmbench):
    llmbench("measure", "scaling", *FAKE, "--run-id", "r")
    assert "no law can be claimed" in llmbench("scaling", "r", code=4).stderr


def test_merge_of_a_run_into_another(llmbench, tmp_path):
    llmbench("measure", "scaling", *FAKE, "--run-id", "r")
    merged = llmbench("merge", "r", "--into", "both").stdout
    assert not set("[]{}") & set(merged)
    said = llmbench("status", "both").stdout
    assert f"next: llmbench report {tmp_path / 'both'}" in said and "{" not in said
    rows = store.read_rows(tmp_path / "both")[0]
    assert sum(row["repeat"] == 0 for row in rows) == 2  # others followed a disturbed one
    assert "one of the runs to merge" in llmbench("merge", "r", "--into", "r", code=2).stderr


def test_the_help_of_measure_lists_a_studys_fields(llmbench):
    assert "--context-lens" in llmbench("measure", "scaling", "--help").stdout
    assert "measure attention --help" in llmbench("measure", "--help").stdout


def test_unknown_runs_and_names_that_lead_out_are_refused(llmbench):
    assert "no run 'nope'" in llmbench("status", "nope", code=2).stderr
    for name in ("../r", "/etc", "a\nb"):
        llmbench("status", name, code=2)
        llmbench("measure", "scaling", *FAKE, "--run-id", name, code=2)


def test_a_wrong_shard_and_a_target_outside_start_nothing(llmbench, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("studies:\n  scaling: {engines: [fake]}\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    assert "I/N" in llmbench("run", str(path), "--shard", "3/2", code=2).stderr
    for target in ("../out", "/tmp/out", "a/b"):
        assert "run id" in llmbench("merge", "r", "--into", target, code=2).stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_plan_prints_points_and_measures_nothing(llmbench, tmp_path):
    done = llmbench("plan", "params/demo.yaml", "--json")
    facts = json.loads(done.stdout)
    assert facts["repeats"] == sum(p["repeats"] for p in facts["points"])
    assert all(p["peak_bytes"] > 0 for p in facts["points"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]


def test_statistics_are_loaded_when_they_are_asked_for():
    code = (
        "import sys, llmbench.metrics, llmbench.laws, llmbench.pairs, llmbench.findings;"
        "sys.exit('scipy.stats' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_starting_is_light():
    code = (
        "import sys, llmbench, llmbench.cli; from llmbench import errors;"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'pydantic', 'scipy'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
