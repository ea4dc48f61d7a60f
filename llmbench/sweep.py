"""Plan + store: skip what is done, run the rest, survive the rest.

One process run of one model is a group: every engine has a fresh child that stays loaded over its
blocks, and one engine is at work at a time. Each repeat becomes a record as soon as it ends.
"""

import hashlib
import os
import secrets
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from llmbench import store
from llmbench.errors import Held, StudyFailed
from llmbench.hardware import Roofs, default_threads, environment, fingerprint, machine
from llmbench.kept_roofs import keep, kept
from llmbench.params import Study, make_study, study_kind
from llmbench.points import Group, plan, present
from llmbench.progress import Progress
from llmbench.ready import check_here, check_options, make_files
from llmbench.record import (
    SETTLED,
    Audit,
    Energy,
    Memory,
    Point,
    Raw,
    Record,
    Repeat,
    Witness,
)
from llmbench.redact import redact_tree
from llmbench.strict_yaml import dump_yaml
from llmbench.turns import Lane, Patience, Stillness, flags_of, open_lanes, wait_until_idle
from llmbench.worker import THREAD_VARIABLES, Child, ChildLost

GROWTH = ("scaling", "context_windows")  # studies that are about growth
GIVE_UP_AFTER = 3  # failures of one engine in a row within a group
ENDED = ("measured", "done")  # states in which nothing goes on and nothing failed
PROBE_LIMIT_S = 120.0


@dataclass(frozen=True)
class Run:
    """What a study left behind: its folder and the count of repeats by outcome."""

    run_id: str
    folder: Path
    study: str
    planned: int
    settled: int  # done before or now
    measured: int  # planned repeats that have a record of now
    statuses: dict[str, int]  # of these
    deferred: int  # left for lack of time; the same command goes on
    left_out: dict[str, str] = field(default_factory=dict)  # models with no room here, and why

    @property
    def complete(self) -> bool:
        """Every planned repeat has a settled record."""
        return self.settled == self.planned

    def assert_complete(self) -> None:
        """Raises: StudyFailed unless all is settled, or the rest was deferred for time."""
        left = self.planned - self.settled - self.deferred
        if left:
            raise StudyFailed(
                f"{left} of {self.planned} repeats of {self.study} have no settled record",
                kept=f"{self.settled} records in {self.folder.name}/records",
                how="the same command tries them again; `llmbench status` shows why",
            )
        out = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        print(f"complete: {self.settled} of {self.planned} repeats, {self.deferred} deferred{out}")


def measure(name: str, *, shard: str = "", outputs: Path | None = None, **fields: Any) -> Run:
    """Measure a study and return what it left behind; what is already done is not run again.

    `shard` "2/5" does the second fifth of the process runs (default: LLMBENCH_SHARD, else all).
    Raises: BadParams, Held (another process measures into this run), StoreFailed.
    """
    return measure_study(name, make_study(name, fields), shard=shard, outputs=outputs)


def measure_study(name: str, study: Study, *, shard: str = "", outputs: Path | None = None) -> Run:
    """`measure` for a study that is already validated."""
    check_options(study)
    check_here(study)
    patience = Patience()
    study, left_out = present(study)
    groups = plan(name, study, shard or os.environ.get("LLMBENCH_SHARD", "1/1"))
    run_id = study.run_id or default_run_id(name, groups)
    folder = store.create_run(run_id, outputs)
    with store.lock(folder, "records", timeout_s=15):
        _keep_study(folder, name, study)
        store.repair(folder)
        done = store.finished(folder, fingerprint(machine()))
        left = [g for g in (_without(group, done) for group in groups) if g.repeats]
        total = sum(len(g.repeats) for g in left)
        sweep = _Sweep(name, study, folder, total, patience)
        told = (run_id, folder, name, groups, done, sweep, left_out)
        _note(_summary(*told))  # `status` can tell from here on
        if left:
            threads = left[0].repeats[0].point.threads
            make_files(left)
            sweep.environment = store.add_environment(folder, _described(folder, threads))
            sweep.run(left)
        run = _summary(*told)
        _note(run)
    return run


