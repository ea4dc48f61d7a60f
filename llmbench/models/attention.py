"""Attention, and what shapes it: q (B, H, T, D), k and v (B, H, S, D) → (B, H, T, D).

The T last of the S keys are the queries' own. `Scores` says what a layer does between q·k and the
softmax. Source: Vaswani et al., arXiv 1706.03762, equation 1; sliding windows: Beltagy et al.,
Longformer, arXiv 2004.05150; soft caps: Gemma 2, arXiv 2408.00118, section 2.
"""

import math
from collections.abc import Callable
from typing import Any

from llmbench.errors import Unsupported
from llmbench.models.families import Scores

Attend = Callable[[Any, Any, Any, Scores], Any]


def attend_reference(q: Any, k: Any, v: Any, scores: Scores) -> Any:
    """softmax(mask(cap(q kᵀ · scale))) v, the softmax in float32."""
    raw = (q @ k.transpose(2, 3)).float() * scores.scale  # (B, H, T, S)
    if scores.cap:
        raw = scores.cap * (raw / scores.cap).tanh()
    seen = visible(q.shape[2], k.shape[2], scores.window, q.device)
    return raw.masked_fill(~seen, -math.inf).softmax(-1).to(v.dtype) @ v


def visible(new: int, seen: int, window: int | None, device: Any) -> Any:
    """(T, S) bool: which keys each query sees, itself and those before it within the window."""
    import torch

    all_keys = torch.ones(new, seen, dtype=torch.bool, device=device)
    mask = all_keys.tril(seen - new)
    return mask.triu(seen - new - window + 1) if window else mask


def attend_sdpa(backend: str) -> Attend:
    """PyTorch's scaled_dot_product_attention, held to one of its backends: MATH, FLASH_ATTENTION.

    Raises (when it runs): RuntimeError when this backend cannot serve; none other steps in.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def attend(q: Any, k: Any, v: Any, scores: Scores) -> Any:
        """(B, H, T, D) queries over (B, H, S, D) keys and values: T new positions of S."""
        new, seen = q.shape[2], k.shape[2]
        if new not in (1, seen):
            raise Unsupported("attention of several new tokens behind a filled cache is not needed")
        narrow = scores.window is not None and seen > scores.window
        mask = visible(new, seen, scores.window, q.device) if narrow else None
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return scaled_dot_product_attention(
                q, k, v, mask, is_causal=new > 1 and not narrow, scale=scores.scale
            )

    return attend


def attend_skipped(q: Any, k: Any, v: Any, scores: Scores) -> Any:
    """Each position's own value: no scores, no softmax. An ablation; its output is no model's."""
    return v[:, :, -q.shape[2] :]


def chosen(impl: str, scores: tuple[Scores, ...], like: Any) -> str:
    """`impl` itself; for "auto" sdpa-flash, or reference where sdpa-flash cannot serve the model.

    `like` is a tensor of the model: on a GPU sdpa-flash needs 16 bits and compute capability 8.0.
    Source: Dao, FlashAttention-2, arXiv 2307.08691, and the requirements of its code (Ampere on).
    """
    if impl != "auto":
        return impl
    import torch

    on_gpu = like.device.type == "cuda"
    old = on_gpu and (torch.cuda.get_device_capability(like.device) < (8, 0) or like.itemsize != 2)
    asks = any(layer.cap or (on_gpu and layer.window) for layer in scores)
    return "reference" if old or asks else "sdpa-flash"


def attention(impl: str, scores: tuple[Scores, ...], device: str) -> Attend:
    """The attention called `impl`. Raises: Unsupported when it cannot do what a layer asks for."""
    if not impl.startswith("sdpa-"):
        return {"reference": attend_reference, "skipped": attend_skipped}[impl]
    if any(layer.cap for layer in scores):
        raise Unsupported(f"attention_impl {impl} has no soft cap, and this model needs one",
                          how="attention_impl: auto, or reference")  # fmt: skip
    if impl == "sdpa-flash" and device == "cuda" and any(layer.window for layer in scores):
        raise Unsupported(f"attention_impl {impl} has no sliding window on a GPU, and this model "
                          "needs one", how="attention_impl: auto or sdpa-math")  # fmt: skip
    return attend_sdpa({"sdpa-math": "MATH", "sdpa-flash": "FLASH_ATTENTION"}[impl])
