"""Figures of a protocol: a ratio against the length of the prompt, time per token against bytes."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from llmbench.figures import parts, style
from llmbench.figures.style import STYLE
from llmbench.findings.comparisons import Told
from llmbench.findings.growth import Growth, growth
from llmbench.findings.numbers import EN, METRICS, fixed, model_names
from llmbench.findings.sizes import Line, lines, shortest

RATIO = ["run", "target", "baseline", "metric", "model", "prompt_tokens", "ratio", "low", "high",
         "per_doubling", "per_doubling_low", "per_doubling_high", "preview"]  # fmt: skip
SIZE = ["run", "engine", "asked", "model", "weight_bytes", "tpot_s", "low", "high", "efficiency",
        "roof_s", "exponent", "exponent_low", "exponent_high", "preview"]  # fmt: skip
MOST_TOLD = 4  # slopes that a caption tells


def draw_growth(told: Sequence[Told]) -> tuple[Figure, pd.DataFrame, str]:
    """Ratio in the first metric against prompt length, both logarithmic: a line a model, baseline.

    Colour: baseline. Marker: model.
    """
    known = [one for one in growth(told) if one.lengths]
    every = [one for one in known if one.metric == known[0].metric]
    found = every[: style.MOST_SERIES]
    names, models = _growth_names(found), sorted({one.model for one in found})
    label = METRICS[found[0].metric].label.lower() if found else ""
    with matplotlib.rc_context(STYLE):
        figure, ax = parts.axes("Prompt length (tokens)", f"Times better, {label}")
        ax.set_yscale("log")
        for one, name in zip(found, names, strict=True):
            reach = [np.subtract(one.ratios, one.lows), np.subtract(one.highs, one.ratios)]
            ax.errorbar(one.lengths, one.ratios, yerr=np.clip(np.nan_to_num(reach), 0, None),
                        capsize=2, label=name, color=style.colour_of(one.baseline),
                        **_look(models.index(one.model)))  # fmt: skip
        ax.axhline(1, color=style.INK, linewidth=0.6)
        data = pd.DataFrame([row for one in found for row in _growth_rows(one)], columns=RATIO)
        parts.finish(ax, data, "prompt_tokens")
    return figure, data, " ".join([*_growth_note(found), *_some(len(found), len(every))])


def _growth_names(found: Sequence[Growth]) -> list[str]:
    """The baseline, and the model where there are several."""
    short = model_names(one.model for one in found)
    several = len(short) > 1
    return [f"{one.baseline}, {short[one.model]}" if several else one.baseline for one in found]


def _growth_note(found: Sequence[Growth]) -> list[str]:
    """How the marks are to be read, and the factors where they are few."""
    if not found:
        return []
    told = [f"{name} {fixed(one.per_doubling, 3)} ({one.interval})"
            for name, one in zip(_growth_names(found), found, strict=True)
            if one.interval != EN]  # fmt: skip
    factors = f"Factor for each doubling of the prompt: {'; '.join(told)}."
    return ["Bars: 95 % intervals over process runs.", *[factors] * (0 < len(told) <= MOST_TOLD)]


def _some(drawn: int, of: int) -> list[str]:
    return [f"{drawn} of {of} lines are drawn; the table has all."] if drawn < of else []


def _growth_rows(one: Growth) -> list[tuple[Any, ...]]:
    slope = (one.per_doubling, one.low, one.high, one.preview)
    return [(one.run, one.target, one.baseline, one.metric, one.model, length, *point, *slope)
            for length, *point in zip(one.lengths, one.ratios, one.lows, one.highs,
                                      strict=True)]  # fmt: skip


def draw_sizes(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame, str]:
    """Time per token in ms against weight bytes in MiB, both logarithmic; the memory roof below.

    A line an engine, after the shortest prompts that it was asked.
    """
    every = shortest(lines(frame))
    found = every[: style.MOST_SERIES]
    with matplotlib.rc_context(STYLE):
        figure, ax = parts.axes("Weights as held (MiB)", "Decode time per token (ms)")
        for number, line in enumerate(found):
            _draw_line(ax, line, number, _line_name(line, found))
        _draw_roof(ax, found)
        data = pd.DataFrame([row for line in found for row in _size_rows(line)], columns=SIZE)
        if found:
            _size_axes(ax, data)
        parts.empty(ax, data)
    return figure, data, " ".join([*_size_note(found), *_some(len(found), len(every))])


def _size_note(found: Sequence[Line]) -> list[str]:
    """How the marks are to be read, and the exponents where they are few."""
    told = [f"{_line_name(line, found)} {fixed(line.exponent.value, 2)} "
            f"({fixed(line.exponent.low, 2)}{EN}{fixed(line.exponent.high, 2)})"
            for line in found if line.exponent.estimable]  # fmt: skip
    exponents = [f"Exponent: {'; '.join(told)}."] if 0 < len(told) <= MOST_TOLD else []
    asked = " and ".join(sorted({line.asked for line in found}))
    read = f"Bars: 95 % intervals over process runs; prompts: {asked}."
    return [read, *exponents] if found else []


def _look(number: int) -> dict[str, Any]:
    """Marker and line style of a line, by its number in the figure."""
    return {"marker": style.MARKERS[number % len(style.MARKERS)],
            "linestyle": style.LINES[number % len(style.LINES)]}  # fmt: skip


def _line_name(line: Line, found: Sequence[Line]) -> str:
    """The engine, and the kind of prompt where there are several."""
    several = len({other.asked for other in found}) > 1
    return f"{line.name}, {line.asked}" if several else line.name


def _draw_line(ax: Axes, line: Line, number: int, name: str) -> None:
    mib = [size.weight_bytes / 2**20 for size in line.sizes]
    middle, low, high = (1e3 * np.array([getattr(size.tpot_s, end) for size in line.sizes])
                         for end in ("value", "low", "high"))  # fmt: skip
    reach = np.clip(np.nan_to_num([middle - low, high - middle]), 0, None)
    ax.errorbar(mib, middle, yerr=reach, capsize=2, label=name,
                color=style.colour_of(line.engine), **_look(number))  # fmt: skip


def _draw_roof(ax: Axes, found: Sequence[Line]) -> None:
    """The least time by the memory roof, once: it is the machine's and not an engine's."""
    known = {size.weight_bytes / 2**20: 1e3 * size.roof_s
             for line in found for size in line.sizes if np.isfinite(size.roof_s)}  # fmt: skip
    if known:
        at = sorted(known)
        ax.plot(at, [known[x] for x in at], color=style.INK, alpha=0.7, linewidth=0.9,
                linestyle=style.ROOFS[0], label="memory roof")  # fmt: skip


def _size_axes(ax: Axes, data: pd.DataFrame) -> None:
    """Logarithmic axes with plain numbers: every size is named where there are few."""
    ax.set_yscale("log")
    parts.finish(ax, data.assign(mib=data["weight_bytes"] / 2**20), "mib")
    sizes = sorted(set(data["weight_bytes"] / 2**20))
    ax.set_xticks(sizes if len(sizes) <= 5 else sizes[:: len(sizes) // 4])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_formatter(NullFormatter())


def _size_rows(line: Line) -> list[tuple[Any, ...]]:
    power = (line.exponent.value, line.exponent.low, line.exponent.high, line.preview)
    return [(line.run, line.name, line.asked, size.model, size.weight_bytes, size.tpot_s.value,
             size.tpot_s.low, size.tpot_s.high, size.efficiency.value, size.roof_s, *power)
            for size in line.sizes]  # fmt: skip
