"""Tokenizers in GGUF files: llama.cpp makes the same ids of them, and unknown kinds are refused."""

import json
import random
import shutil

import pytest

from llmbench.errors import BadParams, Unsupported
from llmbench.models import gguf_vocab
from llmbench.models.export import export
from llmbench.models.gguf_vocab import pre_tokenizer_name, vocabulary
from llmbench.models.tokenizer import load_tokenizer
from tests.families import random_model
from tests.tokenizers_made_here import PRE, byte_level, corpus, saved, sentencepiece

TEXTS = [
    "Hello world, it's 2024!", "def f(x):\n\treturn x**2\n\n\n", "naïve 日本語 🚀🦙 x",
    "'RE you? I'VE", "1234567890 3.14159 v1.2.3", "a  b   c    d", "tail  ", "\n\n \n\t\t x",
    "\u0e20\u0e32 ق 한국어", "----===```\"\"\"...!!!???", "<|endoftext|>x<|im_start|>",
    "</s>x<s>", "\u00a0nbsp\u2028 line", "",
]  # fmt: skip


def texts():
    """Awkward texts, parts of the corpus from anywhere, and characters at random."""
    random.seed(5)
    whole = "\n".join(corpus())
    for _ in range(60):
        start = random.randrange(len(whole) - 80)
        yield whole[start : start + random.randrange(1, 80)]
    pools = [range(32, 127), range(0xA0, 0x250), range(0x400, 0x460), range(0x4E00, 0x4E80),
             range(0x1F600, 0x1F640)]  # fmt: skip
    for _ in range(60):
        yield "".join(chr(random.choice(random.choice(pools))) for _ in range(20))
    yield from TEXTS


def llamacpp_ids(file, ask):
    """What llama.cpp's own tokenizer makes of texts: a function of the text."""
    from llmbench.models.llamacpp_library import llamacpp

    library = llamacpp()
    asked = library.llama_model_default_params()
    asked.vocab_only = True
    model = library.llama_model_load_from_file(bytes(file), asked)
    vocab = library.llama_model_get_vocab(model)

    def encode(text, special=False):
        raw = text.encode()
        room = (library.llama_token * (len(raw) + 16))()
        count = library.llama_tokenize(vocab, raw, len(raw), room, len(room), special, True)
        return list(room[:count])

    result = ask(encode)
    library.llama_model_free(model)
    return result


def exported(folder, tmp_path, tokenizer, **config):
    """A random model with this tokenizer, as an F16 GGUF file."""
    random_model("llama", folder)
    saved(tokenizer, folder, **config)
    told = []
    return export(str(folder), tmp_path / "model.gguf", "F16", tell=told.append), told


def differing(file, folder, given):
    ours = load_tokenizer(folder)
    return llamacpp_ids(file, lambda encode: [t for t in given if encode(t) != ours.encode(t)])


@pytest.mark.llamacpp
@pytest.mark.parametrize("name", PRE)
def test_byte_level_ids_are_the_same(name, tmp_path):
    folder = tmp_path / "model"
    file, _ = exported(folder, tmp_path, byte_level(name), eos_token="<|endoftext|>")
    assert differing(file, folder, texts()) == []


@pytest.mark.llamacpp
@pytest.mark.parametrize("prefix", ["legacy", "first", "never", "gemma"])
def test_sentencepiece_ids_are_the_same(prefix, tmp_path):
    folder = tmp_path / "model"
    file, told = exported(
        folder, tmp_path, sentencepiece(prefix), bos_token="<s>", eos_token="</s>"
    )
    given = [t for t in texts() if prefix != "first" or not t.startswith((" ", "</s>"))]
    assert differing(file, folder, given) == []
    assert any("begins with a space" in note for note in told) == (prefix == "first")


@pytest.mark.llamacpp
def test_the_ids_put_before_a_text_are_the_tokenizers_own(tmp_path):
    from tokenizers import processors

    made = sentencepiece()
    made.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    file, _ = exported(tmp_path / "m", tmp_path, made, bos_token="<s>", eos_token="</s>")
    plain, framed = llamacpp_ids(file, lambda encode: (encode("a b"), encode("a b", True)))
    assert framed == made.encode("a b").ids == [1, *plain]


@pytest.mark.llamacpp
def test_nothing_is_put_before_a_text_unless_the_tokenizer_does(tmp_path):
    """llama.cpp itself would put a token there, by the name of the pre-tokenizer."""
    made = byte_level("llama-bpe")
    file, _ = exported(tmp_path / "m", tmp_path, made, eos_token="<|endoftext|>")
    assert llamacpp_ids(file, lambda encode: encode("a b", True)) == made.encode("a b").ids


@pytest.mark.llamacpp
def test_ids_beyond_the_tokenizer_are_unused_and_never_made(tmp_path):
    file, _ = exported(tmp_path / "m", tmp_path, byte_level("gpt-2"), eos_token="<|endoftext|>")
    most = llamacpp_ids(file, lambda encode: max(max(encode(t), default=0) for t in texts()))
    assert most < 900
    assert "[PAD4095]" in json.dumps([f["text"] for f in _tokens(file)[-1:]])
    assert {token["type"] for token in _tokens(file)[900:]} == {gguf_vocab.UNUSED}


def _tokens(file):
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    names, types = (fields[f"tokenizer.ggml.{n}"].contents() for n in ("tokens", "token_type"))
    return [{"text": text, "type": kind} for text, kind in zip(names, types, strict=True)]


