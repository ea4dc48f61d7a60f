"""The five stages of each model of a windows study: card, load, inference, windows, cleanup.

Numbers are in SI units; what was not measured is None, with the reason where one is known.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from llmbench import stats
from llmbench.errors import LlmbenchError
from llmbench.findings.numbers import ASKED, SERVED, engine_names, shown
from llmbench.findings.windows import Line, buffer, filling, held, lines, memory_steps, time_factors
from llmbench.models.checksum import kept_export
from llmbench.models.file_card import TOKENS_PER_PAGE, Card, file_card
from llmbench.models.source import peek_model
from llmbench.stats import Interval

WHO = [name for name in ASKED if name not in ("study", "prompt", "output_tokens")]
WRONG = {"short", "incorrect"}  # flags of an answer that is none


@dataclass(frozen=True)
class Stages:
    """What one model did with one engine, stage by stage."""

    model: str
    engine: str  # as people read it, with what else differs
    run: str
    card: Card | None
    card_reason: str  # why there is none
    load: dict[str, Any]
    inference: list[dict[str, Any]]  # one a prompt, then one of all
    windows: list[dict[str, Any]]
    cleanup: dict[str, Any]
    growth: list[dict[str, Any]]  # one a batch size
    capacity: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """Everything, for programs; the card without the place of its file."""
        told = {name: getattr(self, name) for name in ("model", "engine", "run", "load",
                "inference", "windows", "cleanup", "growth", "capacity")}  # fmt: skip
        card = None
        if self.card:
            card = {k: v for k, v in self.card.as_dict().items() if k != "file"}
        return plain(told | {"card": card or {"reason": self.card_reason}})


def stages(frame: pd.DataFrame, environments: Mapping[str, Mapping] | None = None) -> list[Stages]:
    """The stages of every model and engine in the rows of the study `context_windows`.

    `environments` are those of the run, by id (`store.environments`): they tell the memory.
    """
    rows = frame[frame["study"] == "context_windows"]
    alike = dict.fromkeys(("prompt", "output_tokens", *SERVED), "")
    heads = rows.drop_duplicates(WHO).assign(**alike)
    names = engine_names(heads) if len(heads) else heads["engine"]
    found = []
    for _, some in rows.groupby(WHO, sort=True, dropna=False):
        first = some.iloc[0]
        card, reason = _card(first["model"], first["model_sha256"], _loaded(some))
        grown = list(lines(some))
        found.append(Stages(
            model=first["model"], engine=names[some.index[0]], run=first["run"],
            card=card, card_reason=reason, load=_load(some), inference=_inference(some),
            windows=_windows(some), cleanup=_cleanup(some), growth=[_growth(one) for one in grown],
            capacity=_capacity(card, some, grown, (environments or {}).get(first["environment"])),
        ))  # fmt: skip
    return found


# -- 1 card ----------------------------------------------------------------------------------------


def _loaded(rows: pd.DataFrame) -> str | None:
    """The sha256 of the GGUF file that was loaded; None when it was none, or nobody told."""
    return next(iter(rows["file_sha256"].dropna()), None) if "file_sha256" in rows else None


def _card(model: str, sha256: str, loaded: str | None) -> tuple[Card | None, str]:
    """The card of the bytes that were `loaded`: the model's, or a kept export of its folder's."""
    gone = "the file that was measured is not here any more"
    try:
        source = peek_model(model)
        if source.sha256 != sha256:
            return None, gone
        place = source.file or source.folder
        if loaded not in (None, sha256):
            place = kept_export(loaded)
        return (file_card(place), "") if place else (None, gone)
    except (LlmbenchError, OSError) as error:
        return None, getattr(error, "what", str(error))


# -- 2 load, 5 cleanup: once a process -------------------------------------------------------------


def _load(rows: pd.DataFrame) -> dict[str, Any]:
    """Time and memory of the loads, each in a fresh process."""
    once = rows[rows["load_s"].notna()].drop_duplicates(["process_run", "child"])
    before, after = once["rss_before_load_bytes"], once["rss_after_load_bytes"]
    return {
        "loads": len(once), "time_s": _typical(once, once["load_s"]) | _spread(once["load_s"]),
        "before_bytes": _median(before), "after_bytes": _median(after),
        "added_bytes": _typical(once, after - before), "reason": _reason(rows) * (not len(once)),
    }  # fmt: skip


def _cleanup(rows: pd.DataFrame) -> dict[str, Any]:
    """What processes held once their model was released, beside what they held before loading."""
    ended = rows[rows["released"].notna()]
    told = pd.DataFrame(ended["released"].tolist(), index=ended.index,
                        columns=["rss_bytes", "anonymous_bytes", "file_bytes", "cached_bytes",
                                 "reason"])  # fmt: skip
    sizes = told.drop(columns="reason").astype(float)
    left = sizes["rss_bytes"] - ended["rss_before_load_bytes"]
    reasons = [reason for reason in told["reason"].dropna().unique() if reason]
    return {
        "processes": len(ended), "before_load_bytes": _median(ended["rss_before_load_bytes"]),
        "held_bytes": _median(held(ended)), "released": _typical(ended, sizes["rss_bytes"]),
        "left_bytes": _typical(ended, left) | _spread(left),
        "anonymous_bytes": _median(sizes["anonymous_bytes"]),
        "mapped_bytes": _median(sizes["file_bytes"]),
        "page_cache_bytes": _median(sizes["cached_bytes"]),
        "reason": "; ".join(reasons) if len(ended) else "no process told what it held at its end",
    }  # fmt: skip


# -- 3 inference -----------------------------------------------------------------------------------


def _inference(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """What each named prompt took, then all together; empty when none was asked."""
    named = rows[rows["prompt"] != "exact"]
    told = [_answers(prompt, some) for prompt, some in named.groupby("prompt")]
    return [*told, _answers("all", named)] if len(told) > 1 else told


def _answers(prompt: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Length, speed, errors and use of the window of the answers to one prompt."""
    good, asked = shown(rows), rows["key"].nunique()
    wrong = rows["flags"].map(lambda flags: bool(WRONG & set(flags))).astype(bool)
    answered = rows[(rows["status"] == "ok") & ~wrong]
    lost = rows[~rows["key"].isin(answered["key"])]
    failed = lost["key"].nunique()
    used = (good["prompt_tokens"] + good["received_tokens"]) / good["window"]
    return {
        "prompt": prompt, "prompt_tokens": _median(rows["prompt_tokens"]),
        "asked_tokens": _median(rows["output_tokens"]), "window": _median(rows["window"]),
        "process_runs": int(good["process_run"].nunique()), "repeats": asked, "failed": failed,
        "error_rate": failed / asked, "reason": _reason(lost if failed or len(good) else rows),
        "response_tokens": _spread(good["received_tokens"]), "utilisation": _median(used),
        "time_s": _spread(good["e2e_s"]) | _typical(good, good["e2e_s"]),
        "ttft_s": _typical(good, good["ttft_s"]),
        "decode_tok_per_s": _typical(good, good["decode_tok_per_s"]),
        "memory_bytes": _spread(held(good)),
    }  # fmt: skip


