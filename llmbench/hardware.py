"""Data-sheet roofs with their source, and which machine this is. Without torch.

Nothing here names the host, its users, its addresses or its folders.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from llmbench.units import GB, GiB

CPU = Path("/sys/devices/system/cpu/cpu0")
CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
TFLOPS = 10**12

# Instruction sets whose presence changes which code runs; a virtual machine may hide some.
ISA = ("f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
       "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
       "asimddp", "i8mm", "bf16", "sve", "sve2")  # fmt: skip
ENGINE_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "bitsandbytes", "ollama",
                   "llama_cpp_python")  # fmt: skip
PACKAGES = (*ENGINE_PACKAGES, "llmbench")


@dataclass(frozen=True)
class Roofs:
    """The two roofs of a roofline. Source: Williams, Waterman, Patterson, CACM 52(4) 2009."""

    bytes_per_s: float
    flops_per_s: float
    source: str  # a data sheet, or how it was measured
    raw: dict[str, Any] = field(default_factory=dict)  # all values a measured roof is made of
    flops_by_dtype: dict[str, float] = field(default_factory=dict)  # empty: float32 alone is known

    def of_dtype(self, dtype: str) -> "Roofs | None":
        """The roofs of work in `dtype`; None when its compute roof is not known."""
        known = {"float32": self.flops_per_s} | self.flops_by_dtype
        return replace(self, flops_per_s=known[dtype]) if dtype in known else None


@dataclass(frozen=True)
class Device:
    """A GPU's data sheet: dense rates, sparsity excluded; bytes as the sheet's GB (10^9)."""

    name: str
    driver_names: tuple[str, ...]  # exactly as the driver reports them
    bytes_per_s: float
    memory_bytes: int  # what a driver reports may differ by some per cent
    flops_per_s: dict[str, float]  # by dtype; a dtype it cannot compute in is absent
    source: str

    def roofs(self, dtype: str) -> Roofs:
        """Its roofs for `dtype`. Raises: KeyError for a dtype the sheet does not give."""
        return Roofs(self.bytes_per_s, self.flops_per_s[dtype], self.source)


def _device(
    name: str, driver: tuple[str, ...], gb_per_s: float, gb: int, source: str, **tflops: float
) -> Device:
    flops = {dtype: rate * TFLOPS for dtype, rate in tflops.items()}
    return Device(name, driver, gb_per_s * GB, gb * GB, flops, source)


_HOPPER = {"float32": 67, "tf32": 494.7, "float16": 989.4, "bfloat16": 989.4,
           "int8": 1978.9, "float8": 1978.9}  # fmt: skip
_AMPERE = {"float32": 19.5, "tf32": 156, "float16": 312, "bfloat16": 312, "int8": 624}

DEVICES = (
    _device("T4", ("Tesla T4",), 320, 16, "NVIDIA T4 product brief PB-09256-001",
            float32=8.1, float16=65, int8=130),
    _device("P100", ("Tesla P100-PCIE-16GB",), 732, 16, "NVIDIA Tesla P100 PCIe data sheet",
            float32=9.3, float16=18.7),
    _device("A100 40GB", ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"), 1555, 40,
            "NVIDIA A100 data sheet (SXM4)", **_AMPERE),
    _device("A100 80GB", ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"), 2039, 80,
            "NVIDIA A100 data sheet (SXM4)", **_AMPERE),
    _device("L4", ("NVIDIA L4",), 300, 24, "NVIDIA L4 data sheet, sparse rates halved",
            float32=30.3, tf32=60, float16=121, bfloat16=121, int8=242.5, float8=242.5),
    _device("L40S", ("NVIDIA L40S",), 864, 48, "NVIDIA L40S data sheet, dense rates",
            float32=91.6, tf32=183, float16=362.05, bfloat16=362.05, int8=733, float8=733),
    _device("RTX 4090", ("NVIDIA GeForce RTX 4090",), 1008, 24,
            "NVIDIA Ada GPU architecture white paper, appendix A, float32 accumulation",
            float32=82.6, tf32=82.6, float16=165.2, bfloat16=165.2, int8=660.6, float8=330.3),
    _device("H100 SXM", ("NVIDIA H100 80GB HBM3",), 3350, 80,
            "NVIDIA H100 data sheet (SXM), sparse rates halved", **_HOPPER),
    _device("H200", ("NVIDIA H200",), 4800, 141,
            "NVIDIA H200 data sheet (SXM), sparse rates halved", **_HOPPER),
)  # fmt: skip


def find_device(name: str) -> Device | None:
    """The data sheet of a GPU by our name for it or the driver's; None when there is none here."""
    wanted = name.strip().lower()
    for device in DEVICES:
        if wanted in {n.lower() for n in (device.name, *device.driver_names)}:
            return device
    return None


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver reports it."""

    name: str
    memory_bytes: int
    driver: str
    compute_capability: str


@dataclass(frozen=True)
class Machine:
    """What results depend on, and nothing that identifies its owner. None: not readable here."""

    cpu_model: str
    isa: tuple[str, ...]
    physical_cores: int | None
    logical_cores: int
    cache_bytes: dict[str, int]  # one instance of each level: L1d, L2, L3
    memory_bytes: int
    cgroup_cpus: float | None  # CPUs' worth of time the control group may use; None: no limit
    cgroup_memory_bytes: int | None  # None: no limit
    cpu_mhz: float | None  # now
    cpu_governor: str | None
    os: str
    kernel: str
    gpus: tuple[Gpu, ...]
    gpu_reason: str | None  # why there is none
    python: str
    packages: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None  # a tracked file differs from the commit


def machine() -> Machine:
    """This machine, read now."""
    gpus, reason = _gpus()
    commit, dirty = _git()
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return Machine(
        cpu_model=_cpu_model(),
        isa=_isa(),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count() or 1,
        cache_bytes=_caches(),
        memory_bytes=psutil.virtual_memory().total,
        cgroup_cpus=cgroup_cpus(),
        cgroup_memory_bytes=cgroup_memory_bytes(),
        cpu_mhz=round(frequency.current, 1) if frequency and frequency.current else None,
        cpu_governor=_read(CPU / "cpufreq/scaling_governor"),
        os=_os(),
        kernel=(re.match(r"[0-9.]*[0-9]", platform.release()) or [""])[0],
        gpus=gpus,
        gpu_reason=reason,
        python=platform.python_version(),
        packages=package_versions(PACKAGES),
        git_commit=commit,
        git_dirty=dirty,
    )


def fingerprint(machine: Machine) -> str:
    """16 hex digits over what changes results; load, clocks and the git state are not in it."""
    gpus = [(g.name, round(g.memory_bytes / GiB), g.driver) for g in machine.gpus]
    versions = {n: v for n, v in machine.packages.items() if n in ENGINE_PACKAGES}
    parts = {
        "cpu": (machine.cpu_model, machine.isa, machine.physical_cores, machine.logical_cores),
        "limits": (machine.cgroup_cpus, machine.cgroup_memory_bytes),
        "memory_gib": round(machine.memory_bytes / GiB),
        "gpus": gpus,
        "os": (machine.os, machine.kernel.split(".")[0]),
        "python": machine.python.split(".")[:2],
        "packages": versions,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def environment(extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """The circumstances of a measurement, ready for JSON; `extra` adds or replaces keys.

    `roofs` is null until a caller that measured them passes them in `extra`.
    """
    here = machine()
    described = {
        "fingerprint": fingerprint(here),
        "machine": json.loads(json.dumps(asdict(here))),
        "load_average": load_average(),
        "roofs": None,
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return described | (extra or {})


def default_threads() -> int:
    """min(8, physical cores), and no more than this process may use."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return max(1, min(8, cores, usable_cpus()))


