"""Edge on GGUF files: what the folder says that a file was made of, within what storing loses."""

import hashlib
import shutil
import struct

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from llmbench.cli import commands
from llmbench.engines.edge import EdgeEngine
from llmbench.engines.loaded import load
from llmbench.errors import BadParams, Missing, Unsupported
from llmbench.models import gguf_weights
from llmbench.models.header import read_header
from llmbench.models.predict import spec_of
from llmbench.models.source import find_model
from tests.engines import test_edge, test_families
from tests.engines.test_edge import greedy, loaded
from tests.families import random_model
from tests.models.gguf_files import renamed, write_gguf

ROUNDED = 3e-5  # a file keeps factors and scales in float32
IDS = list(range(20, 57))
KINDS = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]  # those the gguf package writes
BLOCKS = {"Q4_K": 144, "Q5_K": 176, "Q6_K": 210}  # bytes of 256 values; it only reads these


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_gguf(
        tmp_path_factory.mktemp("gguf") / "tiny.gguf", find_model("builtin:tiny").folder
    )


def both(folder, file, **options):
    """Edge loaded with the folder and with the file."""
    return (loaded(EdgeEngine, find_model(name), **options)
            for name in (str(folder), f"gguf:{file}"))  # fmt: skip


def test_a_file_says_what_its_folder_says(tiny):
    folder, file = both(find_model("builtin:tiny").folder, tiny)
    assert np.abs(folder.logprobs(IDS) - file.logprobs(IDS)).max() < 1e-5
    assert greedy(folder, [IDS, IDS], 12) == greedy(file, [IDS, IDS], 12)
    assert file.served.weight_bytes == folder.served.weight_bytes
    assert file.served.kv_bytes_per_token == folder.served.kv_bytes_per_token


SHAPES = {
    **{f"llama, {name}": (test_edge.written, shape) for name, shape in test_edge.ODD.items()},
    **{name: (test_families.written, shape) for name, shape in test_families.SHAPES.items()},
}
OUT_OF_FILES = {  # what a GGUF file cannot say
    "gemma2", "gemma2, low caps",  # the scale of the scores follows from the head size
    "gemma2, no caps, layers of its own", "qwen2, windows from the second layer",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in OUT_OF_FILES])
def test_every_family_is_read_as_its_folder(name, tmp_path):
    write, shape = SHAPES[name]
    source = (write(tmp_path / "model", **shape) if isinstance(shape, dict) else
              write(tmp_path / "model", *shape))  # fmt: skip
    metadata = {}
    if window := source.config.get("sliding_window"):
        metadata = {"llama.attention.sliding_window": window} if "mistral" in name else {}
    file = write_gguf(tmp_path / "model.gguf", source.folder, metadata=metadata)
    ours, theirs = both(source.folder, file, attention_impl="reference")
    assert np.abs(ours.logprobs(IDS) - theirs.logprobs(IDS)).max() < ROUNDED


@pytest.mark.parametrize(
    "caps", [{}, dict(attn_logit_softcapping=1.5, final_logit_softcapping=2.5)]
)
def test_gemma2_scales_by_its_head_size_as_llama_cpp_does(caps, tmp_path):
    rest = dict(sliding_window=7, query_pre_attn_scalar=14) | caps
    source = test_families.written(tmp_path / "model", "Gemma2", 4, 2, 14, 52, 61, rest)
    file = write_gguf(tmp_path / "model.gguf", source.folder)
    folder, file = both(source.folder, file, attention_impl="reference")
    assert np.abs(folder.logprobs(IDS) - file.logprobs(IDS)).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_type_is_what_the_gguf_package_makes_of_it(kind, tmp_path):
    folder = find_model("builtin:tiny").folder
    file = write_gguf(tmp_path / "tiny.gguf", folder, kind)
    said = loaded(EdgeEngine, find_model(f"gguf:{file}")).logprobs(IDS)
    expected = loaded(EdgeEngine, round_trip(folder, tmp_path / "again", kind)).logprobs(IDS)
    assert np.abs(said - expected).max() < 1e-5
    whole = loaded(EdgeEngine, find_model("builtin:tiny")).logprobs(IDS)
    lost = np.abs(said - whole).max()
    assert lost < 5 and (lost > 1e-5 or kind in ("F16", "BF16"))  # its weights are bfloat16


