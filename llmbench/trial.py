"""One try for a curious person: the text as it comes, then what it took. No measurement.

Nothing is warmed up and nobody else is kept still: `measure` does that.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.chunks import Layout, Piece, layout, pieces
from llmbench.engines import create
from llmbench.engines.loaded import LoadedEngine
from llmbench.errors import BadParams, Refused
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
    rss_bytes: int | None  # of this process and those that serve it
    complete: bool  # False: ended from outside

    @property
    def decode_tok_per_s(self) -> float | None:
        """Tokens a second after the first."""
        return 1 / self.tpot_s if self.tpot_s else None


@dataclass(frozen=True)
class Reading:
    """What reading a text in pieces took; fewer trials than pieces when it ended from outside."""

    layout: Layout
    pieces: tuple[Piece, ...]
    trials: tuple[Trial, ...]
    load_s: float
    read_s: float  # without loading, tokenising included

    @property
    def complete(self) -> bool:
        """Whether every piece was read and answered to its end."""
        return len(self.trials) == len(self.pieces) and all(t.complete for t in self.trials)

    @property
    def output_tokens(self) -> int:
        """Generated after all pieces together."""
        return sum(tried.output_tokens for tried in self.trials)

    @property
    def repeated_tokens(self) -> int:
        """Read twice, as the overlap of two pieces."""
        read = self.pieces[: len(self.trials)]
        return sum(piece.fresh - piece.start for piece in read)


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
    window: int | None = None, device: str = "cpu",
    show: Callable[[str], Any] = lambda text: None, **options: Any,
) -> Trial:  # fmt: skip
    """Generate `tokens` tokens after `prompt`, giving each piece of text to `show` as it comes.

    `options` are the engine's (and `threads`); `window` is what it sets aside, in tokens. An
    interruption ends the text and is told in the result. Raises: BadParams, Refused when the
    prompt does not fit, Missing, OutOfMemory.
    """
    if not prompt:
        raise BadParams("the prompt is empty", how="--prompt 'some words'")
    if tokens < 1:
        raise BadParams(f"--tokens {tokens}; must be at least 1")
    if window and "window" not in create(engine).capabilities:
        raise BadParams(f"--window {window}: engine {engine} sets no window aside",
                        how="leave it out, or give --chunks too")  # fmt: skip
    begun = time.perf_counter()
    with LoadedEngine(model, engine, device, dict(options), window or 0) as loaded:
        load_s = time.perf_counter() - begun
        ids = [*loaded.tokenizer.first, *loaded.tokenizer.encode(prompt)]
        _check_window(window, loaded)
        _check_room(model, len(ids), tokens, loaded)
        return _tried(loaded, model, prompt, ids, tokens, load_s, show)


def read_in_pieces(
    model: str, text: str, *, engine: str = "edge", tokens: int = 64, window: int | None = None,
    overlap: int | None = None, device: str = "cpu",
    begin: Callable[[Piece, int, int], Any] = lambda piece, number, of: None,
    show: Callable[[str], Any] = lambda text: None, **options: Any,
) -> Reading:  # fmt: skip
    """Generate `tokens` tokens after each piece of `text`, the pieces as large as `window` allows.

    An engine that sets a window aside is given it. Without one it is that of the training, or the
    smaller one that the engine chose. The overlap is a tenth of a piece. A piece begins and ends
    with a whole character. `begin` is told each piece with its number and how many there are. An
    interruption ends the reading. Raises: as `generate`.
    """
    if not text:
        raise BadParams("the text is empty", how="--document FILE")
    begun = time.perf_counter()
    with LoadedEngine(model, engine, device, dict(options), window or 0) as loaded:
        load_s = time.perf_counter() - begun
        ids, cuts = loaded.tokenizer.encode_with_cuts(text)
        first = loaded.tokenizer.first
        asked = layout(len(ids), window=_window(model, window, loaded) - len(first),
                       output_tokens=tokens, overlap_tokens=overlap)  # fmt: skip
        parts, trials = tuple(pieces(asked, cuts)), []
        try:
            for number, piece in enumerate(parts, 1):
                begin(piece, number, len(parts))
                own = ids[piece.start : piece.end]
                prompt = loaded.tokenizer.decode(own)
                asked_ids = [*first, *own]
                trials.append(_tried(loaded, model, prompt, asked_ids, tokens, load_s, show))
                if not trials[-1].complete:
                    break
        except KeyboardInterrupt:  # before any text of a piece
            if not trials:
                raise
    return Reading(asked, parts, tuple(trials), load_s, time.perf_counter() - begun - load_s)


def _tried(
    loaded: LoadedEngine, model: str, prompt: str, ids: list[int], tokens: int, load_s: float,
    show: Callable[[str], Any],
) -> Trial:  # fmt: skip
    """One generation. Raises: KeyboardInterrupt when it came before any text."""
    texts, at, complete = [], [time.perf_counter()], True
    try:
        for token in loaded.stream(ids, tokens):
            at.append(time.perf_counter())
            texts.append(token.text)
            show(token.text)
    except KeyboardInterrupt:
        complete = False
        if not texts:
            raise
    steps = len(texts)
    return Trial(
        model=model, served=loaded.served, prompt=prompt, prompt_tokens=len(ids),
        text="".join(texts), output_tokens=steps, load_s=load_s, ttft_s=at[1] - at[0],
        tpot_s=(at[-1] - at[1]) / (steps - 1) if steps > 1 else None, rss_bytes=loaded.rss_bytes(),
        complete=complete,
    )  # fmt: skip


def _window(model: str, asked: int | None, loaded: LoadedEngine) -> int:
    """Tokens of a piece and its output. Raises: BadParams, Refused beyond what is set aside."""
    if asked is None and loaded.window is None:
        raise BadParams(f"{model} does not tell how long a text it was trained for",
                        how="--window N")  # fmt: skip
    _check_window(asked, loaded)
    return asked or loaded.window


def _check_window(asked: int | None, loaded: LoadedEngine) -> None:
    """Raises: Refused when an option of the engine made its window smaller than --window."""
    if asked and loaded.window and asked > loaded.window:
        raise Refused(f"--window {asked:,} exceeds the {loaded.window:,} tokens that engine "
                      f"{loaded.served.engine} was told to set aside",
                      how="give one of the two")  # fmt: skip


def _check_room(model: str, prompt_tokens: int, tokens: int, loaded: LoadedEngine) -> None:
    """Raises: Refused with what would fit, when the window has no room for so many tokens."""
    window, trained, needed = loaded.window, loaded.trained, prompt_tokens + tokens
    if not window or needed <= window:
        return
    fits = []
    if window != trained and needed <= (trained or needed):
        fits.append(f"--window {needed}")
    if 2 * tokens <= window:
        fits.append("--chunks to read it in pieces")
    if tokens < window:
        fits.append(f"a text of at most {window - tokens:,} tokens")
    if prompt_tokens < window:
        fits.append(f"--tokens {window - prompt_tokens} or fewer")
    raise Refused(
        f"the prompt's {prompt_tokens:,} tokens and --tokens {tokens:,} together exceed the window",
        why=f"{model} was trained for {trained:,} tokens" if window == trained else
            f"engine {loaded.served.engine} has set {window:,} tokens aside",
        how=", or ".join(fits) or "a shorter text and fewer --tokens",
    )  # fmt: skip
