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

from llmbench import store
from llmbench.errors import BadParams, Missing, Unsupported
from llmbench.metrics.flags import computed_flags
from llmbench.models.cost import prefill_flops
from llmbench.models.source import find_model
from llmbench.models.spec import Spec, spec_from_config
from llmbench.stats import claimable as claimable  # the rows that may enter a claim

UNKNOWN = "unknown"  # fingerprint of rows whose environment is not known
POINT = ["study", "model", "model_sha256", "engine", "batch_size", "prompt", "prompt_tokens",
         "output_tokens", "device", "threads", "seed"]  # fmt: skip
MEMORY = ("rss_before_load_bytes", "rss_after_load_bytes", "rss_peak_bytes", "limit_bytes",
          "tree_peak_bytes", "tree_rss_bytes", "tree_pss_bytes", "tree_uss_bytes",
          "sampling_period_s", "tree_pss_peak_bytes", "tree_uss_peak_bytes",
          "shares_period_s", "bare_bytes", "loaded_bytes", "loaded_pss_bytes")  # fmt: skip
RESIDENT = ("rss_peak_bytes", "tree_peak_bytes", "tree_rss_bytes")  # what an engine held at least
LATER = {"window": 0, "twin": False, "weights": ""}  # fields of a point that not all records have
PARTS = ("point", "served", "raw", "memory", "energy", "witness", "quiet", "audit")  # of a record
NOTHING: Mapping = MappingProxyType({})  # stands for a part that a record does not have
GPU_MBU, CPU_MBU = 1.0, 1.2  # a CPU's caches may keep some of the weights from step to step
CACHES = 4  # weights smaller than so many last-level caches say nothing of memory
UNKNOWN_CACHE_BYTES = 2**29  # where the machine did not tell its last-level cache
COLUMNS = [
    "run", "key", "study", "model", "model_sha256", "engine", "batch_size", "prompt",
    "prompt_tokens", "context_len", "output_tokens", "device", "threads", "seed", "options",
    "process_run", "child", "block", "repeat", "status", "reason", "flags", "measured_at",
    "sequence", "environment",
    "fingerprint", "impl", "attention_impl", "weight_format", "file_sha256",
    "weight_bytes", "step_weight_bytes", "kv_format", "kv_bytes_per_token", "load_s", "ttft_s",
    "prefill_s", "tpot_s",
    "e2e_s", "warmups", "warmup_s", "itl_s",
    "prefill_tok_per_s", "decode_tok_per_s", "mbu", "mfu", "machine_busy_share", "kv_read_bytes",
    "peak_bytes", *MEMORY, "output_sha256", "agreement", "others_cpu_s", "idle_wait_s",
    "energy_j", "energy_window_s", "energy_reason", "preview",
    "window", "twin", "layer_classes", "audit", "session", "prompt_sha256", "served_threads",
    "served_device", "served_window", "build", "versions", "isa", "released",
    "received_tokens", "weights", "held_bytes", "read_bytes_per_s",
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
           for name in ("impl", "attention_impl", "weight_format", "file_sha256",
                        "kv_format")}
        | {name: served.column(name, float)
           for name in ("weight_bytes", "step_weight_bytes", "kv_bytes_per_token", "load_s")}
        | {name: memory.column(name, float)
           for name in MEMORY}
        | {name: quiet.column(name, float)
           for name in ("machine_busy_share", "others_cpu_s", "idle_wait_s", "read_bytes_per_s")}
        | {"fingerprint": place.of(lambda known: known.get("fingerprint", UNKNOWN)),
           "session": row.of(lambda row: row.get("session") or "", object),
           "served_threads": served.column("threads", float),
           "served_device": served.column("device", object),
           "served_window": served.column("window", float),
           "build": served.column("build", object),
           "versions": served.of(_versions, object),
           "isa": place.of(lambda known: tuple((known.get("machine") or {}).get("isa") or ()),
                           object),
           "output_sha256": witness.column("output_sha256", object),
           "prompt_sha256": witness.column("prompt_sha256", object),
           "agreement": witness.column("agreement", float),
           "layer_classes": served.of(lambda part: part.get("layer_classes") or {}, object),
           "released": memory.of(lambda part: part.get("released"), object),
           "audit": parts["audit"].of(lambda part: dict(part) or None, object),
           "energy_j": parts["energy"].column("value_j", float),
           "energy_window_s": parts["energy"].column("window_s", float),
           "energy_reason": parts["energy"].column("reason", object),
           "prefill_s": raw.column("prefill_ns", float) / 1e9,
           "warmup_s": raw.of(lambda raw: sum(raw.get("warmup_s") or [np.nan]), float),
           "warmups": raw.of(lambda raw: len(raw.get("warmup_s") or ()), int),
           "_flags": row.of(lambda row: tuple(row.get("flags") or ()), object),
           "received_tokens": witness.column("output_tokens", float),
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


def _versions(served: Mapping) -> str | None:
    """What served, by name and version, as text; None where nothing is told."""
    told = served.get("versions") or {}
    return ", ".join(f"{name} {told[name]}" for name in sorted(told)) or None


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
    roof = np.where(np.isnan(roof), roof, np.fmax(roof, _read_beside(frame, environments)))
    read = frame["step_weight_bytes"] = frame["step_weight_bytes"].fillna(frame["weight_bytes"])
    frame["mbu"] = mbu(read + batch * frame["kv_read_bytes"], tpot, roof)
    peak = np.array(list(map(_peak_flops, roofs, frame["weight_format"])), float)
    frame["mfu"] = mfu(_prefill_flops(frame), prefill, peak)
    # the kernel's mark misses nothing, but knows one process; samples know those that serve too
    frame["peak_bytes"] = frame[list(RESIDENT)].max(axis=1)
    frame["held_bytes"] = frame["loaded_bytes"] - frame["bare_bytes"]
    frame["_impossible"] = beyond_memory(frame, environments) | (frame["mfu"] > 1).to_numpy()
    return frame


def beyond_memory(frame: pd.DataFrame, environments: Mapping[str, Mapping]) -> np.ndarray:
    """Rows that decode faster than memory can deliver what a step must read: boolean a row."""
    cpu = frame["device"].astype(str).str.startswith("cpu").to_numpy(bool)
    return np.where(
        cpu, _beyond_caches(frame, environments) & (frame["mbu"] > CPU_MBU), frame["mbu"] > GPU_MBU
    ).astype(bool)


def _beyond_caches(frame: pd.DataFrame, environments: Mapping[str, Mapping]) -> pd.Series:
    """Rows whose weights no cache of their machine holds."""
    caches = {name: _last_level_cache_bytes(known) for name, known in environments.items()}
    return frame["weight_bytes"] >= CACHES * frame["environment"].map(caches).astype(float)


def _read_beside(frame: pd.DataFrame, environments: Mapping[str, Mapping]) -> pd.Series:
    """Bytes/s of the fastest plain read beside any turn of a row's machine and threads; NaN: none.

    It refutes a slower roof: where others share a machine its bandwidth swings, and a roof that was
    measured once, in a slow minute, would call the fastest turns impossible.
    """
    probed = frame["read_bytes_per_s"].where(_beyond_caches(frame, environments)).astype(float)
    return probed.groupby([frame["environment"], frame["device"], frame["threads"]]).transform(
        "max"
    )


def _last_level_cache_bytes(environment: Mapping[str, Any]) -> int:
    caches = (environment.get("machine") or {}).get("cache_bytes") or {}
    return max(caches.values(), default=UNKNOWN_CACHE_BYTES)


def _roofs(environment: Mapping, device: str, threads: int) -> Mapping[str, Any]:
    """The roofs that hold for a row; those probed on so many CPU threads hold for no other."""
    roofs = environment.get("roofs") or {}
    probed = (roofs.get("raw") or {}).get("threads")
    return roofs if probed is None or (device == "cpu" and probed == threads) else {}


def _peak_flops(roofs: Mapping, dtype: str | None) -> float:
    """The roof of arithmetic in the dtype of the weights; NaN where that was not probed."""
    known = {"float32": roofs.get("flops_per_s")} | (roofs.get("flops_by_dtype") or {})
    return known.get(dtype) or np.nan


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


def flagged(*runs: pd.DataFrame) -> pd.DataFrame:
    """The frame of `runs`, each as `measured`, with the flags that only several rows tell."""
    some = [run for run in runs if len(run)]  # an empty one would blur the dtypes
    frame = pd.concat(some or [measured([], {}, "")], ignore_index=True)
    frame["flags"], frame["preview"] = computed_flags(frame)
    return frame[COLUMNS].copy()
