"""Reading the first part of a file that may be broken or hostile: nothing is taken on trust.

Every length is compared with what the file holds and with the limits below before a byte is
allocated for it, so a header costs at most some hundreds of MB however it was made.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from llmbench.errors import BadParams
from llmbench.models.header.impostors import AGAIN

MAX_HEADER = 100 * 2**20  # bytes; the largest vocabularies of today take some 15 MiB
MAX_ITEMS = 2**22  # items of all arrays together; the largest vocabularies have 1.3 million
CHUNK = 2**20  # bytes read at once
LENGTH = struct.Struct("<Q")


class Bounded:
    """The start of a file, read as it is asked for; `at` is where the next piece begins."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.path, self._file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self.data = bytearray()
        self.at = 0
        self._items = 0

    def refuse(self, expected: str, found: str, *, at: int | None = None, how: str = AGAIN,
               why: str = "") -> NoReturn:  # fmt: skip
        """Raises: BadParams that names file, offset, what was expected and what was found."""
        raise BadParams(
            f"{self.path}: refused at byte {self.at if at is None else at:,}: "
            f"expected {expected}, found {found}",
            why=why,
            how=how,
        )

    def take(self, count: int, what: str) -> int:
        """Where the next `count` bytes begin in `data`, which holds them; moves on behind them."""
        start = self.at
        if start + count > len(self.data):
            self._reach(start + count, what)
        self.at = start + count
        return start

    def number(self, layout: struct.Struct, what: str) -> Any:
        """The next number."""
        return layout.unpack_from(self.data, self.take(layout.size, what))[0]

    def numbers(self, code: str, count: int, what: str) -> tuple[Any, ...]:
        """The next `count` numbers, each stored as struct's `code`."""
        self._budget(count, what)
        start = self.take(count * struct.calcsize(f"<{code}"), what)
        return struct.unpack_from(f"<{count}{code}", self.data, start)

    def text(self, what: str, *, longest: int = MAX_HEADER) -> bytes:
        """The next text, its length before it, as the file's bytes."""
        start = self.at
        length = self.number(LENGTH, f"the length of {what}")
        if length > longest:
            self.refuse(f"{what} of at most {longest:,} bytes", f"a length of {length:,}", at=start)
        begin = self.take(length, what)
        return bytes(self.data[begin : begin + length])

    def texts(self, count: int, what: str) -> tuple[str, ...]:
        """The next `count` texts, with a lone surrogate for each byte that is not UTF-8.

        Source: PEP 383, by which `text.encode("utf-8", "surrogateescape")` gives the bytes again.
        """
        found = []
        begin = self.at
        for end in self._ends(count, what):
            found.append(self.data[begin + 8 : end].decode("utf-8", "surrogateescape"))
            begin = end
        return tuple(found)

    def skip_texts(self, count: int, what: str) -> None:
        """Moves on behind the next `count` texts."""
        for _ in self._ends(count, what):
            pass

    def _ends(self, count: int, what: str) -> Iterator[int]:
        """Where each of the next `count` texts ends: the loop that vocabularies go through."""
        self._budget(count, what)
        data, length_at, size, end = self.data, LENGTH.unpack_from, len(self.data), self.at
        for _ in range(count):
            self.at = end
            if end + 8 > size:
                size = self._reach(end + 8, what)
            end += 8 + length_at(data, end)[0]
            if end > size:
                size = self._reach(end, what)
            yield end
        self.at = end

    def _budget(self, count: int, what: str) -> None:
        self._items += count
        if self._items > MAX_ITEMS:
            self.refuse(f"arrays of at most {MAX_ITEMS:,} items in all", f"{what} with {count:,}")

    def _reach(self, end: int, what: str) -> int:
        """Reads on until `data` ends at or behind `end`; how long it is then."""
        if end > self.size:
            self.refuse(f"{what}, up to byte {end:,}", f"the end of the file at {self.size:,}",
                        why="the file was cut off, or a length in it is wrong")  # fmt: skip
        if end > MAX_HEADER:
            self.refuse(f"a header of at most {MAX_HEADER:,} bytes", f"{what}, up to byte {end:,}")
        wanted = min(max(end, len(self.data) + CHUNK), self.size, MAX_HEADER)
        while len(self.data) < end:
            piece = self._file.read(wanted - len(self.data))
            if not piece:
                self.refuse(f"byte {len(self.data):,}", "nothing: the file became shorter")
            self.data += piece
        return len(self.data)
