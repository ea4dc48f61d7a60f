"""What `impl: cpu` of edge refuses, in words, before it touches memory."""

import json
import os
import warnings

import numpy as np
import pytest

from llmbench.engines.edge import EdgeEngine
from llmbench.engines.edge_cpu import CpuDecoder
from llmbench.errors import BadParams, Missing, Refused, Unsupported
from llmbench.kernels import cpu
from llmbench.models.header import read_header
from llmbench.models.source import find_model
from tests.engines.test_edge import greedy, loaded
from tests.engines.test_families import written
from tests.kernels.stored import needs_compiler
from tests.models.gguf_files import write_gguf

pytestmark = needs_compiler
IDS = list(range(20, 57))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return written(folder, "Mistral", 6, 2, 8, 44, 67, dict(sliding_window=None))


@pytest.fixture
def decoder(source):
    made = CpuDecoder(source, "auto", "auto", 2)
    yield made
    made.close()


class Untouched:
    """The library, in which no engine may be opened."""

    def __init__(self, library):
        self.library = library

    def __getattr__(self, name):
        assert name != "lb_open", "memory was asked for"
        return getattr(self.library, name)


@pytest.fixture
def nothing_opened(monkeypatch):
    library = cpu.library()
    monkeypatch.setattr(cpu, "library", lambda: Untouched(library))


