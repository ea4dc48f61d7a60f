"""Figures of comparisons: ratios with their interval and noise floor, attention's share."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from llmbench.figures import parts, style
from llmbench.figures.style import STYLE, WIDTH_IN
from llmbench.findings.comparisons import Told, attention_share
from llmbench.findings.numbers import METRICS, count
from llmbench.findings.validation import validation_rows

ROW_IN = 0.36  # height of one claim
LABEL_PT = 230  # room for its words
COLUMNS = ["run", "target", "baseline", "metric", "claim", "ratio", "low", "high", "noise_floor",
           "at_least", "verdict", "preview"]  # fmt: skip
MARKS = {"yes": "o", "no": "s", "inconclusive": "D", None: "x"}
MARKED = {"yes": "circles", "no": "squares", "inconclusive": "diamonds", None: "crosses"}


def ratio_rows(told: Sequence[Told]) -> pd.DataFrame:
    """A row a claim, `COLUMNS`; empty when nothing could be compared."""
    rows, several = [], len({one.baseline for one in told}) > 1
    for one in told:
        who = f"{one.target} / {one.baseline}" if several else one.target
        for claim in one.comparison.claims if one.comparison else ():
            named = dict(claim.group)
            size = f"{named['prompt_tokens']:,} tokens" if "prompt_tokens" in named else ""
            what = [who, claim.model.rpartition("/")[2],
                    METRICS[one.metric].label.lower(), size]  # fmt: skip
            rows.append((named.get("run", ""), one.target, one.baseline, one.metric,
                         ", ".join(filter(None, what)), claim.ratio, claim.low, claim.high,
                         claim.noise_floor, claim.at_least, claim.verdict,
                         claim.preview and np.isfinite(claim.ratio)))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def draw_ratios(told: Sequence[Told]) -> tuple[Figure, pd.DataFrame, str]:
    """A forest of ratios on a logarithmic axis; grey: the noise floor; dashed: what was asked.

    A claim without a ratio keeps its line, in words.
    """
    data = ratio_rows(told)
    with matplotlib.rc_context(STYLE):
        size = (WIDTH_IN, 0.75 + ROW_IN * max(3, len(data)))
        figure = Figure(figsize=size, layout="constrained")
        ax = figure.add_subplot()
        ax.set_xscale("log")
        some = data["preview"].any() and not data["preview"].all()
        room = LABEL_PT - style.width_pt(" (preview)") * some
        short = style.fitted(data["claim"], room) if len(data) else {}
        for place, claim in enumerate(data.itertuples()):
            if np.isfinite(claim.ratio):
                _forest_line(ax, place, claim)
            else:
                _at_left(ax, place, "no ratio", va="center", style="italic")
            preview = " (preview)" if claim.preview and some else ""
            _at_left(ax, place - 0.3, f"{short[claim.claim]}{preview}", va="bottom")
        ax.axvline(1, color=style.INK, linewidth=0.6)
        for bar in sorted(set(data["at_least"]) - {1.0}):
            ax.axvline(bar, color=style.INK, linewidth=0.8, linestyle=(0, (4, 2)))
        ax.set_yticks([])
        ax.set_ylim(len(data) - 0.5, -0.9)
        ax.set_xlabel("How many times better than the baseline")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        _ticks(ax, data)
        ax.grid(False, axis="y")
        parts.empty(ax, data)
    return figure, data, _note(data)


def _forest_line(ax: Axes, place: int, claim: Any) -> None:
    """A ratio with its interval, its noise floor in grey behind it."""
    reach = np.clip([[claim.ratio - claim.low], [claim.high - claim.ratio]], 0, None)
    ax.errorbar(claim.ratio, place, xerr=np.nan_to_num(reach), capsize=2,
                marker=MARKS.get(claim.verdict, "x"),
                color=style.colour_of(claim.target))  # fmt: skip
    if pd.notna(claim.noise_floor):
        ax.fill_betweenx([place - 0.2, place + 0.2], 1 / (1 + claim.noise_floor),
                         1 + claim.noise_floor, color=style.INK, alpha=0.15,
                         linewidth=0)  # fmt: skip


def _at_left(ax: Axes, place: float, text: str, **look: str) -> None:
    ax.annotate(text, (0, place), xycoords=("axes fraction", "data"), xytext=(2, 0),
                textcoords="offset points", **look)  # fmt: skip


def _note(data: pd.DataFrame) -> str:
    """How the marks are to be read, of those that are drawn."""
    if data.empty:
        return ""
    known = np.isfinite(data["ratio"])
    told = [f"Baseline: {', '.join(sorted(data['baseline'].unique()))}."]
    if known.any():
        drawn = [
            f"{mark}: {verdict or 'no verdict'}"
            for verdict, mark in MARKED.items()
            if (data["verdict"].isna() if verdict is None else data["verdict"] == verdict).any()
        ]
        told.append(f"Grey: noise floor of the A/A pair. Verdicts: {', '.join(drawn)}.")
    if not known.all():
        told.append(f"Nothing could be paired in {(~known).sum()} of {count(len(data), 'claim')}.")
    return " ".join(told)


def _ticks(ax: Axes, data: pd.DataFrame) -> None:
    """A few round ratios that the data reach, those about 1 where there are none."""
    ends = data[["ratio", "low", "high"]].to_numpy(float)
    ends = np.append(ends[np.isfinite(ends)], [0.95, 1.05])
    low, high = ends.min() / 1.03, ends.max() * 1.03
    steps = [0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10]
    ticks = [s for s in steps if low <= s <= high]
    if high / low > 1.6:
        ticks = [s for s in ticks if s not in (0.95, 1.05, 0.9, 1.1)]
    if high / low > 6:
        ticks = [s for s in ticks if s in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
    if high / low > 100:
        ticks = [10.0**power for power in range(-9, 10) if low <= 10.0**power <= high]
    ax.set_xlim(low, high)
    ax.set_xticks(ticks)


def draw_share(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame, str]:
    """Attention's share of the prefill in % against the prompt length, a line an implementation."""
    data = attention_share(frame)
    with matplotlib.rc_context(STYLE):
        figure, ax = parts.axes("Prompt length (tokens)", "Attention's share of the prefill (%)")
        lines = list(data.groupby(["model", "attention_impl"], sort=True))
        for number, ((model, impl), rows) in enumerate(lines):
            rows = rows.sort_values("context_len")
            share, low, high = (100 * rows[name] for name in ("share", "low", "high"))
            reach = np.clip(np.nan_to_num([share - low, high - share]), 0, None)
            name = impl if data["model"].nunique() < 2 else f"{impl}, {model}"
            ax.errorbar(rows["context_len"], share, yerr=reach, capsize=2, label=name,
                        marker=style.MARKERS[number % len(style.MARKERS)],
                        color=style.OKABE_ITO[number % len(style.OKABE_ITO)])  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.set_xticks(sorted(data["context_len"].unique()), minor=False)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.set_ylim(bottom=min(0.0, float(100 * data["low"].min()) if len(data) else 0.0))
        if lines:
            ax.legend(loc="best")
        parts.empty(ax, data)
    return figure, data, "Bars: exact 95 % interval of the median of process runs."


def draw_weights(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame, str]:
    """Bars from zero: MiB of the weights as held, a bar a form, of what loaded."""
    data = validation_rows(frame)
    if len(data):
        loaded = (data["status"] == "ok") & data["weight_bytes"].notna()
        data = data[loaded].reset_index(drop=True)
    with matplotlib.rc_context(STYLE):
        figure, ax = parts.axes("Weights as held (MiB)", "")
        several = len(data) and data["name"].nunique() > 1
        names = [f"{r.name}, {r.asked}" if several else r.asked for r in data.itertuples()]
        names = [name + ("" if row.passed else ":\ndid not pass")
                 for name, row in zip(names, data.itertuples(), strict=True)]  # fmt: skip
        mib = data["weight_bytes"] / 2**20 if len(data) else []
        bars = ax.barh(range(len(data)), mib, height=0.6, color=style.colour_of("transformers"))
        ax.bar_label(bars, fmt="%.3g", padding=4)
        ax.margins(x=0.15)
        ax.set_yticks(range(len(data)), names)
        ax.invert_yaxis()
        ax.grid(False, axis="y")
        parts.empty(ax, data)
    if len(data):
        data = data.assign(layer_classes=data["layer_classes"].map(str))
    return figure, data, ""
