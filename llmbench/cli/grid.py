"""A table for people, as wide as the terminal allows: words fold, names and numbers stay whole."""

import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import click

PIPE = 200  # characters a line where stdout is no terminal
GAP = 2  # between columns
WHOLE = 12  # a number with its unit is at most so long, and never folded


def table(rows: Any, *, right: Collection[str] = (), spare: Sequence[str] = ()) -> None:
    """Show `rows` (a frame or dicts) on stdout; nothing in a cell is ever cut.

    Where the terminal is too narrow, columns of `spare` are left out, the first first, and named
    on stderr; then words fold. The columns named by `right` stand at the right, as numbers of one
    unit should.
    """
    from rich.console import Console
    from rich.table import Table

    records = rows.to_dict("records") if hasattr(rows, "to_dict") else rows
    names = records[0] if records else {}
    columns = {str(name): [_cell(row.get(name, "")) for row in records] for name in names}
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE
    left_out = _drop(columns, spare, room)
    shown = Table(box=None, pad_edge=False)
    widths = _widths(columns, room)
    for name, width in widths.items():
        shown.add_column(name, justify="right" if name in right else "left", width=width,
                         overflow="fold")  # fmt: skip
    for cells in zip(*columns.values(), strict=True):
        shown.add_row(*cells)
    Console(width=max(room, _total(widths)), highlight=False, markup=False).print(shown)
    if left_out:
        click.echo(f"not shown for want of width: {', '.join(left_out)}; --json has all", err=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "—" if value != value else f"{value:.4g}"
    return str(value)


def _drop(columns: dict[str, list[str]], spare: Sequence[str], room: int) -> list[str]:
    """Take columns of `spare` out of `columns` until the rest fits; those taken."""
    dropped = []
    for name in spare:
        if _total({name: _least(name, cells) for name, cells in columns.items()}) <= room:
            break
        if columns.pop(name, None) is not None:
            dropped.append(name)
    return dropped


def _widths(columns: Mapping[str, list[str]], room: int) -> dict[str, int]:
    """Each column's width: what it asks for, the widest narrowed until all fit, none below its
    longest word."""
    least = {name: _least(name, cells) for name, cells in columns.items()}
    widths = {name: max(map(_length, [name, *cells])) for name, cells in columns.items()}
    while _total(widths) > room:
        yielding = [name for name in widths if widths[name] > least[name]]
        if not yielding:
            break
        widths[max(yielding, key=widths.__getitem__)] -= 1
    return widths


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + GAP * max(0, len(widths) - 1)


def _least(name: str, cells: Sequence[str]) -> int:
    """The longest word of a column, or number with its unit."""
    words = [word for text in [name, *cells] for word in _parts(text)]
    return max(map(_length, words), default=0)


def _parts(text: str) -> list[str]:
    return [text] if text[:1].isdigit() and len(text) <= WHOLE else text.split()


def _length(text: str) -> int:
    """In terminal cells, of the longest line."""
    from rich.cells import cell_len

    return max(map(cell_len, text.split("\n")))
