"""What the workbench must not say, and the words with which it refuses."""

from typing import Any

import pandas as pd

from llmbench import checker, laws, metrics, planted, stats
from llmbench.pairs import compare
from llmbench.params import make_study

from . import trials

FEW_SIZES = (16, 32, 64, 128, 256)


def sentences() -> dict[str, str]:
    """What is asked → the words of the refusal."""
    late = next(trials.sessions(trials.A_THEN_B, [17]))
    return {
        "a p99 from 50 samples": percentile_of(50),
        "a law of growth from five sizes": law_of(FEW_SIZES),
        "a comparison whose target took all its turns first": _order_of(late),
        "a row without a count of its output tokens": uncounted(),
        "decoding faster than the memory": faster_than_memory(),
    }


def _order_of(frame: pd.DataFrame) -> str:
    return trials.refusal_of(compare(frame, trials.TARGET, trials.BASELINE))


def percentile_of(samples: int) -> str:
    """Why there is no interval of a p99."""
    return stats.quantile_interval(range(samples), 0.99).note


def law_of(sizes: tuple[int, ...]) -> str:
    """Why there is no law; empty when there is one."""
    rows = planted_rows(context_lens=list(sizes))
    frame = metrics.frame_of(rows, planted.ENVIRONMENTS, "planted")
    law = laws.scaling(frame, x="context_len", y="prefill_s")
    return law.reasons[0] if law.law == "inconclusive" else ""


def uncounted() -> str:
    """What the checker says of a row that does not tell how many tokens came."""
    rows = planted_rows()
    return _said([rows[0] | {"witness": None}, *rows[1:]], planted.ENVIRONMENTS)


def faster_than_memory() -> str:
    """What the checker says when decoding reads more than memory can deliver."""
    rows = planted_rows()
    served = rows[0]["served"] | {"weight_bytes": 10**10, "kv_bytes_per_token": 0}
    heavy = [row | {"served": served} for row in rows]
    roofs = {"bytes_per_s": 3e11, "source": "planted", "raw": {}}
    known = dict(planted.ENVIRONMENTS[planted.PLACE]) | {"roofs": roofs}
    return _said(heavy, {planted.PLACE: known})


def planted_rows(**fields: Any) -> list[dict[str, Any]]:
    """The rows of one engine alone: six process runs of two blocks."""
    study = make_study("scaling", {
        "engines": ["fake"], "batch_sizes": [1], "context_lens": [trials.PROMPT_TOKENS],
        "output_tokens": trials.OUTPUT_TOKENS, "threads": 1} | fields)  # fmt: skip
    return planted.play("scaling", study, {"fake": trials.LAW})


def _said(rows: list[dict[str, Any]], environments: dict[str, Any]) -> str:
    return "; ".join(found.what for found in checker.check_rows(rows, environments))
