"""The engines beside each other on the same file: decode rates, and what memory allows at most."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmbench.figures import parts, style
from llmbench.figures.style import STYLE, WIDTH_IN
from llmbench.findings.comparisons import Told
from llmbench.findings.engines import DECODE, Beside, beside
from llmbench.findings.numbers import model_names

COLUMNS = ["run", "model", "weights", "asked", "engine", "decode_tok_per_s", "low", "high",
           "step_bytes", "memory_bytes_per_s", "memory_by", "roof_tok_per_s",
           "preview"]  # fmt: skip
MOST_PANELS = 6
BESIDE = 2  # panels that stand in one column
PANEL_IN = 1.75  # height of one panel


def draw_engines(frame: pd.DataFrame, told: Sequence[Told]) -> tuple[Figure, pd.DataFrame, str]:
    """Decode rate in tok/s: a panel a model and length, a group of bars a format, a bar an engine.

    Dashed: the rate at which the file's own bytes, read once a token, take all that memory gives.
    """
    found = [one for one in beside(frame, told) if one.metric == DECODE]
    panels: dict[tuple[str, str, str], list[Beside]] = {}
    for one in found:
        panels.setdefault((one.run, one.model, one.asked), []).append(one)
    drawn = list(panels.items())[:MOST_PANELS]
    engines = list(dict.fromkeys(name for one in found for name in one.sides))
    data = pd.DataFrame([row for _, some in drawn for one in some for row in _rows(one)],
                        columns=COLUMNS)  # fmt: skip
    short = model_names(model for (_, model, _), _ in drawn)
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(max(1, len(drawn)))
        for ax, ((_, model, asked), some) in zip(axes, drawn, strict=False):
            _panel(ax, some, engines)
            ax.set_ylabel("Decode rate (tok/s)")
            ax.set_xlabel(f"{short[model]}, {asked}")
        if drawn:
            named = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
            order = sorted(named, key=[*engines, "memory roof"].index)
            figure.legend([named[name] for name in order], order, loc="outside lower center",
                          ncols=4 if len(drawn) > BESIDE else 2, columnspacing=1.0)  # fmt: skip
        parts.empty(axes[0], data)
    return figure, data, _note(data, len(drawn), len(panels))


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many axes: below each other, or where they are many in two columns."""
    columns = 2 if panels > BESIDE else 1
    lines = math.ceil(panels / columns)
    size = (columns * WIDTH_IN, 0.4 + PANEL_IN * lines)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for spare in axes[panels:]:
        spare.set_axis_off()
    return figure, list(axes[:panels])


def _rows(one: Beside) -> list[tuple]:
    roof = one.bandwidth / file_bytes(one)
    return [(one.run, one.model, one.weights, one.asked, name, side.value.value, side.value.low,
             side.value.high, side.step_bytes, one.bandwidth, one.source, roof, one.preview)
            for name, side in one.sides.items()]  # fmt: skip


def file_bytes(one: Beside) -> float:
    """Bytes of a step as the file holds its weights: the least of any engine; NaN: none tells."""
    told = [side.step_bytes for side in one.sides.values()]
    return float(np.nanmin(told)) if np.isfinite(told).any() else np.nan


def _panel(ax: Axes, some: Sequence[Beside], engines: Sequence[str]) -> None:
    width = 0.8 / len(engines)
    for place, one in enumerate(some):
        for number, name in enumerate(engines):
            if name in one.sides:
                found = one.sides[name].value
                reach = [[found.value - found.low], [found.high - found.value]]
                ax.bar(place - 0.4 + (number + 0.5) * width, found.value, 0.9 * width,
                       yerr=reach if found.estimable else None, label=name,
                       color=style.colour_of(name),
                       error_kw={"elinewidth": 0.8, "capsize": 1.5})  # fmt: skip
        roof = one.bandwidth / file_bytes(one)
        if np.isfinite(roof):
            ax.plot([place - 0.45, place + 0.45], [roof, roof], color=style.INK, linewidth=0.9,
                    linestyle=style.ROOFS[0], label="memory roof")  # fmt: skip
    ax.set_xticks(range(len(some)), [one.weights or "as asked" for one in some])
    ax.grid(False, axis="x")
    parts.from_zero(ax)


def _note(data: pd.DataFrame, drawn: int, of: int) -> str:
    """How the marks are to be read, of those that are drawn."""
    if data.empty:
        return ""
    told = ["Medians of process runs"]
    told[0] += ("; the fine lines: their exact 95 % intervals." if data["low"].notna().any() else
                "; no intervals, which need six of them.")  # fmt: skip
    if data["roof_tok_per_s"].notna().any():
        by = " and ".join(sorted(set(data["memory_by"]) - {""}))
        told.append(f"Dashed: the file's bytes, read once a token, at what memory gives ({by}).")
    return " ".join([*told, *[f"{drawn} of {of} panels are drawn."] * (drawn < of)])
