"""llama.cpp in this process, driven through its low-level API: one greedy token a step.

Its server, its sampler and its tokenizer are left out, and no prefix is kept between prompts: this
is its best case. Models come as GGUF files; folders are exported once and kept.

It wants a process without torch's 16-bit products: on processors with AMX both set up the same tile
registers of a thread, llama.cpp only once, and its next product is an illegal instruction then.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from llmbench.engines.base import PREFILL_DONE
from llmbench.errors import (
    BadParams,
    LlmbenchError,
    OutOfMemory,
    Refused,
    Unsupported,
)
from llmbench.models.checksum import sha256_of
from llmbench.models.gguf_cache import ExportType, file_of
from llmbench.models.header import read_header
from llmbench.models.llamacpp_library import (
    forget_log,
    kv_bytes_per_token,
    last_words,
    llamacpp,
    log_lines,
    logged,
    offloaded,
)
from llmbench.models.source import ModelSource
from llmbench.models.stored_as import PLAIN, stored_as
from llmbench.record import Noun, Served

WINDOW = 2048  # tokens, when nothing longer is asked
ALL_LAYERS = 9999
CACHE_BYTES = {"f16": 2, "f32": 4}
NO_MEMORY = ("failed to allocate", "unable to allocate", "out of memory", "bad_alloc")


class LlamaCppOptions(Noun):
    """llama.cpp's own settings. Its defaults are kept where it has one for the machine."""

    n_ctx: int | None = Field(None, ge=1, le=16_777_216)  # tokens; none: what is asked, or WINDOW
    n_batch: int = Field(512, ge=1, le=65_536)  # prompt tokens computed at once
    flash_attn: Literal["auto", "on", "off"] = "auto"
    kv_type: Literal["f16", "f32"] = "f16"
    n_gpu_layers: int | None = Field(None, ge=0)  # none: all on cuda, 0 on the CPU
    use_mmap: bool = True
    weights: ExportType | None = None  # of a folder, exported once; none: F32, which is exact
    allow_old: bool = False  # a version with a known hole


