"""kill -9 at any moment: what was written is whole, and the same command makes the rest, once.

30 moments are spread evenly over `measure`; 20 kills are inside an append, by a double that writes
a part of a line and ends its process. Those of a whole `run` are in test_kill_run.py.
"""

import json
import shlex
import signal
from pathlib import Path

import pytest

from llmbench import store
from tests.faults.door import (
    assert_each_planned_once,
    door,
    killed,
    length_s,
    measure_words,
    planned_keys,
    quick,
    start,
)

pytestmark = pytest.mark.faults
STUDY = {"context_lens": [10, 11, 12, 13, 14], "blocks": 2,
         "engine_options": {"fake": {"decode_s": 0.02}}}  # fmt: skip
PLANNED = 20
MOMENTS = [(i + 0.5) / 30 for i in range(30)]
APPENDS = [(k, (0, 0.004, 0.5, 0.999, 1, 2)[k % 6]) for k in range(1, PLANNED + 1)]
HITS: list[bool] = []  # whether a kill at a moment came before the end


@pytest.fixture(scope="module")
def measure_s(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long the measurement takes when nothing happens to it."""
    return length_s(tmp_path_factory.mktemp("whole"), measure_words(**STUDY))


@pytest.mark.parametrize("share", quick(MOMENTS, (16, 25), every=5))
def test_a_kill_at_any_moment_of_measuring(share: float, measure_s: float, outputs: Path):
    process = start(*measure_words(**STUDY), outputs=outputs)
    HITS.append(killed(process, share * measure_s, alone=MOMENTS.index(share) % 2 == 0))
    assert door(*measure_words(**STUDY), outputs=outputs).code == 0
    assert_each_planned_once(outputs, planned_keys(**STUDY))


@pytest.mark.parametrize("append", quick(APPENDS, (2, 9), every=5))
def test_a_kill_inside_an_append(append: tuple[int, float], outputs: Path):
    number, share = append
    env = {"LLMDOUBLE_TEAR": f"{number} {share}"}
    torn = door(*measure_words(**STUDY), outputs=outputs, env=env)
    assert torn.code == -signal.SIGKILL
    read, faults = store.read_rows(outputs / "r")
    assert len(read) == (number if share >= 1 else number - 1)
    assert len(faults) == (1 if 0 < share < 1 else 0)
    assert door(*measure_words(**STUDY), outputs=outputs).code == 0
    assert_each_planned_once(outputs, planned_keys(**STUDY))
    quarantined = list((outputs / "r" / "records" / "quarantine").glob("*.torn"))
    assert len(quarantined) == len(faults)


def test_status_after_a_kill_says_what_is_left_and_how_to_go_on(outputs: Path):
    env = {"LLMDOUBLE_TEAR": "5 0.5"}
    door(*measure_words(**STUDY), outputs=outputs, env=env)
    told = json.loads(door("status", "r", "--json", outputs=outputs).out)
    assert told["studies"] == {"scaling": {"planned": PLANNED, "left": PLANNED - 4, "ok": 4}}
    assert told["unreadable_lines"] == 1
    words = shlex.split(told["command"])
    assert words[:2] == ["llmbench", "measure"]
    assert door(*words[1:]).code == 0
    assert_each_planned_once(outputs, planned_keys(**STUDY))


def test_most_moments_came_before_the_end():
    assert 2 * sum(HITS) >= len(HITS)
