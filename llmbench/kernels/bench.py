"""Operations beside their roofs, and where the time of a real step and of a real prompt goes."""

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from math import prod
from statistics import median
from typing import Any, get_args

import numpy as np

from llmbench.engines.edge_cpu import CpuDecoder, matrices_of
from llmbench.hardware import Roofs, fingerprint, machine
from llmbench.kept_roofs import keep, kept
from llmbench.kernels.cpu import KV_BYTES, PARTS, packed_bytes
from llmbench.kernels.made_up import check_kind, isas_of
from llmbench.kernels.speed import TASKS, Speed, Tell, speeds
from llmbench.models.cost import attention_flops, kv_read_bytes
from llmbench.models.families import traits_of
from llmbench.models.gguf_cache import ExportType, as_gguf
from llmbench.models.source import ModelSource
from llmbench.models.stored_weights import StoredWeights
from llmbench.progress import Progress

EXPORTED = get_args(ExportType)  # what a folder can be decoded in
PART_OF = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}
ATTEND = "attend"
OUTSIDE = "outside"  # of the library's parts: waking its threads, and Python


@dataclass(frozen=True)
class Part:
    """One part of all the tokens of a phase; `seconds` holds a reading a round.

    Of attention all keys count that the cache holds, those too that a sliding window hides.
    """

    part: str
    seconds: tuple[float, ...]
    read_bytes: int  # of weights, or of keys and values, in one step of decoding; 0: of neither
    flops: int  # of its products, in the whole phase


@dataclass(frozen=True)
class Split:
    """Where the time of a phase goes: "decode" of `tokens` steps, or "prefill" of `tokens`."""

    phase: str
    weights: str
    isa: str
    threads: int
    kv_type: str
    context_tokens: int  # in the cache when the phase begins
    tokens: int
    seconds: tuple[float, ...]  # by our clock, a reading a round
    parts: tuple[Part, ...]

    @property
    def tok_per_s(self) -> tuple[float, ...]:
        """Tokens a second, a reading a round."""
        return tuple(self.tokens / seconds for seconds in self.seconds)

    def share(self, part: Part) -> float:
        """0-1: of the phase's time; the median of the rounds."""
        return median(own / all_ for own, all_ in zip(part.seconds, self.seconds, strict=True))

    def bytes_per_s(self, part: Part) -> float | None:
        """Of a part of decoding that reads weights or the cache: those bytes a second."""
        if self.phase != "decode" or not part.read_bytes or not min(part.seconds):
            return None
        return part.read_bytes * self.tokens / median(part.seconds)

    def flops_per_s(self, part: Part) -> float | None:
        """Of a part that multiplies matrices, or queries with keys and values: FLOP/s."""
        return part.flops / median(part.seconds) if part.flops and min(part.seconds) else None

    def facts(self) -> dict[str, Any]:
        """All readings, and what follows from them."""
        parts = [asdict(part) | {"share": self.share(part), "bytes_per_s": self.bytes_per_s(part),
                                 "flops_per_s": self.flops_per_s(part)}
                 for part in self.parts]  # fmt: skip
        return asdict(self) | {"parts": parts, "tok_per_s": self.tok_per_s,
                               "median_tok_per_s": median(self.tok_per_s)}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """All that was measured, and with what."""

    model: str
    threads: int
    rounds: int
    speeds: tuple[Speed, ...]
    splits: tuple[Split, ...]
    not_decoded: tuple[str, ...]  # types in which no file of the model can be made here
    roofs: Roofs

    def facts(self) -> dict[str, Any]:
        """One document of plain values."""
        return {"model": self.model, "threads": self.threads, "rounds": self.rounds,
                "operations": [speed.facts() for speed in self.speeds],
                "splits": [split.facts() for split in self.splits],
                "not_decoded": self.not_decoded, "roofs": asdict(self.roofs)}  # fmt: skip


def bench(
    model: ModelSource, kinds: Sequence[str], isas: Sequence[str], threads: int, *,
    rounds: int, prompt: int, tokens: int,
) -> Bench:  # fmt: skip
    """The operations of `model` in each type and instruction set, then its decode and prefill.

    No `kinds`: a folder in Q8_0, a file in its matrices' own types. A file decodes as it is, a
    folder in each of `kinds` that it can be exported in. Raises: as `speeds` and `CpuDecoder`.
    """
    spec, _ = traits_of(model.config)
    chosen = tuple(dict.fromkeys(kinds)) or (_own_kinds(model) if model.file else ("Q8_0",))
    for kind in chosen:
        check_kind(kind)
    sets = isas_of(isas or ["auto"])
    decoded = [None] if model.file else [kind for kind in chosen if kind in EXPORTED]
    files = [as_gguf(model, kind) for kind in decoded]
    roofs = matmul_roofs(threads)
    runs = [(file, kind or "", isa) for file, kind in zip(files, decoded, strict=True)
            for isa in sets]  # fmt: skip
    readings = rounds * TASKS * len(chosen) * len(sets) + (rounds + 1) * len(runs)
    with Progress("kernels bench", readings) as progress:
        measured = speeds(spec, chosen, sets, threads, rounds, by_dtype(roofs), progress.advance)
        splits = _splits(runs, threads, rounds, prompt, tokens, progress.advance)
    left_out = () if model.file else tuple(kind for kind in chosen if kind not in EXPORTED)
    return Bench(model.name, threads, rounds, measured, splits, left_out, roofs)


