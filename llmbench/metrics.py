"""Records → frame; raw times → ttft, itl, tpot, throughput, mbu, mfu; the flags of several rows.

A row a repeat, columns as in docs/rooms.md; nothing is dropped here, rows that may not enter a
claim carry the flag that says why.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
import pandas as pd

from llmbench import stats, store
from llmbench.errors import BadParams, Missing, Unsupported
from llmbench.models.cost import prefill_flops
from llmbench.models.source import find_model
from llmbench.models.spec import Spec, spec_from_config
from llmbench.record import SETTLED
from llmbench.stats import claimable as claimable  # the rows that may enter a claim

UNKNOWN = "unknown"  # fingerprint of rows whose environment is not known
ENOUGH_BLOCKS = 10  # of all process runs of a compared point; fewer are a preview
POINT = ["study", "model", "model_sha256", "engine", "batch_size", "prompt", "prompt_tokens",
         "output_tokens", "device", "threads", "seed"]  # fmt: skip
LATER = {"window": 0, "twin": False}  # fields of a point that schema version 1 did not have
CELL = ["study", "model", "batch_size", "prompt", "prompt_tokens", "output_tokens", "device",
        "threads", "seed", "window"]  # what engines share when they are compared  # fmt: skip
PLACE = ["run", "fingerprint"]  # rows of two runs or two machines are never pooled
PARTS = ("point", "served", "raw", "memory", "energy", "witness", "quiet", "audit")  # of a record
NOTHING: Mapping = MappingProxyType({})  # stands for a part that a record does not have
COMPUTED = ("short", "duplicate", "incorrect", "cached", "drift", "unsteady", "preview")
CACHED = 0.5  # a repeated prompt that takes less than this share was answered from a cache
COLUMNS = [
    "run", "key", "study", "model", "model_sha256", "engine", "batch_size", "prompt",
    "prompt_tokens", "context_len", "output_tokens", "device", "threads", "seed", "options",
    "process_run", "child", "block", "repeat", "status", "reason", "flags", "measured_at",
    "sequence", "environment",
    "fingerprint", "impl", "attention_impl", "weight_format", "weight_bytes", "kv_bytes_per_token",
    "load_s", "ttft_s", "prefill_s", "tpot_s", "e2e_s", "warmups", "warmup_s", "itl_s",
    "prefill_tok_per_s", "decode_tok_per_s", "mbu", "mfu", "machine_busy_share", "kv_read_bytes",
    "rss_before_load_bytes", "rss_after_load_bytes", "rss_peak_bytes", "limit_bytes",
    "output_sha256", "agreement", "others_cpu_s", "idle_wait_s", "energy_j", "preview",
    "window", "twin", "layer_classes", "audit", "session", "prompt_sha256", "served_threads",
    "served_device",
]  # fmt: skip


def read(*folders: str | Path) -> pd.DataFrame:
    """The rows of the runs in `folders`, one after the other; `run` is the folder's name.

    `attrs["unread"]` counts what the store could not read (`llmbench check` names each).
    """
    runs, unread = [], 0
    for folder in map(Path, folders):
        rows, faults = store.read_rows(folder)
        runs.append(measured(rows, store.environments(folder), folder.resolve().name))
        unread += len(faults)
    frame = flagged(*runs)
    frame.attrs["unread"] = unread
    return frame


def frame_of(
    rows: Sequence[dict[str, Any]], environments: Mapping[str, Mapping], run: str = ""
) -> pd.DataFrame:
    """The frame of `rows` (dicts shaped as `record.Record`) of one run."""
    return flagged(measured(rows, environments, run))


# -- definitions: MEASUREMENT of one repeat --------------------------------------------------------


def mbu(step_bytes: Any, tpot_s: Any, peak_bytes_per_s: Any) -> Any:
    """Share of the memory roof that decoding reaches; `step_bytes`: what one step must read.

    Source: Databricks, "LLM inference performance engineering", model bandwidth utilisation.
    """
    return step_bytes / tpot_s / peak_bytes_per_s


def mfu(flops: Any, seconds: Any, peak_flops_per_s: Any) -> Any:
    """Share of the compute roof; `flops`: algorithmic ones of the model that ran.

    Source: Chowdhery et al., PaLM (2022), appendix B.
    """
    return flops / seconds / peak_flops_per_s


def _times(steps: Sequence[Sequence[int]], chunks: Sequence[float | None]) -> dict[str, Any]:
    """`ttft_s tpot_s e2e_s itl_s` of rows whose tokens came at `steps` ns after submit.

    Where a server sent them in fewer pieces, the gaps between its tokens are not known: none.
    """
    n = np.fromiter(map(len, steps), np.int64, len(steps))
    ns = np.fromiter(itertools.chain.from_iterable(steps), np.float64, int(n.sum()))
    ends = n.cumsum()
    padded = np.append(ns, np.nan)  # a row without tokens reads NaN
    first = padded[np.where(n > 0, ends - n, len(ns))]
    last = padded[np.where(n > 0, ends - 1, len(ns))]
    gaps = np.diff(ns) / 1e9
    itl = np.empty(len(steps), object)
    itl[:] = [gaps[end - size : max(end - 1, 0)] if pieces in (None, size) else gaps[:0]
              for end, size, pieces in zip(ends, n, chunks, strict=True)]  # fmt: skip
    tpot = np.where(n > 1, (last - first) / np.maximum(n - 1, 1), np.nan)
    return {"ttft_s": first / 1e9, "tpot_s": tpot / 1e9, "e2e_s": last / 1e9, "itl_s": itl,
            "_steps": n}  # fmt: skip


# -- rows → columns --------------------------------------------------------------------------------


def measured(rows: Sequence[dict], environments: Mapping[str, Mapping], run: str) -> pd.DataFrame:
    """The columns that follow from one row alone, and the private ones that `flagged` needs."""
    parts = {name: _Part([row.get(name) or NOTHING for row in rows]) for name in PARTS}
    row, point, served, raw = _Part(rows), parts["point"], parts["served"], parts["raw"]
    memory, witness, quiet = parts["memory"], parts["witness"], parts["quiet"]
    place = _Part([environments.get(row["environment"], NOTHING) for row in rows])
    frame = pd.DataFrame(
        {"run": run, "key": row.column("key", object)}
        | {name: point.column(name) for name in POINT}
        | {name: point.of(lambda p, n=name, d=default: p.get(n, d))
           for name, default in LATER.items()}
        | {"options": point.of(_options, object),
           "child": served.of(lambda part: part.get("child") or "", object)}
        | {name: row.column(name) for name in ("process_run", "block", "repeat", "sequence")}
        | {name: row.column(name, object)
           for name in ("status", "reason", "measured_at", "environment")}
        | {name: served.column(name, object)
           for name in ("impl", "attention_impl", "weight_format")}
        | {name: served.column(name, float)
           for name in ("weight_bytes", "kv_bytes_per_token", "load_s")}
        | {name: memory.column(name, float)
           for name in ("rss_before_load_bytes", "rss_after_load_bytes", "rss_peak_bytes",
                        "limit_bytes")}
        | {name: quiet.column(name, float)
           for name in ("machine_busy_share", "others_cpu_s", "idle_wait_s")}
        | {"fingerprint": place.of(lambda known: known.get("fingerprint", UNKNOWN)),
           "session": row.of(lambda row: row.get("session") or "", object),
           "served_threads": served.column("threads", float),
           "served_device": served.column("device", object),
           "output_sha256": witness.column("output_sha256", object),
           "prompt_sha256": witness.column("prompt_sha256", object),
           "agreement": witness.column("agreement", float),
           "layer_classes": served.of(lambda part: part.get("layer_classes") or {}, object),
           "audit": parts["audit"].of(lambda part: dict(part) or None, object),
           "energy_j": parts["energy"].column("value_j", float),
           "prefill_s": raw.column("prefill_ns", float) / 1e9,
           "warmup_s": raw.of(lambda raw: sum(raw.get("warmup_s") or [np.nan]), float),
           "warmups": raw.of(lambda raw: len(raw.get("warmup_s") or ()), int),
           "_flags": row.of(lambda row: tuple(row.get("flags") or ()), object),
           "_counted": witness.column("output_tokens", float),
           "_submit_ns": raw.column("submit_ns", float),
           "_point": point.of(_as_text)}
        | _times([part.get("step_ns") or () for part in raw.each],
                 [(part.get("server") or NOTHING).get("chunks") for part in raw.each]),
        index=range(len(rows)),
    )  # fmt: skip
    return _derived(frame, environments)


class _Part:
    """One part of every row. The store gives equal parts as one object; each is read once."""

    def __init__(self, each: Sequence[Mapping]) -> None:
        self.each = each
        self._number, _ = pd.factorize(np.fromiter(map(id, each), np.int64, len(each)))
        self._distinct = [each[i] for i in np.unique(self._number, return_index=True)[1]]

    def of(self, value: Callable[[Mapping], Any], dtype: type | None = None) -> pd.Series:
        """`value` of each row's part; without `dtype` as pandas infers it, None as NaN in float."""
        values = pd.Series(map(value, self._distinct), dtype=dtype)
        return values.take(self._number).reset_index(drop=True)

    def column(self, name: str, dtype: type | None = None) -> pd.Series:
        """The field `name` of each row's part; None where it has none."""
        return self.of(lambda part: part.get(name), dtype)


