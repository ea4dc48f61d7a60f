"""Checks over every turn that was taken: what went wrong is left out where rare, and told."""

from collections.abc import Iterator

import pandas as pd

from llmbench.pairs.sides import Check, Sides

OFTEN = 0.1  # of a side's turns; more are no accident, and leaving them out would be a choice
# Ollama ends an answer once one token came 30 times in a row, which a model with made-up weights
# does in up to one turn in ten without a fault of the engine
OFTEN_SHORT = 0.2
LOST = ("engine_lost", "timeout", "failed")  # statuses of turns that did not end as they should
WRONG = (  # check, what is told of a turn, flags, statuses, share
    ("answers whole", "ended early or were lost", ("short",), LOST, OFTEN_SHORT),
    ("prompts read whole", "were read or answered otherwise", ("incorrect",), (), OFTEN),
    ("model stayed loaded", "had the model loaded again", ("reloaded",), (), OFTEN),
)


def whole(sides: Sides) -> Iterator[Check]:
    """Whether turns that may not enter are rare on both sides; judged on all, flagged or not."""
    for name, what, flags, statuses, often in WRONG:
        if not all("flags" in turns for turns in sides.turns):
            yield Check(name, None, "no column flags")
            continue
        counts = [int(_wrong(turns, flags, statuses).sum()) for turns in sides.turns]
        shares = [f"{n} of {len(turns)}" for n, turns in zip(counts, sides.turns, strict=True)]
        rare = all(n <= often * len(turns) for n, turns in zip(counts, sides.turns, strict=True))
        detail = f"{shares[0]} and {shares[1]} turns {what} (target, baseline)"
        limit = "" if rare else f"; more than {often:.0%} of a side's is no accident"
        yield Check(name, rare, detail + limit)


def _wrong(turns: pd.DataFrame, flags: tuple[str, ...], statuses: tuple[str, ...]) -> pd.Series:
    flagged = turns["flags"].map(lambda found: bool(set(flags) & set(found))).astype(bool)
    ended = turns["status"].isin(statuses) if "status" in turns else False
    return flagged | ended
