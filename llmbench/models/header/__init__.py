"""A weight file's header: what is stored, how and where, without touching one weight.

Native parsers of GGUF have been broken by crafted files, so no file reaches one before this walk
has read its header whole. It refuses what ggml refuses, and what cannot be right: a count, length,
type or offset that the file itself contradicts. Big-endian files and version 1 are refused by name.

Source: docs/gguf.md of ggml, versions 2 and 3; ggml/src/gguf.cpp of llama.cpp for what is refused.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from stat import S_ISREG
from struct import Struct
from typing import Any, BinaryIO

from llmbench.errors import BadParams
from llmbench.models.header.bounded import MAX_HEADER, MAX_ITEMS, Bounded
from llmbench.models.header.ggml_types import RETIRED, TYPES, GgmlType
from llmbench.models.header.impostors import HEAD, impostor
from llmbench.models.header.parts import Header, Skipped, TensorInfo

__all__ = ["MAX_HEADER", "MAX_ITEMS", "Header", "Skipped", "TensorInfo", "opened", "read_header"]

MAGIC = b"GGUF"
MAX_KEYS = MAX_TENSORS = 100_000  # the largest files of today have some 60 keys, 4,000 tensors
MAX_KEY = 65_535  # bytes. Source: docs/gguf.md of ggml
MAX_NAME = 63  # bytes. Source: GGML_MAX_NAME, which counts a closing zero
MAX_DIMS = 4
BIGGEST = 2**63 - 1  # values of a tensor
ALIGNMENT_KEY, ALIGNMENT = "general.alignment", 32

U32, U64 = Struct("<I"), Struct("<Q")
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
LAYOUTS = {kind: Struct(f"<{code}") for kind, code in NUMBERS.items()}
UINT32, BOOL, TEXT, ARRAY = 4, 7, 8, 9
KINDS = {*NUMBERS, BOOL, TEXT, ARRAY}


def read_header(path: Path, *, texts: bool = True) -> Header:
    """The header of a GGUF file; every tensor it names lies whole inside the file.

    Arrays become tuples. With `texts` False an array of texts becomes `Skipped(count)`, which
    spares half of the time that a large vocabulary takes. Bytes that are not UTF-8 become lone
    surrogates (PEP 383).
    Raises: BadParams with file, offset, what was expected and found, and what to do.
    """
    with opened(path) as source:
        version, n_tensors, n_keys = _counts(source)
        metadata, alignment = _metadata(source, n_keys, texts)
        found = [_tensor(source, number) for number in range(n_tensors)]
        _no_doubles(source, [info.name for info, _ in found])
        data_offset = _padded(source.at, alignment)
        tensors = _placed(source, found, data_offset, alignment)
    return Header(Path(path), version, metadata, tensors, data_offset, alignment)


@contextmanager
def opened(path: Path) -> Iterator[Bounded]:
    """The file for bounded reading. Raises: BadParams when it cannot be opened or read."""
    try:
        with _file(Path(path)) as file:
            yield Bounded(file, Path(path))
    except OSError as error:
        raise BadParams(f"{path} cannot be read: {error.strerror}",
                        how="give the path of a weight file on this machine") from None  # fmt: skip


def _file(path: Path) -> BinaryIO:
    try:
        regular = S_ISREG(path.stat().st_mode)  # a pipe would wait for ever to be opened
    except ValueError:
        regular = False
    if not regular:
        raise BadParams(f"{path} is no file", how="give the path of a weight file")
    return path.open("rb")


def _counts(source: Bounded) -> tuple[int, int, int]:
    """Version, number of tensors, number of keys."""
    source.take(min(source.size, HEAD), "the first bytes")
    if not source.data.startswith(MAGIC):
        found = impostor(bytes(source.data[: source.at]))
        source.refuse("the letters GGUF", found.what, at=0, how=found.how)
    source.at = len(MAGIC)
    at = source.at
    version = source.number(U32, "the version")
    if not version & 0xFFFF:
        source.refuse("a little-endian file", "a big-endian one", at=at,
                      how="convert the model again on a little-endian machine")  # fmt: skip
    if version not in (2, 3):
        source.refuse("version 2 or 3", f"version {version}", at=at,
                      how="convert the model again with a converter of today")  # fmt: skip
    return version, *(_count(source, what) for what in ("tensors", "keys"))


def _count(source: Bounded, what: str) -> int:
    at = source.at
    count = source.number(U64, f"the number of {what}")
    if count > MAX_TENSORS:
        source.refuse(f"at most {MAX_TENSORS:,} {what}", f"{count:,}", at=at)
    return count


def _metadata(source: Bounded, count: int, texts: bool) -> tuple[dict[str, Any], int]:
    """Every key with its value, and the alignment they state."""
    found: dict[str, Any] = {}
    for number in range(count):
        at = source.at
        key = _name(source, f"key {number + 1} of {count}", MAX_KEY)
        if key in found:
            source.refuse("every key once", f"{key!r} again", at=at)
        at = source.at
        kind = _kind(source, key)
        found[key] = _value(source, kind, key, texts)
        if key == ALIGNMENT_KEY:
            _check_alignment(source, kind, found[key], at)
    return found, found.get(ALIGNMENT_KEY, ALIGNMENT)


def _check_alignment(source: Bounded, kind: int, value: Any, at: int) -> None:
    if kind != UINT32:
        source.refuse(f"{ALIGNMENT_KEY} as a 32-bit unsigned number", f"type {kind}", at=at)
    if value < 1 or value & (value - 1):
        source.refuse(f"a power of two as {ALIGNMENT_KEY}", f"{value}", at=at)


def _name(source: Bounded, what: str, longest: int) -> str:
    """The next text, which must be UTF-8 and not empty."""
    at = source.at
    text = source.text(what, longest=longest)
    try:
        name = text.decode("utf-8")
    except UnicodeDecodeError:
        source.refuse(f"{what} in UTF-8", f"{text[:64]!r}", at=at)
    if not name:
        source.refuse(f"a name for {what}", "an empty one", at=at)
    return name


def _kind(source: Bounded, key: str) -> int:
    at = source.at
    kind = source.number(U32, f"the type of {key[:80]!r}")
    if kind not in KINDS:
        source.refuse(f"a type from 0 to 12 for {key[:80]!r}", f"{kind}", at=at)
    return kind


def _value(source: Bounded, kind: int, key: str, texts: bool) -> Any:
    what = repr(key[:80])
    if kind == ARRAY:
        return _array(source, key, texts)
    if kind == TEXT:
        return source.text(what).decode("utf-8", "surrogateescape")
    if kind == BOOL:
        return _booleans(source, 1, what)[0]
    return source.number(LAYOUTS[kind], what)


def _array(source: Bounded, key: str, texts: bool) -> Any:
    at, what = source.at, f"the array {key[:80]!r}"
    kind = _kind(source, key)
    if kind == ARRAY:
        source.refuse(f"numbers or texts in {what}", "arrays, which ggml refuses too", at=at)
    count = source.number(U64, f"the length of {what}")
    if kind == BOOL:
        return _booleans(source, count, what)
    if kind != TEXT:
        return source.numbers(NUMBERS[kind], count, what)
    if texts:
        return source.texts(count, what)
    source.skip_texts(count, what)
    return Skipped(count)


def _booleans(source: Bounded, count: int, what: str) -> tuple[bool, ...]:
    at = source.at
    found = source.numbers("B", count, what)
    if found and max(found) > 1:
        source.refuse(f"0 or 1 in {what}", f"{max(found)}", at=at)
    return tuple(map(bool, found))


def _tensor(source: Bounded, number: int) -> tuple[TensorInfo, int]:
    """A tensor without its place yet, and where in the header it is described."""
    at = source.at
    name = _name(source, f"the name of tensor {number + 1}", MAX_NAME)
    n_dims = source.number(U32, f"the number of dimensions of {name!r}")
    if not 1 <= n_dims <= MAX_DIMS:
        source.refuse(f"1 to {MAX_DIMS} dimensions of {name!r}", f"{n_dims}", at=at)
    shape = tuple(source.number(U64, f"the shape of {name!r}") for _ in range(n_dims))[::-1]
    if min(shape) < 1 or prod(shape) > BIGGEST:
        source.refuse(f"a shape of {name!r} with 1 to 2^63 values", f"{shape}", at=at)
    kind = _storage(source, name)
    if shape[-1] % kind.block_values:
        source.refuse(f"rows of {name!r} in blocks of {kind.block_values} values ({kind.name})",
                      f"{shape[-1]} values a row", at=at)  # fmt: skip
    nbytes = prod(shape) // kind.block_values * kind.block_bytes
    offset = source.number(U64, f"the offset of {name!r}")
    return TensorInfo(name, shape, kind.name, offset, nbytes), at


def _storage(source: Bounded, name: str) -> GgmlType:
    at = source.at
    number = source.number(U32, f"the type of {name!r}")
    if number not in TYPES:
        why = f"{RETIRED[number]} was taken out of ggml" if number in RETIRED else ""
        known = ", ".join(kind.name for kind in TYPES.values())
        source.refuse(f"a known type of {name!r}", f"type {number}", at=at, why=why,
                      how=f"use a file that is stored as one of {known}")  # fmt: skip
    return TYPES[number]


def _no_doubles(source: Bounded, names: list[str]) -> None:
    if len(set(names)) < len(names):
        name, times = Counter(names).most_common(1)[0]
        source.refuse("every tensor name once", f"{name!r} {times} times")


def _placed(
    source: Bounded, found: list[tuple[TensorInfo, int]], data_offset: int, alignment: int
) -> tuple[TensorInfo, ...]:
    """The tensors with absolute offsets: each begins where the one before it ended, padded.

    So they cannot overlap, and nothing hides between them. Padding behind the last may be missing.
    """
    placed, expected = [], 0
    for info, at in found:
        if info.offset % alignment:
            source.refuse(f"an offset of {info.name!r} that {alignment} divides",
                          f"{info.offset:,}", at=at)  # fmt: skip
        if info.offset != expected:
            source.refuse(f"{info.name!r} at {expected:,} of the data, behind the tensor before it",
                          f"{info.offset:,}", at=at)  # fmt: skip
        begin = data_offset + expected
        if begin + info.nbytes > source.size:
            lacking = begin + info.nbytes - source.size
            source.refuse(f"the {info.nbytes:,} bytes of {info.name!r}", f"the end of the file at "
                          f"{source.size:,}, {lacking:,} bytes too early", at=begin)  # fmt: skip
        placed.append(TensorInfo(info.name, info.shape, info.kind, begin, info.nbytes))
        expected = _padded(expected + info.nbytes, alignment)
    return tuple(placed)


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