class LlamaCppEngine:
    """A GGUF model in llama.cpp, with its KV cache cleared before each prompt."""

    name = "llamacpp"
    capabilities = frozenset({"prefill_mark", "next_logprobs", "logprobs", "window"})
    Options = LlamaCppOptions

    def __init__(self) -> None:
        self.model = self.context = self.batch = None

    def imports(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """None: its library is looked for at `load`, so that its lack has a remedy."""
        return ()

    def load(self, model: ModelSource, options: dict[str, Any]) -> Served:
        """Load the model's GGUF file. Raises: Missing, OutOfMemory, Unsupported, BadParams."""
        self.device, self.threads = options.pop("device", "cpu"), options.pop("threads", 1)
        self.window = options.pop("window", 0)
        self.options = LlamaCppOptions(**options)
        self.lib = llamacpp(allow_old=self.options.allow_old)
        layers = self._layers_asked()
        file = file_of(model, self.options.weights)
        self.files = (file,)
        started = time.perf_counter()
        forget_log()
        self._load(file, layers)
        self._open_context(self._asked() or WINDOW)
        return self._served(file, time.perf_counter() - started)

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], output_tokens: int
    ) -> Iterator[Sequence[int]]:
        """Greedy tokens (1,) a step; the prefill computes logits of the last position only.

        Raises: Unsupported for several rows, Refused for an unknown id or more than `n_ctx` tokens,
        OutOfMemory.
        """
        if len(prompt_ids) != 1:
            raise Unsupported(f"engine llamacpp decodes one row at a time, not {len(prompt_ids)}")
        ids = list(prompt_ids[0])
        self._begin(ids, len(ids) + output_tokens)
        self._decode(ids, 0)
        self.synchronize()
        yield PREFILL_DONE
        for step in range(output_tokens):
            if step:
                self._decode([token], len(ids) + step - 1)  # noqa: F821 - of the step before
            token = int(self._logits(1)[0].argmax())
            yield [token]

    def next_logprobs(self, ids: Sequence[int], top: int = 20) -> dict[int, float]:
        """The `top` most likely next tokens after `ids` and their natural log-probabilities."""
        if not 1 <= top <= self.vocab_size:
            raise BadParams(f"engine llamacpp: top={top}; must be 1 to {self.vocab_size}")
        self._begin(ids, len(ids))
        self._decode(ids, 0)
        last = _log_softmax(self._logits(1))[0]
        best = np.argsort(-last, kind="stable")[:top]
        return {int(token): float(last[token]) for token in best}

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """(T, V) float32: natural log-probabilities of the token after each prefix of `ids`."""
        self._begin(ids, len(ids))
        parts = []
        for first in range(0, len(ids), self.options.n_batch):
            part = ids[first : first + self.options.n_batch]
            self._decode(part, first, every=True)
            parts.append(_log_softmax(self._logits(len(part))))
        return np.concatenate(parts)

    def synchronize(self) -> None:
        """Return when the GPU, if there is one, has done all it was given."""
        if self.context:
            self.lib.llama_synchronize(self.context)

    def close(self) -> None:
        """Release the model and its context."""
        for free, held in (("llama_batch_free", self.batch), ("llama_free", self.context),
                           ("llama_model_free", self.model)):  # fmt: skip
            if held is not None:
                getattr(self.lib, free)(held)
        self.model = self.context = self.batch = None
        self.tokens = self.places = self.wanted = None

    # -- loading -----------------------------------------------------------------------------------

    def _asked(self) -> int | None:
        """Tokens of the window that is asked for; None: none is."""
        return self.options.n_ctx or self.window or None

    def _layers_asked(self) -> int:
        """Layers to put on the GPU. Raises: Unsupported when this build or device has none."""
        asked = self.options.n_gpu_layers
        if self.device == "cpu":
            if asked:
                raise Unsupported(f"engine llamacpp: n_gpu_layers: {asked} on the device cpu",
                                  how="device: cuda")  # fmt: skip
            return 0
        if not self.lib.llama_supports_gpu_offload():
            raise Unsupported("engine llamacpp: this build of llama.cpp knows no GPU",
                              how="make llamacpp where nvcc is, or device: cpu")  # fmt: skip
        return ALL_LAYERS if asked is None else asked

    def _load(self, file: Path, layers: int) -> None:
        asked = self.lib.llama_model_default_params()
        asked.n_gpu_layers = layers
        mapped, read = self.lib.LLAMA_LOAD_MODE_MMAP, self.lib.LLAMA_LOAD_MODE_NONE
        asked.load_mode = mapped if self.options.use_mmap else read
        self.model = self.lib.llama_model_load_from_file(bytes(file), asked)
        if not self.model:
            self.model = None
            raise _failure(f"llama.cpp cannot load {file.name}")
        vocabulary = self.lib.llama_model_get_vocab(self.model)
        self.vocab_size = self.lib.llama_vocab_n_tokens(vocabulary)
        self._make_batch(self.options.n_batch)

    def _make_batch(self, room: int) -> None:
        """A batch of up to `room` tokens of sequence 0; its arrays are ours to fill."""
        self.batch = self.lib.llama_batch_init(room, 0, 1)
        for index in range(room):
            self.batch.n_seq_id[index], self.batch.seq_id[index][0] = 1, 0
        self.tokens, self.places, self.wanted = (
            np.ctypeslib.as_array(array, (room,))
            for array in (self.batch.token, self.batch.pos, self.batch.logits)
        )

    def _open_context(self, window: int) -> None:
        """A context with room for `window` tokens, in place of the one before."""
        if self.context:
            self.lib.llama_free(self.context)
        asked = self.lib.llama_context_default_params()
        asked.n_ctx, asked.n_batch, asked.n_ubatch = (window, self.options.n_batch,
                                                      self.options.n_batch)  # fmt: skip
        asked.n_threads = asked.n_threads_batch = self.threads
        asked.flash_attn_type = {"auto": -1, "off": 0, "on": 1}[self.options.flash_attn]
        kind = {"f32": self.lib.GGML_TYPE_F32, "f16": self.lib.GGML_TYPE_F16}
        asked.type_k = asked.type_v = kind[self.options.kv_type]
        asked.offload_kqv = asked.op_offload = self.device != "cpu"
        self.context = self.lib.llama_init_from_model(self.model, asked)
        if not self.context:
            self.context = None
            raise _failure(f"llama.cpp cannot open a context of {window} tokens")

    def _served(self, file: Path, load_s: float) -> Served:
        on_gpu, layers = offloaded(self.lib, self.model)
        build = self.lib.llama_print_system_info().decode().strip(" |")
        gpu = logged(r"using device (\S+ \(.*?\))") or self.device
        itemsize = CACHE_BYTES[self.options.kv_type]
        return Served(
            engine=self.name, impl="llama.cpp", attention_impl=self._attention(),
            weight_format=stored_as(read_header(file, texts=False)),
            weight_bytes=self.lib.llama_model_size(self.model),
            kv_format=PLAIN[self.options.kv_type.upper()],
            kv_bytes_per_token=kv_bytes_per_token(self.lib, self.model, itemsize),
            threads=self.threads, device=gpu if on_gpu else "cpu",
            load_s=load_s, file_sha256=sha256_of(file),
            build=f"{build} | offloaded {on_gpu}/{layers} layers",
            window=self.lib.llama_n_ctx(self.context) if self._asked() else None,
            versions={"llama_cpp_python": version("llama_cpp_python")},
        )  # fmt: skip

    def _attention(self) -> str:
        """`flash` or `plain`, as llama.cpp settled it."""
        if self.options.flash_attn != "auto":
            return {"on": "flash", "off": "plain"}[self.options.flash_attn]
        return "flash" if logged(r"(Flash Attention enabled)") else "plain"

    # -- running -----------------------------------------------------------------------------------

    def _begin(self, ids: Sequence[int], tokens: int) -> None:
        """An empty cache with room for `tokens`. Raises: BadParams, Refused, OutOfMemory."""
        if not len(ids):
            raise BadParams("engine llamacpp: an empty prompt", how="at least one token")
        if not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise Refused(f"a prompt id lies outside the vocabulary of {self.vocab_size}")
        if tokens > self.lib.llama_n_ctx(self.context):
            if self.options.n_ctx:
                raise Refused(f"{tokens} tokens do not fit n_ctx: {self.options.n_ctx}",
                              how="a larger n_ctx, or none: then it is what is asked")  # fmt: skip
            forget_log()
            self._open_context(tokens)
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), False)

    def _decode(self, ids: Sequence[int], place: int, every: bool = False) -> None:
        """Compute `ids` that stand from `place` on; logits of the last one, or of `every` one."""
        step = self.options.n_batch
        for first in range(0, len(ids), step):
            part = ids[first : first + step]
            self._fill(part, place + first, every, first + step >= len(ids))
            code = self.lib.llama_decode(self.context, self.batch)
            if code == -2:
                raise OutOfMemory("llama.cpp could not allocate", why=last_words())
            if code:
                raise LlmbenchError(f"llama.cpp cannot decode: code {code}", why=last_words())

    def _fill(self, ids: Sequence[int], place: int, every: bool, last: bool) -> None:
        """Put `ids` into the batch, to stand from `place` on; logits of every one, or the last."""
        count = self.batch.n_tokens = len(ids)
        self.tokens[:count] = ids
        self.places[:count] = np.arange(place, place + count)
        self.wanted[:count] = every
        self.wanted[count - 1] = every or last

    def _logits(self, rows: int) -> np.ndarray:
        """(rows, V) float32: the logits that the last decoding made, valid until the next."""
        return np.ctypeslib.as_array(self.lib.llama_get_logits(self.context),
                                     (rows, self.vocab_size))  # fmt: skip


def _failure(what: str) -> LlmbenchError:
    """OutOfMemory or Unsupported, by what llama.cpp logged."""
    words = last_words()
    if any(sign in "\n".join(log_lines()).lower() for sign in NO_MEMORY):
        return OutOfMemory(what, why=words)
    return Unsupported(what, why=words)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """(rows, V) natural log-probabilities in float32."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return (wide - np.log(np.exp(wide).sum(-1, keepdims=True))).astype(np.float32)
