"""Text ↔ ids from a folder's tokenizer.json, without torch or transformers."""

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.errors import Missing

if TYPE_CHECKING:
    import tokenizers

PLAIN = re.compile(r" [a-z]+")


class Tokenizer:
    """A model's tokenizer. Ids are positions in the model's vocabulary.

    `bos`: the id with which the model wants every text to begin, if any; `encode` leaves it out.
    """

    def __init__(self, backend: "tokenizers.Tokenizer", bos: int | None = None) -> None:
        self._backend, self.bos = backend, bos

    @property
    def first(self) -> list[int]:
        """What every prompt begins with: `bos`, or nothing."""
        return [] if self.bos is None else [self.bos]

    def encode(self, text: str) -> list[int]:
        """Ids of `text` itself: no special token is added, before or after."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_with_cuts(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of `text`, and the places among them, 0 and the end too, where no character is cut.

        A place p stands before id p: a text may be parted there, and both parts are whole.
        """
        made = self._backend.encode(text, add_special_tokens=False)
        inner = zip(made.offsets, made.offsets[1:], strict=False)
        whole = [p for p, (before, after) in enumerate(inner, 1) if before[1] <= after[0]]
        return made.ids, [0, *whole, len(made.ids)] if made.ids else [0]

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, special tokens left out."""
        return self._backend.decode(ids)

    def stream(self) -> Callable[[int], str]:
        """A function that takes ids one by one and gives the text that each completes.

        A character of several tokens comes whole, with its last one.
        """
        from tokenizers.decoders import DecodeStream

        decoder = DecodeStream(skip_special_tokens=True)
        return lambda token: decoder.step(self._backend, token) or ""

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included; a model's embedding may have more rows."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def token_text(self, token_id: int) -> str:
        """Text of one id where it stands inside a text, special tokens shown by their name.

        Raises: KeyError for an id that the tokenizer does not have.
        """
        name = self._backend.id_to_token(token_id)
        if name is None:
            raise KeyError(token_id)
        if token_id in self._specials:
            return name
        before, after = self._anchor, [*self._anchor, token_id]
        decode = self._backend.decode
        return decode(after)[len(decode(before)) :]

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of special tokens, ascending."""
        return tuple(sorted(self._specials))

    @cached_property
    def plain_ids(self) -> tuple[int, ...]:
        """Ids whose text is a space and a lower-case ASCII word, ascending: nonces are drawn here.

        Raises: Missing when there is none.
        """
        ids = (i for i in range(self.vocab_size) if i not in self._specials and self._known(i))
        plain = tuple(i for i in ids if PLAIN.fullmatch(self.token_text(i)))
        if not plain:
            raise Missing("models: this tokenizer has no id for a space and a lower-case word")
        return plain

    def _known(self, token_id: int) -> bool:
        return self._backend.id_to_token(token_id) is not None

    @cached_property
    def _specials(self) -> frozenset[int]:
        added = self._backend.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    @cached_property
    def _anchor(self) -> list[int]:
        """Ids before a token, so that decoders which strip a text's first space show it."""
        return self._backend.encode("a", add_special_tokens=False).ids


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model folder. Raises: Missing without a readable tokenizer.json."""
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise Missing(
            f"models: {Path(folder).name} has no tokenizer.json",
            how="save the tokenizer in its fast form: tokenizer.save_pretrained(folder)",
        )
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise Missing(f"models: {path.name} cannot be read", why=str(error)) from error
    backend.no_truncation()
    backend.no_padding()
    return Tokenizer(backend, _put_first(backend))


def _put_first(backend: "tokenizers.Tokenizer") -> int | None:
    """The one id that the tokenizer itself puts before a text, if it does."""
    framed, plain = (backend.encode("a", add_special_tokens=s).ids for s in (True, False))
    return framed[0] if framed[1 : 1 + len(plain)] == plain and framed[0] != plain[0] else None
