"""A safetensors file's header, held to the same bounds as that of a GGUF file.

Source: the format's description in the README of huggingface/safetensors.
"""

import json
from math import prod
from pathlib import Path
from typing import Any

from llmbench.models.header import MAX_TENSORS, opened
from llmbench.models.header.bounded import LENGTH, Bounded
from llmbench.models.header.parts import Header, TensorInfo

MAX_HEADER = 100_000_000  # bytes, as the format says
# Bytes a value. A type that is not here is taken at its word: its place says how long it is.
ITEMSIZE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1,
            "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
            "U8": 1}  # fmt: skip


def read_safetensors(path: Path) -> Header:
    """The header of a safetensors file; its tensors cover the rest of the file without a hole.

    Raises: BadParams with file, offset, what was expected and found, and what to do.
    """
    with opened(path) as source:
        length = source.number(LENGTH, "the length of the header")
        if length > MAX_HEADER:
            source.refuse(f"a header of at most {MAX_HEADER:,} bytes", f"{length:,}", at=0)
        begin = source.take(length, "the header")
        told = _parsed(source, bytes(source.data[begin : source.at]))
        metadata = told.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            source.refuse("__metadata__ as texts by name", f"{type(metadata).__name__}", at=8)
        tensors = [_tensor(source, name, entry) for name, entry in told.items()]
        _cover(source, tensors)
    return Header(Path(path), 0, metadata, tuple(tensors), 8 + length, 1)


def _parsed(source: Bounded, text: bytes) -> dict[str, Any]:
    """The header's JSON, bounded before it is parsed: small text can make large objects."""
    for sign, most in ((b"{", MAX_TENSORS + 2), (b"[", 2 * MAX_TENSORS), (b",", 10 * MAX_TENSORS)):
        if text.count(sign) > most:
            source.refuse(f"at most {most:,} of {sign.decode()!r}", f"{text.count(sign):,}", at=8)
    try:
        told = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        source.refuse("a header in JSON", f"{str(error)[:120]}", at=8)
    if not isinstance(told, dict):
        source.refuse("tensors by name", f"{type(told).__name__}", at=8)
    return told


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _tensor(source: Bounded, name: str, entry: Any) -> TensorInfo:
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if (
            all(type(size) is int and size >= 0 for size in shape) and 0 <= begin <= end
        ):
            pass
        case _:
            source.refuse(f"dtype, shape and two data_offsets of {name[:80]!r}",
                          f"{str(entry)[:120]}", at=8)  # fmt: skip
    expected = prod(shape) * ITEMSIZE[kind] if kind in ITEMSIZE else end - begin
    if end - begin != expected:
        source.refuse(f"{expected:,} bytes of {name[:80]!r}", f"{end - begin:,}", at=8)
    return TensorInfo(name, tuple(shape), kind, source.at + begin, end - begin)


def _cover(source: Bounded, tensors: list[TensorInfo]) -> None:
    """Raises: BadParams unless the tensors fill the file, each behind the one before it."""
    expected = source.at
    for info in sorted(tensors, key=lambda info: (info.offset, info.nbytes)):
        if info.offset != expected:
            source.refuse(
                f"a tensor at {expected:,}", f"{info.name[:80]!r} at {info.offset:,}", at=8
            )
        expected += info.nbytes
    if expected != source.size:
        source.refuse(f"a file of {expected:,} bytes", f"one of {source.size:,}", at=expected)
