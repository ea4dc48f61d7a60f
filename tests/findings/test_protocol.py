"""What the protocol asks of each engine, the variance gate, success, previews kept apart."""

import math

import numpy as np
import pandas as pd
import pytest

import llmbench
from llmbench import figures, findings, tables
from llmbench.findings.comparisons import comparisons
from llmbench.findings.protocol import success_sentences
from tests import planted_protocol

ONE = {"engines": {"edge": 1.0, "ollama": 1.8}}
TWO = {"shape:calm": 2**27, "shape:wild": 2**27}


def rows(**planted):
    return planted_protocol.rows(**ONE | planted)


def told(frame, at_least=1.5):
    return comparisons(frame, ["decode_tok_per_s"], at_least, "edge")


def claims(frame, at_least=1.5):
    (one,) = told(frame, at_least)
    return {dict(claim.group)["model"]: claim for claim in one.comparison.claims}


def test_the_table_holds_the_protocols_metrics_as_worked_by_hand():
    frame = rows()
    table = tables.protocol_table(frame)
    assert table[["Engine", "Model", "Prompt"]].to_numpy().tolist() == [
        ["edge", "shape:smollm-135m", "named texts"], ["ollama", "shape:smollm-135m", "named texts"]
    ]  # fmt: skip
    mine = frame[frame["engine"] == "edge"]
    row, rates = table.iloc[0], mine["decode_tok_per_s"]
    for name in ("mean", "std", "min", "max"):
        assert row[f"Decode rate, {name} (tok/s)"] == f"{getattr(rates, name)():.2f}"
    assert row["Decode rate, median (tok/s)"].endswith(" [\N{EN DASH}]"), "five process runs"
    assert row["Answer, P50 (ms)"] == f"{1e3 * np.quantile(mine['e2e_s'], 0.5):.1f}"
    assert row["Answer, P99 (ms)"] == "not estimable: n=50, needs 299"
    gaps = np.concatenate(mine["itl_s"].tolist())
    assert row["Jitter (ms)"] == f"{1e3 * gaps.std(ddof=1):.2f}"
    assert row["Peak memory (MiB)"] == "328" and row["Memory of"] == "all its processes (RSS)"
    assert row["Power (W)"] == "null: not recorded" and row["Label"] == ""
    assert (row["Process runs"], row["Repeats"]) == (5, 50)


def test_six_process_runs_give_the_median_an_interval():
    row = tables.protocol_table(rows(process_runs=6)).iloc[0]
    value, ends = row["Decode rate, median (tok/s)"].rstrip("]").split(" [")
    low, high = map(float, ends.split("\N{EN DASH}"))
    assert low <= float(value) <= high and 245 < low < high < 255


def test_power_is_energy_over_its_window_or_null_with_its_reason():
    frame = rows().assign(energy_j=12.0, energy_window_s=0.5, energy_reason=None)
    assert set(tables.protocol_table(frame)["Power (W)"]) == {"24.0"}
    unread = frame.assign(energy_j=np.nan, energy_window_s=np.nan, energy_reason="no counter")
    assert set(tables.protocol_table(unread)["Power (W)"]) == {"null: no counter"}


def test_gaps_that_are_not_known_have_no_jitter():
    frame = rows()
    frame["itl_s"] = pd.Series([np.empty(0)] * len(frame), dtype=object)
    assert set(tables.protocol_table(frame)["Jitter (ms)"]) == {"\N{EN DASH}"}


def test_the_planted_variance_is_found_and_a_wild_ratio_fails_the_gate():
    frame = rows(weights=TWO, model_noise={"shape:wild": 0.06}, blocks=10)
    found = claims(frame)
    assert found["shape:wild"].cv == pytest.approx(0.06 * math.sqrt(2), rel=0.3)
    assert found["shape:calm"].cv < 0.01
    assert [found[name].steady for name in TWO] == [True, False]
    assert [found[name].verdict for name in TWO] == ["yes", "yes"]
    assert [found[name].met for name in TWO] == [True, False]
    table = tables.ratios_table(told(frame)).set_index("Model")
    assert table["Below 5 %"].to_dict() == {"shape:calm": "yes", "shape:wild": "no"}
    assert table["Success"].to_dict() == {"shape:calm": "yes", "shape:wild": "no"}
    assert table.loc["shape:wild", "CV of ratios"] == f"{100 * found['shape:wild'].cv:.1f} %"
    assert len(table.loc["shape:wild", "CV of target, baseline"].split(", ")) == 2


