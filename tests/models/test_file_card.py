"""A card says what the header says, by the house's formulas, for models known and unknown."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llmbench import catalog
from llmbench.errors import BadParams, LlmbenchError, Missing, Unsupported
from llmbench.models import cost
from llmbench.models.file_card import Need, file_card
from llmbench.models.file_card.classes import class_of
from llmbench.models.header import read_header
from llmbench.models.source import BUILTIN
from llmbench.models.spec import Spec, spec_from_catalog, spec_from_header
from tests.gguf_bytes import BOOL, F32, I32, TEXT, U16, U32, array, gguf, key, tensor, written
from tests.gguf_models import model_file

TINY = Spec("llama", n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_model=32, d_ff=64,
            vocab_size=100, tied=False, trained_context=2048)  # fmt: skip
MOE = replace(TINY, model_type="mixtral", n_experts=4, n_experts_used=2)


def priced() -> list[str]:
    """The catalog's models whose every number is known."""
    found = []
    for name in catalog.models():
        try:
            spec_from_catalog(name)
        except LlmbenchError:
            continue
        found.append(name)
    return found


@pytest.fixture
def card(tmp_path):
    """The card of a file with those keys, tensors and data."""
    return lambda *parts: file_card(written(tmp_path / "m.gguf", gguf(*parts)))


# -- against the formulas --------------------------------------------------------------------------


@pytest.mark.parametrize("name", priced())
def test_a_file_of_a_catalog_model_counts_what_the_formulas_say(tmp_path, name):
    spec = spec_from_catalog(name)
    path = model_file(tmp_path / "m.gguf", spec)
    found, expected = file_card(path), cost.parameters(spec)
    assert found.parameters == expected.total == catalog.model(name).parameters
    assert found.parameters_active == expected.active
    by_class = {row.tensor_class: row.values for row in found.tensors if row.kind == "F16"}
    assert by_class["embedding"] == expected.embedding
    assert by_class.get("head", 0) == expected.head
    assert by_class.get("router", 0) == expected.router
    assert sum(by_class.get(n, 0) for n in ("attention", "mlp", "experts")) == expected.linear
    assert found.kv_bytes_per_token == cost.kv_bytes_per_token(spec, 2)
    assert (found.facts.n_layers, found.facts.d_model) == (spec.n_layers, spec.d_model)
    assert found.weight_bytes == sum(info.nbytes for info in read_header(path).tensors)


@pytest.mark.parametrize("name", priced())
def test_a_header_and_the_catalog_give_one_spec(tmp_path, name):
    spec = spec_from_catalog(name)
    header = read_header(model_file(tmp_path / "m.gguf", spec))
    family = "llama" if spec.model_type == "mistral" else spec.model_type
    assert spec_from_header(header) == replace(spec, model_type=family)


def test_a_spec_needs_a_known_family_and_one_number_for_all_layers(tmp_path):
    path = written(tmp_path / "m.gguf", gguf([key("general.architecture", TEXT, "mamba")]))
    with pytest.raises(Unsupported, match="'mamba'"):
        spec_from_header(read_header(path))
    keys = [key("general.architecture", TEXT, "llama"), key("llama.embedding_length", U32, 8)]
    heads = array("llama.attention.head_count", I32, [1, 2])
    for more in ([], [heads], [key("llama.attention.head_count", U32, 0)]):
        path = written(tmp_path / "m.gguf", gguf(keys + more))
        with pytest.raises(Missing, match=r"no positive number llama\.attention\.head_count"):
            spec_from_header(read_header(path))


def test_numbers_worked_by_hand(tmp_path):
    """Qwen2.5-0.5B in F16: 24 layers of 2 KV heads of 64; 2·24·2·64·2 = 12,288 bytes a token."""
    found = file_card(model_file(tmp_path / "m.gguf", spec_from_catalog("qwen2.5-0.5b")))
    assert found.parameters == 494_032_768
    assert found.kv_bytes_per_token == 12_288
    assert [need.context_tokens for need in found.memory] == [
        512, 1024, 2048, 4096, 8192, 16384, 32768]  # fmt: skip
    # F16 but for norms (49 of 896) and biases (24 of 896 + 2·128) in F32, which take 2 bytes more
    weights = 2 * 494_032_768 + 2 * (49 * 896 + 24 * 1152)
    assert found.memory[0] == Need(512, weights, 512 * 12_288, weights + 512 * 12_288)
    assert found.bits_per_weight == pytest.approx(8 * weights / 494_032_768, rel=1e-12)
    assert found.quantization == "F16"


@pytest.mark.parametrize(
    ("trained", "pages"), [(32768, 98), (131_072, 393), (1_024_000, 3072), (2048, 6)]
)
def test_pages_agree_with_the_published_ones(tmp_path, trained, pages):
    found = file_card(model_file(tmp_path / "m.gguf", replace(TINY, trained_context=trained)))
    assert found.trained_context_pages == pages
    assert found.memory[-1].context_tokens == trained


