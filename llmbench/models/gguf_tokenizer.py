"""The tokenizer that a GGUF file carries, with the ids that its Hugging Face original gives.

Two kinds are read: byte-level BPE with its merges (`gpt2`), and SentencePiece's BPE, whose merges
follow from scores (`llama`). How a byte-level tokenizer cuts a text before merging is not in the
file, only a name for it; a name without a rule here is refused, for a near one gives other ids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmbench.errors import BadParams, Unsupported
from llmbench.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

OURS = "tokenizer.ggml."  # what every key begins with
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6  # token types. Source: gguf.constants.TokenType
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's sign for a space

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")  # fmt: skip
CASES = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+SUFFIX"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*SUFFIX"
         r"|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")  # fmt: skip
LLAMA3, QWEN2 = WORDS.replace("DIGITS", "3"), WORDS.replace("DIGITS", "1")
TEKKEN = CASES.replace("SUFFIX", "").replace("DIGITS", "1")
GPT4O = CASES.replace("SUFFIX", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?").replace("DIGITS", "3")


@dataclass(frozen=True)
class Rule:
    """What is cut before merging: by each expression in turn, matches and gaps both kept."""

    splits: tuple[str, ...]
    whole_words: bool = False  # a piece that is itself a token is not merged from its bytes
    nfc: bool = False  # text is composed first
    bos: bool = False  # a text begins with that token when the file does not say


# Source: the tokenizer.json of the models that llama.cpp's converter gives these names
# (`get_vocab_base_pre` of conversion/base.py); "default" is llama.cpp's own (src/llama-vocab.cpp).
RULES = {
    "default": Rule((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt"), Rule((GPT2,))),
    **dict.fromkeys(("smollm", "starcoder", "refact"), Rule((r"\p{N}", GPT2))),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3"), Rule((LLAMA3,), whole_words=True, bos=True)
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Rule((LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), Rule((QWEN2,), nfc=True)),
    "tekken": Rule((TEKKEN,), whole_words=True, bos=True),
    "gpt-4o": Rule((GPT4O,)),
}


def tokenizer_of(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in a header's metadata, which must have been read with its texts.

    Raises: Unsupported for a kind or a pre-tokenizer without a rule, BadParams when its parts do
    not belong together.
    """
    told = {key.removeprefix(OURS): value for key, value in metadata.items()
            if key.startswith(OURS)}  # fmt: skip
    kind = told.get("model")
    if kind not in BACKENDS:
        raise Unsupported(f"models: no tokenizer of the kind {kind!r} is read from a GGUF file",
                          how=f"kinds: {', '.join(BACKENDS)}")  # fmt: skip
    tokens = _tokens(told)
    kinds = _numbers(told, "token_type", len(tokens))
    backend = BACKENDS[kind](told, tokens, kinds)
    _mark(backend, tokens, kinds)
    rule = RULES.get(told.get("pre")) if kind == "gpt2" else None
    first = told.get("add_bos_token", rule.bos if rule else kind == "llama")
    return Tokenizer(backend, told.get("bos_token_id") if first else None)


def _byte_level(
    told: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]
) -> "tokenizers.Tokenizer":
    """Byte-level BPE: merges as they stand, within what the rule cuts."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers

    rule = RULES.get(told.get("pre"))
    if rule is None:
        raise Unsupported(
            f"models: no rule for the pre-tokenizer {told.get('pre')!r} of this GGUF file",
            why="another one would cut the text elsewhere and give other ids",
            how=f"known: {', '.join(RULES)}",
        )
    merges = [tuple(merge.split(" ", 1)) for merge in _texts(told, "merges")]
    backend = Tokenizer(_bpe(tokens, merges, ignore_merges=rule.whole_words))
    cuts = [pre_tokenizers.Split(Regex(split), "isolated") for split in rule.splits]
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytes_only])
    backend.decoder = decoders.ByteLevel()
    if rule.nfc:
        backend.normalizer = normalizers.NFC()
    return backend


def _sentencepiece(
    told: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]
) -> "tokenizers.Tokenizer":
    """SentencePiece's BPE: the pair whose union has the best score first; bytes for the rest."""
    from tokenizers import Tokenizer, decoders, normalizers

    merges = merges_of(tokens, _numbers(told, "scores", len(tokens)))
    unknown = next((t for t, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
    backend = Tokenizer(
        _bpe(tokens, merges, unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in kinds)
    )
    prefix = told.get("add_space_prefix", True)
    before = [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(),
                                         decoders.Fuse(), *after])  # fmt: skip
    return backend


BACKENDS: dict[str, Callable[..., "tokenizers.Tokenizer"]] = {
    "gpt2": _byte_level, "llama": _sentencepiece,
}  # fmt: skip


def merges_of(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every pair of tokens whose union is a token, best score first; of equals, the lower ids.

    Source: Kudo and Richardson, SentencePiece, arXiv 1808.06226: BPE merges by the union's score.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    found = []
    for union, number in ids.items():
        for cut in range(1, len(union)):
            left, right = ids.get(union[:cut]), ids.get(union[cut:])
            if left is not None and right is not None:
                found.append((-scores[number], left, right))
    return [(tokens[left], tokens[right]) for _, left, right in sorted(found)]


def _bpe(tokens: Sequence[str], merges: list, **options: Any) -> "tokenizers.models.BPE":
    """The merging model. Raises: BadParams for merges that are not of these tokens."""
    from tokenizers import models

    vocabulary = {token: number for number, token in enumerate(tokens)}
    try:
        return models.BPE(vocab=vocabulary, merges=merges, **options)
    except Exception as error:  # the library raises nothing narrower
        raise BadParams("models: the merges of this GGUF file do not fit its tokens",
                        why=str(error), how="fetch the file again") from error  # fmt: skip


def _mark(backend: "tokenizers.Tokenizer", tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Tokens that are found in a text before anything is cut: special ones, and a user's own."""
    from tokenizers import AddedToken

    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind in (UNKNOWN, CONTROL)]
    own = [t for t, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED]
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    backend.add_tokens([AddedToken(t, normalized=False) for t in own])


def _tokens(told: Mapping[str, Any]) -> list[str]:
    """The texts of all ids. Raises: BadParams when two ids have the same one."""
    found = _texts(told, "tokens")
    tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(found)]  # as llama.cpp
    if len(set(tokens)) < len(tokens):
        raise BadParams("models: two ids of this GGUF file have the same text",
                        how="convert the model again")  # fmt: skip
    return tokens


def _texts(told: Mapping[str, Any], name: str) -> Sequence[str]:
    """An array of texts. Raises: BadParams when there is none."""
    found = told.get(name)
    if isinstance(found, tuple) and all(isinstance(text, str) for text in found):
        return found
    raise BadParams(f"models: {OURS}{name} of this GGUF file is no list of texts, or was not read",
                    how="fetch the file again")  # fmt: skip


def _numbers(told: Mapping[str, Any], name: str, count: int) -> Sequence[Any]:
    """One number a token; ones where the file has none. Raises: BadParams for another count."""
    found = told.get(name, (1,) * count)
    if isinstance(found, tuple) and len(found) == count:
        return found
    raise BadParams(f"models: {OURS}{name} of this GGUF file is not one number for each of its "
                    f"{count} tokens", how="fetch the file again")  # fmt: skip
