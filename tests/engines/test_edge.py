"""The reference engine against transformers: log-probabilities within 1e-4, equal greedy tokens."""

import json
from itertools import islice

import numpy as np
import pytest

from llmbench.engines.base import PREFILL_DONE
from llmbench.engines.edge import EdgeEngine
from llmbench.engines.loaded import load
from llmbench.engines.transformers import TransformersEngine
from llmbench.errors import BadParams, Missing, Refused, Unsupported
from llmbench.models.source import find_model
from llmbench.models.transformer import KVCache

CLOSE = 1e-4
INDEX = "model.safetensors.index.json"
IMPLS = ["reference", "sdpa-math", "sdpa-flash"]
ODD = {  # name: heads, kv heads, head size, width, d_ff, layers, tied, biases, qwen
    "one head": dict(heads=1, kv=1, size=18, width=18, ff=31, layers=2, tied=True),
    "three, no sharing": dict(heads=3, kv=3, size=10, width=30, ff=47, layers=3, tied=False),
    "seven share one": dict(heads=7, kv=1, size=8, width=56, ff=101, layers=2, tied=True),
    "nine share three": dict(heads=9, kv=3, size=6, width=54, ff=77, layers=2, tied=False),
    "head size of its own": dict(heads=3, kv=1, size=22, width=45, ff=101, layers=2, tied=False),
    "biases": dict(heads=4, kv=2, size=14, width=52, ff=61, layers=2, tied=False, biases=True),
    "qwen2": dict(heads=6, kv=2, size=8, width=48, ff=67, layers=2, tied=True, qwen=True),
    "llama 3 rope": dict(heads=4, kv=2, size=16, width=64, ff=91, layers=2, tied=True, rope3=True),
}


