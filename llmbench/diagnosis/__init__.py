"""What this machine and its engines can do, and how to mend the rest. Imports no engine."""

import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil

from llmbench import hardware
from llmbench.diagnosis.cpu_engine import cpu_engine_finding
from llmbench.diagnosis.engines import engine_findings
from llmbench.diagnosis.finding import Finding
from llmbench.errors import BadParams, Missing
from llmbench.kept_roofs import keep
from llmbench.store import outputs_root
from llmbench.units import GiB, nbytes, per_second

LEAST_DISK = 5 * GiB
LEAST_MEMORY = 2 * GiB
BUSY = 0.5  # of the logical cores, by load average
REMOTE = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "gluster", "fuse", "drvfs", "vboxsf")

# What an install brings: (package, import name, least and newest tested version, what mends it).
PACKAGES = (
    ("numpy", "numpy", "2.1", "2.4", "pip install 'numpy>=2.1'"),
    ("pandas", "pandas", "2.2", "3", "pip install 'pandas>=2.2'"),
    ("torch", "torch", "2.6", "2.13", "pip install 'llmbench[transformers]'"),
    ("transformers", "transformers", "5", "5.23", "pip install 'llmbench[transformers]'"),
    ("bitsandbytes", "bitsandbytes", "0.49", "0.50", "pip install 'llmbench[bnb]'"),
    ("gguf", "gguf", "0.17", "0.19", "pip install 'llmbench[gguf]'"),
    ("huggingface_hub", "huggingface_hub", "1", "2.4", "pip install 'llmbench[hub]'"),
    ("ollama", "ollama", "0.6", "0.6", "pip install 'llmbench[ollama]'"),
    ("papermill", "papermill", "2.6", "2.7", "pip install 'llmbench[notebooks]'"),
    ("jupyterlab", "jupyterlab", "4", "4", "pip install 'llmbench[lab]'"),
    ("nvidia-ml-py", "pynvml", "12", "13", "pip install nvidia-ml-py"),
)
PROGRAMS = (
    ("CUDA compiler", ("nvcc",), "install the CUDA toolkit; without it only CPU kernels build"),
    ("LaTeX", ("latexmk", "pdflatex"), "apt install latexmk texlive-latex-extra"),
    ("browser", ("chromium", "chromium-browser", "google-chrome"), "apt install chromium"),
)


def doctor(probe: bool = False, outputs: Path | None = None) -> list[Finding]:
    """Everything that a run may need, looked at in well under a second.

    `probe` also measures the CPU's roofs anew, which takes some seconds and imports torch.
    """
    place = outputs or outputs_root()
    found = [_python(), _disk(place), _file_system(place), _memory(), *_cpu(), *_packages()]
    found += [*_gpus(), *_programs(), *engine_findings(), cpu_engine_finding()]
    found += [_ollama(), _ollama_server()]
    return [*found, _roofs()] if probe else found


def _python() -> Finding:
    version = platform.python_version_tuple()
    tested = (3, 11) <= (int(version[0]), int(version[1])) <= (3, 13)
    return Finding(
        "Python",
        "ok" if tested else "warning",
        ".".join(version),
        "" if tested else "use Python 3.11 to 3.13",
    )


def _existing(path: Path) -> Path:
    path = path.resolve()
    return next(p for p in (path, *path.parents) if p.exists())


def _disk(outputs: Path) -> Finding:
    free = shutil.disk_usage(_existing(outputs)).free
    if free >= LEAST_DISK:
        return Finding("disk", "ok", f"{nbytes(free)} free where outputs go")
    remedy = f"free at least {nbytes(LEAST_DISK)}, or give --outputs a folder elsewhere"
    return Finding("disk", "warning", f"only {nbytes(free)} free where outputs go", remedy)


def _file_system(outputs: Path) -> Finding:
    folder = _existing(outputs)
    mounts = [p for p in psutil.disk_partitions(all=True) if folder.is_relative_to(p.mountpoint)]
    if not mounts:
        return Finding("file system", "warning", "its kind cannot be read", "keep outputs local")
    kind = max(mounts, key=lambda p: len(p.mountpoint)).fstype
    if kind.lower().startswith(REMOTE):
        detail = f"{kind}: locks and durable appends are not to be trusted there"
        return Finding("file system", "warning", detail, "give --outputs a folder on a local disk")
    return Finding("file system", "ok", f"{kind}, local")


def _memory() -> Finding:
    from llmbench.profilers.memory import available_bytes

    free = available_bytes()
    detail = f"{nbytes(free)} available of {nbytes(psutil.virtual_memory().total)}"
    limit = hardware.cgroup_memory_bytes()
    detail += f"; the control group allows {nbytes(limit)}" if limit else ""
    if free >= LEAST_MEMORY:
        return Finding("memory", "ok", detail)
    return Finding("memory", "warning", detail, "close other programs, or choose smaller models")


