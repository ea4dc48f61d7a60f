"""The C++ library: whole or not at all, again only when something changed, clear when it cannot."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.errors import Missing
from llmbench.kernels import build, recipe
from llmbench.kernels.build import cpu_build, cpu_library

ROOT = Path(__file__).resolve().parents[2]
API = '#include "answer.h"\nextern "C" int answer() { return ANSWER; }\n'
UNIT = """#if {conditions}
extern "C" int {name}() {{ return 1; }}
#else
#error "{name}: the flags are wrong"
#endif
"""
AVX512 = ("F", "BW", "DQ", "VL", "VNNI", "BF16")
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler here"
)

# Stands for a compiler: writes its arguments down, and something into what `-o` names.
DOUBLE = """#!{python}
import pathlib, sys, time
arguments = sys.argv[1:]
if arguments == ["--version"]:
    sys.exit(print("double 1.0"))
with open({log!r}, "a") as log:
    log.write(" ".join(arguments) + "\\n")
time.sleep({sleep_s})
pathlib.Path(arguments[arguments.index("-o") + 1]).write_text("made")
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test, and no compiler that the caller asked for."""
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A tiny library: a header, a plain unit, and a unit of each kind that checks its flags."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "answer.h").write_text("#define ANSWER 42\n")
    (folder / "api.cpp").write_text(API)
    plain = "!defined(__AVX2__) && !defined(__AVX512F__)"
    wide = "defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)"
    widest = " && ".join([wide, *(f"defined(__AVX512{part}__)" for part in AVX512)])
    for name, conditions in {"scalar": plain, "avx2": wide, "avx512": widest}.items():
        (folder / f"{name}.cpp").write_text(UNIT.format(name=name, conditions=conditions))
    return folder


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the compiler that CXX names, a double, writes down its commands."""
    return double(tmp_path, monkeypatch)


def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleep_s: float = 0) -> Path:
    log, program = tmp_path / "said", tmp_path / "double"
    program.write_text(DOUBLE.format(python=sys.executable, log=str(log), sleep_s=sleep_s))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(program))
    return log


def as_cpu(monkeypatch: pytest.MonkeyPatch, machine: str, flags: str = "") -> None:
    monkeypatch.setattr(recipe.platform, "machine", lambda: machine)
    monkeypatch.setattr(recipe, "cpu_flags", lambda: frozenset(flags.split()))


# -- what is built ---------------------------------------------------------------------------------


@needs_compiler
def test_each_unit_has_its_own_flags_and_the_library_loads(sources: Path, cache: Path) -> None:
    built = cpu_build(sources)
    assert not built.cached and built.version and "-O3" in built.flags
    library = ctypes.CDLL(built.library)
    assert (library.answer(), library.scalar()) == (42, 1)
    assert hasattr(library, "avx512") == (recipe.platform.machine().lower() in recipe.X86_64)
    assert sorted(p.name for p in cache.iterdir()) == sorted([".lock", built.library.parent.name])


def test_another_processor_than_x86_has_the_scalar_unit_alone(
    sources: Path, said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_cpu(monkeypatch, "aarch64", "asimd")
    cpu_library(sources)
    assert "scalar.cpp" in said.read_text()
    assert "avx" not in said.read_text()
    assert recipe.instruction_sets() == ("scalar",)


def test_a_sanitized_library_is_another_one(sources: Path, said: Path) -> None:
    plain, sanitized = cpu_library(sources), cpu_library(sources, sanitize=True)
    assert plain != sanitized
    lines = said.read_text().splitlines()
    assert len(lines) == 10
    assert [set(recipe.SANITIZERS) <= set(line.split()) for line in lines] == [False] * 5 + [
        True] * 5  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "sets"),
    [("sse2 avx", ["scalar"]),
     ("avx2 fma", ["scalar"]),
     ("avx2 fma f16c", ["scalar", "avx2"]),
     ("avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni",
      ["scalar", "avx2", "avx512_vnni"]),
     ("avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16",
      ["scalar", "avx2", "avx512_vnni", "avx512"])],
)  # fmt: skip
def test_a_cpu_runs_the_units_all_of_whose_instructions_it_has(
    monkeypatch: pytest.MonkeyPatch, flags: str, sets: list[str]
) -> None:
    as_cpu(monkeypatch, "x86_64", flags)
    assert list(recipe.instruction_sets()) == sets