def describe_machine(run_id: str, threads: int = 0, outputs: Path | None = None) -> dict[str, Any]:
    """The circumstances of this machine, with roofs measured once a run; kept in its folder."""
    folder = store.create_run(run_id, outputs)
    with store.lock(folder, "records", timeout_s=15):
        described = _described(folder, threads or default_threads())
        store.add_environment(folder, described)
    return described


def status(run: str | Path, outputs: Path | None = None) -> dict[str, Any]:
    """Done, failed and left of a run, counted from its records, and the command that goes on."""
    folder = run if isinstance(run, Path) else store.run_folder(run, outputs)
    noted = store.status(folder)
    rows, faults = store.read_rows(folder)
    planned = [row for row in rows if row["repeat"] == 0]  # others followed a disturbed one
    planned.sort(key=lambda row: row["status"] in SETTLED)  # journals are in no order of time
    last = {row["key"]: (row["point"]["study"], row["status"]) for row in planned}
    studies = {}
    unnoted = {study: {"planned": None} for study, _ in last.values()}  # of a merged run
    for name, counted in (unnoted | noted.get("studies", {})).items():
        statuses = Counter(status for study, status in last.values() if study == name)
        settled = sum(n for status, n in statuses.items() if status in SETTLED)
        planned_now = counted["planned"]
        left = None if planned_now is None else max(0, planned_now - settled)
        studies[name] = {"planned": planned_now, "left": left, **statuses}
    state = _state(folder, noted)
    return {"run_id": folder.name, "state": state, "studies": studies,
            "notebooks": {n: b["state"] for n, b in noted.get("notebooks", {}).items()},
            "unreadable_lines": len(faults), "folder": str(folder),
            "command": noted.get("command", ""),
            "next": _next(folder, studies, planned) if state in ENDED else []}  # fmt: skip


def _next(folder: Path, studies: dict[str, dict], rows: list[dict]) -> list[str]:
    """The commands that tell what a run found, once nothing of it is left."""
    if not studies or any(counted["left"] for counted in studies.values()):
        return []
    ours = folder.resolve().parent == store.outputs_root().resolve()
    near = _from_here(folder)
    run = shlex.quote(folder.name if ours else
                      str(near) if len(near.parts) > 1 else os.path.join(".", near))  # fmt: skip
    lines = [f"llmbench report {run}"]
    lines += [f"llmbench scaling {run}"] if studies.keys() & set(GROWTH) else []
    points = [row["point"] for row in rows if row["point"]["study"] == "ollama_comparison"]
    twins = {point["engine"] for point in points if point.get("twin")}
    others = sorted({point["engine"] for point in points} - twins)
    lines += [f"llmbench compare {run} --target {others[0]} --baseline {twin}"
              for twin in sorted(twins) if others]  # fmt: skip
    return lines


def _from_here(folder: Path) -> Path:
    """The folder as a path that others can use too, where there is one."""
    near = Path(os.path.relpath(folder))
    return folder.resolve() if ".." in near.parts else near


def _state(folder: Path, noted: dict[str, Any]) -> str:
    """The noted state; a run that notes that it is running and holds no lock was killed."""
    state = noted.get("state", "measured")
    if state != "running":
        return state
    try:
        with store.lock(folder, "run"):
            return "killed"
    except Held:
        return state


def default_run_id(name: str, groups: tuple[Group, ...]) -> str:
    """The study's name and a hash of its plan."""
    keys = sorted(repeat.key for group in groups for repeat in group.repeats)
    return f"{name}-{hashlib.sha256(''.join(keys).encode()).hexdigest()[:8]}"


