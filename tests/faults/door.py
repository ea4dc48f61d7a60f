"""The command as a person starts it, and what its run left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmbench import store
from llmbench.hardware import default_threads, environment
from llmbench.params import load_params, make_study
from llmbench.points import plan
from llmbench.strict_yaml import dump_yaml

DOUBLES = str(Path(__file__).parent / "doubles")
LIMIT_S = 120.0  # nothing here takes so long unless it hangs
SMALL: dict[str, Any] = {
    "run_id": "r", "engines": ["fake"], "batch_sizes": [1], "context_lens": [10, 20, 30],
    "process_runs": 2, "blocks": 1, "output_tokens": 2, "threads": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and its two streams."""

    code: int
    out: str
    err: str


def quick(cases: Iterable, chosen: Iterable[int], every: int = 1) -> list:
    """All cases for `parametrize`; those that are not chosen by their number are marked slow.

    Of the slow ones only those whose number is a multiple of `every` are not exhaustive.
    """

    def marks(number: int) -> list[pytest.MarkDecorator]:
        rare = [pytest.mark.exhaustive] if number % every else []
        return [] if number in chosen else [pytest.mark.slow, *rare]

    return [pytest.param(case, id=str(case)[:60].encode("unicode_escape").decode(),
                         marks=marks(number)) for number, case in enumerate(cases)]  # fmt: skip


def start(*words: str | Path, outputs: Path | None = None, env: dict[str, str] | None = None,
          within: Sequence[str] = (), **popen: Any) -> subprocess.Popen:  # fmt: skip
    """`llmbench WORDS` in a process group of its own, told of `outputs` by the environment.

    `within` are the words of a program that runs it, as `nsenter`. To it the machine always looks
    still (doubles/sitecustomize.py), so that no disturbed row is followed by another.
    """
    told = {k: v for k, v in os.environ.items() if not k.startswith(("LLMBENCH", "PYTEST"))}
    told["PYTHONPATH"] = os.pathsep.join(filter(None, [DOUBLES, os.environ.get("PYTHONPATH")]))
    told["LLMDOUBLE_STILL"] = "1"
    told |= {"LLMBENCH_OUTPUTS": str(outputs)} if outputs else {}
    return subprocess.Popen(
        [*within, sys.executable, "-m", "llmbench", *map(str, words)], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=told | (env or {}), **popen,
    )  # fmt: skip


def ended(process: subprocess.Popen, timeout_s: float = LIMIT_S) -> Ended:
    """What `process` came to; one that hangs is killed with all its children, and the test fails.

    Raises: subprocess.TimeoutExpired.
    """
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill_tree(process)
        raise
    return Ended(process.returncode, out, err)


def door(*words: str | Path, timeout_s: float = LIMIT_S, **popen: Any) -> Ended:
    """Run `llmbench WORDS` to its end; keywords as for `start`."""
    return ended(start(*words, **popen), timeout_s)


def script(text: str, *words: str | Path, within: Sequence[str] = (), **popen: Any) -> Ended:
    """Run a few lines of Python that use the package, in a process of their own."""
    process = subprocess.Popen(
        [*within, sys.executable, "-c", text, *map(str, words)], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **popen,
    )  # fmt: skip
    return ended(process)


def measure_words(**fields: Any) -> list[str]:
    """`measure scaling` with `SMALL` and `fields` as options."""
    words = ["measure", "scaling"]
    for name, value in (SMALL | fields).items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *(_flow(v) for v in values)]
    return words


def _flow(value: Any) -> str:
    """A value as one line of YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def params_file(path: Path, **fields: Any) -> Path:
    """A params file with one small study of the fake engine."""
    study = {k: v for k, v in (SMALL | fields).items() if k != "run_id"}
    path.write_bytes(dump_yaml({"title": "faults", "studies": {"scaling": study}}))
    return path


def plant_roofs(folder: Path) -> None:
    """Make a run know this machine's roofs, so that none are measured in a test of faults."""
    for threads in {1, default_threads()}:
        raw = {"threads": threads, "buffer_bytes": 2**29, "matmul_size": 2048,
               "read_bytes_per_s": [1e10] * 3, "matmul_flops_per_s": [1e11] * 3}  # fmt: skip
        roofs = {"bytes_per_s": 1e10, "flops_per_s": 1e11, "source": "planted", "raw": raw}
        store.add_environment(folder, environment({"roofs": roofs, "roof_threads": threads}))


def rows(outputs: Path, run_id: str = "r") -> list[dict[str, Any]]:
    """Every record of a run; a line that cannot be read fails the test."""
    found, faults = store.read_rows(outputs / run_id)
    assert not faults, [str(fault) for fault in faults]
    return found


def statuses(outputs: Path, run_id: str = "r") -> dict[int, str]:
    """Prompt length → status of its row; `ok` where one of several rows is."""
    found = sorted(rows(outputs, run_id), key=lambda row: row["status"] == "ok")
    return {row["point"]["prompt_tokens"]: row["status"] for row in found}


def planned_keys(params: Path | None = None, **fields: Any) -> set[str]:
    """The keys that a study plans: of a params file, or of `SMALL` with `fields`."""
    study = load_params(params).chosen["scaling"] if params else make_study(
        "scaling", SMALL | fields)  # fmt: skip
    return {repeat.key for group in plan("scaling", study) for repeat in group.repeats}


def assert_each_planned_once(outputs: Path, planned: set[str], run_id: str = "r") -> None:
    """Every planned row is there, whole and `ok`, none twice, and none that was not asked."""
    done = Counter(row["key"] for row in rows(outputs, run_id) if row["status"] == "ok")
    assert set(done) == planned
    assert set(done.values()) == {1}


def kill_tree(process: subprocess.Popen) -> None:
    """SIGKILL `process` and all that it started, as a machine's end would."""
    try:
        whole = [psutil.Process(process.pid)]
        whole += whole[0].children(recursive=True)
    except psutil.NoSuchProcess:
        whole = []
    for one in whole:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(whole, timeout=10)
    process.communicate()


def killed(process: subprocess.Popen, after_s: float, *, alone: bool) -> bool:
    """SIGKILL `process` after a time, `alone` or with all that it started; False: it had ended."""
    try:
        process.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        process.kill() if alone else kill_tree(process)
        return True
    finally:
        process.communicate()


def length_s(folder: Path, words: Sequence[str]) -> float:
    """How long `llmbench WORDS` takes when nothing happens to it."""
    plant_roofs(store.create_run("r", folder / "outputs"))
    started = time.perf_counter()
    told = door(*words, outputs=folder / "outputs")
    assert told.code == 0, told.err
    return time.perf_counter() - started


def wait_for(what: Callable[[], Any], process: subprocess.Popen, timeout_s: float = 60.0) -> None:
    """Return when `what()` is true; `process` must not end before."""
    until = time.monotonic() + timeout_s
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.02)


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The engines' processes that `process` has started."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [c for c in children if "llmbench.worker" in _words(c)]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def has_rows(outputs: Path, count: int = 1, run_id: str = "r") -> bool:
    """Whether at least `count` whole lines stand in the journals of a run."""
    journals = (outputs / run_id / "records").glob("*.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in journals) >= count


def interrupt(process: subprocess.Popen) -> None:
    """Ctrl-C: SIGINT to the foreground process group."""
    os.killpg(process.pid, signal.SIGINT)


def tree(folder: Path) -> set[str]:
    """Every path below `folder`, links not followed."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
