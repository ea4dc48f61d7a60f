"""Which run is meant, what in it may speak, and what to do with it next."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from llmbench.errors import BadParams, CannotSay

NAMED = 8  # runs named in a refusal
SURENESS = ("unsteady",)  # flags that say how sure a row is, and keep it out of nothing


def folder_of(run: str, outputs: Path | None) -> Path:
    """The folder of a run, by id or path. Raises: BadParams naming the runs that there are."""
    from llmbench import store

    if os.sep not in run:
        return store.chosen_runs([run], outputs)[0]
    if os.path.isdir(os.path.join(run, "records")):
        return Path(run)
    here = os.path.isdir(run)
    known = _runs_near(run, outputs)
    raise BadParams(
        f"no records in {run!r}" if here else f"no such folder: {run!r}",
        why="a run keeps its records in the folder `records` inside it" if here else "",
        how=f"runs: {', '.join(known)}" if known else
            "`make demo` or `llmbench measure` makes a run",
    )  # fmt: skip


def _runs_near(path: str, outputs: Path | None) -> list[str]:
    """Runs inside `path`, else beside it, else of the outputs folder; as `folder_of` takes them."""
    from llmbench import store

    for folder in (path, os.path.dirname(path.rstrip(os.sep))):
        found = store.all_runs(Path(folder)) if os.path.isdir(folder) else []
        if found:
            return [str(run) for run in found[:NAMED]]
    return [run.name for run in store.all_runs(outputs)[:NAMED]]


def flagged(frame: Any, *, but: Collection[str] = ()) -> dict[str, Any]:
    """How many rows of a frame carry flags other than `but`, of how many, and which flags."""
    kept = [[flag for flag in flags if flag not in but] for flags in frame["flags"]]
    counts = Counter(flag for flags in kept for flag in flags)
    return {"rows": sum(map(bool, kept)), "of": len(kept), "flags": dict(sorted(counts.items()))}


def told(counted: Mapping[str, Any], what: str) -> str:
    """'1 of 8 rows are flagged: cold 1 (not warmed up)'; `what` is said of the rows."""
    from llmbench.findings.circumstances import FLAGS

    flags = "; ".join(f"{flag} {rows:,} ({FLAGS[flag]})" if flag in FLAGS else f"{flag} {rows:,}"
                      for flag, rows in counted["flags"].items())  # fmt: skip
    said = f"{counted['rows']:,} of {counted['of']:,} rows {what}"
    return f"{said}: {flags}" if flags else said


def of_growth(frame: Any) -> Any:
    """The rows of studies that are about growth. Raises: CannotSay when there are none."""
    from llmbench.sweep import GROWTH

    studies = sorted(set(frame["study"]))
    others = ", ".join(name for name in studies if name not in GROWTH)
    rows = frame[frame["study"].isin(GROWTH)]
    if others and rows.empty:
        raise CannotSay(
            f"no study of this run is about growth: {others}",
            why=f"growth is the subject of {' and '.join(GROWTH)}",
            kept="all rows",
            how="llmbench report says what it found; llmbench compare compares engines",
        )
    if others:
        click.echo(f"left out, since not about growth: {others}", err=True)
    return rows


def declared_bars(folder: Path) -> tuple[float, Sequence[Any]]:
    """The ratio that the run in `folder` declared, 1 without one, and its bars for named claims."""
    from llmbench import findings

    about = findings.about(folder)
    claimed = findings.declared([about])[about.name]
    return claimed.get("at_least", 1.0), claimed.get("bars", ())
