"""What the comparisons of a run say: every contender against the one that has a twin."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pandas as pd

from llmbench import pairs, stats
from llmbench.bars import Bar
from llmbench.errors import BadParams, CannotSay
from llmbench.findings.circumstances import About
from llmbench.findings.numbers import EN, METRICS, count
from llmbench.params import validated
from llmbench.strict_yaml import Located, parse_yaml

ACROSS = {"ollama_comparison": "engine", "attention": "attention_impl"}  # what names a contender
DECLARED = {"ollama_comparison": ("decode_tok_per_s", "ttft_s"), "attention": ("prefill_s",)}
CLAIMED = ("metrics", "at_least", "target", "bars")  # what a run declares before it begins
ABLATED = "skipped"  # the attention that leaves attention out: an ablation, no contender
PLACE = ["run", "fingerprint", "study"]


@dataclass(frozen=True)
class Told:
    """One target against the baseline in one metric; without `comparison` it cannot be said why."""

    target: str
    baseline: str
    metric: str
    comparison: pairs.Comparison | None
    why_not: str = ""

    @property
    def sentences(self) -> list[str]:
        """A sentence a claim, or why there is none."""
        if self.comparison is None:
            return [f"{METRICS[self.metric].label} of {self.target} and {self.baseline} cannot be "
                    f"compared: {self.why_not}"]  # fmt: skip
        return [self.said(claim.sentence) for claim in self.comparison.claims]

    def said(self, sentence: str) -> str:
        """The sentence of a claim with the metric's name for people."""
        label = METRICS[self.metric].label.lower()
        return sentence.replace(f" in {self.metric} ", f" in {label} ")


def declared(abouts: Iterable[About]) -> dict[str, dict[str, Any]]:
    """The claims that each run declared before it began: `metrics at_least target bars`, by run.

    Raises: BadParams for bars that are none.
    """
    found = {}
    for about in abouts:
        values = parse_yaml(about.params_text or "{}", about.name).values
        study = (values.get("studies") or {}).get("ollama_comparison") or {}
        claimed = {name: study[name] for name in CLAIMED if name in study}
        bars = [validated(Bar, Located(values=bar), about.name) for bar in claimed.get("bars", ())]
        found[about.name] = claimed | ({"bars": bars} if bars else {})
    return found


def comparisons(
    frame: pd.DataFrame, metrics: Sequence[str] = (), at_least: float = 1.0, target: str = "",
    bars: Sequence[Bar | Mapping[str, Any]] = (),
    declared: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> list[Told]:  # fmt: skip
    """The `target` against each other engine; elsewhere each contender against that with a twin.

    `metrics`: the study's own where none are given; what a run has `declared` replaces them.
    The bar `at_least`, and `bars` for the claims that they name, are for engines; other contenders
    are asked whether they are better at all. Rows of two runs or machines are never paired.
    """
    bars = [bar if isinstance(bar, Bar) else Bar.model_validate(bar) for bar in bars]
    found = []
    for (run, _, study), rows in frame.groupby(PLACE, sort=True):
        by = ACROSS.get(study)
        if not by:
            continue
        asked = {"metrics": metrics, "at_least": at_least, "target": target, "bars": bars}
        asked |= declared.get(run, {})
        if study != "ollama_comparison":
            asked = {"metrics": (), "at_least": 1.0, "target": "", "bars": ()}
        rows = _named(rows, by)
        found += _judged(
            [_told(rows, one, baseline, metric, asked["at_least"], asked["bars"], by)
             for one, baseline in _sides(rows, by, asked["target"])
             for metric in asked["metrics"] or DECLARED[study]]
        )  # fmt: skip
    return found


def _named(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Contenders that never served are named by what they were asked to be."""
    asked = rows["options"].map(lambda text: json.loads(text or "{}").get(by))
    return rows.assign(**{by: rows[by].where(rows[by].notna(), asked)})


def _sides(rows: pd.DataFrame, by: str, target: str) -> list[tuple[str, str]]:
    """Who is compared with whom in one study."""
    names = [name for name in sorted(rows[by].dropna().unique()) if name != ABLATED]
    if target in names:
        return [(target, baseline) for baseline in names if baseline != target]
    twins = rows.loc[rows["twin"].astype(bool), by].dropna().unique()
    return [(name, baseline) for baseline in twins for name in names if name != baseline]


def _told(
    rows: pd.DataFrame, target: str, baseline: str, metric: str, at_least: float,
    bars: Sequence[Bar], by: str,
) -> Told:  # fmt: skip
    try:
        claims = pairs.claims(rows, target, baseline, metric, at_least, by=by, bars=bars)
    except (BadParams, CannotSay) as error:
        why = f"{error.what} ({error.why})" if error.why else error.what
        return Told(target, baseline, metric, None, why)
    return Told(target, baseline, metric, pairs.Comparison(tuple(claims)))


def _judged(told: list[Told]) -> list[Told]:
    """The verdicts of one study, its claims corrected together, whatever pair or metric."""
    known = [one.comparison.claims if one.comparison else () for one in told]
    verdicts = iter(pairs.judged(claim for claims in known for claim in claims))
    judged = [tuple(next(verdicts) for _ in claims) for claims in known]
    return [replace(one, comparison=pairs.Comparison(claims)) if claims else one
            for one, claims in zip(told, judged, strict=True)]  # fmt: skip


def attention_share(frame: pd.DataFrame, metric: str = "prefill_s") -> pd.DataFrame:
    """The share of `metric` that vanishes when attention is skipped, of each length and `impl`.

    Columns `run model batch_size context_len attention_impl share low high estimable process_runs`.
    1 - skipped / whole within each block, its median over a process run, then the median of process
    runs with its exact interval.
    """
    rows = stats.claimable(frame)
    rows = rows[(rows["study"] == "attention") & ~rows["twin"].astype(bool)]
    cell = ["run", "fingerprint", "model", "batch_size", "context_len"]
    turn = [*cell, "process_run", "block"]
    skipped = rows[rows["attention_impl"] == ABLATED].groupby(turn)[metric].median()
    whole = rows[rows["attention_impl"] != ABLATED].join(skipped.rename("skipped"), on=turn)
    whole = whole.assign(share=1 - whole["skipped"] / whole[metric]).dropna(subset="share")
    table = stats.summarise(whole, "share", [*cell, "attention_impl"])
    return table.rename(columns={"median": "share"}).drop(columns=["metric", "repeats", "cv"])


def share_sentences(frame: pd.DataFrame) -> list[str]:
    """Attention's share at the longest prompt, of each implementation."""
    table = attention_share(frame)
    told = []
    for (model, impl), rows in table.groupby(["model", "attention_impl"], sort=True):
        last = rows.sort_values("context_len").iloc[-1]
        ends = f"{100 * last['low']:.0f}{EN}{100 * last['high']:.0f} %"
        sure = f"95 % interval {ends}" if last["estimable"] else "no interval"
        told.append(
            f"With {impl}, attention between positions (scores, softmax, weighted sum) is "
            f"{100 * last['share']:.0f} % of the prefill of {last['context_len']:,} tokens of "
            f"{model} ({sure}, {count(int(last['process_runs']), 'process run')}; found by leaving "
            "it out)."
        )
    return told
