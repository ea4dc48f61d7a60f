"""Tensors by what they are for: which class a name belongs to, and what each class takes."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from llmbench.models.header import TensorInfo

# The first pattern that is found in a name decides. Source: tensor names of gguf-py's constants.py
# and of transformers' modelling code.
_PATTERNS = (
    ("norms", r"norm|(?:^|\.)ln_?[12f]?\."),
    ("rope tables", r"rope_(?:freqs|factors)|rotary_emb|inv_freq"),
    ("router", r"ffn_gate_inp|exp_probs_b|(?:mlp|moe)\.(?:gate|router)\.|shared_expert_gate"),
    ("shared experts", r"_shexp|shared_experts?\."),
    ("experts", r"_(?:ch)?exps\b|ffn_(?:gate|up|down)\.\d+\.|\.experts\."),
    ("embedding", r"token_embd|position_embd|token_types|embed_tokens|embeddings?\.|\bw[tp]e\."),
    ("head", r"^output\.|lm_head|^cls\."),
    ("attention", r"attn|attention"),
    ("mlp", r"ffn|mlp|feed_forward"),
)
_COMPILED = tuple((name, re.compile(pattern)) for name, pattern in _PATTERNS)
ORDER = ("embedding", "attention", "mlp", "experts", "shared experts", "router", "norms", "head",
         "other", "rope tables")  # fmt: skip


@dataclass(frozen=True)
class ClassRow:
    """What the tensors of one class that are stored in one way take."""

    tensor_class: str
    kind: str  # how they are stored, "Q4_K"
    tensors: int
    values: int
    nbytes: int


def class_of(name: str) -> str:
    """The class of the tensor called `name`, in GGUF's names or in those of transformers."""
    return next((found for found, pattern in _COMPILED if pattern.search(name)), "other")


def class_rows(tensors: Iterable[TensorInfo]) -> tuple[ClassRow, ...]:
    """A row for every class and type that occurs, classes in `ORDER`, the largest type first."""
    counts: Counter[tuple[str, str]] = Counter()
    values, nbytes = Counter(), Counter()
    for info in tensors:
        cell = class_of(info.name), info.kind
        counts[cell] += 1
        values[cell] += prod(info.shape)
        nbytes[cell] += info.nbytes
    cells = sorted(counts, key=lambda cell: (ORDER.index(cell[0]), -nbytes[cell], cell[1]))
    return tuple(ClassRow(*cell, counts[cell], values[cell], nbytes[cell]) for cell in cells)
