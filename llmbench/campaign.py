"""A params file → its notebooks in order, then figures, analysis and report: what `run` does.

Every step is skipped when it is finished and nothing it depends on has changed.
"""

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmbench import __version__, store
from llmbench.errors import BadParams, Held, Missing, StoreFailed, StudyFailed
from llmbench.hardware import fingerprint, machine
from llmbench.models.source import peek_model
from llmbench.notebook import Executed, execute
from llmbench.params import Params, Study, load_params, make_study
from llmbench.points import parse_shard, plan
from llmbench.progress import Progress
from llmbench.ready import check_here, check_options
from llmbench.redact import redact_tree
from llmbench.strict_yaml import dump_yaml
from llmbench.units import seconds

NOTEBOOK_OF = {  # adding a study: its notebook, and one line here
    "model_validation": "01_model_validation",
    "scaling": "02_scaling_study",
    "ollama_comparison": "03_ollama_comparison",
    "attention": "04_attention_study",
    "context_windows": "05_context_windows",
}
STOPPING = {"Held": Held, "StoreFailed": StoreFailed}  # no later notebook could do better
SETUP, FIGURES, ANALYSIS = "00_setup", "06_report_figures", "07_analysis"


@dataclass
class Campaign:
    """One run of a params file: where it is and how it went."""

    run_id: str
    folder: Path
    states: dict[str, str] = field(default_factory=dict)  # notebook → ok, kept, failed …
    faults: list[str] = field(default_factory=list)

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.folder / "report.html"

    @property
    def exit_code(self) -> int:
        """0 when every study did what could be done; 1 when one failed."""
        return StudyFailed.exit_code if self.faults else 0


def run(
    params: str | Path,
    run_id: str | None = None,
    *,
    only: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
    shard: str = "1/1",
    outputs: Path | None = None,
) -> Campaign:
    """Run every study of the file `params`. The same run id again goes on where it stopped.

    A failed study is told in the result, and the others go on.
    Raises: BadParams, Missing, Held, StoreFailed.
    """
    loaded = load_params(params, overrides)
    studies = _chosen(loaded, only)
    for study in studies.values():
        check_options(study)
        check_here(study)
    parse_shard(shard)
    run_id = run_id or f"{Path(params).stem}-{_hash(loaded.model_dump())[:8]}"
    folder = store.create_run(run_id, outputs)
    campaign = Campaign(run_id, folder)
    command = _command(params, run_id, only, overrides, shard, outputs)
    told = {"LLMBENCH_OUTPUTS": str(folder.parent), "LLMBENCH_SHARD": shard}
    with store.lock(folder, "run"), _environment(told):
        _keep_params(folder, loaded)
        _note(folder, title=loaded.title, command=command, state="running")
        try:
            _steps(campaign, studies)
        except BaseException:
            _note(folder, state="interrupted")
            raise
        _finish(campaign)
    return campaign


def _steps(campaign: Campaign, studies: dict[str, Study]) -> None:
    """Every notebook in order; a study that fails does not keep the others from running."""
    _step(campaign, SETUP, {"run_id": campaign.run_id})
    for name, study in studies.items():
        fields = study.model_dump() | {"run_id": campaign.run_id}
        _step(campaign, NOTEBOOK_OF[name], fields, study=name)
    for name in (FIGURES, ANALYSIS):
        _step(campaign, name, {"run_ids": [campaign.run_id]})


def notebooks_folder() -> Path:
    """Where the notebooks are: beside the package in a checkout. Raises: Missing."""
    folder = Path(__file__).resolve().parent.parent / "notebooks"
    if not folder.is_dir():
        raise Missing(
            "the notebooks are not here",
            why="`run` executes them from a checkout of the repository",
            how="clone the repository and `pip install -e .`, or use `llmbench measure`",
        )
    return folder


@contextmanager
def _environment(told: dict[str, str]) -> Iterator[None]:
    """Kernels inherit `told`; afterwards the environment is as it was."""
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def _chosen(params: Params, only: tuple[str, ...]) -> dict[str, Study]:
    unknown = [name for name in only if name not in params.chosen]
    if unknown:
        raise BadParams(f"--only {unknown[0]}: the file has {', '.join(params.chosen)}")
    return {n: s for n, s in params.chosen.items() if not only or n in only}


def _step(
    campaign: Campaign, name: str, parameters: dict[str, Any], study: str | None = None
) -> None:
    """Execute one notebook unless its finished copy is still true; keep the status truthful."""
    source = notebooks_folder() / f"{name}.ipynb"
    if _is_kept(campaign, source, parameters, study):
        campaign.states[name] = "kept"
        _say(f"{name}: kept from before")
        return
    _say(f"{name}: running")
    _note_notebook(campaign, name, {"state": "running"})
    try:
        with Progress(name, _planned(study, parameters)) as bar:
            records = _Records(campaign.folder)
            tick = lambda: bar.reach(records.new())  # noqa: E731 - two nouns and a verb
            done = execute(source, campaign.folder / "notebooks", parameters, tick=tick)
    except BaseException as error:
        _note_notebook(campaign, name, {"state": "interrupted", "detail": type(error).__name__})
        raise
    _report_step(campaign, done)
    inputs = _inputs(campaign.folder, source, parameters, study)
    _note_notebook(campaign, name, {"state": done.state, "detail": done.detail, "inputs": inputs,
                                    "seconds": round(done.seconds, 1)})  # fmt: skip


