"""What figures are made of: axes, lines with intervals, roofs, floors, failed sizes, legends.

Functions that draw return the table they were given with what they drew added to it.
"""

from collections.abc import Sequence
from itertools import pairwise, zip_longest

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from llmbench import stats
from llmbench.figures.style import (
    CROSSES,
    FAILED,
    HEIGHT_IN,
    INK,
    LEGEND_PT,
    LINES,
    MARKERS,
    MOST_EDGES,
    MOST_POINTS,
    MOST_SERIES,
    ROOFS,
    WIDTH_IN,
    colour_of,
    fitted,
    width_pt,
)
from llmbench.findings import Fit
from llmbench.findings.circumstances import lost_sizes
from llmbench.findings.numbers import (
    CELL,
    METRICS,
    SERIES,
    SERVED,
    series_names,
    shown,
    summary,
)

LEAST_EDGE = 1.0  # per cent to which a strip reaches at least


def axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A figure of a column's width with one pair of axes."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    ax = figure.add_subplot()
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return figure, ax


def lines(
    ax: Axes, frame: pd.DataFrame, metric: str, *, x: str, split: str, part: str
) -> pd.DataFrame:
    """Draw a line for each series and value of `split`; returns the table of what is drawn.

    Colour: engine. Marker: value of `split`. Line style: series of one engine.
    """
    table = summary(frame, metric)
    if table.empty:
        return table.assign(series="", drawn="")
    table = table.assign(series=series_names(table), drawn="median")
    numbers, names = _numbered(table), labels(table, split, part)
    every = list(table.groupby(["series", split], sort=True))
    lines = every[:MOST_SERIES]
    for (name, value), line in lines:
        line = line.sort_values(x)
        middle, low, high = (line[c] * METRICS[metric].factor for c in ("median", "low", "high"))
        reach = np.nan_to_num([middle - low, high - middle])  # NaN: not estimable, no bar
        reach = np.clip(reach, 0, None) if line["estimable"].any() else None
        ax.errorbar(
            line[x], middle, yerr=reach, capsize=2, elinewidth=0.8,
            color=colour_of(line["engine"].iloc[0]), linestyle=LINES[numbers[name] % len(LINES)],
            marker=_marker(frame, split, value), label=names[line.index[0]],
        )  # fmt: skip
    if len(every) > len(lines):
        ax.plot([], [], " ", label=f"{len(lines)} of {len(every)} lines are drawn")
    drawn = pd.concat([line for _, line in lines], ignore_index=True)
    return pd.concat([drawn, _run_points(ax, frame, drawn, metric, x)], ignore_index=True)


def labels(rows: pd.DataFrame, split: str, part: str) -> pd.Series:
    """What the legend calls each row's line: its series, where there are several, and its part."""
    names, parts = series_names(rows), rows[split].astype(int).map(part.format)
    if names.nunique() < 2:
        return parts
    room = LEGEND_PT - max(width_pt(f", {part}") for part in parts.unique())
    return names.map(fitted(names, room)) + ", " + parts


def _marker(frame: pd.DataFrame, split: str, value: int) -> str:
    """The marker of one value of `split`, the same for what was measured and what was lost."""
    return MARKERS[sorted(frame[split].unique()).index(value) % len(MARKERS)]


def _numbered(table: pd.DataFrame) -> dict[str, int]:
    """Each series' number among those of its engine."""
    pairs = table[["engine", "series"]].drop_duplicates().sort_values(["engine", "series"])
    return dict(zip(pairs["series"], pairs.groupby("engine").cumcount(), strict=True))


