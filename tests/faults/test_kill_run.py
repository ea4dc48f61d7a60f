"""kill -9 at any moment of a whole `run`: the same command makes the rest, once, and the report."""

from pathlib import Path

import pytest

from llmbench import store
from tests.faults.door import (
    assert_each_planned_once,
    door,
    killed,
    length_s,
    params_file,
    planned_keys,
    rows,
    start,
)

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.exhaustive,
]  # each of them runs all notebooks twice
MOMENTS = [(i + 0.5) / 6 for i in range(6)]
HITS: list[bool] = []  # whether a kill came before the end


def run_words(folder: Path) -> list[str]:
    """`run` with a small params file in `folder`."""
    return ["run", str(params_file(folder / "p.yaml")), "--run-id", "r"]


@pytest.fixture(scope="module")
def run_s(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long a whole run takes when nothing happens to it."""
    folder = tmp_path_factory.mktemp("whole")
    return length_s(folder, run_words(folder))


@pytest.mark.parametrize("share", MOMENTS)
def test_a_kill_at_any_moment_of_a_run(share: float, run_s: float, tmp_path: Path, outputs: Path):
    words = run_words(tmp_path)
    process = start(*words, outputs=outputs)
    HITS.append(killed(process, share * run_s, alone=MOMENTS.index(share) % 2 == 0))
    told = door(*words, outputs=outputs)
    assert told.code == 0, told.err
    assert_each_planned_once(outputs, planned_keys(tmp_path / "p.yaml"))
    notebooks = store.status(outputs / "r")["notebooks"]
    assert {book["state"] for book in notebooks.values()} == {"ok"}
    assert {f"{name}.ipynb" for name in notebooks} == {
        path.name for path in (outputs / "r" / "notebooks").iterdir()}  # fmt: skip
    assert (outputs / "r" / "report.html").is_file()
    before = rows(outputs)
    assert door(*words, outputs=outputs).code == 0
    assert rows(outputs) == before


def test_most_moments_came_before_the_end():
    assert 2 * sum(HITS) >= len(HITS)
