"""`advise` for people: which rows it reads, how long a text is for each model, what it says."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

from llmbench import metrics, store
from llmbench.advice.measured import STUDIES
from llmbench.advice.rules import between
from llmbench.advice.rules import told as words
from llmbench.cli import show
from llmbench.errors import BadParams, CannotSay, LlmbenchError, StoreFailed
from llmbench.hardware import fingerprint, machine
from llmbench.models import source
from llmbench.units import nbytes, seconds

EN, NONE = "\N{EN DASH}", "—"


def rows(chosen: Sequence[Path], outputs: Path | None) -> pd.DataFrame:
    """Rows of the chosen runs; without a choice those of this machine, and all published ones."""
    if chosen:
        return metrics.read(*chosen)
    here = fingerprint(machine())
    own = [folder for folder in store.all_runs(outputs) if here in _fingerprints(folder)]
    root = Path(outputs or store.outputs_root())
    return metrics.read(*own, *store.all_runs(root / "published"))


def _fingerprints(folder: Path) -> set[str]:
    """The machines of a run; none of one whose note of them is damaged, which is told."""
    try:
        return {str(known.get("fingerprint")) for known in store.environments(folder).values()}
    except StoreFailed as error:
        click.echo(f"left out: {folder.name}: {error.what}", err=True)
        return set()


def counts(document: Path, frame: pd.DataFrame) -> dict[str, int]:
    """Model → tokens of the text, of the models in `frame` whose tokenizer is here.

    Raises: BadParams for a file that is no text, or empty.
    """
    from llmbench.trial import prompt_from

    text = prompt_from(document)
    if not text:
        raise BadParams(f"--document {document} is empty")
    found = {}
    for model in sorted(frame.loc[frame["study"].isin(STUDIES), "model"].unique()):
        try:
            found[model] = len(source.peek_model(model).tokenizer.encode(text))
        except LlmbenchError:
            continue  # the rule `tokens-not-counted` tells it
    return found


def unanswered(found: Any) -> CannotSay:
    """The error of an advice that no measured row stands behind."""
    return CannotSay("no measured row of this machine can answer", why=_why_not(found),
                     kept="all records; nothing was changed", how=_how_to(found))  # fmt: skip


def _why_not(found: Any) -> str:
    """What stands in the way of an answer."""
    if found.choices:
        return "; ".join(dict.fromkeys(choice.sentence for choice in found.choices))
    if found.unused:
        return f"of this machine there are only rows that may not enter a claim: {_unused(found)}"
    if found.others:
        return "all rows were measured on other machines, or with other versions of the packages"
    return "there is no row of the studies context_windows and scaling"


def _how_to(found: Any) -> str:
    """What would bring an answer."""
    rules = {choice.rule for choice in found.choices}
    if rules == {"tokens-not-counted"}:
        return "give the length itself: --tokens N"
    largest = max((row.window for one in found.choices for row in one.evidence), default=0)
    if 0 < largest <= found.output_tokens:
        return f"--output-tokens {largest - 1} or fewer; or {found.measure}"
    return found.measure


def shown(found: Any) -> None:
    """The answer, what each model can do, a plan; recommendations in general; the rows behind."""
    if found.tokens is not None:
        _request(found)
    _title("In general")
    show.table([_class(one) for one in found.classes])
    _sentences(one for one in found.classes if one.model)
    _rows(found)
    _rest(found)


def _request(found: Any) -> None:
    lengths = found.tokens.values() if isinstance(found.tokens, dict) else [found.tokens]
    ends = sorted({min(lengths), max(lengths)}) if lengths else []
    told = f" {EN} ".join(f"{n:,}" for n in ends) or "uncounted"
    click.echo(click.style(f"A text of {told} tokens and an answer of {found.output_tokens:,}; "
                           f"{nbytes(found.free_bytes)} free here", bold=True))  # fmt: skip
    if found.choices:
        show.table([_choice(one) for one in found.choices])
    _sentences(found.choices)
    click.echo(f"\n{found.answer.sentence}  [{found.answer.rule}]")
    click.echo(f"{found.cutting_sentence}  [{found.cutting}]")
    for plan in found.plans[:1]:
        click.echo(f"carry it out: {plan.command or 'from Python, with llmbench.load'}")
    for plan in found.plans[1:]:
        click.echo(f"or with {plan.name}: {plan.layout.pieces:,} pieces, {words(plan.seconds)}")
    if any(one.verdict == "extrapolated" for one in found.choices):
        click.echo(f"to measure it: {found.measure}")


def _sentences(told: Iterable[Any]) -> None:
    """A line each, with the rule that fired."""
    for number, one in enumerate(told):
        click.echo("\n" * (not number) + f"- {one.sentence}  [{one.rule}]")


def _choice(one: Any) -> dict[str, str]:
    need = one.need and one.need.bytes
    free = {True: ", fits", False: ", too much", None: ""}[one.fits]
    return {"model": one.model, "engine": one.engine, "verdict": one.verdict,
            "window": f"{one.window:,}" if one.window else NONE,
            "time": _middle(one.seconds), "95 % interval": _interval(one.seconds),
            "memory": f"{nbytes(need)}{free}" if need else NONE}  # fmt: skip


def _class(one: Any) -> dict[str, str]:
    ends = f"{one.above:,} {EN} {one.up_to:,}" if one.up_to else f"above {one.above:,}"
    ends = ends if one.above else f"up to {one.up_to:,}"
    return {"text and answer": ends, "model": one.model or "none measured",
            "engine": one.engine or NONE,
            "measured to": f"{one.measured_to:,}" if one.measured_to else NONE,
            "time there": _middle(one.seconds)}  # fmt: skip


def _middle(span: Any) -> str:
    """The median; of bounds nothing but them."""
    return NONE if span is None or span.value is None else seconds(span.value)


def _interval(span: Any) -> str:
    ends = span and between(span.low, span.high)
    return f"{ends}{' as bounds' * (span.kind == 'bounds')}" if ends else NONE


def _rows(found: Any) -> None:
    """The rows behind every sentence, each once."""
    told = [*found.choices, *found.plans, *found.classes]
    behind = sorted({row for one in told for row in one.evidence})
    if behind:
        _title("The rows behind it")
        show.table([_evidence(row) for row in behind])


def _evidence(row: Any) -> dict[str, str]:
    windows = row.study == "context_windows"
    size = (
        f"window of {row.window:,}" if windows else f"{row.prompt_tokens:,} + {row.output_tokens}"
    )
    runs = ", ".join([str(row.process_runs), *row.labels])
    return {"run": row.run, "model": row.model, "engine": row.engine, "tokens": size,
            "took": seconds(row.median) if row.median is not None else NONE,
            "95 % interval": between(row.low, row.high) or NONE, "process runs": runs}  # fmt: skip


def _rest(found: Any) -> None:
    if found.unused:
        click.echo(f"\nrows of this machine that fired nothing: {_unused(found)}")
    if found.others:
        _title("Measured on another machine, or with other versions; never recommended from")
        show.table([one | {"rows": f"{one['rows']:,}"} for one in found.others])


def _unused(found: Any) -> str:
    return ", ".join(f"{number:,} {why}" for why, number in found.unused.items())


def _title(text: str) -> None:
    click.echo("\n" + click.style(text, bold=True))
