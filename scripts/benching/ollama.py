"""What our client adds to the times that an Ollama server tells of itself.

The server's durations leave out what it does between them (its HTTP, its hop to the runner and
back: about 1 ms before the first token and 35 µs a token where a token takes 0.6 ms). A bare socket
that sends the same request and parses nothing meets that too, so it is the baseline: what we have
more than it is our own.
"""

import json
import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

from llmbench.engines.ollama import OllamaEngine
from llmbench.models.source import find_model
from llmbench.profilers.clock import MonotonicClock
from llmbench.timing import time_repeat

MODEL, TOKENS, ANSWERS = "builtin:tiny", 30, 25  # answers a round; of 31 equal tokens it ends one
WARMUPS = 10
WORDS = "read the path of a file that was opened before it is closed and return its first line"
TPOT_AT_150 = 1 / 150  # s; what a token takes at the rate that the target names
FIRST, TOKEN, WHOLE = "first", "token", "whole"


@dataclass(frozen=True)
class Answer:
    """Seconds from the request on our clock, and the server's own durations in seconds."""

    first_s: float
    last_s: float
    end_s: float
    server: dict[str, float]

    def past(self, what: str) -> float:
        """Seconds beyond the server's clock: of the first token, of each later one, of it all."""
        told = self.server
        if what == FIRST:
            return self.first_s - told["load_s"] - told["prompt_eval_s"]
        if what == TOKEN:
            return (self.last_s - self.first_s - told["eval_s"]) / (TOKENS - 1)
        return self.end_s - told["total_s"]


def lines(stack: ExitStack) -> list[dict[str, Any]]:
    """The table's lines. Raises: Missing when no server is installed here."""
    engine, source = OllamaEngine(), find_model(MODEL)
    engine.load(source, {"threads": 1})
    stack.callback(engine.close)
    prompts = Prompts(source.tokenizer.encode)
    for _ in range(WARMUPS):
        ours(engine, prompts())
        bare(engine, prompts())

    def line(what: str, told: str, **bars: float) -> dict[str, Any]:
        return {"what": f"ollama client, {told}", "baseline": "a bare socket",
                "run": rounds(ours, engine, prompts, what),
                "base": rounds(bare, engine, prompts, what)} | bars  # fmt: skip

    return [
        line(FIRST, "first token past load + prompt_eval", bar_added_s=1e-3),
        line(TOKEN, "a token past eval; bar: 2 % at 150 tok/s", bar_s=0.02 * TPOT_AT_150),
        line(WHOLE, "an answer past total", bar_s=1e-3),
    ]


class Prompts:
    """Prompts of the same words, each in an order of its own, so that none is in a cache."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode, self._order = encode, random.Random(17)

    def __call__(self) -> list[int]:
        words = WORDS.split()
        return self._encode(" ".join(self._order.sample(words, len(words))))


def rounds(
    ask: Callable[[OllamaEngine, Sequence[int]], Answer], engine: OllamaEngine, prompts: Prompts,
    what: str,
) -> Callable[[], dict[str, float]]:  # fmt: skip
    """A round to time: the median over its answers."""
    return lambda: {"s": median(ask(engine, prompts()).past(what) for _ in range(ANSWERS))}


def ours(engine: OllamaEngine, ids: Sequence[int]) -> Answer:
    """An answer as `measure` times it."""
    raw, _ = time_repeat(engine, [ids], TOKENS, clock=MonotonicClock())
    return Answer(raw.step_ns[0] / 1e9, raw.step_ns[-1] / 1e9, raw.end_ns / 1e9, raw.server)


def bare(engine: OllamaEngine, ids: Sequence[int]) -> Answer:
    """The same request by a socket: the clock is read when bytes come, all else is done later."""
    engine._empty_cache(ids[0])  # as before each of ours
    body = json.dumps(engine._body(engine.texts.prompt(ids), TOKENS)).encode()
    host, port = engine.server.host, engine.server.port
    head = (f"POST /api/generate HTTP/1.0\r\nHost: {host}:{port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")  # fmt: skip
    came = []
    with socket.create_connection((host, port)) as wire:
        started = time.perf_counter()
        wire.sendall(head.encode() + body)
        while data := wire.recv(1 << 16):
            came.append((time.perf_counter() - started, data))
    told = json.loads(b"".join(data for _, data in came).splitlines()[-1])
    server = {name.replace("duration", "s"): value / 1e9 for name, value in told.items()
              if name.endswith("_duration")}  # fmt: skip
    text = [at for at, data in came if b'"done":false' in data]
    return Answer(text[0], text[-1], came[-1][0], server)
