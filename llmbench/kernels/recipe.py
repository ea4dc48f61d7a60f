"""What the library of `impl: cpu` is made of: sources, compiler, flags, and the key they give."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbench.errors import Missing
from llmbench.hardware import cpu_flags

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-Wall", "-Wextra",
         "-Wno-maybe-uninitialized", "-pthread")  # fmt: skip  # of GCC 12 on its own header
SANITIZERS = ("-fsanitize=address,undefined", "-O1", "-g", "-fno-omit-frame-pointer")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512_VNNI = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
AVX512 = (*AVX512_VNNI, "-mavx512bf16")
# The units of an instruction set of x86-64, each with its own flags; no other unit may have any.
UNIT_FLAGS = {
    "avx2.cpp": AVX2,
    "avx512_vnni.cpp": AVX512_VNNI,
    "avx512.cpp": AVX512,
    "amx.cpp": (*AVX512, "-mamx-tile", "-mamx-bf16"),
}
X86_64 = ("x86_64", "amd64")
SUFFIXES = (".cpp", ".h", ".inl")
OTHERWISE = "or give the engine the option impl: reference"
GET_A_COMPILER = f"apt-get install g++, conda install cxx-compiler or set CXX; {OTHERWISE}"
LIMIT_S = 20.0  # a compiler's word on its version


@dataclass(frozen=True)
class Compiler:
    """The command that starts a C++ compiler, and the first line of its `--version`."""

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class Recipe:
    """All that decides a library's bytes; `key` is the same for the same of them."""

    sources: Path
    units: tuple[str, ...]
    compiler: Compiler
    flags: tuple[str, ...]
    key: str

    def compiling(self, unit: str, made: Path) -> list[str]:
        """The command, run in `sources`, that compiles one unit into `made`."""
        flags = (*self.flags, *UNIT_FLAGS.get(unit, ()))
        return [*self.compiler.command, *flags, "-c", unit, "-o", str(made)]

    def linking(self, made: Sequence[Path], library: Path) -> list[str]:
        """The command that makes the library; on Linux a symbol that nobody defines is a fault.

        A sanitizer's own symbols are defined by the program that loads the library.
        """
        whole = sys.platform == "linux" and not set(SANITIZERS) <= set(self.flags)
        last = ["-Wl,-z,defs"] if whole else []
        return [*self.compiler.command, *self.flags, "-shared", *map(str, made), *last,
                "-o", str(library)]  # fmt: skip


def recipe(sources: Path | None = None, *, sanitize: bool = False) -> Recipe:
    """What a library of `sources` (none: our own) would be made of here; nothing is made.

    Raises: Missing when there is no compiler, or no source.
    """
    folder = sources or source_folder()
    names = [name for name in _names(folder, ".cpp") if _is_x86() or name not in UNIT_FLAGS]
    # a linker keeps the first of equal inline functions: it must be one that every CPU can run
    units = tuple(sorted(names, key=lambda name: name in UNIT_FLAGS))
    if not units:
        raise Missing(f"kernels: {folder} holds no C++ source")
    compiler = find_compiler()
    flags = (*FLAGS, *SANITIZERS) if sanitize else FLAGS
    return Recipe(folder, units, compiler, flags, key_of(folder, compiler, flags))


def source_folder() -> Path:
    """Our C++ sources: data inside an installed package, `kernels/cpu` of a checkout.

    Raises: Missing when neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_kernels" / "cpu", package.parent / "kernels" / "cpu"):
        if _names(folder, ".cpp"):
            return folder
    raise Missing("kernels: the C++ sources of impl cpu are not here",
                  why=f"neither {package}/_kernels/cpu nor kernels/cpu beside the package has any",
                  how="install llmbench again, or run from a whole checkout")  # fmt: skip


def find_compiler() -> Compiler:
    """The C++ compiler: CXX when that is set, else g++, else clang++.

    Raises: Missing when there is none, or when it does not tell its version.
    """
    asked = os.environ.get("CXX", "").split()
    candidates = [asked] if asked else [["g++"], ["clang++"]]
    for first, *arguments in candidates:
        if program := shutil.which(first):
            command = (os.path.abspath(program), *arguments)
            return Compiler(command, _version(command))
    raise Missing("kernels: no C++ compiler is found, so impl cpu cannot be built",
                  why=f"CXX names {asked[0]}" if asked else "neither g++ nor clang++ is found",
                  how=GET_A_COMPILER)  # fmt: skip


def instruction_sets() -> tuple[str, ...]:
    """The units of an instruction set that this CPU can run, as `isa` names them, plainest first.

    On x86-64 one can be run when the CPU has all that its unit is compiled with. Linux's names
    (`avx512_vnni`) differ from the compiler's (`-mavx512vnni`) in the line only.
    """
    have = {f"-m{flag.replace('_', '')}" for flag in cpu_flags()} if _is_x86() else set()
    wide = [unit.removesuffix(".cpp") for unit, flags in UNIT_FLAGS.items() if have >= set(flags)]
    return ("scalar", *wide)


def _version(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run([*command, "--version"], stdin=subprocess.DEVNULL, timeout=LIMIT_S,
                              capture_output=True, text=True, check=True, env=plain_words(),
                              )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise Missing(f"kernels: {shlex.join(command)} does not work", why=str(error),
                      how=GET_A_COMPILER) from error  # fmt: skip
    return (done.stdout.splitlines() or [""])[0].strip()


def plain_words() -> dict[str, str]:
    """The environment in which compilers speak English."""
    return os.environ | {"LC_ALL": "C"}


def _is_x86() -> bool:
    return platform.machine().lower() in X86_64


def _names(folder: Path, *suffixes: str) -> list[str]:
    """Names of the files in `folder` that end so, sorted; none where there is no folder."""
    return sorted(path.name for path in folder.glob("*") if path.suffix in suffixes)


def key_of(folder: Path, compiler: Compiler, flags: tuple[str, ...]) -> str:
    """24 hexadecimal digits that every byte and every flag decides."""
    told = (sys.platform, platform.machine(), compiler.command, compiler.version, flags, UNIT_FLAGS)
    digest = hashlib.sha256(repr(told).encode())
    for name in _names(folder, *SUFFIXES):
        content = (folder / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:24]
