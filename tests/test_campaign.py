"""A params file from end to end with the fake engine: all notebooks, the report, and again."""

import json
import os
import subprocess
import sys

import pytest

from llmbench import store

PARAMS = """
title: Does a whole run hold together?
studies:
  scaling:
    engines: [fake]
    engine_options: {fake: {law: n, unit_s: 1.0e-5, oom_above: 60}}
    batch_sizes: [1, 2]
    context_lens: [8, 12, 16, 40]
    process_runs: 1
    blocks: 1
    threads: 1
    output_tokens: 2
"""
NOTEBOOKS = ["00_setup", "02_scaling_study", "06_report_figures", "07_analysis"]


def planned(folder):
    """How many planned repeats have a record; others followed a disturbed one."""
    return sum(row["repeat"] == 0 for row in store.read_rows(folder)[0])


def run(folder, *words):
    command = [sys.executable, "-m", "llmbench", "run", "p.yaml", "--run-id", "whole", *words]
    clean = {k: v for k, v in os.environ.items() if k not in ("LLMBENCH_OUTPUTS", "LLMBENCH_SHARD")}
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True,
                          timeout=280, check=False)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder in which a first run was made, and what it said."""
    folder = tmp_path_factory.mktemp("campaign")
    (folder / "p.yaml").write_text(PARAMS)
    return folder, run(folder)


def test_a_first_run_ends_with_the_reports_path(whole):
    folder, done = whole
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "outputs/whole/report.html")
    page = (folder / "outputs/whole/report.html").read_text()
    assert "Does a whole run hold together?" in page
    assert "planted: 80 tokens" in page  # what ran out of memory is told


def test_every_notebook_has_an_executed_copy_and_a_true_state(whole):
    told = store.status(whole[0] / "outputs/whole")
    assert {n: b["state"] for n, b in told["notebooks"].items()} == dict.fromkeys(NOTEBOOKS, "ok")
    assert told["state"] == "done"
    copies = sorted(p.stem for p in (whole[0] / "outputs/whole/notebooks").iterdir())
    assert copies == NOTEBOOKS


def test_the_second_run_measures_nothing_and_changes_no_record(whole):
    folder = whole[0] / "outputs/whole"
    before, rows = store.digest(folder), len(store.read_rows(folder)[0])
    changed = {p: p.stat().st_mtime_ns for p in folder.rglob("*.ipynb")}
    again = run(whole[0])
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("kept from before") == len(NOTEBOOKS)
    assert (store.digest(folder), len(store.read_rows(folder)[0])) == (before, rows)
    assert changed == {p: p.stat().st_mtime_ns for p in folder.rglob("*.ipynb")}
    json.loads((folder / "status.json").read_text())


def test_a_changed_plan_of_the_same_run_adds_rows_and_keeps_the_old_parameters(whole):
    folder = whole[0] / "outputs/whole"
    rows = planned(folder)
    more = run(whole[0], "--set", "scaling.context_lens=[8, 12, 16, 24, 40]")
    assert more.returncode == 0, more.stderr
    assert planned(folder) == rows + 2
    assert "00_setup: kept" in more.stderr
    assert "02_scaling_study: done" in more.stderr
    assert len(list(folder.glob("params-*.yaml"))) == 1


def test_only_an_unknown_study_is_refused(whole):
    done = run(whole[0], "--only", "nothing")
    assert done.returncode == 2
    assert "the file has scaling" in done.stderr