def round_trip(folder, copy, kind):
    """A folder with every matrix stored as `kind` and read again by the gguf package alone."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, copy)
    stored, quants = gguf.GGMLQuantizationType[kind], gguf.quants
    tensors = {}
    for name, values in load_file(folder / "model.safetensors").items():
        values = values.float().numpy()
        if values.ndim == 2:
            values = quants.dequantize(quants.quantize(values, stored), stored)
        tensors[name] = torch.from_numpy(np.array(values).reshape(values.shape))
    save_file(tensors, copy / "model.safetensors")
    return find_model(str(copy))


@pytest.mark.parametrize("kind", BLOCKS)
def test_k_quants_are_read_block_by_block(kind, tmp_path):
    """Random blocks with sane scales: as many values as the gguf package finds, at their places."""
    folder = find_model("builtin:tiny").folder
    name = "blk.1.ffn_up.weight"
    rows, wide = renamed(find_model("builtin:tiny").config, folder)[name].shape
    blocks = np.random.default_rng(4).integers(0, 256, (rows, wide // 256, BLOCKS[kind]), np.uint8)
    scale = np.frombuffer(struct.pack("<e", 2**-14), np.uint8)
    places = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[kind]  # of the 16-bit scales
    for place in places:
        blocks[:, :, place : place + 2] = scale
    blocks = blocks.reshape(rows, -1)
    file = write_gguf(tmp_path / "tiny.gguf", folder, tensors={name: (blocks, kind)})
    engine = loaded(EdgeEngine, find_model(f"gguf:{file}"))
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert (engine.decoder.model.layers[1].up[0].numpy() == expected).all()
    assert np.isfinite(engine.logprobs(IDS)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q5_0"])
def test_one_damaged_scale_is_refused_by_the_name_of_its_tensor(kind, value, tmp_path):
    """Its last scale or value: in block types the first two bytes of the last block."""
    file = write_gguf(tmp_path / "tiny.gguf", find_model("builtin:tiny").folder, kind)
    found = {info.name: info for info in read_header(file).tensors}["blk.1.attn_q.weight"]
    bits = {"F32": "<f", "BF16": "<f"}.get(kind, "<e")
    wrong = struct.pack(bits, value)[-2 if kind == "BF16" else 0 :]
    size = {"Q8_0": 34, "Q4_1": 20, "Q5_0": 22}.get(kind, len(wrong))
    with file.open("rb+") as opened:
        opened.seek(found.offset + found.nbytes - size)
        opened.write(wrong)
    with pytest.raises(BadParams, match=r"'blk\.1\.attn_q\.weight' of tiny\.gguf .* no finite"):
        loaded(EdgeEngine, find_model(f"gguf:{file}"))


def test_large_numbers_are_numbers(tmp_path):
    """Finite values whose sum is not."""
    folder, name = find_model("builtin:tiny").folder, "blk.1.ffn_up.weight"
    values = np.full(renamed(find_model("builtin:tiny").config, folder)[name].shape, 3e38)
    file = write_gguf(tmp_path / "t.gguf", folder, tensors={name: (values.astype("<f4"), "F32")})
    engine = loaded(EdgeEngine, find_model(f"gguf:{file}"))
    assert (engine.decoder.model.layers[1].up[0] > 2e38).all()


@pytest.mark.parametrize("part", [1, 700, 256 * 1000])  # a row at a time, two rows, no whole rest
def test_tensors_come_whole_in_parts(part, tmp_path, monkeypatch):
    folder = find_model("builtin:tiny").folder
    source = find_model(f"gguf:{write_gguf(tmp_path / 'tiny.gguf', folder, 'Q8_0')}")
    whole = loaded(EdgeEngine, source).decoder.model.tensors()
    monkeypatch.setattr(gguf_weights, "PART", part)
    for tensor, expected in zip(
        loaded(EdgeEngine, source).decoder.model.tensors(), whole, strict=True
    ):
        assert tensor.equal(expected)


def test_sixteen_bits_are_kept_as_asked(tiny):
    folder, file = both(find_model("builtin:tiny").folder, tiny, dtype="bfloat16")
    assert np.abs(folder.logprobs(IDS) - file.logprobs(IDS)).max() < 1e-5
    assert file.served.weight_format == "bfloat16"


def test_people_get_readable_text(tiny):
    with load(f"gguf:{tiny}", "edge", threads=1) as file, load("builtin:tiny", "edge") as folder:
        ids = folder.tokenizer.encode("def read_lines(path):\n")
        assert file.tokenizer.encode("def read_lines(path):\n") == ids
        said = [
            "".join(token.text for token in engine.stream(ids, 12)) for engine in (file, folder)
        ]
        assert said[0] == said[1] and said[0].strip()
        assert file.trained == folder.trained == 2048


def test_a_model_that_needs_another_attention_is_served_with_it_at_the_door(tmp_path):
    """Gemma 2 has soft caps, which the fastest attention has not."""
    folder = random_model("gemma2", tmp_path / "model")
    words = ["generate", f"gguf:{write_gguf(tmp_path / 'm.gguf', folder)}", "--tokens", "2"]
    refused = CliRunner().invoke(commands, [*words, "--attention-impl", "sdpa-flash"])
    assert isinstance(refused.exception, Unsupported)
    assert "attention_impl: auto, or reference" in refused.exception.how
    served = CliRunner().invoke(commands, [*words, "--impl", "reference"])
    assert served.exit_code == 0 and "reference attention" in served.output


def test_a_type_that_edge_cannot_read_is_named_with_those_it_can(tmp_path):
    folder = find_model("builtin:tiny").folder
    blocks = np.zeros((512, 84), np.uint8)
    file = write_gguf(
        tmp_path / "tiny.gguf", folder, tensors={"blk.2.ffn_up.weight": (blocks, "Q2_K")}
    )
    with pytest.raises(Unsupported, match=r"'blk.2.ffn_up.weight' of tiny.gguf .* Q2_K") as told:
        loaded(EdgeEngine, find_model(f"gguf:{file}"))
    assert "Q4_K" in told.value.why and "llamacpp" in told.value.how


def test_a_lacking_tensor_is_named_in_both_languages(tmp_path):
    folder = find_model("builtin:tiny").folder
    file = write_gguf(tmp_path / "tiny.gguf", folder, drop=["blk.1.attn_k.weight"])
    with pytest.raises(
        Missing, match=r"blk.1.attn_k.weight.*model.layers.1.self_attn.k_proj.weight"
    ):
        loaded(EdgeEngine, find_model(f"gguf:{file}"))


@pytest.mark.parametrize(
    ("metadata", "error", "words"),
    [
        ({"llama.expert_count": 8, "llama.expert_used_count": 2}, Unsupported, "mixture of exp"),
        ({"general.architecture": "qwen3"}, Unsupported, "qwen3"),
        (
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0},
            Unsupported,
            "yarn",
        ),
        ({"llama.rope.dimension_count": 32}, Unsupported, "partial"),
        ({"llama.embedding_length": 255}, Missing, r"token_embd.weight.*\(4096, 256\)"),
        ({"llama.block_count": 4}, Missing, "blk.3.attn"),
    ],
)
def test_what_it_cannot_compute_is_refused_by_name(metadata, error, words, tmp_path):
    file = write_gguf(tmp_path / "t.gguf", find_model("builtin:tiny").folder, metadata=metadata)
    with pytest.raises(error, match=words):
        loaded(EdgeEngine, find_model(f"gguf:{file}"))


def test_a_damaged_file_is_refused_before_anything_is_loaded(tiny, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:-1000])
    with pytest.raises(BadParams, match=r"cut.gguf"):
        find_model(f"gguf:{cut}")


def test_a_file_that_is_not_there_or_named_without_its_kind_is_told(tiny, tmp_path):
    with pytest.raises(BadParams, match=r"no file .*nowhere.gguf"):
        find_model(f"gguf:{tmp_path / 'nowhere.gguf'}")
    with pytest.raises(BadParams) as told:
        find_model(str(tiny))
    assert told.value.how == f"use gguf:{tiny}"


def test_its_memory_is_predicted_from_its_header(tiny):
    assert spec_of(f"gguf:{tiny}") == spec_of("builtin:tiny")


def test_sources_name_their_file_and_hash_all_of_it(tiny, tmp_path):
    source = find_model(f"gguf:{tiny}")
    assert (source.file, source.folder) == (tiny, None)
    other = tmp_path / "other.gguf"
    data = bytearray(tiny.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    assert (
        find_model(f"gguf:{other}").sha256
        != source.sha256
        == hashlib.sha256(tiny.read_bytes()).hexdigest()
    )
