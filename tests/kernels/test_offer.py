"""What `kernels list` tells: the library's own word on what it holds, and edge's on what serves."""

from llmbench.kernels import cpu, offer
from llmbench.kernels.made_up import kinds
from tests.kernels.test_build import needs_compiler

pytestmark = needs_compiler


def test_every_type_has_a_product_and_the_best_instruction_set_serves():
    rows = offer.operations()
    assert [row.weights for row in rows if row.operation == "product"] == list(kinds())
    for row in rows:
        assert set(row.runnable) <= set(row.implementations)
        assert cpu.isas()[0] in row.default
    assert rows[-1].operation == "decode step" and "reference" in rows[-1].runnable
    assert len(rows) == len(kinds()) + 1


def test_a_cpu_that_has_little_is_served_by_what_it_has(monkeypatch):
    monkeypatch.setattr(offer, "isas", lambda: ("scalar",))
    first = offer.operations()[0]
    assert (first.runnable, first.default) == (("scalar",), "scalar")
    assert "scalar" in first.implementations
