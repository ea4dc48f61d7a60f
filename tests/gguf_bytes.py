"""GGUF files byte by byte, right or wrong on purpose: what no library would write."""

import struct
from collections.abc import Sequence
from pathlib import Path

U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64 = range(13)
CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q",
         I64: "q", F64: "d"}  # fmt: skip
GGML_F32, GGML_Q8_0, GGML_Q4_K = 0, 8, 12


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value(kind: int, found: object) -> bytes:
    return text(found) if kind == TEXT else struct.pack(f"<{CODES[kind]}", found)


def key(name: str | bytes, kind: int, found: object) -> bytes:
    """A key with a scalar, or with raw bytes where `kind` has no layout."""
    body = found if isinstance(found, bytes) and kind != TEXT else value(kind, found)
    return text(name) + struct.pack("<I", kind) + body


def array(name: str, kind: int, items: Sequence, *, count: int | None = None) -> bytes:
    body = b"".join(value(kind, item) for item in items)
    head = struct.pack("<IIQ", ARRAY, kind, len(items) if count is None else count)
    return text(name) + head + body


def tensor(name: str, shape: Sequence[int], kind: int = GGML_F32, offset: int = 0,
           *, n_dims: int | None = None) -> bytes:  # fmt: skip
    """A tensor's description; `shape` is row-major, the file holds it reversed."""
    dims = len(shape) if n_dims is None else n_dims
    sizes = b"".join(struct.pack("<Q", size % 2**64) for size in reversed(shape))
    return text(name) + struct.pack("<I", dims) + sizes + struct.pack("<IQ", kind, offset % 2**64)


def gguf(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_keys: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file of those parts; counts are the true ones unless given."""
    counts = (len(tensors) if n_tensors is None else n_tensors,
              len(keys) if n_keys is None else n_keys)  # fmt: skip
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


def small_model(layers: int = 1) -> bytes:
    """A file of some 800 bytes with every kind of thing in it: a llama with a Q8_0 head."""
    keys = [
        key("general.architecture", TEXT, "llama"), key("general.name", TEXT, "Small"),
        key("llama.block_count", U32, layers), key("llama.context_length", U32, 1024),
        key("llama.embedding_length", U32, 4), key("llama.attention.head_count", U32, 2),
        key("llama.attention.head_count_kv", U16, 1), key("llama.rope.freq_base", F32, 10000.0),
        key("llama.attention.causal", BOOL, True), key("tokenizer.ggml.model", TEXT, "llama"),
        array("tokenizer.ggml.tokens", TEXT, ["a", "b", "▁c"]),
        array("tokenizer.ggml.scores", F32, [0.0, -1.0, -2.0]),
        array("some.flags", BOOL, [True, False]), key("general.alignment", U32, 32),
    ]  # fmt: skip
    tensors = [tensor("token_embd.weight", (3, 4)),
               tensor("output.weight", (1, 32), GGML_Q8_0, 64)]  # fmt: skip
    return gguf(keys, tensors, bytes(48) + bytes(16) + bytes(34))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