def _options(point: Mapping) -> str:
    """What else was asked of the engine, as text: its options, and a memory limit if there was."""
    limit = (
        {"memory_limit_bytes": point["memory_limit_bytes"]} if point["memory_limit_bytes"] else {}
    )
    asked = dict(point["engine_options"]) | limit
    return orjson.dumps(asked, option=orjson.OPT_SORT_KEYS).decode() if asked else ""


def _as_text(point: Mapping) -> str:
    return orjson.dumps(point, option=orjson.OPT_SORT_KEYS).decode()


def _derived(frame: pd.DataFrame, environments: Mapping[str, Mapping]) -> pd.DataFrame:
    """Add lengths, rates and shares of roofs."""
    batch, prompt = frame["batch_size"].astype(float), frame["prompt_tokens"].astype(float)
    frame["context_len"] = frame["prompt_tokens"]  # what the cache holds when decoding starts
    prefill = frame["prefill_s"].where(frame["prefill_s"] > 0)
    frame["prefill_tok_per_s"] = batch * prompt / prefill
    tpot = frame["tpot_s"].where(frame["tpot_s"] > 0)
    frame["decode_tok_per_s"] = batch / tpot  # rows x steps / (e2e - ttft)
    # the n - 1 decode steps find prompt, prompt + 1, ... prompt + n - 2 tokens in the cache
    context = prompt + (frame["_steps"].where(frame["_steps"] > 1).astype(float) - 2) / 2
    frame["kv_read_bytes"] = frame["kv_bytes_per_token"] * context
    where = list(zip(frame["environment"], frame["device"], frame["threads"], strict=True))
    known = {place: _roofs(environments.get(place[0], NOTHING), *place[1:]) for place in set(where)}
    roofs = [known[place] for place in where]
    roof = np.array([known.get("bytes_per_s") or np.nan for known in roofs], float)
    frame["mbu"] = mbu(frame["weight_bytes"] + batch * frame["kv_read_bytes"], tpot, roof)
    peak = np.array([known.get("flops_per_s") or np.nan for known in roofs], float)
    peak[frame["weight_format"] != "float32"] = np.nan  # the dtype in which the roof is probed
    frame["mfu"] = mfu(_prefill_flops(frame), prefill, peak)
    return frame


