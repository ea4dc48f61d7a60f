"""A GGUF file → transformers' own model class, holding the tensors that `edge` reads of it.

transformers' own reader (`gguf_file=`) takes seconds on a large vocabulary, has no Granite and
leaves out Llama 3's rotary factors. Here only the bytes are ours; all the model's code is theirs.
"""

from collections.abc import Mapping
from typing import Any

from llmbench.errors import Missing, Unsupported
from llmbench.models.families import FAMILIES
from llmbench.models.gguf_weights import GgufWeights
from llmbench.models.source import ModelSource

ROPES = ("default", "linear", "longrope", "factors")
ROPE_TENSORS = "rope_"  # begin so; the config holds their values
OTHERS = "run it on llamacpp or ollama"


def load_gguf(source: ModelSource, dtype: Any, device: str, attention_impl: str) -> Any:
    """The model of `source.file` in `dtype` on `device`, its weights dequantised one by one.

    Raises: Unsupported for a family, a rotation, a stored type or a tensor that transformers' class
    does not take, Missing for a tensor that the file lacks.
    """
    import torch
    from transformers import AutoModelForCausalLM

    told = source.config
    _check(told)
    config, factors = _config(told)
    weights = GgufWeights(source.header, told, dtype, device)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)  # no memory: its class, names and shapes
    model, info = type(empty).from_pretrained(
        None, config=config, state_dict=_taken(weights, empty), dtype=dtype,
        attn_implementation=attention_impl, output_loading_info=True,
    )  # fmt: skip
    if lost := [name for kind in info.values() for name in kind]:
        raise Missing(f"models: {source.file.name} does not fill transformers' "
                      f"{type(model).__name__}: {', '.join(map(str, lost[:3]))}")  # fmt: skip
    _slow_down(model, factors)
    return model


def _check(told: Mapping[str, Any]) -> None:
    """Raises: Unsupported by name for what has no translation into transformers' words."""
    kind, rope = told["model_type"], told["rope_parameters"]["rope_type"]
    if told.get("num_local_experts") or kind not in FAMILIES:
        what = "mixture of experts" if told.get("num_local_experts") else "family"
        raise Unsupported(f"engine transformers takes no {what} {kind!r} from a GGUF file",
                          how=f"families: {', '.join(FAMILIES)}; {OTHERS}")  # fmt: skip
    if rope not in ROPES:
        raise Unsupported(f"engine transformers takes no rotary scaling {rope!r} from a GGUF file",
                          how=f"it takes {', '.join(ROPES)}; {OTHERS}")  # fmt: skip


def _config(told: Mapping[str, Any]) -> tuple[Any, list[float] | None]:
    """transformers' config, and Llama 3's divisors of the frequencies, which it has no word for."""
    from transformers import AutoConfig

    fields = {"pad_token_id": None} | dict(told)
    rope = dict(fields.pop("rope_parameters"))
    factors = rope.pop("factors", None)
    if factors is not None:
        rope["rope_type"] = "default"
    if trained := rope.get("original_max_position_embeddings"):
        fields["original_max_position_embeddings"] = trained
    return AutoConfig.for_model(**fields, rope_parameters=rope), factors


def _taken(weights: GgufWeights, empty: Any) -> dict[str, Any]:
    """Every tensor that `empty` asks for, a tied one once. Raises: Missing, Unsupported."""
    wanted = {name: tuple(p.shape) for name, p in empty.named_parameters()}
    known = {weights.gguf_name(name) for name in wanted}
    over = [info.name for info in weights.header.tensors
            if info.name not in known and not info.name.startswith(ROPE_TENSORS)]  # fmt: skip
    if over:
        raise Unsupported(f"engine transformers has no place for the tensor {over[0]!r} of "
                          f"{weights.header.path.name}", how=OTHERS)  # fmt: skip
    return {name: weights.take(name, *shape) for name, shape in wanted.items()}


def _slow_down(model: Any, factors: list[float] | None) -> None:
    """Divide the frequencies as the file says, which holds what Llama 3's rule comes to."""
    if factors is not None:
        rotary = model.model.rotary_emb
        rotary.inv_freq /= rotary.inv_freq.new_tensor(factors)
