"""A tokenizer trained here from a few sentences; no model files are needed."""

from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from llmbench.errors import Missing
from llmbench.models.source import BUILTIN
from llmbench.models.tokenizer import Tokenizer, load_tokenizer

TEXT = ["the quick brown fox jumps over the lazy dog and the quick cat", "Hello, the World! 123"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE that begins every text with a special token, with padding switched on."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(TEXT * 5, trainer)
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    backend.enable_padding(length=64)
    backend.enable_truncation(max_length=64)
    folder = tmp_path_factory.mktemp("tokenizer")
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


@pytest.mark.parametrize("text", ["the quick fox", " the fox", "naïve – 雪 🙂\n", ""])
def test_text_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_nothing_is_added_padded_or_cut(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []
    assert 0 not in tokenizer.encode("the quick")
    assert len(tokenizer.encode("x" * 500)) > 64


@pytest.mark.parametrize("text", ["the quick fox", "naïve – 雪 🙂🙂\n", "🙂", ""])
def test_cuts_part_a_text_between_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    ids, cuts = tokenizer.encode_with_cuts(text)
    assert ids == tokenizer.encode(text)
    assert (cuts[0], cuts[-1], cuts) == (0, len(ids), sorted(set(cuts)))
    for place in range(len(ids) + 1):
        parts = tokenizer.decode(ids[:place]) + tokenizer.decode(ids[place:])
        assert (parts == text) == (place in cuts)


def test_special_ids_are_named_and_left_out_of_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.special_ids == (0,)
    assert tokenizer.token_text(0) == "<s>"
    assert tokenizer.decode([0, *tokenizer.encode("the")]) == "the"


def test_plain_ids_are_a_space_and_a_lower_case_word(tokenizer: Tokenizer) -> None:
    texts = [tokenizer.token_text(i) for i in tokenizer.plain_ids]
    assert " the" in texts
    assert " quick" in texts
    assert all(t[0] == " " and t[1:].isascii() and t[1:].islower() for t in texts)
    assert list(tokenizer.plain_ids) == sorted(set(tokenizer.plain_ids))


def test_token_texts_put_together_are_the_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the quick brown fox, over 123")
    assert "".join(tokenizer.token_text(i) for i in ids) == "the quick brown fox, over 123"


def test_an_id_that_is_none_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(KeyError):
        tokenizer.token_text(tokenizer.vocab_size)


def test_a_decoder_that_strips_the_first_space_still_shows_it(tmp_path: Path) -> None:
    """Sentencepiece-style: a space is a ▁ in front of the word, and a text's first is dropped."""
    vocab = {"<unk>": 0, "▁the": 1, "▁fox": 2, "▁a": 3, "The": 4, "a": 5}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode([1, 2]) == "the fox"
    assert tokenizer.token_text(1) == " the"
    assert tokenizer.plain_ids == (1, 2, 3)


def test_a_folder_without_tokenizer_is_missing_it(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(Missing, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_what_a_tokenizer_puts_first_is_known_and_not_part_of_a_text(folder: Path):
    made = load_tokenizer(folder)
    assert made.bos == 0 and made.first == [0] and 0 not in made.encode(TEXT[0])
    assert load_tokenizer(BUILTIN / "tiny").first == []
