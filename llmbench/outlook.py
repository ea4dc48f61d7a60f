"""What a params file would do, before it is done: points, predicted memory, least time, cost.

Nothing runs. Times are lower bounds from roofs measured earlier on this machine (`00_setup` or
`llmbench doctor --probe` measure them); without roofs there is no time, rather than a guess.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmbench import store
from llmbench.errors import LlmbenchError
from llmbench.hardware import Machine, Roofs, default_threads, fingerprint, machine
from llmbench.impls import impl_of
from llmbench.kept_roofs import kept
from llmbench.models import shapes
from llmbench.models.predict import Prediction, predict, spec_of
from llmbench.models.source import peek_model
from llmbench.pairs.power import detectable, side_sd
from llmbench.params import Params, Study, load_params
from llmbench.points import plan
from llmbench.record import Point, Repeat
from llmbench.units import nbytes, seconds, significant

HELD = {None: "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # `weights`
SHOWN = 40  # rows of the table for people; --json has all


@dataclass(frozen=True)
class Foreseen:
    """One point of the plan. Times are seconds of all its repeats, at least; None: not known."""

    study: str
    model: str
    engine: str
    asked: str  # what else is asked of the engine; 'twin' for its second copy
    batch_size: int
    prompt_tokens: int
    output_tokens: int
    repeats: int
    peak_bytes: int | None
    fits: bool | None
    seconds_at_least: float | None
    why: str
    window: int = 0  # tokens; 0: as many as are needed
    trained_context: int | None = None  # tokens; None: not known
    beyond_trained: bool = False  # its window is asked for though it is larger than that


@dataclass(frozen=True)
class Outlook:
    """The whole plan of a params file."""

    title: str
    points: tuple[Foreseen, ...]
    repeats: int
    process_runs: int
    roofs: str | None  # where the roofs came from
    price_per_hour: float
    budget_minutes: float
    sees: tuple[str, ...] = ()  # which differences each comparison can see
    no_room: tuple[str, ...] = ()  # models that cannot be made on this disk, and are left out

    @property
    def seconds_at_least(self) -> float | None:
        """Sum over all points; None when one of them is not known."""
        times = [p.seconds_at_least for p in self.points]
        return None if None in times else sum(times)

    def table(self) -> list[dict[str, str]]:
        """Rows for people."""
        return [_row(point) for point in self.points[:SHOWN]]

    def sentences(self) -> list[str]:
        """What a person needs besides the table."""
        said = []
        if len(self.points) > SHOWN:
            said.append(f"… and {len(self.points) - SHOWN} more points (--json has all)")
        said.append(
            f"{len(self.points)} points, {self.repeats} repeats, {self.process_runs} groups of"
            " fresh processes"
        )
        unsure = {f"{p.engine} {p.model}: {p.why}" for p in self.points if p.fits is not True}
        said += [_time(self), *self.sees, *sorted(unsure), *_beyond(self.points), *self.no_room]
        return said

    def facts(self) -> dict[str, Any]:
        """Everything, for programs."""
        return asdict(self) | {"seconds_at_least": self.seconds_at_least}


def outlook(
    params: str | Path, overrides: Iterable[str] = (), outputs: Path | None = None
) -> Outlook:
    """The plan of the file `params` with predictions. Raises: BadParams."""
    loaded: Params = load_params(params, overrides)
    here = machine()
    roofs = None
    points: list[Foreseen] = []
    groups = 0
    for name, study in loaded.chosen.items():
        planned = plan(name, study, find=peek_model)
        threads = study.threads or default_threads()
        roofs = _roofs(outputs or store.outputs_root(), fingerprint(here), threads)
        groups += len(planned)
        points += _foresee([r for g in planned for r in g.repeats], study, here, roofs)
    return Outlook(
        title=loaded.title, points=tuple(points), repeats=sum(p.repeats for p in points),
        process_runs=groups, roofs=roofs.source if roofs else None,
        price_per_hour=loaded.price_per_hour, budget_minutes=loaded.budget_minutes,
        sees=tuple(_sees(name, study) for name, study in loaded.chosen.items()
                   if any(contender.twin for contender in study.contenders)),
        no_room=tuple(_no_room(m for study in loaded.chosen.values() for m in study.models)),
    )  # fmt: skip


def _no_room(models: Iterable[str]) -> Iterator[str]:
    """The `shape:` models for which the disk has no room left when those before them are made."""
    taken = 0
    for name in dict.fromkeys(m for m in models if m.startswith("shape:")):
        needed, free = shapes.bytes_to_make(name), shapes.free_bytes(name) - taken
        if needed > max(0, free):
            yield (f"{name}: cannot be made and is left out: it needs {nbytes(needed)} of disk, "
                   f"{nbytes(max(0, free))} are free")  # fmt: skip
        else:
            taken += needed


def _sees(name: str, study: Study) -> str:
    """The smallest difference that a comparison's design can see."""
    claims = max(1, study.claims)
    least = detectable(study.process_runs, study.blocks, claims=claims)
    together = f" and {claims} claims are corrected together" if claims > 1 else ""
    if math.isnan(least):
        return f"{name}: one process run gives no interval and sees no difference"
    return (f"{name}: with {study.process_runs} process runs of {study.blocks} blocks a difference "
            f"of {100 * least:.1f} % can be seen (in 95 of 100 such runs beyond the noise floor, "
            f"where a process run's mean of an engine varies by "
            f"{significant(100 * side_sd(study.blocks), 2)} %{together})")  # fmt: skip


