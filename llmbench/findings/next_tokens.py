"""What each engine says comes next, beside the others: log-probabilities of the same prefixes."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

import pandas as pd

from llmbench.findings.numbers import SERVED, engine_names

STUDY = "ollama_comparison"
LIKELIEST = 3  # tokens shown of each prefix
PLACE = ["run", "fingerprint", "model", "model_sha256", "device", "weights"]  # of like answers
COLUMNS = ["Model", "After (tokens)", "Token id"]
LOWER = "lower"  # than all that the engine told


def next_tokens_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a model, prefix and one of its likeliest tokens; a column of ln p an engine.

    Each engine's first audit is shown; `checks` judges them all. The last column is the largest
    difference of two engines that both told the token. Empty when fewer than two engines told any.
    """
    rows = frame[(frame["study"] == STUDY) & frame["audit"].map(_told)]
    rows = rows[~rows["twin"].astype(bool)]
    rows = rows.fillna(dict.fromkeys(SERVED, ""))
    made = [row for _, some in rows.groupby(PLACE, dropna=False) for row in _of_model(some)]
    table = pd.DataFrame(made, columns=None if made else COLUMNS)
    engines = sorted(set(table.columns) - {*COLUMNS, "Apart"})
    return table[[*COLUMNS, *engines, *["Apart"] * bool(made)]].fillna("")


def _told(audit: Mapping[str, Any] | None) -> bool:
    return isinstance(audit, Mapping) and bool(audit["next_ids"])


def _of_model(rows: pd.DataFrame) -> list[dict[str, Any]]:
    asked = rows.assign(prompt="", output_tokens="", seed="")  # an audit's question is not theirs
    first = rows.assign(_name=engine_names(asked)).drop_duplicates("_name")
    audits = dict(zip(first["_name"], first["audit"], strict=True))
    if len(audits) < 2:
        return []
    lengths = zip(*(audit["prefixes"] for audit in audits.values()), strict=False)
    same = takewhile(lambda told: len(set(told)) == 1, lengths)
    model = ", ".join(filter(None, rows[["model", "weights"]].iloc[0]))
    return [{"Model": model, "After (tokens)": length, "Token id": token}
            | _beside(told, token)
            for place, (length, *_) in enumerate(same)
            for told in [{name: _likeliest(audit, place) for name, audit in audits.items()}]
            for token in _shown(told)]  # fmt: skip


def _likeliest(audit: Mapping[str, Any], place: int) -> dict[int, float]:
    """Token → ln p after one prefix, as one engine told it."""
    return dict(zip(audit["next_ids"][place], audit["next_logprobs"][place], strict=True))


def _shown(told: Mapping[str, Mapping[int, float]]) -> list[int]:
    """The likeliest tokens by the best that any engine says of them."""
    best: dict[int, float] = {}
    for tokens in told.values():
        for token, log in tokens.items():
            best[token] = max(log, best.get(token, log))
    return sorted(best, key=lambda token: -best[token])[:LIKELIEST]


def _beside(told: Mapping[str, Mapping[int, float]], token: int) -> dict[str, str]:
    """What each engine says of one token, and how far the two farthest are apart."""
    logs = {name: tokens[token] for name, tokens in told.items() if token in tokens}
    texts = {name: f"{logs[name]:.4f}" if name in logs else LOWER if tokens else ""
             for name, tokens in told.items()}  # fmt: skip
    apart = max(logs.values()) - min(logs.values())
    return texts | {"Apart": f"{apart:.2g}" if len(logs) > 1 else ""}
