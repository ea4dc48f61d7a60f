"""The five stages of each model as tables, as a JSON file and as a page of Markdown."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from llmbench import catalog, metrics, store
from llmbench.findings import circumstances
from llmbench.findings.circumstances import STATUSES
from llmbench.findings.numbers import EN, fixed, model_names
from llmbench.findings.stages import Stages, stages
from llmbench.findings.windows import doublings, window_sentences
from llmbench.models.file_card.lines import card_lines
from llmbench.tables import markdown
from llmbench.units import nbytes, seconds

PUBLISHED = {  # the models of the published report, by the ids of their claims
    "MoE 4x7B": ("s2-moe", "moe-4x7b"), "Ayla 12B": ("s2-ayla", "ayla-12b"),
    "DeepSeek 14B": ("s2-deepseek", "deepseek-14b"),
    "WizardLM 7B": ("s2-wizardlm", "wizardlm-7b"),
}  # fmt: skip
HERE, THERE = "measured here", "published elsewhere, not measured here"
NEED = "weights and F16 KV cache at "
ACROSS = ["Model", "Engine", "Source", "Batch (rows)", "Trained context (tokens)", "Pages",
          "Memory here allows (tokens)", "Time per doubling", "Memory per doubling",
          "Base", "Per 1K tokens", "Keys and values of 1K tokens"]  # fmt: skip


# -- one table a stage -----------------------------------------------------------------------------


def card_table(found: Sequence[Stages]) -> pd.DataFrame:
    """Stage 1: a row a fact, a column a model; the bytes of each class of tensors among them."""
    columns: dict[str, dict[str, str]] = {}
    names = model_names(one.model for one in found)
    for one in found:
        columns[names[one.model]] = _card(one) if one.card else {"card": one.card_reason}
    table = pd.DataFrame(columns).fillna("—")
    return table.loc[sorted(table.index, key=_needs_last)].rename_axis("Fact").reset_index()


def _card(one: Stages) -> dict[str, str]:
    lines = dict(card_lines(one.card))
    for row in one.card.tensors:
        lines[f"{row.tensor_class} in {row.kind}"] = f"{row.tensors:,}, {nbytes(row.nbytes)}"
    for need in one.card.memory:
        lines[f"{NEED}{need.context_tokens:,}"] = nbytes(need.total_bytes)
    return lines


def _needs_last(fact: str) -> int:
    """Sorts what memory is needed by context, below every other fact in the order it has."""
    return int(fact.removeprefix(NEED).replace(",", "")) if fact.startswith(NEED) else 0


def load_table(found: Sequence[Stages]) -> pd.DataFrame:
    """Stage 2: a row a model and engine."""
    return _table(found, lambda one: [{
        "Loads": one.load["loads"], "Time": _range(one.load["time_s"], seconds),
        "Least": _one(one.load["time_s"]["min"], seconds),
        "Most": _one(one.load["time_s"]["max"], seconds),
        "Resident before": _one(one.load["before_bytes"], nbytes),
        "Resident after": _one(one.load["after_bytes"], nbytes),
        "Added": _range(one.load["added_bytes"], nbytes), "Why not": one.load["reason"],
    }])  # fmt: skip


def inference_table(found: Sequence[Stages]) -> pd.DataFrame:
    """Stage 3: a row a prompt, and one of all together."""
    return _table(found, lambda one: [_answers(told) for told in one.inference])


def _answers(told: dict[str, Any]) -> dict[str, Any]:
    time = told["time_s"]
    return {
        "Prompt": told["prompt"].replace("_", " "), "Process runs": told["process_runs"],
        "Answers": told["repeats"],
        "Error rate": f"{100 * told['error_rate']:.0f} % ({told['failed']} of {told['repeats']})",
        "Response (tokens)": _one(told["response_tokens"]["mean"], _count),
        "Asked for (tokens)": _one(told["asked_tokens"], _count),
        "Use of the window": _one(told["utilisation"], lambda share: f"{100 * share:.1f} %"),
        "Time": _range(time, seconds), "Mean": _one(time["mean"], seconds),
        "Std": _one(time["std"], seconds), "Least": _one(time["min"], seconds),
        "Most": _one(time["max"], seconds), "First token": _range(told["ttft_s"], seconds),
        "Tokens/s": _range(told["decode_tok_per_s"], lambda rate: fixed(rate, 1)),
        "Resident": _one(told["memory_bytes"]["mean"], nbytes), "Why not": told["reason"],
    }  # fmt: skip


def filled_table(found: Sequence[Stages]) -> pd.DataFrame:
    """Stage 4: a row a window; one that was refused or did not fit says so."""
    return _table(found, lambda one: [{
        "Batch (rows)": told["batch_size"], "Window (tokens)": told["window"],
        "Outcome": STATUSES.get(told["outcome"], told["outcome"]),
        "Prompt (tokens)": _one(told["prompt_tokens"], _count),
        "Output (tokens)": _one(told["response_tokens"], _count),
        "Filling": _range(told["filling_s"], seconds), "Whole": _range(told["time_s"], seconds),
        "Resident": _range(told["memory_bytes"], nbytes), "Process runs": told["process_runs"],
        "Why not": told["reason"],
    } for told in one.windows])  # fmt: skip


def cleanup_table(found: Sequence[Stages]) -> pd.DataFrame:
    """Stage 5: a row a model and engine; files in the page cache belong to no process."""
    return _table(found, lambda one: [{
        "Processes": one.cleanup["processes"],
        "Before loading": _one(one.cleanup["before_load_bytes"], nbytes),
        "At the end": _one(one.cleanup["held_bytes"], nbytes),
        "Released": _range(one.cleanup["released"], nbytes),
        "Left over": _range(one.cleanup["left_bytes"], nbytes),
        "Most left": _one(one.cleanup["left_bytes"]["max"], nbytes),
        "Anonymous": _one(one.cleanup["anonymous_bytes"], nbytes),
        "Mapped files": _one(one.cleanup["mapped_bytes"], nbytes),
        "Page cache": _one(one.cleanup["page_cache_bytes"], nbytes),
        "Not known": one.cleanup["reason"],
    }])  # fmt: skip


# -- across models ---------------------------------------------------------------------------------


def across_table(found: Sequence[Stages]) -> pd.DataFrame:
    """Growth, buffer and capacity: a row a model, engine and batch; the published ones below."""
    rows = [row for one in found for row in _across(one)] + [*map(_claimed, PUBLISHED)]
    return pd.DataFrame(rows, columns=ACROSS, dtype=object).fillna("")


def _across(one: Stages) -> list[dict[str, Any]]:
    """What was measured of one model."""
    counted, about = one.capacity, {"Model": one.model, "Engine": one.engine, "Source": HERE}
    about |= {"Trained context (tokens)": _one(counted["trained_tokens"], _count),
              "Pages": _one(counted["trained_pages"], _count),
              "Memory here allows (tokens)": _one(counted["memory_tokens"], _count)}  # fmt: skip
    return [about | _grown(told) for told in one.growth] or [about]


def _grown(told: dict[str, Any]) -> dict[str, Any]:
    times = [one["median"] for one in told["time_per_doubling"]]
    steps = [one["median"] for one in told["memory_per_doubling_bytes"]]
    fitted = told["buffer"]
    shown = {
        "Batch (rows)": told["batch_size"],
        "Time per doubling": _ends(times, lambda ratio: f"x {fixed(ratio, 2)}"),
        "Memory per doubling": _ends(steps, nbytes),
    }
    return shown | ({} if fitted is None else {
        "Base": _range(fitted["base_bytes"], nbytes),
        "Per 1K tokens": _range(fitted["bytes_per_token"], lambda each: nbytes(1000 * each)),
        "Keys and values of 1K tokens": _one(fitted["kv_bytes_per_token"],
                                             lambda each: nbytes(1000 * each)),
    })  # fmt: skip


def _claimed(name: str) -> dict[str, Any]:
    """What the published report says of one model, as it says it."""
    prefix, key = PUBLISHED[name]
    told = {claim.id: claim.value for claim in catalog.claims()}
    header, formula = told[f"{prefix}-header"], told.get(f"{prefix}-buffer") or {}
    growth = told["s2-time-per-doubling"].get(key)
    return {
        "Model": name, "Engine": "llama.cpp", "Source": THERE,
        "Trained context (tokens)": _one(header.get("trained_context"), _count),
        "Pages": _one(header.get("pages"), _count),
        "Time per doubling": f"x {growth}" if growth else "",
        "Memory per doubling": _gb(told["s2-memory-per-doubling"].get(key)),
        "Base": _gb(formula.get("base_gb")), "Per 1K tokens": _gb(formula.get("gb_per_1k_tokens")),
    }  # fmt: skip


def published_table() -> pd.DataFrame:
    """Every statement of the published report that has a value, as data; none was tested here."""
    rows = [{"Claim": claim.id, "Statement": claim.statement, "Value": _words(claim.value),
             "Unit": claim.unit or "", "Contradicts": ", ".join(claim.contradicts)}
            for claim in catalog.claims() if claim.system == "S2" and claim.value]  # fmt: skip
    return pd.DataFrame(rows)


def _words(value: Any) -> str:
    """A claim's value as it would be said: names with their values, lists, plain numbers."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_words(one)}" for name, one in value.items())
    return ", ".join(map(_words, value)) if isinstance(value, list) else f"{value}"


