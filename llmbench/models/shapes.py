"""`shape:<name>`: a catalog model's architecture with made-up weights, the same bytes everywhere.

Weights are odd integers from -255 to 255 times a power of two, which bfloat16 holds exactly. They
come from a counter-based generator (Philox: Salmon et al., SC'11), so nothing is rounded and no
machine can differ. They say nothing of quality; time and memory do not depend on what they mean.
Ids whose text is not whole and visible have a zero row in the head, so none of them is ever chosen.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from llmbench import catalog
from llmbench.errors import BadParams, StoreFailed, Unsupported
from llmbench.models.shape_layout import (
    FAMILIES,
    SCALINGS,
    Tensor,
    config_of,
    tensors_of,
    unstretched,
)
from llmbench.models.tokenizer import Tokenizer, load_tokenizer

VERSION = 1  # of the recipe: other bytes, other number
TINY = Path(__file__).parent / "builtin" / "tiny"  # lends its tokenizer
CHUNK = 1 << 22  # weights made at a time
SPARE = 64 << 20  # bytes of disk that are left free


def shape_architecture(name: str) -> catalog.Architecture:
    """The architecture behind `shape:<name>`. Raises: BadParams, Unsupported."""
    entry = _entry(name)
    found = entry.architecture
    if found is None or found.model_type not in FAMILIES:
        kind = found.model_type if found else "no transformer"
        raise Unsupported(f"models: {name} is {kind}; no made-up weights are made of it",
                          how=f"families: {', '.join(FAMILIES)}")  # fmt: skip
    needed = ("n_layers", "n_heads", "n_kv_heads", "head_dim", "d_model", "d_ff", "vocab_size")
    unknown = [n for n in needed if getattr(found, n) is None]
    found = unstretched(found)
    odd = found.rope_scaling not in SCALINGS or (found.n_experts or 1) > 1
    if unknown or odd:
        why = f"the catalog does not know its {', '.join(unknown)}" if unknown else (
            "it has experts, or a rotary scaling other than Llama 3's")  # fmt: skip
        raise Unsupported(f"models: no made-up weights are made of {name}", why=why)
    return found


def _entry(name: str) -> catalog.CatalogModel:
    """Raises: BadParams with the nearest `shape:` name for one that is none."""
    bare = name.removeprefix("shape:")
    try:
        return catalog.model(bare)
    except BadParams:
        near = get_close_matches(bare.lower(), known_shapes(), n=1, cutoff=0.0)
        raise BadParams(f"models: no model 'shape:{bare}'", how=f"did you mean shape:{near[0]}? "
                        "`llmbench models` lists all") from None  # fmt: skip


def cache_folder() -> Path:
    """Where what can be made again is kept: LLMBENCH_CACHE, or the user's cache."""
    root = os.environ.get("LLMBENCH_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "llmbench")  # fmt: skip
    return Path(root)


def shape_folder(name: str) -> Path:
    """Where `shape:<name>` is kept once it is made."""
    return cache_folder() / "shapes" / f"{_plain(name)}-v{VERSION}"


def make_shape(name: str) -> Path:
    """The folder of `shape:<name>`, made now when it is not there; a broken attempt leaves nothing.

    Raises: BadParams, Unsupported, StoreFailed when there is no room.
    """
    folder, found = shape_folder(name), shape_architecture(name)
    if (folder / "model.safetensors").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_room(name)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as making:
            write_shape(Path(making), name, found)
            os.chmod(making, 0o755)
            try:
                os.rename(making, folder)
            except OSError:  # another process made the same bytes meanwhile
                if not (folder / "model.safetensors").is_file():
                    raise
            else:
                os.mkdir(making)  # what the context manager is to remove
    except OSError as error:
        raise StoreFailed(f"models: {name} cannot be made: {error.strerror or error}",
                          how="free space, or move LLMBENCH_CACHE") from error  # fmt: skip
    return folder


def write_shape(folder: Path, name: str, a: catalog.Architecture) -> None:
    """Write config, tokenizer and weights into `folder`."""
    shutil.copy(TINY / "tokenizer_config.json", folder)
    _write_json(folder / "tokenizer.json", padded_tokenizer(a.vocab_size))
    _write_json(folder / "config.json", config_of(a))
    hidden = np.ones(a.vocab_size, bool)
    hidden[list(visible_ids(load_tokenizer(TINY)))] = False
    head = "model.embed_tokens.weight" if a.tie_word_embeddings else "lm_head.weight"
    made = tensors_of(a)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header_of(made))
        for tensor in made:
            rows = hidden if tensor.name == head else None
            for values in values_of(tensor, f"{_plain(name)}/v{VERSION}", rows):
                file.write(values)


