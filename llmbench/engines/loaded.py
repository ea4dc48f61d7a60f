"""A loaded engine for people: `llmbench.load(...)` streams tokens with their text."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from llmbench import engines
from llmbench.errors import BadParams, Missing, Refused
from llmbench.hardware import default_threads
from llmbench.models.source import find_model
from llmbench.models.tokenizer import Tokenizer
from llmbench.params import DEVICES, one_of, override, validated
from llmbench.profilers.memory import tree_bytes
from llmbench.record import Served
from llmbench.strict_yaml import Located


@dataclass(frozen=True)
class Token:
    """One generated token."""

    id: int
    text: str  # what it adds; empty while a character is not whole


class LoadedEngine:
    """An engine with a model in it; a context manager that releases both."""

    def __init__(
        self, model: str, engine: str, device: str, options: dict[str, Any], window: int = 0
    ) -> None:
        """`window`: tokens that the engine is to set aside, if it is one that does; 0: its own."""
        self._engine = engines.create(engine)
        threads = options.pop("threads", default_threads())
        validated(self._engine.Options, Located(values=options), engine)
        _check_device(device, self._engine)
        source = find_model(model)  # last: a model may have to be made
        self.trained: int | None = source.config.get("max_position_embeddings")  # tokens
        self.tokenizer: Tokenizer = source.tokenizer
        if window and self.trained and window > self.trained:
            raise Refused(f"a window of {window:,} tokens exceeds what {model} was trained for",
                          how=f"--window {self.trained} or less")  # fmt: skip
        place = {"threads": threads, "device": device}
        if window and "window" in self._engine.capabilities:
            place["window"] = window
        self.served: Served = self._engine.load(source, options | place)

    @property
    def window(self) -> int | None:
        """Tokens of a text and its answer: the trained ones, or the fewer that are set aside."""
        return min((n for n in (self.trained, self.served.window) if n), default=None)

    def stream(
        self, ids: Sequence[int] | Sequence[Sequence[int]], output_tokens: int
    ) -> Iterator[Token | list[Token]]:
        """Greedy tokens: one a step for a single prompt (T,), a list of B for a batch (B, T)."""
        batch = len(ids) > 0 and not isinstance(ids[0], int)
        rows = ids if batch else [ids]
        texts = [self.tokenizer.stream() for _ in rows]
        for step in self._engine.stream(rows, output_tokens):
            tokens = [Token(int(i), text(int(i)) if i >= 0 else "")
                      for i, text in zip(step, texts, strict=False)]  # fmt: skip
            if tokens:
                yield tokens if batch else tokens[0]

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """(T, V) float32: natural log-probabilities of the token after each prefix."""
        return self._engine.logprobs(ids)

    def next_logprobs(self, ids: Sequence[int], top: int = 20) -> dict[int, float]:
        """The `top` most likely next tokens and their natural log-probabilities."""
        return self._engine.next_logprobs(ids, top)

    def rss_bytes(self) -> int:
        """Resident bytes of this process and of those that serve its model."""
        served_by = self._engine.pids() if "server" in self._engine.capabilities else []
        return tree_bytes([os.getpid(), *served_by]).rss

    def __enter__(self) -> "LoadedEngine":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.close()


def _check_device(device: str, engine: engines.Engine) -> None:
    """Raises: BadParams for an unknown device, Missing when it is known and not here."""
    try:
        one_of("device", DEVICES, device)
    except ValueError as error:
        raise BadParams(
            f"device {device!r} {error}", how=f"devices: {', '.join(DEVICES)}"
        ) from None
    if device == "cuda" and "torch" in engine.imports({"device": device}):
        import torch

        if not torch.cuda.is_available():
            raise Missing(
                "device cuda: torch finds no usable GPU here",
                how="--device cpu; llmbench doctor says what this machine has and what is missing",
            )


def engine_options(engine: str, words: Iterable[str]) -> dict[str, Any]:
    """['num_ctx=2048', 'deadlines.total_s=60'] → options of `engine`. Raises: BadParams."""
    located = Located(values={})
    for word in words:
        override(located, word)
    validated(engines.create(engine).Options, located, f"engine {engine}")
    return located.values


def load(
    model: str, engine: str = "transformers", *, device: str = "cpu", **options: Any
) -> LoadedEngine:
    """Load `model` in `engine` with the engine's own `options` (and `threads`).

    Raises: BadParams for unknown names, Missing, OutOfMemory, Unsupported.
    """
    return LoadedEngine(model, engine, device, options)
