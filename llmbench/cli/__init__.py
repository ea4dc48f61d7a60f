"""The commands. Data goes to stdout, a table or one JSON document; progress and logs to stderr."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

import llmbench
from llmbench.cli import show
from llmbench.errors import BadParams, CannotSay, Held, LlmbenchError, Missing, StudyFailed

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
outputs_option = click.option(
    "--outputs", type=click.Path(path_type=Path), help="Where runs are kept (default: outputs/)."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting by its name."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(llmbench.__version__, prog_name="llmbench")
def commands() -> None:
    """Measure language models so that a hostile reader believes the numbers.

    Exit codes: 0 done · 1 a study failed or faults were found · 2 bad parameters · 3 this machine
    lacks something · 4 the data cannot say · 74 the store cannot be written · 75 held by another
    run, or ended by SIGTERM: try again · 130 Ctrl-C.
    """


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
    show.facts(facts, as_json)
    _judge_measured(done)


@commands.command()
@click.argument("params", type=click.Path(path_type=Path))
@set_option
@outputs_option
@as_json
def plan(params: Path, overrides: tuple[str, ...], outputs: Path | None, as_json: bool) -> None:
    """The points of PARAMS, with predicted memory and what will not fit; runs nothing."""
    from llmbench.params import load_params
    from llmbench.sweep import check_options

    for study in load_params(params, overrides).chosen.values():
        check_options(study)
    outlook = llmbench.plan(params, overrides, outputs)
    if as_json:
        show.document(outlook.facts())
        return
    show.table(outlook.table())
    for line in outlook.sentences():
        click.echo(line)


@commands.command()
@click.argument("run", required=False)
@outputs_option
@as_json
def status(run: str | None, outputs: Path | None, as_json: bool) -> None:
    """Done, failed, left; the command that goes on. Without RUN: every run, newest first."""
    from llmbench import store

    runs = [_folder(run, outputs)] if run else store.all_runs(outputs)
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
@click.argument("runs", nargs=-1, required=True)
@outputs_option
def report(runs: tuple[str, ...], outputs: Path | None) -> None:
    """Records → report.html, figures and tables; needs no torch and no GPU."""
    for run in runs:
        click.echo(llmbench.report(_folder(run, outputs)))


@commands.command()
@click.argument("run")
@click.option("--x", default="context_len", help="Column of sizes.")
@click.option("--y", default="prefill_s", help="Column of costs.")
@outputs_option
@as_json
def scaling(run: str, x: str, y: str, outputs: Path | None, as_json: bool) -> None:
    """Which law the growth of Y with X follows, with the evidence."""
    from llmbench.laws import laws_by_group

    frame = llmbench.read(_folder(run, outputs))
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
@click.option("--at-least", type=float, default=1.0, show_default=True, help="The ratio asked for.")
@click.option(
    "--by", default="engine", show_default=True, help="Column that names who is compared."
)
@outputs_option
@as_json
def compare(
    run: str, target: str, baseline: str, metrics: tuple[str, ...], at_least: float, by: str,
    outputs: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Whether TARGET is better than BASELINE on the same weights, by how much, how surely.

    Exit codes: 0 yes · 1 no · 4 inconclusive or not comparable.
    """
    frame = llmbench.read(_folder(run, outputs))
    found = llmbench.compare(frame, target, baseline, metrics, at_least, by=by)
    if as_json:
        show.document(found.facts())
    if not as_json:
        show.claims(found)
    if found.verdict == "no":
        raise StudyFailed(f"{target} is not at least {at_least:g} times {baseline}", kept="the run")
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
    frame = advice.rows([_folder(run, outputs) for run in runs], outputs)
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
    found = llmbench.check(*(_folder(run, outputs) for run in runs))
    if as_json:
        show.document([vars(finding) | {} for finding in found])
    for finding in [] if as_json else found:
        click.echo(f"{finding.run}: {finding.rule}: {finding.what}\n  mend: {finding.how}")
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

    sources = [_folder(run, outputs) for run in runs]
    if store.run_folder(into, outputs).resolve() in [source.resolve() for source in sources]:
        raise BadParams(f"--into {into} is one of the runs to merge", how="name a new run")
    target = store.create_run(into, outputs)
    merged = llmbench.merge(sources, target)
    show.facts(vars(merged) | {"into": str(target)}, as_json)


