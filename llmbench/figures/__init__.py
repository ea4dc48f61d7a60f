"""Frame → figure with the table of what it shows. No title, units on every axis, one fixed colour
an engine; medians of process runs with their interval; sizes that failed stay as marks.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from llmbench import findings
from llmbench.figures import contrasts, parts, sizes, style
from llmbench.figures.engines import draw_engines
from llmbench.figures.style import ENGINE_COLOURS as ENGINE_COLOURS
from llmbench.figures.style import STYLE
from llmbench.findings import Fit, Told
from llmbench.findings.numbers import CELL, METRICS, count, series_names, shown

SHOWN_PX = 460  # width of a figure in a notebook, whose own letters are about as large then
PREVIEW = "preview: too few blocks or process runs for a claim"
MOST_STRIPS = 3  # series in one distribution


@dataclass(frozen=True)
class Drawn:
    """A figure, what it shows as a table, and what a caption must add."""

    figure: Figure
    data: pd.DataFrame
    note: str = ""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture, and how many pixels wide a notebook should show it."""
        with matplotlib.rc_context(STYLE), BytesIO() as file:
            self.figure.savefig(file, format="png", dpi=200)
            return file.getvalue(), {"width": SHOWN_PX}


def prefill_scaling(frame: pd.DataFrame, fits: Sequence[Fit] | None = None) -> Drawn:
    """Prefill time in ms against prompt length in tokens, both axes logarithmic.

    `fits` are the laws of `frame` where they are known already, as in `Findings.fits`.
    """
    fits = findings.fits(frame, "prefill_s") if fits is None else fits
    return _growth(frame, "prefill_s", "Prompt length (tokens)", roof="mfu", fits=fits)


def decode_scaling(frame: pd.DataFrame) -> Drawn:
    """Decode time per token in ms, from zero, against what the KV cache holds at the start."""
    return _growth(frame, "tpot_s", "Context length (tokens)", roof="mbu")


def throughput(frame: pd.DataFrame) -> Drawn:
    """Decode rate in tok/s against batch size, at the shortest and longest prompt of all."""
    rows = shown(frame)
    batches = rows.groupby("context_len")["batch_size"].nunique()
    lengths = batches.index[batches == batches.max()]
    ends = sorted({lengths.min(), lengths.max()}) if len(lengths) else []
    with matplotlib.rc_context(STYLE):
        figure, ax = parts.axes("Batch size (rows)", "Decode rate (tok/s)")
        chosen = frame[frame["context_len"].isin(ends)]
        data = parts.lines(ax, chosen, "decode_tok_per_s", x="batch_size", split="context_len",
                      part="{:,} tokens")  # fmt: skip
        parts.from_zero(ax)
        parts.finish(ax, data, "batch_size")
    some = f"The shortest and the longest of {len(lengths)} prompt lengths are drawn."
    note = some if len(lengths) > 2 else ""
    return _drawn(figure, data, note, preview=_early(frame))


def memory_growth(frame: pd.DataFrame) -> Drawn:
    """Peak resident memory in MiB against prompt length; dotted: after loading, before work."""
    with matplotlib.rc_context(STYLE):
        figure, ax = parts.axes("Prompt length (tokens)", "Peak resident memory (MiB)")
        data = parts.lines(ax, frame, "peak_bytes", x="context_len", split="batch_size",
                      part="batch {:,}")  # fmt: skip
        data = parts.loaded(ax, data, frame)
        parts.from_zero(ax)
        data = parts.censored(ax, data, frame)
        parts.finish(ax, data, "context_len")
    return _drawn(figure, data, preview=_early(frame))


def distribution(frame: pd.DataFrame, metric: str = "prefill_s") -> Drawn:
    """Every repeat as its deviation in % from its cell's median: one column a process run."""
    rows = shown(frame)
    rows = rows[rows[metric].notna()]
    rows = rows.assign(series=series_names(rows))
    middle = rows.groupby(CELL, sort=False)[metric].transform("median")
    rows = rows.assign(deviation_percent=(rows[metric] / middle - 1) * 100)
    names = sorted(rows["series"].unique())
    keep = [*CELL, "series", "process_run", "block", "repeat", metric, "deviation_percent"]
    rows = rows.loc[rows["series"].isin(names[:MOST_STRIPS]), keep]
    data = parts.thinned(rows.reset_index(drop=True), style.MOST_POINTS)
    label = f"{METRICS[metric].label}, deviation\nfrom the median of its cell (%)"
    with matplotlib.rc_context(STYLE):
        figure, ax = parts.axes("Process run", label)
        far = parts.strips(ax, data)
    notes = [f"{len(data):,} of {len(rows):,} repeats are drawn."] if len(data) < len(rows) else []
    if len(far):
        notes.append(f"Triangles: {count(len(far), 'repeat')} beyond the edge, at up to "
                     f"{far['deviation_percent'].abs().max():,.0f} %.")  # fmt: skip
    if len(names) > MOST_STRIPS:
        notes.append(f"{MOST_STRIPS} of {len(names)} series are drawn.")
    return _drawn(figure, data, " ".join(notes), preview=_early(frame))