class _Sweep:
    """The records of one call: runs groups, writes each repeat as it ends."""

    environment = ""

    def __init__(
        self, name: str, study: Study, folder: Path, total: int, patience: Patience
    ) -> None:
        self.study, self.folder, self.total = study, folder, total
        self.statuses: dict[str, str] = {}  # by key, of the records written
        self.deferred = 0
        self.sequence = count()
        self.session = secrets.token_hex(4)
        self.patience = patience
        self.started = time.monotonic()
        self.label = name

    def run(self, groups: list[Group]) -> None:
        """Run `groups` in order until they are done or the budget is spent."""
        with store.Journal(self.folder) as self.journal, Progress(self.label, self.total) as bar:
            for group in groups:
                for repeat in self._group(group):
                    bar.advance(f"{repeat.point.engine} {repeat.point.model}")

    def _group(self, group: Group) -> Iterator[Repeat]:
        with open_lanes(group, self.study.timeout_s) as lanes:
            warmups = -(-self.study.warmups // len({r.point.cell for r in group.repeats}))
            last = {r.point.contender: r for r in group.repeats} if self.study.releases else {}
            for repeat in group.repeats:
                lane = lanes[repeat.point.contender]
                ends = last.get(repeat.point.contender) is repeat
                if self._out_of_time():
                    self.deferred += 1
                elif lane.failures < GIVE_UP_AFTER:
                    self._turn(repeat, lane, lanes, warmups, ends)
                yield repeat

    def _out_of_time(self) -> bool:
        budget_s = self.study.budget_minutes * 60
        return bool(budget_s) and time.monotonic() - self.started > budget_s

    def _turn(
        self, repeat: Repeat, lane: Lane, lanes: dict[str, Lane], warmups: int, ends: bool
    ) -> None:
        """Take the turn; one that other programs disturbed is followed by another, when quiet.

        The second is a repeat of its own, with a key and a prompt of its own, beside the first.
        Where the turn `ends` its lane, the last of them tells what releasing the model leaves.
        """
        answer, again = self._try(repeat, lane, lanes, warmups), False
        try:
            disturbed = "contaminated" in answer.get("flags", [])
            again = disturbed and self.patience.wait_for_quiet()
            if ends and not again:
                lane.release(answer)
        finally:
            self._write(repeat, lane, answer)
        if again:
            repeat = repeat.model_copy(update={"repeat": repeat.repeat + 1})
            answer = self._try(repeat, lane, lanes, warmups)
            if ends:
                lane.release(answer)
            self._write(repeat, lane, answer)

    def _try(
        self, repeat: Repeat, lane: Lane, lanes: dict[str, Lane], warmups: int
    ) -> dict[str, Any]:
        """The answer to one timed repeat, with what happened around it."""
        others = [other.child for other in lanes.values() if other is not lane and other.child]
        waited = wait_until_idle(others)
        before = Stillness(lane, others)
        try:
            answer = lane.take_turn(repeat, warmups, self._is_probed(repeat.point))
        except BaseException:
            self._write(repeat, lane, {"status": "interrupted", "reason": "ended from outside"})
            raise
        answer["quiet"] = before.quiet(waited, answer.get("read_bytes_per_s"))
        if answer["status"] == "ok":
            answer["flags"] = flags_of(answer, warmups, before)
            answer["audit"] = lane.take_audit(repeat)
            if answer["audit"]:
                answer["memory"] = answer["memory"] | lane.take_shares(repeat)
        return answer

    def _is_probed(self, point: Point) -> bool:
        """Whether memory is read first: before everybody's turns, so that none is favoured."""
        return self.study.probed and point.device == "cpu"

    def _write(self, repeat: Repeat, lane: Lane, answer: dict[str, Any]) -> None:
        kinds = {"raw": Raw, "memory": Memory, "witness": Witness, "audit": Audit}
        parts = {k: kind.model_validate(answer[k]) for k, kind in kinds.items() if answer.get(k)}
        record = Record(
            key=repeat.key, point=repeat.point, process_run=repeat.process_run,
            block=repeat.block, repeat=repeat.repeat, status=answer["status"],
            reason=answer.get("reason"), flags=answer.get("flags", []),
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            sequence=next(self.sequence), session=self.session, served=lane.served, energy=Energy(),
            quiet=answer.get("quiet"), environment=self.environment, **parts,
        )  # fmt: skip
        self.journal.append(record)
        self.statuses[record.key] = record.status


def _without(group: Group, done: set[str]) -> Group:
    return replace(group, repeats=tuple(r for r in group.repeats if r.key not in done))


def _thread_environment(threads: int) -> dict[str, str]:
    """What the children's thread pools are told, beside what they inherit."""
    inherited = {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "MKL_", "KMP_"))}
    return inherited | dict.fromkeys(THREAD_VARIABLES, str(threads))