def written(folder, heads, kv, size, width, ff, layers, tied, biases=False, qwen=False,
            rope3=False, **other):  # fmt: skip
    """A random model of transformers, saved in `folder`; every parameter differs from its start."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    asked = dict(hidden_size=width, intermediate_size=ff, num_hidden_layers=layers,
                 num_attention_heads=heads, num_key_value_heads=kv, vocab_size=211,
                 tie_word_embeddings=tied, max_position_embeddings=128)  # fmt: skip
    if not qwen:
        asked |= dict(head_dim=size, attention_bias=biases, mlp_bias=biases)
    if rope3:
        asked["rope_parameters"] = {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        }  # fmt: skip
    torch.manual_seed(5)
    kinds = (Qwen2Config, Qwen2ForCausalLM) if qwen else (LlamaConfig, LlamaForCausalLM)
    model = kinds[1](kinds[0](**asked))
    for name, parameter in model.named_parameters():
        drawn = torch.randn_like(parameter) * 0.25
        parameter.data = 1 + drawn if "norm" in name else drawn
    model.save_pretrained(folder, **other)
    return find_model(str(folder))


def loaded(kind, source, **options):
    """The engine with `source` in it; of edge the reference."""
    engine = kind()
    if kind is EdgeEngine:
        options = {"impl": "reference"} | options
    engine.served = engine.load(source, {"threads": 1} | options)
    return engine


def greedy(engine, prompts, tokens):
    return [list(step) for step in engine.stream(prompts, tokens) if step != PREFILL_DONE]


def batch_logprobs(engine, rows):
    """(B, T, V): natural log-probabilities after each prefix of several rows in one forward."""
    import torch

    ids = torch.tensor(rows)
    with torch.inference_mode():
        if engine.name == "transformers":
            logits = engine.model(ids).logits
        else:
            model = engine.decoder.model
            cache = KVCache(model.spec, len(rows), ids.shape[1], model.embedding)
            logits = model.forward(ids, cache, last_only=False)
    return logits.float().log_softmax(-1).numpy()


def assert_same(source, theirs="sdpa", **options):
    """Edge with `options` says what transformers with the attention `theirs` says."""
    ours = loaded(EdgeEngine, source, **options)
    theirs = loaded(TransformersEngine, source, attention_impl=theirs)
    rng = np.random.default_rng(3)
    size = ours.decoder.spec.vocab_size
    prompts = rng.integers(0, size, (4, 37)).tolist()
    for row in prompts[:2]:
        assert np.abs(ours.logprobs(row) - theirs.logprobs(row)).max() < CLOSE
    both = [batch_logprobs(engine, prompts) for engine in (ours, theirs)]
    assert np.abs(both[0] - both[1]).max() < CLOSE
    assert np.abs(both[0][1] - ours.logprobs(prompts[1])).max() < CLOSE
    for rows in (prompts[:1], prompts):
        assert greedy(ours, rows, 12) == greedy(theirs, rows, 12)
    one = prompts[0][:1]
    assert np.abs(ours.logprobs(one) - theirs.logprobs(one)).max() < CLOSE
    return ours, theirs


@pytest.mark.parametrize("shape", ODD.values(), ids=ODD)
def test_random_configurations_equal_transformers(shape, tmp_path):
    assert_same(written(tmp_path / "model", **shape))


@pytest.mark.parametrize("impl", IMPLS)
def test_builtin_tiny_equals_transformers(impl):
    ours, theirs = assert_same(find_model("builtin:tiny"), attention_impl=impl)
    assert ours.served.weight_bytes == theirs.served.weight_bytes
    assert ours.served.kv_bytes_per_token == theirs.served.kv_bytes_per_token
    assert (ours.served.impl, ours.served.attention_impl) == ("reference", impl)


def test_weights_in_several_files_are_read(tmp_path):
    source = written(tmp_path / "model", **ODD["nine share three"], max_shard_size="40KB")
    assert len(list(source.folder.glob("*.safetensors"))) > 1
    assert_same(source)


def add_file(folder, name, tensors):
    """Another weight file with float32 tensors of ones, by name and shape."""
    import torch
    from safetensors.torch import save_file

    save_file({key: torch.ones(shape) for key, shape in tensors.items()}, folder / name)


def test_a_tensor_in_two_files_is_refused_by_name(tmp_path):
    source = written(tmp_path / "model", **ODD["one head"])
    add_file(source.folder, "zz.safetensors", {"model.norm.weight": (18,), "other": (2,)})
    with pytest.raises(BadParams, match=r"'model.norm.weight' in zz.safetensors") as told:
        loaded(EdgeEngine, source)
    assert "'other'" not in told.value.what and told.value.how


def test_files_without_a_doubled_name_need_no_index(tmp_path):
    source = written(tmp_path / "model", **ODD["nine share three"], max_shard_size="40KB")
    expected = loaded(EdgeEngine, source).logprobs([5, 6, 7])
    (source.folder / INDEX).unlink()
    assert (loaded(EdgeEngine, source).logprobs([5, 6, 7]) == expected).all()


def test_an_index_alone_says_what_is_read(tmp_path):
    source = written(tmp_path / "model", **ODD["nine share three"], max_shard_size="40KB")
    expected = loaded(EdgeEngine, source).logprobs([5, 6, 7])
    shapes = {"model.norm.weight": (54,), "model.layers.0.self_attn.q_proj.weight": (54, 54)}
    for name in ("aa.safetensors", "zz.safetensors"):
        add_file(source.folder, name, shapes)
    assert (loaded(EdgeEngine, source).logprobs([5, 6, 7]) == expected).all()
    edit_index(source, lambda mapped: mapped | {"model.norm.weight": "zz.safetensors"})
    assert (loaded(EdgeEngine, source).logprobs([5, 6, 7]) != expected).any()


def edit_index(source, edit):
    path = source.folder / INDEX
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"weight_map": edit(index["weight_map"])}))


@pytest.mark.parametrize(
    ("edit", "error", "words"),
    [
        (lambda mapped: mapped | {"model.norm.weight": "b.safetensors"}, Missing, "'b.safetens"),
        (lambda mapped: mapped | {"model.norm.weight": "../x.safetensors"}, Missing, "'../x.saf"),
        (lambda mapped: mapped | {"new": mapped["model.norm.weight"]}, Missing, "'new' not in"),
        (lambda mapped: {k: v for k, v in mapped.items() if k != "model.norm.weight"}, Missing,
         "no tensor 'model.norm.weight'"),
        (lambda mapped: [], BadParams, "maps no names"),
    ],
)  # fmt: skip
def test_an_index_that_does_not_fit_its_files_is_refused(edit, error, words, tmp_path):
    source = written(tmp_path / "model", **ODD["nine share three"], max_shard_size="40KB")
    add_file(tmp_path, "x.safetensors", {"model.norm.weight": (54,)})
    edit_index(source, edit)
    with pytest.raises(error, match=words):
        loaded(EdgeEngine, source)


def test_a_file_that_is_cut_off_is_named(tmp_path):
    source = written(tmp_path / "model", **ODD["one head"])
    path = source.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Missing, match=r"model\.safetensors cannot be read"):
        loaded(EdgeEngine, source)


def test_decoding_equals_one_pass_over_the_whole():
    engine = loaded(EdgeEngine, find_model("builtin:tiny"))
    prompt = list(range(40, 60))
    steps = [step[0] for step in greedy(engine, [prompt], 9)]
    whole = engine.logprobs(prompt + steps).argmax(-1)
    assert steps == whole[len(prompt) - 1 : -1].tolist()


def test_next_logprobs_are_the_last_row_of_all():
    engine = loaded(EdgeEngine, find_model("builtin:tiny"))
    table = engine.logprobs([5, 6, 7])[-1]
    for token, value in engine.next_logprobs([5, 6, 7], top=5).items():
        assert value == pytest.approx(float(table[token]), abs=1e-5)


def test_skipped_attention_is_another_model_with_the_same_shapes():
    source = find_model("builtin:tiny")
    whole, skipped = (
        loaded(EdgeEngine, source, attention_impl=i) for i in ("reference", "skipped")
    )
    ids = list(range(40, 60))
    assert whole.logprobs(ids).shape == skipped.logprobs(ids).shape
    assert np.abs(whole.logprobs(ids) - skipped.logprobs(ids)).max() > 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_are_near_and_half_as_large(dtype):
    source = find_model("builtin:tiny")
    wide, narrow = loaded(EdgeEngine, source), loaded(EdgeEngine, source, dtype=dtype)
    ids = list(range(40, 60))
    assert np.abs(wide.logprobs(ids) - narrow.logprobs(ids)).max() < 0.5
    assert narrow.served.weight_bytes * 2 == wide.served.weight_bytes
    assert narrow.served.weight_format == dtype


def test_the_prefill_ends_before_the_first_token():
    engine = loaded(EdgeEngine, find_model("builtin:tiny"))
    assert list(islice(engine.stream([[1, 2, 3]], 2), 1)) == [PREFILL_DONE]


@pytest.mark.parametrize("ids", [[-1], [10**6]])
def test_ids_outside_the_vocabulary_are_refused(ids):
    engine = loaded(EdgeEngine, find_model("builtin:tiny"))
    with pytest.raises(Refused, match="vocabulary"):
        next(engine.stream([ids], 1))


@pytest.mark.parametrize(
    ("rows", "words"),
    [([], "empty"), ([[]], "empty"), ([[1, 2], []], "empty"), ([[1, 2], [3]], r"\[1, 2\] tokens")],
)
def test_rows_that_make_no_batch_are_refused(rows, words):
    engine = loaded(EdgeEngine, find_model("builtin:tiny"))
    with pytest.raises(BadParams, match=words):
        next(engine.stream(rows, 1))


def test_questions_without_an_answer_are_refused():
    engine = loaded(EdgeEngine, find_model("builtin:tiny"))
    for ask in (engine.logprobs, engine.next_logprobs):
        with pytest.raises(BadParams, match="empty"):
            ask([])
    for top in (0, 4097):
        with pytest.raises(BadParams, match=f"top={top}; .* 4096"):
            engine.next_logprobs([5], top)
    assert len(engine.next_logprobs([5], 4096)) == 4096


def test_people_get_the_same_words():
    with load("builtin:tiny", "edge", threads=1) as engine:
        for ids in ([], [[]], [[1], [2, 3]]):
            with pytest.raises(BadParams, match=r"prompt|rows"):
                next(engine.stream(ids, 1))


def changed(source, **values):
    path = source.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return source


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"model_type": "qwen3"}, Unsupported, "families: llama, qwen2, mistral"),
        ({"hidden_act": "gelu"}, Unsupported, "gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, Unsupported, "yarn"),
        ({"num_hidden_layers": 3}, Missing, "model.layers.2"),
        ({"vocab_size": 212}, Missing, r"model.embed_tokens.weight.*\(211, 54\)"),
    ],
)
def test_what_it_cannot_compute_is_refused_by_name(values, error, words, tmp_path):
    source = changed(written(tmp_path / "model", **ODD["nine share three"]), **values)
    with pytest.raises(error, match=words):
        loaded(EdgeEngine, source)
