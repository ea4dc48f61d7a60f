"""Do two engines say the same? Log-probabilities, decoded tokens, and the answers that were timed.

Each side may miss the exact value by its own error, and what is allowed is the sum of both. A
side's own error is twice the largest that `tolerances.json` holds for its engine, its numbers and
prefixes as long: what `scripts/tolerances.py` measured against float32 on the same files.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from llmbench.pairs.sides import Check, Sides, by_pair

EXACT = "float32"
LEAST = 5e-4  # of a side in float32: the order of its sums
TIMES = 2.0  # the largest that was seen
MEASURED = Path(__file__).with_name("tolerances.json")


def outputs_agree(sides: Sides) -> Check:
    """Log-probabilities of the same prefixes, decoded tokens, and the answers that were timed."""
    name = "outputs agree"
    audits = [_distinct(some) for some in sides.audits]
    if not all(audits):
        return Check(name, None, "no log-probabilities were recorded")
    worst = max(distance(one, other) for one in audits[0] for other in audits[1])
    if not np.isfinite(worst):
        return Check(name, False, "they told no finite log-probabilities of the same prefixes")
    longest = max(max(audit["prefixes"]) for some in audits for audit in some)
    allowed = sum(_own_error(side, longest) for side in (sides.target, sides.baseline))
    detail = (f"largest difference of a log-probability {worst:.2g} after prefixes of up to "
              f"{longest:,} tokens, allowed {allowed:.2g}")  # fmt: skip
    if worst > allowed:
        return Check(name, False, detail)
    gaps = [gap for some in audits for a in some if (gap := a.get("decoded_gap")) is not None]
    if gaps and not max(gaps) <= allowed:
        return Check(name, False, f"a decoded token is {max(gaps):.2g} less likely than the one "
                     f"that the same engine's prefill names, allowed {allowed:.2g}")  # fmt: skip
    passed, answers = _answers(sides)
    return Check(name, passed, f"{detail}{answers}")


def _own_error(side: pd.DataFrame, longest: int) -> float:
    """What one side's log-probabilities may miss, by the numbers it says it computes with."""
    engines = set(side["engine"]) if "engine" in side else {""}
    return max(own_error(engine, weights, kept, longest)
               for weights, kept in _numbers(side) for engine in engines)  # fmt: skip


def _numbers(side: pd.DataFrame) -> set[tuple[str, str]]:
    """What a side holds weights and cache in; float32, and the weights', where it does not tell."""
    columns = ("weight_format", "kv_format")
    weights, kept = (side[name] if name in side else pd.Series(None, side.index, dtype=object)
                     for name in columns)  # fmt: skip
    weights = weights.where(weights.notna() & (weights != ""), EXACT)
    return set(zip(weights, kept.where(kept.notna() & (kept != ""), weights), strict=True))


@cache
def own_error(engine: str, weights: str, kept: str, longest: int) -> float:
    """What weights in `weights` with a cache in `kept` may miss, in natural log-probabilities.

    After prefixes of up to `longest` tokens; beyond what was measured, as after the longest that
    was. As measured of that engine; else of any with such numbers; of others the most of all.
    """
    if (weights, kept) == (EXACT, EXACT):
        return LEAST
    alike = [row for row in _measured() if (row["weights"], row["cache"]) == (weights, kept)]
    its = [row for row in alike if row["engine"] == engine]
    seen = max(_apart(row, longest) for row in its or alike or _measured())
    return max(LEAST, TIMES * seen)


def _apart(row: dict, longest: int) -> float:
    """What was measured of prefixes of up to `longest` tokens, or more where they were none."""
    lengths = sorted(map(int, row["apart"]))
    return row["apart"][str(next((n for n in lengths if n >= longest), lengths[-1]))]


@cache
def _measured() -> list[dict]:
    return json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]


def _answers(sides: Sides) -> tuple[bool, str]:
    """Whether the timed answers let them be one model, and in how many pairs they are equal.

    Rounding may part two greedy answers for good, and in fewer bits it often does; in float32 that
    is rare, so that mostly other answers are another model's, or decoded wrongly.
    """
    if not (sides.known("output_sha256") and sides.known("prompt_sha256")):
        return True, ""
    if any(_beyond(side) for side in (sides.target, sides.baseline)):
        return True, "; the timed answers lie beyond the trained context: cost only, not compared"
    both = by_pair(sides, "output_sha256")
    both = both[~both["again"]]
    equal = sum(bool(mine & theirs)
                for mine, theirs in zip(both["mine"], both["theirs"], strict=True))  # fmt: skip
    numbers = _numbers(sides.target) | _numbers(sides.baseline)
    told = f"; the timed answers are equal in {equal} of {len(both)} pairs"
    return numbers != {(EXACT, EXACT)} or 2 * equal >= len(both), told


def _beyond(side: pd.DataFrame) -> bool:
    """Whether a row is longer than its model was trained for."""
    return "flags" in side and any("beyond_context" in flags for flags in side["flags"])


def _distinct(audits: Sequence[dict]) -> list[dict]:
    """The audits that tell log-probabilities, equal ones once: mostly those of every process."""
    told = {str((a["next_ids"], a["next_logprobs"])): a for a in audits if a["next_ids"]}
    return list(told.values())


def distance(one: dict, other: dict) -> float:
    """Largest difference of a token's log-probability that the two lists of likeliest ones show.

    A token that only one of them holds is in the other at most as likely as its last one. Only the
    first prefixes that both were asked for count; infinite without any, or for what is no number.
    """
    apart = [np.inf]
    for place, (mine, theirs) in enumerate(zip(one["prefixes"], other["prefixes"], strict=False)):
        if mine != theirs:
            break
        if not (one["next_ids"][place] and other["next_ids"][place]):
            continue  # a server does not always tell
        here, there = (dict(zip(side["next_ids"][place], side["next_logprobs"][place], strict=True))
                       for side in (one, other))  # fmt: skip
        apart += [_apart_by(here, there), _apart_by(there, here)]
    return max(apart[1:] or apart)


def _apart_by(here: dict[int, float], there: dict[int, float]) -> float:
    """The most by which the tokens of one list are likelier or less likely in the other."""
    least = min(there.values(), default=np.nan)
    most = max((abs(log - there[i]) if i in there else log - least for i, log in here.items()),
               default=np.nan)  # fmt: skip
    finite = np.isfinite([*here.values(), *there.values()]).all()
    return float(most) if finite and np.isfinite(most) else np.inf
