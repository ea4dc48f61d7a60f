"""transformers on GGUF files: its own classes say what edge says of the same bytes."""

import numpy as np
import pytest

from llmbench.engines.edge import EdgeEngine
from llmbench.engines.transformers import TransformersEngine
from llmbench.errors import Missing, Unsupported
from llmbench.models.export import export
from llmbench.models.source import find_model
from tests.engines.test_edge import greedy, loaded
from tests.families import FAMILIES, random_model
from tests.models.gguf_files import write_gguf

IDS = list(range(300, 345))  # longer than every window and every context first trained for


def both(file, **options):
    """transformers and edge with the same file, in the attention that every family has."""
    source = find_model(f"gguf:{file}")
    return (loaded(TransformersEngine, source, attention_impl="eager", **options),
            loaded(EdgeEngine, source, attention_impl="reference", **options))  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("write", [export, write_gguf], ids=["ours", "as converters do"])
def test_every_family_says_what_edge_says_of_the_file(family, write, tmp_path):
    folder, file = random_model(family, tmp_path / "model"), tmp_path / "model.gguf"
    write(str(folder), file, "F32") if write is export else write(file, folder)
    theirs, ours = both(file)
    named = "Llama" if family == "mistral" else FAMILIES[family][0]  # one, but for the window
    assert type(theirs.model).__name__.startswith(named)
    assert np.abs(theirs.logprobs(IDS) - ours.logprobs(IDS)).max() < 1e-4
    assert greedy(theirs, [IDS, IDS], 8) == greedy(ours, [IDS, IDS], 8)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_builtin_tiny_is_dequantised_and_said_to_be_so(kind, tmp_path):
    theirs, ours = both(export("builtin:tiny", tmp_path / "tiny.gguf", kind))
    assert np.abs(theirs.logprobs(IDS) - ours.logprobs(IDS)).max() < 1e-4
    for name in ("weight_format", "weight_bytes", "kv_bytes_per_token"):
        assert getattr(theirs.served, name) == getattr(ours.served, name)
    assert theirs.served.weight_format == "float32"


def test_it_is_held_in_the_dtype_asked_for(tmp_path):
    theirs, ours = both(export("builtin:tiny", tmp_path / "tiny.gguf", "Q8_0"), dtype="bfloat16")
    assert {p.dtype for p in theirs.model.parameters()} == {theirs.torch.bfloat16}
    assert theirs.served.weight_format == ours.served.weight_format == "bfloat16"
    assert np.abs(theirs.logprobs(IDS) - ours.logprobs(IDS)).max() < 0.15


def test_a_tied_embedding_is_held_once(tmp_path):
    theirs, _ = both(write_gguf(tmp_path / "m.gguf", random_model("llama3", tmp_path / "model")))
    head, table = theirs.model.get_output_embeddings(), theirs.model.get_input_embeddings()
    assert head.weight is table.weight


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_file_is_not_quantized_again(quantization, tmp_path):
    source = find_model(f"gguf:{export('builtin:tiny', tmp_path / 'tiny.gguf', 'Q8_0')}")
    with pytest.raises(Unsupported, match=f"GGUF file to {quantization}") as told:
        TransformersEngine().load(source, {"quantization": quantization})
    assert "folder" in told.value.how


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"metadata": {"llama.expert_count": 8}}, Unsupported, "mixture of experts 'mixtral'"),
        ({"metadata": {"general.architecture": "qwen3"}}, Unsupported, "family 'qwen3'"),
        ({"metadata": {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}},
         Unsupported, "scaling 'yarn'"),
        ({"metadata": {"llama.block_count": 4}}, Missing, "blk.3.attn"),
        ({"metadata": {"llama.block_count": 2}}, Unsupported, "no place for .* 'blk.2."),
        ({"drop": ["blk.1.attn_k.weight"]}, Missing, "blk.1.attn_k.weight"),
        ({"tensors": {"blk.0.attn_q.scale": np.ones(4, np.float32)}}, Unsupported, "attn_q.scale"),
        ({"tensors": {"blk.2.ffn_up.weight": (np.zeros((512, 84), np.uint8), "Q2_K")}},
         Unsupported, "is stored as Q2_K"),
    ],
)  # fmt: skip
def test_what_its_classes_do_not_take_is_refused_by_name(changes, error, words, tmp_path):
    file = write_gguf(tmp_path / "t.gguf", find_model("builtin:tiny").folder, **changes)
    with pytest.raises(error, match=words):
        loaded(TransformersEngine, find_model(f"gguf:{file}"))


def test_the_window_of_a_mistral_file_is_kept(tmp_path):
    folder = random_model("mistral", tmp_path / "model", sliding_window=8)
    narrow, wide = (
        both(write_gguf(tmp_path / f"{window}.gguf", folder,
                        metadata={"llama.attention.sliding_window": window}))
        for window in (8, 64)
    )  # fmt: skip
    assert type(narrow[0].model).__name__ == "MistralForCausalLM"
    assert np.abs(narrow[0].logprobs(IDS) - narrow[1].logprobs(IDS)).max() < 1e-4
    assert np.abs(narrow[0].logprobs(IDS) - wide[0].logprobs(IDS)).max() > 1e-2


def test_a_folder_in_another_type_is_its_exported_file():
    folder = find_model("builtin:tiny")
    theirs, ours = (
        loaded(kind, folder, weights="Q4_0") for kind in (TransformersEngine, EdgeEngine)
    )
    whole = loaded(TransformersEngine, folder).logprobs(IDS)
    assert np.abs(theirs.logprobs(IDS) - ours.logprobs(IDS)).max() < 1e-4
    assert np.abs(theirs.logprobs(IDS) - whole).max() > 0.01
    with pytest.raises(Unsupported, match="does not quantize a GGUF file"):
        loaded(TransformersEngine, folder, weights="Q8_0", quantization="int8")
