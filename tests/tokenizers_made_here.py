"""Small tokenizers, trained in the tests, of the kinds that GGUF files are written of."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llmbench.models.gguf_vocab import LLAMA3, QWEN2

TINY = Path(__file__).parent.parent / "llmbench" / "models" / "builtin" / "tiny"
EXTRA = [
    "naïve café, Ελληνικά, привет мир 1234567",
    "日本語のテキスト 한국어 🚀🦙",
    "don't WE'LL I'm",
] * 8
SPACE = "▁"


def corpus() -> list[str]:
    """Lines to train on: prose, code, and scripts beyond ASCII."""
    return [*(TINY / "heldout.txt").read_text(encoding="utf-8").splitlines(), *EXTRA]


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])  # fmt: skip


PRE = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "qwen2": lambda: split_by(QWEN2),
    "smaug-bpe": lambda: split_by(LLAMA3),
    "llama-bpe": lambda: split_by(LLAMA3),
}  # fmt: skip


def byte_level(name: str) -> Tokenizer:
    """A byte-level BPE with the pre-tokenizer that llama.cpp calls `name`."""
    made = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    made.pre_tokenizer, made.decoder = PRE[name](), decoders.ByteLevel()
    made.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<|endoftext|>", "<|im_start|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    return made


def sentencepiece(prefix: str = "legacy", every_way: bool = True) -> Tokenizer:
    """A SentencePiece-like BPE. `prefix`: legacy (as Llama 2), first, never, or gemma.

    Its merges join a piece in every way that the vocabulary has, as SentencePiece does, or,
    without `every_way`, only as it was trained.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=700, show_progress=False))
    told = json.loads(trained.to_str())["model"]
    pieces = [a + b for a, b in told["merges"]]
    known = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *told["vocab"]]
    vocab = {text: number for number, text in enumerate(known)}
    ways = [[(p[:i], p[i:]) for i in range(1, len(p)) if p[:i] in vocab and p[i:] in vocab]
            for p in pieces]  # fmt: skip
    merges = [way for piece in ways for way in piece] if every_way else [
        tuple(merge) for merge in told["merges"]]  # fmt: skip
    made = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(),
                                      decoders.Fuse()])  # fmt: skip
    replace = normalizers.Replace(" ", SPACE)
    if prefix == "legacy":
        made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace])
    elif prefix == "gemma":
        made.normalizer = replace
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    return made


def saved(made: Tokenizer, folder: Path, **config: object) -> Path:
    """`folder` with the tokenizer's two files; `config` goes into tokenizer_config.json."""
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
