"""A mixture of experts on the real engines that run one; our own refuses it by name."""

import json

import numpy as np
import pytest

import llmbench
from llmbench.engines.edge import EdgeEngine
from llmbench.errors import Unsupported
from llmbench.models.source import find_model
from tests.families import random_model

pytest.importorskip("gguf")
EXPERTS, USED = 4, 2
CLOSE = (
    0.01  # largest difference of a log-probability; another expert's answer misses by 1 and more
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny mixture of experts: its GGUF file, and the same weights in transformers' own class."""
    folder = tmp_path_factory.mktemp("experts")
    dense = random_model("mistral", folder)
    config = json.loads((dense / "config.json").read_text())
    experts = made_experts(config)
    return with_experts(folder, experts), transformers_own(dense, config, experts)


def made_experts(config):
    """Of each layer: router (E, C), gate and up (E, F, C), down (E, C, F)."""
    width, hidden = config["hidden_size"], config["intermediate_size"]
    up, down = (EXPERTS, hidden, width), (EXPERTS, width, hidden)
    shapes = {"gate_inp": (EXPERTS, width), "gate_exps": up, "up_exps": up, "down_exps": down}
    random = np.random.default_rng(17)
    return [{name: (random.standard_normal(shape) * 0.3).astype(np.float32)
             for name, shape in shapes.items()}
            for _ in range(config["num_hidden_layers"])]  # fmt: skip


def with_experts(folder, experts):
    """The model of `folder` as a GGUF file, its dense layers replaced by `experts`."""
    from tests.models.gguf_files import write_gguf

    layers = range(len(experts))
    return write_gguf(
        folder / "experts.gguf", folder,
        drop={f"blk.{i}.ffn_{part}.weight" for i in layers for part in ("gate", "up", "down")},
        metadata={"llama.expert_count": EXPERTS, "llama.expert_used_count": USED},
        tensors={f"blk.{i}.ffn_{n}.weight": v for i in layers for n, v in experts[i].items()},
    )  # fmt: skip


def transformers_own(folder, config, experts):
    """A MixtralForCausalLM with the attention of `folder` and these experts."""
    import torch
    import transformers
    from safetensors.torch import load_file

    kept = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(
        **kept, num_local_experts=EXPERTS, num_experts_per_tok=USED))  # fmt: skip
    tensors = {k: v for k, v in load_file(folder / "model.safetensors").items() if "mlp" not in k}
    for i, layer in enumerate(experts):
        its = {name: torch.from_numpy(values) for name, values in layer.items()}
        tensors |= {f"model.layers.{i}.mlp.gate.weight": its["gate_inp"],
                    f"model.layers.{i}.mlp.experts.gate_up_proj":
                    torch.cat([its["gate_exps"], its["up_exps"]], 1),
                    f"model.layers.{i}.mlp.experts.down_proj": its["down_exps"]}  # fmt: skip
    model.load_state_dict(tensors)
    return model.eval()


def truth(model, ids):
    """(V,) float32: natural log-probabilities of the token after `ids`."""
    import torch

    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].float(), -1).numpy()


@pytest.mark.parametrize("engine", [
    pytest.param("llamacpp", marks=pytest.mark.llamacpp),
    pytest.param("ollama", marks=pytest.mark.ollama)])  # fmt: skip
def test_experts_run_and_say_what_transformers_says(engine, made):
    file, model = made
    with llmbench.load(f"gguf:{file}", engine=engine, threads=1) as loaded:
        ids = loaded.tokenizer.encode(" the name of the file")
        told = loaded.next_logprobs(ids)
        answer = [token.id for token in loaded.stream(ids, 8)]
        assert loaded.served.weight_bytes > sum(
            values.nbytes for layer in made_experts(model.config.to_dict()) for values in
            layer.values())  # fmt: skip
    expected = truth(model, ids)
    assert len(told) >= 10
    assert max(abs(expected[i] - value) for i, value in told.items()) < CLOSE
    assert len(answer) == 8


def test_edge_refuses_it_by_name(made):
    file, _ = made
    with pytest.raises(Unsupported, match="mixture of experts, and this mixtral model is one"):
        EdgeEngine().load(find_model(f"gguf:{file}"), {"threads": 1})
