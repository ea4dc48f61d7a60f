"""A run → one self-contained report.html for people, with its figures and tables beside it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from llmbench import __version__, checker, figures, findings, metrics, store, tables
from llmbench.figures import Drawn
from llmbench.findings import About, Findings, Fit, Told
from llmbench.findings.circumstances import STATUSES
from llmbench.findings.numbers import CELL, METRICS, count, model_names, quantity
from llmbench.redact import redact
from llmbench.store.reader import read_rows_and_digest, uncollected
from llmbench.units import nbytes, per_second, seconds

TOLD = ("llmbench", "torch", "transformers", "bitsandbytes", "ollama")  # versions in a caption,
SERVES = {"transformers": {"transformers"}, "ollama": {"ollama"},
          "bitsandbytes": {"int8", "nf4"}}  # some only where they served  # fmt: skip
MOST_ROWS = 60  # of a table on the page; its files hold all


class Plate(NamedTuple):
    """One figure of the page: how it is drawn, the metric, what it says at a glance."""

    draw: Callable[..., Drawn]
    metric: str
    lead: str
    reading: str = ""


DRAWN = {  # what a caption says of what is drawn
    "fixed cost": "Dotted: fixed cost of the fitted law.",
    "memory roof": "Thin lines: the least time by the measured roof of the memory, unless a cache "
    "holds the weights.",
    "compute roof": "Thin lines: the least time by the measured roof of the processor.",
    "model loaded": "Dotted: the model is loaded and has done no work yet.",
    **dict.fromkeys(STATUSES, "Crossed out at the upper edge: sizes that failed."),
}
OTHER_STUDIES = ("model_validation", "ollama_comparison", "attention")  # not of growth
GROWTH = {
    "prefill_scaling": Plate(
        figures.prefill_scaling, "prefill_s", "How the prefill grows with the prompt.",
        "Both axes are logarithmic."),
    "decode_scaling": Plate(
        figures.decode_scaling, "tpot_s", "How decoding slows down as the context fills."),
    "throughput": Plate(
        figures.throughput, "decode_tok_per_s", "What batching gains.",
        "Tokens of all rows together."),
    "memory_growth": Plate(
        figures.memory_growth, "peak_bytes", "How much memory is resident at the peak."),
    "distribution": Plate(
        figures.distribution, "prefill_s", "How far single repeats scatter.",
        "Points: repeats; bars: median of each process run. A bar far from zero is a process run "
        "that was slower or faster as a whole."),
}  # fmt: skip
PLATES = GROWTH | {
    "engines": Plate(
        figures.beside, "decode_tok_per_s", "How fast each engine decodes the same file."),
    "ratios": Plate(
        figures.ratios, "decode_tok_per_s", "How each contender compares with its baseline.",
        "Bars: 95 % intervals over process runs; above 1 the target is better."),
    "ratio_growth": Plate(
        figures.ratio_growth, "decode_tok_per_s", "Whether the advantage grows with the context.",
        "Both axes are logarithmic; above 1 the target is better."),
    "size_scaling": Plate(
        figures.size_scaling, "tpot_s", "How the time per token grows with the model.",
        "Both axes are logarithmic; dashed: the least time by the measured roof of the memory."),
    "weights": Plate(
        figures.weights, "peak_bytes", "How many bytes the weights take in each form.",
        "As held in memory, scales included."),
    "attention_share": Plate(
        figures.attention_share, "prefill_s", "How much of the prefill is attention.",
        "Found by leaving scores, softmax and weighted sum out of the same model."),
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A figure as the page needs it."""

    name: str
    drawn: Drawn
    svg: Markup
    lead: str
    reading: str


class Grid(NamedTuple):
    """A table as the page needs it."""

    name: str
    common: str  # what is the same in every row, and no column therefore
    columns: list[str]
    rows: list[list]
    numeric: list[bool]
    left_out: int


class Run(NamedTuple):
    """One run as the page needs it."""

    part: pd.DataFrame  # as `metrics.measured`
    frame: pd.DataFrame  # flagged by this run alone
    faults: list[str]
    digest: str


