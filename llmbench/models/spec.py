"""Architecture numbers of a decoder, from a config.json, a GGUF header or the catalog."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from llmbench.errors import Missing, Unsupported
from llmbench.models.header.parts import Header

FAMILIES = ("llama", "qwen2", "mistral", "mixtral", "phi3", "gemma2", "granite")
REQUIRED = ("n_layers", "n_heads", "n_kv_heads", "head_dim", "d_model", "d_ff", "vocab_size",
            "tied")  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """What cost and memory follow from. Shapes: d_model C, head_dim D, n_heads H, vocab_size V."""

    model_type: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_model: int
    d_ff: int  # of one expert where there are several
    vocab_size: int  # rows of the embedding, padding included
    tied: bool  # head and embedding are one matrix
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    n_experts: int = 1
    n_experts_used: int = 1  # per token
    trained_context: int | None = None  # tokens

    @property
    def norms_per_layer(self) -> int:
        """RMS norms of width d_model in a layer. Source: transformers' modelling code."""
        return 4 if self.model_type == "gemma2" else 2


def spec_from_config(config: Mapping[str, Any]) -> Spec:
    """The spec that a Hugging Face config.json describes.

    Raises: Unsupported for a family whose tensors these numbers do not describe, Missing when the
    file lacks a number.
    """
    kind = _family(config.get("model_type"))
    try:
        n_heads, d_model = config["num_attention_heads"], config["hidden_size"]
        return Spec(
            model_type=kind,
            n_layers=config["num_hidden_layers"],
            n_heads=n_heads,
            n_kv_heads=config.get("num_key_value_heads") or n_heads,
            head_dim=config.get("head_dim") or d_model // n_heads,
            d_model=d_model,
            d_ff=config["intermediate_size"],
            vocab_size=config["vocab_size"],
            tied=config.get("tie_word_embeddings", kind == "gemma2"),
            **_biases(kind, config),
            n_experts=config["num_local_experts"] if kind == "mixtral" else 1,
            n_experts_used=config["num_experts_per_tok"] if kind == "mixtral" else 1,
            trained_context=config.get("max_position_embeddings"),
        )
    except KeyError as error:
        raise Missing(f"models: config.json of a {kind} model has no {error.args[0]!r}") from None


def spec_from_header(header: Header) -> Spec:
    """The spec that a GGUF header describes; of what config.json says besides, its tensors tell.

    Raises: Unsupported for a family whose tensors these numbers do not describe, Missing when the
    header lacks a number or states one a layer.
    """
    kind, numbers = header.metadata.get("general.architecture"), _Numbers(header)
    routed = numbers.get("expert_count", 0) > 1
    kind = _family("mixtral" if kind == "llama" and routed else kind)
    stems = {info.name.removeprefix("blk.0.") for info in header.tensors}
    embedding = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    n_heads, d_model = numbers["attention.head_count"], numbers["embedding_length"]
    return Spec(
        model_type=kind,
        n_layers=numbers["block_count"],
        n_heads=n_heads,
        n_kv_heads=numbers.get("attention.head_count_kv", n_heads),
        head_dim=numbers.get("attention.key_length", d_model // n_heads),
        d_model=d_model,
        d_ff=numbers["feed_forward_length"],
        vocab_size=embedding.shape[0] if embedding else numbers["vocab_size"],
        tied="output.weight" not in stems,
        qkv_bias=bool(stems & {"attn_q.bias", "attn_qkv.bias"}),
        o_bias="attn_output.bias" in stems,
        mlp_bias="ffn_up.bias" in stems,
        n_experts=numbers["expert_count"] if routed else 1,
        n_experts_used=numbers["expert_used_count"] if routed else 1,
        trained_context=numbers.get("context_length"),
    )


class _Numbers:
    """The positive whole numbers under a header's architecture."""

    def __init__(self, header: Header) -> None:
        self._prefix = f"{header.metadata.get('general.architecture')}."
        self._metadata, self._path = header.metadata, header.path

    def get(self, key: str, default: Any = None) -> Any:
        return default if self._metadata.get(self._prefix + key, 0) == 0 else self[key]

    def __getitem__(self, key: str) -> int:
        found = self._metadata.get(self._prefix + key)
        if type(found) is not int or found < 1:
            raise Missing(f"models: {self._path} has no positive number {self._prefix + key}",
                          how="llmbench inspect shows what its header says")  # fmt: skip
        return found


def spec_from_catalog(name: str) -> Spec:
    """The spec of a model that the catalog names.

    Raises: BadParams for an unknown name, Unsupported for a family without this formula, Missing
    when the catalog does not know every number.
    """
    from llmbench import (
        catalog,
    )  # here, because the card of a file needs no catalog and starts fast

    entry = catalog.model(name)
    if entry.architecture is None:
        raise Unsupported(f"models: {entry.name} is not a transformer", why=entry.note or "")
    numbers = entry.architecture.model_dump(exclude_none=True)
    numbers["tied"] = numbers.pop("tie_word_embeddings", None)
    known = {f.name: numbers[f.name] for f in fields(Spec) if numbers.get(f.name) is not None}
    _family(known["model_type"], why=entry.note or "")
    absent = [name for name in REQUIRED if name not in known]
    if absent:
        raise Missing(
            f"models: the catalog does not know {', '.join(absent)} of {entry.name}",
            why=entry.note or "",
            how="give the folder of the model itself, whose config.json has them",
        )
    return Spec(**known)


def _family(kind: str | None, why: str = "") -> str:
    if kind not in FAMILIES:
        raise Unsupported(
            f"models: model_type {kind!r} is not one whose cost llmbench can compute",
            why=why,
            how=f"families with a tested formula: {', '.join(FAMILIES)}",
        )
    return kind


def _biases(kind: str, config: Mapping[str, Any]) -> dict[str, bool]:
    """Which linear layers have a bias. Source: transformers' modelling code of each family."""
    if kind == "qwen2":
        return {"qkv_bias": True}
    if kind in ("mistral", "mixtral", "phi3"):
        return {}
    attention = bool(config.get("attention_bias"))
    mlp = kind in ("llama", "granite") and bool(config.get("mlp_bias"))
    return {"qkv_bias": attention, "o_bias": attention, "mlp_bias": mlp}
