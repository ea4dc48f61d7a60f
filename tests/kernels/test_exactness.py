"""The check of products: every type and instruction set is right, and one wrong value is seen."""

import numpy as np
import pytest

from llmbench.kernels import exactness
from llmbench.kernels.cpu import Packed, isas
from llmbench.kernels.exactness import TOKENS, checked
from llmbench.kernels.made_up import FLOATS, block_values, kinds, made_up
from llmbench.models import gguf_weights
from tests.kernels.test_build import needs_compiler

pytestmark = needs_compiler


def test_each_type_and_instruction_set_that_is_here_is_right():
    rows = list(checked(kinds(), isas(), 2))
    assert [(row.weights, row.isa, row.what, row.tokens) for row in rows] == [
        (kind, isa, what, tokens) for kind in kinds() for isa in isas()
        for what, tokens in [("weights", None), *(("product", n) for n in TOKENS)]]  # fmt: skip
    assert [row for row in rows if not row.right] == []
    assert all(row.error <= row.bound for row in rows)


def test_the_types_are_those_that_can_be_read_and_values_are_finite():
    assert set(kinds()) == set(gguf_weights.KINDS)
    for kind in kinds():
        cols = 2 * block_values(kind) if block_values(kind) > 1 else 33
        raw = made_up(kind, 5, cols)
        assert np.isfinite(exactness._dequantised(raw, kind)).all()
        assert exactness._dequantised(raw, kind).shape == (5, cols)
        assert (raw == made_up(kind, 5, cols)).all() and (raw != made_up(kind, 5, cols, 1)).any()


@pytest.mark.parametrize("kind", gguf_weights.KINDS)
def test_one_weight_that_is_off_by_one_is_a_fault(kind, monkeypatch):
    """As if one number of one row were the next one in its group's steps, or a float 0.1 off."""
    right, row_of = Packed.product, Packed.row

    def wrong(packed, x):
        y, held = right(packed, x), row_of(packed, 7)
        step = 0.1 if kind in FLOATS else np.diff(np.unique(held[:16])).max()
        y[:, 7] += step * x[:, 0]
        return y

    monkeypatch.setattr(Packed, "product", wrong)
    faults = [row for row in checked([kind], isas()[-1:], 1) if not row.right]
    assert [row.tokens for row in faults] == list(TOKENS)


def test_a_weight_held_wrong_and_a_result_that_is_no_number_are_faults(monkeypatch):
    right, row_of = Packed.product, Packed.row
    monkeypatch.setattr(Packed, "row", lambda packed, row: row_of(packed, row) * (1 + 1e-6))
    assert not next(checked(["Q8_0"], isas()[-1:], 1)).right
    monkeypatch.setattr(Packed, "row", row_of)
    monkeypatch.setattr(Packed, "product", lambda packed, x: right(packed, x) * np.nan)
    *_, last = checked(["Q8_0"], isas()[-1:], 1)
    assert not last.right and last.of_bound == np.inf
    assert last.facts()["of_bound"] is None and last.facts()["right"] is False
