"""The results of the trials → the page docs/proof.md and its figures; no number is its own."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmbench import stats
from llmbench.figures import parts
from llmbench.figures.style import INK, OKABE_ITO, STYLE
from llmbench.units import significant

BLUE, VERMILION = OKABE_ITO[:2]
ASKED = "interval excludes 1"
BEYOND = "and beyond the noise floor"
ALARMS = {"A/A": "no drift,\nblocks", "drift, blocks": "drift,\nblocks",
          "drift, A then B": "drift,\nA then B"}  # fmt: skip
BARS = {("A/A", ASKED): "at most 6 %", ("A/B", ASKED): "at least 95 %",
        ("A/B", BEYOND): "at least 95 %", ("drift, blocks", ASKED): "about 5 %",
        ("drift, A then B", "refused: not interleaved"): "all"}  # fmt: skip
TEXT = Path(__file__).with_name("page.txt")


def write(results: Mapping[str, Any], folder: Path) -> Path:
    """`folder`/proof.md with `folder`/figures/proof_*.svg and .png, from the results alone."""
    draw_all(pd.DataFrame(results["rows"]), folder / "figures")
    path = folder / "proof.md"
    path.write_text(text(results), encoding="utf-8")
    return path


def text(results: Mapping[str, Any]) -> str:
    """The page: its words with the results in their places."""
    table = pd.DataFrame(results["rows"])
    places = {
        "made": results["made"], "trials": f"{results['trials']:,}",
        "seconds": f"{results['seconds']:,.0f}", "versions": results["versions"],
        "coverage": _markdown(_covered(table), _coverage_row,
                              ("interval of", "planted", "covered", "asked")),
        "comparison": _markdown(_compared(table), _share_row, SHARE_HEAD),
        "drift": _markdown(_drifting(table), _share_row, SHARE_HEAD),
        "difference": _markdown(_power(table, "difference"), _share_row, SHARE_HEAD),
        "runs": _markdown(_power(table, "process_runs"), _share_row, SHARE_HEAD),
        "five": percent(_one(table, process_runs=5, outcome=ASKED).expected),
        "refused": f"{_one(table, outcome='p99 refused').count:,}",
        "refusals": "\n".join(f"- {what}: “{said}”" for what, said in results["refusals"].items()),
        "smallest": _smallest((0.5, 0.9, 0.95, 0.99, 0.999)),
        "ranks": _ranks((6, 10, 20, 30, 100)),
        "stopping": _stopping((0.90, 0.95, 0.99), (0, 1, 2, 5, 10)),
    }  # fmt: skip
    page = TEXT.read_text(encoding="utf-8")
    for name, text in places.items():
        page = page.replace(f"<{name}>", text)
    return page


# -- tables ----------------------------------------------------------------------------------------

SHARE_HEAD = ("design", "planted", "outcome", "trials", "theory", "asked")


def _markdown(
    rows: pd.DataFrame, line: Callable[[Any], Sequence[str]], head: Sequence[str]
) -> str:  # fmt: skip
    return _rows(head, *(line(row) for row in rows.itertuples()))


def _share_row(row: Any) -> tuple[str, ...]:
    theory = "" if math.isnan(row.expected) else percent(row.expected)
    return _design(row), _planted(row), row.outcome, _share(row), theory, _asked(row)


def _asked(row: Any) -> str:
    return BARS.get((row.scenario, row.outcome), "")


def _coverage_row(row: Any) -> tuple[str, ...]:
    kind = row.outcome.removesuffix(" covered")
    what = kind if kind.startswith("p9") else f"{kind}, {row.process_runs} process runs"
    return what, _planted(row), _share(row), "at least 93 %"


def _share(row: Any) -> str:
    bounds = f"{percent(row.low)} to {percent(row.high)}"
    return f"{row.count:,} of {row.trials:,} ({percent(row.share)}; {bounds})"


def _design(row: Any) -> str:
    turns = "A then B" if "A then B" in row.scenario else f"{row.blocks} blocks"
    return f"{row.process_runs} process runs, {turns}"


def _planted(row: Any) -> str:
    what = f"{100 * row.difference:g} % faster" if row.difference else "no difference"
    return what + (f", drift of {100 * row.machine_drift:g} %" if row.machine_drift else "")


def percent(share: float) -> str:
    """'95.2 %' of 0.952."""
    return f"{significant(100 * share, 3)} %"


def _drifting(table: pd.DataFrame) -> pd.DataFrame:
    outcomes = (ASKED, "refused: not interleaved")
    return table[(table["machine_drift"] > 0) & table["outcome"].isin(outcomes)]


def _one(table: pd.DataFrame, **values: Any) -> Any:
    """The row with these values, as a tuple of names."""
    (row,) = table[(table[list(values)] == pd.Series(values)).all(axis=1)].itertuples()
    return row


def _covered(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[table["scenario"].isin(("A/A", "A/B", "percentiles"))]
    return rows[rows["outcome"].str.endswith("covered")]


def _compared(table: pd.DataFrame) -> pd.DataFrame:
    outcomes = (ASKED, BEYOND, "verdict yes", "verdict no")
    return table[table["scenario"].isin(("A/A", "A/B")) & table["outcome"].isin(outcomes)]


def _power(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """The outcomes of the comparisons that differ from the default design in `by` only."""
    default = {"difference": 0.03, "process_runs": 6}
    default.pop(by)
    ((name, value),) = default.items()
    rows = table[(table[name] == value) & (table["machine_drift"] == 0)]
    return rows[rows["outcome"].isin((ASKED, BEYOND))].sort_values([by, "outcome"])


def _smallest(quantiles: Sequence[float]) -> str:
    found = [f"{stats.smallest_n(q):,}" for q in quantiles]
    return _rows(("quantile", *(f"{q:g}" for q in quantiles)), ("fewest values", *found))


def _ranks(sizes: Sequence[int]) -> str:
    found = ["{} and {}".format(*stats.quantile_ranks(n, 0.5, 0.95)) for n in sizes]
    return _rows(("values", *map(str, sizes)), ("ranks", *found))


def _stopping(quantiles: Sequence[float], over: Sequence[int]) -> str:
    found = [
        (f"p{100 * q:.0f}", *(f"{stats.early_stopping(q, t):,}" for t in over)) for q in quantiles
    ]
    return _rows(("over the limit", *map(str, over)), *found)


def _rows(head: Sequence[str], *rows: Sequence[str]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(each)} |" for each in lines)


# -- figures ---------------------------------------------------------------------------------------


def draw_all(table: pd.DataFrame, folder: Path) -> None:
    """The figures of the page, as SVG and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    covered = _covered(table)
    names = [row.outcome.removesuffix(" covered")
             + ("" if row.scenario == "percentiles" else f"\n{row.scenario}")
             for row in covered.itertuples()]  # fmt: skip
    _save(
        _shares(covered, names, "Covered by 95 % intervals (% of trials)", 93), folder, "coverage"
    )
    alarms = table[table["scenario"].isin(ALARMS) & (table["outcome"] == ASKED)]
    names = [ALARMS[name] for name in alarms["scenario"]]
    figure = _shares(alarms, names, "False alarms (% of trials)", 5)
    figure.axes[0].set_ylim(0, 103)
    _save(figure, folder, "drift")
    for by, label, factor in (("difference", "Planted difference (%)", 100),
                              ("process_runs", "Process runs", 1)):  # fmt: skip
        _save(_curve(_power(table, by), by, label, factor), folder, f"power_{by}")


