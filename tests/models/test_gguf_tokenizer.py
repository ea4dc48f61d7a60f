"""The tokenizer in a GGUF file gives the ids of its Hugging Face original, on all kinds of text."""

import functools
import itertools
import json

import pytest

from llmbench.errors import BadParams, Unsupported
from llmbench.models.gguf_tokenizer import RULES, merges_of, tokenizer_of
from llmbench.models.shapes import TINY
from llmbench.models.tokenizer import Tokenizer, load_tokenizer
from tests.models.gguf_vocabularies import byte_level, keys, sentencepiece

TEXTS = [
    "", " ", "a", "Hello world", " leading", "trailing ", "two  spaces", "   three and\t\ttabs\n",
    "def f(x):\n    return x  # twice\n\n\n\tif y:\r\n\t\tpass\r\n", "0", "12345678901234567890",
    "3.14159e-10, 1,234,567; 0x7f", "I'll we've it's DON'T CAN'T 'sup",
    "don\N{RIGHT SINGLE QUOTATION MARK}t naïve café — “quotes” … ½ ² Ⅻ ٣٤٥",
    "日本語のテキスト。中文文本！한국어", "Привет, мир! Γειά σου",
    "👍🏽 👩‍👩‍👧‍👦 🇩🇪", "e\N{COMBINING ACUTE ACCENT}\N{COMBINING CEDILLA} decomposed",
    "\N{NO-BREAK SPACE}nbsp\N{IDEOGRAPHIC SPACE}wide\N{ZERO WIDTH SPACE}zero",
    "\x00\x01\x7f control",
    "\n\n \n  \n   ", "{}[]()<>!@#$%^&*_+-=|\\/~`", "snake_case camelCase HTTPServer v2.0",
    "हिन्दी में लिखा हुआ", "ไทยไม่มีช่องว่าง", "<|endoftext|>", "a<|endoftext|>b <|endoftext|>",
    "<s>not special</s>", "\N{LOWER ONE EIGHTH BLOCK}sign", "x" * 300, "ab " * 50,
]  # fmt: skip


@functools.cache
def corpus():
    text = (TINY / "heldout.txt").read_text(encoding="utf-8")[:200_000]
    return text.splitlines(keepends=True) + TEXTS * 3


def trained(split):
    """A byte-level BPE tokenizer of 900 tokens whose text is cut by `split`."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = split, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    backend.train_from_iterator(corpus(), trainer)
    return backend


def assert_same(ours: Tokenizer, theirs: Tokenizer, texts=TEXTS):
    for text in [*texts, *corpus()[:200]]:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, repr(text)
        assert ours.decode(ids) == theirs.decode(ids), repr(text)
        piece = ours.stream()
        assert "".join(map(piece, ids)) == "".join(map(theirs.stream(), ids)), repr(text)
    assert (ours.vocab_size, ours.special_ids) == (theirs.vocab_size, theirs.special_ids)


def test_the_tokenizer_of_builtin_tiny():
    told = json.loads((TINY / "tokenizer.json").read_text())
    assert_same(tokenizer_of(byte_level(told, "gpt-2")), load_tokenizer(TINY))


def digits_first():
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False)])  # fmt: skip


def of_class(name):
    """The pre-tokenizer that transformers' own class of this name builds."""
    import transformers

    return getattr(transformers, name)().backend_tokenizer


def of_pattern(pattern):
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated", False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])  # fmt: skip


def tiktoken_pattern():
    """Llama 3's pattern as transformers has it for tiktoken files, the origin of its tokenizer."""
    import inspect

    from transformers.convert_slow_tokenizer import TikTokenConverter

    return inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default


@pytest.mark.parametrize("pre", ["smollm", "starcoder", "refact"])
def test_digits_stand_alone(pre):
    original = trained(digits_first())
    told = json.loads(original.to_str())
    assert_same(tokenizer_of(byte_level(told, pre)), Tokenizer(original))


def test_qwen2_composes_its_text_and_cuts_it_as_its_class_does():
    model = of_class("Qwen2Tokenizer")
    original = trained(model.pre_tokenizer)
    original.normalizer = model.normalizer
    ours = tokenizer_of(byte_level(json.loads(original.to_str()), "qwen2"))
    assert_same(ours, Tokenizer(original))
    assert ours.encode("e\N{COMBINING ACUTE ACCENT}") == ours.encode("é")


