"""An Ollama server: one of our own for as long as we run, or one that is there already."""

import http.client
import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO
from urllib.parse import urlsplit

import psutil

from llmbench.errors import BadParams, Missing, Unsupported
from llmbench.hardware import release
from llmbench.models.shapes import cache_folder

FLOOR = "0.17.1"  # Source: CVE-2026-7482, a GGUF file that leaks the server's memory
START_LIMIT_S = 60.0
PORT = 11434
LISTENING = re.compile(r"Listening on 127\.0\.0\.1:(\d+)")
FEATURES = re.compile(r"\b(?:CPU|CUDA)\.0\.[^\n]*")
FLASH = re.compile(r"(?:Flash Attention was auto, set to |flash_attn +?= )(enabled|disabled)")
KEPT = ("PATH", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")  # of our environment


def home_folder() -> Path:
    """Where our server's program, models and log are."""
    return cache_folder() / "ollama"


def find_binary() -> Path:
    """LLMBENCH_OLLAMA, else `ollama` on the PATH, else that of `make ollama`. Raises: Missing."""
    named = os.environ.get("LLMBENCH_OLLAMA")
    found = [named] if named else [shutil.which("ollama"), home_folder() / "bin" / "ollama"]
    for path in found:
        if path and os.access(path, os.X_OK) and Path(path).is_file():
            return Path(path)
    raise Missing(
        f"engine ollama: no program ollama at {named}" if named else "engine ollama: no server",
        why="" if named else "there is none on the PATH and none in llmbench's cache",
        how="make ollama, or see https://ollama.com/download",
    )


@dataclass
class Server:
    """A server that answers. `close` ends it when it is ours."""

    host: str  # name or address
    port: int
    version: str
    pid: int | None  # None: not known, because it is another user's or on another machine
    log: BinaryIO | None = None  # of our own server; without a name, so that it ends with us
    models: Path | None = None  # of our own server
    end: Callable[[], None] = field(default=lambda: None)

    @property
    def address(self) -> str:
        """What people and clients call it."""
        return f"http://{self.host}:{self.port}"

    @property
    def build(self) -> str | None:
        """What its log says of the CPU or GPU features of the build; None while it does not."""
        return self._last(FEATURES)

    @property
    def attention_impl(self) -> str | None:
        """Which attention its log tells of, "flash" or "plain"; None while it does not."""
        return {"enabled": "flash", "disabled": "plain", None: None}[self._last(FLASH)]

    def _last(self, pattern: re.Pattern) -> str | None:
        found = pattern.findall(self.log_text())
        return found[-1].strip() if found else None

    def log_text(self, size: int = 1 << 20) -> str:
        """The last `size` bytes of its log; empty for a server that is not ours."""
        if not self.log or self.log.closed:
            return ""
        fd = self.log.fileno()
        end = os.fstat(fd).st_size
        return os.pread(fd, size, max(0, end - size)).decode(errors="replace")

    def last_words(self, count: int = 4) -> str:
        """The last lines of its log, those left out that only say who asked what."""
        lines = [line for line in self.log_text(1 << 14).splitlines() if line.strip()]
        return "\n".join([line for line in lines if not line.startswith("[GIN]")][-count:])

    def pids(self) -> list[int]:
        """Its process and all below it, as far as they can be seen."""
        try:
            process = psutil.Process(self.pid) if self.pid else None
            return [process.pid, *(p.pid for p in process.children(True))] if process else []
        except psutil.Error:
            return []

    def close(self) -> None:
        """End our own server with its children; leave another's alone."""
        self.end()
        if self.log:
            self.log.close()


def open_server(host: str, *, allow_remote: str, allow_old: bool, tuning: dict[str, str]) -> Server:
    """The server at `host`, or one of our own when that is empty; `tuning` is the latter's.

    Raises: Missing without a server, Unsupported when it is too old, BadParams for a bad host.
    """
    server = attach(host, allow_remote) if host else start(tuning)
    if is_old(server.version) and not allow_old:
        server.close()
        raise Unsupported(
            f"engine ollama: the server is version {server.version}",
            why=f"before {FLOOR} a crafted model file reads the server's memory",
            how="make ollama; or allow_old: true, which is recorded",
        )
    return server


def is_old(version: str) -> bool:
    """Whether it is below the floor; a version that is no number is."""
    return release(version) < release(FLOOR)


def attach(host: str, allow_remote: str, timeout_s: float = 10.0) -> Server:
    """The server that answers at `host`; it is never stopped. Raises: Missing, BadParams."""
    name, port = parse_host(host)
    if not is_loopback(name) and name != allow_remote:
        raise BadParams(
            f"engine ollama: {name} is not this machine",
            why="its time would hold the network's, and anybody may read what is sent",
            how=f"unset OLLAMA_HOST, or allow it by name: allow_remote: {name}",
        )
    pid = _listening(port) if is_loopback(name) else None
    return Server(name, port, _version(name, port, timeout_s), pid)


def start(tuning: dict[str, str]) -> Server:
    """A server of our own on a free loopback port, with its own models folder.

    It ends with `close`, and also when this process dies in any way. Raises: Missing.
    """
    binary, home = find_binary(), home_folder()
    home.mkdir(parents=True, exist_ok=True)
    log = TemporaryFile(dir=home)  # noqa: SIM115 - the server's, closed with it
    launcher, pid, end = _launch([str(binary), "serve"], _environment(home, tuning), log)
    server = Server("127.0.0.1", 0, "", pid, log, home / "models", end)
    try:
        server.port = _await_port(server, launcher)
        server.version = _version(server.host, server.port, START_LIMIT_S)
    except BaseException:
        server.close()
        raise
    return server


def host_from_environment() -> str:
    """The server that OLLAMA_HOST names; empty when it names none."""
    return os.environ.get("OLLAMA_HOST", "").strip()


def parse_host(host: str) -> tuple[str, int]:
    """Name and port of 'http://name:port', 'name:port' or 'name'. Raises: BadParams."""
    parts = urlsplit("//" + host.removeprefix("http://").rstrip("/"))
    try:
        name, port = parts.hostname, PORT if parts.port is None else parts.port
    except ValueError:  # a port that is none
        name, port = None, 0
    if not name or parts.path or parts.username:
        raise BadParams(f"engine ollama: host {host!r} is not name:port", how="127.0.0.1:11434")
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name), port


