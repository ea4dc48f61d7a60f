"""What the commands show: one fact a line, one JSON document; words for a trial."""

import json
import sys
from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import Any

import click

from llmbench.cli.grid import table as table
from llmbench.units import nbytes, seconds, significant


def facts(told: Mapping[str, Any], as_json: bool) -> None:
    """One fact a line, or the whole as JSON."""
    if as_json:
        document(told)
        return
    width = max(map(len, told), default=0)
    for name, value in told.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {_words(name, value)}")


def _words(name: str, value: Any) -> str:
    """A value for people: bytes in MiB, lists and groups without brackets, yes and no."""
    if value is None:
        return "not known"
    if isinstance(value, Sized) and not value:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        unit = " tokens" * name.replace("_", " ").endswith("context")
        return nbytes(value) if name.endswith("bytes") else f"{value:,.10g}{unit}"
    if isinstance(value, Mapping):
        named = {str(key): some for key, some in value.items()}
        return ", ".join(f"{key.replace('_', ' ')} {_words(key, some)}"
                         for key, some in named.items())  # fmt: skip
    if isinstance(value, list | tuple):
        return ", ".join(_words(name, some) for some in value)
    return str(value)


def status(told: Mapping[str, Any]) -> None:
    """A run's state: a line a study and, where they did not end well, a notebook."""
    click.echo(f"{told['run_id']}: {told['state']}, in {told['folder']}")
    for name, counted in told["studies"].items():
        planned, left = counted["planned"], counted["left"]
        statuses = {k: n for k, n in counted.items() if k not in ("planned", "left")}
        done = ", ".join(f"{n:,} {status}" for status, n in statuses.items()) or "nothing yet"
        rest = "" if planned is None else f" of {planned:,} planned, {left:,} left"
        click.echo(f"  {name:<18} {done}{rest}")
    for name, state in told["notebooks"].items():
        if state != "ok":
            click.echo(f"  {name:<18} notebook {state}")
    if told["unreadable_lines"]:
        click.echo(f"  unreadable lines: {told['unreadable_lines']}; see llmbench check")
    for command in told["next"]:
        click.echo(f"  next: {command}")
    if told["command"] and (told["state"] == "done" or not told["next"]):
        verb = "again" if told["state"] == "done" else "go on"
        click.echo(f"  {verb}: {told['command']}")


def claims(found: Any) -> None:
    """Each claim with its tails, then the checks, once where all claims share them."""
    for claim in found.claims:
        click.echo(claim.sentence)
        click.echo(claim.variance)
        kept = {name: [tail for tail in claim.tails if tail.name == name]
                for name in (claim.target, claim.baseline)}  # fmt: skip
        if claim.tails:
            table([{f"  {claim.metric}, 99 % sure": f"  {name}"}
                   | {f"all repeats of {100 * t.quantile:g} % of process runs": t.told
                      for t in tails} for name, tails in kept.items()])  # fmt: skip
    states = {True: "holds", False: "FAILS", None: "not recorded"}
    checks = list(dict.fromkeys(check for claim in found.claims for check in claim.checks))
    names = list(dict.fromkeys(check.name for check in checks))
    table([{"check": check.name, "": states[check.passed], "seen": check.detail}
           for check in sorted(checks, key=lambda check: names.index(check.name))])  # fmt: skip


def validation(frame: Any) -> None:
    """Whether models loaded as asked: a row a form, then the reasons in sentences."""
    from llmbench.findings.validation import validation_sentences, validation_table

    spare = ("Resident before", "Distance", "Linear layers by class", "Resident after", "Outcome",
             "Peak", "Load time")  # fmt: skip
    table(validation_table(frame).drop(columns="Why not"), spare=spare)
    click.echo()
    for sentence in validation_sentences(frame):
        click.echo(sentence)


