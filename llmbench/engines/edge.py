"""Our own engine. Its `impl` is a decoder: `reference` in PyTorch, or `cpu` in C++ of our own."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from llmbench.engines.base import PREFILL_DONE
from llmbench.errors import BadParams, Refused
from llmbench.impls import OPTIONS_OF, impl_of
from llmbench.kernels.build import cpu_build
from llmbench.models.checksum import sha256_of
from llmbench.models.gguf_cache import ExportType, as_gguf
from llmbench.models.source import ModelSource
from llmbench.models.spec import Spec
from llmbench.record import Noun, Served


class EdgeOptions(Noun):
    """Which code serves, in which numbers. What an impl has not must not be asked of it."""

    impl: Literal["auto", "reference", "cpu"] = "auto"  # cpu on a CPU, reference on a GPU
    weights: ExportType | None = None  # of a folder, exported once to GGUF; none: as it is
    dtype: Literal["float32", "bfloat16", "float16"] | None = None  # reference; none: float32
    attention_impl: Literal["auto", "reference", "sdpa-math", "sdpa-flash", "skipped"] | None = (
        None  # reference; auto: sdpa-flash, or reference where that cannot serve the model
    )
    kv_type: Literal["auto", "f16", "f32"] | None = None  # cpu; auto: f32 for F32 weights, else f16
    isa: Literal["auto", "scalar", "avx2", "avx512_vnni", "avx512", "amx"] | None = (
        None  # cpu; auto: the best there is
    )


REFERENCE_NEEDS = ("torch", "safetensors")


class Decoder(Protocol):
    """What an impl is: a model, and one cache of keys and values."""

    spec: Spec

    def begin(self, rows: int, tokens: int) -> None: ...
    def greedy(self, ids: np.ndarray) -> np.ndarray: ...
    def logits(self, ids: np.ndarray, every: bool = False) -> np.ndarray: ...
    def synchronize(self) -> None: ...
    def served(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


class EdgeEngine:
    """A decoder of our own with a KV cache of exactly the tokens that are asked for."""

    name = "edge"
    capabilities = frozenset({"batch", "prefill_mark", "next_logprobs", "logprobs"})
    Options = EdgeOptions

    def imports(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """What the reference needs; our own library needs none."""
        return REFERENCE_NEEDS if impl_of(options) == "reference" else ()

    def load(self, model: ModelSource, options: dict[str, Any]) -> Served:
        """Load a folder or a file. Raises: OutOfMemory, Unsupported, Missing, BadParams."""
        impl = impl_of(options)
        device, threads = options.pop("device", "cpu"), options.pop("threads", 1)
        self.options = EdgeOptions(**options)
        _check_options(self.options, impl)
        model = as_gguf(model, self.options.weights)
        self.files = model.weight_files
        build = cpu_build() if impl == "cpu" else None  # the first time it takes seconds
        started = time.perf_counter()
        self.decoder = _decoder(impl, self.options, model, device, threads)
        load_s = time.perf_counter() - started
        file_sha256 = sha256_of(model.file) if model.file else None
        compile_s = build.seconds if build and not build.cached else None
        return Served(engine=self.name, impl=impl, load_s=load_s, compile_s=compile_s,
                      file_sha256=file_sha256, **self.decoder.served())  # fmt: skip

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], output_tokens: int
    ) -> Iterator[Sequence[int]]:
        """Greedy tokens (B,) a step; the prefill computes logits of the last position only.

        Raises: BadParams for rows of no or of different length, Refused for an unknown id.
        """
        ids = self._begin(prompt_ids, output_tokens)
        tokens = self.decoder.greedy(ids)
        self.synchronize()
        yield PREFILL_DONE
        for step in range(output_tokens):
            if step:
                tokens = self.decoder.greedy(tokens[:, None])
            yield tokens.tolist()

    def next_logprobs(self, ids: Sequence[int], top: int = 20) -> dict[int, float]:
        """The `top` most likely next tokens after `ids` and their natural log-probabilities.

        Raises: BadParams for a `top` that the vocabulary has not, Refused for an unknown id.
        """
        vocabulary = self.decoder.spec.vocab_size
        if not 1 <= top <= vocabulary:
            raise BadParams(f"engine edge: top={top}; must be 1 to the vocabulary's {vocabulary}")
        last = _log_softmax(self.decoder.logits(self._begin([ids], 0)))[0]
        best = np.argsort(-last, kind="stable")[:top]
        return {int(token): float(last[token]) for token in best}

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """(T, V) float32: natural log-probabilities of the token after each prefix of `ids`."""
        return _log_softmax(self.decoder.logits(self._begin([ids], 0), every=True)[0])

    def synchronize(self) -> None:
        """Return when all work given to the device is done."""
        self.decoder.synchronize()

    def close(self) -> None:
        """Release the model."""
        self.decoder.close()

    def _begin(self, prompt_ids: Sequence[Sequence[int]], output_tokens: int) -> np.ndarray:
        """Ids (B, T), and an empty cache with room for them and the output."""
        lengths = sorted({len(row) for row in prompt_ids})
        if not lengths or not lengths[0]:
            raise BadParams("engine edge: an empty prompt", how="at least one row of one token")
        if len(lengths) > 1:
            raise BadParams(f"engine edge: the rows of a batch have {lengths} tokens",
                            why="they are decoded together, without padding",
                            how="rows of one length, or one call a row")  # fmt: skip
        vocabulary = self.decoder.spec.vocab_size
        if any(not 0 <= token < vocabulary for row in prompt_ids for token in row):
            raise Refused(f"a prompt id lies outside the vocabulary of {vocabulary}")
        self.decoder.begin(len(prompt_ids), lengths[0] + output_tokens)
        return np.array(prompt_ids, np.int32)


def _check_options(options: EdgeOptions, impl: str) -> None:
    """Raises: BadParams when an option is set that is another impl's."""
    for other, own in OPTIONS_OF.items():
        for name in own:
            if other != impl and getattr(options, name) is not None:
                raise BadParams(f"engine edge: {name} is an option of impl {other}, not of {impl}",
                                how=f"impl: {other}, or leave {name} out")  # fmt: skip


def _decoder(
    impl: str, options: EdgeOptions, model: ModelSource, device: str, threads: int
) -> Decoder:
    if impl == "cpu":
        from llmbench.engines.edge_cpu import CpuDecoder

        return CpuDecoder(model, options.isa or "auto", options.kv_type or "auto", threads)
    from llmbench.engines.edge_reference import ReferenceDecoder

    return ReferenceDecoder(model, options.dtype or "float32", options.attention_impl or "auto",
                            device, threads)  # fmt: skip


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """(rows, V) natural log-probabilities in float32."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return (wide - np.log(np.exp(wide).sum(-1, keepdims=True))).astype(np.float32)
