"""One timed repeat: an engine, prompt ids, a clock → raw times and a witness. Owns the clock.

What is clocked: from just before the engine is asked until the last token is in our hands, with
the device synchronised on both sides. Prompts are token ids: no tokenising is inside.
"""

import hashlib
from array import array
from collections.abc import Sequence

from llmbench.engines.base import PREFILL_DONE, Engine, Told, told_by
from llmbench.errors import StudyFailed
from llmbench.profilers.clock import Clock, overhead_ns
from llmbench.record import Raw, Witness


def time_repeat(
    engine: Engine,
    prompt_ids: Sequence[Sequence[int]],
    output_tokens: int,
    *,
    clock: Clock,
    warmup_s: Sequence[float] = (),
) -> tuple[Raw, Witness]:
    """Times in ns of one generation of (B, output_tokens) tokens, and what it generated."""
    steps: list[Sequence[int]] = []
    step_ns: list[int] = []
    prefill_ns = None
    engine.synchronize()
    stream = engine.stream(prompt_ids, output_tokens)
    submit = clock.now_ns()
    for tokens in stream:
        now = clock.now_ns() - submit
        if len(tokens) == len(PREFILL_DONE):
            prefill_ns = now
        else:
            step_ns.append(now)
            steps.append(tokens)
    engine.synchronize()
    end_ns = clock.now_ns() - submit
    told = told_by(engine)
    raw = Raw(submit_ns=submit, prefill_ns=prefill_ns, step_ns=step_ns, end_ns=end_ns,
              warmup_s=list(warmup_s), timer_overhead_ns=overhead_ns(clock),
              server=told.server)  # fmt: skip
    return raw, _witness(prompt_ids, steps, output_tokens, told)


def warm_up(
    engine: Engine,
    prompt_ids: Sequence[Sequence[int]],
    output_tokens: int,
    *,
    clock: Clock,
    times: int,
) -> list[float]:
    """Seconds of each of `times` whole generations of this shape, made before the clock counts."""
    seconds = []
    for _ in range(times):
        raw, _ = time_repeat(engine, prompt_ids, output_tokens, clock=clock)
        seconds.append(raw.end_ns / 1e9)
    return seconds


def _witness(
    prompt_ids: Sequence[Sequence[int]], steps: list[Sequence[int]], asked: int, told: Told
) -> Witness:
    """Hashes of both sides' ids, and a count. Raises: StudyFailed when a step lacks rows."""
    rows = len(prompt_ids)
    for number, tokens in enumerate(steps):
        if len(tokens) != rows:
            raise StudyFailed(f"step {number} brought {len(tokens)} tokens for {rows} rows")
    return Witness(output_sha256=_sha256(steps), prompt_sha256=_sha256(prompt_ids),
                   output_tokens=len(steps),
                   end_reason="length" if len(steps) == asked else told.end_reason or "lost",
                   )  # fmt: skip


def _sha256(parts: Sequence[Sequence[int]]) -> str:
    ids = array("q", (int(token) for part in parts for token in part))
    return hashlib.sha256(ids.tobytes()).hexdigest()
