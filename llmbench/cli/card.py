"""A weight file's card as people read it: what it is, how it is stored, what it will need."""

from collections.abc import Iterator
from typing import Any

import click

from llmbench.cli.show import table
from llmbench.models.file_card import PAGE_RULE, Card
from llmbench.units import nbytes, significant

NONE, KV = "—", "KV cache in F16"
TOKENIZERS = {"gpt2": "byte-level BPE", "llama": "SentencePiece BPE", "bert": "WordPiece",
              "t5": "Unigram", "rwkv": "RWKV trie"}  # fmt: skip


def show(card: Card) -> None:
    """The card on stdout: a title, a line a fact, a table of weights and one of memory."""
    click.echo(click.style(card.facts.name or card.file.name, bold=True))
    click.echo(click.style(f"{card.file}", dim=True))
    click.echo()
    lines = dict(_lines(card))
    width = max(map(len, lines)) + 2
    for name, value in lines.items():
        click.echo(click.style(f"{name:<{width}}", dim=True) + value)
    if card.tensors:
        click.echo()
        table(list(_weights(card)), right=("tensors", "values", "size", "share"))
    if card.memory:
        click.echo()
        table(list(_memory(card)), right=("context", "weights", KV, "together"))
        click.echo(click.style("the engine's own buffers come on top", dim=True))
    for note in card.notes:
        click.echo(click.style("note  ", fg="yellow") + note)
    if card.not_known:
        click.echo(click.style("not known  ", fg="yellow") + ", ".join(card.not_known))


def _lines(card: Card) -> Iterator[tuple[str, str]]:
    facts, stored = card.facts, f"{card.format}, {nbytes(card.file_bytes)}"
    yield "file", stored + (f", mostly {card.quantization}" if card.quantization else "")
    yield "architecture", facts.architecture or NONE
    yield "parameters", _parameters(card)
    yield "bits a weight", significant(card.bits_per_weight) if card.bits_per_weight else NONE
    yield "layers", _number(facts.n_layers)
    yield "embedding", f"{_number(facts.d_model)} wide, vocabulary of {_number(facts.vocab_size)}"
    yield "heads", _heads(facts)
    yield "MLP", f"{_number(facts.d_ff)} wide" + (
        f", {facts.d_ff_expert:,} an expert" if facts.d_ff_expert else "")  # fmt: skip
    yield "experts", _experts(facts)
    yield "RoPE", _rope(facts.rope)
    yield "trained for", _trained(card)
    yield "tokenizer", _tokenizer(facts.vocabulary)
    yield "KV cache", f"{nbytes(card.kv_bytes_per_token)} a token in F16" if (
        card.kv_bytes_per_token) else NONE  # fmt: skip


def _parameters(card: Card) -> str:
    if card.parameters is None:
        return NONE
    told = f"{card.parameters:,} ({_short(card.parameters)})"
    if card.parameters_active and card.parameters_active != card.parameters:
        told += f", {card.parameters_active:,} of them in each token"
    return told


def _short(count: int) -> str:
    """'1.24 B'; also '135 M'."""
    scale, unit = next(((s, u) for s, u in ((1e9, "B"), (1e6, "M"), (1e3, "K")) if count >= s),
                       (1, ""))  # fmt: skip
    return f"{significant(count / scale)} {unit}".strip()


def _number(value: Any) -> str:
    """'32'; '0 to 8' where layers differ."""
    if isinstance(value, tuple):
        return f"{min(value):,} to {max(value):,} by layer"
    return NONE if value is None else f"{value:,}"


def _heads(facts: Any) -> str:
    if facts.n_heads is None:
        return NONE
    sizes = {size for size in (facts.key_size, facts.value_size) if size}
    told = f"{_number(facts.n_heads)} of size {' and '.join(map(str, sorted(sizes))) or NONE}"
    return f"{told}, KV heads {_number(facts.n_kv_heads)}" + (
        f", window of {facts.sliding_window:,}" if facts.sliding_window else ""
    )


def _experts(facts: Any) -> str:
    if not facts.n_experts:
        return "none"
    return f"{facts.n_experts:,}, of which each token uses {_number(facts.n_experts_used)}"


def _rope(rope: Any) -> str:
    if rope.dimension is None and rope.base is None:
        return NONE
    parts = [f"dimension {_number(rope.dimension)}",
             f"base {rope.base:,.10g}" if rope.base else "base not told"]  # fmt: skip
    scaling = f"scaling {rope.scaling or 'none'}" + (f" x {rope.factor:g}" if rope.factor else "")
    began = f" from {rope.original_context:,} tokens" if rope.original_context else ""
    return ", ".join([*parts, scaling + began])


def _trained(card: Card) -> str:
    if card.trained_context_pages is None:
        return NONE
    return f"{card.facts.trained_context:,} tokens, about {card.trained_context_pages:,} pages" + (
        click.style(f"  ({PAGE_RULE})", dim=True)
    )


def _tokenizer(told: Any) -> str:
    if told.kind is None:
        return NONE
    parts = [f"{told.kind} ({TOKENIZERS[told.kind]})" if told.kind in TOKENIZERS else told.kind]
    parts += [f"pre-tokenizer {told.pre_tokenizer}"] if told.pre_tokenizer else []
    parts += [f"{told.tokens:,} tokens"] if told.tokens else []
    parts += [f"{told.merges:,} merges"] if told.merges else []
    return ", ".join([*parts, "chat template" if told.chat_template else "no chat template"])


def _weights(card: Card) -> Iterator[dict[str, str]]:
    for row in card.tensors:
        yield {"class": row.tensor_class, "stored as": row.kind, "tensors": f"{row.tensors:,}",
               "values": f"{row.values:,}", "size": nbytes(row.nbytes),
               "share": f"{100 * row.nbytes / max(card.weight_bytes, 1):.1f} %"}  # fmt: skip
    yield {"class": "all", "stored as": "", "tensors": f"{sum(r.tensors for r in card.tensors):,}",
           "values": f"{sum(row.values for row in card.tensors):,}",
           "size": nbytes(card.weight_bytes), "share": ""}  # fmt: skip


def _memory(card: Card) -> Iterator[dict[str, str]]:
    for need in card.memory:
        yield {"context": f"{need.context_tokens:,}", "weights": nbytes(need.weight_bytes),
               KV: nbytes(need.kv_bytes), "together": nbytes(need.total_bytes)}  # fmt: skip
