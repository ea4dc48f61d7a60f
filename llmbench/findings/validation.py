"""Whether each model loaded as asked: a row a form, judged from what really served.

Records count linear layers by class, without names; that the plain one is the output head, which
bitsandbytes leaves as it is, the engine has checked by name.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from llmbench.findings.circumstances import FLAGS, STATUSES
from llmbench.findings.numbers import ASKED, SERVED, count, engine_names
from llmbench.pairs.agreement import distance
from llmbench.params import LAYERS, QUANTIZATIONS
from llmbench.units import nbytes, seconds

PLAIN = "none"  # the form that is not quantized: float32, what the engine loads unasked
PLACE = [*(name for name in ASKED if name not in ("study", "options")), "others"]
LOAD_LIMIT_S = 1200.0  # the mission asks for less than 20 minutes
SIZES = ["weight_bytes", "rss_before_load_bytes", "rss_after_load_bytes", "peak_bytes"]
COLUMNS = ["Model", "Asked", "Outcome", "Load time", "Weights", "Linear layers by class",
           "Resident before", "Resident after", "Peak", "Distance", "Passed",
           "Why not"]  # fmt: skip


# -- one row a form --------------------------------------------------------------------------------


def validation_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a model and form of the study `model_validation`; bytes and seconds.

    Columns `PLACE` (`others`: what else was asked of the engine), `name` (of the model and its
    place, where there are several), `asked`, what was seen, and
    `distance`: largest difference of a log-probability to the unquantized form of the same place,
    over the likeliest tokens of the same prefixes; NaN where it is not known.
    `why`: what keeps the form from passing. `passed`: nothing does, so every repeat loaded in time,
    generated all tokens, alike in each process, from weights in the form that was asked.
    """
    rows = frame[frame["study"] == "model_validation"]
    forms = [_form(options) for options in rows["options"]]
    rows = rows.assign(asked=[form for form, _ in forms], others=[other for _, other in forms])
    order = {name: place for place, name in enumerate(QUANTIZATIONS)}
    made = []
    for place, some in rows.groupby(PLACE, dropna=False):
        plain = some[some["asked"] == PLAIN]
        apart = sorted(some.groupby("asked"), key=lambda form: order.get(form[0], len(order)))
        made += [dict(zip(PLACE, place, strict=True)) | _one(asked, its, plain)
                 for asked, its in apart]  # fmt: skip
    table = pd.DataFrame(made)
    return table.assign(name=_names(table)) if made else table


def _form(options: str) -> tuple[str, str]:
    """('nf4', '{"attention_impl": "eager"}'): the form that was asked, and what else was."""
    others = json.loads(options or "{}")
    quantization, dtype = others.pop("quantization", PLAIN), others.pop("dtype", "float32")
    form = quantization if quantization != PLAIN else {"float32": PLAIN}.get(dtype, dtype)
    return form, json.dumps(others, sort_keys=True) if others else ""


def _format(asked: str) -> str:
    """In which format the weights of a form are held."""
    return "float32" if asked == PLAIN else asked


def _names(table: pd.DataFrame) -> pd.Series:
    """Each row's model, and in what its place differs from those of the others."""
    served = dict.fromkeys(SERVED, "") | {"study": ""}
    where = engine_names(table.assign(options=table["others"], **served)).str.partition(", ")
    return (table["model"] + where[1] + where[2]).astype(str)


def _one(asked: str, rows: pd.DataFrame, plain: pd.DataFrame) -> dict[str, Any]:
    """What was seen of one form in one place; `plain` are the rows of the unquantized form."""
    ok = _ok(rows)
    first = (ok if len(ok) else rows).iloc[0]
    why = "; ".join(_faults(asked, rows))
    return {
        "asked": asked, "status": first["status"], "reason": first["reason"],
        "load_s": ok["load_s"].median(), "weight_bytes": first["weight_bytes"],
        "weight_format": first["weight_format"], "layer_classes": first["layer_classes"] or {},
        "rss_before_load_bytes": ok["rss_before_load_bytes"].median(),
        "rss_after_load_bytes": ok["rss_after_load_bytes"].median(),
        "peak_bytes": ok["peak_bytes"].max(), "repeats": len(ok),
        "distance": _distance(ok, _ok(plain)), "why": why, "passed": not why,
    }  # fmt: skip


def _ok(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["status"] == "ok"]


def _distance(rows: pd.DataFrame, plain: pd.DataFrame) -> float:
    """The largest between their audits; NaN without any, or when they asked other prefixes."""
    mine, theirs = ([audit for audit in side["audit"].dropna() if audit["next_ids"]]
                    for side in (rows, plain))  # fmt: skip
    worst = max((distance(one, other) for one in mine for other in theirs), default=math.nan)
    return worst if math.isfinite(worst) else math.nan


# -- what keeps a form from passing ----------------------------------------------------------------


