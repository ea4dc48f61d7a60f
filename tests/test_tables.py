"""Tables show every size that was tried, and values cannot break out of any format."""

import csv as standard_csv
import io

import numpy as np
import pandas as pd
import pytest

from llmbench import figures, findings, metrics, stats, tables
from llmbench.findings import circumstances
from tests import synthetic

NASTY = r"=cmd|' /C calc'!A0_\input{/etc/passwd}&%$#~^<b>[x](y)`z`"


def test_cells_are_median_and_interval_with_the_unit_in_the_header():
    frame = synthetic.rows()
    table = tables.scaling_table(frame)
    assert len(table) == 8
    row = table[(table["Batch (rows)"] == 4) & (table["Prompt (tokens)"] == 256)].iloc[0]
    cell = frame[(frame["batch_size"] == 4) & (frame["context_len"] == 256)]
    truth = stats.summarise(cell, "prefill_s", ["run"]).iloc[0]
    value, rest = row["Prefill time (ms)"].split(" [")
    low, high = rest.rstrip("]").split("\N{EN DASH}")
    expected = [1e3 * truth[name] for name in ("median", "low", "high")]
    assert [float(v) for v in (value, low, high)] == pytest.approx(expected, rel=5e-3)
    assert row["Process runs"] == 6 and row["Outcome"] == "measured"


def test_what_is_not_estimable_is_said():
    table = tables.scaling_table(synthetic.rows(process_runs=2))
    assert table["Prefill time (ms)"].str.endswith(" [\N{EN DASH}]").all()


def test_the_model_stands_in_its_own_column_only():
    two = pd.concat([synthetic.rows(), synthetic.rows(model="x/y")], ignore_index=True)
    table = tables.scaling_table(two)
    assert set(table["Engine"]) == {"transformers"} and set(table["Model"]) == {
        "builtin:tiny",
        "x/y",
    }
    threads = pd.concat([synthetic.rows(), synthetic.rows().assign(threads=8)], ignore_index=True)
    names = set(tables.scaling_table(threads)["Engine"])
    assert names == {"transformers, 2 threads", "transformers, 8 threads"}


def test_failed_sizes_stay_in_the_table():
    frame = synthetic.fail(synthetic.rows(), "oom", "no", batch_size=4, context_len=512)
    table = tables.scaling_table(frame)
    lost = table[table["Outcome"] != "measured"]
    assert len(table) == 8 and list(lost["Outcome"]) == ["ran out of memory"]
    assert list(lost["Prefill time (ms)"]) == [""] and list(lost["Process runs"]) == [0]
    assert set(table["Engine"]) == {"transformers"}


def test_failures_and_flags_are_counted():
    frame = synthetic.fail(synthetic.rows(), "oom", "too big", batch_size=4, context_len=512)
    failures = tables.failures_table(frame).to_dict("records")
    assert [(f["Status"], f["Reason"], f["Repeats"]) for f in failures] == [("oom", "too big", 12)]
    flags = tables.flags_table(synthetic.flag(frame, "drift", 3)).to_dict("records")
    assert [(f["Flag"], f["Repeats"]) for f in flags] == [("drift", 3)]


def test_a_cell_beyond_the_trained_context_says_that_it_tells_costs_only():
    frame = synthetic.rows(model="x/y")
    far = frame["context_len"] == 512
    frame.loc[far, "flags"] = frame[far]["flags"].map(lambda flags: (*flags, "beyond_context"))
    table = tables.scaling_table(frame)
    told = table.set_index("Prompt (tokens)")["Outcome"]
    assert set(told[512]) == {"measured; beyond the trained context: cost only"}
    assert set(told[256]) == {"measured"}
    assert (table["Prefill time (ms)"] != "").all(), "costs are shown"
    (said,) = [line for line in circumstances.cautions(frame, frame) if "trained" in line]
    assert "24 of 96 repeats, of x/y" in said and "costs only" in said


def test_laws_say_why_there_is_none():
    fits = findings.fits(synthetic.rows(context_lens=(64, 128)), "prefill_s")
    row = tables.laws_table(fits).iloc[0]
    assert row["Law"] == "inconclusive" and row["Why not"] and row["Formula"] == ""


