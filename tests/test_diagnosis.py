"""The doctor: every trouble has a remedy, and looking is cheap."""

import http.server
import re
import subprocess
import sys
import threading
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmbench import diagnosis
from llmbench.diagnosis import Finding, doctor, engines
from llmbench.diagnosis.cpu_engine import cpu_engine_finding
from llmbench.diagnosis.engines import engine_findings
from llmbench.engines import create, ollama_server
from llmbench.hardware import default_threads
from llmbench.kernels import recipe
from llmbench.kernels.build import cpu_build
from llmbench.params import ENGINES
from llmbench.units import GiB


def finding(subject: str, **arguments: object) -> Finding:
    return next(f for f in doctor(**arguments) if f.subject == subject)


def test_every_trouble_has_a_remedy_and_every_subject_stands_once() -> None:
    found = doctor()
    assert all(f.remedy for f in found if f.state != "ok")
    assert len({f.subject for f in found}) == len([f for f in found if f.subject != "GPU"]) + 1
    expected = {"Python", "disk", "memory", "threads", "load", "file system", "torch", "GPU",
                "transformers", "bitsandbytes", "Ollama", "Ollama server", "edge, impl cpu",
                "LaTeX", "browser", "jupyterlab"}  # fmt: skip
    assert expected <= {f.subject for f in found}


def test_every_engine_stands_once_and_needs_what_it_imports() -> None:
    found = {f.subject: f for f in engine_findings()}
    assert list(found) == [f"engine {name}" for name in ENGINES]
    for name in ENGINES:
        heavy = {module.partition(".")[0] for module in create(name).imports({"impl": "reference"})}
        assert heavy <= set(engines.MODULES[name][0])


@pytest.mark.parametrize(
    ("lost", "engine", "state", "remedy"),
    [("torch", "edge", "missing", "pip install 'llmbench[transformers]'"),
     ("transformers", "transformers", "missing", "pip install 'llmbench[transformers]'"),
     ("ollama", "ollama", "missing", "pip install 'llmbench[ollama]'"),
     ("llama_cpp", "llamacpp", "missing", "make llamacpp"),
     ("gguf", "edge", "warning", "pip install 'llmbench[gguf]'")],
)  # fmt: skip
def test_what_an_engine_lacks_is_mended_by_a_command(
    monkeypatch: pytest.MonkeyPatch, lost: str, engine: str, state: str, remedy: str
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == lost else True)
    found = next(f for f in engine_findings() if f.subject == f"engine {engine}")
    assert (found.state, found.remedy) == (state, remedy)
    assert lost in found.detail


def test_every_remedy_names_an_extra_that_is_there() -> None:
    root = Path(__file__).parents[1]
    extras = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    sources = (path.read_text("utf-8") for path in (root / "llmbench").rglob("*.py"))
    named = {name for text in sources for name in re.findall(r"'llmbench\[(\w+)\]'", text)}
    assert named and named <= set(extras)


def test_a_llama_cpp_that_crashes_is_missing_and_takes_nobody_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: True)
    monkeypatch.setattr(engines, "BUILD", "import os; os.kill(os.getpid(), 4)")
    found = engines._engine("llamacpp")
    assert (found.state, "cannot be loaded" in found.detail) == ("missing", True)
    said = "print('CPU : AVX2 = 1 | AMX_INT8 = 0 | OPENMP = 1 | ')"
    monkeypatch.setattr(engines, "BUILD", said)
    assert engines._engine("llamacpp").detail.endswith("built with AVX2 OPENMP")


@pytest.mark.parametrize(("version", "state"), [("0.3.16", "missing"), ("0.3.17", "ok")])
def test_a_llama_cpp_with_a_known_hole_is_missing(
    monkeypatch: pytest.MonkeyPatch, version: str, state: str
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: True)
    monkeypatch.setattr(engines, "BUILD", "print('CPU : AVX2 = 1')")
    monkeypatch.setattr(engines.hardware, "package_versions", lambda names: {names[0]: version})
    found = engines._engine("llamacpp")
    assert (found.state, f"llama-cpp-python is {version}" in found.detail) == (
        state, state == "missing")  # fmt: skip


@pytest.mark.parametrize(
    ("said", "state", "detail"),
    [("Warning: client version is 0.17.4", "ok", "server 0.17.4"),
     ("ollama version is 0.17.0", "missing", "is version 0.17.0; 0.17.1"),
     ("no such luck", "missing", "tells no version")],
)  # fmt: skip
def test_the_ollama_engine_tells_the_server_it_will_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, state: str, detail: str
) -> None:
    program = tmp_path / "ollama"
    program.write_text(f"#!/bin/sh\necho {said}\n")
    program.chmod(0o755)
    monkeypatch.setenv("LLMBENCH_OLLAMA", str(program))
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setattr(engines, "find_spec", lambda name: True)
    found = engines._engine("ollama")
    assert (found.state, detail in found.detail) == (state, True)


