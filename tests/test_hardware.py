"""Which machine this is: what is told, what changes the fingerprint, and what is never told."""

import getpass
import json
import socket
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmbench import hardware
from llmbench.hardware import Gpu, Machine, Roofs, environment, find_device, fingerprint, machine
from llmbench.units import GB, GiB


@pytest.fixture(scope="module")
def here() -> Machine:
    return machine()


def test_roofs_of_a_sheet_are_those_of_the_dtype() -> None:
    t4 = find_device("Tesla T4")
    assert t4.roofs("float16") == Roofs(320 * GB, 65e12, t4.source)
    with pytest.raises(KeyError):
        t4.roofs("bfloat16")  # Turing has none
    assert find_device("nvidia h200").memory_bytes == 141 * GB
    assert find_device("NVIDIA H100 PCIe") is None  # another clock and another memory


@pytest.mark.parametrize("device", hardware.DEVICES, ids=lambda d: d.name)
def test_every_sheet_is_plausible_and_named(device: hardware.Device) -> None:
    assert device.source.startswith("NVIDIA")
    assert 0.1e12 < device.bytes_per_s < 10e12
    assert device.flops_per_s["float16"] >= 2 * device.flops_per_s["float32"]
    assert {"float32", "float16"} <= set(device.flops_per_s)


def test_sheets_of_one_name_are_one() -> None:
    names = [n.lower() for d in hardware.DEVICES for n in (d.name, *d.driver_names)]
    assert len(names) == len(set(names))


def test_this_machine_is_described(here: Machine) -> None:
    assert here.cpu_model
    assert here.logical_cores >= 1
    assert here.memory_bytes > 100 * 2**20
    assert bool(here.gpus) != bool(here.gpu_reason)
    assert "numpy" in here.packages


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {"cpu_model": "another"},
        lambda m: {"physical_cores": 97},
        lambda m: {"memory_bytes": m.memory_bytes + 2 * GiB},
        lambda m: {"packages": m.packages | {"torch": "0.0"}},
        lambda m: {"packages": m.packages | {"llama_cpp_python": "0.0"}},
        lambda m: {"gpus": (Gpu("Tesla T4", 15 * GiB, "550", "7.5"),)},
        lambda m: {"kernel": "2.4.20"},
        lambda m: {"cgroup_cpus": 1.5},
    ],
)
def test_what_changes_results_changes_the_fingerprint(here: Machine, change: Callable) -> None:
    assert fingerprint(replace(here, **change(here))) != fingerprint(here)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {"cpu_mhz": 1.0},
        lambda m: {"memory_bytes": m.memory_bytes ^ 1},
        lambda m: {"git_commit": "0" * 40, "git_dirty": True},
        lambda m: {"packages": m.packages | {"llmbench": "9.9"}},
        lambda m: {"kernel": m.kernel + ".1"},
    ],
)
def test_what_does_not_change_results_leaves_it(here: Machine, change: Callable) -> None:
    assert fingerprint(replace(here, **change(here))) == fingerprint(here)


def test_fingerprint_is_sixteen_hex_digits_and_stable(here: Machine) -> None:
    assert len(fingerprint(here)) == 16
    int(fingerprint(here), 16)
    assert fingerprint(machine()) == fingerprint(here)


def test_environment_is_json_and_extra_wins() -> None:
    roofs = {"bytes_per_s": 1.0, "flops_per_s": 2.0, "source": "measured", "raw": {}}
    described = environment({"roofs": roofs, "more": 1})
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["roofs"] == roofs
    assert described["more"] == 1
    assert environment()["roofs"] is None
    assert described["fingerprint"] == fingerprint(machine())


def test_nobody_is_identified() -> None:
    values = [v for v in _leaves(environment()) if isinstance(v, str)]
    for value in values:
        assert not value.startswith(("/", "\\")), value
        assert str(Path.home()) not in value
        assert str(Path(__file__).parents[1]) not in value
        assert value not in (socket.gethostname(), getpass.getuser())


def _leaves(value: object) -> list:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


@pytest.mark.parametrize(
    ("physical", "logical", "share", "threads"),
    [(64, 128, None, 8), (4, 8, None, 4), (None, 6, None, 6), (None, None, None, 1),
     (16, 32, 2.5, 2), (16, 32, 0.5, 1)],
)  # fmt: skip
def test_default_threads(
    monkeypatch: pytest.MonkeyPatch,
    physical: int | None,
    logical: int | None,
    share: float | None,
    threads: int,
) -> None:
    count = {True: logical, False: physical}
    monkeypatch.setattr(hardware.psutil, "cpu_count", lambda logical=True: count[logical])
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: range(256), raising=False)
    monkeypatch.setattr(hardware, "cgroup_cpus", lambda: share)
    assert hardware.default_threads() == threads


def test_default_threads_keeps_to_the_cpus_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.psutil, "cpu_count", lambda logical=True: 16)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: {5, 7}, raising=False)
    monkeypatch.setattr(hardware, "cgroup_cpus", lambda: None)
    assert hardware.default_threads() == 2


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict], None]:
    """Makes /proc/self/cgroup and files below the control group's folder."""
    monkeypatch.setattr(hardware, "PROC", tmp_path / "proc")
    monkeypatch.setattr(hardware, "CGROUP", tmp_path / "cgroup")

    def write(own: str, files: dict[str, str]) -> None:
        for path, text in {"proc/self/cgroup": own, **files}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)

    return write


def test_limits_of_a_second_version_group_are_the_tightest_of_its_parents(groups: Callable) -> None:
    groups("0::/a/b\n", {
        "cgroup/a/b/cpu.max": "max 100000\n", "cgroup/a/cpu.max": "150000 100000\n",
        "cgroup/a/b/memory.max": f"{2**30}\n", "cgroup/a/memory.max": f"{2**29}\n",
    })  # fmt: skip
    assert hardware.cgroup_cpus() == 1.5
    assert hardware.cgroup_memory_bytes() == 2**29


def test_limits_of_a_first_version_group(groups: Callable) -> None:
    groups("4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n", {
        "cgroup/cpu/x/cpu.cfs_quota_us": "200000\n", "cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
        "cgroup/memory/x/memory.limit_in_bytes": f"{2**28}\n",
    })  # fmt: skip
    assert hardware.cgroup_cpus() == 2
    assert hardware.cgroup_memory_bytes() == 2**28


def test_no_limit_is_none(groups: Callable) -> None:
    unlimited = "9223372036854771712\n"
    groups("4:memory:/\n", {"cgroup/memory/memory.limit_in_bytes": unlimited})
    assert hardware.cgroup_memory_bytes() is None
    assert hardware.cgroup_cpus() is None


def test_gpus_are_read_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetName=lambda h: b"Tesla T4",
        nvmlDeviceGetMemoryInfo=lambda h: types.SimpleNamespace(total=15 * GiB),
        nvmlSystemGetDriverVersion=lambda: "550.54",
        nvmlDeviceGetCudaComputeCapability=lambda h: (7, 5),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert machine().gpus == (Gpu("Tesla T4", 15 * GiB, "550.54", "7.5"),)
    assert machine().gpu_reason is None

    def no_driver() -> None:
        raise RuntimeError("NVML Shared Library Not Found")

    nvml.nvmlInit = no_driver
    assert machine().gpus == ()
    assert "NVML Shared Library Not Found" in machine().gpu_reason
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "not installed" in machine().gpu_reason
