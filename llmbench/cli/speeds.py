"""What `kernels bench` shows: operations beside their roofs, then the parts of a step."""

from collections.abc import Iterator, Sequence
from statistics import median

import click

from llmbench.cli import show
from llmbench.kernels import speed
from llmbench.kernels.bench import Bench, Part, Split
from llmbench.kernels.speed import Speed
from llmbench.units import nbytes, significant

GIGA = 1e9


def show_bench(done: Bench) -> None:
    """All tables; each number a median of the rounds, the spread from the least to the most."""
    click.echo(f"{done.model}, {done.threads} threads, medians and spread of {done.rounds} rounds")
    for tokens, unit in ((1, "GB/s"), (speed.MANY, "GFLOP/s")):
        _title(f"operations, {tokens:,} token{'s' * (tokens > 1)}, {unit}")
        show.table([_speed_row(one, unit) for one in done.speeds if one.tokens == tokens])
    _title(f"matmul roofs: {done.roofs.source}")
    for split in done.splits:
        _title(_headline(split))
        show.table(list(_part_rows(split)))
    if done.not_decoded:
        click.echo(f"not decoded, for no file can be exported in it: {', '.join(done.not_decoded)}",
                   err=True)  # fmt: skip


def _title(text: str) -> None:
    click.echo(f"\n{text}")


def _speed_row(one: Speed, unit: str) -> dict[str, str]:
    roof = one.roof_per_s and significant(median(one.roof_per_s) / GIGA)
    share = one.of_roof
    copies = {"copies": str(one.copies)} if one.tokens == 1 else {}
    return {"operation": one.operation, "weights": one.weights, "isa": one.isa,
            "matrix": f"{one.rows:,} x {one.cols:,}"} | copies | {
            unit: significant(one.median_per_s / GIGA), "spread": _spread(one.per_s, 1 / GIGA),
            f"roof {unit}": roof or "—", "of roof": _percent(share), "roof is": one.roof,
            }  # fmt: skip


def _headline(split: Split) -> str:
    what = (f"decode: {split.tokens:,} steps after {split.context_tokens:,} tokens"
            if split.phase == "decode" else f"prefill: {split.tokens:,} tokens")  # fmt: skip
    rate = significant(median(split.tok_per_s))
    return (f"{what}, {split.weights}, isa {split.isa}, KV {split.kv_type}: {rate} tok/s "
            f"({_spread(split.tok_per_s)})")  # fmt: skip


def _part_rows(split: Split) -> Iterator[dict[str, str]]:
    """A line a part, in µs a token, with the rates of those that read or multiply."""
    scale = 1e6 / split.tokens
    for part in split.parts:
        yield {"part": part.part, "µs a token": significant(median(part.seconds) * scale),
               "spread": _spread(part.seconds, scale), "share": _percent(split.share(part)),
               } | _rates(split, part)  # fmt: skip


def _rates(split: Split, part: Part) -> dict[str, str]:
    flops = split.flops_per_s(part)
    told = {"GFLOP/s": significant(flops / GIGA) if flops else "—"}
    if split.phase != "decode":
        return told
    read = split.bytes_per_s(part)
    return {"reads": nbytes(part.read_bytes) if part.read_bytes else "—",
            "GB/s": significant(read / GIGA) if read else "—"}  # fmt: skip


def _spread(values: Sequence[float], scale: float = 1.0) -> str:
    return f"{significant(min(values) * scale)}–{significant(max(values) * scale)}"


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.1f} %"