def _cpu() -> Iterator[Finding]:
    logical, threads = psutil.cpu_count() or 1, hardware.default_threads()
    detail = f"{threads} used by default, of {logical} logical cores"
    asked = os.environ.get("OMP_NUM_THREADS")
    if asked and asked != str(threads):
        remedy = "unset OMP_NUM_THREADS, or set `threads` in the parameters to the same number"
        yield Finding("threads", "warning", f"{detail}; OMP_NUM_THREADS is {asked}", remedy)
    else:
        yield Finding("threads", "ok", detail)
    load = hardware.load_average()
    if load is None:
        yield Finding("load", "ok", "this system has no load average")
    elif load > BUSY * logical:
        remedy = "stop other programs: times taken beside them are flagged"
        yield Finding("load", "warning", f"{load:.2f} on {logical} logical cores", remedy)
    else:
        yield Finding("load", "ok", f"{load:.2f} on {logical} logical cores")


def _packages() -> Iterator[Finding]:
    for name, module, least, newest, remedy in PACKAGES:
        version = hardware.package_versions((name,)).get(name)
        if find_spec(module) is None:
            yield Finding(name, "missing", "not installed", remedy)
        elif version is None:
            yield Finding(name, "warning", "importable, but its version is not recorded", remedy)
        elif _number(version) < _number(least):
            yield Finding(name, "warning", f"{version}; needs {least} or newer", remedy)
        elif _number(version)[: len(_number(newest))] > _number(newest):
            yield Finding(name, "ok", f"{version}, newer than the tested {newest}")
        else:
            yield Finding(name, "ok", version)


def _number(version: str) -> tuple[int, ...]:
    """'2.13.0+cpu' → (2, 13, 0)."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def _gpus() -> Iterator[Finding]:
    here = hardware.machine()
    for gpu in here.gpus:
        sheet = hardware.find_device(gpu.name)
        roof = "" if sheet else "; no data sheet here, so no roof is drawn"
        detail = f"{gpu.name}, {nbytes(gpu.memory_bytes)}, driver {gpu.driver}{roof}"
        yield Finding("GPU", "ok", detail)
    if not here.gpus:
        remedy = "install the NVIDIA driver; without a GPU every study runs on the CPU"
        yield Finding("GPU", "missing", here.gpu_reason or "none", remedy)


def _programs() -> Iterator[Finding]:
    for subject, commands, remedy in PROGRAMS:
        command = next((c for c in commands if shutil.which(c)), None)
        if command:
            yield Finding(subject, "ok", command)
        else:
            yield Finding(subject, "missing", f"none of {', '.join(commands)} is found", remedy)


def _ollama() -> Finding:
    """The program that the engine starts for a run."""
    from llmbench.engines.ollama_server import find_binary

    try:
        return Finding("Ollama", "ok", str(find_binary()))
    except Missing as error:
        return Finding("Ollama", "missing", error.why or error.what, "make ollama")


def _ollama_server() -> Finding:
    """Ask the server of OLLAMA_HOST, or the usual one, for its version; never another machine."""
    from llmbench.engines.ollama_server import FLOOR, attach, host_from_environment, is_old

    named = host_from_environment()
    try:
        server = attach(named or "127.0.0.1", allow_remote="", timeout_s=0.5)
    except BadParams as error:
        remedy = "unset OLLAMA_HOST: llmbench measures a server on this machine"
        return Finding("Ollama server", "warning", error.what, remedy)
    except Missing as error:
        if named:
            return Finding("Ollama server", "warning", f"{error.what}, which OLLAMA_HOST names",
                           "start it, or unset OLLAMA_HOST")  # fmt: skip
        return Finding("Ollama server", "missing", "none answers; the engine starts its own",
                       "none is needed; ollama serve starts one that stays")  # fmt: skip
    if is_old(server.version):
        return Finding("Ollama server", "warning", f"version {server.version}; {FLOOR} or newer "
                       "is safe with foreign files", "make ollama")  # fmt: skip
    return Finding("Ollama server", "ok", f"version {server.version} at {server.address}")


def _roofs() -> Finding:
    from llmbench.profilers.probes import measure_roofs

    if find_spec("torch") is None:
        return Finding("roofs", "missing", "measuring them needs torch", "pip install torch")
    roofs = measure_roofs(hardware.default_threads())
    rates = {"float32": roofs.flops_per_s} | roofs.flops_by_dtype
    detail = f"{per_second(roofs.bytes_per_s, 'B')} read, " + ", ".join(
        f"{per_second(rate, 'FLOP')} in {dtype}" for dtype, rate in rates.items())  # fmt: skip
    why_not = keep(roofs, hardware.fingerprint(hardware.machine()))
    detail += f" ({roofs.source})"
    if why_not:
        return Finding("roofs", "warning", f"{detail}; not kept for runs: {why_not}",
                       "stop other programs and probe again")  # fmt: skip
    return Finding("roofs", "ok", f"{detail}; kept for the runs of the next hour")
