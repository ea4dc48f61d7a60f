"""Pieces of a text: every token once besides the overlap, characters whole, refusals."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.chunks import Piece, layout, pieces
from llmbench.errors import BadParams, Refused


@st.composite
def layouts(draw):
    output, room = draw(st.integers(1, 50)), draw(st.integers(1, 60))
    overlap = draw(st.none() | st.integers(0, room - 1))
    return layout(draw(st.integers(1, 400)), window=room + output, output_tokens=output,
                  overlap_tokens=overlap)  # fmt: skip


@given(layouts())
def test_every_token_is_read_once_besides_the_overlap(asked):
    made = list(pieces(asked))
    assert [n for p in made for n in range(p.fresh, p.end)] == list(range(asked.tokens))
    assert len(made) == asked.pieces
    assert made[-1].end - made[-1].start == asked.last_tokens
    assert all(p.end - p.start == asked.piece_tokens for p in made[:-1])
    assert all(before.end - after.start == asked.overlap_tokens for before, after in pairwise(made))


@given(layouts(), st.data())
def test_with_places_to_cut_every_token_is_read_once_and_no_piece_is_too_long(asked, data):
    steps = data.draw(st.lists(st.integers(1, asked.piece_tokens), min_size=400, max_size=400))
    cuts = [0]
    while cuts[-1] < asked.tokens:
        cuts.append(min(cuts[-1] + steps[len(cuts)], asked.tokens))
    made = list(pieces(asked, cuts))
    assert [n for p in made for n in range(p.fresh, p.end)] == list(range(asked.tokens))
    assert {place for p in made for place in (p.start, p.fresh, p.end)} <= set(cuts)
    assert max(p.end - p.start for p in made) <= asked.piece_tokens
    assert all(p.fresh - p.start <= asked.overlap_tokens for p in made)


def test_a_worked_example():
    asked = layout(25, window=12, output_tokens=2, overlap_tokens=2)
    assert list(pieces(asked)) == [Piece(0, 0, 10), Piece(8, 10, 18), Piece(16, 18, 25)]
    assert (asked.kind, asked.pieces, asked.last_tokens) == ("sliding", 3, 9)
    assert list(pieces(asked, [0, 9, 11, 25 - 7, 25])) == [
        Piece(0, 0, 9), Piece(9, 9, 18), Piece(18, 18, 25)]  # fmt: skip
    assert layout(25, window=12, output_tokens=2, overlap_tokens=0).kind == "chunks"
    assert layout(10, window=12, output_tokens=2).kind == "whole"
    assert layout(999, window=110, output_tokens=10).overlap_tokens == 10


def test_a_character_longer_than_a_piece_is_refused_with_its_place():
    with pytest.raises(Refused, match="no character ends within 4 tokens after token 4"):
        list(pieces(layout(20, window=6, output_tokens=2, overlap_tokens=0), [0, 4, 10, 20]))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"tokens": 0}, "tokens: 0; must be at least 1"),
        ({"output_tokens": 0}, "output tokens: 0"),
        ({"window": 8}, "no room for a text.*\n.*at least 9"),
        ({"overlap_tokens": 92}, "a piece holds 92.*\n.*0 to 91"),
        ({"overlap_tokens": -1}, "a piece holds 92"),
    ],
)
def test_what_cannot_be_cut_is_refused(asked, told):
    with pytest.raises(BadParams, match=told):
        layout(**{"tokens": 500, "window": 100, "output_tokens": 8} | asked)