@dataclass(frozen=True)
class Report:
    """All that the page says."""

    frame: pd.DataFrame
    found: Findings
    abouts: tuple[About, ...]
    shown: tuple[Shown, ...]
    tables: dict[str, pd.DataFrame]
    faults: tuple[str, ...]
    digest: str

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing anything."""
        steps = [fault for about in self.abouts for fault in about.status.get("faults", [])]
        return [*self.found.cautions, *(f"A step of the run failed: {fault}." for fault in steps)]


def write_page(folder: str | Path, runs: Sequence[str | Path] | None = None) -> Path:
    """Write figures/, tables/ and report.html of the run in `folder`; returns the page's path.

    `runs` are the folders that the report is about (default: `folder` alone).
    Raises: BadParams when there is no such run, StoreFailed.
    """
    folder = Path(folder)
    report = _gather(runs or [folder])
    ids = [about.name for about in report.abouts]
    text = _html(report, folder)
    for name, table in report.tables.items():
        tables.write(table, folder / "tables", name)
    save_plates({shown.name: shown.drawn for shown in report.shown}, folder, ids)
    store.snapshot(folder / "report.html", text.encode())
    return folder / "report.html"


def plates(
    frame: pd.DataFrame, fits: Sequence[Fit] | None = None, told: Sequence[Told] | None = None
) -> dict[str, Drawn]:
    """Every figure of the page that has something to show, by the name of its files.

    `fits` are the laws of `frame`, `told` its comparisons, where they are known already.
    """
    told = findings.comparisons(frame) if told is None else told
    grown = frame[~frame["study"].isin(OTHER_STUDIES) & (frame["prompt"] == "exact")]
    drawn = {name: plate.draw(grown, fits=fits) if plate.draw is figures.prefill_scaling
             else plate.draw(grown) for name, plate in GROWTH.items()}  # fmt: skip
    drawn["engines"] = figures.beside(frame, told)
    drawn["ratios"] = figures.ratios(told)
    drawn["ratio_growth"] = figures.ratio_growth(told)
    drawn["size_scaling"] = figures.size_scaling(frame)
    drawn["weights"] = figures.weights(frame)
    drawn["attention_share"] = figures.attention_share(frame)
    return {name: figure for name, figure in drawn.items() if len(figure.data)}


def save_plates(drawn: Mapping[str, Drawn], folder: Path, runs: Sequence[str]) -> list[Path]:
    """Write and close `plates` as PDF, PNG and CSV in `folder`/figures; `runs` are their ids."""
    place = folder / "figures"
    return [path for name, plate in drawn.items()
            for path in figures.save(plate.figure, place, name, plate.data, runs)]  # fmt: skip


def render(folder: str | Path, runs: Sequence[str | Path] | None = None) -> str:
    """The page as text; writes nothing. Raises: BadParams, StoreFailed."""
    report = _gather(runs or [folder])
    text = _html(report, Path(folder))
    for shown in report.shown:
        shown.drawn.figure.clear()
    return text


@uncollected()
def _gather(folders: Sequence[str | Path]) -> Report:
    abouts = tuple(findings.about(folder) for folder in folders)
    runs = [_read(Path(folder), about) for folder, about in zip(folders, abouts, strict=True)]
    frame = runs[0].frame if len(runs) == 1 else metrics.flagged(*(run.part for run in runs))
    found = findings.findings(frame, abouts)
    told = findings.comparisons(frame, declared=findings.declared(abouts))
    made = {
        "scaling": tables.scaling_table(frame),
        "validation": tables.validation_table(frame),
        "engines": tables.engines_table(frame, told),
        "comparisons": tables.ratios_table(told),
        "checks": tables.checks_table(told),
        "next_tokens": tables.next_tokens_table(frame),
        "protocol": tables.protocol_table(frame),
        "growth": tables.growth_table(told),
        "sizes": tables.sizes_table(frame),
        "devices": tables.devices_table(frame),
        "laws": tables.laws_table(found.fits),
        "failures": tables.failures_table(frame),
        "flags": tables.flags_table(frame),
    }
    faults = tuple(fault for run in runs for fault in run.faults)
    digest = " ".join(run.digest[:16] for run in runs)
    shown = tuple(_show(name, drawn) for name, drawn in plates(frame, found.fits, told).items())
    return Report(frame, found, abouts, shown, made, faults, digest)


def _read(folder: Path, about: About) -> Run:
    """The rows of one run, with what the result checker finds and the lines that cannot be read."""
    rows, unread, digest = read_rows_and_digest(folder)
    part = metrics.measured(rows, about.environments, about.name)
    frame = metrics.flagged(part)
    found = checker.check_frame(frame, rows, about.environments)
    faults = [*(f"{fault}." for fault in unread), *(f"{f.run}: {f.what} ({f.how})." for f in found)]
    return Run(part, frame, faults, digest)


def _show(name: str, drawn: Drawn) -> Shown:
    """A figure with its element for the page and its words."""
    plate = PLATES[name]
    svg = Markup(figures.svg(drawn.figure, name, _alt(plate, drawn.data)))
    reading = " ".join(filter(None, [*_reading(drawn.data), plate.reading, drawn.note]))
    return Shown(name, drawn, svg, plate.lead, reading)


def _reading(data: pd.DataFrame) -> list[str]:
    """How the marks are to be read, of those that are drawn."""
    if "drawn" not in data:
        return []
    bars = "; bars: exact 95 % interval of the median" if data["low"].notna().any() else ""
    points = "; points: process runs" if (data["drawn"] == "process run").any() else ""
    drawn = [DRAWN[name] for name in DRAWN if (data["drawn"] == name).any()]
    return [f"Median of process runs{bars}{points}.", *dict.fromkeys(drawn), *_too_fast(data)]


def _too_fast(data: pd.DataFrame) -> list[str]:
    """What to think of a roof that is passed."""
    medians = data.loc[data["drawn"] == "median", [*CELL, "median"]]
    roofs = data.loc[data["drawn"].isin(["memory roof", "compute roof"]), [*CELL, "median"]]
    both = medians.merge(roofs, on=CELL, suffixes=("", "_roof"))
    passed = int((both["median"] < both["median_roof"]).sum())
    why = ", or a cache serves" if (data["drawn"] == "memory roof").any() else ""
    told = f"{passed} of {count(len(both), 'median')} lie below the roof: it was read too low{why}."
    return [told] if passed else []


def _alt(plate: Plate, data: pd.DataFrame) -> str:
    """What the figure shows, for people who do not see it."""
    label, unit, _ = METRICS[plate.metric]
    text = f"{plate.lead} Chart of {label.lower()} in {unit}."
    if "claim" in data:
        told = [f"{c.claim}: {c.ratio:.2f}" for c in data.head(6).itertuples()]
        return f"{plate.lead} {'; '.join(told)}."
    if "drawn" not in data:
        return f"{text} {len(data)} points."
    medians = data[data["drawn"] == "median"].sort_values("context_len")
    for (series, batch), line in list(medians.groupby(["series", "batch_size"]))[:3]:
        cells = [line.iloc[0], line.iloc[-1]]
        first, last = (quantity(c["median"], c["low"], c["high"], plate.metric)[0] for c in cells)
        text += (f" {series}, batch {batch:.0f}: {first} at {cells[0]['context_len']:,.0f} tokens, "
                 f"{last} at {cells[1]['context_len']:,.0f} tokens.")  # fmt: skip
    return text


# -- the page --------------------------------------------------------------------------------------


def _html(report: Report, folder: Path) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    text = page.get_template("page.html.j2").render(
        report=report, found=report.found, rows=_row_count(report.frame),
        circumstances=_circumstances(report), machines=_machines(report.abouts),
        tables=_grids(report.tables), dates=_dates(report.frame), version=__version__,
        params={a.name: redact(a.params_text) for a in report.abouts if a.params_text},
        notebooks=[path.name for path in sorted((folder / "notebooks").glob("*.ipynb"))],
    )  # fmt: skip
    return text.replace("95 %", "95\N{NO-BREAK SPACE}%")


def _row_count(frame: pd.DataFrame) -> str:
    """'216 repeats: 204 ok, 12 oom'."""
    counts = ", ".join(f"{n:,} {status}" for status, n in frame["status"].value_counts().items())
    return f"{count(len(frame), 'repeat')}: {counts}" if counts else "no repeats"


def _dates(frame: pd.DataFrame) -> str:
    days = sorted({str(moment)[:10] for moment in frame["measured_at"].dropna().unique()})
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "no date"


def _circumstances(report: Report) -> str:
    """What every caption must say: device, versions, clocks, warm-up, date, records."""
    frame = report.frame
    runs = frame.groupby(["run", "fingerprint", "study"])["process_run"].nunique()
    warm = frame[frame["warmups"] > 0]
    turns = ", ".join(map(str, sorted(warm["warmups"].unique())))
    warmup = (f"warm-up {seconds(warm['warmup_s'].median())} (turns: {turns}) before the first "
              "repeat of a shape, not counted")  # fmt: skip
    served = {*frame["engine"], *frame["weight_format"].dropna()}
    told = [name for name in TOLD if served & SERVES.get(name, served)]
    machines = sorted({_device(e, told) for a in report.abouts for e in a.environments.values()})
    parts = [*machines, f"threads {', '.join(map(str, sorted(frame['threads'].unique())))}",
             f"process runs {', '.join(map(str, sorted(runs.unique())))} (by study)",
             warmup if len(warm) else "no warm-up recorded", f"measured {_dates(frame)}",
             f"records {report.digest}"]  # fmt: skip
    return "; ".join(parts)


def _device(environment: Mapping[str, Any], told: Sequence[str]) -> str:
    """Device, versions and clocks policy of one environment."""
    machine = environment["machine"]
    names = [machine["cpu_model"], *(gpu["name"] for gpu in machine["gpus"])]
    packages = machine["packages"]
    versions = ", ".join(f"{n} {packages[n]}" for n in told if n in packages)
    clocks = f"clock governor {machine['cpu_governor'] or 'not readable, clocks not fixed'}"
    return f"{', '.join(names)}; {versions}; {clocks}"


def _machines(abouts: Sequence[About]) -> list[tuple[str, dict[str, str]]]:
    """(fingerprint, facts) of each machine, with the values that could be read."""
    found = {}
    for environment in (e for about in abouts for e in about.environments.values()):
        machine, roofs = environment["machine"], environment.get("roofs") or {}
        flops = per_second(roofs.get("flops_per_s") or math.nan, "FLOP")
        facts = {
            "Processor": machine["cpu_model"],
            "Cores": f"{machine['physical_cores']} physical, {machine['logical_cores']} logical",
            "Instruction sets": " ".join(machine["isa"]),
            "Memory": nbytes(machine["memory_bytes"]),
            "GPU": ", ".join(g["name"] for g in machine["gpus"]) or machine["gpu_reason"],
            "System": f"{machine['os']} {machine['kernel']}",
            "Python": machine["python"],
            "Packages": ", ".join(f"{n} {v}" for n, v in sorted(machine["packages"].items())),
            "Clock governor": machine["cpu_governor"] or "not readable",
            "Code": _code(environment),
            "Roofs": f"{per_second(roofs['bytes_per_s'], 'B')}, {flops}: {roofs['source']}"
            if roofs.get("bytes_per_s") else "not measured",
        }  # fmt: skip
        found.setdefault(environment["fingerprint"], facts)
    return list(found.items())


def _code(environment: Mapping[str, Any]) -> str:
    """The commit that measured, and whether it was changed."""
    commit = environment["machine"].get("git_commit")
    changed = ", with uncommitted changes" if environment["machine"].get("git_dirty") else ""
    return f"{commit[:12]}{changed}" if commit else ""


def _grids(made: dict[str, pd.DataFrame]) -> list[Grid]:
    """The tables with rows, the first of their rows, and which columns hold numbers."""
    return [_grid(name, table) for name, table in made.items() if len(table)]


def _grid(name: str, table: pd.DataFrame) -> Grid:
    common = {}
    if name == "scaling" and len(table) > 1:
        common = {c: table[c].iloc[0] for c in table.columns[:6] if table[c].nunique() == 1}
        table = table.drop(columns=list(common))
    if "Model" in table:
        table = table.assign(Model=table["Model"].map(model_names(table["Model"])))
    return Grid(
        name, "; ".join(f"{c.lower()}: {value}" for c, value in common.items()),
        list(table.columns), table.head(MOST_ROWS).to_numpy().tolist(),
        [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes],
        max(0, len(table) - MOST_ROWS),
    )  # fmt: skip
