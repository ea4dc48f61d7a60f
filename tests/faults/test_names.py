"""Names from outside never lead out of the outputs folder, nor do links inside it."""

import os
from pathlib import Path

import pytest

from tests.faults.door import (
    assert_each_planned_once,
    door,
    measure_words,
    params_file,
    planned_keys,
    quick,
    tree,
)

pytestmark = pytest.mark.faults
HOSTILE = ["../x", "a/../../x", "/tmp/x-from-a-run-id", "..", ".", "a..b", "x.", "a\nb", "x\n",
           "a\\b", "x" * 300, "CON", "a\u2024b", "a\u2028b", " x", "~"]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A working directory with a params file, beside which nothing may appear."""
    here = tmp_path / "here"
    here.mkdir()
    params_file(here / "p.yaml")
    return here


@pytest.mark.parametrize("run_id", quick(HOSTILE[::2], (0, 4)))
def test_run_refuses_a_hostile_run_id(run_id: str, root: Path):
    told = door("run", "p.yaml", f"--run-id={run_id}", outputs=root / "outputs", cwd=root)
    assert told.code == 2, told.err
    assert "run id" in told.err
    assert "\u2028" not in told.err
    assert tree(root.parent) == {"here", "here/p.yaml"}


@pytest.mark.parametrize("run_id", quick(HOSTILE[1::2], (0, 3)))
def test_measure_refuses_a_hostile_run_id(run_id: str, root: Path):
    words = [*measure_words(run_id="r")[:2], f"--run-id={run_id!a}".replace("'", '"')]
    told = door(*words, "--engines", "fake", outputs=root / "outputs", cwd=root)
    assert told.code == 2, told.err
    assert "run id" in told.err or "run_id" in told.err
    assert tree(root.parent) == {"here", "here/p.yaml"}


@pytest.mark.parametrize(
    "words",
    [["status", "../x"], ["report", "../x"], ["check", "/etc"], ["merge", "..", "--into", "r"]],
    ids=" ".join,
)
def test_what_is_no_run_is_refused(words: list[str], root: Path):
    told = door(*words, outputs=root / "outputs", cwd=root)
    assert told.code == 2, told.err
    assert "Traceback" not in told.err
    assert tree(root.parent) == {"here", "here/p.yaml"}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that links inside the outputs point to; nothing may appear in it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious").write_text("precious")
    return folder


def assert_untouched(elsewhere: Path) -> None:
    """Nothing came, nothing went, nothing changed."""
    assert tree(elsewhere) == {"precious"}
    assert (elsewhere / "precious").read_text() == "precious"


def test_a_run_that_is_a_link_out_is_refused(no_outputs: Path, elsewhere: Path):
    no_outputs.mkdir()
    (no_outputs / "r").symlink_to(elsewhere)
    told = door(*measure_words(), outputs=no_outputs)
    assert told.code == 2, told.err
    assert "is a link that leaves the outputs folder" in told.err
    assert_untouched(elsewhere)


@pytest.mark.parametrize("part", quick(["records", "notebooks", "figures", "tables"], (0, 1)))
def test_a_part_of_a_run_that_is_a_link_out_is_refused(
    part: str, outputs: Path, elsewhere: Path, tmp_path: Path
):
    (outputs / "r" / part).rmdir()
    (outputs / "r" / part).symlink_to(elsewhere)
    told = door("run", params_file(tmp_path / "p.yaml"), "--run-id", "r", outputs=outputs)
    assert told.code == 74, told.err
    assert f"{part} is a symbolic link" in told.err
    assert "in place of the link" in told.err
    assert "Traceback" not in told.err
    assert_untouched(elsewhere)


@pytest.mark.parametrize("name", ["environment.json", "status.json", ".records.lock"])
def test_a_file_of_a_run_that_is_a_link_out_is_refused(name: str, outputs: Path, elsewhere: Path):
    (outputs / "r" / name).unlink(missing_ok=True)
    (outputs / "r" / name).symlink_to(elsewhere / "precious")
    told = door(*measure_words(), outputs=outputs)
    assert told.code == 74, told.err
    assert "Traceback" not in told.err
    assert_untouched(elsewhere)


@pytest.mark.parametrize("kind", quick(["a FIFO", "a link", "a folder"], (0,)))
def test_a_journal_that_is_no_file_is_left_alone(kind: str, outputs: Path, elsewhere: Path):
    odd = outputs / "r" / "records" / "odd.jsonl"
    if kind == "a FIFO":
        os.mkfifo(odd)
    elif kind == "a link":
        odd.symlink_to(elsewhere / "precious")
    else:
        odd.mkdir()
    told = door(*measure_words(), outputs=outputs, timeout_s=60)  # a FIFO must not block it
    assert told.code == 0, told.err
    assert "unreadable lines: 1" in door("status", "r", outputs=outputs).out
    assert_untouched(elsewhere)
    odd.rmdir() if kind == "a folder" else odd.unlink()
    assert_each_planned_once(outputs, planned_keys())