def test_the_unused_ids_of_a_shape_are_unused(tmp_path):
    from llmbench.models.shapes import padded_tokenizer

    made = vocabulary(padded_tokenizer(4200), 4200, print)
    assert made.types[:2] == [gguf_vocab.CONTROL, gguf_vocab.NORMAL]
    assert set(made.types[4096:]) == {gguf_vocab.UNUSED}
    assert gguf_vocab.UNUSED not in made.types[:4096]


def test_types_and_scores_of_sentencepiece():
    told = json.loads(sentencepiece().to_str())
    made = vocabulary(told, 1000, print)
    kinds = dict(zip(made.texts, made.types, strict=True))
    assert kinds["<unk>"] == gguf_vocab.CONTROL  # an added special token, as in transformers
    assert (kinds["<s>"], kinds["<0x0A>"]) == (gguf_vocab.CONTROL, gguf_vocab.BYTE)
    assert (kinds["e"], kinds["[PAD999]"]) == (gguf_vocab.NORMAL, gguf_vocab.UNUSED)
    scores = dict(zip(made.texts, made.scores, strict=True))
    first, last = ("".join(told["model"]["merges"][i]) for i in (0, -1))
    assert 0 >= scores[first] > scores[last] > scores["e"]


def test_a_chat_template_is_kept(tmp_path):
    from gguf import GGUFReader

    folder = random_model("llama", tmp_path / "m")
    saved(byte_level("gpt-2"), folder, eos_token="<|endoftext|>", chat_template="{{ messages }}")
    file = export(str(folder), tmp_path / "model.gguf", "F16")
    fields = GGUFReader(file).fields
    assert fields["tokenizer.chat_template"].contents() == "{{ messages }}"
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 0


def test_merges_that_sentencepiece_would_not_follow_are_refused():
    told = json.loads(sentencepiece(every_way=False).to_str())
    with pytest.raises(Unsupported, match="merges do not join"):
        vocabulary(told, 1000, print)
    told = json.loads(sentencepiece().to_str())
    merges = told["model"]["merges"]
    pieces = ["".join(merge) for merge in merges]
    double = next(i for i in range(1, len(pieces)) if pieces[i] == pieces[i - 1])
    merges.append(merges.pop(double))
    with pytest.raises(Unsupported, match="two places of their order"):
        vocabulary(told, 1000, print)


def _changed(told, *path, value):
    told = json.loads(json.dumps(told))
    inner = told
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return told


@pytest.mark.parametrize(("path", "value", "what"), [
    (("model", "type"), "WordPiece", "WordPiece, not BPE"),
    (("model", "dropout"), 0.1, "dropout"),
    (("model", "ignore_merges"), True, "no pre-tokenizer like"),
    (("normalizer",), {"type": "Lowercase"}, "Lowercase"),
    (("pre_tokenizer",), None, "no pre-tokenizer like"),
    (("pre_tokenizer",), {"type": "Whitespace"}, "no pre-tokenizer like"),
    (("pre_tokenizer", "add_prefix_space"), True, "no pre-tokenizer like"),
])  # fmt: skip
def test_a_byte_level_tokenizer_of_an_unknown_kind_is_refused(path, value, what):
    told = json.loads(byte_level("gpt-2").to_str())
    vocabulary(told, 1000, print)
    with pytest.raises(Unsupported, match=what):
        vocabulary(_changed(told, *path, value=value), 1000, print)


@pytest.mark.parametrize(("path", "value", "what"), [
    (("normalizer",), None, "treats spaces"),
    (("normalizer", "normalizers", 1, "content"), "_", "treats spaces"),
    (("model", "vocab", "<0x0A>"), None, "1 of the 256 bytes"),
])  # fmt: skip
def test_a_sentencepiece_tokenizer_of_an_unknown_kind_is_refused(path, value, what):
    told = json.loads(sentencepiece().to_str())
    changed = _changed(told, *path, value=value)
    changed["model"]["vocab"] = {
        t: i for t, i in changed["model"]["vocab"].items() if i is not None
    }
    with pytest.raises(Unsupported, match=what):
        vocabulary(changed, 1000, print)


def test_what_a_pre_tokenizer_does_decides_its_name():
    told = json.loads(byte_level("qwen2").to_str())["pre_tokenizer"]
    assert pre_tokenizer_name(told, False) == "qwen2"
    with pytest.raises(Unsupported):
        pre_tokenizer_name(told, True)
    told["pretokenizers"][0]["behavior"] = "Removed"
    with pytest.raises(Unsupported):
        pre_tokenizer_name(told, False)


def test_two_ids_of_one_text_and_too_many_ids_are_refused():
    told = json.loads(byte_level("gpt-2").to_str())
    with pytest.raises(BadParams, match="do not belong together"):
        vocabulary(told, 899, print)
    told["model"]["vocab"]["[PAD950]"] = 900
    with pytest.raises(Unsupported, match="one text"):
        vocabulary(told, 1000, print)


def test_nfc_is_told_and_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    told, heard = json.loads(byte_level("qwen2").to_str()), []
    vocabulary(told | {"normalizer": {"type": "NFC"}}, 1000, heard.append)
    assert "NFC" in heard[0]
    folder = random_model("llama", tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Exception, match=r"no tokenizer\.json"):
        export(str(folder), tmp_path / "model.gguf", "F16")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    shutil.rmtree(folder)