def _roofs(environment: Mapping, device: str, threads: int) -> Mapping[str, Any]:
    """The roofs that hold for a row; those probed on so many CPU threads hold for no other."""
    roofs = environment.get("roofs") or {}
    probed = (roofs.get("raw") or {}).get("threads")
    return roofs if probed is None or (device == "cpu" and probed == threads) else {}


def _prefill_flops(frame: pd.DataFrame) -> pd.Series:
    """FLOPs of each row's prefill; NaN for models whose architecture is not part of llmbench."""
    asked = ["model", "model_sha256", "prompt_tokens", "batch_size"]
    known = frame[asked].drop_duplicates()
    known = known[known["model"].map(lambda name: str(name).startswith("builtin:")).astype(bool)]
    flops = {}
    for model, sha256, tokens, batch in known.itertuples(index=False):
        spec = _builtin_spec(model, sha256)
        flops[model, sha256, tokens, batch] = prefill_flops(spec, tokens, batch) if spec else np.nan
    keys = zip(*(frame[name] for name in asked), strict=True)
    return pd.Series([flops.get(key, np.nan) for key in keys], frame.index, dtype=float)


def _builtin_spec(model: str, sha256: str) -> Spec | None:
    """The spec of a shipped model; None when this version ships other weights or no such model."""
    try:
        source = find_model(model)
        return spec_from_config(source.config) if source.sha256 == sha256 else None
    except (BadParams, Missing, Unsupported):
        return None