@commands.command()
@click.argument("model")
@click.option("--engine", default="edge", show_default=True, help="Who generates.")
@click.option("--impl", help="Which code of the engine (edge: reference).")
@click.option("--attention-impl", help="Which attention of the engine (edge: reference, sdpa-…).")
@click.option("--prompt", help="The text to go on with.")
@click.option(
    "--document", type=click.Path(path_type=Path), help="A file whose text is the prompt."
)
@click.option("--tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--chunks", is_flag=True, help="Read a long text in pieces, each answered by itself.")
@click.option(
    "--window",
    type=click.IntRange(min=2),
    metavar="N",
    help="A text and its answer in tokens: what llamacpp and ollama set aside, and with --chunks "
    "the size of a piece (default: the trained context, or what the engine sets aside).",
)
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    metavar="N",
    help="With --chunks: tokens repeated from the piece before (default: a tenth).",
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: physical cores, at most 8.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="OPTION=VALUE",
              help="An option of the engine, as num_ctx=2048 (repeatable).")  # fmt: skip
@as_json
def generate(
    model: str, engine: str, impl: str | None, attention_impl: str | None, prompt: str | None,
    document: Path | None, tokens: int, chunks: bool, window: int | None, overlap: int | None,
    threads: int | None, device: str, overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """A first try of MODEL: the text as it comes, then what it took.

    \b
    llmbench generate builtin:tiny --prompt "def read_lines(path):"
    llmbench generate builtin:tiny --document FILE --chunks
    llmbench generate ollama:qwen2.5:0.5b --engine llamacpp --set kv_type=f32
    """
    from llmbench.engines.loaded import engine_options
    from llmbench.trial import PROMPT, prompt_from

    if prompt is not None and document is not None:
        raise click.UsageError("--prompt and --document: give one of them")
    if not chunks and overlap is not None:
        raise click.UsageError("--overlap says how --chunks cuts a text: give it too")
    text = prompt_from(document) if document else PROMPT if prompt is None else prompt
    given = {"engine": engine, "tokens": tokens, "device": device, "impl": impl,
             "attention_impl": attention_impl, "threads": threads, "window": window}  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    options = engine_options(engine, overrides)
    if twice := options.keys() & given.keys():
        raise click.UsageError(f"--set {min(twice)}: it has an option of its own, given too")
    given |= options
    if chunks:
        return _in_pieces(model, text, given | {"overlap": overlap}, as_json)
    told = (lambda piece: None) if as_json else show.stream(text)
    tried = llmbench.generate(model, text, show=told, **given)
    show.trial(tried, as_json)
    if not tried.complete:
        raise click.Abort


def _in_pieces(model: str, text: str, given: dict[str, Any], as_json: bool) -> None:
    """A text read in pieces: headings on stderr, what is generated on stdout."""
    from llmbench.cli import pieces
    from llmbench.trial import read_in_pieces

    told = {} if as_json else {"begin": pieces.heading, "show": pieces.text}
    done = read_in_pieces(model, text, **told, **given)
    pieces.totals(done, as_json)
    if not done.complete:
        raise click.Abort


@commands.command()
@click.argument("name", required=False)
@as_json
def models(name: str | None, as_json: bool) -> None:
    """The catalog with predicted memory on this machine; with NAME that model's card."""
    from llmbench.models import cards

    rows = cards.models(name)
    if as_json:
        show.document(rows)
    elif name:
        show.facts({key: value for key, value in show.card_lines(rows[0])}, as_json=False)
    else:
        show.table([show.catalog_row(row) for row in rows])


@commands.command()
@click.argument("model")
@as_json
def inspect(model: str, as_json: bool) -> None:
    """The card of MODEL from its header alone: any model's name, or the path of a file or folder.

    GGUF, safetensors, or a Hugging Face folder; gguf:, ollama:, builtin:, and shape: once made. A
    file that is cut off, contradicts itself or is something else is refused, and says where.
    """
    from llmbench.cli import card
    from llmbench.models.file_card import file_card
    from llmbench.models.source import weights_place

    found = file_card(weights_place(model))
    if as_json:
        show.document(found.as_dict())
    else:
        card.show(found)


@commands.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "kind",
    default="Q8_0",
    show_default=True,
    metavar="TYPE",
    help="F32, F16, BF16, Q8_0, Q4_0; with llama.cpp also its own, as Q4_K_M.",
)
@click.option("--force", is_flag=True, help="Replace FILE when it is there already.")
@as_json
def export(model: str, file: Path, kind: str, force: bool, as_json: bool) -> None:
    """MODEL (a Hugging Face folder, builtin:, shape:) as a GGUF file, tokenizer included.

    \b
    llmbench export shape:smollm-135m smollm.gguf --type Q8_0
    """
    from llmbench.models.requantize import export_any

    export_any(model, file, kind, force=force, tell=lambda note: click.echo(note, err=True))
    show.facts({"file": str(file), "type": kind, "bytes": file.stat().st_size}, as_json)


