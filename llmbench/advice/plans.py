"""A text that no measured window holds → a plan to read it in pieces, with its measured price."""

import json
import shlex
from dataclasses import dataclass
from typing import Any

import pandas as pd

from llmbench.advice.measured import Evidence, Measured, Span, span
from llmbench.advice.rules import SERVING, Case, fired, told
from llmbench.chunks import Layout, layout

SPOKEN = {"impl"}  # engine options that `llmbench generate` takes


@dataclass(frozen=True)
class Plan:
    """Pieces for one contender; `layout` can be carried out, `command` does it."""

    name: str
    model: str
    engine: str
    options: str
    threads: int
    layout: Layout
    seconds: Span  # of all pieces, each read and answered; loading comes on top
    lost: str
    command: str | None  # None: `llmbench generate` cannot ask for these options
    evidence: tuple[Evidence, ...]

    @property
    def sentence(self) -> str:
        """The plan in words."""
        cut = self.layout
        again = f", {cut.overlap_tokens:,} of them repeated from the one before"
        return (f"{self.name}, {cut.pieces:,} pieces of {cut.piece_tokens:,} tokens"
                f"{again if cut.overlap_tokens else ''}, in the measured window of {cut.window:,}: "
                f"{told(self.seconds)}. {self.lost}.")  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """All of it, for programs."""
        return dict(vars(self)) | {"sentence": self.sentence}


def plan_for(case: Case, document: str | None = None) -> Plan | None:
    """The plan in the largest measured window that the memory here and the training allow.

    None when no window has room for a piece beside the answer, or the text's tokens are not known.
    """
    measured = case.measured
    sizes = [size for size in reversed(measured.prompts) if _allowed(case, size)]
    if not sizes or not case.tokens:
        return None
    cut = layout(case.tokens, window=sizes[0], output_tokens=case.output_tokens)
    return Plan(
        name=measured.name, model=measured.model, engine=measured.engine,
        options=measured.options, threads=measured.threads, layout=cut,
        seconds=span(_in_all(measured, cut)), lost=_lost(cut),
        command=_command(measured, cut, document), evidence=(measured.evidence(sizes[0]),),
    )  # fmt: skip


def _allowed(case: Case, size: int) -> bool:
    """Whether a text that just fills `size` would be served there by measurement."""
    text = size - case.output_tokens
    filled = Case(case.measured, text, case.output_tokens, case.trained, case.free_bytes)
    return text > 0 and fired(SERVING, filled).verdict == "measured"


def _in_all(measured: Measured, cut: Layout) -> pd.Series:
    """Seconds of all pieces, a value a process run."""
    full = measured.seconds_in_runs(min(cut.tokens, cut.piece_tokens), cut.output_tokens)
    last = measured.seconds_in_runs(cut.last_tokens, cut.output_tokens)
    return ((cut.pieces - 1) * full + last).dropna()


def _lost(cut: Layout) -> str:
    """What cutting costs besides time."""
    overlap = f" but the {cut.overlap_tokens:,} tokens of overlap" if cut.overlap_tokens else ""
    return (f"Lost: each piece is answered by itself and sees nothing of the others{overlap}; what "
            "is said across pieces needs a further step over the answers")  # fmt: skip


def _command(measured: Measured, cut: Layout, document: str | None) -> str | None:
    asked = json.loads(measured.options) if measured.options else {}
    if set(asked) - SPOKEN:
        return None
    words = ["llmbench", "generate", measured.model, "--engine", measured.engine,
             "--document", document or "FILE", "--tokens", cut.output_tokens, "--chunks",
             "--window", cut.window, "--overlap", cut.overlap_tokens,
             "--threads", measured.threads]  # fmt: skip
    words += ["--device", measured.device] if measured.device != "cpu" else []
    words += [word for name, value in asked.items() for word in (f"--{name}", value)]
    return shlex.join(map(str, words))
