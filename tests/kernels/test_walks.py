"""An engine tries both walks by turns, keeps the one that was faster, and no outlier decides."""

import subprocess

import pytest

from llmbench.kernels import recipe
from tests.kernels.test_build import needs_compiler

pytestmark = needs_compiler
SOURCE = """#include <cstdio>
#include <cstdlib>
#include "walks.h"
int main(int, char** told) {  // the walk that is faster, and the first steps, which take 100 s
  edge::Choice choice;
  for (int step = 0; step < 24; ++step) {
    const int walk = choice.walk();
    std::printf("%d", walk);
    choice.took(step < std::atoi(told[2]) ? 100 + walk : walk == std::atoi(told[1]) ? 1 : 1.1);
  }
}
"""


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The walk of each of 24 steps, where `faster` is the faster one and `slow` steps are slow."""
    made, folder = recipe.recipe(), tmp_path_factory.mktemp("walks")
    (folder / "choice.cpp").write_text(SOURCE)
    subprocess.run(
        [
            *made.compiler.command,
            "-std=c++17",
            f"-I{made.sources}",
            str(folder / "choice.cpp"),
            "-o",
            str(folder / "choice"),
        ],
        check=True,
    )

    def told(faster: int, slow: int = 0) -> str:
        return subprocess.run([folder / "choice", str(faster), str(slow)], check=True, text=True,
                              capture_output=True, timeout=60).stdout  # fmt: skip

    return told


@pytest.mark.parametrize("faster", [0, 1])
@pytest.mark.parametrize("slow", [0, 6])
def test_both_are_tried_and_the_faster_one_stays(walked, faster, slow):
    steps = walked(faster, slow)
    assert steps[:18].count("0") == steps[:18].count("1") == 9
    assert steps[18:] == str(faster) * 6