def _shares(rows: pd.DataFrame, names: Sequence[str], label: str, bar: float) -> Figure:
    """A point a row with its binomial interval; the dashed line is what is asked or expected."""
    with matplotlib.rc_context(STYLE):
        figure, ax = parts.axes("", label)
        share = 100 * rows["share"].to_numpy()
        reach = [share - 100 * rows["low"], 100 * rows["high"] - share]
        ax.errorbar(range(len(rows)), share, reach, fmt="o", color=BLUE, capsize=3)
        ax.axhline(bar, color=INK, linestyle="--", linewidth=0.8)
        ax.set_xticks(range(len(rows)), names)
        ax.set_xlim(-0.5, len(rows) - 0.5)
        ax.grid(axis="x", visible=False)
    return figure


def _curve(rows: pd.DataFrame, by: str, label: str, factor: float) -> Figure:
    """Shares of trials against what was varied, with binomial intervals; hollow: theory."""
    with matplotlib.rc_context(STYLE):
        figure, ax = parts.axes(label, "Found (% of trials)")
        for outcome, colour, marker in ((ASKED, BLUE, "o"), (BEYOND, VERMILION, "s")):
            _line_of(ax, rows[rows["outcome"] == outcome], by, factor, colour, marker)
        ax.axhline(95, color=INK, linestyle="--", linewidth=0.8)
        ax.set_ylim(0, 103)
        ax.legend(loc="lower right")
    return figure


def _line_of(
    ax: Axes, rows: pd.DataFrame, by: str, factor: float, colour: str, marker: str
) -> None:  # fmt: skip
    x, share = factor * rows[by].to_numpy(float), 100 * rows["share"].to_numpy()
    reach = [share - 100 * rows["low"], 100 * rows["high"] - share]
    ax.errorbar(x, share, reach, fmt=marker, color=colour, capsize=3, label=rows["outcome"].iloc[0])
    ax.plot(x, 100 * rows["expected"].to_numpy(), color=colour, linewidth=0.8)


def _save(figure: Figure, folder: Path, name: str) -> None:
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "llmbench"}):
        figure.savefig(folder / f"proof_{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"proof_{name}.png", dpi=200, metadata={"Software": None})
