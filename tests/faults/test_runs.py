"""Faults against a whole `run`, with its notebooks: signals, a full disk, awkward names."""

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from llmbench import store
from llmbench.models.source import BUILTIN
from tests.faults.disk import PAGE, Disk
from tests.faults.door import (
    assert_each_planned_once,
    door,
    ended,
    has_rows,
    interrupt,
    measure_words,
    params_file,
    planned_keys,
    rows,
    start,
    wait_for,
)

pytestmark = [pytest.mark.faults, pytest.mark.slow]
SLOW_STEPS = {"engine_options": {"fake": {"decode_s": 0.2}}}


def run_words(folder: Path, **fields) -> list[str]:
    """`run` with a small params file in `folder`."""
    return ["run", str(params_file(folder / "p.yaml", **fields)), "--run-id", "r"]


def books(outputs: Path) -> dict[str, str]:
    """Notebook → its state, as the run's status tells it."""
    return {n: b["state"] for n, b in store.status(outputs / "r")["notebooks"].items()}


def assert_nothing_left(children: list[psutil.Process]) -> None:
    """No kernel and no engine outlives the command."""
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        pytest.param([signal.SIGINT], 130, marks=pytest.mark.exhaustive),
        ([signal.SIGINT] * 2, 130),
        pytest.param([signal.SIGTERM], 75, marks=pytest.mark.exhaustive),
    ],
    ids=["Ctrl-C", "Ctrl-C twice", "SIGTERM"],
)
def test_a_signal_while_rows_are_made(signals, code: int, tmp_path: Path, outputs: Path):
    words = run_words(tmp_path, **SLOW_STEPS)
    process = start(*words, outputs=outputs)
    wait_for(lambda: has_rows(outputs), process)
    children = psutil.Process(process.pid).children(recursive=True)
    for number in signals:
        interrupt(process) if number == signal.SIGINT else process.send_signal(number)
        time.sleep(0.1)
    told = ended(process, 60)
    assert told.code == code, told.err
    assert "Traceback" not in told.err
    assert "kept: every finished repeat" in told.err
    assert_nothing_left(children)
    assert books(outputs)["02_scaling_study"] == "interrupted"
    assert {row["status"] for row in rows(outputs)} <= {"ok", "interrupted"}
    again = door(*words, outputs=outputs)
    assert again.code == 0, again.err
    assert set(books(outputs).values()) == {"ok"}
    assert_each_planned_once(outputs, planned_keys(tmp_path / "p.yaml"))


@pytest.mark.parametrize("pause_s", [0.02, 0.4, 1.2])
def test_ctrl_c_twice_while_a_notebook_starts(pause_s: float, tmp_path: Path, outputs: Path):
    process = start(*run_words(tmp_path), outputs=outputs)
    assert process.stderr.readline() == "00_setup: running\n"
    time.sleep(pause_s)
    interrupt(process)
    time.sleep(0.05)
    interrupt(process)
    told = ended(process, 60)
    assert told.code == 130, told.err
    assert "Traceback" not in told.err


@pytest.mark.exhaustive
def test_records_held_by_another_process_are_told(tmp_path: Path, outputs: Path):
    other = start(*measure_words(engine_options={"fake": {"load_s": 90.0}}), outputs=outputs)
    try:
        wait_for((outputs / "r" / ".records.holder.json").exists, other)
        told = door(*run_words(tmp_path), outputs=outputs)
    finally:
        other.kill()
        other.communicate()
    assert told.code != 0
    assert f"process {other.pid} on this machine" in told.err
    assert door(*run_words(tmp_path), outputs=outputs).code == 0


def test_a_disk_that_fills_up_leaves_the_older_copies(tmp_path: Path, disk: Disk):
    words = run_words(tmp_path)
    first = door(*words, outputs=disk.folder, within=disk.within)
    assert first.code == 0, first.err
    folder = disk.seen / "r" / "notebooks"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    disk.fill(4 * PAGE)
    more = run_words(tmp_path, context_lens=list(range(10, 40)))
    told = door(*more, outputs=disk.folder, within=disk.within)
    assert told.code == 74, told.err
    assert "go on: free disk space, then run the same command again" in told.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    disk.free()
    again = door(*more, outputs=disk.folder, within=disk.within)
    assert again.code == 0, again.err
    assert_each_planned_once(disk.seen, planned_keys(tmp_path / "p.yaml"))


def test_an_awkward_name_of_a_model_is_carried_exactly(tmp_path: Path, outputs: Path):
    folder = tmp_path / "models" / 'we\'ird "na,me" \\n{x} =cmd|é </script> $(id) %s'
    folder.mkdir(parents=True)
    for file in (BUILTIN / "tiny").iterdir():
        (folder / file.name).symlink_to(file)
    before = set(tmp_path.iterdir())
    told = door(*run_words(tmp_path, models=[str(folder)]), outputs=outputs)
    assert told.code == 0, told.err
    assert {row["point"]["model"] for row in rows(outputs)} == {str(folder)}
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "p.yaml"}
    page = (outputs / "r" / "report.html").read_text(encoding="utf-8")
    assert "=cmd|é </script>" not in page
    executed = json.loads((outputs / "r" / "notebooks" / "02_scaling_study.ipynb").read_text())
    assert executed["cells"]


def test_a_failing_engine_fails_its_study_and_the_report_is_made(tmp_path: Path, outputs: Path):
    words = run_words(tmp_path, engine_options={"fake": {"crash_above": 25}})
    told = door(*words, outputs=outputs)
    assert told.code == 1, told.err
    assert "02_scaling_study: failed: StudyFailed: 2 of 6 repeats" in told.err
    assert "kept: every record made so far, and the report" in told.err
    assert "go on: llmbench run" in told.err
    assert (outputs / "r" / "report.html").is_file()
    assert books(outputs)["06_report_figures"] == "ok"
    assert subprocess.list2cmdline(words[1:2]) in told.err
