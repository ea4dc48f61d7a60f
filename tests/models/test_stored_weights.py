"""Tensors as files store them."""

import numpy as np
import pytest

from llmbench.errors import Unsupported
from llmbench.models.stored_weights import Stored


def test_a_norm_in_whole_numbers_is_refused_by_name():
    stored = Stored("blk.0.attn_norm.weight", "m.gguf", "Q8_0", (32,), np.zeros((1, 34), np.uint8))
    with pytest.raises(Unsupported, match=r"attn_norm\.weight' of m\.gguf is stored as Q8_0"):
        stored.floats()


@pytest.mark.parametrize(
    ("kind", "raw"), [("F32", b"\0\0\xc0\x3f"), ("F16", b"\0\x3e"), ("BF16", b"\xc0\x3f")]
)
def test_floats_are_read_in_their_own_format(kind, raw):
    stored = Stored("norm", "m.gguf", kind, (1,), np.frombuffer(raw, np.uint8)[None])
    assert stored.floats().tolist() == [1.5] and stored.floats().dtype == np.float32