@commands.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--hub", is_flag=True, help="The catalog's models from a hub, not as Ollama tags.")
@as_json
def pull(models: tuple[str, ...], hub: bool, as_json: bool) -> None:
    """Fetch MODELS: a tier (tier1, tier2, tier3, all), names of the catalog, tags, hub ids.

    \b
    llmbench pull tier1                     the smallest of the catalog, as Ollama tags
    llmbench pull ollama:qwen2.5:0.5b
    llmbench pull Qwen/Qwen2.5-0.5B-Instruct@main
    """
    tell = lambda note: click.echo(note, err=True)  # noqa: E731
    found = llmbench.pull(models, from_hub=hub, tell=tell)
    if as_json:
        show.document([vars(one) for one in found])
    else:
        show.table([show.pulled_row(one) for one in found])


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
        click.echo(found.files[1].read_text(encoding="utf-8"))
        click.echo("\n".join(map(str, found.files)))
    if not found.passed:
        raise StudyFailed("a model did not load as asked", kept=f"the records in {found.folder}")


@commands.command()
@click.option("--probe", is_flag=True, help="Also measure bytes/s and FLOP/s (some seconds).")
@as_json
def doctor(probe: bool, as_json: bool) -> None:
    """What this machine can do, what is missing, how to get it."""
    findings = llmbench.doctor(probe=probe)
    if as_json:
        show.document([vars(finding) for finding in findings])
        return
    marks = {"ok": "ok", "missing": "missing", "warning": "warning"}
    rows = [{"": marks[f.state], "what": f.subject, "detail": f.detail, "remedy": f.remedy}
            for f in findings]  # fmt: skip
    show.table(rows)


def main() -> None:
    """Run the command line; every expected error becomes its message and its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        commands(standalone_mode=False)
    except LlmbenchError as error:
        click.echo(f"llmbench: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not spoil the ending
        click.echo("llmbench: stopped by Ctrl-C\nkept: every finished repeat\n"
                   "go on: the same command", err=True)  # fmt: skip
        sys.exit(130)


def _terminated(number: int, frame: Any) -> None:
    raise Held("ended by SIGTERM", kept="every finished repeat", how="the same command again")


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


def _folder(run: str, outputs: Path | None) -> Path:
    """The folder of a run, by id or path. Raises: BadParams."""
    from llmbench import store

    if os.sep in run and (Path(run) / "records").is_dir():
        return Path(run)
    return store.chosen_runs([run], outputs)[0]
