"""A text that fits no window → the pieces in which it is read: every token once, some twice."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmbench.errors import BadParams, Refused

OVERLAP = 10  # by default a piece begins with a tenth of the one before


@dataclass(frozen=True)
class Piece:
    """Tokens [start, end) of a text; those before `fresh` ended the piece before."""

    start: int
    fresh: int
    end: int


@dataclass(frozen=True)
class Layout:
    """How a text is cut for a window, in tokens; what can be carried out."""

    tokens: int  # of the whole text
    window: int  # a piece and its output together
    output_tokens: int  # after each piece
    overlap_tokens: int  # at most; repeated from the piece before

    @property
    def piece_tokens(self) -> int:
        """The most that a piece holds, overlap included."""
        return self.window - self.output_tokens

    @property
    def kind(self) -> str:
        """'whole', 'chunks', or 'sliding' where pieces overlap."""
        if self.tokens <= self.piece_tokens:
            return "whole"
        return "sliding" if self.overlap_tokens else "chunks"

    @property
    def pieces(self) -> int:
        """How many, when every token may begin one; a text whose characters are kept may need more.

        The first takes `piece_tokens`, each further one adds what does not overlap.
        """
        rest = max(0, self.tokens - self.piece_tokens)
        return 1 + -(-rest // (self.piece_tokens - self.overlap_tokens))

    @property
    def last_tokens(self) -> int:
        """What the last piece holds, overlap included."""
        step = self.piece_tokens - self.overlap_tokens
        return self.tokens - (self.pieces - 1) * step

    def facts(self) -> dict[str, int | str]:
        """All of it, for programs."""
        derived = ("kind", "piece_tokens", "pieces")
        return dict(vars(self)) | {name: getattr(self, name) for name in derived}


def layout(
    tokens: int, *, window: int, output_tokens: int, overlap_tokens: int | None = None
) -> Layout:
    """The pieces of `tokens` tokens for a window; without `overlap_tokens` a tenth of a piece.

    Raises: BadParams when the window has no room for text beside the output and the overlap.
    """
    for name, value in {"tokens": tokens, "output tokens": output_tokens}.items():
        if value < 1:
            raise BadParams(f"{name}: {value}; must be at least 1")
    room = window - output_tokens
    if room < 1:
        raise BadParams(
            f"a window of {window:,} tokens has no room for a text and {output_tokens:,} of output",
            how=f"a window of at least {output_tokens + 1:,}, or fewer output tokens",
        )
    overlap = room // OVERLAP if overlap_tokens is None else overlap_tokens
    if not 0 <= overlap < room:
        raise BadParams(f"an overlap of {overlap:,} tokens; a piece holds {room:,}",
                        how=f"an overlap of 0 to {room - 1:,}")  # fmt: skip
    return Layout(tokens, window, output_tokens, overlap)


def pieces(asked: Layout, cuts: Sequence[int] | None = None) -> Iterator[Piece]:
    """The pieces in order; their fresh parts are the whole text, each token once.

    `cuts` are the places, ascending from 0 to `tokens`, at which a piece may begin or end; without
    them all are. The overlap is as large as they allow, and never more than asked.
    Raises: Refused when there is no such place within a whole piece.
    """
    cuts = range(asked.tokens + 1) if cuts is None else cuts
    start = fresh = 0
    while fresh < asked.tokens:
        end = _last(cuts, start + asked.piece_tokens)
        if end <= fresh:  # the next place is too far for an overlap
            start, end = fresh, _last(cuts, fresh + asked.piece_tokens)
        if end <= fresh:
            raise Refused(
                f"no character ends within {asked.piece_tokens:,} tokens after token {fresh:,}",
                how="a larger window, or fewer output tokens",
            )
        yield Piece(start, fresh, end)
        start, fresh = cuts[bisect_left(cuts, end - asked.overlap_tokens)], end


def _last(cuts: Sequence[int], most: int) -> int:
    return cuts[bisect_right(cuts, most) - 1]
