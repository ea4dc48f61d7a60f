"""Figures show the right data with labels and units, and what is written is what is drawn."""

import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib import colors
from matplotlib._pylab_helpers import Gcf

from llmbench import figures, findings, metrics
from llmbench.figures import style
from tests import synthetic

ALL = [figures.prefill_scaling, figures.decode_scaling, figures.throughput, figures.memory_growth,
       figures.distribution]  # fmt: skip
LONG = (64, 91, 128, 181, 256, 362, 512, 724, 1000)


def line_of(figure, label: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the line with intervals that the legend calls `label`."""
    ax = figure.axes[0]
    container = next(c for c in ax.containers if c.get_label() == label)
    return container.lines[0].get_data()


def labels_of(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("draw", "x", "y"),
    [
        (figures.prefill_scaling, "Prompt length (tokens)", "Prefill time (ms)"),
        (figures.decode_scaling, "Context length (tokens)", "Decode time per token (ms)"),
        (figures.throughput, "Batch size (rows)", "Decode rate (tok/s)"),
        (figures.memory_growth, "Prompt length (tokens)", "Peak resident memory (MiB)"),
        (figures.distribution, "Process run",
         "Prefill time, deviation\nfrom the median of its cell (%)"),
    ],
)  # fmt: skip
def test_axes_have_units_and_no_title(draw, x, y):
    ax = draw(synthetic.rows()).figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == (x, y, "")
    sizes = [
        text.get_fontsize() for text in ax.figure.findobj(lambda a: hasattr(a, "get_fontsize"))
    ]
    assert min(sizes) >= 8


def test_prefill_is_drawn_in_ms_on_logarithmic_axes():
    frame = synthetic.rows()
    drawn = figures.prefill_scaling(frame)
    x, y = line_of(drawn.figure, "batch 4")
    medians = frame[frame["batch_size"] == 4].groupby(["context_len", "process_run"])["prefill_s"]
    truth = medians.median().groupby("context_len").median()
    assert list(x) == list(truth.index)
    assert y == pytest.approx(1e3 * truth.to_numpy())
    ax = drawn.figure.axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_the_table_is_what_is_drawn():
    drawn = figures.decode_scaling(synthetic.rows())
    table = drawn.data[(drawn.data["drawn"] == "median") & (drawn.data["batch_size"] == 1)]
    x, y = line_of(drawn.figure, "batch 1")
    assert list(x) == list(table["context_len"]) and list(y) == list(table["median"] * 1e3)
    points = drawn.data[drawn.data["drawn"] == "process run"]
    dots = [line for line in drawn.figure.axes[0].lines if line.get_marker() == "."]
    assert sorted(np.concatenate([line.get_ydata() for line in dots])) == pytest.approx(
        sorted(points["median"] * 1e3)
    )
    assert len(points) == 6 * 2 * 4


def test_bars_are_the_interval_and_absent_where_it_is_not_estimable():
    for runs, known in ((6, True), (3, False)):
        drawn = figures.prefill_scaling(synthetic.rows(process_runs=runs))
        container = drawn.figure.axes[0].containers[0]
        assert bool(container.lines[2]) == known
        if not known:
            continue
        segments = np.array([s for c in container.lines[2] for s in c.get_segments()])
        heights = segments[:, 1, 1] - segments[:, 0, 1]
        table = drawn.data[drawn.data["drawn"] == "median"].iloc[: len(heights)]
        truth = (table["high"] - table["low"]) * 1e3
        assert heights == pytest.approx(np.asarray(truth, float), abs=1e-9)


def test_decode_starts_at_zero_and_shows_the_measured_roof():
    frame = synthetic.rows()
    drawn = figures.decode_scaling(frame)
    assert drawn.figure.axes[0].get_ylim()[0] == 0
    assert "memory roof" in labels_of(drawn.figure)
    roof = drawn.data[(drawn.data["drawn"] == "memory roof") & (drawn.data["batch_size"] == 4)]
    truth = (synthetic.WEIGHTS + 4 * synthetic.KV * roof["context_len"]) / 40e9
    assert roof["median"].to_numpy() == pytest.approx(truth.to_numpy())
    without = figures.decode_scaling(frame.assign(mbu=np.nan))
    assert "memory roof" not in labels_of(without.figure)


def test_the_floor_is_drawn_only_of_a_claimed_law():
    claimed = figures.prefill_scaling(synthetic.rows(context_lens=LONG, noise=0.003))
    floor = claimed.data[claimed.data["drawn"] == "fixed cost"]["median"].iloc[0]
    assert floor == pytest.approx(synthetic.PREFILL[0], rel=0.1)
    assert "fitted fixed cost" in labels_of(claimed.figure)
    frame = synthetic.rows(context_lens=(64, 128))
    fit = findings.fits(frame, "prefill_s")[0]
    assert not fit.claimed
    guessed = fit._replace(law=replace(fit.law, floor_s=1e-3))
    refused = figures.prefill_scaling(frame, [guessed])
    assert "fitted fixed cost" not in labels_of(refused.figure)


def test_failed_sizes_stay_as_marks():
    frame = synthetic.fail(synthetic.rows(), "oom", "no memory", batch_size=4, context_len=512)
    drawn = figures.prefill_scaling(frame)
    assert "out of memory: batch 4" in labels_of(drawn.figure)
    lost = drawn.data[drawn.data["drawn"] == "oom"]
    assert list(lost["context_len"]) == [512]
    marks = [line for line in drawn.figure.axes[0].lines if line.get_marker() == "x"]
    assert [list(mark.get_xdata()) for mark in marks if len(mark.get_xdata())] == [[512]]
    assert 512 not in line_of(drawn.figure, "batch 4")[0]
    held = [line for line in drawn.figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert [mark.get_marker() for mark in held] == [style.MARKERS[1]], "the marker of batch 4"


@pytest.mark.parametrize("draw", [ALL[0], ALL[1], ALL[3]])
def test_failed_sizes_are_in_the_table(draw):
    frame = synthetic.fail(synthetic.rows(), "timeout", "late", batch_size=4, context_len=512)
    drawn = draw(frame)
    assert list(drawn.data.loc[drawn.data["drawn"] == "timeout", "context_len"]) == [512]
    assert "timed out: batch 4" in labels_of(drawn.figure)


def test_constant_values_stay_within_the_axes():
    frame = synthetic.rows().assign(peak_bytes=300e6, rss_after_load_bytes=299e6)
    ax = figures.memory_growth(frame).figure.axes[0]
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > 1.05 * 300e6 / 2**20


def test_an_engine_has_one_colour_everywhere():
    frame = pd.concat([synthetic.rows(), synthetic.rows(engine="edge")], ignore_index=True)
    for draw in ALL[:4]:
        for container in draw(frame).figure.axes[0].containers:
            engine = container.get_label().split(",")[0]
            expected = colors.to_hex(figures.ENGINE_COLOURS[engine])
            assert colors.to_hex(container.lines[0].get_color()) == expected
    assert len(set(figures.ENGINE_COLOURS.values())) == len(figures.ENGINE_COLOURS)
    assert style.colour_of("vllm") == style.colour_of("vllm") in style.OKABE_ITO


def contrast(colour: str) -> float:
    """Contrast with white as WCAG 2 counts it."""
    red, green, blue = (
        v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in colors.to_rgb(colour)
    )
    return 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)


def test_colours_can_be_seen_on_white():
    for colour in {*figures.ENGINE_COLOURS.values(), *style.OKABE_ITO}:
        assert contrast(colour) >= 3, colour


def two_models() -> pd.DataFrame:
    name = "hf:an-organisation-with-a-long-name/a-model-of-{}-billion-parameters-chat"
    made = [synthetic.rows(model=name.format(n), slower=n) for n in (7, 70)]
    return pd.concat(made, ignore_index=True)


@pytest.mark.parametrize("draw", ALL)
def test_long_names_stay_within_the_figure_and_apart(draw):
    figure = draw(two_models()).figure
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    legend = figure.legends[0].get_texts() if figure.legends else []
    assert len({text.get_text() for text in legend}) == len(legend)
    for box in [*boxes, *(text.get_window_extent() for text in legend)]:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_only_what_differs_is_in_the_legend():
    assert labels_of(figures.memory_growth(synthetic.rows()).figure) == [
        "batch 1", "batch 4", "model loaded",
    ]  # fmt: skip
    roofs = [name for name in labels_of(figures.decode_scaling(two_models()).figure)
             if name.startswith("memory roof: ")]  # fmt: skip
    assert len(roofs) == 2 and not any("transformers" in name for name in roofs)


def test_more_lines_than_can_be_told_apart_are_counted():
    frame = synthetic.rows(batch_sizes=tuple(range(1, 13)), context_lens=(64, 128))
    assert "10 of 12 lines are drawn" in labels_of(figures.prefill_scaling(frame).figure)


def test_a_short_vertical_axis_has_numbers():
    frame = synthetic.rows(batch_sizes=(1,), context_lens=(128, 256))
    figure = figures.prefill_scaling(frame).figure
    low, high = figure.axes[0].get_ylim()
    assert sum(low <= tick <= high for tick in figure.axes[0].get_yticks()) >= 3


def test_a_notebook_shows_a_figure_at_the_size_of_its_text():
    data, look = figures.throughput(synthetic.rows())._repr_png_()
    assert data.startswith(b"\x89PNG") and 400 <= look["width"] <= 500


def test_a_distribution_is_of_deviations_by_process_run():
    frame = synthetic.rows(noise=0.0)
    frame.loc[frame["process_run"] == 2, "prefill_s"] *= 1.1
    data = figures.distribution(frame).data
    by_run = data.groupby("process_run")["deviation_percent"].median()
    assert by_run[2] == pytest.approx(10) and by_run.drop(2).abs().max() < 1e-9


def test_a_repeat_far_out_does_not_hide_the_others():
    frame = synthetic.rows(noise=0.01)
    frame.loc[3, "prefill_s"] *= 40
    drawn = figures.distribution(frame)
    low, high = drawn.figure.axes[0].get_ylim()
    assert -20 < low < high < 20
    assert "Triangles: 1 repeat beyond the edge, at up to 3," in drawn.note
    assert drawn.data["deviation_percent"].max() > 3000  # the table holds it as it is


def test_many_repeats_are_thinned_and_it_is_said():
    drawn = figures.distribution(synthetic.rows(blocks=40))
    assert len(drawn.data) <= style.MOST_POINTS < 1920
    assert drawn.note == f"{len(drawn.data):,} of 1,920 repeats are drawn."


ODD = {
    "one size": synthetic.rows(context_lens=(64,), batch_sizes=(1,)),
    "one process run": synthetic.rows(process_runs=1, blocks=1),
    "several runs": pd.concat([synthetic.rows(), synthetic.rows(run="b", fingerprint="ffff")]),
    "all failed": synthetic.rows().assign(status="oom", reason="no"),
    "no memory": synthetic.rows().assign(peak_bytes=np.nan, rss_after_load_bytes=np.nan),
    "an odd name": synthetic.rows(model="_$\\frac{<script>&\N{GREEK SMALL LETTER MU}"),
    "no rows": metrics.frame_of([], {}),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_frames_can_be_drawn(name):
    for draw in ALL:
        drawn = draw(ODD[name].reset_index(drop=True))
        assert drawn.figure.axes
    figures.svg(drawn.figure, "f", "alt")


def test_files_are_stable_and_hold_what_was_drawn(tmp_path):
    frame = synthetic.rows()
    for folder in ("a", "b"):
        drawn = figures.throughput(frame)
        paths = figures.save(drawn.figure, tmp_path / folder, "rate", drawn.data, ["demo"])
        assert drawn.figure.axes == [], "a saved figure is closed"
    assert [path.name for path in paths] == ["rate.pdf", "rate.png", "rate.csv"]
    for path in paths:
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    again = pd.read_csv(paths[2])
    pd.testing.assert_frame_equal(again[["median", "low"]], drawn.data[["median", "low"]],
                                  check_dtype=False)  # fmt: skip
    assert set(again["run"]) == {"demo"}
    assert b"/FontType 42" in paths[0].read_bytes() or b"/CIDFontType2" in paths[0].read_bytes()
    assert not Gcf.get_all_fig_managers(), "no figure is left in pyplot's hands"


def test_a_csv_without_a_run_column_names_the_runs(tmp_path):
    figure = figures.throughput(synthetic.rows()).figure
    figures.save(figure, tmp_path, "x", pd.DataFrame({"n": [1]}), ["a", "b"])
    assert (tmp_path / "x.csv").read_text() == 'n,run\n1,"a, b"\n'


def test_svg_is_for_a_page():
    drawn = figures.prefill_scaling(synthetic.rows(model="<script>"))
    text = figures.svg(drawn.figure, "one", 'says "this" & <that>')
    assert text == figures.svg(drawn.figure, "one", 'says "this" & <that>')
    assert text.startswith('<svg role="img" aria-label="says &quot;this&quot; &amp; &lt;that&gt;"')
    assert "http" not in text and "<script>" not in text and style.INK not in text
    ids = set(re.findall(r'\bid="([^"]*)"', text))
    assert ids and all(name.startswith("one-") for name in ids)


def test_laws_are_not_fitted_twice(monkeypatch):
    frame = synthetic.rows()
    known = findings.fits(frame, "prefill_s")
    monkeypatch.setattr(findings.laws, "scaling", None)
    figures.prefill_scaling(frame, known)


def test_drawing_does_not_wake_torch_or_pyplot():
    code = "import sys, llmbench.figures; print({'torch', 'matplotlib.pyplot'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
