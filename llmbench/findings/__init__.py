"""Frame → the answer in sentences made from numbers: the one narrative that every reader shares.

Nothing is pooled over machines: a section is one run on one fingerprint. Where the data cannot say,
the sentence says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from llmbench import laws, metrics, stats
from llmbench.findings import circumstances, devices, growth, protocol, sizes
from llmbench.findings.circumstances import About, about, describe, machine_sentences
from llmbench.findings.comparisons import ACROSS, Told, comparisons, declared, share_sentences
from llmbench.findings.engines import beside
from llmbench.findings.numbers import (
    ASKED,
    EN,
    METRICS,
    MOST,
    SERIES,
    count,
    decimals,
    engine_names,
    fixed,
    quantity,
    said,
    series_names,
    shown,
    summaries,
    summary,
    sure,
)  # fmt: skip
from llmbench.findings.tally import tally_sentences
from llmbench.findings.validation import validation_sentences
from llmbench.findings.windows import window_sentences

__all__ = ["METRICS", "SERIES", "About", "Findings", "Fit", "Number", "Section", "Told", "about",
           "comparisons", "declared", "describe", "findings", "fits", "machine_sentences",
           "quantity", "read_findings", "series_names", "shown", "summary"]  # fmt: skip
QUESTIONS = {
    "model_validation": "Does each model load as asked?",
    "scaling": "How does the cost grow with prompt length and batch size?",
    "ollama_comparison": "Is one engine faster than another, on the same weights?",
    "attention": "What does the attention implementation change?",
    "context_windows": "What does a filled context window cost?",
}
TITLES = {"ollama_comparison": "Engines compared", "attention": "Attention implementations"}
PLACE = ["run", "fingerprint", "study"]
WORDS = {"prefill_s": "prefill time", "context_len": "prompt length", "^2": "²"}


@dataclass(frozen=True)
class Number:
    """One key number: what, the value, how sure, under which circumstances."""

    label: str
    value: str
    interval: str  # '' where none is estimable
    process_runs: int
    condition: str


@dataclass(frozen=True)
class Section:
    """What one run found on one machine."""

    heading: str
    place: str  # which run, on which machine
    answers: tuple[str, ...]  # a sentence a series
    sentences: tuple[str, ...]
    numbers: tuple[Number, ...] = ()

    @property
    def answer(self) -> str:
        return " ".join(self.answers)


class Fit(NamedTuple):
    """The law of one series at its smallest batch."""

    series: tuple  # values of SERIES
    engine: str
    batch_size: int
    law: laws.Law

    @property
    def claimed(self) -> bool:
        """Whether a law is claimed at all."""
        return self.law.law != "inconclusive"


@dataclass(frozen=True)
class Findings:
    """The narrative of one or several runs."""

    question: str
    answers: tuple[str, ...]
    sections: tuple[Section, ...] = ()
    failures: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    claims: str = (
        "No claim of another system (llmbench/claims.toml) was put to the test in these rows."
    )
    fits: tuple["Fit", ...] = ()  # the laws that the sentences speak of

    @property
    def answer(self) -> str:
        """The answers in one paragraph."""
        return " ".join(self.answers)

    def sentences(self) -> list[str]:
        """The whole narrative in order, for a notebook."""
        told = [s for section in self.sections for s in (section.answer, *section.sentences)]
        told = told or [self.answer]
        return [*told, *self.failures, *self.excluded, *self.deferred, *self.cautions]


def read_findings(*folders: str | Path) -> Findings:
    """The narrative of the runs in `folders`."""
    return findings(metrics.read(*folders), [about(folder) for folder in folders])


def findings(frame: pd.DataFrame, abouts: Sequence[About] = ()) -> Findings:
    """The narrative of `frame`, with what the runs' folders tell beside it."""
    titles = dict.fromkeys(a.status["title"] for a in abouts if a.status.get("title"))
    studies = [QUESTIONS[name] for name in QUESTIONS if (frame["study"] == name).any()]
    question = " / ".join(titles or studies) or "What do these rows say?"
    deferred, machine = circumstances.deferred(abouts), circumstances.machines(abouts)
    if frame.empty:
        nothing = "No rows were measured, so there is nothing to conclude."
        return Findings(question, (nothing,), deferred=deferred, machine=machine)
    usable = shown(frame)
    fitted = fits(frame, "prefill_s")
    claimed = declared(abouts)
    own = frame["study"].isin(SECTIONS)  # these studies judge for themselves which rows may speak
    spoken = pd.concat([usable[~usable["study"].isin(SECTIONS)], frame[own]])
    sections = tuple(
        SECTIONS[key[2]](rows, key, claimed) if key[2] in SECTIONS else _section(rows, key, fitted)
        for key, rows in sorted(spoken.groupby(PLACE, sort=True), key=_reading_order)
    )
    answers = [text for section in sections[:5] for text in section.answers]
    if len(sections) > 5:
        answers.append(f"{count(len(sections) - 5, 'further section')} below.")
    answers = dict.fromkeys(answers or [_nothing_usable(frame)])
    return Findings(
        question, tuple(answers), sections, circumstances.failures(frame),
        circumstances.excluded(frame), deferred, machine, circumstances.cautions(frame, usable),
        fits=fitted,
    )  # fmt: skip