def test_a_claim_that_fails_the_gate_is_said_so_and_no_success():
    frame = rows(weights=TWO, model_noise={"shape:wild": 0.06}, blocks=10)
    (said,) = success_sentences(told(frame))
    assert said.startswith("Success of edge against ollama in decode rate (at least 1.5 times")
    assert "of 2 models: met on shape:calm; not met on shape:wild (the ratios vary by " in said
    about = findings.About("demo", "studies: {ollama_comparison: {target: edge, at_least: 1.5}}")
    report = findings.findings(frame, [about]).sentences()
    unsteady = [s for s in report if s.endswith("not below 5 %, so a success counts as not met.")]
    assert len(unsteady) == 2, "of each metric, the wild model"
    assert all("on shape:wild" in text and "(plain: edge " in text for text in unsteady)
    assert claims(frame)["shape:calm"].variance.endswith(": below 5 %.")


def test_success_needs_the_bar_too_and_a_preview_cannot_say():
    (low,) = success_sentences(told(rows(), at_least=2.0))
    assert "of 1 model: not met on shape:smollm-135m (1.80 times, at most 1.8" in low
    early = told(rows(process_runs=2, blocks=2))
    (said,) = success_sentences(early)
    assert said.startswith("Preview, not a claim: ")
    assert said.endswith("cannot be said of shape:smollm-135m (preview).")
    (one,) = early
    assert one.comparison.met is None and one.comparison.claims[0].met is None
    assert one.comparison.variance.startswith("Preview, not a claim: Between blocks")


def test_a_wild_preview_fails_the_gate_without_failing_the_success():
    early = told(rows(process_runs=2, blocks=2, block_noise=0.1))
    (claim,) = early[0].comparison.claims
    assert claim.steady is False and claim.met is None
    assert claim.variance.endswith("): not below 5 %.")


def test_what_cannot_be_compared_is_no_success_and_no_failure():
    frame = rows()
    frame["model_sha256"] = frame["engine"].map({"edge": "a" * 64, "ollama": "b" * 64})
    (said,) = success_sentences(told(frame))
    assert "cannot be said of shape:smollm-135m (not comparable)" in said


def test_facts_tell_the_gate_to_programs():
    frame = rows(weights=TWO, model_noise={"shape:wild": 0.06}, blocks=10)
    found = llmbench.compare(frame, "edge", "ollama", at_least=1.5).facts()["claims"]
    assert sorted((fact["steady"], fact["met"]) for fact in found) == [(False, False), (True, True)]
    assert all(len(fact["runs"]) == 5 for fact in found)
    assert np.mean(list(found[0]["runs"].values())) == pytest.approx(np.log(found[0]["ratio"]))


@pytest.mark.parametrize("make", [
    tables.scaling_table, tables.protocol_table, tables.tails_table, tables.devices_table,
    lambda frame: tables.ratios_table(told(frame)), lambda frame: tables.growth_table(told(frame)),
    tables.sizes_table,
], ids=["scaling", "protocol", "tails", "devices", "ratios", "growth", "sizes"])  # fmt: skip
def test_a_preview_is_labelled_in_every_table_and_enters_no_paper(make, tmp_path):
    sizes = {"shape:a": 2**27, "shape:b": 2**29}
    asked = {"lengths": (64, 128, 256), "weights": sizes}
    early, enough = (make(rows(**asked, process_runs=n, blocks=2)) for n in (2, 6))
    assert len(early) and len(tables.published(early)) == 0
    assert len(tables.published(enough)) == len(enough) > 0
    paths = {path.suffix: path.read_text() for path in tables.write(early, tmp_path, "early")}
    assert f"left out, as no more than a preview: {len(early)} row" in paths[".tex"]
    assert "edge" not in paths[".tex"] and "preview" in paths[".csv"] and "preview" in paths[".md"]
    full = {path.suffix: path.read_text() for path in tables.write(enough, tmp_path, "enough")}
    assert "left out" not in full[".tex"] and "edge" in full[".tex"]
    assert "preview" not in full[".csv"]


@pytest.mark.parametrize("draw", [
    figures.decode_scaling, figures.prefill_scaling, figures.memory_growth, figures.distribution,
    figures.throughput, lambda frame: figures.ratios(told(frame)),
], ids=["decode", "prefill", "memory", "distribution", "throughput", "ratios"])  # fmt: skip
def test_a_preview_is_labelled_in_every_figure(draw):
    early, enough = draw(rows(process_runs=2, blocks=2)), draw(rows(process_runs=6, blocks=2))
    assert early.figure.get_suptitle().startswith("preview") and early.note.startswith("Preview: ")
    assert not enough.figure.get_suptitle() and "review" not in enough.note


def test_claims_that_are_previews_say_so_in_words_even_when_not_comparable():
    frame = rows(process_runs=2, blocks=2)
    frame["model_sha256"] = frame["engine"].map({"edge": "a" * 64, "ollama": "b" * 64})
    (one,) = told(frame)
    assert one.sentences[0].startswith("Preview, not a claim: Not comparable (same weights")