def test_windows_end_at_the_trained_one_whatever_it_is(tmp_path):
    def windows(trained: int) -> list[int]:
        found = file_card(model_file(tmp_path / "m.gguf", replace(TINY, trained_context=trained)))
        return [need.context_tokens for need in found.memory]

    assert windows(1500) == [512, 1024, 1500]
    assert windows(512) == [512]
    assert windows(100) == [100]


# -- what differs from file to file ----------------------------------------------------------------


def test_experts(tmp_path):
    found = file_card(model_file(tmp_path / "m.gguf", MOE))
    assert (found.facts.n_experts, found.facts.n_experts_used) == (4, 2)
    experts = 2 * 4 * 3 * 32 * 64
    assert found.parameters_active == found.parameters - experts // 2
    assert {row.tensor_class for row in found.tensors} >= {"experts", "router"}


def test_rope_and_its_scaling(card):
    keys = [key("general.architecture", TEXT, "llama"), key("llama.rope.freq_base", F32, 1e6),
            key("llama.rope.dimension_count", U32, 128), key("llama.rope.scaling.factor", F32, 8.1),
            key("llama.rope.scaling.type", TEXT, "yarn"),
            key("llama.rope.scaling.original_context_length", U32, 4096)]  # fmt: skip
    rope = card(keys).facts.rope
    assert (rope.dimension, rope.base, rope.scaling) == (128, 1e6, "yarn")
    assert (rope.factor, rope.original_context) == (8.1, 4096)


def test_rope_tables_are_no_parameters(tmp_path):
    path, plain = tmp_path / "m.gguf", tmp_path / "p.gguf"
    found = file_card(model_file(path, TINY, other=(("rope_freqs.weight", (16,)),)))
    without = file_card(model_file(plain, TINY))
    assert found.parameters == without.parameters
    assert found.weight_bytes == without.weight_bytes + 64
    assert found.bits_per_weight == without.bits_per_weight


def test_the_tokenizer(tmp_path):
    more = (key("tokenizer.ggml.model", TEXT, "gpt2"), key("tokenizer.ggml.pre", TEXT, "qwen2"),
            array("tokenizer.ggml.tokens", TEXT, ["a", "b"]),
            array("tokenizer.ggml.merges", TEXT, ["a b"]),
            key("tokenizer.chat_template", TEXT, "x"))  # fmt: skip
    found = file_card(model_file(tmp_path / "m.gguf", TINY, more))
    told = found.facts.vocabulary
    assert (told.kind, told.pre_tokenizer, told.tokens, told.merges) == ("gpt2", "qwen2", 2, 1)
    assert told.chat_template
    assert found.notes == ("the embedding has 100 rows, the tokenizer 2 tokens",)


def test_layers_may_differ(card):
    keys = [key("general.architecture", TEXT, "jamba"), key("jamba.block_count", U32, 3),
            key("jamba.embedding_length", U32, 64), key("jamba.attention.head_count", U32, 4),
            key("jamba.ssm.state_size", U32, 16), key("jamba.context_length", U32, 512),
            array("jamba.attention.head_count_kv", I32, [0, 2, 0]),
            array("jamba.feed_forward_length", I32, [8, 8, 8])]  # fmt: skip
    found = card(keys, [tensor("token_embd.weight", (1, 8))], bytes(32))
    assert found.facts.n_kv_heads == (0, 2, 0)
    assert found.facts.d_ff == 8
    assert found.kv_bytes_per_token == 2 * (16 + 16) * 2
    assert [need.kv_bytes for need in found.memory] == [512 * 128]
    assert "layers without attention keep a state of fixed size" in found.notes[0]


def test_key_and_value_heads_may_differ_in_size(card):
    keys = [key("general.architecture", TEXT, "deepseek2"), key("deepseek2.block_count", U32, 2),
            key("deepseek2.attention.head_count", U32, 4),
            key("deepseek2.attention.head_count_kv", U32, 1),
            key("deepseek2.attention.key_length", U32, 24),
            key("deepseek2.attention.value_length", U32, 16)]  # fmt: skip
    assert card(keys).kv_bytes_per_token == 2 * (24 + 16) * 2


def test_an_encoder_keeps_no_cache(tmp_path):
    more = (key("llama.attention.causal", BOOL, False),)
    found = file_card(model_file(tmp_path / "m.gguf", TINY, more))
    assert found.kv_bytes_per_token is None
    assert found.memory == ()
    assert "an encoder: it keeps no KV cache" in found.notes


def test_a_sliding_window_is_told(tmp_path):
    more = (key("llama.attention.sliding_window", U32, 1024),)
    found = file_card(model_file(tmp_path / "m.gguf", TINY, more))
    assert found.facts.sliding_window == 1024
    assert "attend to 1,024 tokens only" in found.notes[0]


def test_one_part_of_several_predicts_no_memory(tmp_path):
    more = (key("split.no", U16, 1), key("split.count", U16, 3))
    found = file_card(model_file(tmp_path / "m.gguf", TINY, more))
    assert found.notes == ("part 2 of 3: parameters and bytes are of this part alone",)
    assert found.memory == ()


