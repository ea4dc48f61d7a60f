"""What may not enter a figure, and why: schema, identities, duplicates, answers from a cache, mixed
circumstances, impossible numbers, a report of other records. Reads only; nothing is changed.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from llmbench import metrics, record, store
from llmbench.record import Flag
from llmbench.store.reader import read_rows_and_digest, uncollected

TOLERANCE_S = 1e-6  # of the identities between times
AGAIN = "measure these rows again, with nothing else running"
CONTENDER = ["run", "fingerprint", "study", "model", "model_sha256", "engine", "options", "device",
             "threads", "weights"]  # who must be served alike in every process  # fmt: skip
SERVED = ["impl", "attention_impl", "weight_format", "weight_bytes", "build", "versions"]
SOURCE = re.compile(r"<p>llmbench \S+ · records ([0-9a-f ]+)</p>")  # of a report: digests of runs
REPORT = "keep the run and report it: the measuring code or the record is wrong"


@dataclass(frozen=True)
class Finding:
    """One fault: the rule it breaks, the rows (keys) it concerns, and how to mend it."""

    run: str
    rule: str
    what: str
    rows: tuple[str, ...]
    how: str


def check(*folders: str | Path) -> list[Finding]:
    """Every fault of the runs in `folders`; empty when there is none. Raises: BadParams."""
    return [finding for folder in map(Path, folders) for finding in _check_run(folder)]


@uncollected()
def _check_run(folder: Path) -> list[Finding]:
    rows, unread, digest = read_rows_and_digest(folder)
    run = folder.resolve().name
    broken = [Finding(run, "schema", str(fault), (), "the line is left out; measure it again")
              for fault in unread]  # fmt: skip
    found = check_rows(rows, store.environments(folder), run)
    return [*broken, *found, *_of_report(folder, digest, run)]


def _of_report(folder: Path, digest: str, run: str) -> Iterator[Finding]:
    """Whether report.html, with its figures and tables, is of the records that are here now."""
    page = folder / "report.html"
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    told = SOURCE.search(text)
    if text and not told:
        yield Finding(run, "claim", "report.html does not tell from which records it was made", (),
                      f"llmbench report {run}")  # fmt: skip
    if told and digest[:16] not in told[1].split():
        yield Finding(run, "claim", f"report.html was made from other records ({told[1]}) than "
                      f"those here ({digest[:16]})", (), f"llmbench report {run}")  # fmt: skip


def check_rows(
    rows: Sequence[Mapping[str, Any]], environments: Mapping[str, Mapping], run: str = ""
) -> list[Finding]:
    """Every fault of one run's rows (dicts shaped as `record.Record`)."""
    return check_frame(metrics.frame_of(rows, environments, run), rows, environments)


def check_frame(
    frame: pd.DataFrame, rows: Sequence[Mapping[str, Any]], environments: Mapping[str, Mapping]
) -> list[Finding]:
    """Every fault of one run, from its rows and the frame that `metrics` made of them."""
    if frame.empty:
        return []
    found = [*_of_rows(rows, environments), *_of_times(rows, frame), *_of_several(frame),
             *_impossible(frame, environments)]  # fmt: skip
    run = frame["run"].iloc[0]
    return [Finding(run, rule, f"{_count(len(keys))}: {what}", tuple(keys), how)
            for rule, what, keys, how in found if len(keys)]  # fmt: skip


Found = Iterator[tuple[str, str, Sequence[str], str]]  # rule, what, keys, how to mend


def _of_rows(rows: Sequence[Mapping], environments: Mapping[str, Mapping]) -> Found:
    """What is wrong with a row as it is stored."""
    known = set(get_args(Flag))
    odd = sorted({flag for row in rows for flag in row["flags"]} - known)
    yield ("flags", f"unknown flags: {', '.join(odd)}",
           _keys(row for row in rows if not known.issuperset(row["flags"])),
           "read the run with the llmbench that wrote it")  # fmt: skip
    yield ("environment", "the circumstances are not in environment.json",
           _keys(row for row in rows if row["environment"] not in environments),
           "put back environment.json beside the records")  # fmt: skip
    yield ("key", "the key is not that of what was asked: changed, or another protocol version",
           _wrong_keys(rows),
           "do not draw these rows beside others; measure them again")  # fmt: skip
    ok = [row for row in rows if row["status"] == "ok"]
    yield ("missing", "status ok without token times",
           _keys(row for row in ok if not _timed(row)), REPORT)  # fmt: skip
    yield ("missing", "status ok without a count of output tokens",
           _keys(row for row in ok if not row["witness"]), REPORT)  # fmt: skip


def _of_times(rows: Sequence[Mapping], frame: pd.DataFrame) -> Found:
    """Identities between the times and counts of one row."""
    timed = [row for row in rows if _timed(row)]
    late = (frame["ttft_s"] > 0) & (frame["ttft_s"] < frame["prefill_s"])
    yield ("order", "token times run backwards, or end before the last token",
           _keys(row for row in timed if not _increasing(row["raw"])), REPORT)  # fmt: skip
    yield ("order", "the first token came before the prefill was done",
           _where(frame, late), REPORT)  # fmt: skip
    yield ("count", "status ok, but steps, counted tokens and tokens asked for differ",
           _keys(row for row in timed if row["status"] == "ok" and not _counts_hold(row)),
           "a row that ended early is `short`; " + AGAIN)  # fmt: skip
    beyond = (frame["window"] > 0) & (frame["context_len"] + frame["output_tokens"]
                                      > frame["window"])  # fmt: skip
    yield ("count", "status ok, but prompt and output are longer than the window asked for",
           _where(frame, (frame["status"] == "ok") & beyond),
           "ask for a larger window or a shorter prompt; no engine can answer this")  # fmt: skip
    gaps = np.array([itl.sum() for itl in frame["itl_s"]])
    steps = np.array([len(itl) for itl in frame["itl_s"]])
    decode = frame["e2e_s"] - frame["ttft_s"]
    whole = np.where(steps > 0, steps * frame["tpot_s"], 0)
    off = ((gaps - decode).abs() > TOLERANCE_S) | ((whole - decode).abs() > TOLERANCE_S)
    yield ("identity", "gaps, time per token and total time do not add up", _where(frame, off),
           REPORT)  # fmt: skip