def _faults(asked: str, rows: pd.DataFrame) -> Iterator[str]:
    """Each in words; a repeat that failed and was then made is no fault."""
    ok = _ok(rows)
    lost = rows[~rows["key"].isin(ok["key"])].drop_duplicates("key", keep="last")
    tried = rows["key"].nunique()
    for (status, reason), some in lost.groupby(["status", "reason"], dropna=False):
        told = f" ({' '.join(reason.split())})" if isinstance(reason, str) and reason else ""
        yield f"{len(some)} of {count(tried, 'repeat')}: {STATUSES[status]}{told}"
    for flag in ("short", "incorrect"):
        hit = sum(flag in flags for flags in ok["flags"])
        if hit:
            yield f"{hit} of {count(len(ok), 'repeat')}: {FLAGS[flag]}"
    if len(ok):
        yield from filter(None, [_slow(ok), _other_format(asked, ok)])
        seen = (_unproved(asked, classes or {}) for classes in ok["layer_classes"])
        yield from dict.fromkeys(filter(None, seen))


def _slow(ok: pd.DataFrame) -> str:
    """'' when every load is known to have been in time."""
    slowest = ok["load_s"].max()
    if ok["load_s"].isna().any():
        return "a load was not timed"
    told = f"a load took {seconds(slowest)}, allowed are {seconds(LOAD_LIMIT_S)}"
    return told if slowest >= LOAD_LIMIT_S else ""


def _other_format(asked: str, ok: pd.DataFrame) -> str:
    """'' when the weights of every repeat were held as asked."""
    held = {name if isinstance(name, str) else "in no known format" for name in ok["weight_format"]}
    others = ", ".join(sorted(held - {_format(asked)}))
    return f"weights are {others}, not {_format(asked)}" if others else ""


def _unproved(asked: str, classes: Mapping[str, int]) -> str:
    """What the classes of the linear layers say against a form; '' when they prove it."""
    layers = Counter(classes)
    if asked not in LAYERS:
        odd = [f"{layers[name]} {name}" for name in LAYERS.values() if layers[name]]
        return f"nobody asked for quantized layers: {', '.join(odd)}" if odd else ""
    wanted, body = LAYERS[asked], layers.total() - min(1, layers["Linear"])
    if not layers[wanted]:
        return f"no linear layer is {wanted}"
    few = f"only {layers[wanted]} of {count(body, 'linear layer')} but the output head are {wanted}"
    return few if layers[wanted] < body else ""


# -- for people ------------------------------------------------------------------------------------


def validation_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`validation_rows` as people read it."""
    made = []
    for row in validation_rows(frame).to_dict("records"):
        classes = ", ".join(f"{n} {name}" for name, n in row["layer_classes"].items())
        sizes = [nbytes(row[name]) if row[name] == row[name] else "" for name in SIZES]
        load = seconds(row["load_s"]) if row["load_s"] == row["load_s"] else ""
        near = f"{row['distance']:.2g}" if row["distance"] == row["distance"] else ""
        made.append((row["name"], row["asked"], STATUSES.get(row["status"], "loaded"), load,
                     sizes[0], classes, *sizes[1:], near, "yes" if row["passed"] else "NO",
                     row["why"]))  # fmt: skip
    return pd.DataFrame(made, columns=COLUMNS)


def validation_sentences(frame: pd.DataFrame) -> list[str]:
    """What loaded, in which bytes, and what did not and why."""
    table = validation_rows(frame)
    told = []
    for name, rows in table.groupby("name", sort=False) if len(table) else ():
        good = rows[rows["passed"]]
        sizes = ", ".join(f"{nbytes(row.weight_bytes)} ({_format(row.asked)})"
                          for row in good.itertuples())  # fmt: skip
        told.append(f"{name} loads and generates as asked in {len(good)} of "
                    f"{count(len(rows), 'form')}"
                    f"{f'; its weights are held in {sizes}' if sizes else ''}.")  # fmt: skip
        told += [f"{name} as {_format(row.asked)} did not pass: {row.why}."
                 for row in rows[~rows["passed"]].itertuples()]  # fmt: skip
        told += [_proof(row) for row in good[good["asked"].isin(LAYERS)].itertuples()]
    slow = _ok(frame[frame["study"] == "model_validation"])["load_s"].max()
    return [*told, f"The slowest load took {seconds(slow)}."] if slow == slow else told


def _proof(row: Any) -> str:
    """By what a quantization is proved, and how far it is from the plain weights where known."""
    name, layers = LAYERS[row.asked], Counter(row.layer_classes)
    moved = ("; after the prefixes that were asked for, log-probabilities of the likeliest tokens "
             f"move by at most {row.distance:.2g} nats, which is told and not judged")  # fmt: skip
    return (f"{row.asked} of {row.name} is proved by {layers[name]} of "
            f"{count(layers.total(), 'linear layer')} of class {name}"
            f"{moved if row.distance == row.distance else ''}.")  # fmt: skip
