"""A planted exponent is found again; how near to linear it is, is judged by intervals."""

import numpy as np
import pandas as pd
import pytest

from llmbench import figures, findings, tables
from llmbench.findings.sizes import lines
from tests import planted_protocol

GIB = 2**30
SIZES = {"shape:a": GIB // 8, "shape:b": GIB // 2, "shape:c": GIB, "shape:d": 2 * GIB,
         "shape:e": 6 * GIB, "shape:f": 8 * GIB}  # fmt: skip


def line_of(frame, engine="edge"):
    (line,) = (line for line in lines(frame) if line.engine == engine)
    return line


def rows(weights=SIZES, **planted):
    return planted_protocol.rows(weights=weights, wobble=0.01, **planted)


@pytest.mark.parametrize(("exponent", "near"), [(1.0, True), (0.8, False), (1.3, False)])
def test_the_planted_exponent_lies_in_both_intervals(exponent, near):
    line = line_of(rows(exponent=exponent))
    assert line.exponent.low < exponent < line.exponent.high
    assert line.exponent.high - line.exponent.low < 0.02
    assert line.over_sizes.low < exponent < line.over_sizes.high
    assert (line.exponent.n, line.over_sizes.n, line.near_linear) == (5, 6, near)
    assert f"to the power of {exponent:.2f} (95 % interval " in line.sentence
    assert "4 degrees of freedom), which is no law" in line.sentence
    assert f"near-linear, 0.9 to 1.1: {'yes' if near else 'no'}." in line.sentence


def test_an_interval_across_a_bound_cannot_say():
    line = line_of(rows(exponent=0.9))
    assert line.near_linear is None and "the intervals reach across a bound" in line.sentence


def test_sizes_off_the_line_widen_the_interval_of_other_sizes_only():
    frame = rows()
    odd = frame["model"] == "shape:c"
    frame.loc[odd, "tpot_s"] *= 2
    straight, bent = line_of(rows()), line_of(frame)
    assert bent.exponent.high - bent.exponent.low == pytest.approx(
        straight.exponent.high - straight.exponent.low, rel=0.01)  # fmt: skip
    assert bent.over_sizes.high - bent.over_sizes.low > 0.3
    assert bent.near_linear is None


def test_two_sizes_tell_an_exponent_and_are_not_judged():
    line = line_of(rows({"shape:a": GIB, "shape:b": 2 * GIB}))
    assert line.exponent.low < 1 < line.exponent.high and line.near_linear is None
    assert "two sizes tell nothing of others" in line.sentence
    assert "cannot be said, needs 3 sizes" in line.sentence


def test_efficiency_is_bytes_per_second_over_those_of_the_best_size():
    line = line_of(rows(exponent=1.1))
    efficiency = {size.model: size.efficiency for size in line.sizes}
    assert efficiency["shape:a"].value == 1.0
    expected = (SIZES["shape:f"] / SIZES["shape:a"]) ** -0.1
    assert efficiency["shape:f"].low < expected < efficiency["shape:f"].high
    assert f"least on shape:f, {efficiency['shape:f'].value:.2f} of the " in line.sentence
    assert line.sizes[0].bytes_per_s == pytest.approx(SIZES["shape:a"] / 4e-3, rel=0.03)


def test_one_size_and_equal_sizes_make_no_line():
    assert lines(rows({"shape:a": GIB})) == []
    assert lines(rows({"shape:a": GIB, "shape:b": GIB})) == []
    assert not len(tables.sizes_table(rows({"shape:a": GIB})))
    assert not len(figures.size_scaling(rows({"shape:a": GIB})).data)


def test_weights_in_other_formats_are_another_line():
    frame = rows()
    large = frame["model"].isin(["shape:d", "shape:e", "shape:f"])
    frame["weight_format"] = np.where(large, "Q8_0", "float32")
    found = [line for line in lines(frame) if line.engine == "edge"]
    assert sorted(len(line.sizes) for line in found) == [3, 3]


def test_only_prompts_that_every_size_was_asked_count():
    frame = rows()
    alone = (frame["model"] == "shape:f") & (frame["prompt"] == "quantum")
    frame.loc[alone, "tpot_s"] *= 50
    kept = frame[~((frame["model"] == "shape:a") & (frame["prompt"] == "quantum"))]
    assert line_of(kept).exponent.value == pytest.approx(1.0, abs=0.02)
    assert line_of(frame).exponent.value > 1.2


def test_table_figure_and_report_show_the_roof_and_the_line():
    frame = rows()
    table = tables.sizes_table(frame)
    assert len(table) == 18 and set(table["Label"]) == {""}
    first = table[table["Engine"] == "edge"].iloc[0]
    assert first["Model"] == "shape:a" and float(first["Of the memory roof"]) == pytest.approx(
        GIB / 8 / 4e-3 / 40e9, abs=0.02)  # fmt: skip
    drawn = figures.size_scaling(frame)
    ax = drawn.figure.axes[0]
    assert "memory roof" in [text.get_text() for text in drawn.figure.legends[0].texts]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert len(drawn.data) == 18 and "Exponent: edge 1.00" in drawn.note
    unknown = figures.size_scaling(frame.assign(mbu=np.nan))
    assert "memory roof" not in [text.get_text() for text in unknown.figure.legends[0].texts]
    assert line_of(frame).sentence in findings.findings(frame).sentences()


def test_of_several_kinds_of_prompts_the_shortest_speak_and_the_table_has_all():
    exact = rows({"shape:a": GIB, "shape:b": 2 * GIB}, lengths=(128, 1024))
    named = rows({"shape:a": GIB, "shape:b": 2 * GIB})
    for frame, asked in ((exact, "128 tokens"), (pd.concat([exact, named]), "named texts")):
        frame = frame.reset_index(drop=True)
        assert set(figures.size_scaling(frame).data["asked"]) == {asked}
        said = [s for s in findings.findings(frame).sentences() if "to the power of" in s]
        assert len(said) == 3 and all(f", {asked}: over 2 models" in text for text in said)
        assert len(tables.sizes_table(frame)) == 6 * frame["prompt"].eq("exact").any() * (
            2 if asked == "128 tokens" else 3)  # fmt: skip


def test_few_blocks_are_a_preview_everywhere():
    frame = rows(process_runs=2, blocks=2)
    assert all(line.sentence.startswith("Preview, not a claim: ") for line in lines(frame))
    assert set(tables.sizes_table(frame)["Label"]) == {"preview"}
    drawn = figures.size_scaling(frame)
    assert drawn.note.startswith("Preview: ") and drawn.figure.get_suptitle()


def test_two_machines_are_never_one_line():
    frame = rows()
    other = frame.assign(fingerprint="other", tpot_s=frame["tpot_s"] * 3)
    both = pd.concat([frame, other], ignore_index=True)
    found = [line for line in lines(both) if line.engine == "edge"]
    assert [len(line.sizes) for line in found] == [6, 6]
    assert found[0].exponent == line_of(frame).exponent


def test_an_engine_that_holds_no_weights_has_no_line():
    assert lines(planted_protocol.rows(weights={"none": 0}, exponent=0.0)) == []
