"""The commands that read what was measured; none of them needs torch."""

from pathlib import Path

import click

import llmbench
from llmbench.cli import runs as those
from llmbench.cli import show
from llmbench.cli.group import as_json, commands, outputs_option
from llmbench.errors import BadParams, CannotSay, StudyFailed


@commands.command()
@click.argument("runs", nargs=-1, required=True)
@outputs_option
def report(runs: tuple[str, ...], outputs: Path | None) -> None:
    """Records → report.html, figures and tables; needs no torch and no GPU."""
    for run in runs:
        click.echo(llmbench.report(those.folder_of(run, outputs)))


@commands.command()
@click.argument("run")
@click.option("--x", default="context_len", help="Column of sizes.")
@click.option("--y", default="prefill_s", help="Column of costs.")
@outputs_option
@as_json
def scaling(run: str, x: str, y: str, outputs: Path | None, as_json: bool) -> None:
    """Which law the growth of Y with X follows, with the evidence."""
    from llmbench.laws import laws_by_group

    frame = those.of_growth(llmbench.read(those.folder_of(run, outputs)))
    found = laws_by_group(frame, x=x, y=y)
    if as_json:
        show.document([group | {"law": law.facts()} for group, law in found])
    for group, law in [] if as_json else found:
        name = ", ".join(f"{k} {v}" for k, v in group.items())
        click.echo(f"{name}\n  {law.sentence}")
        for reason in law.reasons:
            click.echo(f"  - {reason}")
        show.table(law.evidence)
    if not found or all(law.law == "inconclusive" for _, law in found):
        raise CannotSay("no law can be claimed from this run", why="see the reasons above")


@commands.command()
@click.argument("run")
@click.option("--target", required=True, help="Who is to be judged.")
@click.option("--baseline", required=True, help="Whom it is compared with.")
@click.option("--metric", "metrics", multiple=True, default=["decode_tok_per_s"], show_default=True,
              help="Column of costs or rates; may be given several times.")  # fmt: skip
@click.option("--at-least", type=float, help="The ratio asked for, instead of those declared.")
@click.option(
    "--by", default="engine", show_default=True, help="Column that names who is compared."
)
@outputs_option
@as_json
def compare(
    run: str, target: str, baseline: str, metrics: tuple[str, ...], at_least: float | None, by: str,
    outputs: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Whether TARGET is better than BASELINE on the same weights, by how much, how surely.

    The ratio asked for is what the run declared (`at_least`, `bars`; else 1) unless one is given.
    Exit codes: 0 yes · 1 no · 4 inconclusive or not comparable.
    """
    folder = those.folder_of(run, outputs)
    frame = llmbench.read(folder)
    bar, bars = (at_least, ()) if at_least is not None else those.declared_bars(folder)
    found = llmbench.compare(frame, target, baseline, metrics, bar, by=by, bars=bars)
    if as_json:
        show.document(found.facts())
    if not as_json:
        show.claims(found)
    if found.verdict == "no":
        raise StudyFailed(
            f"{target} is not at least {found.at_least:g} times {baseline}", kept="the run"
        )
    if found.verdict != "yes":
        raise CannotSay(f"no verdict on {target} and {baseline}", why=found.sentence)


@commands.command()
@click.option("--tokens", type=click.IntRange(min=1, max=2**40), help="Length of the text.")
@click.option("--document", type=click.Path(path_type=Path), help="The text itself, as a file.")
@click.option("--output-tokens", type=click.IntRange(min=1, max=2**40), default=64,
              show_default=True, help="Length of the answer.")  # fmt: skip
@click.option("--run", "runs", multiple=True, help="Rows of this run only (repeatable).")
@outputs_option
@as_json
def advise(
    tokens: int | None, document: Path | None, output_tokens: int, runs: tuple[str, ...],
    outputs: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Which measured model and window for a text of this length; without one, in general.

    Only rows measured on this machine recommend. Exit codes: 0 an answer · 4 no measured row can
    answer, with the command that would measure it.
    """
    from llmbench.cli import advice

    if tokens is not None and document is not None:
        raise click.UsageError("--tokens and --document: give one of them")
    frame = advice.rows([those.folder_of(run, outputs) for run in runs], outputs)
    if document is not None:
        tokens = advice.counts(document, frame)
    found = llmbench.advise(frame, tokens=tokens, output_tokens=output_tokens,
                            document=document and str(document))  # fmt: skip
    if as_json:
        show.document(found.facts())
    else:
        advice.shown(found)
    if not found.answered:
        raise advice.unanswered(found)


@commands.command()
@click.argument("runs", nargs=-1, required=True)
@outputs_option
@as_json
def check(runs: tuple[str, ...], outputs: Path | None, as_json: bool) -> None:
    """What may not enter a figure: from broken lines to a stale report; exit 1 if there is any."""
    folders = [those.folder_of(run, outputs) for run in runs]
    found = llmbench.check(*folders)
    if as_json:
        show.document([vars(finding) | {} for finding in found])
    for finding in [] if as_json else found:
        click.echo(f"{finding.run}: {finding.rule}: {finding.what}\n  mend: {finding.how}")
    flags = those.flagged(llmbench.read(*folders), but=those.SURENESS)
    click.echo(those.told(flags, "carry flags that keep them out of claims"), err=as_json)
    if found:
        raise StudyFailed(f"{len(found)} findings", kept="all records; nothing was changed")
    click.echo("no faults found", err=as_json)


@commands.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--into", required=True, help="Run id or folder to merge into.")
@outputs_option
@as_json
def merge(runs: tuple[str, ...], into: str, outputs: Path | None, as_json: bool) -> None:
    """Several machines' or shards' runs into one: nothing lost, nothing doubled."""
    from llmbench import store

    sources = [those.folder_of(run, outputs) for run in runs]
    if store.run_folder(into, outputs).resolve() in [source.resolve() for source in sources]:
        raise BadParams(f"--into {into} is one of the runs to merge", how="name a new run")
    target = store.create_run(into, outputs)
    merged = llmbench.merge(sources, target)
    show.facts(vars(merged) | {"into": str(target)}, as_json)