def is_loopback(name: str) -> bool:
    """Whether a host's name means this machine, without asking any resolver."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _launch(
    command: list[str], environment: dict[str, str], log: BinaryIO
) -> tuple[subprocess.Popen, int, Callable[[], None]]:
    """`command` behind a lifeline that we hold: its launcher, its pid, and what ends it."""
    lifeline, ours = os.pipe()
    script = Path(__file__).with_name("lifeline.py")
    launcher = subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), str(lifeline), *command], env=environment,
        pass_fds=[lifeline], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
        start_new_session=True,
    )  # fmt: skip
    os.close(lifeline)
    held = [ours]

    def end() -> None:
        for fd in held:
            os.close(fd)
        held.clear()
        launcher.wait()

    told = launcher.stdout.readline()
    launcher.stdout.close()
    return launcher, int(told or 0), end


def _environment(home: Path, tuning: dict[str, str]) -> dict[str, str]:
    """All that the server gets to see: none of our secrets, and no user's settings."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    threads = {k: v for k, v in os.environ.items() if k.startswith("OMP_")}
    return kept | threads | {
        "HOME": str(home), "OLLAMA_HOST": "127.0.0.1:0", "OLLAMA_MODELS": str(home / "models"),
        "OLLAMA_NO_CLOUD": "1", "OLLAMA_NUM_PARALLEL": "1", "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_NOHISTORY": "1", "OLLAMA_NOPRUNE": "1", "OLLAMA_KEEP_ALIVE": "-1",
    } | tuning  # fmt: skip


def _await_port(server: Server, launcher: subprocess.Popen) -> int:
    """The port that our server chose, as its log tells. Raises: Missing."""
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        if found := LISTENING.search(server.log_text()):
            return int(found[1])
        if launcher.poll() is not None:
            break
        time.sleep(0.01)
    raise Missing(
        "engine ollama: the server did not start",
        why=server.last_words() or "it said nothing",
        how="make ollama; `llmbench doctor` says which program is used",
    )


def _version(host: str, port: int, timeout_s: float) -> str:
    """What the server calls its version. Raises: Missing when nobody answers as Ollama does."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/api/version")
        return str(json.loads(connection.getresponse().read(1000))["version"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise Missing(
            f"engine ollama: no Ollama server answers at {host}:{port}",
            why=str(error) or type(error).__name__,
            how=f"OLLAMA_HOST={host}:{port} ollama serve; or unset OLLAMA_HOST, and llmbench "
            "starts one for the run",
        ) from None
    finally:
        connection.close()


def _listening(port: int) -> int | None:
    """The process that listens on a loopback port; None when this user cannot see it."""
    try:
        found = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return None
    return next((c.pid for c in found
                 if c.status == psutil.CONN_LISTEN and c.laddr.port == port), None)  # fmt: skip
