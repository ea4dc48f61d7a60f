"""A thread that is missing again and again: brief jobs go with one fewer, then try all anew."""

import subprocess
from pathlib import Path

import pytest

from llmbench.kernels import recipe
from tests.kernels.test_build import needs_compiler

SOURCE = Path(__file__).with_name("team_spell.cpp")
pytestmark = needs_compiler


@pytest.fixture(scope="module")
def active(tmp_path_factory):
    """Threads that took part in each job of a story of 'c' crowded and 'q' quiet jobs."""
    made = recipe.recipe()
    program = tmp_path_factory.mktemp("team") / "team_spell"
    subprocess.run(
        [
            *made.compiler.command,
            "-std=c++17",
            "-pthread",
            f"-I{made.sources}",
            str(SOURCE),
            str(made.sources / "team.cpp"),
            "-o",
            str(program),
        ],
        check=True,
    )

    def told(story: str) -> str:
        return subprocess.run([program, story], check=True, text=True, capture_output=True,
                              timeout=60).stdout.strip()  # fmt: skip

    return told


def test_after_four_crowded_jobs_a_spell_begins_that_ends_by_itself(active):
    assert active("cccc" + "q" * 18) == "2222" + "1" * 16 + "22"


def test_a_trial_that_is_as_bad_doubles_the_spell_at_once(active):
    assert active("cccc" + "q" * 16 + "c" + "q" * 33) == "2222" + "1" * 16 + "2" + "1" * 32 + "2"


def test_a_quiet_trial_forgets_the_spells_before(active):
    story, told = "cccc" + "q" * 17, "2222" + "1" * 16 + "2"
    assert active(story + story) == told + told


def test_a_passing_hiccup_is_not_worth_a_spell(active):
    assert active("cccqccc" + "q" * 3) == "2" * 10


def test_jobs_that_are_long_by_themselves_begin_no_spell_and_go_with_all(active):
    assert active("LLLLLLLL" + "q" * 4) == "2" * 12
    assert active("cccc" + "LL" + "q" * 18) == "2222" + "22" + "1" * 16 + "22"


def test_what_was_learned_can_be_forgotten(active):
    assert active("cccc" + "qq" + "f" + "qq" + "cccfc") == "2222" + "11" + "22" + "2222"
