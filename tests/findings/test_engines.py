"""The engines beside each other: medians, ratios, bars, bandwidth, and the machine's limit."""

import math

import numpy as np
import pandas as pd
import pytest

from llmbench import figures, tables
from llmbench.bars import Bar
from llmbench.findings.comparisons import comparisons
from llmbench.findings.engines import DECODE, PROBED, ROOF, beside
from tests import planted_protocol

BARS = [Bar(weights="Q4_0", baseline="ollama", at_least=2.0)]
METRICS = [DECODE, "ttft_s", "held_bytes"]
STEP = 2**27 + 64 * 4096  # bytes: the weights, and a cache of 64 tokens


def rows(probed=math.nan, **planted):
    """Two formats, the target 1.5 times as fast as ollama; memory gives `probed` bytes/s."""
    made = planted_protocol.rows(lengths=(64,), process_runs=6, **planted)
    made["read_bytes_per_s"] = np.where(made["engine"] == "edge", probed, math.nan)
    formats = [made.assign(weights=kind, weight_format=kind, child=made["child"] + kind)
               for kind in ("Q8_0", "Q4_0")]  # fmt: skip
    return pd.concat(formats, ignore_index=True)


def told(frame, at_least=1.2):
    return comparisons(frame, METRICS, at_least, "edge", BARS)


def table(frame):
    made = tables.engines_table(frame, told(frame))
    return made.set_index(["Metric", "Weights"])


def test_each_format_has_its_row_with_every_engine_ratio_and_its_own_bar():
    made = table(rows())
    assert list(made.index)[:2] == [("Decode rate (tok/s)", "Q8_0"),
                                    ("Decode rate (tok/s)", "Q4_0")]  # fmt: skip
    row = made.loc[("Decode rate (tok/s)", "Q4_0")]
    assert row["edge"].startswith("25") and row["ollama"].startswith("16")
    assert row["Against ollama"].startswith("1.50 [") and row["Against llamacpp"].startswith(
        "1.30 ["
    )
    assert (row["Bar: ollama"], row["Bar: llamacpp"]) == ("2", "1.2")
    assert (row["Verdict: ollama"], row["Verdict: llamacpp"]) == ("no", "yes")
    assert made.loc[("Decode rate (tok/s)", "Q8_0"), "Verdict: ollama"] == "yes"
    assert row["Prompt"] == "64 tokens"
    assert made.loc[("Memory after load (MiB)", "Q8_0"), "Prompt"] == "once a process"
    assert len(made) == 6


def test_what_decode_reads_is_worked_by_hand_and_set_beside_each_turn():
    frame = rows(probed=4e10)
    [one, _] = [one for one in beside(frame, told(frame)) if one.metric == DECODE]
    tpot = frame.loc[(frame["engine"] == "edge") & (frame["weights"] == "Q8_0"), "tpot_s"]
    assert one.sides["edge"].step_bytes == STEP
    assert one.sides["edge"].bytes_per_s == pytest.approx(STEP / tpot.median(), rel=2e-3)
    assert one.share == pytest.approx(STEP / tpot.median() / 4e10, rel=2e-3)
    assert (one.bandwidth, one.source) == (4e10, PROBED)


@pytest.mark.parametrize(("over", "counts"), [(0.84, False), (0.87, True)])
def test_at_the_machines_limit_a_bar_that_is_missed_counts_as_reached(over, counts):
    frame = rows()
    implied = STEP / frame.loc[frame["engine"] == "edge", "tpot_s"].median()
    row = table(rows(probed=implied / over)).loc[("Decode rate (tok/s)", "Q4_0")]
    said = f"counts as reached: {100 * over:.0f} % of the bandwidth beside it (no by the ratio)"
    assert row["Verdict: ollama"] == (said if counts else "no")
    assert row["Verdict: llamacpp"] == "yes"


def test_a_roof_of_the_run_tells_a_share_and_reaches_no_bar():
    frame = rows()
    frame["mbu"] = 0.95
    [one, _] = [one for one in beside(frame, told(frame)) if one.metric == DECODE]
    assert one.source == ROOF and one.share == pytest.approx(0.95) and not one.at_limit


def test_a_preview_reaches_no_bar_and_is_left_out_of_a_paper():
    frame = rows(probed=1e9, blocks=1)
    made = tables.engines_table(frame, told(frame))
    assert set(made["Verdict: ollama"]) == {"inconclusive (preview)", "no"}  # memory: a run each
    assert set(tables.published(made)["Metric"]) == {"Memory after load (MiB)"}


def test_the_figure_has_a_panel_a_model_a_bar_an_engine_and_the_roof():
    frame = rows(probed=4e10)
    drawn = figures.beside(frame, told(frame))
    assert len(drawn.data) == 2 * 3
    assert drawn.data["roof_tok_per_s"].unique() == pytest.approx(4e10 / STEP)
    [ax] = drawn.figure.axes
    assert len(ax.patches) == 6
    assert [text.get_text() for text in ax.get_xticklabels()] == ["Q8_0", "Q4_0"]
    colours = {patch.get_facecolor() for patch in ax.patches}
    assert len(colours) == 3
    assert "probed beside each turn" in drawn.note


def test_nothing_compared_is_no_row_and_no_figure():
    frame = rows().iloc[:0]
    assert tables.engines_table(frame, []).empty
    assert figures.beside(frame, []).data.empty
