"""Flags that several rows tell, or one beside its machine: why a row may not enter a claim."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from llmbench import stats
from llmbench.record import SETTLED

COMPUTED = ("short", "duplicate", "impossible", "incorrect", "cached", "drift", "unsteady",
            "preview")  # fmt: skip
ENOUGH_BLOCKS = 10  # of all process runs of a compared point; fewer are a preview
PLACE = ["run", "fingerprint"]  # rows of two runs or two machines are never pooled
CELL = ["study", "model", "batch_size", "prompt", "prompt_tokens", "output_tokens", "device",
        "threads", "seed", "window", "weights"]  # what compared engines share  # fmt: skip


def computed_flags(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The flags of each row, those stored first, and whether it is a preview; adds columns."""
    frame["_ok"] = frame["status"] == "ok"
    frame["_code"] = pd.factorize(frame["_point"])[0]
    stored = frame["_flags"].to_numpy()
    found = {name: np.array([name in flags for flags in stored], bool) for name in COMPUTED}
    found["short"] |= (frame["_ok"] & (frame["_counted"] != frame["output_tokens"])).to_numpy()
    found["duplicate"] |= _duplicate(frame)
    found["impossible"] |= (frame["_ok"] & frame["_impossible"]).to_numpy(bool)
    frame["_sound"] = frame["_ok"] & ~found["short"] & ~found["duplicate"] & ~found["impossible"]
    found["incorrect"] |= _incorrect(frame)
    found["cached"] |= _cached(frame)
    found["drift"] |= _drift(frame)
    found["unsteady"] |= _unsteady(frame)
    frame["flags"] = _tuples(frame["_flags"], found)
    found["preview"] |= _preview(frame)
    return _tuples(frame["flags"], {"preview": found["preview"]}), found["preview"]


def _tuples(flags: pd.Series, found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Each row's flags and those found, without doubles."""
    known = [name for name, rows in found.items() if rows.any()]
    tuples = np.empty(len(flags), object)
    tuples[:] = flags.tolist()
    for name in known:
        for row in np.flatnonzero(found[name]):
            if name not in tuples[row]:
                tuples[row] = (*tuples[row], name)
    return tuples


def _duplicate(frame: pd.DataFrame) -> np.ndarray:
    """Rows whose question was settled before in the same run and place, and copies across runs.

    A question asked again after a timeout or a crash is no duplicate.
    """
    ordered = frame.sort_values(["measured_at", "sequence"], kind="stable")
    settled = ordered["status"].isin(SETTLED).astype(int)
    before = settled.groupby([ordered[n] for n in (*PLACE, "key")]).cumsum() - settled
    copies = frame.duplicated(["key", "fingerprint", "measured_at", "sequence", "_submit_ns"])
    return ((before > 0).reindex(frame.index) | copies).to_numpy(bool)


def _incorrect(frame: pd.DataFrame) -> np.ndarray:
    """Rows whose output is not what most process runs gave to the same prompt.

    The same point, block and repeat ask the same prompt in every process run. Without a majority
    no output can be trusted, and all are flagged.
    """
    told = frame[frame["_sound"] & frame["output_sha256"].notna()]
    asked = [told[name] for name in ("_code", "block", "repeat", "fingerprint")]
    asked_rows = told.groupby(asked)["_code"].transform("size")
    same = told.groupby([*asked, told["output_sha256"]])["_code"].transform("size")
    return (2 * same <= asked_rows).reindex(frame.index, fill_value=False).to_numpy(bool)


def _cached(frame: pd.DataFrame) -> np.ndarray:
    """Rows of a contender that answers a prompt it was given before from a cache.

    Where the prompt is a small part of the time to the first token, a cache cannot be seen, and
    matters little.
    """
    audits = frame[frame["audit"].notna()]
    share = audits["audit"].map(lambda a: (a["again_s"] or np.nan) / (a["prompt_s"] or np.nan))
    who = [*PLACE, "study", "model_sha256", "engine", "options", "weights", "twin"]
    hits = share.astype(float).dropna().groupby([audits[name] for name in who]).agg(stats.cached)
    found = hits[hits.astype(bool)].index
    return pd.MultiIndex.from_frame(frame[who]).isin(found) if len(found) else np.zeros(
        len(frame), bool)  # fmt: skip


def _drift(frame: pd.DataFrame) -> np.ndarray:
    """Rows of a point that became faster or slower over its process run, judged by `e2e_s`."""
    drifting = np.zeros(len(frame), bool)
    rows = _in_order(frame)
    order, times = rows["sequence"].to_numpy(float), rows["e2e_s"].to_numpy(float)
    for members in _groups(rows, [*PLACE, "process_run", "_code"]):
        if stats.may_drift(times[members]) and stats.drifts(order[members], times[members]):
            drifting[rows["_at"].to_numpy()[members]] = True
    return drifting


def _unsteady(frame: pd.DataFrame) -> np.ndarray:
    """Rows of a process whose times keep no level, each beside its point's median in the run."""
    unsteady = np.zeros(len(frame), bool)
    rows = _in_order(frame)
    usual = rows.groupby([*PLACE, "_code"])["e2e_s"].transform("median")
    times = (rows["e2e_s"] / usual).to_numpy(float)
    for members in _groups(rows, [*PLACE, "process_run", "child"]):
        if not stats.steady(times[members]):
            unsteady[rows["_at"].to_numpy()[members]] = True
    return unsteady


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Sound rows with a time, in the order in which they were measured; `_at` is their place."""
    rows = frame.assign(_at=np.arange(len(frame)))[frame["_sound"] & (frame["e2e_s"] > 0)]
    return rows.sort_values("sequence", kind="stable")


def _groups(rows: pd.DataFrame, keys: list[str]) -> list[np.ndarray]:
    """The positions in `rows` of the members of each group, in their order."""
    group = rows.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    sizes = np.bincount(group) if len(group) else np.zeros(0, int)
    return np.split(np.argsort(group, kind="stable"), sizes.cumsum()[:-1])


def _preview(frame: pd.DataFrame) -> np.ndarray:
    """Points with too little for a claim, in this run and place.

    A compared point (its cell has several) needs 10 blocks over all process runs; a point alone
    needs as many process runs as a 95 % interval of the median.
    """
    good = stats.claimable(frame)
    point = [*PLACE, "_code"]
    counts = good.groupby(point).agg(runs=("process_run", "nunique"))
    blocks = good.drop_duplicates([*point, "process_run", "block"]).groupby(point).size()
    counts = counts.assign(blocks=blocks).reindex(
        pd.MultiIndex.from_frame(frame[point]), fill_value=0
    )
    compared = frame.groupby([*PLACE, *CELL])["_code"].transform("nunique").to_numpy() > 1
    return np.where(compared, counts["blocks"].to_numpy() < ENOUGH_BLOCKS,
                    counts["runs"].to_numpy() < stats.smallest_n(0.5))  # fmt: skip
