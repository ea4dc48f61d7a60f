"""A notebook + parameters → an executed copy, with a truthful status.

papermill only warns of unknown parameters, writes in place, and calls the cells of a killed kernel
completed. This door compares names first, executes into a temporary file, believes only a notebook
whose every cell ran and whose last cell printed its end mark, and replaces the copy whole.
"""

import errno
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from llmbench import store
from llmbench.errors import BadParams, StoreFailed
from llmbench.redact import redact

END_MARK = "complete:"  # what the last cell of every notebook prints
CELL_LIMIT_S = 12 * 3600  # children have deadlines of their own; this one catches a lost kernel
LONGEST_SOCKET = 90  # bytes of a socket's path; the system allows 107
GRACE_S = 10.0  # for an interrupted kernel to make its current row safe


@dataclass(frozen=True)
class Executed:
    """What became of one notebook; `copy` is the executed copy, whole or partial."""

    name: str
    state: Literal["ok", "failed", "kernel died", "incomplete"]
    detail: str
    copy: Path
    seconds: float


def execute(
    source: Path,
    folder: Path,
    parameters: dict[str, Any],
    *,
    tick: Callable[[], None] = lambda: None,
) -> Executed:
    """Execute the notebook `source` with `parameters`; the copy goes to `folder`.

    `tick` is called now and then while it runs, to show how far it is.

    Raises: BadParams for a parameter that the notebook does not have, StoreFailed when the copy
    cannot be written (an older copy stays), KeyboardInterrupt after the kernel has ended.
    """
    check_names(source, parameters)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="llmbench-", ignore_cleanup_errors=True) as scratch:
        working = Path(scratch) / source.name  # papermill may still write there when it is cleared
        errors: list[BaseException] = []
        try:
            _in_thread(source, working, parameters, errors, tick)
        finally:
            text = _written(working)
            state, detail = _judge(text, errors)
            copy = folder / (source.name if state == "ok" else f"{source.stem}.partial.ipynb")
            if errors and isinstance(errors[0], OSError) and errors[0].errno == errno.ENOSPC:
                raise StoreFailed(f"{source.name} cannot be executed: no space in {scratch}")
            if text:
                store.snapshot(copy, redact(text).encode(), validate=json.loads)
    if state == "ok":
        (folder / f"{source.stem}.partial.ipynb").unlink(missing_ok=True)
    return Executed(source.stem, state, redact(detail), copy, time.monotonic() - started)


def check_names(source: Path, parameters: dict[str, Any]) -> None:
    """Raises: BadParams unless every name stands in the notebook's `parameters` cell."""
    known = parameter_names(source)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise BadParams(
            f"{source.name} has no parameter {', '.join(unknown)}", how=f"it has {', '.join(known)}"
        )


def parameter_names(source: Path) -> list[str]:
    """Names set in the cell tagged `parameters`, in order."""
    import ast

    cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    tree = ast.parse("".join(tagged[0]["source"]))
    return [node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)]


def _in_thread(
    source: Path,
    working: Path,
    parameters: dict[str, Any],
    errors: list[BaseException],
    tick: Callable[[], None],
) -> None:
    """Run papermill beside the main thread, which stays free to hear Ctrl-C and SIGTERM."""

    def run() -> None:
        try:
            _papermill(source, working, parameters)
        except BaseException as error:  # noqa: BLE001 - handed to the judge
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with _no_kernel_left():
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.2)
                tick()
        except BaseException:
            _interrupt_kernels()
            thread.join(GRACE_S)
            raise


def _papermill(source: Path, working: Path, parameters: dict[str, Any]) -> None:
    import logging

    import papermill
    from jupyter_client import AsyncKernelManager
    from traitlets import default

    class LocalKernel(AsyncKernelManager):
        """A kernel reached through files of this user, not through open ports."""

        transport = "ipc" if len(str(working)) < LONGEST_SOCKET else "tcp"

        @default("ip")
        def _place(self) -> str:
            return str(working.parent / "k") if self.transport == "ipc" else "127.0.0.1"

        async def start_kernel(self, **options: Any) -> None:
            # what a cell prints comes by message; this is the noise of a kernel that is interrupted
            await super().start_kernel(**options, stderr=subprocess.DEVNULL)

    logging.getLogger("papermill").setLevel(logging.ERROR)
    papermill.execute_notebook(
        str(source), str(working), parameters=parameters, kernel_name="python3",
        language="python",
        progress_bar=False, log_output=False, start_timeout=120,
        execution_timeout=CELL_LIMIT_S, cwd=str(source.parent),
        kernel_manager_class=LocalKernel,
        extra_arguments=["--IPKernelApp.log_level=50"],
    )  # fmt: skip


def _written(working: Path) -> str:
    """The notebook as far as it was executed; empty when it was ended before or amid writing it."""
    try:
        text = working.read_text(encoding="utf-8")
        json.loads(text)
    except (OSError, ValueError):
        return ""
    return text


def _judge(text: str, errors: list[BaseException]) -> tuple[str, str]:
    """The truth about an executed notebook, from its cells and from what was raised."""
    if errors:
        error = errors[0]
        died = type(error).__name__ == "DeadKernelError"
        return ("kernel died" if died else "failed"), _short(error)
    if not text:
        return "incomplete", "it was ended before its first cell ran"
    cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        status = cell["metadata"].get("papermill", {}).get("status")
        if status != "completed" or cell["execution_count"] is None:
            return "incomplete", f"code cell {number} did not run to its end ({status})"
    if END_MARK not in json.dumps(cells[-1]["outputs"]):
        return "incomplete", "the last cell did not print its end mark"
    return "ok", ""


def _short(error: BaseException) -> str:
    """What a person needs of papermill's error: name and value of what was raised."""
    name, value = getattr(error, "ename", None), getattr(error, "evalue", None)
    return f"{name}: {value}" if name else f"{type(error).__name__}: {error}".strip()


def _kernels() -> list[psutil.Process]:
    """Kernels that this process started and that still live."""
    kernels = []
    for child in psutil.Process().children():
        try:
            if "ipykernel_launcher" in " ".join(child.cmdline()):
                kernels.append(child)
        except psutil.Error:
            continue
    return kernels


def _interrupt_kernels() -> None:
    for kernel in _kernels():
        os.kill(kernel.pid, signal.SIGINT)


@contextmanager
def _no_kernel_left() -> Iterator[None]:
    """Whatever happens, kernels and their children are gone afterwards."""
    try:
        yield
    finally:
        for kernel in _kernels():
            for process in [*kernel.children(recursive=True), kernel]:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