def header_of(made: list[Tensor]) -> bytes:
    """The head of a safetensors file: its length, then names, types, shapes and places."""
    place, entries = 0, {}
    for tensor in made:
        end = place + 2 * tensor.size
        entries[tensor.name] = {"dtype": "BF16", "shape": list(tensor.shape),
                                "data_offsets": [place, end]}  # fmt: skip
        place = end
    text = json.dumps(entries | {"__metadata__": {"format": "pt"}}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def values_of(tensor: Tensor, seed: str, hidden: np.ndarray | None = None) -> Iterator[bytes]:
    """The bytes of a tensor in bfloat16, little-endian, a part at a time; hidden rows are zero."""
    if not tensor.std:
        yield np.full(tensor.size, 0x3F80, "<u2").tobytes()  # ones
        return
    key = hashlib.sha256(f"{seed}/{tensor.name}".encode()).digest()
    stream = np.random.Philox(key=int.from_bytes(key[:16], "little"))
    table = patterns(tensor.std)
    wide = tensor.shape[-1]
    rows = max(1, CHUNK // wide) * 8 if len(tensor.shape) > 1 else 1  # whole 64-bit draws a part
    count = tensor.shape[0] if len(tensor.shape) > 1 else 1
    for first in range(0, count, rows):
        some = min(rows, count - first)
        draws = stream.random_raw(-(-some * wide // 8)).astype("<u8")
        values = table[draws.view(np.uint8)[: some * wide]].reshape(some, wide)
        if hidden is not None:
            values[hidden[first : first + some]] = 0
        yield values.tobytes()


def patterns(std: float) -> np.ndarray:
    """(256,) bfloat16 bits of (2 k - 255) times the power of two that brings them nearest to `std`.

    The integers have at most eight binary digits, which is what bfloat16 holds.
    """
    odd = np.arange(-255, 256, 2, dtype=np.float32)
    exponent = round(math.log2(std / math.sqrt(float((odd.astype(float) ** 2).mean()))))
    bits = (odd * np.float32(2.0**exponent)).view(np.uint32)
    return (bits >> 16).astype("<u2")


def visible_ids(tokenizer: Tokenizer) -> Iterator[int]:
    """Ids whose text is whole and visible: no part of a character, no control, no special token."""
    special = set(tokenizer.special_ids)
    for token in range(tokenizer.vocab_size):
        text = tokenizer.token_text(token) if token not in special else ""
        if text.strip() and text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text:
            yield token


def padded_tokenizer(vocab_size: int) -> dict[str, Any]:
    """The tokenizer of `builtin:tiny` with unused names up to `vocab_size`; no text gives them.

    Raises: Unsupported for a vocabulary that is smaller than its own.
    """
    told = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    known = told["model"]["vocab"]
    if vocab_size < len(known):
        raise Unsupported(f"models: a vocabulary of {vocab_size} is smaller than {len(known)}")
    known |= {f"<|unused_{i}|>": i for i in range(len(known), vocab_size)}
    return told


def _plain(name: str) -> str:
    """The catalog's own name: aliases are one model."""
    return _entry(name).name


def bytes_to_make(name: str) -> int:
    """Bytes of disk that making `shape:<name>` takes; 0 when it is there. Raises: as making it."""
    if (shape_folder(name) / "model.safetensors").is_file():
        return 0
    return 2 * sum(tensor.size for tensor in tensors_of(shape_architecture(name))) + SPARE


def free_bytes(name: str) -> int:
    """Bytes that are free where `shape:<name>` would be made."""
    place = shape_folder(name).parent
    return shutil.disk_usage(next(p for p in (place, *place.parents) if p.is_dir())).free


def _check_room(name: str) -> None:
    needed, free = bytes_to_make(name), free_bytes(name)
    if free < needed:
        raise StoreFailed(f"models: {name} needs {needed >> 20} MiB of disk, {free >> 20} are free",
                          how="free some space, or set LLMBENCH_CACHE to another disk")  # fmt: skip


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def known_shapes() -> list[str]:
    """Every name that `shape:` takes."""
    names = []
    for entry in catalog.models().values():
        try:
            shape_architecture(entry.name)
        except (BadParams, Unsupported):
            continue
        names.append(entry.name)
    return names