# -- 4 windows, and what follows from them ---------------------------------------------------------


def _windows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Each window that was asked for: what filling it took, or why it was not filled."""
    exact = rows[rows["prompt"] == "exact"]
    return [_window(int(batch), int(window), some)
            for (batch, window), some in exact.groupby(["batch_size", "window"])]  # fmt: skip


def _window(batch_size: int, window: int, rows: pd.DataFrame) -> dict[str, Any]:
    good = shown(rows)
    bad = rows[rows["status"] != "ok"]
    outcome = "measured" if len(good) else bad["status"].iloc[0] if len(bad) else "all flagged"
    return {
        "batch_size": batch_size, "window": window, "outcome": outcome,
        "reason": "" if len(good) else _reason(rows), "prompt_tokens": _median(good["context_len"]),
        "response_tokens": _median(good["received_tokens"]),
        "process_runs": int(good["process_run"].nunique()),
        "filling_s": _typical(good, filling(good)), "time_s": _typical(good, good["e2e_s"]),
        "memory_bytes": _typical(good, held(good)),
    }  # fmt: skip


def _growth(line: Line) -> dict[str, Any]:
    """Growth a doubling in time and memory, and the buffer formula."""
    fitted = buffer(line)
    return {
        "batch_size": line.batch_size,
        "time_per_doubling": [_doubling(*one) for one in time_factors(line)],
        "memory_per_doubling_bytes": [_doubling(*one) for one in memory_steps(line)],
        "buffer": fitted and {
            "base_bytes": _interval(fitted.base), "bytes_per_token": _interval(fitted.per_token),
            "windows": fitted.windows, "kv_bytes_per_token": fitted.kv_bytes_per_token,
            "weight_bytes": _median(line.rows["weight_bytes"]),
        },
    }  # fmt: skip


def _doubling(window: int, found: Interval) -> dict[str, Any]:
    return {"from": window // 2, "to": window} | _interval(found)


def _capacity(
    card: Card | None, rows: pd.DataFrame, grown: list[Line], environment: Mapping | None
) -> dict[str, Any]:
    """Tokens and pages that the model was trained for, and that memory here allows for one row.

    `memory_tokens` counts weights, keys and values as served and nothing else: no engine can hold
    more. `line_tokens` extends the measured line of memory, whatever lies beyond the last window.
    """
    trained = card.facts.trained_context if card else None
    memory = _memory_bytes(environment) if (rows["device"] == "cpu").all() else None
    weights, kv = _median(rows["weight_bytes"]), _median(rows["kv_bytes_per_token"])
    fitted = next((found for one in grown if one.batch_size == 1 and (found := buffer(one))), None)
    allowed = _tokens(memory, weights, kv)
    along = _tokens(memory, fitted.base.value, fitted.per_token.value) if fitted else None
    counts = {"trained": trained, "memory": allowed, "line": along}
    pages = {f"{name}_pages": None if n is None else round(n / TOKENS_PER_PAGE)
             for name, n in counts.items()}  # fmt: skip
    return {f"{name}_tokens": n for name, n in counts.items()} | pages | {
        "memory_bytes": memory, "weight_bytes": weights, "kv_bytes_per_token": kv,
    }  # fmt: skip


def _memory_bytes(environment: Mapping | None) -> int | None:
    here = (environment or {}).get("machine") or {}
    return here.get("cgroup_memory_bytes") or here.get("memory_bytes")


def _tokens(memory: float | None, base: float | None, per_token: float | None) -> int | None:
    """Tokens that fit beside `base`; None when that is not known, or a token needs nothing."""
    if memory is None or base is None or per_token is None or not per_token > 0:
        return None
    return max(0, int((memory - base) // per_token))


# -- numbers ---------------------------------------------------------------------------------------


def _typical(rows: pd.DataFrame, values: pd.Series) -> dict[str, Any]:
    """Median and exact interval over process runs of their medians."""
    return _interval(stats.median_interval(values.groupby(rows["process_run"]).median().dropna()))


def _interval(found: Interval) -> dict[str, Any]:
    return {"median": found.value, "low": found.low, "high": found.high, "n": found.n}


def _spread(values: pd.Series) -> dict[str, float]:
    return {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}


def _median(values: pd.Series) -> float | None:
    found = values.median()
    return None if math.isnan(found) else float(found)


def _reason(rows: pd.DataFrame) -> str:
    """What was said of the rows that failed, each once; else the flags of the others."""
    bad = rows[rows["status"] != "ok"]
    said = [f"{status}: {reason}" for status, reason in zip(bad["status"], bad["reason"],
                                                            strict=True)]  # fmt: skip
    flags = [flag for flags in rows["flags"] for flag in flags if flag != "preview"]
    return "; ".join(dict.fromkeys(said or flags))


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN is null."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(one) for one in value]
    if hasattr(value, "item"):  # numpy's
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