def _row(p: Foreseen) -> dict[str, str]:
    known = p.seconds_at_least is not None
    return {
        "study": p.study, "model": p.model, "engine": p.engine, "with": p.asked,
        "batch": str(p.batch_size),
        "prompt": str(p.prompt_tokens), "output": str(p.output_tokens), "repeats": str(p.repeats),
        "memory": "—" if p.peak_bytes is None else nbytes(p.peak_bytes),
        "fits": {True: "yes", False: "no", None: "—"}[p.fits],
        "at least": seconds(p.seconds_at_least) if known else "—",
    }  # fmt: skip


def _foresee(
    repeats: list[Repeat], study: Study, here: Machine, roofs: Roofs | None
) -> list[Foreseen]:
    points = {id(r.point): r.point for r in repeats}
    counts = Counter(id(r.point) for r in repeats)
    limit = int(study.memory_limit_gib * 2**30) or here.cgroup_memory_bytes or here.memory_bytes
    found = [_one(point, counts[key], limit, roofs) for key, point in points.items()]
    return sorted(found, key=lambda p: (p.model, p.engine, p.asked, p.batch_size, p.prompt_tokens))


def _asked(point: Point) -> str:
    """'sdpa-math, twin': the values of its options, its weights, and whether it is the second."""
    values = [str(value) for _, value in sorted(point.engine_options.items())]
    values += [point.weights] if point.weights else []
    return ", ".join([*values, *["twin"] * point.twin])


def _one(point: Point, repeats: int, limit: int, roofs: Roofs | None) -> Foreseen:
    predicted, why = _predicted(point, limit, roofs)
    least = None
    if predicted and predicted.prefill_s_at_least is not None:
        steps = (point.output_tokens - 1) * predicted.decode_s_per_token_at_least
        least = repeats * (predicted.prefill_s_at_least + steps)
    return Foreseen(
        study=point.study, model=point.model, engine=point.engine, asked=_asked(point),
        batch_size=point.batch_size, prompt_tokens=point.prompt_tokens,
        output_tokens=point.output_tokens, repeats=repeats,
        peak_bytes=predicted.peak_bytes if predicted else None,
        fits=predicted.fits if predicted else None, seconds_at_least=least, why=why,
        window=point.window, trained_context=_trained(point.model),
        beyond_trained=point.beyond_trained,
    )  # fmt: skip


@lru_cache(maxsize=64)
def _trained(model: str) -> int | None:
    """Tokens that the model was trained for; None where nothing tells."""
    try:
        return spec_of(model).trained_context
    except LlmbenchError:
        return None


