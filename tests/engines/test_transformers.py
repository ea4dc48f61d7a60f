"""The transformers engine: its greedy loop says what transformers' own `generate` says."""

import numpy as np
import pytest

from llmbench.engines.transformers import TransformersEngine
from llmbench.errors import OutOfMemory, Refused, Unsupported
from llmbench.models.source import find_model

PROMPTS = [[17, 300, 901, 44, 1200, 7, 88], [5, 6, 7, 8, 9, 10, 11]]


@pytest.fixture(scope="module")
def engine():
    engine = TransformersEngine()
    engine.served = engine.load(find_model("builtin:tiny"), {"threads": 1})
    yield engine
    engine.close()


def test_loading_shows_no_bar_of_transformers_and_leaves_its_setting(capfd):
    from transformers.utils import logging

    logging.enable_progress_bar()
    TransformersEngine().load(find_model("builtin:tiny"), {"threads": 1})
    assert "Loading" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled()


def test_tokens_equal_generate(engine):
    import torch

    steps = [step for step in engine.stream(PROMPTS, 12) if step]
    ids = torch.tensor(PROMPTS)
    expected = engine.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=12,
        max_new_tokens=12,
    )[:, len(PROMPTS[0]) :]  # fmt: skip
    assert np.array(steps).T.tolist() == expected.tolist()


def test_the_prefill_is_marked_once_and_first(engine):
    assert [len(step) for step in engine.stream(PROMPTS, 3)] == [0, 2, 2, 2]


def test_logprobs_are_of_the_token_after_each_prefix(engine):
    table = engine.logprobs(PROMPTS[0])
    assert table.shape == (7, 4096)
    np.testing.assert_allclose(np.exp(table).sum(-1), 1, atol=1e-4)
    np.testing.assert_allclose(table[:4], engine.logprobs(PROMPTS[0][:4]), atol=2e-4)
    best = engine.next_logprobs(PROMPTS[0], top=3)
    assert list(best) == np.argsort(-table[-1])[:3].tolist()
    first = next(step for step in engine.stream([PROMPTS[0]], 1) if step)
    assert first[0] == next(iter(best))


def test_what_serves_is_told_from_what_was_loaded(engine):
    served = engine.served
    assert (served.impl, served.attention_impl) == ("eager", "sdpa")
    assert (served.weight_format, served.weight_bytes) == ("float32", 3_409_664 * 4)
    assert served.kv_bytes_per_token == 2 * 3 * 4 * 64 * 4
    assert served.threads == 1


def test_ids_outside_the_vocabulary_are_refused(engine):
    for bad in (4096, -1):
        with pytest.raises(Refused, match="vocabulary of 4096"):
            next(engine.stream([[1, bad]], 1))


def test_memory_that_cannot_be_had_is_out_of_memory(engine):
    from llmbench.engines.memory_errors import memory_errors

    with pytest.raises(OutOfMemory, match="allocate"), memory_errors():
        engine.torch.empty(2**58, dtype=engine.torch.uint8)
    with pytest.raises(OutOfMemory, match="unable to mmap"), memory_errors():
        raise RuntimeError("unable to mmap 269060544 bytes from file: Cannot allocate memory (12)")
    with pytest.raises(RuntimeError, match="size"), memory_errors():
        engine.torch.zeros(2) + engine.torch.zeros(3)


def test_a_gpu_that_is_not_there_is_unsupported():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Unsupported, match="no usable GPU"):
        TransformersEngine().load(find_model("builtin:tiny"), {"device": "cuda"})


def test_a_layer_that_was_left_plain_is_named_although_another_is_quantized(monkeypatch):
    from transformers import BitsAndBytesConfig

    def partly(self, device):
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["up_proj", "lm_head"])
        return {"quantization_config": config, "device_map": device}

    monkeypatch.setattr(TransformersEngine, "_quantized", partly)
    asked = {"quantization": "int8", "dtype": "bfloat16", "threads": 1}
    with pytest.raises(Unsupported, match=r"not all layers have it[\s\S]*layers\.0\.mlp\.up_proj"):
        TransformersEngine().load(find_model("builtin:tiny"), asked)
