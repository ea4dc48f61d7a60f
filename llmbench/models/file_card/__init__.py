"""A weight file's card: what the model is, how it is stored, what it will need, from its header.

Any architecture gets a card: what the header does not tell is listed as not known.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmbench.models.cost import cached_bytes_per_token
from llmbench.models.file_card.classes import ClassRow, class_rows
from llmbench.models.file_card.facts import (
    Facts,
    Layered,
    facts_from_config,
    facts_from_header,
)
from llmbench.models.file_card.folders import json_object, weight_files
from llmbench.models.header import Header, read_header
from llmbench.models.header.safetensors import read_safetensors

F16 = 2  # bytes; how engines keep keys and values unless told otherwise
SHORTEST = 512  # tokens
TOKENS_PER_PAGE = 250 * 4 / 3  # a page of 250 words, 4 tokens for 3 words of English prose
PAGE_RULE = "250 words a page, 4 tokens for 3 words"
PACKED = {
    "I8",
    "I16",
    "I32",
    "I64",
    "U8",
    "U16",
    "U32",
    "U64",
}  # in safetensors: several values in one


@dataclass(frozen=True)
class Need:
    """Predicted memory with a context of that many tokens, in bytes."""

    context_tokens: int
    weight_bytes: int
    kv_bytes: int  # keys and values in F16, one row
    total_bytes: int  # the engine's own buffers are not in it


@dataclass(frozen=True)
class Card:
    """What a weight file is; None and `not_known` where its header does not tell."""

    file: Path
    format: str
    file_bytes: int
    facts: Facts
    parameters: int | None
    parameters_active: (
        int | None
    )  # that take part in one token; equals `parameters` without experts
    weight_bytes: int
    bits_per_weight: float | None
    quantization: str | None  # the type that most bytes are stored in
    tensors: tuple[ClassRow, ...]
    trained_context_pages: int | None  # see PAGE_RULE
    kv_bytes_per_token: int | None  # keys and values of all layers in F16
    memory: tuple[Need, ...]
    not_known: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The card as one flat document with stable keys."""
        told = asdict(self)
        facts = told.pop("facts")
        return told | facts | {"page_rule": PAGE_RULE}


def file_card(path: Path) -> Card:
    """The card of a GGUF file, a safetensors file or a Hugging Face folder, from headers alone.

    Raises: BadParams when it is none of them or broken, Missing when a folder lacks its files.
    """
    path = Path(path).expanduser()
    if path.is_dir() or path.suffix == ".safetensors":
        return _folder_card(path)
    header = read_header(path, texts=False)
    part = _part(header.metadata)
    notes = [f"part {part}: parameters and bytes are of this part alone"] if part else []
    return _card(path, f"GGUF v{header.version}", facts_from_header(header), [header],
                 notes=notes, whole=not part)  # fmt: skip


def _part(metadata: Any) -> str:
    """'1 of 3' for a file that is one of several."""
    number, count = metadata.get("split.no"), metadata.get("split.count")
    several = type(number) is int and type(count) is int and count > 1
    return f"{number + 1} of {count}" if several else ""


def _folder_card(path: Path) -> Card:
    """The card of a Hugging Face folder, or of one safetensors file in it."""
    folder, every = (path, True) if path.is_dir() else (path.parent, False)
    files = weight_files(folder)
    headers = [read_safetensors(file) for file in (files if every else [path])]
    config = json_object(folder / "config.json")
    notes = [] if config else ["no config.json beside it: only its tensors are known"]
    whole = every or len(files) == 1
    if not whole:
        notes.append(f"one of {len(files)} files: parameters and bytes are of this file alone")
    facts = facts_from_config(config, json_object(folder / "tokenizer_config.json"))
    return _card(path, "safetensors", facts, headers, notes=notes, whole=whole)


