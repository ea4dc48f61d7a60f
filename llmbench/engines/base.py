"""What an engine is: it loads a model and yields tokens. It never reads a clock for a result.

Shapes: B rows of a batch, T prompt tokens (equal in all rows), V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from llmbench.models.source import ModelSource
from llmbench.record import Served

PREFILL_DONE: tuple[int, ...] = ()  # the empty step: prefill is synchronised, no token yet


class Engine(Protocol):
    """One engine holding at most one model.

    `capabilities` names what it can do beyond streaming: `batch`, `prefill_mark`,
    `next_logprobs`, `logprobs`; one with `window` sets the tokens of its option `window` aside
    when it loads. Asking for more raises `Unsupported` before anything is loaded.
    """

    name: str
    capabilities: frozenset[str]
    imports: tuple[str, ...]  # heavy modules, imported before the memory limit is set

    def load(self, model: ModelSource, options: dict[str, Any]) -> Served:
        """Load `model` and say what really serves. Raises: OutOfMemory, Unsupported, BadParams."""
        ...

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], output_tokens: int
    ) -> Iterator[Sequence[int]]:
        """Yield the B greedy tokens of each of `output_tokens` steps for prompts (B, T).

        An engine with `prefill_mark` first yields `PREFILL_DONE` when the prefill is synchronised.
        It never stops early at an end token. Raises: OutOfMemory, Refused.
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
