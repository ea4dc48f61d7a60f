"""Many claims are told a baseline and metric at a time; few are told one by one."""

import pandas as pd

from llmbench import findings
from llmbench.bars import Bar
from llmbench.findings.comparisons import comparisons
from llmbench.findings.engines import DECODE, beside
from llmbench.findings.tally import tally_sentences
from tests import planted_protocol

BARS = [Bar(weights="Q4_0", baseline="ollama", at_least=2.0)]
METRICS = [DECODE, "ttft_s"]


def rows(formats=("Q8_0", "Q4_0")):
    """The target 1.5 times as fast as ollama and 1.3 times as fast as llamacpp, in each format."""
    made = planted_protocol.rows(lengths=(64,), process_runs=6)
    return pd.concat([made.assign(weights=kind, weight_format=kind, child=made["child"] + kind)
                      for kind in formats], ignore_index=True)  # fmt: skip


def tally(frame):
    return tally_sentences(beside(frame, comparisons(frame, METRICS, 1.2, "edge", BARS)))


def test_eight_claims_are_four_sentences_decode_first():
    told = tally(rows())
    assert [text.split(" edge")[0] for text in told] == [
        "In decode rate", "In decode rate", "In time to first token", "In time to first token"
    ]  # fmt: skip
    [ollama] = [text for text in told[:2] if "ollama" in text]
    assert ollama.startswith("In decode rate edge is 1.50 times as good as ollama (2 claims)")
    assert ollama.endswith("bars reached: 1 yes, 1 no.")


def test_few_claims_are_told_one_by_one():
    assert tally(rows(("Q8_0",))) == []
    [section] = findings.findings(rows(("Q8_0",))).sections
    told = [*section.answers, *section.sentences]
    assert sum("times as good as" in text and "95 % interval" in text for text in told) == 4


def test_a_run_of_many_claims_opens_with_their_tally():
    frame = rows(("Q8_0", "Q4_0"))
    found = findings.findings(frame)
    assert found.answers[0].startswith("In decode rate edge is")
    assert not any("95 % interval" in text for text in found.answers)