# -- when it is built again ------------------------------------------------------------------------


def test_a_kept_build_is_used_and_tells_what_made_it(sources: Path, said: Path) -> None:
    first = cpu_build(sources)
    before = said.read_text()
    again = cpu_build(sources)
    assert (first.cached, again.cached, said.read_text()) == (False, True, before)
    facts = (again.library, again.compiler, again.version, again.flags)
    assert facts == (first.library, os.environ["CXX"], "double 1.0", recipe.FLAGS)


@pytest.mark.parametrize("name", ["api.cpp", "answer.h", "more.inl", "more.cpp"])
def test_any_changed_source_is_another_key(sources: Path, said: Path, name: str) -> None:
    first = cpu_library(sources)
    with (sources / name).open("a") as file:
        file.write("\n")
    assert cpu_library(sources) != first


def test_what_is_no_source_changes_nothing(sources: Path, said: Path) -> None:
    first = cpu_library(sources)
    (sources / "README.md").write_text("words")
    assert cpu_library(sources) == first


def test_another_version_of_the_compiler_is_another_key(
    sources: Path, said: Path, tmp_path: Path
) -> None:
    first = cpu_library(sources)
    program = tmp_path / "double"
    program.write_text(program.read_text().replace("double 1.0", "double 1.1"))
    assert cpu_library(sources) != first


def test_a_damaged_library_is_made_again(sources: Path, said: Path) -> None:
    library = cpu_library(sources)
    library.write_text("half")
    assert (cpu_build(sources).cached, library.read_text()) == (False, "made")


def test_what_a_killed_builder_left_is_removed(sources: Path, said: Path, cache: Path) -> None:
    left = cache / ".making-x" / "objects"
    left.mkdir(parents=True)
    cpu_library(sources)
    assert not left.parent.exists()


def test_the_builds_used_last_are_kept(sources: Path, said: Path, cache: Path) -> None:
    def number(value: int) -> Path:
        (sources / "answer.h").write_text(f"#define ANSWER {value}\n")
        return cpu_library(sources)

    made = [number(value) for value in range(build.KEPT)]
    for value, library in enumerate(made):
        os.utime(library.parent, (value, value))
    number(0)  # used again
    made += [number(build.KEPT), number(build.KEPT + 1)]
    assert [library.exists() for library in made] == [True, False, False, *[True] * 7]
    assert len(list(cache.glob("*/"))) == build.KEPT


