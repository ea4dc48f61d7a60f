"""Our own engine. `impl: reference` is the plain PyTorch forward of `models.transformer`."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from llmbench.engines.base import PREFILL_DONE
from llmbench.engines.memory_errors import memory_errors
from llmbench.errors import BadParams, Refused, Unsupported
from llmbench.models.checksum import sha256_of
from llmbench.models.cost import kv_bytes_per_token
from llmbench.models.gguf_cache import ExportType, as_gguf
from llmbench.models.source import ModelSource
from llmbench.record import Noun, Served


class EdgeOptions(Noun):
    """Which code serves, in which numbers."""

    impl: Literal["reference"] = "reference"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    weights: ExportType | None = None  # of a folder, exported once to GGUF; none: as it is
    attention_impl: Literal["auto", "reference", "sdpa-math", "sdpa-flash", "skipped"] = (
        "auto"  # sdpa-flash, or reference where that cannot serve the model; Served tells which
    )


class EdgeEngine:
    """A decoder of our own with a KV cache of exactly the tokens that are asked for."""

    name = "edge"
    capabilities = frozenset({"batch", "prefill_mark", "next_logprobs", "logprobs"})
    imports = ("torch", "safetensors")
    Options = EdgeOptions

    def load(self, model: ModelSource, options: dict[str, Any]) -> Served:
        """Load a folder or a file. Raises: OutOfMemory, Unsupported, Missing, BadParams."""
        self.device, threads = options.pop("device", "cpu"), options.pop("threads", 1)
        self.options = EdgeOptions(**options)
        model = as_gguf(model, self.options.weights)
        self.files = model.weight_files
        started = time.perf_counter()
        with memory_errors():
            self._load(model, threads)
        weights = {t.data_ptr(): t.numel() * t.element_size() for t in self.model.tensors()}
        itemsize = self.model.embedding.element_size()
        load_s = time.perf_counter() - started
        file_sha256 = sha256_of(model.file) if model.file else None
        return Served(
            engine=self.name, impl=self.options.impl, attention_impl=self.model.attention_impl,
            weight_format=self.options.dtype, weight_bytes=sum(weights.values()),
            kv_format=self.options.dtype,  # the cache takes the embedding's
            kv_bytes_per_token=kv_bytes_per_token(self.model.spec, itemsize),
            threads=self.torch.get_num_threads(), device=self._device_name(),
            load_s=load_s, file_sha256=file_sha256,
            versions={"torch": self.torch.__version__},
        )  # fmt: skip

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], output_tokens: int
    ) -> Iterator[Sequence[int]]:
        """Greedy tokens (B,) a step; the prefill computes logits of the last position only.

        Raises: BadParams for rows of no or of different length, Refused for an unknown id.
        """
        ids, cache = self._begin(prompt_ids, output_tokens)
        with memory_errors(), self.torch.inference_mode():
            logits = self.model.forward(ids, cache)
        self.synchronize()
        yield PREFILL_DONE
        for step in range(output_tokens):
            with memory_errors(), self.torch.inference_mode():
                if step:
                    logits = self.model.forward(ids, cache)
                ids = logits.argmax(-1, keepdim=True)
                tokens = ids[:, 0].tolist()
            yield tokens

    def next_logprobs(self, ids: Sequence[int], top: int = 20) -> dict[int, float]:
        """The `top` most likely next tokens after `ids` and their natural log-probabilities.

        Raises: BadParams for a `top` that the vocabulary has not, Refused for an unknown id.
        """
        vocabulary = self.model.spec.vocab_size
        if not 1 <= top <= vocabulary:
            raise BadParams(f"engine edge: top={top}; must be 1 to the vocabulary's {vocabulary}")
        with memory_errors(), self.torch.inference_mode():
            best = self.model.forward(*self._begin([ids], 0)).float().log_softmax(-1)[0].topk(top)
        return dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """(T, V) float32: natural log-probabilities of the token after each prefix of `ids`."""
        with memory_errors(), self.torch.inference_mode():
            logits = self.model.forward(*self._begin([ids], 0), last_only=False)
            return logits[0].float().log_softmax(-1).cpu().numpy()

    def synchronize(self) -> None:
        """Wait for the GPU; a CPU is done when the call returns."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def close(self) -> None:
        """Release the model."""
        self.model = None

    def _load(self, model: ModelSource, threads: int) -> None:
        import torch

        from llmbench.models.transformer import Transformer

        self.torch = torch
        if self.device == "cuda" and not torch.cuda.is_available():
            raise Unsupported("engine edge: no CUDA device here", how="device: cpu")
        torch.set_num_threads(threads)
        dtype = getattr(torch, self.options.dtype)
        weights = _weights(model, dtype, self.device)
        self.model = Transformer(model.config, weights, self.options.attention_impl)

    def _begin(self, prompt_ids: Sequence[Sequence[int]], output_tokens: int) -> tuple[Any, Any]:
        """Ids as a tensor (B, T) and an empty cache with room for them and the output."""
        from llmbench.models.transformer import KVCache

        lengths = sorted({len(row) for row in prompt_ids})
        if not lengths or not lengths[0]:
            raise BadParams("engine edge: an empty prompt", how="at least one row of one token")
        if len(lengths) > 1:
            raise BadParams(f"engine edge: the rows of a batch have {lengths} tokens",
                            why="they are decoded together, without padding",
                            how="rows of one length, or one call a row")  # fmt: skip
        vocabulary = self.model.spec.vocab_size
        if any(not 0 <= token < vocabulary for row in prompt_ids for token in row):
            raise Refused(f"a prompt id lies outside the vocabulary of {vocabulary}")
        with memory_errors():
            ids = self.torch.tensor(prompt_ids, device=self.device)
            room = ids.shape[1] + output_tokens
            return ids, KVCache(self.model.spec, len(prompt_ids), room, self.model.embedding)

    def _device_name(self) -> str:
        return self.torch.cuda.get_device_name() if self.device == "cuda" else "cpu"


def _weights(model: ModelSource, dtype: Any, device: str) -> Any:
    """Where the model's tensors come from: its file, or its folder."""
    if model.file:
        from llmbench.models.gguf_weights import GgufWeights

        return GgufWeights(model.header, model.config, dtype, device)
    from llmbench.models.weights import Weights

    return Weights(model.folder, dtype, device)