def strips(ax: Axes, data: pd.DataFrame) -> pd.DataFrame:
    """Draw a strip of points and its median for each series and process run.

    Returns the rows that lie too far out, drawn as triangles at the edge.
    """
    labels, starts = [], []
    away = data["deviation_percent"].abs()
    edge = max(LEAST_EDGE, 3 * away.quantile(0.9)) if len(data) else LEAST_EDGE
    far = data[away > edge]
    for _, rows in data.groupby("series", sort=True):
        starts.append(len(labels))
        colour = colour_of(rows["engine"].iloc[0])
        for run, mine in rows.groupby("process_run", sort=True):
            at = len(labels)
            spread = np.linspace(-0.28, 0.28, len(mine)) if len(mine) > 1 else np.zeros(1)
            values = mine["deviation_percent"].to_numpy()
            for mark, size, some in ((".", 5, np.abs(values) <= edge), ("^", 4, values > edge),
                                     ("v", 4, values < -edge)):  # fmt: skip
                ax.plot((at + spread)[some], values[some].clip(-edge, edge), mark, color=colour,
                        alpha=0.6, markersize=size, markeredgewidth=0)  # fmt: skip
            ax.hlines(np.clip(np.median(values), -edge, edge), at - 0.36, at + 0.36, color=colour,
                      linewidth=1.6)  # fmt: skip
            labels.append(str(run))
    if len(starts) > 1:
        _name_strips(ax, sorted(data["series"].unique()), [*starts, len(labels)])
    step = -(-len(labels) // 18) if labels else 1
    ax.set_xticks(range(0, len(labels), step), labels[::step])
    ax.set_xlim(-0.6, max(0, len(labels) - 1) + 0.6)
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.grid(False, axis="x")
    empty(ax, data)
    return far


def _name_strips(ax: Axes, names: Sequence[str], edges: Sequence[int]) -> None:
    """Write each name over its strip, a line a part, and draw the edges between strips."""
    room = 205 * min(np.diff(edges)) / edges[-1] - 4  # the axes are about 205 pt wide
    parts = list(zip_longest(*(name.split(", ") for name in names), fillvalue=""))
    short = [fitted(part, room) for part in parts]
    for number, (start, end) in enumerate(pairwise(edges)):
        text = "\n".join(s[part[number]] for s, part in zip(short, parts, strict=True))
        ax.text((start + end - 1) / 2, 1.01, text, ha="center", va="bottom",
                transform=ax.get_xaxis_transform())  # fmt: skip
        if start:
            ax.axvline(start - 0.5, color=INK, linewidth=0.4)


def loaded(ax: Axes, data: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Draw what each series holds after loading, before any work."""
    rows = shown(frame).dropna(subset=["rss_after_load_bytes"])
    if data.empty or rows.empty:
        return data
    rows = rows.assign(series=series_names(rows))
    levels = rows.groupby(["run", "engine", "series"], as_index=False)[
        "rss_after_load_bytes"
    ].median()
    levels = levels[levels["series"].isin(data["series"])]
    for number, level in enumerate(levels.itertuples(index=False)):
        ax.axhline(level.rss_after_load_bytes * METRICS["peak_bytes"].factor, linewidth=0.8,
                   color=colour_of(level.engine), linestyle=":",
                   label="_" if number else "model loaded")  # fmt: skip
    levels = levels.rename(columns={"rss_after_load_bytes": "median"})
    return pd.concat([data, levels.assign(drawn="model loaded")], ignore_index=True)


def _run_points(
    ax: Axes, frame: pd.DataFrame, drawn: pd.DataFrame, metric: str, x: str
) -> pd.DataFrame:
    """Draw the medians of single process runs where they are few; returns what is drawn."""
    rows = shown(frame)
    points = stats.process_run_medians(rows[rows[metric].notna()], metric, CELL)
    points = points.rename(columns={metric: "median"}).merge(drawn[[*CELL, "series"]], on=CELL)
    if len(points) > MOST_POINTS:
        return points.iloc[:0]
    for engine, mine in points.groupby("engine"):
        ax.plot(mine[x], mine["median"] * METRICS[metric].factor, ".", color=colour_of(engine),
                alpha=0.5, markersize=6, markeredgewidth=0)  # fmt: skip
    return points.assign(metric=metric, drawn="process run")


def roof(
    ax: Axes, data: pd.DataFrame, frame: pd.DataFrame, metric: str, share: str
) -> pd.DataFrame:
    """Draw the least possible time where the roof of the machine was measured: time x share."""
    rows = shown(frame)
    rows = rows[rows[metric].notna() & rows[share].notna()]
    if data.empty or rows.empty:
        return data
    rows = rows.assign(roof=rows[metric] * rows[share])
    roofs = rows.groupby(CELL, as_index=False)["roof"].median().merge(
        data.loc[data["drawn"] == "median", [*CELL, "series"]], on=CELL)  # fmt: skip
    label = {"mbu": "memory roof", "mfu": "compute roof"}[share]
    names = sorted(roofs["series"].unique())
    told = fitted(names, LEGEND_PT - width_pt(f"{label}: ")) if 1 < len(names) <= len(ROOFS) else {}
    for name, rows in roofs.groupby("series", sort=True):
        number = names.index(name)
        entry = f"{label}: {told[name]}" if told else label if number == 0 else "_"
        for _, line in rows.sort_values("context_len").groupby("batch_size"):
            ax.plot(line["context_len"], line["roof"] * METRICS[metric].factor, color=INK,
                    alpha=0.7, linewidth=0.9, linestyle=ROOFS[number if told else 0],
                    label=entry)  # fmt: skip
            entry = "_"
    roofs = roofs.rename(columns={"roof": "median"}).assign(metric=metric, drawn=label)
    return pd.concat([data, roofs], ignore_index=True)


def floor(ax: Axes, data: pd.DataFrame, metric: str, fits: Sequence[Fit]) -> pd.DataFrame:
    """Draw the fixed cost of each fitted law that is claimed."""
    claimed = [fit for fit in fits if fit.claimed and fit.law.floor_s > 0]
    for number, fit in enumerate(claimed):
        ax.axhline(fit.law.floor_s * METRICS[metric].factor, color=colour_of(fit.engine),
                   linewidth=0.8, linestyle=(0, (1, 1.5)),
                   label="_" if number else "fitted fixed cost")  # fmt: skip
    rows = [dict(zip(SERIES, fit.series, strict=True)) | {"batch_size": fit.batch_size,
            "median": fit.law.floor_s, "metric": metric, "drawn": "fixed cost"}
            for fit in claimed]  # fmt: skip
    return pd.concat([data, pd.DataFrame(rows)], ignore_index=True) if rows else data


def censored(ax: Axes, data: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Cross out, at the upper edge, the sizes of which no repeat could be measured.

    A cross holds the marker of its line; every line has its own height.
    """
    lost = lost_sizes(frame).head(MOST_POINTS)
    if lost.empty:
        return data
    lines = _lost_lines(data, lost)
    _make_room(ax, 0.04 + 0.06 * min(len(lines), MOST_EDGES))
    for number, ((_, batch, engine), mine) in enumerate(lines):
        at = mine["context_len"], [0.97 - 0.06 * (number % MOST_EDGES)] * len(mine)
        look = {"color": colour_of(engine), "linestyle": "", "clip_on": False,
                "transform": ax.get_xaxis_transform()}  # fmt: skip
        marker = _marker(frame, "batch_size", batch)
        ax.plot(*at, marker=marker, markersize=8, markerfacecolor="none", **look)
        for status, sizes in mine.groupby("status"):
            ax.plot(sizes["context_len"], at[1][: len(sizes)], marker=CROSSES[status],
                    markersize=4, **look)  # fmt: skip
    for status in sorted(lost["status"].unique()):
        names = [name for (name, _, _), mine in lines if (mine["status"] == status).any()]
        ax.plot([], [], color=INK, linestyle="", marker=CROSSES[status], markersize=5,
                label=_lost_entry(FAILED[status], names))  # fmt: skip
    return pd.concat([data, lost.assign(drawn=lost["status"])], ignore_index=True)


def _lost_entry(what: str, names: Sequence[str]) -> str:
    """'out of memory: batch 4', or only what happened where the names are too long."""
    room = LEGEND_PT - width_pt(f"{what}: ")
    text = ", ".join(fitted(names, room).values() if len(names) == 1 else names)
    return f"{what}: {text}" if width_pt(text) <= room else what


def _lost_lines(data: pd.DataFrame, lost: pd.DataFrame) -> list[tuple[tuple, pd.DataFrame]]:
    """((label, batch, engine), lost sizes) of each line of which sizes were lost."""
    known = data.loc[data["drawn"] == "median", CELL]
    cells = pd.concat([known, lost.assign(**dict.fromkeys(SERVED, ""))], ignore_index=True)
    names = labels(cells, "batch_size", "batch {:,}").iloc[len(known) :]
    by = [names.set_axis(lost.index).rename("label"), lost["batch_size"], lost["engine"]]
    return list(lost.groupby(by, sort=True))


def _make_room(ax: Axes, share: float) -> None:
    """Raise the upper limit by a share of the axis, so that edge marks hide no data."""
    low, high = ax.get_ylim()
    grown = 1 / (1 - share)
    log = ax.get_yscale() == "log"
    ax.set_ylim(top=low * (high / low) ** grown if log else low + (high - low) * grown)


def from_zero(ax: Axes) -> None:
    """Let the vertical axis begin at zero and end somewhat above the data."""
    highest = ax.dataLim.y1
    ax.set_ylim(0, highest * 1.08 if np.isfinite(highest) and highest > 0 else 1)
    ax.yaxis.set_major_formatter(FuncFormatter(_plain))


def _plain(value: float, _: int) -> str:
    return f"{value:,g}"


def finish(ax: Axes, data: pd.DataFrame, x: str) -> None:
    """A logarithmic size axis with plain numbers, and a legend that hides no data."""
    empty(ax, data)
    if data.empty:
        return
    sizes = sorted(data[x].dropna().unique())
    ax.set_xscale("log", base=2)
    ax.set_xlim(sizes[0] / 1.2, sizes[-1] * 1.2)
    ax.xaxis.set_major_locator(
        FixedLocator(sizes) if len(sizes) <= 6 else LogLocator(2, numticks=9)
    )
    ax.xaxis.set_major_formatter(FuncFormatter(_plain))
    ax.xaxis.set_minor_locator(NullLocator())
    if ax.get_yscale() == "log":
        _plain_log_ticks(ax)
    _legend(ax)


def _plain_log_ticks(ax: Axes) -> None:
    """Plain numbers at a logarithmic vertical axis, about five of them however short it is."""
    low, high = ax.get_ylim()
    subs = (1, 2, 5) if high / low > 10 else (1, 2, 3, 5, 7)
    ax.yaxis.set_major_locator(LogLocator(subs=subs) if high / low > 4 else MaxNLocator(5))
    ax.yaxis.set_major_formatter(FuncFormatter(_plain))
    ax.yaxis.set_minor_formatter(NullFormatter())
    if high / low <= 4:
        ax.yaxis.set_minor_locator(NullLocator())


def _legend(ax: Axes) -> None:
    """Below the axes; medians first. The figure grows by the legend's height."""
    pairs = [(h, t) for h, t in zip(*ax.get_legend_handles_labels(), strict=True) if t != "_"]
    pairs.sort(key=lambda pair: not isinstance(pair[0], ErrorbarContainer))
    columns = _columns([text for _, text in pairs])
    ax.figure.set_size_inches(WIDTH_IN, HEIGHT_IN + 0.17 * -(-len(pairs) // columns))
    ax.figure.legend(*zip(*pairs, strict=True), loc="outside lower center", ncols=columns,
                     handlelength=2.2, columnspacing=1.0, labelspacing=0.3)  # fmt: skip


def _columns(texts: Sequence[str]) -> int:
    """2 where two columns of entries fit into the figure, else 1."""
    half, wide = -(-len(texts) // 2), [width_pt(text) for text in texts]
    return 2 if max(wide[:half]) + max(wide[half:], default=0) < LEGEND_PT - 30 else 1


def empty(ax: Axes, data: pd.DataFrame) -> None:
    """Say so in a figure that has nothing to show."""
    if data.empty:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no rows to show", ha="center", transform=ax.transAxes)


def thinned(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most about `most` rows, evenly spaced in their order."""
    return rows.iloc[:: max(1, -(-len(rows) // most))]
