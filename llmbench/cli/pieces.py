"""A text read in pieces, as people see it: a heading a piece on stderr, what it gave on stdout."""

from typing import Any

import click

from llmbench.cli import show
from llmbench.units import nbytes, per_second, seconds


def heading(piece: Any, number: int, of: int) -> None:
    """'piece 2 of 3: tokens 1,793 to 3,776, the first 191 of them again'."""
    again = piece.fresh - piece.start
    told = f"piece {number} of {of}: tokens {piece.start + 1:,} to {piece.end:,}"
    told += f", the first {again:,} of them again" if again else ""
    click.echo("\n" * (number > 1), nl=False)  # ends the text of the piece before
    click.echo(click.style(told, bold=True), err=True)


def text(piece: str) -> None:
    """What was generated, at once."""
    click.echo(piece, nl=False)


def totals(done: Any, as_json: bool) -> None:
    """What the whole took: on stderr, or everything as JSON."""
    if as_json:
        trials = [vars(t) | {"served": t.served.model_dump()} for t in done.trials]
        show.document(vars(done) | {
            "layout": done.layout.facts(),
            "pieces": [vars(piece) for piece in done.pieces], "trials": trials,
            "output_tokens": done.output_tokens, "repeated_tokens": done.repeated_tokens,
            "complete": done.complete})  # fmt: skip
        return
    served, read = done.trials[-1].served, sum(t.prompt_tokens for t in done.trials)
    most = max(t.rss_bytes or 0 for t in done.trials)
    lines = {
        "pieces": f"{len(done.trials):,} of {len(done.pieces):,}, windows of "
                  f"{done.layout.window:,} tokens",
        "read": f"{done.pieces[len(done.trials) - 1].end:,} of {done.layout.tokens:,} tokens of "
                f"text, {done.repeated_tokens:,} of them twice",
        "answers": f"{done.output_tokens:,} tokens, {done.layout.output_tokens:,} a piece",
        "took": f"{seconds(done.read_s)}, {per_second(read / done.read_s, 'tok')} read and "
                f"answered; loaded in {seconds(done.load_s)}",
        "memory": f"{nbytes(most)} resident",
        "served by": f"{served.engine} {served.impl}, {served.threads} threads",
        "note": "each piece is answered by itself: nothing of the others is known to it",
    }  # fmt: skip
    click.echo()
    for name, value in lines.items():
        click.echo(click.style(f"{name:<12}", dim=True) + value, err=True)
