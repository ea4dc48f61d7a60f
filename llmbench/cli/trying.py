"""The commands for one model or this machine: try, look up, fetch, write, diagnose."""

from pathlib import Path
from typing import Any

import click

import llmbench
from llmbench.cli import show
from llmbench.cli.group import as_json, commands


@commands.command()
@click.argument("model")
@click.option("--engine", default="edge", show_default=True, help="Who generates.")
@click.option("--impl", help="Which code of the engine (edge: reference).")
@click.option("--attention-impl", help="Which attention of the engine (edge: reference, sdpa-…).")
@click.option("--prompt", help="The text to go on with.")
@click.option(
    "--document",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file whose text is the prompt; - is stdin.",
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
    told = show.made_up(model, told) if model.startswith("shape:") else told
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
        show.table([show.catalog_row(row) for row in rows],
                   spare=("licence", "gated", "family", "trained for", "use here"))  # fmt: skip


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
