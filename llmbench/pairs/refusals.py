"""What cannot be compared, said before anything is computed: names, numbers, sides, contenders."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from llmbench import stats
from llmbench.errors import BadParams, CannotSay
from llmbench.pairs.ratios import is_known
from llmbench.params import COMPARED, ONCE, one_of

CONTENDER = ("options", "impl", "attention_impl", "weight_format")  # one value each, of an engine
NUMBERS = ("others_cpu_s", "sequence", "repeat", "prompt_tokens")  # used beside the metrics
NAMED = 6  # rows named in a refusal
MEND = {"cold": "ask for warm-ups (warmups: 1)", "short": "the engine ended early; see its options",
        "incorrect": "look why its outputs differ; no speed counts for a wrong answer",
        "cached": "switch the engine's prompt cache off"}  # fmt: skip


def check_asked(
    frame: pd.DataFrame, target: str, baseline: str, metrics: Sequence[str], at_least: float,
    by: str,
) -> None:  # fmt: skip
    """Raises: BadParams for a name that the frame does not have, or a bar that is no ratio."""
    if not isinstance(frame, pd.DataFrame):
        raise BadParams(f"rows are a pandas DataFrame, not a {type(frame).__name__}",
                        how="llmbench.read(folder), or pandas.DataFrame(rows)")  # fmt: skip
    if doubled := sorted({str(name) for name in frame.columns[frame.columns.duplicated()]}):
        raise BadParams(f"the rows have several columns called {', '.join(doubled[:NAMED])}",
                        how="rename or drop all but one")  # fmt: skip
    if not (metrics and all(isinstance(name, str) for name in metrics)):
        raise BadParams("no metric to compare in", how='metric="decode_tok_per_s"')
    for column in (by, "process_run", "block"):
        if column not in frame:
            raise BadParams(
                f"no column {column!r} to compare by: {_nearest(column, frame)}",
                why="a comparison pairs turns within blocks of the same process run",
            )
    for name in metrics:
        _check_metric(frame, name)
    known = tuple(map(str, sorted(frame[by].dropna().unique(), key=str)))
    for name in (target, baseline):
        try:
            one_of(by, known, name)
        except ValueError:
            raise BadParams(f"{name!r} is no {by} of these rows",
                            how=f"there are {', '.join(known) or 'none'}") from None  # fmt: skip
    if target == baseline:
        raise BadParams(f"target and baseline are both {target!r}",
                        how="an engine's own noise is measured by its twin anyway")  # fmt: skip
    number = isinstance(at_least, Real) and not isinstance(at_least, bool)
    if not (number and math.isfinite(at_least) and at_least > 0):
        raise BadParams(f"at_least is {at_least!r}; must be a ratio above 0", how="--at-least 1.5")


def _check_metric(frame: pd.DataFrame, name: str) -> None:
    """Raises: BadParams for what is no metric here, CannotSay for energy that nobody measured."""
    if name in frame and is_known(name):
        if name.endswith("_j") and frame[name].isna().all():
            raise CannotSay("no energy was measured in these rows",
                            why=f"{name} is empty in all of them", kept="all rows",
                            how=f"can be compared: {', '.join(_comparable(frame))}")  # fmt: skip
        return
    near = get_close_matches(name, _comparable(frame), n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise BadParams(
        f"{name!r} is no metric of these rows",
        why="it is not known whether more or less of it is better: rates end in _per_s, costs in "
        "_s, _bytes or _j" if name in frame else "",
        how=f"{guess}can be compared: {', '.join(_comparable(frame)) or 'none of their columns'}",
    )  # fmt: skip


def _comparable(frame: pd.DataFrame) -> list[str]:
    """The usual metrics that these rows have numbers of; of other rows every metric."""
    filled = [str(name) for name in frame.columns if frame[name].notna().any()]
    usual = [name for name in COMPARED if name in filled]
    numbers = set(map(str, frame.select_dtypes("number").columns))
    return usual or [name for name in filled if name in numbers and is_known(name)]


def _nearest(column: str, frame: pd.DataFrame) -> str:
    """The likeliest column, or those with numbers."""
    numbers = [str(name) for name in frame.select_dtypes("number").columns]
    try:
        one_of("column", [str(name) for name in frame.columns], column)
    except ValueError as error:
        hint = str(error).partition("; ")[2]
        return hint if hint.startswith("did you mean") else f"there are {', '.join(numbers)}"
    return ""


def prepared(frame: pd.DataFrame, by: str, metrics: Sequence[str]) -> pd.DataFrame:
    """The rows with an index of their own, names as text, flags as tuples, metrics as numbers.

    Raises: BadParams for values that cannot be meant so.
    """
    rows = frame.reset_index(drop=True)
    rows[by] = rows[by].map(str, na_action="ignore")
    if "flags" in rows:
        rows["flags"] = rows["flags"].map(_flags)
    if "twin" in rows:
        twins = rows["twin"].fillna(False)
        if not twins.isin([True, False]).all():
            raise BadParams("the column twin holds something else than true and false",
                            how="read the rows again with that column as booleans")  # fmt: skip
        rows["twin"] = twins.astype(bool)
    for name in (*metrics, *(set(NUMBERS) & set(rows))):
        rows[name] = _numbers(rows, name)
    if "audit" in rows:
        odd = rows.index[~rows["audit"].map(_is_audit).astype(bool)]
        _refuse(odd, rows, "column audit that llmbench did not write")
    return rows


def _numbers(rows: pd.DataFrame, name: str) -> pd.Series:
    """The column as numbers, NaN where it is empty. Raises: BadParams for text, dates and truth."""
    kind = pd.api.types
    if kind.is_bool_dtype(rows[name]) or kind.is_datetime64_any_dtype(rows[name]) or (
        kind.is_timedelta64_dtype(rows[name])):  # fmt: skip
        raise BadParams(
            f"the column {name} holds {rows[name].dtype}, no numbers",
            how="convert it to seconds, or to the unit that its name tells",
        )
    numbers = pd.to_numeric(rows[name], errors="coerce")
    _refuse(rows.index[numbers.isna() & rows[name].notna()], rows, f"{name} that is no number")
    return numbers


def _is_audit(value: Any) -> bool:
    """Whether it is none, or what a record keeps: as many lists as prefixes."""
    if not isinstance(value, Mapping):
        return value is None or value != value
    parts = [value.get(name) for name in ("prefixes", "next_ids", "next_logprobs")]
    if not all(isinstance(part, list) for part in parts) or len(set(map(len, parts))) > 1:
        return False
    return all(len(ids) == len(logs) for ids, logs in zip(*parts[1:], strict=True))


def _flags(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise BadParams(f"flags are a list of names, not the text {value!r}",
                        why="text is what a CSV file keeps of them",
                        how="split it, or read the records themselves (llmbench.read)")  # fmt: skip
    return () if value is None or isinstance(value, float) else tuple(value)


def usable(rows: pd.DataFrame, metric: str, by: str) -> pd.DataFrame:
    """Rows that may enter a claim.

    Raises: BadParams for numbers that no clock can give, CannotSay when nothing that a contender
    did has the metric.
    """
    chosen = stats.claimable(rows)
    for name, values in chosen.groupby(by)[metric]:
        if values.isna().all():
            raise CannotSay(
                f"no row of {name} has a {metric}",
                why="an answer of one token has no decode rate, and not every engine tells when "
                "its prefill ended"
                if metric not in ONCE
                else "older records do not tell it",
                kept="all rows",
                how="choose another --metric, or ask for more output tokens",
            )
    values = chosen[metric].to_numpy(float)
    bad = chosen.index[~(np.isfinite(values) & (values > 0))]
    _refuse(bad, chosen, f"{metric} that is missing, infinite or not above 0")
    return chosen


def _refuse(bad: pd.Index, rows: pd.DataFrame, what: str) -> None:
    """Raises: BadParams naming the rows `bad`, when there are any."""
    if len(bad):
        named = ", ".join(map(str, bad[:NAMED])) + (" …" if len(bad) > NAMED else "")
        raise BadParams(f"{len(bad)} of {len(rows)} rows have a {what} (rows {named})",
                        why="a ratio of such numbers means nothing",
                        kept="all rows; nothing was changed",
                        how="drop these rows, if you know why they are so")  # fmt: skip


def check_side(asked: pd.DataFrame, side: pd.DataFrame, name: str) -> None:
    """Raises: CannotSay when no row of a side may enter."""
    if side.empty:
        raise CannotSay(f"no row of {name} may enter a comparison", why=outcome(asked),
                        kept="all rows, in the records and tables", how=mend(asked))  # fmt: skip


def outcome(asked: pd.DataFrame) -> str:
    """How the rows ended: '2 oom; flagged: 3 cold'."""
    states = asked["status"].value_counts().to_dict() if "status" in asked else {}
    flags = Counter(flag for flags in asked.get("flags", ()) for flag in flags)
    kept_out = [f"{n} {flag}" for flag, n in flags.most_common() if flag not in stats.LABELS]
    told = [f"{n} {status}" for status, n in states.items()] or [f"{len(asked)} rows"]
    return ", ".join(told) + (f"; flagged: {', '.join(kept_out)}" if kept_out else "")


def mend(asked: pd.DataFrame) -> str:
    """What to do about rows that may not enter."""
    flags = Counter(flag for flags in asked.get("flags", ()) for flag in flags)
    known = [MEND[flag] for flag, _ in flags.most_common() if flag in MEND]
    return known[0] if known else "measure again, with nothing else running"


def check_one(side: pd.DataFrame, name: str, by: str) -> None:
    """Raises: BadParams when one name stands for several contenders."""
    for column in CONTENDER if by == "engine" else ():
        several = side[column].dropna().unique() if column in side else ()
        if len(several) > 1:
            raise BadParams(
                f"{name} ran with {len(several)} values of {column}: "
                f"{', '.join(map(str, several[:NAMED]))}",
                why="they are several contenders under one name",
                how=f"by={column!r}, or keep only the rows of one of them",
            )


def differences(mine: pd.DataFrame, theirs: pd.DataFrame, asked: Sequence[str]) -> str:
    """In what the two sides differ, of what was asked; '' where they differ in nothing."""
    told = [f"{name}: {_some(mine[name])} against {_some(theirs[name])}"
            for name in asked if name in mine and name in theirs
            and set(mine[name]) != set(theirs[name])]  # fmt: skip
    return "; ".join(told)


def _some(values: pd.Series) -> str:
    return ", ".join(map(str, sorted(set(values), key=str)[:NAMED]))
