"""One try for a curious person: the text as it comes, then what it took. No measurement.

Nothing is warmed up and nobody else is kept still: `measure` does that.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.engines.loaded import LoadedEngine
from llmbench.errors import BadParams, Refused
from llmbench.profilers.memory import rss_bytes
from llmbench.record import Served

PROMPT = "def read_lines(path):\n"  # the model that ships here was trained on Python's library


@dataclass(frozen=True)
class Trial:
    """What one generation took, in s and bytes; the first call of a process, not warmed up."""

    model: str
    served: Served
    prompt: str
    prompt_tokens: int
    text: str
    output_tokens: int
    load_s: float
    ttft_s: float
    tpot_s: float | None  # None for a single token
    rss_bytes: int | None
    complete: bool  # False: ended from outside

    @property
    def decode_tok_per_s(self) -> float | None:
        """Tokens a second after the first."""
        return 1 / self.tpot_s if self.tpot_s else None


def prompt_from(document: Path) -> str:
    """The text of a file, or of stdin for `-`. Raises: BadParams when it is none."""
    try:
        given = sys.stdin.buffer.read() if str(document) == "-" else document.read_bytes()
        text = given.decode("utf-8")
    except OSError as error:
        raise BadParams(f"--document {document}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadParams(f"--document {document} is no UTF-8 text") from None
    return text


def generate(
    model: str, prompt: str = PROMPT, *, engine: str = "edge", tokens: int = 64,
    device: str = "cpu", show: Callable[[str], Any] = lambda text: None, **options: Any,
) -> Trial:  # fmt: skip
    """Generate `tokens` tokens after `prompt`, giving each piece of text to `show` as it comes.

    `options` are the engine's (and `threads`). An interruption ends the text and is told in the
    result. Raises: BadParams, Refused when the prompt does not fit, Missing, OutOfMemory.
    """
    if not prompt:
        raise BadParams("the prompt is empty", how="--prompt 'some words'")
    if tokens < 1:
        raise BadParams(f"--tokens {tokens}; must be at least 1")
    begun = time.perf_counter()
    with LoadedEngine(model, engine, device, dict(options)) as loaded:
        load_s = time.perf_counter() - begun
        ids = loaded.tokenizer.encode(prompt)
        _check_room(model, len(ids), tokens, loaded.trained)
        pieces, at, complete = [], [time.perf_counter()], True
        try:
            for token in loaded.stream(ids, tokens):
                at.append(time.perf_counter())
                pieces.append(token.text)
                show(token.text)
        except KeyboardInterrupt:
            complete = False
            if not pieces:
                raise
        steps = len(pieces)
        return Trial(
            model=model, served=loaded.served, prompt=prompt, prompt_tokens=len(ids),
            text="".join(pieces), output_tokens=steps, load_s=load_s, ttft_s=at[1] - at[0],
            tpot_s=(at[-1] - at[1]) / (steps - 1) if steps > 1 else None, rss_bytes=rss_bytes(),
            complete=complete,
        )  # fmt: skip


def _check_room(model: str, prompt_tokens: int, tokens: int, trained: int | None) -> None:
    """Raises: Refused with what would fit, when the model was not trained for so many tokens."""
    if not trained or prompt_tokens + tokens <= trained:
        return
    fits = []
    if tokens < trained:
        fits.append(f"a text of at most {trained - tokens:,} tokens")
    if prompt_tokens < trained:
        fits.append(f"--tokens {trained - prompt_tokens} or fewer")
    raise Refused(
        f"the prompt's {prompt_tokens:,} tokens and --tokens {tokens:,} together exceed the window",
        why=f"{model} was trained for {trained:,} tokens",
        how=" or ".join(fits) or "a shorter text and fewer --tokens",
    )