# -- flags that need several rows ------------------------------------------------------------------


def flagged(*runs: pd.DataFrame) -> pd.DataFrame:
    """The frame of `runs`, each as `measured`, with the flags that only several rows tell."""
    some = [run for run in runs if len(run)]  # an empty one would blur the dtypes
    frame = pd.concat(some or [measured([], {}, "")], ignore_index=True)
    frame["_ok"] = frame["status"] == "ok"
    frame["_code"] = pd.factorize(frame["_point"])[0]
    stored = frame["_flags"].to_numpy()
    found = {name: np.array([name in flags for flags in stored], bool) for name in COMPUTED}
    found["short"] |= (frame["_ok"] & (frame["_counted"] != frame["output_tokens"])).to_numpy()
    found["duplicate"] |= _duplicate(frame)
    frame["_sound"] = frame["_ok"] & ~found["short"] & ~found["duplicate"]
    found["incorrect"] |= _incorrect(frame)
    found["cached"] |= _cached(frame)
    found["drift"] |= _drift(frame)
    found["unsteady"] |= _unsteady(frame)
    frame["flags"] = _tuples(frame["_flags"], found)
    found["preview"] |= _preview(frame)
    frame["flags"] = _tuples(frame["flags"], {"preview": found["preview"]})
    frame["preview"] = found["preview"]
    return frame[COLUMNS].copy()


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

    Judged by the median over its processes; where the prompt is a small part of the time to the
    first token, a cache cannot be seen, and matters little.
    """
    audits = frame[frame["audit"].notna()]
    share = audits["audit"].map(lambda a: (a["again_s"] or np.nan) / (a["prompt_s"] or np.nan))
    who = [*PLACE, "study", "model_sha256", "engine", "options", "twin"]
    shares = share.astype(float).groupby([audits[name] for name in who]).median()
    found = shares[shares < CACHED].index
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
    good = claimable(frame)
    point = [*PLACE, "_code"]
    counts = good.groupby(point).agg(runs=("process_run", "nunique"))
    blocks = good.drop_duplicates([*point, "process_run", "block"]).groupby(point).size()
    counts = counts.assign(blocks=blocks).reindex(
        pd.MultiIndex.from_frame(frame[point]), fill_value=0
    )
    compared = frame.groupby([*PLACE, *CELL])["_code"].transform("nunique").to_numpy() > 1
    return np.where(compared, counts["blocks"].to_numpy() < ENOUGH_BLOCKS,
                    counts["runs"].to_numpy() < stats.smallest_n(0.5))  # fmt: skip
