"""The rule for edge devices fires on planted rows, and does not where a threshold is missed."""

import math

import numpy as np
import pytest

from llmbench import findings, tables
from llmbench.findings.devices import EDGE, Rule, device_sentences, suited
from tests import planted_protocol

GIB = 2**30
WEIGHTS = {"shape:small": GIB // 4, "shape:large": 5 * GIB}
ONE = {"engines": {"edge": 1.0, "ollama": 1.5}}


def found(frame, rule=EDGE):
    return {(one.model, one.engine): one for one in suited(frame, rule)}


def rows(**planted):
    return planted_protocol.rows(**ONE | {"weights": WEIGHTS} | planted)


def test_the_rule_fires_and_names_numbers_and_rows():
    one = found(rows())["shape:small", "edge"]
    assert one.suits is True and one.why == ""
    assert one.rate.low < 125 < one.rate.high and one.peak.bytes == GIB // 4 + 200 * 2**20
    assert one.rows == "50 repeats of 5 process runs of run demo"
    (edge, ollama) = device_sentences(rows())
    assert edge.startswith("edge for an edge device by the rule (decode at least 10 tok/s at the ")
    assert f"suited: shape:small ({one.speed}, 456 MiB); not suited: shape:large (" in edge
    assert edge.endswith("; each by 50 repeats of 5 process runs of run demo.")
    assert ollama.startswith("ollama for") and edge in findings.findings(rows()).sentences()


@pytest.mark.parametrize(
    ("rule", "why"),
    [(Rule(decode_tok_per_s=200.0), "decodes"), (Rule(peak_bytes=GIB / 4), "memory: needs 456 MiB"),
     (Rule(200.0, GIB / 4), "decodes")],
)  # fmt: skip
def test_each_threshold_keeps_it_from_firing(rule, why):
    one = found(rows(), rule)["shape:small", "edge"]
    assert one.suits is False and one.why.startswith(why)
    assert ("memory" in one.why) == (rule.peak_bytes < GIB)


def test_a_bar_within_the_interval_cannot_be_said():
    rate = found(rows())["shape:small", "edge"].rate
    one = found(rows(), Rule(decode_tok_per_s=(rate.low + rate.high) / 2))["shape:small", "edge"]
    assert one.suits is None and one.why.startswith("decodes")
    at_the_end = found(rows(), Rule(decode_tok_per_s=rate.low))["shape:small", "edge"]
    assert at_the_end.suits is True


def test_one_process_run_has_no_interval_and_a_preview_says_nothing():
    one = found(rows(process_runs=1, blocks=12))["shape:small", "edge"]
    assert one.suits is None and "no interval" in one.why
    early = rows(process_runs=2, blocks=2)
    assert {one.suits for one in suited(early)} == {None}
    assert all(one.why.startswith("preview") for one in suited(early))
    assert all(text.startswith("Preview, not a claim: ") for text in device_sentences(early))
    table = tables.devices_table(early)
    assert set(table["Label"]) == {"preview"} and set(table["Suits"]) == {"cannot be said"}


def test_the_slowest_kind_of_prompt_decides():
    frame = rows(lengths=(64, 1024))
    frame.loc[frame["context_len"] == 1024, "decode_tok_per_s"] /= 20
    one = found(frame)["shape:small", "edge"]
    assert (one.suits, one.slowest) == (False, "1,024 tokens")


def test_a_view_of_memory_that_holds_no_weights_is_not_believed():
    frame = rows()
    frame.loc[frame["engine"] == "ollama", "peak_bytes"] = 50 * 2**20
    one = found(frame)["shape:small", "ollama"]
    assert math.isnan(one.peak.bytes) and one.suits is None
    assert one.why.startswith("memory: not known: what was seen holds less than the weights")
    assert found(frame)["shape:small", "edge"].suits is True
    frame.loc[frame["engine"] == "ollama", "peak_bytes"] = np.nan
    assert found(frame)["shape:small", "ollama"].peak.view == "not recorded"


def test_the_table_has_the_rule_of_every_model_and_engine():
    table = tables.devices_table(rows()).set_index(["Model", "Engine"])
    assert table["Suits"].to_dict() == {
        ("shape:small", "edge"): "yes", ("shape:small", "ollama"): "yes",
        ("shape:large", "edge"): "no", ("shape:large", "ollama"): "no",
    }  # fmt: skip
    assert set(table["Rows"]) == {"50 repeats of 5 process runs of run demo"}
