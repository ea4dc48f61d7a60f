"""Token ids ↔ the text that a server takes and gives, proved id by id."""

from collections.abc import Sequence
from functools import cached_property

from llmbench.errors import BadParams, Refused
from llmbench.models.tokenizer import Tokenizer

UNKNOWN = -1  # a token that was counted and whose text never came
BROKEN = "\ufffd"  # stands for bytes that are no whole character


class Texts:
    """A model's tokenizer as a server sees it. `bos` is what the server puts before every text."""

    def __init__(self, tokenizer: Tokenizer, bos: int | None = None) -> None:
        self._tokenizer, self.bos = tokenizer, bos

    def prompt(self, ids: Sequence[int]) -> str:
        """The text that is exactly `ids`, without the `bos` that the server adds by itself.

        Raises: BadParams for no ids, Refused when no text stands for these ids.
        """
        asked = list(ids[1:] if self.bos is not None and ids and ids[0] == self.bos else ids)
        if not asked:
            raise BadParams("engine ollama: an empty prompt", how="at least one token")
        if not all(0 <= token < self._tokenizer.vocab_size for token in asked):
            raise Refused(
                f"a prompt id lies outside the vocabulary of {self._tokenizer.vocab_size}"
            )
        text = self._tokenizer.decode(asked)
        again = self._tokenizer.encode(text)
        if again != asked:
            at = next((i for i, pair in enumerate(zip(again, asked, strict=False))
                       if pair[0] != pair[1]), min(len(again), len(asked)))  # fmt: skip
            raise Refused(
                f"engine ollama: no text stands for these {len(asked)} tokens",
                why=f"it takes text, and theirs reads as other tokens from token {at} on",
                how="a prompt that ends with a whole word, or an engine that takes ids",
            )
        return text

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without `bos`."""
        return self._tokenizer.encode(text)

    def expected(self, ids: Sequence[int]) -> int:
        """How many tokens the server must count for the prompt `ids`."""
        return len(ids) + (self.bos is not None and ids[0] != self.bos)

    def ids(self, text: str) -> list[int]:
        """The token whose text this is; several when it is no single token's."""
        known = self.known.get(text)
        return [known] if known is not None else self._tokenizer.encode(text)

    @cached_property
    def known(self) -> dict[str, int]:
        """Text → id of every token whose bytes are whole characters; the lowest id of equals."""
        found: dict[str, int] = {}
        for token in range(self._tokenizer.vocab_size):
            try:
                text = self._tokenizer.token_text(token)
            except KeyError:
                continue
            if text and BROKEN not in text:
                found.setdefault(text, token)
        return found
