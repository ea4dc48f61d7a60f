"""A study → its repeats: keyed by content, engines interleaved, order shuffled from the seed."""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llmbench.errors import BadParams, StoreFailed
from llmbench.hardware import default_threads
from llmbench.models.source import ModelSource, find_model
from llmbench.params import (
    Attention,
    ContextWindows,
    ModelValidation,
    OllamaComparison,
    Scaling,
    Study,
)
from llmbench.record import Point, Repeat
from llmbench.units import GiB
from llmbench.workload import prompt_tokens

Find = Callable[[str], ModelSource]
START = 1  # tokens; a server may put one before the text
USUAL_WINDOW = 2048  # tokens; what llama.cpp's users ask for unless they need more


@dataclass(frozen=True)
class Group:
    """The repeats of one process run of one model in one format: a fresh child a contender."""

    process_run: int
    model: str
    repeats: tuple[Repeat, ...]


def present(study: Study) -> tuple[Study, dict[str, str]]:
    """The study with the models that are here or can be made, and why each other one cannot.

    Raises: StoreFailed when there is no room for any of them.
    """
    lost = {}
    for name in study.models:
        try:
            find_model(name)
        except StoreFailed as error:
            lost[name] = error
    if len(lost) == len(study.models):
        raise next(iter(lost.values()))
    kept = [name for name in study.models if name not in lost]
    return study.model_copy(update={"models": kept}), {n: e.what for n, e in lost.items()}


def plan(
    name: str, study: Study, shard: str = "1/1", find: Find | None = None
) -> tuple[Group, ...]:
    """The groups of a study in the order of their value: every point once before any twice.

    Within a block the cells are shuffled, and within a cell the engines: engines that are compared
    take their turns next to each other in time, in random order. `shard` "2/5" is the second fifth
    of the groups; `find` finds the models (`find_model`). Raises: BadParams.
    """
    points = study_points(name, study, find)
    runs = range(study.process_runs)
    groups = [g for run in runs for g in _process_run(study, points, run)]
    number, count = parse_shard(shard)
    return tuple(group for i, group in enumerate(groups) if i % count == number - 1)


def study_points(name: str, study: Study, find: Find | None = None) -> list[Point]:
    """Every point of a study: models by formats of weights by contenders by cells."""
    asked = {"study": name, "seed": study.seed, "device": study.device}
    asked["threads"] = study.threads or default_threads()
    asked["memory_limit_bytes"] = int(study.memory_limit_gib * GiB)
    return [
        Point(model=source.name, model_sha256=source.sha256, engine=engine,
              engine_options=options, twin=twin, weights=weights, **asked, **cell)
        for source in map(find or find_model, study.models)
        for weights in getattr(study, "weights", []) or [None]
        for engine, options, twin in study.contenders
        for cell in CELLS[name](study, source)
    ]  # fmt: skip


def scaling_cells(study: Scaling | Attention, source: ModelSource) -> Iterator[dict[str, Any]]:
    """Prompts of exact length, for every batch size and prompt length."""
    for batch_size, tokens in itertools.product(study.batch_sizes, study.context_lens):
        yield _cell(study, "exact", tokens, batch_size)


def comparison_cells(study: OllamaComparison, source: ModelSource) -> Iterator[dict[str, Any]]:
    """The named prompts, then prompts of exact length, a row at a time."""
    tokenizer = source.tokenizer if study.prompts else None
    for prompt in study.prompts:
        yield _cell(study, prompt, prompt_tokens(prompt, tokenizer))
    for tokens in study.context_lens:
        yield _cell(study, "exact", tokens)


def window_cells(study: ContextWindows, source: ModelSource) -> Iterator[dict[str, Any]]:
    """Prompts that fill each window but for the output, then the named ones in an ordinary window.

    All named prompts have one window: the usual one, or less where the model was trained for less.
    """
    trained = source.config.get("max_position_embeddings") or math.inf
    for batch_size, window in itertools.product(study.batch_sizes, study.context_lens):
        tokens = window - study.output_tokens - START
        beyond = study.beyond_trained and window > trained
        yield _cell(study, "exact", tokens, batch_size) | {
            "window": window, "beyond_trained": beyond}  # fmt: skip
    usual = min(USUAL_WINDOW, trained)
    answer = {"output_tokens": study.answer_tokens, "window": usual}
    for prompt in study.prompts:
        yield _cell(study, prompt, prompt_tokens(prompt, source.tokenizer)) | answer


def validation_cells(study: ModelValidation, source: ModelSource) -> Iterator[dict[str, Any]]:
    """One question that every model can answer."""
    yield _cell(study, "machine_learning", prompt_tokens("machine_learning", source.tokenizer))


def _cell(study: Any, prompt: str, tokens: int, batch_size: int = 1) -> dict[str, Any]:
    return {"batch_size": batch_size, "prompt": prompt, "prompt_tokens": tokens,
            "output_tokens": study.output_tokens}  # fmt: skip


CELLS: dict[str, Callable[[Any, ModelSource], Iterable[dict[str, Any]]]] = {
    "model_validation": validation_cells,
    "scaling": scaling_cells,
    "ollama_comparison": comparison_cells,
    "attention": scaling_cells,
    "context_windows": window_cells,
}


def _process_run(study: Study, points: list[Point], process_run: int) -> Iterator[Group]:
    """A group a model in one format; where contenders are apart, one each, or a cell each.

    Named prompts are of one size, more or less: they share a process.
    """
    order = random.Random(f"{study.seed}/{process_run}")
    groups: dict[tuple, list[Point]] = {}
    for point in points:
        alone = "" if study.side_by_side else point.contender
        cell = point.cell if study.cells_apart and point.prompt == "exact" else ()
        groups.setdefault((point.model, point.weights, alone, cell), []).append(point)
    for key in _shuffled(order, list(groups)):
        yield Group(process_run, key[0], _turns(order, groups[key], process_run, study.blocks))


def _turns(
    order: random.Random, points: list[Point], process_run: int, blocks: int
) -> tuple[Repeat, ...]:
    """Every cell once a block, in random order; within a cell each contender, in random order."""
    cells: dict[tuple, list[Point]] = {}
    for point in points:
        cells.setdefault(point.cell, []).append(point)
    return tuple(
        Repeat(point=point, process_run=process_run, block=block)
        for block in range(blocks)
        for cell in _shuffled(order, list(cells))
        for point in _shuffled(order, cells[cell])
    )


def _shuffled(order: random.Random, items: list) -> list:
    return order.sample(items, len(items))


def parse_shard(text: str) -> tuple[int, int]:
    """'2/5' → (2, 5). Raises: BadParams."""
    first, slash, last = text.partition("/")
    if slash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last):
        return int(first), int(last)
    raise BadParams(f"--shard {text!r}: expected I/N with 1 ≤ I ≤ N", how="--shard 1/4")