# -- files -----------------------------------------------------------------------------------------


def write_stages(folder: str | Path) -> tuple[Path, Path]:
    """Write context_windows_<UTC>.json and CONTEXT_WINDOWS.md into a run's folder; their paths.

    Raises: StoreFailed.
    """
    folder = Path(folder)
    frame = metrics.read(folder)
    about = circumstances.about(folder)
    found, machine = stages(frame, about.environments), circumstances.machines([about])
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    files = folder / f"context_windows_{stamp}.json", folder / "CONTEXT_WINDOWS.md"
    claims = [claim.model_dump() for claim in catalog.claims() if claim.system == "S2"]
    store.snapshot_json(files[0], {"run": folder.resolve().name, "written": stamp,
                                   "machine": machine, "models": [one.facts() for one in found],
                                   "published_elsewhere_not_measured_here": claims})  # fmt: skip
    store.snapshot(files[1], _page(found, frame, machine).encode())
    return files


def _page(found: Sequence[Stages], frame: pd.DataFrame, machine: Iterable[str]) -> str:
    parts = [
        ("1 Card", "Read from the headers of the files that were measured.", card_table(found)),
        ("2 Load", "Each in a fresh process; the file may be in the page cache.",
         load_table(found)),
        ("3 Inference", "Answers have the length that was asked for: engines are not stopped by "
         "an end token, so it says nothing of the model. One that ended early is an error.",
         inference_table(found)),
        ("4 Windows", "Each is really filled, in processes of its own.", filled_table(found)),
        ("5 Cleanup", "What is left over is what an allocator and libraries keep, too. The page "
         "cache holds the model's files until the kernel needs the room.", cleanup_table(found)),
        ("Across models", "Base and growth are a straight line through the windows of each process "
         "run. Memory allows weights, keys and values; working memory comes on top.",
         across_table(found)),
        ("Growth per doubling", "Within each process run; median and exact interval over them.",
         doublings(frame)),
        ("Published elsewhere", "Not measured here: statements to be tested.", published_table()),
    ]  # fmt: skip
    text = ["# What do these models need, stage by stage?", "", *machine, ""]
    for title, note, table in parts:
        shown = markdown(table) if len(table) else "No rows.\n"
        text += [f"## {title}", "", note, "", shown]
    told = window_sentences(frame) or ["No window was measured twice as large as another."]
    return "\n".join([*text, "## What we see", "", *(f"* {one}" for one in told), ""])


