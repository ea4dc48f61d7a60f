"""Ollama as an engine: raw prompts to a server, one streamed line a token.

The server keeps the last prompt's cache and cannot be told not to, so before each prompt another
one, of another first token, takes its place: a prompt given twice is read twice.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from llmbench.engines.base import Told
from llmbench.engines.ollama_checks import REPEATS, Asked, Loaded, Seen, told_of
from llmbench.engines.ollama_models import make
from llmbench.engines.ollama_server import Server, host_from_environment, open_server
from llmbench.engines.ollama_text import UNKNOWN, Texts
from llmbench.engines.ollama_wire import Deadlines, Wire
from llmbench.errors import BadParams, EngineLost, Refused, Unsupported
from llmbench.models.checksum import sha256_of
from llmbench.models.file_card import Card, file_card
from llmbench.models.gguf_cache import ExportType, file_of
from llmbench.models.header import read_header
from llmbench.models.source import ModelSource
from llmbench.models.stored_as import stored_as
from llmbench.record import Noun, Served

TOP = 20  # log-probabilities that the server tells at most
GREEDY = {"temperature": 0.0, "seed": 1, "top_k": 1, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0,
          "repeat_penalty": 1.0, "repeat_last_n": 0, "presence_penalty": 0.0,
          "frequency_penalty": 0.0, "stop": []}  # fmt: skip
HOT = {"temperature": 1e3, "top_k": 0}  # any token may follow: the table is of raw logits anyway
ALL_LAYERS, WINDOW = 999, 4096
FLASH = {"auto": {}, "on": {"OLLAMA_FLASH_ATTENTION": "1"}, "off": {"OLLAMA_FLASH_ATTENTION": "0"}}


class OllamaOptions(Noun):
    """How the model is served, and by whom. Empty `host`: OLLAMA_HOST, else a server of our own."""

    weights: ExportType | None = None  # of a folder, exported once; none: F32
    num_ctx: int = Field(0, ge=0)  # the window; 0: what the model was trained for, at most 4096
    num_batch: int = Field(512, ge=1)
    flash_attn: Literal["auto", "on", "off"] = "auto"  # of a server of our own
    host: str = ""
    allow_remote: str = ""  # the one name that may be used though it is not this machine
    allow_old: bool = False  # a version with a known hole
    deadlines: Deadlines = Deadlines()


class OllamaEngine:
    """A model in a server that ends with this engine, or in one that was there before."""

    name = "ollama"
    capabilities = frozenset({"next_logprobs", "server", "window"})
    Options = OllamaOptions
    server: Server | None = None
    _wire: Wire | None = None

    def imports(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The client."""
        return ("ollama",)

    def load(self, model: ModelSource, options: dict[str, Any]) -> Served:
        """Have a server load the model's GGUF file.

        Raises: Missing, Unsupported, BadParams, OutOfMemory, EngineLost, Refused.
        """
        device, threads = options.pop("device", "cpu"), options.pop("threads", 1)
        self.window = options.pop("window", 0)
        self.options = OllamaOptions(**options)
        file = file_of(model, self.options.weights)
        card = file_card(file)  # before any native parser sees the file
        self.server = open_server(
            self.options.host or host_from_environment(), allow_old=self.options.allow_old,
            allow_remote=self.options.allow_remote, tuning=FLASH[self.options.flash_attn],
        )  # fmt: skip
        try:
            load_s = self._load(model, card, threads, on_gpu=device == "cuda")
        except BaseException:
            self.close()
            raise
        return self._served(card, load_s)

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], output_tokens: int
    ) -> Iterator[Sequence[int]]:
        """One greedy token (1,) a step. Raises: Refused, BadParams, EngineLost, OutOfMemory."""
        if len(prompt_ids) != 1:
            raise Unsupported(f"engine ollama decodes one row at a time, not {len(prompt_ids)}")
        [ids] = prompt_ids
        text, expected = self.texts.prompt(ids), self.texts.expected(ids)
        window = self._settings["num_ctx"]
        if expected + output_tokens > window:
            raise Refused(
                f"engine ollama: {expected} + {output_tokens} tokens exceed the window of {window}",
                how="engine_options: {ollama: {num_ctx: N}}",
            )
        self._told = None
        self._wire.connect()
        self._empty_cache(ids[0])
        self._asked = Asked(expected, output_tokens, self._on_gpu, self._usual_load_s)
        self._seen = Seen()
        return self._tokens(self._body(text, output_tokens))

    def next_logprobs(self, ids: Sequence[int], top: int = TOP) -> dict[int, float]:
        """The `top` most likely next tokens after `ids` and their natural log-probabilities.

        Tokens that are no whole character cannot be told apart in the answer, and are left out.
        Raises: BadParams for a `top` above the server's limit of 20.
        """
        if not 1 <= top <= TOP:
            raise BadParams(f"engine ollama: top={top}; the server tells 1 to {TOP}")
        body = self._body(self.texts.prompt(ids), 1) | {"logprobs": True, "top_logprobs": top}
        for number, hot in enumerate([{}, *[HOT] * 4]):  # it tells none when its token is an end
            body["options"] = body["options"] | hot | {"seed": number + 1}
            told = [line["logprobs"] for line in self._wire.lines("/api/generate", body)
                    if line.get("logprobs")]  # fmt: skip
            if told:
                found = [(self.texts.known.get(t["token"]), t["logprob"])
                         for t in told[0][0]["top_logprobs"]]  # fmt: skip
                return {token: value for token, value in found if token is not None}
        return {}

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """Not told by a server. Raises: Unsupported."""
        raise Unsupported("engine ollama tells the likeliest tokens only: next_logprobs")

    def told(self) -> Told:
        """Durations and counts of the server for the last stream, and what forbids a claim."""
        if self._told is None:
            after = self._loaded()
            self._told = told_of(self._asked, self._seen, self._before, after)
            self._before = after
        return self._told

    def pids(self) -> list[int]:
        """The server and its runner, as far as this user may see them."""
        return self.server.pids() if self.server else []

    def synchronize(self) -> None:
        """A stream that has ended leaves nothing to wait for."""

    def close(self) -> None:
        """End our own server; another's keeps the model that was made in it."""
        if self._wire:
            self._wire.close()
        if self.server:
            self.server.close()
        self.server = self._wire = None

    def _load(self, model: ModelSource, card: Card, threads: int, *, on_gpu: bool) -> float:
        """Seconds that the server took to have the model in memory."""
        server, trained = self.server, card.facts.trained_context or WINDOW
        self._wire = Wire(server.host, server.port, self.options.deadlines, server.last_words)
        sha256 = model.sha256 if model.file else sha256_of(card.file)
        self.made = make(server, card.file, sha256)
        self._model, self._on_gpu = self.made.name, on_gpu
        self.files = (self.made.blob,) if self.made.blob else ()
        self._settings = GREEDY | {
            "num_ctx": self.options.num_ctx or self.window or min(trained, WINDOW),
            "num_batch": self.options.num_batch, "num_thread": threads,
            "num_gpu": ALL_LAYERS * on_gpu,
        }  # fmt: skip
        started = time.perf_counter()
        self._final(self._body("", 1))
        load_s = time.perf_counter() - started
        tokenizer = model.tokenizer
        self._fillers = [(i, tokenizer.decode([i])) for i in tokenizer.plain_ids[:2]]
        self._usual_load_s = math.inf
        self.texts = Texts(tokenizer, self._learn_bos(card.file, tokenizer.bos))
        self._before = self._loaded()
        self._check_window()
        return load_s

    def _served(self, card: Card, load_s: float) -> Served:
        """What serves, as the server, its log and the file's header tell."""
        header = read_header(card.file, texts=False)
        own = self.server.log is not None
        return Served(
            engine=self.name, impl="own server" if own else self.server.address,
            attention_impl=self.server.attention_impl, build=self.server.build,
            weight_format=stored_as(header), weight_bytes=card.weight_bytes,
            file_sha256=self.made.sha256,
            kv_format="float16" if own else None,
            kv_bytes_per_token=card.kv_bytes_per_token if own else None,  # ours keeps it in F16
            layer_classes={f"{row.tensor_class} {row.kind}": row.tensors for row in card.tensors},
            threads=self._settings["num_thread"],
            device="cuda" if self._on_gpu else "cpu", load_s=load_s, window=self._before.window,
            versions={"ollama": self.server.version, "ollama-python": version("ollama")},
        )  # fmt: skip

    def _learn_bos(self, file: Path, wanted: int | None) -> int | None:
        """The token that the server puts before each text, if it does: it counts one more then.

        Raises: Unsupported when that is not what the model wants, or its count differs otherwise.
        """
        counted = self._empty_cache(None)
        if counted not in (1, 2):
            raise Unsupported(
                f"engine ollama: the server reads {counted} tokens where the tokenizer has one",
                why="its tokenizer and the model's are not the same",
            )
        told = read_header(file, texts=False).metadata.get("tokenizer.ggml.bos_token_id")
        begins = told if counted == 2 else None
        if begins != wanted:
            raise Unsupported(
                "engine ollama: the server begins every text otherwise than the model's tokenizer",
                why=f"it puts token {begins} first, where the model's file says {wanted}",
            )
        return begins

    def _empty_cache(self, first: int | None) -> int:
        """Put a word other than `first` in the cache's place; how many tokens the server read."""
        text = next(text for token, text in self._fillers if token != first)
        final = self._final(self._body(text, 1))
        self._usual_load_s = min(self._usual_load_s, final.get("load_duration", 0) / 1e9)
        return final.get("prompt_eval_count", 0)

    def _final(self, body: dict[str, Any]) -> dict[str, Any]:
        """The last line of an answer."""
        *_, final = self._wire.lines("/api/generate", body)
        return final

    def _body(self, text: str, output_tokens: int) -> dict[str, Any]:
        """A request for `output_tokens` greedy tokens after `text`; no text: load the model."""
        return {"model": self._model, "prompt": text, "raw": bool(text), "stream": True,
                "keep_alive": -1, "truncate": False, "shift": False,
                "options": self._settings | {"num_predict": output_tokens}}  # fmt: skip

    def _tokens(self, body: dict[str, Any]) -> Iterator[Sequence[int]]:
        """The tokens of one answer as they come, and -1 for those whose text never came."""
        seen, left = self._seen, self._asked.output_tokens
        try:
            for line in self._wire.lines("/api/generate", body):
                if text := line.get("response"):
                    tokens = self.texts.ids(text)[:left]
                    left -= len(tokens)
                    seen.add(text, len(tokens))
                    for token in tokens:
                        yield [token]
                seen.final = line
        except EngineLost:
            if seen.in_row < REPEATS:
                raise
            seen.cut = True
        seen.busy = self._wire.busy
        yield from [[UNKNOWN]] * min(seen.missing, left)

    def _loaded(self) -> Loaded | None:
        """What holds our model now; None when the server does not hold it."""
        runners = tuple(self.server.pids()[1:])
        for model in self._wire.get("/api/ps").get("models") or []:
            if model.get("model") == f"{self._model}:latest":
                return Loaded(model.get("size", 0), model.get("size_vram", 0),
                              model.get("context_length"), runners)  # fmt: skip
        return None

    def _check_window(self) -> None:
        """Raises: EngineLost when the model is not loaded, Refused when its window is another."""
        asked = self._settings["num_ctx"]
        if self._before is None:
            raise EngineLost("engine ollama: the server loaded the model and holds it no more")
        if self._before.window not in (None, asked):
            raise Refused(f"engine ollama: the server made a window of {self._before.window} tokens"
                          f" where {asked} were asked", why="the model was trained for no more",
                          how="a smaller num_ctx")  # fmt: skip