def _card(
    path: Path, form: str, facts: Facts, headers: list[Header], *, notes: list[str], whole: bool
) -> Card:
    rows = class_rows(info for header in headers for info in header.tensors)
    weights = [row for row in rows if row.tensor_class != "rope tables"]
    packed = form == "safetensors" and any(row.kind in PACKED for row in weights)
    parameters = None if packed or not weights else sum(row.values for row in weights)
    nbytes = sum(row.nbytes for row in rows)
    per_token = _kv_bytes_per_token(facts)
    context = facts.trained_context
    predictable = whole and weights and per_token and context
    return Card(
        file=path,
        format=form,
        file_bytes=sum(header.path.stat().st_size for header in headers),
        facts=facts,
        parameters=parameters,
        parameters_active=_active(parameters, weights, facts),
        weight_bytes=nbytes,
        bits_per_weight=8 * sum(r.nbytes for r in weights) / parameters if parameters else None,
        quantization=_mostly(weights),
        tensors=rows,
        trained_context_pages=round(context / TOKENS_PER_PAGE) if context else None,
        kv_bytes_per_token=per_token,
        memory=tuple(_needs(nbytes, per_token, context)) if predictable else (),
        not_known=tuple(_not_known(facts, parameters, per_token)),
        notes=tuple(notes + _notes(facts, packed)),
    )


def _mostly(rows: list[ClassRow]) -> str | None:
    """The type that most bytes are stored in."""
    held: Counter[str] = Counter()
    for row in rows:
        held[row.kind] += row.nbytes
    return held.most_common(1)[0][0] if held else None


def _active(parameters: int | None, rows: list[ClassRow], facts: Facts) -> int | None:
    """Parameters that take part in one token: of routed experts only those that it uses."""
    routed = sum(row.values for row in rows if row.tensor_class == "experts")
    if parameters is None or not routed:
        return parameters
    if not facts.n_experts or not facts.n_experts_used:
        return None
    return parameters - routed + routed * facts.n_experts_used // facts.n_experts


def _kv_bytes_per_token(facts: Facts) -> int | None:
    """Bytes of keys and values that a token leaves in F16; layers without attention leave none."""
    heads = _over_layers(facts.n_kv_heads, facts.n_layers)
    if not facts.causal or not heads or not facts.key_size or not facts.value_size:
        return None
    return cached_bytes_per_token(heads, facts.key_size, facts.value_size, F16)


def _over_layers(number: Layered, layers: int | None) -> int | None:
    if isinstance(number, tuple):
        return sum(number)
    return None if number is None or layers is None else number * layers


def _needs(weight_bytes: int, per_token: int, trained: int) -> Iterable[Need]:
    """Lengths from 512 tokens on, each twice the one before, up to the trained one."""
    length = SHORTEST
    while length < trained:
        yield _need(length, weight_bytes, per_token)
        length *= 2
    yield _need(trained, weight_bytes, per_token)


def _need(length: int, weight_bytes: int, per_token: int) -> Need:
    kv = length * per_token
    return Need(length, weight_bytes, kv, weight_bytes + kv)


def _not_known(facts: Facts, parameters: int | None, per_token: int | None) -> Iterable[str]:
    asked = {
        "architecture": facts.architecture, "name": facts.name, "parameters": parameters,
        "layers": facts.n_layers, "heads": facts.n_heads, "embedding width": facts.d_model,
        "vocabulary": facts.vocab_size, "trained context": facts.trained_context,
        "RoPE base": facts.rope.base, "tokenizer": facts.vocabulary.kind,
        "KV cache a token": per_token,
    }  # fmt: skip
    return (name for name, found in asked.items() if found is None)


def _notes(facts: Facts, packed: bool) -> list[str]:
    notes = []
    tokens, rows = facts.vocabulary.tokens, facts.vocab_size
    if tokens and rows and tokens != rows:
        notes.append(f"the embedding has {rows:,} rows, the tokenizer {tokens:,} tokens")
    if facts.sliding_window:
        notes.append(f"some layers attend to {facts.sliding_window:,} tokens only; the KV cache is "
                     "counted whole, and an engine that drops old keys needs less")  # fmt: skip
    if facts.recurrent:
        notes.append("layers without attention keep a state of fixed size, which is not counted")
    if facts.recurrent and isinstance(facts.n_kv_heads, int):
        notes.append("the KV cache is counted as if every layer had attention, so it needs less")
    if not facts.causal:
        notes.append("an encoder: it keeps no KV cache")
    if packed:
        notes.append("its weights are packed in whole numbers, so shapes do not tell how many")
    return notes