@pytest.mark.parametrize("keys", [[], [key("general.architecture", TEXT, "newthing")],
                                  [key("general.architecture", U32, 7)]])  # fmt: skip
def test_an_unknown_architecture_gets_a_card(card, keys):
    found = card(keys, [tensor("strange", (3,))], bytes(12))
    assert found.parameters == 3
    assert [row.tensor_class for row in found.tensors] == ["other"]
    assert {"layers", "heads", "trained context", "KV cache a token"} <= set(found.not_known)
    assert ("architecture" in found.not_known) == (found.facts.architecture is None)


def test_a_file_without_tensors_gets_a_card(card):
    found = card([key("general.architecture", TEXT, "llama")])
    assert (found.parameters, found.bits_per_weight, found.quantization) == (None, None, None)
    assert "parameters" in found.not_known


@pytest.mark.parametrize(
    "wrong",
    [
        key("llama.block_count", TEXT, "many"), key("llama.block_count", I32, -1),
        key("llama.block_count", F32, 2.0), key("llama.block_count", BOOL, True),
        array("llama.block_count", U32, [2, 2]),
        key("llama.block_count", 10, 2**63),
    ],
)  # fmt: skip
def test_a_number_that_is_none_counts_as_not_told(card, wrong):
    found = card([key("general.architecture", TEXT, "llama"), wrong])
    assert found.facts.n_layers is None
    assert "layers" in found.not_known


@pytest.mark.parametrize("base", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_base_that_is_none_counts_as_not_told(card, base):
    found = card([key("general.architecture", TEXT, "x"), key("x.rope.freq_base", F32, base)])
    assert found.facts.rope.base is None


def test_a_name_cannot_steer_the_terminal(card):
    found = card([key("general.name", TEXT, "a\x1b[2Jb\nc" + "d" * 300)])
    assert found.facts.name.startswith("a\ufffd[2Jb\ufffdcd")
    assert len(found.facts.name) == 200


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_embd.weight", "embedding"), ("per_layer_token_embd.weight", "embedding"),
        ("token_embd_norm.weight", "norms"), ("output_norm.weight", "norms"),
        ("output.weight", "head"), ("blk.1.attn_output.weight", "attention"),
        ("blk.1.attn_q_norm.weight", "norms"), ("blk.1.attn_qkv.bias", "attention"),
        ("blk.1.ffn_down.weight", "mlp"), ("blk.1.ffn_down_exps.weight", "experts"),
        ("blk.1.ffn_down.7.weight", "experts"), ("blk.1.ffn_gate_inp.weight", "router"),
        ("blk.1.ffn_up_shexp.weight", "shared experts"), ("blk.1.ssm_in.weight", "other"),
        ("rope_factors_long.weight", "rope tables"), ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "head"), ("model.norm.weight", "norms"),
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.mlp.gate_proj.weight", "mlp"),
        ("model.layers.0.mlp.gate.weight", "router"),
        ("model.layers.0.block_sparse_moe.experts.3.w1.weight", "experts"),
        ("model.layers.0.block_sparse_moe.gate.weight", "router"),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", "shared experts"),
        ("model.layers.0.mlp.shared_expert_gate.weight", "router"),
    ],
)  # fmt: skip
def test_classes_of_tensors(name, expected):
    assert class_of(name) == expected


# -- Hugging Face folders --------------------------------------------------------------------------


def test_a_folder_gives_the_same_card(tmp_path):
    folder = BUILTIN / "tiny"
    found = file_card(folder)
    assert (found.parameters, found.quantization, found.bits_per_weight) == (3_409_664, "BF16", 16)
    assert (found.facts.n_layers, found.facts.n_kv_heads, found.facts.key_size) == (3, 4, 64)
    assert (found.facts.rope.base, found.facts.rope.dimension) == (10000.0, 64)
    assert found.facts.rope.scaling is None
    assert found.kv_bytes_per_token == 2 * 3 * 4 * 64 * 2
    assert found.memory[-1].context_tokens == 2048
    one = file_card(folder / "model.safetensors")
    assert one.tensors == found.tensors
    assert one.memory == found.memory
    alone = shutil.copy(folder / "model.safetensors", tmp_path)
    assert file_card(Path(alone)).notes[0].startswith("no config.json beside it")


def test_the_index_says_which_files_are_the_models(tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(BUILTIN / "tiny" / name, tmp_path / name)
    shutil.copy(BUILTIN / "tiny" / "model.safetensors", tmp_path / "consolidated.safetensors")
    doubled = file_card(tmp_path).parameters
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    assert 2 * file_card(tmp_path).parameters == doubled
    for wrong in ("{}", "[]", "{", '{"weight_map":{"a":"../x"}}', '{"weight_map":{"a":1}}'):
        index.write_text(wrong)
        with pytest.raises(BadParams, match=r"index\.json"):
            file_card(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(Missing, match=r"has no \*\.safetensors"):
        file_card(tmp_path)


def test_packed_weights_are_not_counted(tmp_path):
    header = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    found = file_card(written(tmp_path / "m.safetensors", data))
    assert found.parameters is None
    assert "packed in whole numbers" in found.notes[-1]