class _Records:
    """Counts the records of a run that are new since it was made, reading only what is new."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.read = folder / "records", 0, {}
        self.before = self._count()

    def new(self) -> int:
        """Records written since."""
        return self._count() - self.before

    def _count(self) -> int:
        for path in self.folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self.read.get(path, 0))
                self.count += file.read().count(b"\n")
                self.read[path] = file.tell()
        return self.count


def _planned(study: str | None, fields: dict[str, Any]) -> int:
    """How many repeats a study's notebook has to make at most; 0 for the other notebooks."""
    if not study:
        return 0
    groups = plan(study, make_study(study, fields), os.environ["LLMBENCH_SHARD"], peek_model)
    return sum(len(group.repeats) for group in groups)


def _report_step(campaign: Campaign, done: Executed) -> None:
    campaign.states[done.name] = done.state
    if done.state == "ok":
        _say(f"{done.name}: done in {seconds(done.seconds)}")
        return
    kind, _, text = done.detail.partition(": ")
    if kind in STOPPING:
        raise STOPPING[kind](f"{done.name}: {text}", how="the same command, when that is mended")
    campaign.faults.append(f"{done.name}: {done.state}: {done.detail}")
    _say(f"{done.name}: {done.state}: {done.detail}\n  what it did is kept in {done.copy.name}")


def _is_kept(
    campaign: Campaign, source: Path, parameters: dict[str, Any], study: str | None
) -> bool:
    status = store.status(campaign.folder)
    before = status.get("notebooks", {}).get(source.stem, {})
    if before.get("state") != "ok" or not (campaign.folder / "notebooks" / source.name).is_file():
        return False
    counted = status.get("studies", {}).get(study) if study else None
    if study and (not counted or counted["settled"] < counted["planned"]):
        return False
    return before.get("inputs") == _inputs(campaign.folder, source, parameters, study)


def _inputs(folder: Path, source: Path, parameters: dict[str, Any], study: str | None) -> str:
    """Hash of all that an executed notebook depends on."""
    if study:
        records = store.digest(folder, study=study)
    else:
        records = "" if source.stem == SETUP else store.digest(folder)
    return _hash([source.read_text(encoding="utf-8"), parameters, records, __version__,
                  fingerprint(machine())])  # fmt: skip


def _finish(campaign: Campaign) -> None:
    from llmbench.page import write_page

    state = "failed" if campaign.faults else "done"
    studies = store.status(campaign.folder).get("studies", {})
    if state == "done" and any(s["settled"] < s["planned"] for s in studies.values()):
        state = "deferred" if all(s["deferred"] for s in studies.values()) else "unsettled"
    _note(campaign.folder, state=state, faults=campaign.faults)
    report, digest = campaign.report, store.digest(campaign.folder)
    shown = store.status(campaign.folder).get("report")
    if not report.is_file() or shown != _hash([digest, state, campaign.faults, __version__]):
        write_page(campaign.folder)
        _note(campaign.folder, report=_hash([digest, state, campaign.faults, __version__]))


def _keep_params(folder: Path, params: Params) -> None:
    """The parameters as this run understood them; earlier ones of the same run id stay beside."""
    path = folder / "params.yaml"
    data = dump_yaml(redact_tree(params.model_dump(exclude_unset=True)))
    if path.is_file() and path.read_bytes() != data:
        old = path.read_bytes()
        store.snapshot(folder / f"params-{hashlib.sha256(old).hexdigest()[:8]}.yaml", old)
    store.snapshot(path, data)


def _command(
    params: str | Path, run_id: str, only: tuple[str, ...], overrides: tuple[str, ...],
    shard: str, outputs: Path | None,
) -> str:  # fmt: skip
    """The command that goes on with this run."""
    words = ["llmbench", "run", str(params), "--run-id", run_id]
    words += [w for name in only for w in ("--only", name)]
    words += [w for text in overrides for w in ("--set", text)]
    words += ["--shard", shard] if shard != "1/1" else []
    words += ["--outputs", str(outputs)] if outputs else []
    return shlex.join(words)


def _note(folder: Path, **facts: Any) -> None:
    store.write_status(folder, store.status(folder) | facts)


def _note_notebook(campaign: Campaign, name: str, facts: dict[str, Any]) -> None:
    notebooks = store.status(campaign.folder).get("notebooks", {})
    _note(campaign.folder, notebooks=notebooks | {name: facts})


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
