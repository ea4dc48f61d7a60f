"""The child process: one engine, kept loaded, one turn at a time.

A fresh child is a process run. Whatever happens in it (out of memory, a crash, a hang) ends the
child and becomes an answer in the parent; the sweep goes on. Messages are JSON over a socket pair.
The child also ends by itself when its parent is gone, however that died.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from dataclasses import asdict
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import psutil

from llmbench.errors import (
    EngineLost,
    LlmbenchError,
    Missing,
    OutOfMemory,
    Refused,
    ServesSlowly,
    StudyFailed,
    Unsupported,
)
from llmbench.profilers.memory import family, oom_kills
from llmbench.profilers.tree_watch import ShareWatch, TreeWatch, watched
from llmbench.record import Point, Repeat

STATUS_OF = {OutOfMemory: "oom", MemoryError: "oom", Unsupported: "unsupported",
             Missing: "unsupported", Refused: "refused", EngineLost: "engine_lost"}  # fmt: skip
UNTIMED = 8  # tokens of the answer whose memory is looked at
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ChildLost(LlmbenchError):
    """The child is gone; `status` is what its repeat becomes."""

    def __init__(self, status: str, what: str) -> None:
        super().__init__(what)
        self.status = status


class Child:
    """The parent's handle of one child process."""

    def __init__(self, threads: int) -> None:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._oom_kills = oom_kills()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmbench.worker", str(theirs.fileno()), str(lifeline)],
            pass_fds=[theirs.fileno(), lifeline], stdin=subprocess.DEVNULL,
            stdout=self._stderr, stderr=self._stderr, env=environment, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        os.close(lifeline)
        self._channel = Connection(ours.detach())
        self._ps = psutil.Process(self.process.pid)
        self.servers: list[int] | None = []  # that work for it, told when the model is loaded
        self.holds: tuple[str, str] | None = None  # model and sha256 it was given, once it was

    def watch(self) -> TreeWatch | None:
        """A fresh watch over its memory and that of its servers; None when they cannot be seen."""
        return None if self.servers is None else TreeWatch([self.process.pid, *self.servers])

    def watch_shares(self) -> ShareWatch | None:
        """As `watch`, of the shares of memory: for what no clock times."""
        return None if self.servers is None else ShareWatch([self.process.pid, *self.servers])

    def ask(
        self, message: dict[str, Any], timeout_s: float, watch: TreeWatch | ShareWatch | None = None
    ) -> dict[str, Any]:
        """The child's answer; `watch` samples meanwhile.

        Raises: ChildLost when it dies or is silent for `timeout_s`.
        """
        if message["do"] == "load":
            self.holds = message["model"], message["sha256"]
        try:
            self._channel.send_bytes(json.dumps(message, allow_nan=False).encode())
        except OSError:  # it died amid a message
            raise self._lost() from None
        return self._answer(timeout_s, watch)

    def _answer(
        self, timeout_s: float, watch: TreeWatch | ShareWatch | None = None
    ) -> dict[str, Any]:
        try:
            if not watched(self._channel.poll, timeout_s, watch):
                self.kill()
                raise ChildLost("timeout", f"no answer within {timeout_s:g} s; killed")
            return json.loads(self._channel.recv_bytes())
        except (EOFError, OSError):
            raise self._lost() from None

    def wake(self, engine: str, options: dict[str, Any]) -> None:
        """Have the child import what `engine` needs with `options`, while others do the same."""
        message = {"do": "wake", "engine": engine, "options": options}
        self._channel.send_bytes(json.dumps(message).encode())

    def awake(self, timeout_s: float) -> None:
        """Wait for the answer to `wake`. Raises: ChildLost."""
        self._answer(timeout_s)

    def cpu_s(self) -> float:
        """CPU seconds used so far by the child and by those that work for it, while they live."""
        servers = [p for pid in self.servers or () for p in family(pid)]
        return sum(map(_cpu_s, {self._ps, *servers}))

    def kill(self) -> None:
        """End the child and everything in its process group."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._channel.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
        self._lifeline = -1

    def _lost(self) -> ChildLost:
        """Why the child is gone: its signal or exit code, on which bytes, and the last it said."""
        code = self.process.wait()
        self.kill()
        if code == -signal.SIGKILL and (oom_kills() or 0) > (self._oom_kills or 0):
            return ChildLost("oom", "killed by the kernel: the machine was out of memory")
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        if self.holds:
            how += f", with {self.holds[0]} (sha256 {self.holds[1][:12]})"
        return ChildLost("failed", f"the engine's process ended with {how}{self._last_words()}")

    def _last_words(self, size: int = 2000) -> str:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - size))
        words = self._stderr.read().decode(errors="replace").strip()
        return f"; it last said: {words}" if words else ""


def _cpu_s(process: psutil.Process) -> float:
    """CPU seconds of one process; 0 when it is gone."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


