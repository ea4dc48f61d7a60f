"""What a fresh child is asked once, apart from what is measured: is it the model, and no cache?

Of two new prompts, and of two times that one is given again, the better counts: a time may be
disturbed.
Prompts and prefixes are the same for every contender of a group, so equal models can be seen to be
equal at the very length that is timed, decoding included.
"""

from llmbench.engines.base import PREFILL_DONE, Engine
from llmbench.models.tokenizer import Tokenizer
from llmbench.profilers.clock import Clock
from llmbench.record import Audit, Repeat
from llmbench.timing import time_repeat
from llmbench.workload import audit_prefixes, prompt_ids

TOP = 20  # most likely tokens kept of each prefix
DECODED = 4  # tokens decoded, of which the last is held against a prefill over all before it


def audited(
    engine: Engine, tokenizer: Tokenizer, asked: Repeat, *, clock: Clock, trained: int | None
) -> Audit:
    """The engine's answers; `asked` gives the length, `trained` bounds it.

    Raises: OutOfMemory, Refused, as the engine.
    """
    room = (trained or asked.point.prompt_tokens + DECODED) - DECODED
    asked = asked.model_copy(update={"block": 0})
    never, *others = (
        [row[:room] for row in prompt_ids(asked.model_copy(update={"repeat": n}), tokenizer)]
        for n in (-2, -3, -4)  # measured prompts have 0 and more, warm-ups -1
    )
    decoded = [s[0] for s in engine.stream(never[:1], DECODED) if len(s) != len(PREFILL_DONE)]
    times = [time_repeat(engine, ids, 1, clock=clock)[0].step_ns[0] / 1e9
             for ids in (*others, others[-1], others[-1])]  # fmt: skip
    audit = Audit(prompt_s=min(times[:2]), again_s=min(times[2:]))
    if "next_logprobs" not in engine.capabilities:
        return audit
    prefixes = [*audit_prefixes(tokenizer), never[0]]
    told = [engine.next_logprobs(prefix, TOP) for prefix in prefixes]
    last = engine.next_logprobs([*never[0], *decoded[:-1]], TOP)
    return audit.model_copy(update={
        "prefixes": list(map(len, prefixes)),
        "next_ids": [list(found) for found in told],
        "next_logprobs": [list(found.values()) for found in told],
        "decoded_gap": max(
            (_gap(found, token) for found, token in ((told[-1], decoded[0]), (last, decoded[-1]))
             if found), default=None),
    })  # fmt: skip


def _gap(told: dict[int, float], token: int) -> float:
    """By how much a log-probability `token` misses the likeliest; not listed: at least so much."""
    return max(told.values()) - told.get(token, min(told.values()))
