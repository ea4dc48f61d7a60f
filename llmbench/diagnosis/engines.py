"""Whether each engine can be used here, and what to do if not. Imports no engine."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from llmbench import hardware
from llmbench.diagnosis.finding import Finding
from llmbench.engines import MODULES
from llmbench.engines.ollama_server import FLOOR, find_binary, host_from_environment, is_old
from llmbench.errors import Missing
from llmbench.models import llamacpp_library
from llmbench.params import ENGINES

LIMIT_S = 20.0
BUILD = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"
WITHOUT_GGUF = {"edge": "GGUF files", "llamacpp": "model folders", "ollama": "model folders"}


def engine_findings() -> list[Finding]:
    """A finding an engine of the table, `fake` included."""
    return [_engine(name) for name in ENGINES]


def _engine(name: str) -> Finding:
    modules, remedy = MODULES[name]
    if lost := [module for module in modules if find_spec(module) is None]:
        return Finding(f"engine {name}", "missing", f"needs {', '.join(lost)}", remedy)
    try:
        detail = {"fake": _fake, "llamacpp": _llamacpp, "ollama": _ollama}.get(name, _torch)()
    except Missing as error:
        return Finding(f"engine {name}", "missing", error.what, error.how)
    if name in WITHOUT_GGUF and find_spec("gguf") is None:
        return Finding(f"engine {name}", "warning", f"{detail}; no {WITHOUT_GGUF[name]}, which "
                       "need gguf", "pip install 'llmbench[gguf]'")  # fmt: skip
    return Finding(f"engine {name}", "ok", detail)


def _fake() -> str:
    return "stands for no real engine"


def _torch() -> str:
    return f"torch {hardware.package_versions(('torch',)).get('torch', 'of unknown version')}"


def _llamacpp() -> str:
    """Version and features of the build, told by a process of its own: a wrong build crashes."""
    done = _told([sys.executable, "-c", BUILD])
    if done is None or done.returncode:
        last = done.stderr.strip().rpartition("\n")[2] if done else ""
        raise Missing(f"its library cannot be loaded here{f': {last}' if last else ''}",
                      how="make llamacpp builds it for this machine")  # fmt: skip
    features = " ".join(re.findall(r"(\w+) = 1", done.stdout))
    version = hardware.package_versions(("llama_cpp_python",)).get("llama_cpp_python", "")
    if version and llamacpp_library.is_old(version):
        raise Missing(f"llama-cpp-python is {version}; {llamacpp_library.FLOOR} or newer is safe "
                      "with foreign files", how="make llamacpp")  # fmt: skip
    return f"llama-cpp-python {version}, built with {features or 'no features of the CPU'}"


def _ollama() -> str:
    """Which server the engine will use. Raises: Missing when there is none, or too old a one."""
    client = hardware.package_versions(("ollama",)).get("ollama", "")
    if host := host_from_environment():
        return f"client {client}; the server of OLLAMA_HOST, {host}"
    program = find_binary()
    version = _program_version(program)
    if is_old(version):
        said = f"is version {version}" if version else "tells no version"
        raise Missing(f"{program} {said}; {FLOOR} or newer is safe with foreign files",
                      how="make ollama")  # fmt: skip
    return f"client {client}, server {version}, started for each run: {program}"


def _program_version(program: Path) -> str:
    """'0.17.4'; empty when it does not tell."""
    done = _told([str(program), "--version"], OLLAMA_HOST="127.0.0.1:1")
    found = re.search(r"\d+\.\d+\.\d+", f"{done.stdout}{done.stderr}" if done else "")
    return found[0] if found else ""


def _told(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess | None:
    """What a short command says; None when it cannot be run or does not end."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False,
                              env=os.environ | environment, stdin=subprocess.DEVNULL)  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