class Session:
    """The child's side: an engine and the answers to `load`, `probe` and `repeat`."""

    limit_bytes: int | None = None  # of address space, once a model is to be loaded
    trained: int | None = None  # tokens, of the model
    bare_bytes: int | None = None  # of this process, before an engine is imported

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Do what `message` asks; every failure becomes a status with its reason."""
        try:
            return getattr(self, f"do_{message.pop('do')}")(**message)
        except Exception as error:  # noqa: BLE001 - an answer to the parent
            traceback.print_exc()
            status = next((s for kind, s in STATUS_OF.items() if isinstance(error, kind)), "failed")
            text = (
                str(error)
                if isinstance(error, LlmbenchError)
                else f"{type(error).__name__}: {error}"
            )
            return {"status": status, "reason": text, "memory": {"limit_bytes": self.limit_bytes}}

    def do_wake(self, engine: str, options: dict[str, Any]) -> dict[str, Any]:
        """Import what `engine` needs with `options`: that is no part of the model's limit."""
        from llmbench.profilers.memory import alone_bytes

        self.bare_bytes = self.bare_bytes or alone_bytes([os.getpid()])
        from llmbench import engines

        self.engine = engines.create(engine)
        for module in self.engine.imports(options):
            import_module(module)
        return {"status": "ok"}

    def do_load(
        self,
        engine: str,
        model: str,
        sha256: str,
        options: dict[str, Any],
        memory_limit_bytes: int,
        window: int = 0,
    ) -> dict[str, Any]:
        """Load `model` in `engine` within the memory limit; what really serves.

        An engine that sets a window aside when it loads is told which will be asked of it.
        """
        from llmbench.engines.base import served_files
        from llmbench.models.source import find_model
        from llmbench.profilers.memory import (
            alone_bytes,
            available_bytes,
            limit_address_space,
            rss_bytes,
            tree_bytes,
        )

        self.do_wake(engine, options)
        source = find_model(model)
        self.trained = source.config.get("max_position_embeddings")
        if source.sha256 != sha256:
            raise StudyFailed(f"the weights of {model} changed since the plan was made")
        self.tokenizer = source.tokenizer
        if window and "window" in self.engine.capabilities:
            options["window"] = window
        if options.get("device") == "cpu":  # a GPU's driver maps far more than it uses
            self.limit_bytes = limit_address_space(memory_limit_bytes or available_bytes())
        before = rss_bytes()
        with warnings.catch_warnings(record=True) as told:
            served = self.engine.load(source, options)
        self.files = served_files(self.engine, source)
        tree = [os.getpid(), *self._servers()]
        after = tree_bytes(tree)
        self.memory = {
            "rss_before_load_bytes": before, "rss_after_load_bytes": after.rss,
            "bare_bytes": self.bare_bytes, "loaded_bytes": alone_bytes(tree),
            "loaded_pss_bytes": after.pss, "limit_bytes": self.limit_bytes,
        }  # fmt: skip
        return {
            "status": "ok", "served": served.model_dump(), "servers": self._servers(),
            "slowly": [str(word.message) for word in told if word.category is ServesSlowly],
        }  # fmt: skip

    def do_make(self, model: str, sha256: str, weights: str) -> dict[str, Any]:
        """Make the file of `model` in the format `weights`, unless it is here."""
        from llmbench.models.gguf_cache import gguf_of
        from llmbench.models.source import find_model

        source = find_model(model)
        if source.sha256 == sha256:
            gguf_of(source, weights)
        return {"status": "ok"}

    def do_read_probe(self, nbytes: int, threads: int) -> dict[str, Any]:
        """How fast memory is read now, over `nbytes`."""
        from llmbench.profilers.read_probe import read_bytes_per_s

        return {"status": "ok", "read_bytes_per_s": read_bytes_per_s(nbytes, threads)}

    def do_probe(self, threads: int) -> dict[str, Any]:
        """Measure this machine's roofs with `threads` threads."""
        from llmbench.profilers.probes import measure_roofs

        return {"status": "ok", "roofs": asdict(measure_roofs(threads))}

    def do_repeat(self, repeat: dict[str, Any], warmups: int) -> dict[str, Any]:
        """Warm up this shape, then time one repeat of it."""
        from llmbench.engines.base import told_by
        from llmbench.profilers.clock import MonotonicClock
        from llmbench.profilers.memory import peak_rss_bytes, reset_peak
        from llmbench.timing import time_repeat, warm_up
        from llmbench.workload import prompt_ids

        asked, clock = Repeat.model_validate(repeat), MonotonicClock()
        self._check_window(asked.point)
        tokens = asked.point.output_tokens
        other = asked.model_copy(update={"repeat": -1})  # a warm-up never sees a measured prompt
        warm = warm_up(self.engine, prompt_ids(other, self.tokenizer), tokens,
                       clock=clock, times=warmups)  # fmt: skip
        ids = prompt_ids(asked, self.tokenizer)
        reset = reset_peak()
        raw, witness = time_repeat(self.engine, ids, tokens, clock=clock, warmup_s=warm)
        peak = peak_rss_bytes() if reset else None
        told, servers = told_by(self.engine), self._servers()
        views = {} if servers is None else {"rss_peak_bytes": peak} | tree_views(servers)
        return {"status": "ok", "raw": raw.model_dump(), "witness": witness.model_dump(),
                "flags": [*told.flags, *self._beyond(asked.point)], "reason": told.reason or None,
                "memory": self.memory | views}  # fmt: skip

    def do_audit(self, repeat: dict[str, Any]) -> dict[str, Any]:
        """The likeliest tokens after fixed prefixes, and the time of a prompt given twice."""
        from llmbench.audits import audited
        from llmbench.profilers.clock import MonotonicClock

        asked = Repeat.model_validate(repeat)
        told = audited(self.engine, self.tokenizer, asked, clock=MonotonicClock(),
                       trained=self.trained)  # fmt: skip
        return {"status": "ok", "audit": told.model_dump()}

    def do_answer(self, repeat: dict[str, Any]) -> dict[str, Any]:
        """A few tokens after a prompt of this shape, timed by nobody: its memory is looked at."""
        from llmbench.workload import prompt_ids

        asked = Repeat.model_validate(repeat).model_copy(update={"repeat": -5, "block": 0})
        tokens = min(UNTIMED, asked.point.output_tokens)
        for _ in self.engine.stream(prompt_ids(asked, self.tokenizer), tokens):
            pass
        return {"status": "ok"}

    def _servers(self) -> list[int] | None:
        """The processes beside this one that hold the model; None when they cannot be seen.

        Then this process's own memory is not told either: it would be taken for the model's.
        """
        return (self.engine.pids() or None) if "server" in self.engine.capabilities else []

    def do_release(self) -> dict[str, Any]:
        """Release the model; what these processes and the page cache hold then."""
        from llmbench.profilers.release import held_after

        servers = self._servers() or []
        self.engine.close()
        self.engine = None
        return {"status": "ok", "released": held_after([os.getpid(), *servers], self.files)}

    def _beyond(self, point: Point) -> list[str]:
        """The label of a point longer than the model was trained for: it tells costs only."""
        tokens = point.prompt_tokens + point.output_tokens
        return ["beyond_context"] if self.trained and tokens > self.trained else []

    def _check_window(self, point: Point) -> None:
        """Raises: Refused when the window is more than was trained, unasked, or too small."""
        window, tokens = point.window, point.prompt_tokens + point.output_tokens
        if window and self.trained and window > self.trained and not point.beyond_trained:
            raise Refused(f"a window of {window} tokens; the model was trained to {self.trained}",
                          how="beyond_trained: true, for its cost only")  # fmt: skip
        if window and tokens > window:
            raise Refused(f"{tokens} tokens of prompt and answer in a window of {window}",
                          how="fewer answer_tokens")  # fmt: skip


def tree_views(servers: list[int]) -> dict[str, int | None]:
    """Fields of a record's memory: of this process and of `servers`, now."""
    from llmbench.profilers.memory import tree_bytes

    tree = tree_bytes([os.getpid(), *servers])
    return {"tree_rss_bytes": tree.rss, "tree_pss_bytes": tree.pss, "tree_uss_bytes": tree.uss}


def main() -> None:
    """Answer messages until the parent closes the channel."""
    channel, lifeline = Connection(int(sys.argv[1])), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    session = Session()
    while True:
        try:
            message = json.loads(channel.recv_bytes())
        except (EOFError, ConnectionError):
            return
        channel.send_bytes(json.dumps(session.answer(message), allow_nan=False).encode())


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)  # returns only when the parent's end is closed
    os._exit(75)


if __name__ == "__main__":
    main()