def _reading_order(found: tuple) -> tuple:
    """Run, machine, then comparisons first: they answer what most people ask."""
    run, fingerprint, study = found[0]
    first = ("ollama_comparison", "scaling", "attention", "context_windows", "model_validation")
    return run, fingerprint, first.index(study) if study in first else len(first), study


# -- one run on one machine ------------------------------------------------------------------------


def _section(rows: pd.DataFrame, key: tuple, fitted: Sequence[Fit]) -> Section:
    run, fingerprint, study = key
    cells = summaries(rows, list(METRICS))
    engines, names = engine_names(rows), series_names(rows)
    known = {fit.series: fit for fit in fitted}
    groups = list(rows.groupby(SERIES, sort=True))
    answers, details, numbers = [], [], []
    for name, series in groups[:MOST]:
        first = series.index[0]
        found = {metric: _of_series(table, series) for metric, table in cells.items()}
        who, short = f"{series['model'].iloc[0]} with {engines[first]}", names[first]
        answers.append(_headline(who, series, found, known.get(name)))
        told = [*_growth(known.get(name)), *_batches(series), *_memory(found)]
        several = len(groups) > 1
        details += [f"{short}: {_small(text)}" for text in told] if several else told
        numbers += _numbers(found, f"{short}, " if several else "")
    if len(groups) > MOST:
        details.append(f"{len(groups) - MOST} further series are in the tables.")
    place = f"run {run}, machine {fingerprint}"
    first = (*answers[:3], *_missing(rows))
    return Section(_capital(study), place, first, (*answers[3:], *details), tuple(numbers))


def _compared(rows: pd.DataFrame, key: tuple, claimed: Mapping[str, Any]) -> Section:
    """The sentences of every comparison, or how many ended how; the first answer."""
    run, fingerprint, study = key
    told = comparisons(rows, declared=claimed)
    tally = tally_sentences(beside(rows, told)) if study == "ollama_comparison" else []
    one_by_one = [one for one in told if not (tally and one.comparison)]
    sentences = [*tally, *(text for one in one_by_one for text in one.sentences)]
    answers = sentences or ["Nothing was compared: no engine was measured twice (A/A pair)."]
    answers += share_sentences(rows) if study == "attention" else _protocol(rows, told)
    if study == "attention" and told and told[0].comparison:
        answers.insert(0, answers.pop(len(told[0].sentences) - 1))  # the longest prompt answers
    most = 1 if study == "attention" else 3
    place = f"run {run}, machine {fingerprint}"
    return Section(TITLES[study], place, tuple(answers[:most]), tuple(answers[most:]))


def _protocol(rows: pd.DataFrame, told: Sequence[Told]) -> list[str]:
    """What the protocol asks beside the ratios: steadiness, success, growth, sizes, devices."""
    claims = [(one, c) for one in told if one.comparison for c in one.comparison.claims]
    unsteady = [one.said(claim.variance) for one, claim in claims
                if claim.steady is False and not claim.preview]  # fmt: skip
    told_of = [unsteady, protocol.success_sentences(told), growth.growth_sentences(told),
               sizes.size_sentences(rows), devices.device_sentences(rows)]  # fmt: skip
    rest = sum(max(0, len(some) - MOST) for some in told_of)
    said = [text for some in told_of for text in some[:MOST]]
    return [*said, f"{count(rest, 'further sentence')} would repeat the tables."] if rest else said


def _windows(rows: pd.DataFrame, key: tuple, claimed: Mapping[str, Any]) -> Section:
    """What filling each window costs."""
    run, fingerprint, _ = key
    told = window_sentences(rows) or ["No window was measured twice as large as another."]
    place = f"run {run}, machine {fingerprint}"
    return Section("Context windows", place, tuple(told[-1:]), tuple(told[:-1]))


def _validated(rows: pd.DataFrame, key: tuple, claimed: Mapping[str, Any]) -> Section:
    """What loaded as asked."""
    run, fingerprint, _ = key
    told = validation_sentences(rows)
    place = f"run {run}, machine {fingerprint}"
    return Section("Model validation", place, tuple(told[:1]), tuple(told[1:]))


SECTIONS = {
    "model_validation": _validated,
    "ollama_comparison": _compared,
    "attention": _compared,
    "context_windows": _windows,
}


def _missing(rows: pd.DataFrame) -> list[str]:
    """How many process runs more an interval needs, said once for all numbers."""
    have = rows.groupby([*SERIES, "batch_size", "context_len"])["process_run"].nunique().max()
    need = stats.smallest_n(0.5)
    more = f"{count(need, 'process run')}, {need - have} more than there are"
    return [f"Intervals need {more}."] if have < need else []