def test_llama3_takes_a_whole_word_that_is_a_token():
    original = trained(of_pattern(tiktoken_pattern()))
    told = json.loads(original.to_str())
    told["model"]["vocab"]["Zebrawood"] = len(told["model"]["vocab"])  # no merges lead there
    told["model"]["ignore_merges"] = True
    import tokenizers

    theirs = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(told)))
    ours = tokenizer_of(byte_level(told, "llama-bpe"))
    assert_same(ours, theirs, [*TEXTS, "Zebrawood", "a Zebrawood"])
    assert ours.encode("Zebrawood") == [len(told["model"]["vocab"]) - 1]
    assert len(tokenizer_of(byte_level(told, "dbrx")).encode("Zebrawood")) > 1


def test_every_rule_keeps_every_text_whole():
    told = json.loads((TINY / "tokenizer.json").read_text())
    import unicodedata

    for pre in RULES:
        tokenizer = tokenizer_of(byte_level(told, pre))
        for text in TEXTS:
            kept = unicodedata.normalize("NFC", text) if RULES[pre].nfc else text
            assert tokenizer.decode(tokenizer.encode(text)) == kept.replace("<|endoftext|>", "")


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("default", ["Don", "'", "t", " pay", " ", "$", "123", "45", ".", "6", " NOW"]),
        ("gpt-2", ["Don", "'t", " pay", " $", "12345", ".", "6", " NOW"]),
        ("smollm", ["Don", "'t", " pay", " $", *"12345", ".", "6", " NOW"]),
        ("llama-bpe", ["Don", "'t", " pay", " $", "123", "45", ".", "6", " NOW"]),
        ("qwen2", ["Don", "'t", " pay", " $", *"12345", ".", "6", " NOW"]),
        ("tekken", ["Don", "'t", " pay", " $", *"12345", ".", "6", " NOW"]),
        ("gpt-4o", ["Don't", " pay", " $", "123", "45", ".", "6", " NOW"]),
    ],
)
def test_each_rule_cuts_by_hand(pre, pieces):
    told = json.loads((TINY / "tokenizer.json").read_text())
    backend = tokenizer_of(byte_level(told, pre))._backend
    text = "Don't pay $12345.6 NOW"
    cut = [text[a:b] for _, (a, b) in backend.pre_tokenizer.pre_tokenize_str(text)]
    assert cut == pieces


# -- SentencePiece ---------------------------------------------------------------------------------


@functools.cache
def scored():
    """Tokens with their scores, as SentencePiece gives them: bytes, then characters by merges."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=700, limit_alphabet=150, show_progress=False)
    backend.train_from_iterator(corpus(), trainer)
    vocabulary = backend.get_vocab()
    pieces = sorted(vocabulary, key=lambda t: (len(t) == 1, vocabulary[t]))  # merges, characters
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return tokens, [0.0] * 259 + [-float(rank) for rank in range(len(pieces))]


def by_the_book(text, tokens, scores, prefix):
    """SentencePiece's BPE as its paper and llama.cpp have it: best union first, then leftmost."""
    ids = {token: number for number, token in enumerate(tokens)}
    symbols = list((SPACE if prefix and text else "") + text.replace(" ", SPACE))
    while True:
        pairs = enumerate(map("".join, itertools.pairwise(symbols)))
        unions = [(-scores[ids[union]], place) for place, union in pairs if union in ids]
        if not unions:
            break
        _, place = min(unions)
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
    bytes_of = {s: [ids[f"<0x{byte:02X}>"] for byte in s.encode()] for s in symbols}
    return [found for s in symbols for found in ([ids[s]] if s in ids else bytes_of[s])]


SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
NO_SPECIALS = [text for text in TEXTS if "<s>" not in text]


