"""Rotary frequencies: numbers worked by hand, and what is refused by name."""

import math

import numpy as np
import pytest

from llmbench.errors import Unsupported
from llmbench.models.rope import rope_of

PHI = {"model_type": "phi3", "max_position_embeddings": 64}


def test_each_pair_turns_slower_than_the_one_before():
    rope = rope_of({"rope_theta": 10_000.0}, 4)
    assert rope.near.tolist() == pytest.approx([1.0, 0.01])
    assert rope.far is rope.near and rope.stretch == 1.0


def test_a_linear_factor_slows_all_and_factors_slow_each():
    linear = {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}
    each = {"rope_parameters": {"rope_type": "factors", "factors": [1.0, 8.0]}}
    assert rope_of(linear, 4).near.tolist() == pytest.approx([0.25, 0.0025])
    assert rope_of(each, 4).near.tolist() == pytest.approx([1.0, 0.00125])


def test_longrope_has_two_sets_and_stretches_by_its_growth():
    asked = {"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [4.0, 5.0],
             "original_max_position_embeddings": 16}  # fmt: skip
    rope = rope_of(PHI | {"rope_parameters": asked}, 4)
    assert rope.near.tolist() == pytest.approx([1.0, 0.005])
    assert rope.far.tolist() == pytest.approx([0.25, 0.002])
    assert rope.trained == 16
    assert rope.stretch == pytest.approx(math.sqrt(1 + math.log(4) / math.log(16)))
    told = rope_of(PHI | {"rope_parameters": asked | {"attention_factor": 1.19}}, 4)
    assert told.stretch == 1.19


def test_only_a_share_of_a_phi_head_turns():
    asked = PHI | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}}
    assert len(rope_of(asked, 16).near) == 6
    assert len(rope_of(asked | {"model_type": "llama"}, 16).near) == 8  # as transformers has it
    odd = PHI | {"rope_parameters": {"partial_rotary_factor": 30 / 44}}  # 44 · it is just below 30
    assert (rope_of(odd, 44).near == rope_of({}, 30).near).all()


@pytest.mark.parametrize("kind", ["yarn", "dynamic", "ntk"])
def test_another_scaling_is_refused_by_name(kind):
    with pytest.raises(Unsupported, match=repr(kind)) as told:
        rope_of({"rope_parameters": {"rope_type": kind, "factor": 2.0}}, 8)
    assert "longrope" in told.value.how


def test_llama_3_keeps_short_waves_and_slows_long_ones():
    asked = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
             "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    plain = rope_of({"rope_theta": 500_000.0}, 128).near
    ratio = plain / rope_of({"rope_parameters": asked}, 128).near
    assert ratio[0] == 1 and ratio[-1] == pytest.approx(8)
    assert (np.diff(ratio) >= -1e-5).all()