def _of_series(table: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    keys = series[SERIES].iloc[0]
    return table[(table[SERIES] == keys).all(axis=1)]


def _typical(table: pd.DataFrame) -> Any | None:
    """The cell that speaks for a series: smallest batch, then the longest prompt."""
    if table.empty:
        return None
    smallest = table[table["batch_size"] == table["batch_size"].min()]
    return next(smallest.nlargest(1, "context_len").itertuples(index=False))


def _headline(
    who: str, series: pd.DataFrame, found: Mapping[str, pd.DataFrame], fit: Fit | None
) -> str:
    """One sentence: prefill, decode, and the law of growth, each with its certainty."""
    prefill, decode = _typical(found["prefill_s"]), _typical(found["decode_tok_per_s"])
    cell = prefill or decode
    if cell is None:
        return f"Neither prefill nor decoding of {who} is estimable."
    rows = "" if cell.batch_size == 1 else f" in each of {cell.batch_size} rows"
    what = f"{count(cell.context_len, 'token')}{rows} of {who}"
    parts = [f"prefilling {what} takes {said(prefill)}"] if prefill else []
    after = "decoding" if prefill else f"decoding after {what}"
    parts += [f"{after} gives {said(decode)}"] if decode else []
    law = f"{fit.law.law}, {fit.law.model}" if fit and fit.claimed else "inconclusive"
    parts.append(f"growth with prompt length: {law.replace('^2', '²')}")
    text = "; ".join(parts)
    return f"Preview, not a claim: {text}." if series["preview"].any() else f"{_capital(text)}."


def _growth(fit: Fit | None) -> list[str]:
    """What the law says, or why there is none; in words, not names of columns."""
    text = fit.law.sentence.rstrip(".") if fit else ""
    for name, words in WORDS.items():
        text = text.replace(name, words)
    return [f"{_capital(text)}."] if text else []


def fits(frame: pd.DataFrame, metric: str) -> tuple[Fit, ...]:
    """The law of `metric` over prompt length of each series, from rows that may carry a claim."""
    grown = ~frame["study"].isin([*ACROSS, "model_validation"]) & (frame["prompt"] == "exact")
    rows = shown(frame[grown])
    rows = rows[~rows["preview"].astype(bool) & (rows[metric] > 0)]
    found = []
    for key, series in list(rows.groupby(SERIES, sort=True))[:MOST]:
        smallest = int(series["batch_size"].min())
        law = laws.scaling(_asked_alike(frame, series, smallest), x="context_len", y=metric)
        found.append(Fit(key, series["engine"].iloc[0], smallest, law))
    return tuple(found)


def _asked_alike(frame: pd.DataFrame, series: pd.DataFrame, batch_size: int) -> pd.DataFrame:
    """All rows that asked the same at other lengths: those that failed are named by the law."""
    asked = [*ASKED, "batch_size"]
    keys = [*series.iloc[0][ASKED].tolist(), batch_size]
    return frame[(frame[asked] == keys).all(axis=1)]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]


def _batches(series: pd.DataFrame) -> list[str]:
    """What batching gains: the ratio of rates within each process run, then its median."""
    rate = "decode_tok_per_s"
    runs = stats.process_run_medians(series, rate, ["batch_size", "context_len"])
    if runs.empty:
        return []
    wide = runs.pivot_table(index=["context_len", "process_run"], columns="batch_size", values=rate)
    few, many = wide.columns.min(), wide.columns.max()
    ratios = (wide[many] / wide[few]).dropna()
    if few == many or ratios.empty:
        return []
    length = ratios.index[-1][0]
    ratio = stats.median_interval(ratios.loc[length])
    places = decimals(ratio.value, ratio.low, ratio.high)
    bottom, middle, top = (fixed(v, places) for v in (ratio.low, ratio.value, ratio.high))
    how_sure = sure(f"{bottom}{EN}{top}" if ratio.estimable else "")
    return [f"At {length:,} tokens a batch of {many} decodes {middle} times the tokens per second "
            f"of a batch of {few} ({how_sure}, {count(ratio.n, 'process run')})."]  # fmt: skip


def _memory(found: Mapping[str, pd.DataFrame]) -> list[str]:
    table = found["peak_bytes"]
    if table.empty:
        return []
    cell = next(table.nlargest(1, "median").itertuples(index=False))
    return [f"The most memory was resident at {cell.context_len:,} tokens with a batch of "
            f"{cell.batch_size}: {said(cell)}."]  # fmt: skip


def _numbers(found: Mapping[str, pd.DataFrame], who: str) -> list[Number]:
    """The key numbers of a series, each at its typical cell; `who` is said before the cell."""
    numbers = []
    first = "ttft_s" if found["prefill_s"].empty else "prefill_s"  # nearly the same in one process
    for metric in (first, "decode_tok_per_s", "peak_bytes"):
        cell = _typical(found[metric])
        if cell is not None:
            value, interval = quantity(cell.median, cell.low, cell.high, metric)
            where = f"{cell.context_len:,} tokens, batch {cell.batch_size}"
            numbers.append(Number(METRICS[metric].label, value, interval, cell.process_runs,
                                  f"{who}{where}"))  # fmt: skip
    return numbers


def _nothing_usable(frame: pd.DataFrame) -> str:
    ok = int((frame["status"] == "ok").sum())
    return (f"None of the {count(len(frame), 'repeat')} can be used for an answer: "
            f"{len(frame) - ok:,} failed and {ok:,} are flagged.")  # fmt: skip