# -- numbers for people ----------------------------------------------------------------------------


def _table(found: Iterable[Stages], rows: Callable[[Stages], list[dict[str, Any]]]) -> pd.DataFrame:
    """The `rows` of each model, with the model and engine before them."""
    found = list(found)
    names = model_names(one.model for one in found)
    return pd.DataFrame([{"Model": names[one.model], "Engine": one.engine} | row
                         for one in found for row in rows(one)])  # fmt: skip


def _one(value: float | None, text: Callable[[float], str]) -> str:
    return "" if value is None or value != value else text(value)


def _range(told: dict[str, Any], text: Callable[[float], str]) -> str:
    """'1.2 s [1.1-1.3 s]'; a dash where no interval is estimable."""
    low, high = (_one(told[end], text) for end in ("low", "high"))
    interval = f"{low}{EN}{high}" if low and high else EN
    value = _one(told["median"], text)
    return f"{value} [{interval}]" if value else ""


def _ends(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The least and the most of several medians."""
    ends = dict.fromkeys(text(value) for value in (min(values), max(values))) if values else {}
    return EN.join(ends)


def _gb(value: Any) -> str:
    """Gigabytes as they were published."""
    if value is None:
        return ""
    return f"{EN.join(map(str, value if isinstance(value, list) else [value]))} GB"


def _count(value: float) -> str:
    return f"{value:,.0f}"