def document(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    for kind, convert in _PLAIN:
        if isinstance(value, kind):
            return convert(value)
    return value.item() if hasattr(value, "item") else str(value)


_PLAIN: list[tuple[Any, Callable[[Any], Any]]] = [(Path, str), ((tuple, set, frozenset), list)]


def stream(prompt: str) -> Callable[[str], None]:
    """Shows pieces of text as they come, behind the prompt, which waits for the first of them."""
    waiting = [click.style(prompt[-300:], dim=True)]

    def show(piece: str) -> None:
        click.echo("".join([*waiting, piece]), nl=False)
        waiting.clear()
        sys.stdout.flush()

    return show


def made_up(model: str, then: Callable[[str], None]) -> Callable[[str], None]:
    """`then`, before whose first piece stderr says that the text of a `shape:` model is noise."""
    waiting = [f"{model}: its weights are made up, so its text means nothing; times and memory are "
               "those of the architecture"]  # fmt: skip

    def show(piece: str) -> None:
        while waiting:
            click.echo(waiting.pop(), err=True)
        then(piece)

    return show


def trial(tried: Any, as_json: bool) -> None:
    """What a trial took: on stderr under the text, or all of it as JSON."""
    if as_json:
        document(vars(tried) | {"served": tried.served.model_dump(),
                                "decode_tok_per_s": tried.decode_tok_per_s})  # fmt: skip
        return
    served, rate = tried.served, tried.decode_tok_per_s
    attention = f"{served.attention_impl} attention, " if served.attention_impl else ""
    speed = f"{significant(rate)} tok/s, {seconds(tried.tpot_s)} a token" if rate else "one token"
    lines = {
        "first token": f"{seconds(tried.ttft_s)} after {tried.prompt_tokens} prompt tokens",
        "then": f"{speed}, {tried.output_tokens} tokens in all",
        "memory": f"{nbytes(tried.rss_bytes or 0)} resident, {nbytes(served.weight_bytes)} of it "
                  f"weights in {served.weight_format}",
        "served by": f"{served.engine} {served.impl}, {attention}{served.threads} threads, "
                     f"loaded in {seconds(tried.load_s)}",
        "note": "a first call, not warmed up; `llmbench measure` gives numbers to rely on",
    }  # fmt: skip
    click.echo(nl=not tried.text.endswith("\n"))
    click.echo(err=True)
    for name, value in lines.items():
        click.echo(click.style(f"{name:<12}", dim=True) + value, err=True)


def pulled_row(one: Any) -> dict[str, str]:
    """A model that was pulled: what `models:` takes, and which weights these are."""
    return {"asked": one.asked, "size": nbytes(one.nbytes), "weights": one.weights,
            "": "fetched" if one.fetched else "was there",
            "name it": one.model or "its file cannot be read here"}  # fmt: skip


def catalog_row(row: dict[str, Any]) -> dict[str, str]:
    """A catalog model: what it is, what it needs here in bfloat16, how to name it."""
    fits = {True: "yes", False: "no", None: "—"}[row["fits"]]
    known = row["peak_bytes"] is not None
    return {"name": row["name"], "family": row["family"],
            "parameters": f"{row['parameters'] or 0:,}" if row["parameters"] else "—",
            "trained for": f"{row['trained_context'] or 0:,}" if row["trained_context"] else "—",
            "2,048 tokens in bf16": nbytes(row["peak_bytes"]) if known else "—", "fits": fits,
            "gated": {True: "yes", False: "no", None: "—"}[row["gated"]],
            "licence": row["licence"] or "—", "use here": row["use"]}  # fmt: skip


def card_lines(card: dict[str, Any]) -> list[tuple[str, Any]]:
    """The lines of a card: groups a line each, predicted bytes a line a form."""
    names = {"peak_bytes": "memory for 2,048 tokens", "fits": "fits here", "use": "use here"}
    lines = [(names.get(k, k), nbytes(v) if k == "peak_bytes" and v else v)
             for k, v in card.items() if k != "predicted_bytes"]  # fmt: skip
    return lines + [
        (f"memory in {form}", ", ".join(f"{n:,} tokens {nbytes(b)}" for n, b in needs.items()))
        for form, needs in card["predicted_bytes"].items()
    ]
