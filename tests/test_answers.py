"""Whole answers of fewer tokens than a run asked for: of a published run, worked by hand."""

import sys
from math import exp, log
from pathlib import Path
from statistics import mean

import pytest

from llmbench import store
from llmbench.errors import BadParams

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import answers

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "outputs" / "published" / "ollama-cpu-4096-2026-11-29"


def seconds(engine, tokens):
    """By (process run, block): when the n-th token was there."""
    rows, _ = store.read_rows(RUN)
    sides = [r for r in rows if r["point"]["engine"] == engine and not r["point"]["twin"]]
    return {(r["process_run"], r["block"]): r["raw"]["step_ns"][tokens - 1] / 1e9 for r in sides}


@pytest.mark.parametrize("tokens", [1, 16, 32])
def test_an_answer_ends_with_its_last_token(tokens):
    [row] = answers.table(RUN, [tokens]).to_dict("records")
    ours, theirs = seconds("edge", tokens), seconds("ollama", tokens)
    ratio = exp(mean(log(theirs[turn] / ours[turn]) for turn in ours))
    assert row["against ollama"].startswith(f"{ratio:.2f} [")
    assert row["new_tokens"] == tokens and row["verdict: ollama"] == "yes"


def test_more_tokens_than_there_are_is_refused():
    with pytest.raises(BadParams, match="33 tokens of answers of 32"):
        answers.table(RUN, [33])