@pytest.mark.parametrize("prefix", [True, False])
def test_scores_merge_as_sentencepiece_does(prefix):
    tokens, scores = scored()
    ours = tokenizer_of(sentencepiece(tokens, scores) | keys(add_space_prefix=prefix))
    for text in [*NO_SPECIALS, *corpus()[:200]]:
        ids = by_the_book(text, tokens, scores, prefix)
        assert ours.encode(text) == ids, repr(text)
        back = text.replace(SPACE, " ")  # the sign is a space to SentencePiece
        assert ours.decode(ids) == back, repr(text)
        assert "".join(map(ours.stream(), ids)).lstrip(" ") == back.lstrip(" ")
    assert ours.special_ids == (0, 1, 2)


def test_the_hugging_face_form_of_a_sentencepiece_model_gives_the_same_ids():
    """Llama's tokenizer.json: merges as transformers derives them, a prefix, bytes for the rest."""
    import tokenizers
    from tokenizers import decoders, models, normalizers
    from transformers.convert_slow_tokenizer import generate_merges

    tokens, scores = scored()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = generate_merges(vocabulary, list(zip(tokens, scores, strict=True)))
    theirs = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True,
                                             byte_fallback=True))  # fmt: skip
    theirs.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE),
                                              normalizers.Replace(" ", SPACE)])  # fmt: skip
    theirs.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(),
                                        decoders.Fuse(), decoders.Strip(" ", 1, 0)])  # fmt: skip
    theirs.add_special_tokens(["<unk>", "<s>", "</s>"])
    assert_same(tokenizer_of(sentencepiece(tokens, scores)), Tokenizer(theirs))


def test_merges_follow_scores_and_then_ids():
    tokens = ["a", "b", "c", "ab", "bc", "abc"]
    assert merges_of(tokens, [0, 0, 0, -2, -1, -3]) == [
        ("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]  # fmt: skip


def test_a_users_own_token_is_found_before_merging():
    tokens, scores = scored()
    made = sentencepiece([*tokens, "<tool>"], [*scores, 0.0], own=["<tool>"])
    ours = tokenizer_of(made)
    assert len(tokens) in ours.encode("call <tool> now")
    assert ours.special_ids == (0, 1, 2)
    assert ours.decode(ours.encode("call<tool>")) == "call<tool>"


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"pre": "kimi-k2"}, Unsupported, "'kimi-k2'"),
        ({"pre": None}, Unsupported, "None"),
        ({"model": "t5"}, Unsupported, "'t5'"),
        ({"model": None}, Unsupported, "None"),
        ({"merges": None}, BadParams, "merges"),
        ({"merges": ("a b c", "nonsense")}, BadParams, "merges"),
        ({"merges": (1, 2)}, BadParams, "merges"),
        ({"tokens": ("a", "a")}, BadParams, "same text"),
        ({"tokens": ()}, BadParams, "token"),
        ({"token_type": (1, 1)}, BadParams, "token_type"),
        ({"tokens": ("a", "\udcff")}, BadParams, "token"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_cannot_be_read_is_refused_by_name(changes, error, words):
    told = byte_level(json.loads((TINY / "tokenizer.json").read_text()), "gpt-2") | keys(**changes)
    with pytest.raises(error, match=words):
        tokenizer_of({key: value for key, value in told.items() if value is not None})


def test_a_header_read_without_texts_has_no_tokenizer():
    from llmbench.models.header import Skipped

    told = byte_level(json.loads((TINY / "tokenizer.json").read_text()), "gpt-2")
    with pytest.raises(BadParams, match="tokens"):
        tokenizer_of(told | keys(tokens=Skipped(4096)))


@pytest.mark.parametrize(("kind", "told", "first"), [
    ("gpt2", {}, []), ("gpt2", {"add_bos_token": True}, [1]), ("gpt2", {"pre": "llama-bpe"}, [1]),
    ("llama", {}, [1]), ("llama", {"add_bos_token": False}, []),
])  # fmt: skip
def test_a_text_begins_as_the_file_says_or_as_its_kind_does(kind, told, first):
    tiny = json.loads((TINY / "tokenizer.json").read_text())
    known = byte_level(tiny, "gpt-2") if kind == "gpt2" else sentencepiece(
        ["<unk>", "<s>", "</s>", "a", "b", "ab"], [0.0] * 6)  # fmt: skip
    assert tokenizer_of(known | keys(bos_token_id=1, **told)).first == first