def test_the_cpu_engine_is_told_with_its_compiler_its_instructions_and_whether_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "api.cpp").write_text('extern "C" int answer() { return 42; }')
    program = tmp_path / "c++"
    program.write_text(
        '#!/bin/sh\necho "c++ 9.9"\n[ "$1" = --version ] && exit\n'
        'for last; do :; done\n: >"$last"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(recipe, "source_folder", lambda: tmp_path)
    monkeypatch.setattr(recipe, "instruction_sets", lambda: ("scalar", "avx2"))
    found = cpu_engine_finding()
    assert (found.state, found.detail) == (
        "ok", "c++ 9.9; impl cpu for scalar, avx2, built when first used")  # fmt: skip
    cpu_build()
    assert cpu_engine_finding().detail.endswith("s and kept")
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = cpu_engine_finding()
    assert (found.state, "no-such-compiler" in found.detail) == ("missing", True)
    assert "apt-get install g++" in found.remedy


def test_looking_imports_no_engine() -> None:
    code = (
        "import sys; from llmbench.diagnosis import doctor; doctor()\n"
        "print([m for m in ('torch', 'transformers', 'bitsandbytes') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_missing_package_is_mended_by_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: None)
    found = finding("transformers")
    assert (found.state, found.remedy) == ("missing", "pip install 'llmbench[transformers]'")


@pytest.mark.parametrize(
    ("version", "state", "detail"),
    [("2.5.1", "warning", "needs 2.6 or newer"), ("2.6.0+cpu", "ok", "2.6.0+cpu"),
     ("2.13.0", "ok", "2.13.0"), ("2.13.9", "ok", "2.13.9"), ("2.14.0", "ok", "newer than")],
)  # fmt: skip
def test_versions_are_held_against_the_tested_set(
    monkeypatch: pytest.MonkeyPatch, version: str, state: str, detail: str
) -> None:
    monkeypatch.setattr(diagnosis.hardware, "package_versions", lambda n: {n[0]: version})
    found = finding("torch")
    assert found.state == state
    assert detail in found.detail
    assert ("newer" in found.detail) == (detail.startswith(("newer", "needs")))


@pytest.mark.parametrize(
    ("kind", "state"),
    [("ext4", "ok"), ("overlay", "ok"), ("nfs4", "warning"), ("fuse.sshfs", "warning"),
     ("9p", "warning"), ("cifs", "warning")],
)  # fmt: skip
def test_outputs_on_a_remote_file_system_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, state: str
) -> None:
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4"),
              SimpleNamespace(mountpoint=str(tmp_path), fstype=kind)]  # fmt: skip
    monkeypatch.setattr(diagnosis.psutil, "disk_partitions", lambda all: mounts)
    found = finding("file system", outputs=tmp_path / "not" / "yet" / "made")
    assert found.state == state
    assert kind in found.detail


def test_a_full_disk_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=5 * GiB - 1)
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda path: usage)
    assert finding("disk").state == "warning"
    usage.free = 5 * GiB
    assert finding("disk").state == "ok"


def test_a_busy_machine_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.psutil, "cpu_count", lambda logical=True: 4)
    for load, state in ((1.9, "ok"), (2.1, "warning"), (None, "ok")):
        monkeypatch.setattr(diagnosis.hardware, "load_average", lambda load=load: load)
        assert finding("load").state == state


def test_threads_told_elsewhere_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.hardware, "default_threads", lambda: 4)
    for asked, state in ((None, "ok"), ("4", "ok"), ("1", "warning")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if asked:
            monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert finding("threads").state == state


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with a fixed text."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.text)

    def log_message(self, *args: object) -> None: ...


@pytest.mark.parametrize(
    ("text", "state"),
    [(b'{"version": "0.33.2"}', "ok"), (b'{"version": "0.17.0"}', "warning"), (b"hello", "warning"),
     (b"[]", "warning")],
)  # fmt: skip
def test_an_ollama_server_is_known_by_its_version(
    monkeypatch: pytest.MonkeyPatch, text: bytes, state: str
) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        server.text = text
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.server_port}")
        found = diagnosis._ollama_server()
    assert found.state == state
    assert ("0.33.2" in found.detail) == (state == "ok")


def test_another_host_is_never_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://example.org:11434")
    monkeypatch.setattr(ollama_server.http.client, "HTTPConnection", None)
    assert diagnosis._ollama_server().state == "warning"


def test_an_ollama_program_is_found_where_the_engine_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMBENCH_OLLAMA", str(tmp_path / "ollama"))
    assert (finding("Ollama").state, finding("Ollama").remedy) == ("missing", "make ollama")
    (tmp_path / "ollama").touch(mode=0o755)
    assert (finding("Ollama").state, finding("Ollama").detail) == ("ok", str(tmp_path / "ollama"))


def test_probing_adds_the_roofs_and_keeps_those_of_a_quiet_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmbench.hardware import Roofs, fingerprint, machine
    from llmbench.kept_roofs import kept
    from llmbench.profilers import probes

    busy = iter((0.5, 0.0))

    def measured(threads: int) -> Roofs:
        raw = {"threads": threads, "others_busy_share": next(busy),
               "taken_at": datetime.now(UTC).isoformat()}  # fmt: skip
        return Roofs(4e10, 1e11, "measured", raw, {"float32": 1e11, "bfloat16": 3e11})

    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(probes, "measure_roofs", measured)
    told, here = finding("roofs", probe=True), fingerprint(machine())
    assert (told.state, "50 % of the CPU" in told.detail) == ("warning", True)
    assert kept(here, default_threads()) is None
    told = finding("roofs", probe=True)
    assert "40.0 GB/s read, 100 GFLOP/s in float32, 300 GFLOP/s in bfloat16" in told.detail
    assert (told.state, kept(here, default_threads()).bytes_per_s) == ("ok", 4e10)
    assert all(f.subject != "roofs" for f in doctor())


def test_a_limit_of_the_control_group_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.hardware, "cgroup_memory_bytes", lambda: 3 * GiB)
    assert "the control group allows 3.00 GiB" in finding("memory").detail
