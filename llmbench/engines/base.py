"""What an engine is: it loads a model and yields tokens. It never reads a clock for a result.

Shapes: B rows of a batch, T prompt tokens (equal in all rows), V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from llmbench.models.source import ModelSource
from llmbench.record import Flag, Served

PREFILL_DONE: tuple[int, ...] = ()  # the empty step: prefill is synchronised, no token yet


@dataclass(frozen=True)
class Told:
    """What an engine says of its last stream, apart from the tokens."""

    server: dict[str, float] = field(default_factory=dict)  # its own durations in s, and counts
    flags: tuple[Flag, ...] = ()  # what forbids a claim
    reason: str = ""  # of the flags
    end_reason: Literal["eos"] | None = None  # it ended before it was asked to


class Engine(Protocol):
    """One engine holding at most one model.

    `capabilities` names what it can do beyond streaming: `batch`, `prefill_mark`,
    `next_logprobs`, `logprobs`. Asking for more raises `Unsupported` before anything is loaded.
    One with `window` sets the tokens of its option `window` aside when it loads.
    One with `server` is served by other processes and has two more methods: `told() -> Told`,
    asked after each stream, and `pids() -> list[int]`, the processes that hold the model.
    One that loads other files than the model's own, or may not see which, has after `load` an
    attribute `files: tuple[Path, ...]`: those that serve; empty when they cannot be seen.
    """

    name: str
    capabilities: frozenset[str]

    def imports(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Heavy modules that `options` (and `device`) need: imported before memory is limited."""
        ...

    def load(self, model: ModelSource, options: dict[str, Any]) -> Served:
        """Load `model` and say what really serves. Raises: OutOfMemory, Unsupported, BadParams."""
        ...

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], output_tokens: int
    ) -> Iterator[Sequence[int]]:
        """Yield the B greedy tokens of each of `output_tokens` steps for prompts (B, T).

        The clock starts with the first token's wait: what `stream` itself does before it returns
        an iterator (ids → text, say) is not timed, and must not touch the prompt's prefill.
        An engine with `prefill_mark` first yields `PREFILL_DONE` when the prefill is synchronised.
        It never stops early at an end token; a server that cannot help it says so in `told`.
        Tokens that come together are steps one right after the other; one that was counted and
        never shown is -1. Raises: OutOfMemory, Refused, EngineLost.
        """
        ...

    def next_logprobs(self, ids: Sequence[int], top: int = 20) -> dict[int, float]:
        """The `top` most likely next tokens after `ids` and their natural log-probabilities."""
        ...

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """(T, V) float32: natural log-probabilities of the token after each prefix of `ids`."""
        ...

    def synchronize(self) -> None:
        """Return when all work given to the device is done."""
        ...

    def close(self) -> None:
        """Release the model; the engine may load another."""
        ...


def told_by(engine: Engine) -> Told:
    """What `engine` says of its last stream; nothing when it has no server to ask."""
    return engine.told() if "server" in engine.capabilities else Told()


def served_files(engine: Engine, source: ModelSource) -> tuple[Path, ...]:
    """The files that serve `source` in `engine`; empty when they cannot be seen."""
    return getattr(engine, "files", source.weight_files)
