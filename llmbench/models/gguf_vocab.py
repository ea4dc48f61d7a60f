"""A folder's tokenizer → the keys of a GGUF file from which llama.cpp makes the same ids.

Two kinds are written: byte-level BPE (merges and a pre-tokenizer known by name) and SentencePiece
BPE (scores and byte tokens). Source: ggml-org/llama.cpp, `src/llama-vocab.cpp`.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.errors import BadParams, Unsupported
from llmbench.models.tokenizer import load_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type
SPACE = "▁"
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
QWEN2 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST
SPLITS = {(LLAMA3, True): "llama-bpe", (LLAMA3, False): "smaug-bpe", (QWEN2, False): "qwen2"}
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Vocabulary:
    """Ids in order: their text, their type, and for SentencePiece their score."""

    model: str  # tokenizer.ggml.model: gpt2, llama
    pre: str  # tokenizer.ggml.pre
    texts: list[str]
    types: list[int]
    scores: list[float]  # empty for byte-level BPE
    space_prefix: bool | None = None


def write_vocabulary(writer: Any, folder: Path, rows: int, tell: Tell) -> None:
    """Write the tokenizer of `folder` for a model with `rows` ids.

    `tell` hears what llama.cpp does otherwise. Raises: Missing without a readable tokenizer.json,
    Unsupported for a tokenizer that llama.cpp cannot be told, BadParams when it has too many ids.
    """
    from gguf import SpecialVocab

    load_tokenizer(folder)  # refuses what is no tokenizer
    told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    made = vocabulary(told, rows, tell)
    special = SpecialVocab(folder, load_merges=made.model == "gpt2", n_vocab=rows)
    for end in ("bos", "eos"):  # llama.cpp has other defaults for some pre-tokenizers
        special.add_special_token.setdefault(end, False)
    if "eos" not in special.special_token_ids:
        tell("the tokenizer names no end token; llama.cpp takes one by its own rule")
    writer.add_tokenizer_model(made.model)
    writer.add_tokenizer_pre(made.pre)
    writer.add_token_list(made.texts)
    writer.add_token_types(made.types)
    if made.scores:
        writer.add_token_scores(made.scores)
    if made.space_prefix is not None:
        writer.add_add_space_prefix(made.space_prefix)
    special.add_to_gguf(writer, quiet=True)


def vocabulary(told: dict[str, Any], rows: int, tell: Tell) -> Vocabulary:
    """What a tokenizer.json says, for `rows` ids. Raises: Unsupported, BadParams."""
    model = told["model"]
    if model.get("type") != "BPE":
        raise _unsupported(f"its model is {model.get('type')}, not BPE")
    odd = [
        n for n in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(n)
    ]
    if odd:
        raise _unsupported(f"it has a {odd[0]}")
    if model.get("byte_fallback"):
        made = _sentencepiece(told, rows, tell)
    else:
        made = _byte_level(told, rows, tell)
    if len(set(made.texts)) < len(made.texts):
        raise _unsupported("two of its ids have one text, which llama.cpp does not allow")
    return made


# -- byte-level BPE --------------------------------------------------------------------------------


def _byte_level(told: dict[str, Any], rows: int, tell: Tell) -> Vocabulary:
    model = told["model"]
    pre = pre_tokenizer_name(told.get("pre_tokenizer"), bool(model.get("ignore_merges")))
    _check_normalizer(told.get("normalizer"), tell)
    merged = {left + right for left, right in _merges(model)}
    whole = bool(model.get("ignore_merges"))  # then any id is reached by its text alone

    def type_of(text: str) -> int:
        return NORMAL if whole or len(text) == 1 or text in merged else UNUSED

    texts, types = _ids(told, rows, type_of)
    return Vocabulary("gpt2", pre, texts, types, [])


def pre_tokenizer_name(told: dict[str, Any] | None, ignore_merges: bool) -> str:
    """The name by which llama.cpp knows this pre-tokenizer. Raises: Unsupported for a new one."""
    steps = told["pretokenizers"] if told and told["type"] == "Sequence" else [told or {}]
    kinds, last = [step.get("type") for step in steps], steps[-1]
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        regex = last.get("use_regex", True)
        if regex and not ignore_merges and kinds == ["ByteLevel"]:
            return "gpt-2"
        digits = kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits")
        if regex and not ignore_merges and digits:
            return "smollm"
        if not regex and kinds == ["Split", "ByteLevel"]:
            pattern = steps[0].get("pattern", {}).get("Regex", "")
            plain = steps[0].get("behavior") == "Isolated" and not steps[0].get("invert")
            if plain and (pattern, ignore_merges) in SPLITS:
                return SPLITS[pattern, ignore_merges]
    raise _unsupported(f"llama.cpp knows no pre-tokenizer like {json.dumps(told)[:300]}",
                       "known: those of GPT-2, SmolLM and StarCoder, Llama 3, Qwen2")  # fmt: skip


def _check_normalizer(told: dict[str, Any] | None, tell: Tell) -> None:
    if told and told.get("type") == "NFC":
        tell("llama.cpp does not normalise text: what is not in NFC gets other ids there")
    elif told and not (told.get("type") == "Sequence" and not told.get("normalizers")):
        raise _unsupported(f"it normalises text by {told.get('type')}, llama.cpp does not")


# -- SentencePiece BPE -----------------------------------------------------------------------------


def _sentencepiece(told: dict[str, Any], rows: int, tell: Tell) -> Vocabulary:
    model, unknown = told["model"], told["model"].get("unk_token")
    prefix = _space_prefix(told, tell)
    lacking = [b for b in range(256) if f"<0x{b:02X}>" not in model["vocab"]]
    if lacking:
        raise _unsupported(f"it has no token for {len(lacking)} of the 256 bytes")

    def type_of(text: str) -> int:
        return UNKNOWN if text == unknown else BYTE if BYTE_TOKEN.fullmatch(text) else NORMAL

    texts, types = _ids(told, rows, type_of)
    ranks = _ranks(told)
    never = -1e6 - len(ranks)
    scores = [float(-ranks[text]) if text in ranks else never if kind in (NORMAL, UNUSED) else 0.0
              for text, kind in zip(texts, types, strict=True)]  # fmt: skip
    return Vocabulary("llama", "default", texts, types, scores, prefix)


def _ranks(told: dict[str, Any]) -> dict[str, int]:
    """Piece → its place in the order of merging.

    llama.cpp joins any neighbours whose union is a piece, best piece first. The merges must say
    the same: every way to join a piece is among them, and pieces come one after another.
    Raises: Unsupported when they do not.
    """
    vocab, merges = told["model"]["vocab"], set(_merges(told["model"]))
    added = {token["content"] for token in told.get("added_tokens", [])}
    ranks: dict[str, int] = {}
    last = ""
    for left, right in _merges(told["model"]):
        piece = left + right
        if piece in ranks and piece != last and piece not in added:
            raise _unsupported(f"its merges make {piece!r} at two places of their order")
        ranks.setdefault(piece, len(ranks))
        last = piece if piece not in added else last
    for piece in vocab.keys() - added:
        if BYTE_TOKEN.fullmatch(piece):
            continue
        for cut in range(1, len(piece)):
            parts = piece[:cut], piece[cut:]
            if parts[0] in vocab and parts[1] in vocab and parts not in merges:
                raise _unsupported(f"its merges do not join {parts[0]!r} and {parts[1]!r}, "
                                   "which SentencePiece does")  # fmt: skip
    return ranks


def _space_prefix(told: dict[str, Any], tell: Tell) -> bool:
    """Whether a space is put before a text. Raises: Unsupported for other treatment of spaces."""
    normalizer, pre = told.get("normalizer") or {}, told.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    kinds = [step["type"] for step in steps]
    spaced = bool(steps) and steps[-1].get("content") == SPACE and (
        steps[-1].get("pattern") == {"String": " "})  # fmt: skip
    if spaced and kinds in (["Replace"], ["Prepend", "Replace"]) and _keeps_pieces(pre):
        return kinds[0] == "Prepend"
    if not steps and pre.get("type") == "Metaspace" and pre.get("replacement") == SPACE:
        if pre.get("split", True) and any(SPACE in piece[1:] for piece in told["model"]["vocab"]):
            raise _unsupported("it never joins over spaces, llama.cpp does")
        if prefix := pre.get("prepend_scheme", "always") != "never":
            tell("a text that begins with a space gets one more space in llama.cpp")
        return prefix
    raise _unsupported("it treats spaces in a way that SentencePiece has not")


def _keeps_pieces(pre: dict[str, Any]) -> bool:
    """No pre-tokenizer, or one that looks for spaces, which are no more there."""
    return not pre or (pre.get("type") == "Split" and pre.get("pattern") == {"String": " "})


# -- both ------------------------------------------------------------------------------------------


def _ids(told: dict[str, Any], rows: int, type_of: Callable[[str], int]) -> tuple[list, list]:
    """Text and type of each id below `rows`; ids without a token are unused."""
    added = {token["id"]: token for token in told.get("added_tokens", [])}
    names = {number: text for text, number in told["model"]["vocab"].items()}
    names |= {number: token["content"] for number, token in added.items()}
    if names and max(names) >= rows:
        raise BadParams(f"models: the tokenizer has the id {max(names)}, the model {rows} ids",
                        why="they do not belong together")  # fmt: skip
    texts, types = [], []
    for number in range(rows):
        text = names.get(number)
        kind = UNUSED if text is None else type_of(text)
        if number in added:
            kind = CONTROL if added[number].get("special") or _looks_special(text) else USER_DEFINED
        if kind == USER_DEFINED:
            text = text.replace(SPACE, " ")
        texts.append(f"[PAD{number}]" if text is None else text)
        types.append(kind)
    return texts, types


def _looks_special(text: str) -> bool:
    """An added token that is meant as a control token, whatever its flag says."""
    return text in ("<pad>", "<mask>") or (text.startswith("<|") and text.endswith("|>"))


def _merges(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def _unsupported(what: str, how: str = "") -> Unsupported:
    return Unsupported(f"models: this tokenizer cannot be written to a GGUF file: {what}", how=how)
