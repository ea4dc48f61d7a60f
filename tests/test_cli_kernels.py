"""`llmbench kernels`: tables for people, documents for programs, exit codes, refusals."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from llmbench.cli import commands
from llmbench.errors import LlmbenchError
from llmbench.kernels import bench, exactness, speed
from llmbench.kernels.build import cpu_library
from llmbench.kernels.cpu import Packed, isas
from llmbench.kernels.made_up import kinds
from tests.kernels.test_bench import ROOFS
from tests.kernels.test_build import needs_compiler

pytestmark = needs_compiler
FEW = ["--threads", "1", "--rounds", "1", "--prompt", "3", "--tokens", "2", "--isa", "scalar"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(speed, "READING_S", 1e-5)
    monkeypatch.setattr(speed, "PROBE_S", 1e-5)
    monkeypatch.setattr(speed, "MANY", 16)
    monkeypatch.setattr(bench, "matmul_roofs", lambda threads: ROOFS)


def kernels(*words, code=0):
    done = CliRunner().invoke(commands, ["kernels", *words], standalone_mode=False)
    if done.exception and not isinstance(done.exception, LlmbenchError):
        assert getattr(done.exception, "exit_code", None) == code, done.exception
        return str(done.exception.format_message()), done.stdout
    assert (done.exception.exit_code if done.exception else 0) == code, done.exception
    return str(done.exception or done.stderr), done.stdout


def test_build_tells_library_compiler_flags_and_seconds():
    told = json.loads(kernels("build", "--json")[1])
    assert set(told) == {"library", "compiler", "version", "flags", "seconds", "cached"}
    assert told["library"] == str(cpu_library()) and "-std=c++17" in told["flags"]
    lines = kernels("build")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["library", "compiler", "flags", "seconds"]
    assert str(cpu_library()) in lines[0] and told["version"] in lines[1]


def test_build_without_a_compiler_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in kernels("build", code=3)[0]
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    for command in ("list", "check"):
        done = subprocess.run([sys.executable, "-m", "llmbench", "kernels", command],
                              capture_output=True, text=True, timeout=120)  # fmt: skip
        assert (done.returncode, done.stdout) == (3, "")
        assert "no C++ compiler" in done.stderr


def test_list_has_a_row_an_operation():
    rows = json.loads(kernels("list", "--json")[1])
    keys = {"operation", "weights", "implementations", "runnable", "default"}
    assert all(set(row) == keys for row in rows)
    said = kernels("list")[1].splitlines()
    assert len(said) == len(rows) + 1
    assert all(kind in " ".join(said).split() for kind in kinds())


def test_check_tells_errors_beside_bounds():
    said = kernels("check", "--weights", "Q8_0", "--weights", "F16", "--isa", "auto")[1]
    assert [line.split()[:2] for line in said.splitlines()[2:-1]] == [
        ["Q8_0", isas()[0]], ["F16", isas()[0]]]  # fmt: skip
    assert said.endswith("8 checks, no faults\n")
    told = json.loads(kernels("check", "--weights", "Q8_0", "--json")[1])
    assert told["faults"] == 0 and len(told["checks"]) == len(isas()) * (1 + len(exactness.TOKENS))
    assert set(told["checks"][0]) == {"what", "weights", "isa", "tokens", "error", "bound",
                                      "of_bound", "right"}  # fmt: skip


def test_a_wrong_product_ends_with_1_and_is_shown(monkeypatch):
    right = Packed.product
    monkeypatch.setattr(Packed, "product", lambda packed, x: right(packed, x) * 1.01)
    error, said = kernels("check", "--weights", "Q8_0", "--isa", "scalar", code=1)
    assert "3 of 4 checks failed" in error and "WRONG" in said
    words = ("check", "--weights", "Q8_0", "--isa", "scalar", "--json")
    assert json.loads(kernels(*words, code=1)[1])["faults"] == 3


def test_bench_shows_what_the_document_holds():
    told = json.loads(kernels("bench", "builtin:tiny", *FEW, "--json")[1])
    assert set(told) == {"model", "threads", "rounds", "operations", "splits", "not_decoded",
                         "roofs"}  # fmt: skip
    assert set(told["operations"][0]) == {
        "operation", "weights", "isa", "threads", "tokens", "rows", "cols", "copies", "read_bytes",
        "per_s", "roof_per_s", "roof", "unit", "median_per_s", "of_roof"}  # fmt: skip
    assert set(told["splits"][0]) == {
        "phase", "weights", "isa", "threads", "kv_type", "context_tokens", "tokens", "seconds",
        "parts", "tok_per_s", "median_tok_per_s"}  # fmt: skip
    assert set(told["splits"][0]["parts"][0]) == {
        "part", "seconds", "read_bytes", "flops", "share", "bytes_per_s", "flops_per_s",
    }  # fmt: skip
    note, said = kernels("bench", "builtin:tiny", *FEW, "--weights", "Q8_0", "--weights", "Q5_0")
    titles = [line for line in said.splitlines() if ": " in line or line.startswith("operations")]
    assert [title.partition(":")[0].split(",")[0] for title in titles] == [
        "operations", "operations", "matmul roofs", "decode", "prefill"]  # fmt: skip
    assert "2 steps after 3 tokens, Q8_0, isa scalar, KV f16" in said
    assert sum(line.startswith("gate_up") for line in said.splitlines()) == 2 * 2 + 2
    assert "not decoded, for no file can be exported in it: Q5_0" in note


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(("check", "--weights", "Q9"), 2, "'Q9' is no type"),
     (("check", "--isa", "sse"), 2, "'sse' is not one of"),
     (("bench", "builtin:tiny", "--weights", "Q9"), 2, "'Q9' is no type"),
     (("bench", "builtin:tiny", "--isa", "sse"), 2, "'sse' is not one of"),
     (("bench", "builtin:tiny", "--threads", "0"), 2, "0 is not in the range"),
     (("bench", "builtin:none"), 2, "builtin:none"),
     (("build", "--what"), 2, "--what")],
)  # fmt: skip
def test_refusals(words, code, said):
    error, shown = kernels(*words, code=code)
    assert said in error and shown == ""