def _of_several(frame: pd.DataFrame) -> Found:
    """What only several rows tell."""
    for flag, what, how in (
        ("duplicate", "the same question was settled before", "the first of them is used"),
        ("incorrect", "other output than most process runs gave to the same prompt",
         "compare the engine's outputs; no speed counts for a wrong answer"),
        ("cached", "the engine answers a prompt that it was given before from a cache",
         "switch the engine's prompt cache off; " + AGAIN),
    ):  # fmt: skip
        yield flag, what, _where(frame, frame["flags"].map(lambda names, f=flag: f in names)), how
    line = ["study", "model", "model_sha256", "engine", "device"]  # of a figure
    good = metrics.claimable(frame[frame["fingerprint"] != metrics.UNKNOWN])
    for column, what, how in (
        ("fingerprint", "one line of a figure mixes machines", "draw each machine apart"),
        ("threads", "one line of a figure mixes numbers of threads", "draw each number apart"),
        ("seed", "one line of a figure mixes seeds", "draw each seed apart"),
    ):
        several = good.groupby(line)[column].transform("nunique") > 1
        names = ", ".join(sorted(map(str, good.loc[several, column].unique())))
        yield "mixed", f"{what}: {names}", _where(good, several), how
    yield from _served_alike(good)


def _served_alike(good: pd.DataFrame) -> Found:
    """A contender that other code, or other weights, served in another process or in its twin."""
    for column in SERVED:
        told = good[column].map(_shown, na_action=None)
        alone = told.groupby([good[name] for name in (*CONTENDER, "twin")]).transform("nunique") > 1
        both = told.groupby([good[name] for name in CONTENDER]).transform("nunique") > 1
        for several, what, how in (
            (alone, "one contender was served differently in its processes",
             "ask for one way by name (engine_options); " + AGAIN),
            (both & ~alone, "a contender and its twin were served differently: no A/A pair",
             "no verdict holds without a noise floor; " + AGAIN),
        ):  # fmt: skip
            names = ", ".join(sorted(told[several].unique()))
            yield "mixed", f"{what}: {column} {names}", _where(good, several), how


def _impossible(frame: pd.DataFrame, environments: Mapping[str, Mapping]) -> Found:
    """Numbers that no machine can give."""
    for column in ("ttft_s", "prefill_s", "tpot_s", "e2e_s"):
        yield "impossible", f"{column} is not above 0", _where(frame, frame[column] <= 0), REPORT
    yield "impossible", "load_s is below 0", _where(frame, frame["load_s"] < 0), REPORT
    for column in ("rss_before_load_bytes", "rss_after_load_bytes", *metrics.RESIDENT):
        yield "impossible", f"{column} is not above 0", _where(frame, frame[column] <= 0), REPORT
    fast = metrics.beyond_memory(frame, environments)
    roof = f"decoding reads up to {frame.loc[fast, 'mbu'].max():.2f} of what memory can deliver"
    how = "measure the roof again (llmbench doctor --probe), or the engine skips weights"
    yield "impossible", roof, _where(frame, fast), how
    fast = frame["mfu"] > 1
    roof = f"prefill computes up to {frame.loc[fast, 'mfu'].max():.2f} of the peak FLOP/s"
    yield "impossible", roof, _where(frame, fast), how


def _wrong_keys(rows: Sequence[Mapping]) -> list[str]:
    """Keys that are not `Repeat.key`, written out here because the points' texts repeat.

    A redacted question cannot be hashed again.
    """
    points, wrong = {}, []  # of id(point): the store gives equal points as one object
    for row in rows:
        point = row["point"]
        if id(point) not in points:
            points[id(point)] = json.dumps(point, sort_keys=True, separators=(",", ":"))
        text = (
            f'{{"block":{row["block"]},"point":{points[id(point)]},'
            f'"process_run":{row["process_run"]},'
            f'"protocol_version":{record.PROTOCOL_VERSION},"repeat":{row["repeat"]}}}'
        )
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        if key != row["key"] and "<redacted " not in repr(point["engine_options"]):
            wrong.append(row["key"])
    return wrong


def _timed(row: Mapping[str, Any]) -> bool:
    return bool(row["raw"]) and len(row["raw"]["step_ns"]) > 0


def _increasing(raw: Mapping[str, Any]) -> bool:
    times = [*raw["step_ns"], *([] if raw["end_ns"] is None else [raw["end_ns"]])]
    return times == sorted(times)


def _counts_hold(row: Mapping[str, Any]) -> bool:
    """Steps, counted and asked agree; a row stored as `short` may have fewer than asked."""
    steps = len(row["raw"]["step_ns"])
    counted = row["witness"]["output_tokens"] if row["witness"] else steps
    asked = row["point"]["output_tokens"]
    return steps == counted and (steps == asked or ("short" in row["flags"] and steps < asked))


def _shown(value: Any) -> str:
    """A value of any type as text; a count without its decimals."""
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def _keys(rows: Iterator[Mapping]) -> list[str]:
    return [row["key"] for row in rows]


def _where(frame: pd.DataFrame, chosen: Any) -> list[str]:
    return frame.loc[np.asarray(chosen, bool), "key"].tolist()


def _count(rows: int) -> str:
    return f"{rows:,} row{'s' * (rows != 1)}"