def matmul_roofs(threads: int) -> Roofs:
    """Roofs of so many threads: those kept from the last hour, else measured now."""
    own = fingerprint(machine())
    if found := kept(own, threads):
        return found
    from llmbench.profilers.probes import measure_roofs

    roofs = measure_roofs(threads)
    keep(roofs, own)
    return roofs


def by_dtype(roofs: Roofs) -> dict[str, float]:
    """Operations/s of matrix products by dtype, whole numbers too."""
    asked = ("matmul", "int8", roofs.raw.get("threads"))
    whole = {reading["of"]: max(reading["per_s"]) for reading in roofs.raw.get("readings", ())
             if (reading["what"], reading["of"], reading["threads"]) == asked}  # fmt: skip
    return {"float32": roofs.flops_per_s} | roofs.flops_by_dtype | whole


def _own_kinds(model: ModelSource) -> tuple[str, ...]:
    """The types of a file's matrices."""
    return tuple(dict.fromkeys(stored.kind for stored in _matrices(model).values()))


def _matrices(model: ModelSource) -> dict[tuple[str, int], Any]:
    spec, traits = traits_of(model.config)
    return matrices_of(spec, traits, StoredWeights(model, model.config))


def _splits(
    asked: Sequence[tuple[ModelSource, str, str]], threads: int, rounds: int, prompt: int,
    tokens: int, tell: Tell,
) -> tuple[Split, ...]:  # fmt: skip
    """Prefill and decode of each model, type and instruction set, in each round in a new order."""
    with ExitStack() as held:
        runs = []
        for model, kind, isa in asked:
            decoder = held.enter_context(closing(CpuDecoder(model, isa, "auto", threads)))
            runs.append(_Run(model, decoder, kind or decoder.weight_format, prompt, tokens))
        for number in range(rounds + 1):
            for run in random.Random(number).sample(runs, len(runs)):
                run.take(counts=number > 0)
                tell(f"decode {run.weights}")
        return tuple(split for run in runs for split in run.splits())


class _Run:
    """A decoder, its prompt, and what was read of it: [(clock, seconds by part)] by phase."""

    def __init__(
        self, model: ModelSource, decoder: CpuDecoder, weights: str, prompt: int, tokens: int
    ) -> None:
        self.decoder, self.weights, self.prompt, self.tokens = decoder, weights, prompt, tokens
        self.taken: dict[str, list[tuple[float, dict[str, float]]]] = {"decode": [], "prefill": []}
        self.read, self.values = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
        for (name, _), stored in _matrices(model).items():
            if name == "embedding" and not decoder.spec.tied:
                continue  # one row a token
            part = "head" if name == "embedding" else PART_OF.get(name, name)
            self.read[part] += packed_bytes(stored.kind, *stored.shape)
            self.values[part] += prod(stored.shape)

    def take(self, *, counts: bool) -> None:
        """One prompt and the steps behind it; the first of all rounds does not count."""
        vocabulary = self.decoder.spec.vocab_size
        ids = np.random.default_rng(0).integers(0, vocabulary, (1, self.prompt), np.int32)
        self.decoder.begin(1, self.prompt + self.tokens)
        for phase, steps in (("prefill", 1), ("decode", self.tokens)):
            self.decoder.timed(True)
            begun = time.perf_counter()
            for _ in range(steps):
                ids = self.decoder.greedy(ids)[:, None]
            spent = time.perf_counter() - begun
            if counts:
                self.taken[phase].append((spent, self.decoder.seconds()))
        self.decoder.timed(False)

    def splits(self) -> tuple[Split, ...]:
        """Decode, and prefill."""
        return self._split("decode", self.prompt, self.tokens), self._split(
            "prefill", 0, self.prompt)  # fmt: skip

    def _split(self, phase: str, context: int, tokens: int) -> Split:
        taken, own = self.taken[phase], self.decoder
        flops = {name: 2 * values * tokens for name, values in self.values.items()}
        if phase != "decode":
            flops["head"] //= tokens  # of a prompt only the last token goes there
        pairs = tokens * context + tokens * (tokens + 1) // 2  # of a query and a key that it sees
        flops[ATTEND] = attention_flops(own.spec, pairs)
        keys = kv_read_bytes(own.spec, pairs, KV_BYTES[own.kv_type]) // tokens
        parts = [Part(name, tuple(told[name] for _, told in taken), read, flops[name])
                 for name, read in (self.read | {ATTEND: keys}).items()]  # fmt: skip
        rest = tuple(clock - sum(told.values()) for clock, told in taken)
        return Split(phase, self.weights, own.isa, own.threads, own.kv_type, context, tokens,
                     tuple(clock for clock, _ in taken),
                     (*parts, Part(OUTSIDE, rest, 0, 0)))  # fmt: skip