def _beyond(points: Iterable[Foreseen]) -> Iterator[str]:
    """A warning a model that is asked for more tokens than it was trained for."""
    models: dict[str, list[Foreseen]] = {}
    for p in points:
        if p.trained_context and max(p.window, p.prompt_tokens + p.output_tokens) > (
            p.trained_context
        ):
            models.setdefault(p.model, []).append(p)
    for name, beyond in sorted(models.items()):
        trained = f"beyond its trained context of {beyond[0].trained_context:,} tokens"
        for asked, fate in ((False, "will be refused"), (True, "tell costs only")):
            windows = {p.window for p in beyond if p.window and p.beyond_trained == asked}
            if windows:
                listed = ", ".join(f"{window:,}" for window in sorted(windows))
                yield f"{name}: windows {trained} {fate}: {listed}"
        if free := [p.prompt_tokens + p.output_tokens for p in beyond if not p.window]:
            yield f"{name}: up to {max(free):,} tokens of prompt and answer, {trained}: cost only"


def _predicted(point: Point, limit: int, roofs: Roofs | None) -> tuple[Prediction | None, str]:
    """The prediction, or why there is none."""
    if point.engine == "fake":
        return None, "a planted law needs no memory and knows no roof"
    dtype = _held(point)
    if dtype is None:
        its = _weights(point) or "a file's own"
        return None, f"memory of {its} weights is not predicted; `llmbench inspect` tells a file's"
    holds = roofs.of_dtype(dtype) if roofs and point.device == "cpu" else None  # as probed
    try:
        found = predict(
            point.model, context_len=point.prompt_tokens + point.output_tokens,
            batch_size=point.batch_size, dtype=dtype,
            device_bytes=limit if point.device == "cpu" else None, roofs=holds,
        )  # fmt: skip
    except LlmbenchError as error:
        return None, error.what
    return found, found.why


def _held(point: Point) -> str | None:
    """In what an engine holds the weights: a file's own type, where it takes no `dtype`."""
    asked = point.engine_options | {"device": point.device}
    ours = point.engine == "edge" and impl_of(asked) == "cpu"
    if not ours and point.engine not in ("llamacpp", "ollama"):
        return asked.get("dtype") or "float32"
    if point.model.startswith(("gguf:", "ollama:")):
        return None
    if ours and not _weights(point):  # as the folder stores them
        config = peek_model(point.model).config
        return config.get("dtype") or config.get("torch_dtype")
    return HELD.get(_weights(point))


def _weights(point: Point) -> str | None:
    """The format in which the engine gets the weights; None: as they are."""
    return point.weights or point.engine_options.get("weights")


def _roofs(outputs: Path, here: str, threads: int) -> Roofs | None:
    """The newest roofs measured with so many threads on this machine's CPU by an earlier run.

    Without such a run those that are kept in the cache, whatever their age: `source` tells it.
    """
    files = outputs.glob("*/environment.json")
    for path in sorted(files, key=lambda p: p.stat().st_mtime, reverse=True)[:50]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["environments"]
        except (OSError, ValueError, KeyError):
            continue  # a damaged note of another run is that run's fault, told by `check`
        for described in found.values():
            same = described.get("fingerprint") == here and described.get("roof_threads") == threads
            if same and described.get("roofs"):
                return Roofs(**described["roofs"])
    return kept(here, threads, max_age_s=None)


def _time(plan: Outlook) -> str:
    """The least time and cost, or what would tell them."""
    least = plan.seconds_at_least
    if least is None:
        why = (
            "no roofs of this machine are known" if plan.roofs is None else "not all are predicted"
        )
        return f"time: not predicted: {why}; `llmbench run` measures them in 00_setup"
    said = f"time: at least {seconds(least)} at the roof ({plan.roofs})"
    if plan.price_per_hour:
        said += f", cost at least {significant(least / 3600 * plan.price_per_hour)}"
    return f"{said}, unless a cache holds the weights; start-up and loading come on top"
