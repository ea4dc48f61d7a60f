"""`impl: reference` of edge: the plain PyTorch forward of `models.transformer`."""

from typing import Any

import numpy as np

from llmbench.engines.memory_errors import memory_errors
from llmbench.errors import Unsupported
from llmbench.models.cost import kv_bytes_per_token
from llmbench.models.source import ModelSource


class ReferenceDecoder:
    """A model in torch tensors, and at most one cache of keys and values."""

    def __init__(
        self, model: ModelSource, dtype: str, attention_impl: str, device: str, threads: int
    ) -> None:
        """Raises: Unsupported, Missing, BadParams, OutOfMemory."""
        import torch

        from llmbench.models.transformer import Transformer

        self.torch, self.device, self.dtype = torch, device, dtype
        if device == "cuda" and not torch.cuda.is_available():
            raise Unsupported("engine edge: no CUDA device here", how="device: cpu")
        torch.set_num_threads(threads)
        with memory_errors():
            weights = _weights(model, getattr(torch, dtype), device)
            self.model = Transformer(model.config, weights, attention_impl)
        self.spec = self.model.spec

    def begin(self, rows: int, tokens: int) -> None:
        """An empty cache with room for `tokens` in each of `rows`. Raises: OutOfMemory."""
        from llmbench.models.transformer import KVCache

        with memory_errors():
            self.cache = KVCache(self.spec, rows, tokens, self.model.embedding)

    def greedy(self, ids: np.ndarray) -> np.ndarray:
        """(B,) the likeliest token after ids (B, T), which go behind what the cache holds."""
        with memory_errors(), self.torch.inference_mode():
            return self._forward(ids).argmax(-1).cpu().numpy()

    def logits(self, ids: np.ndarray, every: bool = False) -> np.ndarray:
        """(B, V) float32 logits after the last of ids (B, T), or (B, T, V) after each."""
        with memory_errors(), self.torch.inference_mode():
            return self._forward(ids, not every).float().cpu().numpy()

    def synchronize(self) -> None:
        """Wait for the GPU; a CPU is done when the call returns."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def served(self) -> dict[str, Any]:
        """What the record says of it."""
        weights = {t.data_ptr(): t.numel() * t.element_size() for t in self.model.tensors()}
        itemsize = self.model.embedding.element_size()
        device = self.torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        return {
            "attention_impl": self.model.attention_impl, "weight_format": self.dtype,
            "weight_bytes": sum(weights.values()),
            "kv_format": self.dtype,  # the cache takes the embedding's
            "kv_bytes_per_token": kv_bytes_per_token(self.spec, itemsize),
            "threads": self.torch.get_num_threads(), "device": device,
            "versions": {"torch": self.torch.__version__},
        }  # fmt: skip

    def close(self) -> None:
        """Release the model."""
        self.model = self.cache = None

    def _forward(self, ids: np.ndarray, last_only: bool = True) -> Any:
        given = self.torch.tensor(ids, dtype=self.torch.long, device=self.device)
        return self.model.forward(given, self.cache, last_only)


def _weights(model: ModelSource, dtype: Any, device: str) -> Any:
    """Where the model's tensors come from: its file, or its folder."""
    if model.file:
        from llmbench.models.gguf_weights import GgufWeights

        return GgufWeights(model.header, model.config, dtype, device)
    from llmbench.models.weights import Weights

    return Weights(model.folder, dtype, device)