def ratios(told: Sequence[Told]) -> Drawn:
    """The ratio of every claim with its interval, the noise floor behind it."""
    figure, data, note = contrasts.draw_ratios(told)
    return _drawn(figure, data, note, preview=data["preview"].any())


def beside(frame: pd.DataFrame, told: Sequence[Told]) -> Drawn:
    """Decode rates of the engines of `told`, a panel a model, with the memory roof."""
    figure, data, note = draw_engines(frame, told)
    return _drawn(figure, data, note, preview=data["preview"].any())


def ratio_growth(told: Sequence[Told]) -> Drawn:
    """The ratio of each comparison against the length of the prompt, with its intervals."""
    figure, data, note = sizes.draw_growth(told)
    return _drawn(figure, data, note, preview=data["preview"].any())


def size_scaling(frame: pd.DataFrame) -> Drawn:
    """Decode time per token in ms against weight bytes, a line an engine, and the memory roof."""
    figure, data, note = sizes.draw_sizes(frame)
    return _drawn(figure, data, note, preview=data["preview"].any())


def weights(frame: pd.DataFrame) -> Drawn:
    """Bytes of the weights as held, of each quantization of each model."""
    return _drawn(*contrasts.draw_weights(frame))


def attention_share(frame: pd.DataFrame) -> Drawn:
    """Attention's share of the prefill in % against prompt length."""
    figure, data, note = contrasts.draw_share(frame)
    early = _early(frame[frame["study"] == "attention"])
    return _drawn(figure, data, note, preview=early)


def _drawn(figure: Figure, data: pd.DataFrame, note: str = "", *, preview: bool = False) -> Drawn:
    """The figure with its layout settled, so that it is the same however often it is saved.

    One that shows a preview says so in itself and in its note, wherever it is pasted.
    """
    with matplotlib.rc_context(STYLE):
        if preview and len(data):
            figure.suptitle(PREVIEW, x=0.99, ha="right", fontsize=8, style="italic")
            note = f"P{PREVIEW[1:]}. {note}".rstrip()
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return Drawn(figure, data, note)


def _early(frame: pd.DataFrame) -> bool:
    """Whether a row that may be drawn is no more than a preview."""
    return bool(shown(frame)["preview"].any())


def _growth(
    frame: pd.DataFrame, metric: str, xlabel: str, *, roof: str, fits: Sequence[Fit] | None = None
) -> Drawn:
    """Median and interval of `metric` against context_len, with roof, floor and failed sizes.

    With `fits` the axis of `metric` is logarithmic, else it starts at zero.
    """
    with matplotlib.rc_context(STYLE):
        figure, ax = parts.axes(xlabel, f"{METRICS[metric].label} ({METRICS[metric].unit})")
        data = parts.lines(
            ax, frame, metric, x="context_len", split="batch_size", part="batch {:,}"
        )
        data = parts.roof(ax, data, frame, metric, roof)
        if fits is not None and len(data):
            ax.set_yscale("log")
            data = parts.floor(ax, data, metric, fits)
        else:
            parts.from_zero(ax)
        data = parts.censored(ax, data, frame)
        parts.finish(ax, data, "context_len")
    return _drawn(figure, data, preview=_early(frame))


# -- files -----------------------------------------------------------------------------------------


def svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an SVG element for a page, the same text every time.

    Its ink is the page's text colour, its ids begin with `name`, `alt` says what it shows.
    """
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "llmbench"}), StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
        text = file.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)[0]
    body = text[text.index("</defs>", text.index("</metadata>")) + len("</defs>") :]
    body = body.replace(style.INK, "currentColor").replace("xlink:href", "href")
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    return f'<svg role="img" aria-label="{html.escape(alt)}" {box}>{body}'


def save(
    figure: Figure, folder: Path, name: str, data: pd.DataFrame, runs: Sequence[str]
) -> list[Path]:
    """Write NAME.pdf, NAME.png and NAME.csv (what is drawn, SI units), then close the figure.

    The runs' ids stand in the files' metadata, and in the CSV when it has no column `run`. Equal
    input gives equal bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = ", ".join(runs)
    stem = folder / name
    with matplotlib.rc_context(STYLE):
        figure.savefig(f"{stem}.pdf", metadata={"CreationDate": None, "Keywords": ids})
        figure.savefig(f"{stem}.png", dpi=200, metadata={"Software": None, "Source": ids})
    table = data if "run" in data else data.assign(run=ids)
    table.to_csv(f"{stem}.csv", index=False, lineterminator="\n")
    figure.clear()
    return [Path(f"{stem}.{kind}") for kind in ("pdf", "png", "csv")]