def usable_cpus() -> int:
    """Logical CPUs that this process may use at a time."""
    here = psutil.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else here
    share = cgroup_cpus()
    return max(1, allowed if share is None else min(allowed, int(share)))


def load_average() -> float | None:
    """Runnable processes averaged over the last minute; None where the system has no such count."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of those of `names` that are installed, without importing them."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def release(version: str) -> tuple[int, ...]:
    """'0.17.4-rc1' → (0, 17, 4); what is no number is older than all: ()."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def cgroup_dirs(controller: str) -> tuple[Path, ...]:
    """Folders of this process's control group for "cpu" or "memory", innermost first."""
    for line in (_read(PROC / "self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        base = CGROUP / controller if controller in controllers.split(",") else CGROUP
        if controllers and base == CGROUP:
            continue  # a group of another controller
        own = base / path.lstrip("/")
        folders = (own, *own.parents)
        found = tuple(f for f in folders if f.is_relative_to(base) and f.is_dir())
        if any((f / name).exists() for f in found for name in CONTROLLER_FILES[controller]):
            return found
    return ()


CONTROLLER_FILES = {
    "cpu": ("cpu.max", "cpu.cfs_quota_us"),
    "memory": ("memory.max", "memory.limit_in_bytes"),
}


def cgroup_cpus() -> float | None:
    """CPUs' worth of time this control group may use; None when it has no limit or none is seen."""
    limits = [_cpu_limit(folder) for folder in cgroup_dirs("cpu")]
    return min((limit for limit in limits if limit is not None), default=None)


def _cpu_limit(folder: Path) -> float | None:
    quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
    if not quota:
        quota = _read(folder / "cpu.cfs_quota_us") or ""
        period = _read(folder / "cpu.cfs_period_us") or ""
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def cgroup_memory_bytes() -> int | None:
    """Bytes this control group may use; None when it has no limit or none is seen."""
    texts = [
        _read(folder / name) or ""
        for folder in cgroup_dirs("memory")
        for name in CONTROLLER_FILES["memory"]
    ]
    limit = min((int(text) for text in texts if text.isdecimal()), default=None)
    return limit if limit is not None and limit < psutil.virtual_memory().total else None


def available_bytes() -> int:
    """Bytes that can be allocated without swapping: of the machine, or less in a control group."""
    free = psutil.virtual_memory().available
    for folder in cgroup_dirs("memory"):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            free = min(free, max(0, limit - used))
    return free


def _number(*paths: Path) -> int | None:
    return next((int(t) for t in map(_read, paths) if t and t.isdecimal()), None)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _cpuinfo(*keys: str) -> str | None:
    for line in (_read(PROC / "cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys and value.strip():
            return value.strip()
    return None


def _os() -> str:
    wsl = "microsoft" in platform.release().lower()
    return f"{platform.system()} (WSL)" if wsl else platform.system()


def _cpu_model() -> str:
    if platform.system() == "Darwin":
        return _run("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    named = _cpuinfo("model name", "Hardware", "CPU part") or platform.processor()
    return named or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Linux's names of what this CPU can do; empty where the system does not tell."""
    return frozenset((_cpuinfo("flags", "Features") or "").split())


def _isa() -> tuple[str, ...]:
    flags = cpu_flags()
    return tuple(name for name in ISA if name in flags)


def _caches() -> dict[str, int]:
    """Bytes of one cache of each level; empty where the kernel does not tell."""
    caches = {}
    for index in sorted(CPU.glob("cache/index*")):
        level, kind = _read(index / "level"), _read(index / "type")
        size = re.fullmatch(r"(\d+)([KM])", _read(index / "size") or "")
        if size and kind != "Instruction":
            name = f"L{level}d" if kind == "Data" else f"L{level}"
            caches[name] = int(size[1]) * {"K": 2**10, "M": 2**20}[size[2]]
    return caches


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """GPUs the driver reports, or none and the reason."""
    try:
        import pynvml
    except ImportError:
        return (), "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
        found = tuple(_gpu(pynvml, i) for i in range(pynvml.nvmlDeviceGetCount()))
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return (), f"no NVIDIA driver answers: {error}"
    return found, None if found else "the NVIDIA driver reports no GPU"


def _gpu(pynvml: Any, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        driver=_text(pynvml.nvmlSystemGetDriverVersion()),
        compute_capability=f"{major}.{minor}",
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _git() -> tuple[str | None, bool | None]:
    """Commit and whether tracked files differ, when this package runs from its own checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None, None
    commit = _run("git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None, None
    changed = _run("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return commit, None if changed is None else bool(changed)


def _run(*command: str) -> str | None:
    """What a short command prints; None when it is absent or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
