"""Run as a child with little memory: every truncation and every flip of a small file, as JSON.

`python tests/models/hostile.py FOLDER` reads each damaged file, makes its card and shows it. What
is neither read nor refused with BadParams ends this process with its traceback.
"""

import contextlib
import io
import json
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from llmbench.cli import card
from llmbench.errors import BadParams
from llmbench.models.file_card import file_card
from tests.gguf_bytes import small_model

MEMORY = 400 * 2**20  # bytes of address space; what Python and its imports take is a quarter of it


def damaged(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every truncation; every flip of one bit, every byte as 0 and as 255; all its bits turned."""
    for length in range(len(data)):
        yield "cut", data[:length]
    for at, byte in enumerate(data):
        for wrong in {byte ^ 1 << bit for bit in range(8)} | {0, 255} - {byte}:
            yield "flip", data[:at] + bytes([wrong]) + data[at + 1 :]
        yield "turned", data[:at] + bytes([255 - byte]) + data[at + 1 :]


def outcome(path: Path, *, shown: bool) -> str:
    """Whether the file is read, with `shown` also printed as people see it, or refused."""
    try:
        found = file_card(path)
    except BadParams as error:
        assert str(path) in error.what
        return "refused"
    if shown:
        with contextlib.redirect_stdout(io.StringIO()):
            card.show(found)
    json.dumps(found.as_dict(), default=str, allow_nan=False)
    return "read"


def main(folder: Path) -> None:
    """Counts of outcomes by kind of damage, on stdout."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    counted: Counter[str] = Counter()
    path = folder / "damaged.gguf"
    for kind, data in damaged(small_model()):
        path.write_bytes(data)
        counted[f"{kind} {outcome(path, shown=kind == 'turned')}"] += 1
    print(json.dumps(counted))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
