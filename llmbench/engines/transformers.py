"""Hugging Face transformers as an engine: its own model code, driven by a plain greedy loop.

`generate()` adds logits processors and stopping rules around the same two calls; leaving them out
gives this engine its best case, and shows where the prefill ends.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from llmbench.engines.base import PREFILL_DONE
from llmbench.engines.memory_errors import memory_errors
from llmbench.errors import Missing, Refused, Unsupported
from llmbench.models.checksum import sha256_of
from llmbench.models.cost import kv_bytes_per_token
from llmbench.models.gguf_cache import ExportType, as_gguf
from llmbench.models.source import ModelSource
from llmbench.models.spec import spec_from_config
from llmbench.params import LAYERS
from llmbench.record import Noun, Served


class TransformersOptions(Noun):
    """How the model is loaded."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    weights: ExportType | None = None  # of a folder, exported once to GGUF; none: as it is
    attention_impl: Literal["sdpa", "eager"] = "sdpa"
    quantization: Literal["none", "int8", "nf4"] = "none"  # of the layers' linear weights


class TransformersEngine:
    """A causal language model of transformers with a dynamic KV cache."""

    name = "transformers"
    capabilities = frozenset({"batch", "prefill_mark", "next_logprobs", "logprobs"})
    Options = TransformersOptions

    def imports(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """torch and the classes of models."""
        return ("torch", "transformers.models.auto.modeling_auto")

    def load(self, model: ModelSource, options: dict[str, Any]) -> Served:
        """Load the weights of a folder or a GGUF file, which is dequantised.

        No code from the folder is run, nothing is downloaded. Raises: OutOfMemory, Unsupported,
        Missing, BadParams.
        """
        device, threads = options.pop("device", "cpu"), options.pop("threads", 1)
        self.options = TransformersOptions(**options)
        model = as_gguf(model, self.options.weights)
        if model.file and self.options.quantization != "none":
            raise Unsupported(f"engine transformers does not quantize a GGUF file to "
                              f"{self.options.quantization}: it is quantized already",
                              how="quantization: none, or the folder it was made of",
                              )  # fmt: skip
        self.files = model.weight_files
        started = time.perf_counter()
        with memory_errors():
            self._load(model, device, threads)
        classes = Counter(type(m).__name__ for m in self.model.modules() if _is_linear(m))
        weight_format = self._check_quantized(classes)
        self.vocab_size = self.model.config.vocab_size
        load_s = time.perf_counter() - started
        file_sha256 = sha256_of(model.file) if model.file else None
        return Served(
            engine=self.name, impl="eager", attention_impl=self.model.config._attn_implementation,
            weight_format=weight_format, weight_bytes=_stored_bytes(self.model),
            layer_classes=dict(sorted(classes.items())),
            kv_format=str(self.model.dtype).removeprefix("torch."),
            kv_bytes_per_token=kv_bytes_per_token(
                spec_from_config(model.config), self.model.dtype.itemsize
            ),
            threads=self.torch.get_num_threads(), device=self._device_name(),
            load_s=load_s,
            file_sha256=file_sha256,
            versions={name: version(name) for name in self._packages()},
        )  # fmt: skip

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], output_tokens: int
    ) -> Iterator[Sequence[int]]:
        """Greedy tokens (B,) a step; the prefill computes logits of the last position only."""
        from transformers import DynamicCache

        self._check(prompt_ids)
        with memory_errors(), self.torch.inference_mode():
            ids = self.torch.tensor(prompt_ids, device=self.device)
            cache = DynamicCache(config=self.model.config)
            logits = self._forward(ids, cache)
        self.synchronize()
        yield PREFILL_DONE
        for step in range(output_tokens):
            with memory_errors(), self.torch.inference_mode():
                if step:
                    logits = self._forward(ids, cache)
                ids = logits[:, -1].argmax(-1, keepdim=True)
                tokens = ids[:, 0].tolist()
            yield tokens

    def next_logprobs(self, ids: Sequence[int], top: int = 20) -> dict[int, float]:
        """The `top` most likely next tokens after `ids` and their natural log-probabilities."""
        best = self.torch.from_numpy(self.logprobs(ids)[-1]).topk(top)
        return dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """(T, V) float32: natural log-probabilities of the token after each prefix of `ids`."""
        self._check([ids])
        with memory_errors(), self.torch.inference_mode():
            logits = self.model(self.torch.tensor([ids], device=self.device)).logits[0]
            return logits.float().log_softmax(-1).cpu().numpy()

    def synchronize(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def close(self) -> None:
        """Drop the model; its memory is surely back only when the process ends."""
        self.model = None

    def _load(self, model: ModelSource, device: str, threads: int) -> None:
        import torch

        self.torch, self.device = torch, device
        if device == "cuda" and not torch.cuda.is_available():
            raise Unsupported("device cuda: torch finds no usable GPU here", how="llmbench doctor")
        torch.set_num_threads(threads)
        with _no_bars(), _named_attention(self.options.attention_impl):
            loaded = self._of_file(model) if model.file else self._of_folder(model)
        quantized = self.options.quantization != "none"  # such a model cannot be moved afterwards
        self.model = (loaded if quantized else loaded.to(device)).eval()

    def _of_folder(self, model: ModelSource) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(
            model.folder, dtype=getattr(self.torch, self.options.dtype), use_safetensors=True,
            attn_implementation=self.options.attention_impl, local_files_only=True,
            trust_remote_code=False, **self._quantized(self.device),
        )  # fmt: skip

    def _of_file(self, model: ModelSource) -> Any:
        from llmbench.engines.transformers_gguf import load_gguf

        return load_gguf(model, getattr(self.torch, self.options.dtype), self.device,
                         self.options.attention_impl)  # fmt: skip

    def _packages(self) -> list[str]:
        quantized = self.options.quantization != "none"
        return ["torch", "transformers", *["bitsandbytes"] * quantized]

    def _quantized(self, device: str) -> dict[str, Any]:
        """What transformers must be told to quantise while loading. Raises: Missing.

        nf4 with double quantisation, as `cost.FORMATS` counts it. Source: Dettmers et al., arXiv
        2208.07339 (int8) and 2305.14314 (nf4).
        """
        if self.options.quantization == "none":
            return {}
        from transformers import BitsAndBytesConfig

        if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
            raise Missing(
                f"quantization {self.options.quantization} needs bitsandbytes and accelerate",
                how="pip install 'llmbench[bnb]'",
            )
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of a cast at each call
        asked = {"load_in_8bit": True} if self.options.quantization == "int8" else {
            "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": getattr(self.torch, self.options.dtype)}  # fmt: skip
        return {"quantization_config": BitsAndBytesConfig(**asked), "device_map": device}

    def _check_quantized(self, classes: Counter) -> str:
        """The format of the weights as the layers' classes prove it. Raises: Unsupported."""
        asked = self.options.quantization
        if asked == "none":
            return str(self.model.dtype).removeprefix("torch.")
        wanted, head = LAYERS[asked], self.model.get_output_embeddings()
        plain = [name for name, m in self.model.named_modules()
                 if _is_linear(m) and type(m).__name__ != wanted and m is not head]  # fmt: skip
        if plain or not classes[wanted]:
            found = ", ".join(f"{n} {name}" for name, n in classes.items())
            some = f"; not quantized: {', '.join(plain[:3])}" if plain else ""
            raise Unsupported(f"quantization {asked} was asked for and not all layers have it",
                              why=f"linear layers by class: {found}{some}")  # fmt: skip
        return asked

    def _forward(self, ids: Any, cache: Any) -> Any:
        """Logits (B, 1, V) of the last position; `cache` grows by the new keys and values."""
        return self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits

    def _check(self, prompt_ids: Sequence[Sequence[int]]) -> None:
        highest = max(max(row) for row in prompt_ids)
        if highest >= self.vocab_size or min(min(row) for row in prompt_ids) < 0:
            raise Refused(f"a prompt id lies outside the vocabulary of {self.vocab_size}")

    def _device_name(self) -> str:
        return self.torch.cuda.get_device_name() if self.device == "cuda" else "cpu"


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' own progress bars, which would stand amid the text on a terminal."""
    from transformers.utils import logging as own

    shown = own.is_progress_bar_enabled()
    own.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            own.enable_progress_bar()


@contextmanager
def _named_attention(impl: str) -> Iterator[None]:
    """Raises: Unsupported when a family has no such attention, as Gemma 2 with its soft caps."""
    try:
        yield
    except ValueError as error:
        if "attention implementation" not in str(error):
            raise
        raise Unsupported(f"transformers has no attention {impl} for this model",
                          why=str(error).partition(". ")[0],
                          how="attention_impl: eager") from None  # fmt: skip


def _is_linear(module: Any) -> bool:
    return type(module).__name__.startswith("Linear")


def _stored_bytes(model: Any) -> int:
    """Bytes of every tensor that is held for the weights, scales included, a shared one once."""
    tensors = list(model.parameters())
    for parameter in model.parameters():
        tensors += _scales(getattr(parameter, "quant_state", None))
        scale = getattr(parameter, "SCB", None)
        tensors += [scale] if scale is not None else []
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def _scales(state: Any) -> list[Any]:
    """The tensors of a 4-bit weight's state: scales, and the scales of those."""
    if state is None:
        return []
    return [state.absmax, *_scales(getattr(state, "state2", None))]
