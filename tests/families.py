"""Random tiny models of every family, as Hugging Face folders."""

import shutil
from pathlib import Path
from typing import Any

TINY = Path(__file__).parent.parent / "llmbench" / "models" / "builtin" / "tiny"
COMMON = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
          "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
          "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
          "pad_token_id": 0}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"head_dim": 32, "attention_bias": True, "mlp_bias": True}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "granite": ("Granite", {"attention_multiplier": 0.3, "embedding_multiplier": 6.0,
                            "residual_multiplier": 0.4, "logits_scaling": 2.0}),
    "gemma2": ("Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8,
                          "tie_word_embeddings": True}),
    "phi3": ("Phi3", {}),
    "linear": ("Qwen2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4,
                                             "factor": 3.0}}),
    "phi3-longrope": ("Phi3", {"original_max_position_embeddings": 32, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 8, "long_factor": [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0]}}),
    "phi3-partial": ("Phi3", {"rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
}  # fmt: skip


def random_model(name: str, folder: Path, **changes: Any) -> Path:
    """`folder` with a random model of FAMILIES, in float32, and the tokenizer of builtin:tiny.

    Norms and biases are random too, so that none of them can be forgotten.
    """
    import torch
    import transformers

    kind, settings = FAMILIES[name]
    config = getattr(transformers, f"{kind}Config")(**COMMON | settings | changes)
    torch.manual_seed(17)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
            else:
                weight.normal_(0, 0.1)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / file, folder)
    return folder


def read_gguf(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and keys of a GGUF file, by name, as the `gguf` package reads them."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    return {t.name: t for t in reader.tensors}, {n: f.contents() for n, f in reader.fields.items()}
