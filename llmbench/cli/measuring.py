"""The commands that measure: a run, a study, what it would take, how far it is."""

from pathlib import Path
from typing import Any

import click

import llmbench
from llmbench.cli import runs as those
from llmbench.cli import show
from llmbench.cli.group import as_json, commands, outputs_option, set_option
from llmbench.errors import Missing, StudyFailed


@commands.command()
@click.argument("params", type=click.Path(path_type=Path))
@click.option("--run-id", help="Name of the run; the same name again goes on where it stopped.")
@click.option("--only", multiple=True, metavar="STUDY", help="Only this study (repeatable).")
@set_option
@click.option("--shard", default="1/1", metavar="I/N", help="Do the I-th of N parts.")
@outputs_option
def run(
    params: Path, run_id: str | None, only: tuple[str, ...], overrides: tuple[str, ...],
    shard: str, outputs: Path | None,
) -> None:  # fmt: skip
    """Run every study of PARAMS as its notebook, then figures, analysis and report."""
    done = llmbench.run(
        params, run_id, only=only, overrides=overrides, shard=shard, outputs=outputs
    )
    click.echo(done.report)
    if done.faults:
        raise StudyFailed(
            "; ".join(done.faults),
            kept="every record made so far, and the report",
            how=llmbench.status(done.folder)["command"],
        )


class OfStudy(click.Command):
    """`measure STUDY --help` also lists the fields of that study."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        context.meta["words"] = list(args)
        return super().parse_args(context, args)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        from llmbench.cli.fields import described

        with formatter.section("Fields"):
            formatter.write_dl(described(context.meta["words"]))


@commands.command(
    cls=OfStudy,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    short_help="Run one study without a notebook.",
)
@click.argument("study")
@click.option("--only", metavar="STUDY", help="Which study, when STUDY is a params file.")
@click.option("--shard", default="1/1", metavar="I/N", help="Do the I-th of N parts.")
@outputs_option
@as_json
@click.pass_context
def measure(
    context: click.Context, study: str, only: str | None, shard: str, outputs: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Run one study without a notebook: a study's name and its own fields as options.

    \b
    llmbench measure scaling --models builtin:tiny --batch-sizes 1 4 --context-lens 128 256 512
    llmbench measure params/demo.yaml --only scaling
    """
    from llmbench.cli.fields import one_study
    from llmbench.sweep import measure_study

    name, chosen = one_study(study, only, context.args)
    done = measure_study(name, chosen, shard=shard, outputs=outputs)
    facts = {"run_id": done.run_id, "folder": str(done.folder), "study": name,
             "planned": done.planned, "settled": done.settled, "measured": done.measured,
             "deferred": done.deferred, "statuses": done.statuses}  # fmt: skip
    frame = llmbench.read(done.folder)
    flags = those.flagged(frame[frame["study"] == name])
    state = llmbench.status(done.folder)
    then = state["next"] or [state["command"]] * bool(done.deferred)
    show.facts(facts | ({"flagged": flags, "next": then} if as_json else {}), as_json)
    if not as_json:
        click.echo(those.told(flags, "are flagged"))
        for line in then:
            click.echo(f"next: {line}")
    _judge_measured(done)


def _judge_measured(done: Any) -> None:
    """Raises: StudyFailed or Missing when what was measured is no success."""
    left = done.planned - done.settled - done.deferred
    if left:
        raise StudyFailed(
            f"{left} of {done.planned} repeats failed",
            kept=f"all records, in {done.folder}",
            how="the same command tries them again; `llmbench check` and the records say why",
        )
    if done.measured and set(done.statuses) <= {"unsupported", "refused"}:
        raise Missing("nothing of this study can be done here", how="llmbench doctor")


@commands.command()
@click.argument("params", type=click.Path(path_type=Path))
@set_option
@outputs_option
@as_json
def plan(params: Path, overrides: tuple[str, ...], outputs: Path | None, as_json: bool) -> None:
    """The points of PARAMS, with predicted memory and what will not fit; runs nothing."""
    from llmbench.params import load_params
    from llmbench.ready import check_options

    for study in load_params(params, overrides).chosen.values():
        check_options(study)
    outlook = llmbench.plan(params, overrides, outputs)
    if as_json:
        show.document(outlook.facts())
        return
    show.table(outlook.table(), spare=("output", "repeats", "study", "at least", "with"))
    for line in outlook.sentences():
        click.echo(line)


@commands.command()
@click.argument("run", required=False)
@outputs_option
@as_json
def status(run: str | None, outputs: Path | None, as_json: bool) -> None:
    """Done, failed, left; the command that goes on. Without RUN: every run, newest first."""
    from llmbench import store

    runs = [those.folder_of(run, outputs)] if run else store.all_runs(outputs)
    facts = [llmbench.status(folder) for folder in runs]
    if as_json:
        show.document(facts[0] if run else facts)
    elif not facts:
        click.echo("no runs yet; `make demo` makes one")
    else:
        for number, fact in enumerate(facts):
            click.echo(nl=bool(number))
            show.status(fact)


@commands.command()
@click.argument("models", nargs=-1)
@click.option("--quantization", help="none, bfloat16, float16, int8 or nf4; default: all but one.")
@click.option("--output-dir", type=click.Path(path_type=Path), help="Where the two files go.")
@outputs_option
@as_json
def validate(
    models: tuple[str, ...], quantization: str | None, output_dir: Path | None,
    outputs: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Whether MODELS load as asked: time, memory, quantization proved by the layers, generation."""
    found = llmbench.validate(list(models), quantization, output_dir, outputs)
    if as_json:
        show.document({"passed": found.passed, "models": found.rows, "files": list(found.files)})
    else:
        show.validation(llmbench.read(found.folder))
        if found.left:
            click.echo(f"repeats left: {found.left:,}; the same command goes on")
        click.echo("\n".join(map(str, found.files)))
    if not found.passed:
        raise StudyFailed("a model did not load as asked", kept=f"the records in {found.folder}")
