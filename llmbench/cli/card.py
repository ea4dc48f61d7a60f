"""A weight file's card as people read it: what it is, how it is stored, what it will need."""

from collections.abc import Iterator

import click

from llmbench.cli.show import table
from llmbench.models.file_card import Card
from llmbench.models.file_card.lines import card_lines
from llmbench.units import nbytes

KV = "KV cache in F16"


def show(card: Card) -> None:
    """The card on stdout: a title, a line a fact, a table of weights and one of memory."""
    click.echo(click.style(card.facts.name or card.file.name, bold=True))
    click.echo(click.style(f"{card.file}", dim=True))
    click.echo()
    lines = dict(card_lines(card))
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