@pytest.mark.parametrize("frame", [metrics.frame_of([], {}), synthetic.rows().assign(status="oom")])
def test_tables_without_measurements(frame):
    assert len(tables.scaling_table(frame)) == (8 if len(frame) else 0)
    tables.failures_table(frame)
    assert tables.flags_table(frame).empty


def test_csv_cannot_become_a_formula():
    text = tables.csv(pd.DataFrame({"model": [NASTY, "+1", "@x", "plain"], "n": [-1, 2, 3, 4]}))
    rows = list(standard_csv.DictReader(io.StringIO(text)))
    assert [row["model"] for row in rows] == ["'" + NASTY, "'+1", "'@x", "plain"]
    assert rows[0]["n"] == "-1", "numbers stay numbers"


def test_markdown_keeps_its_columns():
    text = tables.markdown(pd.DataFrame({"model": [NASTY, "two\nlines"], "n": [1, 2]}))
    lines = text.splitlines()
    assert len(lines) == 4 and lines[1] == "| --- | ---: |"
    for line in lines:
        assert len([c for i, c in enumerate(line) if c == "|" and line[i - 1] != "\\"]) == 3
    assert "\\<b\\>" in text and "\\[x\\](y)" in text


def test_latex_is_inert_booktabs():
    text = tables.latex(pd.DataFrame({"first": ["[1]", "*"], "model": [NASTY, "b"], "n": [1, 2]}))
    assert "\\toprule" in text and "\\begin{tabular}{llr}" in text
    assert "\\input" not in text and "\\textbackslash input\\{/etc/passwd\\}" in text
    assert "\\&\\%\\$\\#" in text
    assert "\\\\\n[" not in text and "\\\\\n*" not in text, "an argument of the line break"


def test_write_makes_three_files(tmp_path):
    table = tables.scaling_table(synthetic.rows(model=NASTY))
    paths = tables.write(table, tmp_path / "tables", "scaling")
    assert [path.name for path in paths] == ["scaling.csv", "scaling.md", "scaling.tex"]
    assert paths[0].read_text() == tables.csv(table)
    assert len(pd.read_csv(paths[0])) == 8


def test_roofs_are_shown_with_all_readings():
    raw = {"read_bytes_per_s": [19e9, 20e9, 25e9], "matmul_flops_per_s": [9e10, 1e11]}
    roofs = {"bytes_per_s": 25e9, "flops_per_s": 1e11, "source": "measured", "raw": raw}
    table = tables.roofs_table({"roofs": roofs})
    assert list(table["Median"]) == ["20.0 GB/s", "95.0 GFLOP/s"]
    assert list(table["Best"]) == ["25.0 GB/s", "100 GFLOP/s"]
    assert list(table["Readings"]) == [3, 2]
    assert tables.roofs_table({"roofs": None}).empty
    assert tables.readings_table({"roofs": roofs}).empty, "of a version that kept two alone"


def test_readings_are_a_row_a_size_and_a_column_a_number_of_threads():
    told = [("read", 2**20, 1, [5e10, 6e10]), ("read", 2**20, 2, [1e11]),
            ("matmul", "int8", 1, [2e12, 1e12])]  # fmt: skip
    readings = [dict(zip(("what", "of", "threads", "per_s"), one, strict=True)) for one in told]
    table = tables.readings_table({"roofs": {"raw": {"readings": readings}}})
    assert list(table["Of"]) == ["1.00 MiB", "int8"]
    assert list(table["1 thread"]) == ["60.0 GB/s [50.0 GB/s]", "2.00 Top/s [1.00 Top/s]"]
    assert table["2 threads"][0] == "100 GB/s [100 GB/s]"


def test_the_memory_of_a_server_is_told_by_every_reader_though_no_one_process_has_it():
    frame = synthetic.rows().assign(rss_peak_bytes=np.nan, peak_bytes=500 * 2.0**20)
    table = tables.scaling_table(frame)
    assert all(cell.startswith("500") for cell in table["Peak resident memory (MiB)"])
    drawn = figures.memory_growth(frame).data
    assert set(drawn.loc[drawn["drawn"] != "model loaded", "median"].dropna()) == {500 * 2.0**20}
    numbers = {n.label: n for n in findings.findings(frame).sections[0].numbers}
    assert numbers["Peak resident memory"].value == "500.0 MiB"