def test_two_processes_at_once_build_once(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = double(tmp_path, monkeypatch, sleep_s=0.3)
    code = "import sys; from llmbench.kernels.build import *; print(cpu_library(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(sources)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            for _ in range(2)]  # fmt: skip
    told = {one.communicate()[0].strip() for one in both}
    assert [one.returncode for one in both] == [0, 0]
    assert told == {str(cpu_library(sources))}
    assert len(said.read_text().splitlines()) == 5


# -- when it cannot be built -----------------------------------------------------------------------


def test_no_compiler_is_missing_and_says_how_to_get_one(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="no C\\+\\+ compiler") as caught:
        cpu_library(sources)
    assert "apt-get install g++" in caught.value.how
    assert "impl: reference" in caught.value.how
    assert not cache.exists()


def test_a_compiler_that_was_asked_for_is_the_only_one(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(Missing, match="CXX names no-such-compiler"):
        cpu_library(sources)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(Missing, match="false does not work"):
        cpu_library(sources)


def test_gcc_is_taken_before_clang_and_clang_without_it(
    said: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "programs"
    place.mkdir()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(place))
    for name in ("clang++", "g++"):
        shutil.copy(tmp_path / "double", place / name)
        assert recipe.find_compiler().command == (str(place / name),)


@needs_compiler
def test_a_source_that_cannot_be_compiled_leaves_the_compilers_words_and_no_library(
    sources: Path, cache: Path
) -> None:
    (sources / "api.cpp").write_text("#warning first\n" + "wrong a;\n" * 40)
    with pytest.raises(Missing, match="cannot build") as caught:
        cpu_library(sources)
    log = Path(caught.value.why.rpartition("the whole log: ")[2])
    assert caught.value.why.startswith("api.cpp:2:1: error:")
    assert "api.cpp:1:2: warning" in log.read_text()
    assert len(caught.value.why.splitlines()) == build.SHOWN_LINES + 1 < len(
        log.read_text().splitlines())  # fmt: skip
    assert sorted(path.name for path in cache.iterdir()) == [".lock", log.name]


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="the linkers of others take no -z defs")
def test_a_symbol_that_nobody_defines_fails_the_build(sources: Path) -> None:
    (sources / "api.cpp").write_text('int absent();\nextern "C" int answer() { return absent(); }')
    with pytest.raises(Missing, match="absent"):
        cpu_library(sources)


def test_sources_that_change_meanwhile_leave_nothing_under_the_old_key(
    sources: Path, said: Path, tmp_path: Path, cache: Path
) -> None:
    program = tmp_path / "double"
    program.write_text(program.read_text() + f"open({str(sources / 'api.cpp')!r}, 'a').write(' ')")
    with pytest.raises(Missing, match="changed while"):
        cpu_library(sources)
    assert list(cache.glob("*/")) == []


def test_a_cache_that_cannot_be_written_says_so(sources: Path, said: Path, cache: Path) -> None:
    cache.parent.write_text("a file is in the way")
    with pytest.raises(Missing, match="cannot be written") as caught:
        cpu_library(sources)
    assert "LLMBENCH_CACHE" in caught.value.how


def test_a_folder_without_sources_is_missing(tmp_path: Path, said: Path) -> None:
    with pytest.raises(Missing, match="holds no"):
        cpu_library(tmp_path / "nowhere")


# -- what is installed carries the sources ---------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, sources: Path) -> Path:
    """This project as it is shipped, with the tiny library for its C++ and a stale build beside."""
    folder = tmp_path / "checkout"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "llmbench", folder / "llmbench", ignore=skipped)
    shutil.copytree(sources, folder / "kernels" / "cpu")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    stale = folder / "build" / "lib" / "llmbench" / "_kernels" / "cpu"
    stale.mkdir(parents=True)
    (stale / "gone.cpp").write_text("#error")
    return folder


def packed(kind: str, checkout: Path, goal: Path) -> Path:
    """The folder in which a fresh `kind` of distribution lies unpacked."""
    code = f"import sys; from setuptools import build_meta as b; print(b.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(goal)], cwd=checkout, check=True,
                          capture_output=True, text=True)  # fmt: skip
    name = done.stdout.splitlines()[-1]
    shutil.unpack_archive(goal / name, goal / "unpacked", "zip" if kind == "wheel" else "gztar")
    return goal / "unpacked"


def test_wheel_and_sdist_carry_the_sources_as_data(checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="comes with torch")
    names = sorted(path.name for path in (checkout / "kernels" / "cpu").iterdir())
    sdist = packed("sdist", checkout, tmp_path / "sdist")
    assert sorted(p.name for p in sdist.glob("*/kernels/cpu/*")) == names
    installed = packed("wheel", checkout, tmp_path / "wheel")
    assert sorted(p.name for p in (installed / "llmbench/_kernels/cpu").iterdir()) == names
    assert found_by(installed).stdout.strip() == str(installed / "llmbench/_kernels/cpu")


def test_a_checkout_has_its_own_sources_and_one_that_lost_them_says_so(checkout: Path) -> None:
    assert found_by(checkout).stdout.strip() == str(checkout / "kernels" / "cpu")
    shutil.rmtree(checkout / "kernels")
    assert "Missing: kernels: the C++ sources of impl cpu are not here" in found_by(checkout).stderr


def found_by(package: Path) -> subprocess.CompletedProcess[str]:
    """What a fresh process says to be the sources of the llmbench that lies in `package`."""
    code = "from llmbench.kernels.recipe import *; print(source_folder())"
    return subprocess.run([sys.executable, "-c", code], cwd=package, check=False, text=True,
                          capture_output=True, env=os.environ | {"PYTHONPATH": str(package)},
                          )  # fmt: skip