def _keep_study(folder: Path, name: str, study: Study) -> None:
    """A run that has no params.yaml gets one, so that the command that goes on can read it."""
    path = folder / "params.yaml"
    if not path.exists():
        chosen = redact_tree(study.model_dump(exclude_unset=True))
        store.snapshot(path, dump_yaml({"studies": {name: chosen}}))


def _described(folder: Path, threads: int) -> dict[str, Any]:
    """The circumstances, with the roofs this run has of this machine, or that were measured lately.

    Else they are measured now, and kept for other runs when the machine was quiet.
    """
    described = environment(
        {"thread_environment": _thread_environment(threads), "roof_threads": threads}
    )
    same = ("fingerprint", "roof_threads")
    known = [e["roofs"] for e in store.environments(folder).values()
             if e.get("roofs") and all(e.get(k) == described[k] for k in same)]  # fmt: skip
    if known:
        return described | {"roofs": known[0]}
    lately = kept(described["fingerprint"], threads)
    if lately:
        return described | {"roofs": asdict(lately)}
    measured = _probe(threads)
    if measured["roofs"]:
        keep(Roofs(**measured["roofs"]), described["fingerprint"])
    return described | measured


def _probe(threads: int) -> dict[str, Any]:
    """`roofs` measured in a child of its own, so that no torch stays behind; or null and why."""
    Patience().wait_for_quiet()
    child = Child(threads)
    try:
        answer = child.ask({"do": "probe", "threads": threads}, PROBE_LIMIT_S)
        return {"roofs": answer.get("roofs"), "roofs_reason": answer.get("reason")}
    except ChildLost as lost:
        return {"roofs": None, "roofs_reason": lost.what}
    finally:
        child.kill()


def _note(run: Run) -> None:
    """Keep the counts of this study in status.json, with the command that goes on."""
    noted = store.status(run.folder)
    counted = {"planned": run.planned, "settled": run.settled, "deferred": run.deferred,
               "left_out": run.left_out}  # fmt: skip
    folder = _from_here(run.folder)
    words = ["llmbench", "measure", folder / "params.yaml", "--only", run.study]
    words += [] if folder.parent == Path("outputs") else ["--outputs", folder.parent]
    default = {"command": shlex.join(map(str, words)), "title": study_kind(run.study).question}
    studies = noted.get("studies", {}) | {run.study: counted}
    store.write_status(run.folder, default | noted | {"studies": studies})


def _summary(
    run_id: str,
    folder: Path,
    name: str,
    groups: tuple[Group, ...],
    done: set[str],
    sweep: _Sweep,
    left_out: dict[str, str],
) -> Run:
    keys = {repeat.key for group in groups for repeat in group.repeats}
    now = {key: status for key, status in sweep.statuses.items() if key in keys}
    settled = done | {key for key, status in now.items() if status in SETTLED}
    return Run(
        run_id=run_id,
        folder=folder,
        study=name,
        planned=len(keys),
        settled=len(keys & settled),
        measured=len(now),
        statuses=dict(Counter(now.values())),
        deferred=sweep.deferred,
        left_out=left_out,
    )
