"""The shared library of `impl: cpu`, built when first needed and kept for the next time."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from time import perf_counter

from filelock import FileLock

from llmbench.errors import Missing
from llmbench.kernels.recipe import OTHERWISE, Recipe, key_of, plain_words, recipe
from llmbench.models.shapes import cache_folder

LIBRARY, FACTS = "libllmbench_cpu.so", "build.json"
LOG = "failed.log"  # of the last build that failed; the next failure writes over it
KEPT = 8  # builds; the ones least lately used are removed
SHOWN_LINES = 12  # of a compiler's words from its first error on; the whole is in the log
ERROR = re.compile(r"\S+:\d+:\d+: (fatal )?error:")


@dataclass(frozen=True)
class Build:
    """A library, and what made it; `seconds` is what building took, `cached` that it was before."""

    library: Path
    compiler: str
    version: str
    flags: tuple[str, ...]
    seconds: float
    cached: bool


def cpu_library(sources: Path | None = None, *, sanitize: bool = False) -> Path:
    """The shared library of `sources` (none: our own). Raises: as `cpu_build`."""
    return cpu_build(sources, sanitize=sanitize).library


def cpu_build(sources: Path | None = None, *, sanitize: bool = False) -> Build:
    """The library of `sources` (none: our own) and its facts; built now unless it is kept.

    One process builds at a time, others wait for it. Raises: Missing when there is no compiler or
    no source, when it refuses them, or when the cache cannot be written.
    """
    wanted = recipe(sources, sanitize=sanitize)
    if found := kept(wanted):
        return found
    with _sole_builder() as cache:
        return kept(wanted) or _build(wanted, cache)


def kept(wanted: Recipe) -> Build | None:
    """The build of `wanted` that is in the cache with the bytes it was made with, if there is."""
    folder = kernels_folder() / wanted.key
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if sha256((folder / LIBRARY).read_bytes()).hexdigest() != facts["sha256"]:
            return None
        seconds = float(facts["seconds"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or a damaged one: it is made again
        return None
    try:
        os.utime(folder)
    except OSError:  # somebody else's cache serves, too
        pass
    return _told(wanted, folder, seconds)


def kernels_folder() -> Path:
    """Where builds are kept, each in a folder named by its key."""
    return cache_folder().absolute() / "kernels"


def _told(wanted: Recipe, folder: Path, seconds: float) -> Build:
    return Build(folder / LIBRARY, shlex.join(wanted.compiler.command), wanted.compiler.version,
                 wanted.flags, seconds, cached=True)  # fmt: skip


@contextmanager
def _sole_builder() -> Iterator[Path]:
    """The cache, for this process alone; what killed builders left is gone."""
    cache = kernels_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock", fallback_to_soft=False):
            for left in cache.glob(".making-*"):
                shutil.rmtree(left)
            yield cache
    except OSError as error:
        raise Missing(f"kernels: {cache} cannot be written: {error.strerror or error}",
                      how="free space, or set LLMBENCH_CACHE elsewhere") from error  # fmt: skip


def _build(wanted: Recipe, cache: Path) -> Build:
    """`wanted` built in a folder of its own, which then gets its name. The cache is ours alone."""
    begin = perf_counter()
    with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as place:
        making, finished = Path(place, "objects"), Path(place, "finished")
        making.mkdir()
        finished.mkdir()
        _compile(wanted, making, finished / LIBRARY, cache / LOG)
        if key_of(wanted.sources, wanted.compiler, wanted.flags) != wanted.key:
            raise Missing(f"kernels: {wanted.sources} changed while it was compiled",
                          kept="nothing of it", how="try again")  # fmt: skip
        seconds = perf_counter() - begin
        _write_facts(wanted, finished, seconds)
        folder = cache / wanted.key
        if folder.exists():  # damaged, or it would have been used
            shutil.rmtree(folder)
        finished.rename(folder)
    for old in sorted(cache.glob("*/"), key=lambda f: f.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old)
    return replace(_told(wanted, folder, seconds), cached=False)


def _compile(wanted: Recipe, making: Path, library: Path, log: Path) -> None:
    """Write `library`, units side by side. Raises: Missing, with all that was said in `log`."""
    made = [making / f"{unit}.o" for unit in wanted.units]
    commands = [wanted.compiling(unit, to) for unit, to in zip(wanted.units, made, strict=True)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(lambda command: _run(command, wanted.sources), commands))
    if not any(one.returncode for one in done):
        done.append(_run(wanted.linking(made, library), wanted.sources))
    if failed := [one for one in done if one.returncode]:
        raise _refused(wanted, failed, log)


def _refused(wanted: Recipe, failed: list[subprocess.CompletedProcess[str]], log: Path) -> Missing:
    """The error that shows how the compiler's words begin; all of them are in `log`."""
    log.write_text("\n".join(f"$ {shlex.join(one.args)}\n{one.stdout}" for one in failed),
                   encoding="utf-8")  # fmt: skip
    lines = failed[0].stdout.strip().splitlines()
    begin = next((at for at, line in enumerate(lines) if ERROR.match(line)), 0)
    return Missing(f"kernels: {wanted.compiler.version} cannot build impl cpu",
                   why="\n".join([*lines[begin:][:SHOWN_LINES], f"the whole log: {log}"]),
                   how=f"set CXX to another compiler, {OTHERWISE}")  # fmt: skip


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=plain_words(), check=False, text=True,
                          errors="replace", stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def _write_facts(wanted: Recipe, finished: Path, seconds: float) -> None:
    """Beside the library: who made it, from what, and its sha256, by which damage is seen."""
    facts = asdict(wanted.compiler) | {"flags": wanted.flags, "units": wanted.units,
                                       "seconds": round(seconds, 3)}  # fmt: skip
    facts["sha256"] = sha256((finished / LIBRARY).read_bytes()).hexdigest()
    (finished / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
