"""Whole answers of fewer tokens than a run asked for: when the n-th token of each was there.

    python scripts/answers.py RUN [--tokens 16 128]

Up to its n-th token a longer answer is the answer of n tokens: no engine here is told the length
in a way that changes a step. RUN is the folder of a run of `ollama_comparison`; printed and kept in
its tables/answers.csv is a row a model, format, prompt and number of tokens: each engine's median
of process runs in seconds, and how many times as early the target is, with Student's interval and
verdict.
All claims are corrected together.
"""

import argparse
from pathlib import Path

import pandas as pd

from llmbench import stats, store
from llmbench.errors import BadParams
from llmbench.findings.numbers import shown
from llmbench.metrics import read
from llmbench.pairs import claims
from llmbench.pairs.verdicts import judged

TARGET, METRIC = "edge", "e2e_s"
GROUP = ["model", "weights", "prompt_tokens"]


def ended_at(frame: pd.DataFrame, folder: Path, tokens: int) -> pd.DataFrame:
    """`frame` with the time of the first `tokens` tokens as that of the whole; NaN with fewer."""
    rows, _ = store.read_rows(folder)
    steps = {row["key"]: row["raw"]["step_ns"] for row in rows if row["raw"]}
    seconds = {key: ns[tokens - 1] / 1e9 for key, ns in steps.items() if len(ns) >= tokens}
    return frame.assign(**{METRIC: frame["key"].map(seconds)})


def table(folder: Path, lengths: list[int]) -> pd.DataFrame:
    """A row a group and length. Raises: BadParams for more tokens than were asked for."""
    frame = read(folder)
    if max(lengths) > (most := int(frame["output_tokens"].min())):
        raise BadParams(f"{max(lengths)} tokens of answers of {most}: {folder}")
    baselines = [name for name in frame["engine"].unique() if name != TARGET]
    cut = {tokens: ended_at(frame, folder, tokens) for tokens in lengths}
    asked = [(tokens, claim) for tokens, rows in cut.items() for name in baselines
             for claim in claims(rows, TARGET, name, METRIC, 1.0, by="engine")]  # fmt: skip
    found = {}
    for (tokens, _), claim in zip(asked, judged([claim for _, claim in asked]), strict=True):
        about = dict(claim.group)
        place = (*(about[name] for name in GROUP), tokens)
        found.setdefault(place, {})[claim.baseline] = claim
    return pd.DataFrame(
        [_row(place, told, cut[place[-1]]) for place, told in sorted(found.items())]
    )


def _row(place: tuple, told: dict, frame: pd.DataFrame) -> dict[str, object]:
    row = dict(zip([*GROUP, "new_tokens"], place, strict=True))
    here = (frame[GROUP] == list(place[:-1])).all(axis=1) & ~frame["twin"].astype(bool)
    runs = stats.process_run_medians(shown(frame[here]), METRIC, ["engine"])
    median = runs.groupby("engine")[METRIC].median()
    row |= {f"{name} (s)": f"{median[name]:.3g}" for name in (TARGET, *told)}
    for name, claim in told.items():
        row[f"against {name}"] = f"{claim.ratio:.2f} [{claim.low:.2f}-{claim.high:.2f}]"
        row[f"verdict: {name}"] = claim.verdict or "cannot be said"
    return row


def main() -> None:
    """Read, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 128])
    asked = parser.parse_args()
    told = table(asked.run, asked.tokens)
    print(told.to_string(index=False))
    told.to_csv(asked.run / "tables" / "answers.csv", index=False)


if __name__ == "__main__":
    main()
