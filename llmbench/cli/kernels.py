"""The commands about our own C++: what there is, whether it is right, how fast, where it lies."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from llmbench.cli import show
from llmbench.cli.group import as_json, commands
from llmbench.errors import StudyFailed
from llmbench.kernels.recipe import UNIT_FLAGS

if TYPE_CHECKING:
    from llmbench.kernels.exactness import Checked

ISAS = ("auto", "scalar", *(unit.removesuffix(".cpp") for unit in UNIT_FLAGS))
isa_option = click.option("--isa", "isas", multiple=True, type=click.Choice(ISAS),
                          help="Instruction set (repeatable).")  # fmt: skip
weights_option = click.option("--weights", "kinds", multiple=True, metavar="TYPE",
                              help="Storage type, as Q8_0 (repeatable).")  # fmt: skip
threads_option = click.option("--threads", type=click.IntRange(1, 1024),
                              help="Default: physical cores, at most 8.")  # fmt: skip


@commands.group()
def kernels() -> None:
    """Our own C++ on this CPU: list, check, bench, build."""


@kernels.command()
@click.option("--sanitize", is_flag=True, help="With AddressSanitizer and UBSan, for debugging.")
@as_json
def build(sanitize: bool, as_json: bool) -> None:
    """Build the library with this machine's compiler, or find the one that is kept."""
    from llmbench.kernels.build import cpu_build

    built = cpu_build(sanitize=sanitize)
    told = asdict(built) if as_json else {
        "library": str(built.library), "compiler": f"{built.compiler}: {built.version}",
        "flags": shlex.join(built.flags),
        "seconds": f"{built.seconds:.1f}{' (kept since)' if built.cached else ''}",
    }  # fmt: skip
    show.facts(told, as_json)


@kernels.command(name="list")
@as_json
def list_(as_json: bool) -> None:
    """Each operation, its implementations here, and which serves by default."""
    from llmbench.kernels.offer import operations

    rows = operations()
    if as_json:
        show.document([asdict(row) for row in rows])
        return
    show.table([{"operation": row.operation, "weights": row.weights or "—",
                 "built": " ".join(row.implementations), "this CPU runs": " ".join(row.runnable),
                 "by default": row.default} for row in rows])  # fmt: skip


@kernels.command()
@weights_option
@isa_option
@threads_option
@as_json
def check(
    kinds: tuple[str, ...], isas: tuple[str, ...], threads: int | None, as_json: bool
) -> None:
    """Whether products are right: each type and instruction set beside float64, some seconds."""
    from llmbench.hardware import default_threads
    from llmbench.kernels import cpu, exactness, made_up

    for kind in kinds:
        made_up.check_kind(kind)
    rows = list(exactness.checked(kinds or made_up.kinds(), made_up.isas_of(isas) or cpu.isas(),
                                  threads or default_threads()))  # fmt: skip
    faults = [row for row in rows if not row.right]
    if as_json:
        show.document({"checks": [row.facts() for row in rows], "faults": len(faults)})
    else:
        click.echo("errors, each of at most its bound, where it comes nearest to it")
        show.table(list(_checked_rows(rows)))
    if faults:
        raise StudyFailed(f"{len(faults)} of {len(rows)} checks failed", kept="nothing",
                          how="another --isa, or the option impl: reference")  # fmt: skip
    click.echo(f"{len(rows)} checks, no faults", err=as_json)


@kernels.command()
@click.argument("model", default="shape:smollm-135m")
@weights_option
@isa_option
@threads_option
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True,
              help="Readings of each thing, in an order of its own each round.")  # fmt: skip
@click.option("--prompt", type=click.IntRange(min=1), default=128, show_default=True,
              metavar="N", help="Tokens of the prompt.")  # fmt: skip
@click.option("--tokens", type=click.IntRange(min=1), default=64, show_default=True,
              metavar="N", help="Steps decoded after it.")  # fmt: skip
@as_json
def bench(
    model: str, kinds: tuple[str, ...], isas: tuple[str, ...], threads: int | None, rounds: int,
    prompt: int, tokens: int, as_json: bool,
) -> None:  # fmt: skip
    """Operations of MODEL's shapes beside this machine's roofs, and where a step's time goes.

    \b
    llmbench kernels bench
    llmbench kernels bench shape:smollm-135m --weights Q8_0 --weights Q4_0 --isa avx2
    """
    from llmbench.cli import speeds
    from llmbench.hardware import default_threads
    from llmbench.kernels.bench import bench as measured
    from llmbench.models.source import find_model

    source = find_model(model)
    done = measured(source, kinds, isas, threads or default_threads(), rounds=rounds,
                    prompt=prompt, tokens=tokens)  # fmt: skip
    if as_json:
        show.document(done.facts())
    else:
        speeds.show_bench(done)


def _checked_rows(rows: Sequence["Checked"]) -> Iterator[dict[str, str]]:
    """A line a type and instruction set: of each comparison the one nearest to its bound."""
    for weights, isa in dict.fromkeys((row.weights, row.isa) for row in rows):
        own = [row for row in rows if (row.weights, row.isa) == (weights, isa)]
        held, product = (max((row for row in own if row.what == what), key=lambda r: r.of_bound)
                         for what in ("weights", "product"))  # fmt: skip
        yield {"weights": weights, "isa": isa, "as held": _beside(held),
               "product": _beside(product), "at": f"{product.tokens} tokens",
               "": "right" if all(row.right for row in own) else "WRONG"}  # fmt: skip


def _beside(row: "Checked") -> str:
    return f"{row.error:.2g} of {row.bound:.2g}"
