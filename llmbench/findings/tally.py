"""Many claims in few sentences, one a baseline and metric: a sentence a claim is no reading."""

import math
from collections import Counter
from collections.abc import Sequence

from llmbench.findings.engines import DECODE, Beside
from llmbench.findings.numbers import METRICS, count, fixed
from llmbench.pairs import Claim

MOST = 6  # claims that are still told one by one
ORDER = {  # how a verdict begins: what is told of those that do
    "yes": "yes", "no": "no",
    "counts as reached": "at the machine's limit, which counts as reached",
    "inconclusive": "inconclusive", "cannot be said": "cannot be said"}  # fmt: skip


def tally_sentences(found: Sequence[Beside]) -> list[str]:
    """How the claims of `found` ended; decode first, then in the order of the metrics.

    'In decode rate edge is 1.60 to 6.96 times as good as ollama (8 claims); bars reached: 7 yes,
    1 inconclusive.' Empty where they are few enough to be told one by one.
    """
    groups: dict[tuple[str, str, str], list[tuple[Claim, str]]] = {}
    for one in found:
        for claim in one.claims:
            key = one.metric, one.target, claim.baseline
            groups.setdefault(key, []).append((claim, one.verdict(claim)))
    if sum(map(len, groups.values())) <= MOST:
        return []
    order = list(METRICS)
    first = sorted(groups, key=lambda key: (key[0] != DECODE, order.index(key[0])))
    return [_sentence(key, groups[key]) for key in first]


def _sentence(key: tuple[str, str, str], claims: Sequence[tuple[Claim, str]]) -> str:
    metric, target, baseline = key
    ratios = sorted(claim.ratio for claim, _ in claims if math.isfinite(claim.ratio))
    ends = dict.fromkeys(fixed(ratio, 2) for ratio in (*ratios[:1], *ratios[-1:]))
    ended = Counter(_kind(verdict) for _, verdict in claims)
    told = ", ".join(f"{ended[kind]} {said}" for kind, said in ORDER.items() if ended[kind])
    about = (f"{target} is {' to '.join(ends)} times as good as {baseline}" if ends
             else f"{target} and {baseline} have no ratio")  # fmt: skip
    return (f"In {METRICS[metric].label.lower()} {about} ({count(len(claims), 'claim')}); "
            f"bars reached: {told}.")  # fmt: skip


def _kind(verdict: str) -> str:
    """The word of `ORDER` that a verdict begins with."""
    return next(kind for kind in ORDER if verdict.startswith(kind))
