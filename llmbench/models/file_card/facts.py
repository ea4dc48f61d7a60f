"""What a header or a config.json says of a model's architecture, under the house's names.

Both are written by strangers: a number that is none, or that no model has, counts as not told.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbench.models.header import Header

Layered = int | tuple[int, ...] | None  # one number for all layers, or one a layer
MOST = 2**40  # no width, length or count of a model is larger
MOST_LAYERS = 100_000


@dataclass(frozen=True)
class Rope:
    """How positions are rotated into queries and keys."""

    dimension: int | None  # of a head's numbers, how many are rotated
    base: float | None
    scaling: str | None
    factor: float | None
    original_context: int | None  # tokens, before scaling


@dataclass(frozen=True)
class Vocabulary:
    """What the file says of its tokenizer."""

    kind: str | None  # as the file names it: "gpt2", "llama"
    pre_tokenizer: str | None
    tokens: int | None
    merges: int | None
    chat_template: bool


@dataclass(frozen=True)
class Facts:
    """Architecture numbers; None where the file does not tell."""

    architecture: str | None
    name: str | None
    n_layers: int | None
    n_heads: Layered
    n_kv_heads: Layered
    key_size: int | None  # a head
    value_size: int | None
    d_model: int | None
    d_ff: Layered
    d_ff_expert: int | None  # of one expert, where the file tells it apart
    vocab_size: int | None  # rows of the embedding, padding included
    n_experts: int | None
    n_experts_used: int | None  # a token
    sliding_window: int | None  # tokens
    trained_context: int | None  # tokens
    causal: bool
    recurrent: bool  # some layers or all keep a state in place of keys and values
    rope: Rope
    vocabulary: Vocabulary


def facts_from_header(header: Header) -> Facts:
    """What a GGUF header tells."""
    told, arch = header.metadata, header.metadata.get("general.architecture")
    at = _Told({k.removeprefix(f"{arch}."): v for k, v in told.items() if k.startswith(f"{arch}.")})
    n_heads, d_model = at.layered("attention.head_count"), at.whole("embedding_length")
    embedding = next((t.shape for t in header.tensors if t.name == "token_embd.weight"), ())
    size = _quotient(d_model, n_heads)
    return Facts(
        architecture=_text(arch),
        name=_text(told.get("general.name")) or _text(told.get("general.basename")),
        n_layers=_within(at.whole("block_count"), MOST_LAYERS),
        n_heads=n_heads,
        n_kv_heads=_or(at.layered("attention.head_count_kv"), n_heads),
        key_size=_or(at.whole("attention.key_length"), size),
        value_size=_or(at.whole("attention.value_length"), size),
        d_model=d_model,
        d_ff=at.layered("feed_forward_length"),
        d_ff_expert=at.whole("expert_feed_forward_length"),
        vocab_size=embedding[0] if len(embedding) == 2 else at.whole("vocab_size"),
        n_experts=at.whole("expert_count") or None,
        n_experts_used=at.whole("expert_used_count") or None,
        sliding_window=at.whole("attention.sliding_window") or None,
        trained_context=at.whole("context_length") or None,
        causal=at.get("attention.causal") is not False,
        recurrent=at.any("ssm.", "wkv.", "shortconv."),
        rope=Rope(
            dimension=at.whole("rope.dimension_count"),
            base=at.real("rope.freq_base"),
            scaling=_text(at.get("rope.scaling.type")),
            factor=at.real("rope.scaling.factor") or at.real("rope.scale_linear"),
            original_context=at.whole("rope.scaling.original_context_length"),
        ),
        vocabulary=_vocabulary(told),
    )


def _vocabulary(told: Mapping[str, Any]) -> Vocabulary:
    def length(key: str) -> int | None:
        found = told.get(f"tokenizer.ggml.{key}")
        return len(found) if hasattr(found, "__len__") and not isinstance(found, str) else None

    return Vocabulary(
        kind=_text(told.get("tokenizer.ggml.model")),
        pre_tokenizer=_text(told.get("tokenizer.ggml.pre")),
        tokens=length("tokens"),
        merges=length("merges"),
        chat_template="tokenizer.chat_template" in told,
    )


def facts_from_config(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> Facts:
    """What a Hugging Face config.json tells, and the tokenizer_config.json beside it.

    A text model inside a larger one speaks for it.
    """
    inner = config.get("text_config")
    at = _Told(inner if isinstance(inner, dict) else config)
    n_heads, d_model = at.layered("num_attention_heads"), at.whole("hidden_size")
    size = _or(at.whole("head_dim"), _quotient(d_model, n_heads))
    return Facts(
        architecture=_text(config.get("model_type")),
        name=_text(config.get("_name_or_path")) or None,
        n_layers=_within(at.whole("num_hidden_layers"), MOST_LAYERS),
        n_heads=n_heads,
        n_kv_heads=_or(at.layered("num_key_value_heads"), n_heads),
        key_size=size,
        value_size=size,
        d_model=d_model,
        d_ff=at.layered("intermediate_size"),
        d_ff_expert=at.whole("moe_intermediate_size"),
        vocab_size=at.whole("vocab_size"),
        n_experts=_or(at.whole("num_local_experts"), at.whole("num_experts")),
        n_experts_used=at.whole("num_experts_per_tok"),
        sliding_window=at.whole("sliding_window"),
        trained_context=at.whole("max_position_embeddings"),
        causal=True,
        recurrent=at.any("mamba_", "linear_num_", "ssm_"),
        rope=_config_rope(at, size),
        vocabulary=Vocabulary(
            kind=_text(tokenizer.get("tokenizer_class")),
            pre_tokenizer=None,
            tokens=None,
            merges=None,
            chat_template="chat_template" in tokenizer,
        ),
    )


def _config_rope(at: "_Told", size: int | None) -> Rope:
    """transformers before version 5 keeps base and scaling apart; from 5 on in one place."""
    scaling = next((found for key in ("rope_scaling", "rope_parameters")
                    if isinstance(found := at.get(key), dict)), {})  # fmt: skip
    told = _Told(scaling)
    share = at.real("partial_rotary_factor") or told.real("partial_rotary_factor") or 1.0
    kind = _text(told.get("rope_type")) or _text(told.get("type"))
    return Rope(
        dimension=None if size is None else round(size * min(share, 1.0)),
        base=told.real("rope_theta") or at.real("rope_theta"),
        scaling=None if kind == "default" else kind,
        factor=told.real("factor"),
        original_context=told.whole("original_max_position_embeddings"),
    )


class _Told:
    """Values by name, each taken only when it is of the kind that is asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def any(self, *starts: str) -> bool:
        """Whether the name of any value begins with one of `starts`."""
        return any(key.startswith(starts) for key in self._values)

    def whole(self, key: str) -> int | None:
        return _whole(self.get(key))

    def real(self, key: str) -> float | None:
        """A positive number, to the seven digits that 32 bits hold."""
        found = self.get(key)
        if type(found) not in (int, float) or not 0 < found < 1e30:
            return None
        return float(f"{found:.7g}")

    def layered(self, key: str) -> Layered:
        """One number, or one a layer; a list of equal numbers is one."""
        found = self.get(key)
        if not isinstance(found, tuple | list):
            return _whole(found)
        if not 0 < len(found) <= MOST_LAYERS or any(_whole(one) is None for one in found):
            return None
        return found[0] if len(set(found)) == 1 else tuple(found)


def _whole(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < MOST else None


def _within(value: int | None, most: int) -> int | None:
    return value if value is not None and value <= most else None


def _or(first: Any, second: Any) -> Any:
    return second if first is None else first


def _quotient(width: int | None, heads: Layered) -> int | None:
    most = max(heads) if isinstance(heads, tuple) else heads
    return width // most if width and most else None


def _text(value: Any) -> str | None:
    """A text as it may be shown: on one line, without what would steer a terminal."""
    if not isinstance(value, str) or not value:
        return None
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value[:201])
    return shown if len(shown) <= 200 else f"{shown[:199]}…"
