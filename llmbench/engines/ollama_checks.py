"""What an answer of a server proves about its times: counted, whole, by the same loaded model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llmbench.engines.base import Told

RELOAD_S, RELOAD_TIMES = 0.05, 3.0  # a load above both, the second of the usual: loaded again
TIMES = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")  # in ns
REPEATS = 30  # of one text, then the server ends an answer without a word: llm/server.go
COUNTS = ("prompt_eval_count", "prompt_eval_cached_count", "eval_count")


@dataclass(frozen=True)
class Loaded:
    """What holds the model: one line of /api/ps, and the processes that serve it."""

    size: int  # bytes
    size_vram: int  # bytes of `size` that are on a GPU
    window: int | None  # tokens; None where the version does not tell
    runners: tuple[int, ...] = ()  # process ids below the server


@dataclass(frozen=True)
class Asked:
    """What a request was to give."""

    prompt_tokens: int  # as the server must count them
    output_tokens: int
    on_gpu: bool
    usual_load_s: float = 0.0  # each answer has it: the server reads the file's header again


@dataclass
class Seen:
    """What came. `missing` tokens were counted by the server and no piece of text is theirs."""

    chunks: int = 0  # pieces with text
    tokens: int = 0  # of these, as our tokenizer reads their text
    first: int = 0  # tokens of the first piece
    first_wide: bool = False  # that one holds a character that may be several tokens
    wide: int = 0  # characters that may be several tokens, which are held back until it is whole
    in_row: int = 0  # pieces that were the same but for spaces, up to the last
    last: str = ""
    cut: bool = False  # the answer ended without its last line, after so many of them
    busy: int = 0  # how often the server turned us away first
    final: dict[str, Any] = field(default_factory=dict)  # the line that is `done`

    def add(self, text: str, tokens: int) -> None:
        """Count a piece of text."""
        self.wide += sum(character > "\x7f" for character in text)
        if not self.chunks:
            self.first, self.first_wide = tokens, not text.isascii()
        self.in_row = self.in_row + 1 if text.strip() == self.last else 1
        self.last = text.strip()
        self.chunks, self.tokens = self.chunks + 1, self.tokens + tokens

    @property
    def emitted(self) -> int:
        """Tokens that the server says are text: an end token is counted and never sent."""
        counted = self.final.get("eval_count") or 0
        return max(0, counted - (self.final.get("done_reason") == "stop"))

    @property
    def missing(self) -> int:
        """Tokens whose text never came by itself."""
        return max(0, self.emitted - self.tokens)


def told_of(asked: Asked, seen: Seen, before: Loaded | None, after: Loaded | None) -> Told:
    """The server's own durations in s and counts, and what forbids a claim, with the reason."""
    final = {name: value for name, value in seen.final.items() if value is not None}
    server = {name.replace("duration", "s"): final[name] / 1e9 for name in TIMES if name in final}
    server |= {name: float(final[name]) for name in COUNTS if name in final}
    server |= {"chunks": float(seen.chunks)}
    if seen.cut:
        why = f"the server ends an answer once a text has come {REPEATS} times in a row"
        came = f"{seen.tokens} of {asked.output_tokens} tokens came"
        return Told(server=server, flags=("short",), reason=f"{why}: {came}")
    faults = [
        *_counts(asked, seen, final),
        *_place(asked, after),
        *_reload(asked, final, before, after),
    ]
    if seen.busy:
        faults.append(("contaminated", f"the server turned the request away {seen.busy} times"))
    ended = "eos" if final.get("done_reason") == "stop" else None
    return Told(server=server, flags=tuple(dict.fromkeys(flag for flag, _ in faults)),
                reason="; ".join(reason for _, reason in faults), end_reason=ended)  # fmt: skip


def _counts(asked: Asked, seen: Seen, final: dict[str, Any]) -> Iterator[tuple[str, str]]:
    prompt = final.get("prompt_eval_count")
    if prompt != asked.prompt_tokens:
        yield "incorrect", f"the server read {prompt} tokens of a prompt of {asked.prompt_tokens}"
    if seen.emitted < asked.output_tokens:
        ended = final.get("done_reason")
        yield "short", f"{seen.emitted} of {asked.output_tokens} tokens came; its reason: {ended}"
    held_back = 3 * (seen.wide + 1)  # a character has at most 4 tokens; the last may be cut off
    if not seen.tokens <= seen.emitted <= min(asked.output_tokens, seen.tokens + held_back):
        yield "incorrect", (f"the server counted {seen.emitted} of {asked.output_tokens} tokens, "
                            f"and its text holds {seen.tokens}")  # fmt: skip
    if seen.first > 1 or (seen.first_wide and seen.missing):
        yield "merged", "the first piece held several tokens: when the first came is not known"


def _place(asked: Asked, after: Loaded | None) -> list[tuple[str, str]]:
    if after is None or after.size_vram == (after.size if asked.on_gpu else 0):
        return []
    share = f"{after.size_vram} of {after.size} bytes are on a GPU"
    return [("incorrect", f"{share}; {'all' if asked.on_gpu else 'none'} were asked for")]


def _reload(
    asked: Asked, final: dict[str, Any], before: Loaded | None, after: Loaded | None
) -> list[tuple[str, str]]:
    found = []
    seconds = final.get("load_duration", 0) / 1e9
    if seconds > max(RELOAD_S, RELOAD_TIMES * asked.usual_load_s):
        found.append(("reloaded", f"the model was loaded for {seconds:.3f} s in the answer"))
    if before != after:
        found.append(("reloaded", f"what holds the model changed: {before} became {after}"))
    return found