def ids_of(*rows):
    return np.array(rows, np.int32)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"model_type": "qwen3"}, Unsupported, "qwen3"),
        ({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}, Unsupported,
         "mixture of experts"),
        ({"hidden_act": "gelu"}, Unsupported, "gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, Unsupported, "yarn"),
        ({"num_hidden_layers": 4}, Missing, "model.layers.3"),
        ({"vocab_size": 212}, Missing, r"model.embed_tokens.weight.*\(211, 44\)"),
        ({"intermediate_size": 68}, Missing, "mlp"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("nothing_opened")
def test_a_model_that_it_cannot_compute_is_refused(values, error, words, tmp_path):
    made = written(tmp_path, "Mistral", 6, 2, 8, 44, 67, dict(sliding_window=None))
    path = made.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(error, match=words):
        loaded(EdgeEngine, made, impl="cpu")


@pytest.mark.usefixtures("nothing_opened")
def test_a_type_that_it_does_not_hold_is_named_with_its_place(tmp_path):
    blocks = (np.zeros((512, 84), np.uint8), "Q2_K")
    file = write_gguf(tmp_path / "tiny.gguf", find_model("builtin:tiny").folder,
                      tensors={"blk.2.ffn_up.weight": blocks})  # fmt: skip
    with pytest.raises(Unsupported, match=r"'blk.2.ffn_up.weight' of tiny.gguf .* Q2_K") as told:
        loaded(EdgeEngine, find_model(f"gguf:{file}"), impl="cpu")
    assert "Q4_K" in told.value.why and "llamacpp" in told.value.how


@pytest.mark.usefixtures("nothing_opened")
@pytest.mark.parametrize("options", [{"attention_impl": "sdpa-flash"}, {"dtype": "float32"}])
def test_an_option_of_the_reference_is_refused(options, source):
    with pytest.raises(BadParams, match="is an option of impl reference, not of cpu"):
        loaded(EdgeEngine, source, impl="cpu", **options)


@pytest.mark.usefixtures("nothing_opened")
@pytest.mark.parametrize("options", [{"kv_type": "f16"}, {"isa": "scalar"}])
def test_its_own_options_are_refused_by_the_reference(options, source):
    with pytest.raises(BadParams, match="is an option of impl cpu, not of reference"):
        loaded(EdgeEngine, source, impl="reference", **options)
    with pytest.raises(Unsupported, match="device cuda"):
        loaded(EdgeEngine, source, impl="cpu", device="cuda")


def test_own_options_choose_it_and_it_is_told(source):
    for isa in cpu.isas():
        engine = loaded(EdgeEngine, source, impl="auto", isa=isa)
        assert engine.served.impl == "cpu" and f"isa {isa} |" in engine.served.build
        assert engine.served.kv_format == "float32"  # as the weights
    narrow = loaded(EdgeEngine, source, impl="auto", kv_type="f16")
    assert narrow.served.kv_format == "float16"
    plain = loaded(EdgeEngine, source, impl="auto").served
    assert plain.impl == "cpu" and f"isa {cpu.isas()[0]} |" in plain.build


def test_a_step_reads_all_weights_but_an_embedding_that_is_no_head(decoder, tmp_path):
    assert not decoder.spec.tied
    looked_up = cpu.packed_bytes("F32", 211, 44)
    assert decoder.weight_bytes - decoder.step_weight_bytes == looked_up > 0
    tied = CpuDecoder(written(tmp_path, "Gemma2", 4, 2, 14, 52, 61, {}), "auto", "auto", 1)
    assert tied.spec.tied and tied.step_weight_bytes == tied.weight_bytes
    tied.close()


def test_an_instruction_set_that_is_not_here_is_refused_with_those_that_are(source):
    with pytest.raises(Unsupported, match=r"avx1024.*scalar") as told:
        CpuDecoder(source, "avx1024", "auto", 1)
    assert "isa: auto" in told.value.how


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_a_number_of_threads_that_cannot_be_is_refused(threads, source):
    with pytest.raises(BadParams, match="threads"):
        CpuDecoder(source, "auto", "auto", threads)


def test_more_threads_than_cores_serve_and_a_warning_says_what_is_faster(source):
    many = (os.cpu_count() or 1) * 4 + 1
    with pytest.warns(UserWarning, match=f"{many} threads on .* threads: "):
        engine = loaded(EdgeEngine, source, impl="cpu", threads=many)
    assert engine.served.threads == many
    expected = loaded(EdgeEngine, source, impl="cpu", threads=1)
    assert greedy(engine, [IDS], 20) == greedy(expected, [IDS], 20)


def test_a_context_longer_than_its_cache_is_refused_and_nothing_is_lost(decoder):
    decoder.begin(1, 40)
    expected = decoder.logits(ids_of(IDS))
    with pytest.raises(BadParams, match="41 tokens do not fit a cache of 40"):
        decoder.logits(ids_of([1, 2, 3, 4]))
    after = decoder.logits(ids_of([1, 2, 3]))
    with pytest.raises(BadParams, match="41 tokens"):
        decoder.greedy(ids_of([1]))
    decoder.begin(1, 40)
    assert (decoder.logits(ids_of(IDS)) == expected).all()
    assert (decoder.logits(ids_of([1, 2, 3])) == after).all()


@pytest.mark.parametrize("token", [-1, 211, 2**31 - 1, -(2**31)])
def test_ids_outside_the_vocabulary_are_refused_and_nothing_is_lost(token, decoder, source):
    decoder.begin(2, 40)
    with pytest.raises(BadParams, match=f"token id {token} lies outside the vocabulary of 211"):
        decoder.logits(ids_of(IDS, [*IDS[:-1], token]))
    again = decoder.logits(ids_of(IDS, IDS))
    assert (again[0] == again[1]).all()
    with pytest.raises(Refused, match="vocabulary"):
        next(loaded(EdgeEngine, source, impl="cpu").stream([[token]], 1))


def test_no_tokens_no_rows_no_cache_are_refused(decoder):
    with pytest.raises(BadParams, match="rows"):
        decoder.logits(ids_of([1]))  # nothing was begun
    for rows, tokens in ((0, 1), (1, 0), (-1, 5), (5, -1)):
        with pytest.raises(BadParams, match="at least one row and one token"):
            decoder.begin(rows, tokens)
    decoder.begin(1, 5)
    with pytest.raises(BadParams, match="no tokens"):
        decoder.logits(np.zeros((1, 0), np.int32))
    for rows in (0, 2):
        with pytest.raises(BadParams, match="rows"):
            decoder.logits(np.ones((rows, 1), np.int32))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_a_damaged_number_is_refused(kind, tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", find_model("builtin:tiny").folder, kind)
    found = {info.name: info for info in read_header(file).tensors}["blk.1.attn_q.weight"]
    size = {"F32": 4, "Q8_0": 34, "Q4_1": 20}.get(kind, 2)
    with file.open("rb+") as opened:
        opened.seek(found.offset + found.nbytes - size)
        opened.write({"F32": b"\0\0\xc0\x7f", "BF16": b"\x80\x7f"}.get(kind, b"\0\x7e"))
    with pytest.raises(BadParams, match=r"'blk\.1\.attn_q\.weight' of tiny\.gguf.* no finite"):
        loaded(EdgeEngine, find_model(f"gguf:{file}"), impl="cpu")


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_keys_and_values_beyond_float16_are_an_error_and_a_wider_cache_holds_them(source, tokens):
    ids = ids_of(IDS * 2)[:, :tokens]
    for kv_type in ("f16", "f32"):
        own = CpuDecoder(source, "auto", kv_type, 2)
        gains = np.full(own.spec.d_model, 1e6, np.float32)
        slot = cpu.VECTORS.index("attention_norm")
        code = own.library.lb_vector(own._handle, slot, 1, gains.size, cpu.pointer(gains))
        cpu.check(code, "gains")
        own.begin(1, 80)
        if kv_type == "f32":
            assert np.isfinite(own.logits(ids)).all()
            continue
        for asked in (own.logits, own.greedy):
            with pytest.raises(BadParams, match=r"beyond 65,504.*kv_type: f32"):
                asked(ids)


def test_logits_that_are_no_numbers_are_no_answer(decoder):
    """Here by scores that are none."""
    decoder.begin(1, 4)
    cpu.check(decoder.library.lb_scores(decoder._handle, 0, np.nan, 0, 0), "scores")
    with pytest.raises(BadParams, match="no logit is a finite number"):
        decoder.greedy(ids_of([1, 2]))


def test_a_cpu_for_which_only_portable_code_is_there_is_told(source, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CpuDecoder(source, "scalar", "auto", 1).close()
    monkeypatch.setattr(CpuDecoder, "isa", "scalar")
    with pytest.warns(UserWarning, match="the portable code serves"):
        CpuDecoder(source, "auto", "auto", 1).close()


def test_a_decoder_can_be_closed_twice_and_made_again(source):
    for _ in range(20):
        made = CpuDecoder(source, "auto", "auto", 3)
        made.begin(1, 4)
        assert np.isfinite(made.logits(ids_of([1, 2]))).all()
        made.close()
        made.close()
