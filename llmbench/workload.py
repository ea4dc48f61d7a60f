"""A repeat → prompt ids of shape (B, T), the same for every engine of a block.

A row begins with the token that the model wants first, if it does, as a server would put it there.
A nonce of `NONCE_TOKENS` seeded tokens follows, so that no engine can answer from a
cache of an earlier prompt. The nonce is part of the prompt and is counted. It does not depend on
the engine nor on the process run: in each process run the same block asks the same question, and
equal answers are evidence that the timed path is right.
"""

import random
from collections.abc import Sequence

from llmbench.models.tokenizer import Tokenizer
from llmbench.record import Point, Repeat

NONCE_TOKENS = 8
AUDIT_LENGTHS = (1, 4, 12, 32)

PROMPTS = {
    "hello": "Hello",
    "machine_learning": "What is machine learning?",
    "quantum": "Explain quantum computing in simple terms.",
    "neural_networks": (
        "Write a detailed explanation of how neural networks work, including backpropagation."
    ),
}


TASKS = {  # what a model is asked to see how it answers; no audit is made of them
    "capability_summary": (
        "Summarise in a few sentences what you can do for the person who asks you, and what you "
        "cannot do."
    ),
    "technical_explanation": (
        "Explain step by step how the source text of a program becomes something that a processor "
        "can run."
    ),
    "creative_writing": (
        "Write the opening of a story in which a lighthouse keeper finds a letter addressed to the "
        "sea."
    ),
}
TEXTS = PROMPTS | TASKS


def prompt_ids(repeat: Repeat, tokenizer: Tokenizer) -> list[list[int]]:
    """The prompt of each row: (batch_size, prompt_tokens) ids."""
    point, first = repeat.point, tokenizer.first
    rows = ([*first, *_nonce(repeat, row, tokenizer.plain_ids), *_text(point, tokenizer)]
            for row in range(point.batch_size))  # fmt: skip
    return [row[: point.prompt_tokens] for row in rows]


def prompt_tokens(prompt: str, tokenizer: Tokenizer) -> int:
    """Length in tokens of a named prompt with its nonce and what the model wants first."""
    return len(tokenizer.first) + NONCE_TOKENS + len(tokenizer.encode(TEXTS[prompt]))


def audit_prefixes(tokenizer: Tokenizer) -> list[list[int]]:
    """Prefixes of one text, the same for every engine: what comes next is asked after each."""
    ids = tokenizer.encode(" ".join(PROMPTS.values()))
    return [[*tokenizer.first, *ids[:length]] for length in AUDIT_LENGTHS if length <= len(ids)]


def _nonce(repeat: Repeat, row: int, plain_ids: Sequence[int]) -> list[int]:
    p = repeat.point
    seed = f"{p.seed}/{p.prompt}/{p.prompt_tokens}/{repeat.block}/{repeat.repeat}/{row}"
    return random.Random(seed).choices(plain_ids, k=NONCE_TOKENS)


def _text(point: Point, tokenizer: Tokenizer) -> list[int]:
    """Ids of the named prompt, or for "exact" the four prompts again and again, long enough."""
    if point.prompt != "exact":
        return tokenizer.encode(TEXTS[point.prompt])
    ids = tokenizer.encode(" ".join(PROMPTS.values()) + "\n")
    return ids * (point.prompt_tokens // len(ids) + 1)
