"""What the workbench itself costs: each line of docs/contract.md section 9 beside a baseline.

    python scripts/bench.py [--only ollama] [--rounds 7] [--keep outputs/published/bench]

Line and baseline take turns in random order; the table shows medians with exact 95 % intervals and
the median difference of the pairs. Records for the large cases are made here, in the real format.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import benching.export
import benching.ollama
import pandas as pd

from llmbench import store
from llmbench.errors import Missing
from llmbench.hardware import environment, fingerprint, load_average, machine
from llmbench.params import OllamaComparison
from llmbench.record import Point, Raw, Record, Served, Witness
from llmbench.stats import median_interval

ROOT = Path(__file__).resolve().parent.parent
KEEP = ROOT / "outputs/published/bench"
PYTHON = sys.executable
Measured = dict[str, float]  # seconds, and bytes where it matters


def command(
    *words: str, outputs: Path | None = None, codes: tuple[int, ...] = (0,)
) -> Callable[[], Measured]:
    """A command to time as a whole process: wall seconds and its peak resident bytes.

    A child begins with the peak of the process that forked it, so that a peak below that of this
    script (which imports pandas) is not seen; the table shows it only where a bar asks for it.
    """

    def run() -> Measured:
        started = time.perf_counter()
        environment = os.environ | ({"LLMBENCH_OUTPUTS": str(outputs)} if outputs else {})
        child = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE)  # fmt: skip
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        if os.waitstatus_to_exitcode(status) not in codes:
            raise SystemExit(f"{' '.join(words)} failed:\n{said.decode()}")
        kib = 1 if sys.platform == "darwin" else 1024
        return {"s": time.perf_counter() - started, "bytes": usage.ru_maxrss * kib}

    return run


def python(code: str, **options: Any) -> Callable[[], Measured]:
    """Python code to time as a whole process."""
    return command(PYTHON, "-c", code, **options)


def llmbench(*words: str, **options: Any) -> Callable[[], Measured]:
    """The command line to time as a whole process."""
    return command(PYTHON, "-m", "llmbench", *words, **options)


def make_run(outputs: Path, name: str, records: int) -> Path:
    """A run of `records` repeats of 16 steps, 10 process runs, in the journal's own format."""
    folder = store.create_run(name, outputs)
    described = environment({"roofs": None})
    here = store.add_environment(folder, described)
    order = random.Random(17)
    lengths = [64 * 2**i for i in range(10)]
    from llmbench.store.journal import encode

    with (folder / "records" / "0123456789abcdef.jsonl").open("wb") as file:
        for i in range(records):
            file.write(encode(_record(i, order, lengths, here)))
    store.write_status(folder, {"title": "100,000 records", "command": "none"})
    return folder


def _record(i: int, order: random.Random, lengths: list[int], here: str) -> Record:
    size, batch = lengths[i % 10], (1, 2, 4, 8)[i // 10 % 4]
    point = Point(study="scaling", model="builtin:tiny", model_sha256="0" * 64, engine="fake",
                  engine_options={}, batch_size=batch, prompt="exact", prompt_tokens=size,
                  output_tokens=16, device="cpu", threads=2, seed=17,
                  memory_limit_bytes=0)  # fmt: skip
    first = int(1e6 + 1e3 * size * batch * order.lognormvariate(0, 0.02))
    steps = [first + int(2e5 * k * order.lognormvariate(0, 0.02)) for k in range(16)]
    return Record(
        key=f"{i:032x}", point=point, process_run=i // 40 % 10, block=i // 400, repeat=0,
        status="ok", measured_at="2026-01-01T00:00:00+00:00", sequence=i, environment=here,
        served=Served(engine="fake", impl="sleep", weight_format="none", weight_bytes=0, threads=2,
                      device="cpu", load_s=0.1),
        raw=Raw(submit_ns=i * 10**9, prefill_ns=first, step_ns=sorted(steps), end_ns=max(steps)),
        witness=Witness(output_sha256=f"{i % 40 + i // 400 * 40:064x}", output_tokens=16,
                        end_reason="length"),
    )  # fmt: skip


def compared_run(outputs: Path, name: str) -> Path:
    """A run of 10,080 repeats of a comparison: two engines and a twin, 28 process runs."""
    from llmbench.planted import play
    from llmbench.store.journal import encode

    study = OllamaComparison(target="edge", baselines=["transformers"], process_runs=28, blocks=30,
                             output_tokens=16, threads=2)  # fmt: skip
    planted = {"edge": {"noise": 0.01}, "transformers": {"noise": 0.01, "unit_s": 1.2e-3}}
    folder = store.create_run(name, outputs)
    here = store.add_environment(folder, environment({"roofs": None}))
    with (folder / "records" / "0123456789abcdef.jsonl").open("wb") as file:
        for row in play("ollama_comparison", study, planted):
            file.write(encode(Record.model_validate(row | {"environment": here})))
    store.write_status(folder, {"title": "A comparison of 10,000 rows", "command": "none"})
    return folder


def append_cost(folder: Path, durable: bool) -> Callable[[], Measured]:
    """Seconds of one append: ours with fsync, or the same bytes to a plain buffered file."""
    from llmbench.store.journal import encode

    record = _record(0, random.Random(0), [64] * 10, "0" * 16)
    journal, plain = store.Journal(folder), (folder / "plain.txt").open("ab")
    journal.append(record)  # the file is made by the first

    def run() -> Measured:
        started = time.perf_counter()
        for _ in range(20):
            journal.append(record) if durable else plain.write(encode(record))
        return {"s": (time.perf_counter() - started) / 20}

    return run


def notebook_file(folder: Path) -> Path:
    """A notebook that does nothing but end well."""
    import nbformat

    source = folder / "nothing.ipynb"
    cells = [nbformat.v4.new_code_cell("n: int = 1", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("print('complete: nothing')")]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, source)
    return source


def many_points(folder: Path) -> Path:
    """A params file of 10,000 points."""
    path = folder / "many.yaml"
    path.write_text(
        "studies:\n  scaling:\n    process_runs: 1\n    blocks: 1\n"
        f"    batch_sizes: {list(range(1, 101))}\n    context_lens: {list(range(8, 108))}\n"
    )
    return path


def finished_run(outputs: Path) -> list[str]:
    """The words that go on with a run whose notebooks, figures and report are all done."""
    path = outputs / "finished.yaml"
    path.write_text("studies: {scaling: {engines: [fake], process_runs: 2, output_tokens: 2}}\n")
    words = ["run", str(path), "--run-id", "finished"]
    command(PYTHON, "-m", "llmbench", *words, outputs=outputs)()
    return words


def workbench(scratch: Path, stack: ExitStack) -> list[dict[str, Any]]:
    """Lines of the workbench's own costs: what, how it is run, its baseline, the bar on a field."""
    make_run(scratch, "large", 100_000)
    compared_run(scratch, "compared")
    source = notebook_file(scratch)
    run_notebook = (
        "from pathlib import Path; from llmbench.notebook import execute;"
        f"print(execute(Path({str(source)!r}), Path({str(scratch)!r}), {{'n': 2}}).state)"
    )
    nothing = python("pass")
    journal = scratch / "large/records/0123456789abcdef.jsonl"
    parse = "import json; [json.loads(line) for line in open({!r})]"
    pairs = scratch / "compared/records/0123456789abcdef.jsonl"
    compare = ["compare", "compared", "--target", "edge", "--baseline", "transformers"]
    two = ["--metric", "decode_tok_per_s", "--metric", "ttft_s"]
    started = {"base": nothing, "baseline": "python -c pass"}
    shape = (
        "import os, tempfile; folder = tempfile.TemporaryDirectory();"
        "os.environ['LLMBENCH_CACHE'] = folder.name;"
        "from llmbench.models.shapes import make_shape; make_shape('shape:llama-3.2-1b')"
    )
    many, again = str(many_points(scratch)), finished_run(scratch)
    ours = append_cost(store.create_run("append", scratch), durable=True)
    plain = append_cost(store.create_run("plain", scratch), durable=False)
    return [
        {"what": "llmbench --help","run": llmbench("--help"), "bar_s": 0.4} | started,
        {"what": "import llmbench", "run": python("import llmbench"), "bar_s": 0.4} | started,
        {"what": "plan, 10,000 points","run": llmbench("plan", many, outputs=scratch),
         "bar_s": 2.0} | started,
        {"what": "run again, all of it finished","run": llmbench(*again, outputs=scratch),
         "bar_s": 5.0} | started,
        {"what": "report, 100,000 records","run": llmbench("report", "large", outputs=scratch),
         "base": python(parse.format(str(journal))), "baseline": "json.loads of every line",
         "bar_s": 10.0, "bar_bytes": 10**9},
        {"what": "compare, 10,000 rows", 
        "run": llmbench(*compare, *two, outputs=scratch, codes=(0, 1, 4)),  # any verdict
         "base": python(parse.format(str(pairs))), "baseline": "json.loads of every line",
         "bar_s": 10.0},
        {"what": "report, 10,000 compared rows",
        "run": llmbench("report", "compared", outputs=scratch),
         "base": python(parse.format(str(pairs))), "baseline": "json.loads of every line",
         "bar_s": 10.0},
        {"what": "generate, first token",
        "run": llmbench("generate", "builtin:tiny", "--tokens", "1"),
         "bar_s": 3.0} | started,
        {"what": "shape:llama-3.2-1b, made", "run": python(shape), "bar_s": 60.0} | started,
        {"what": "papermill, one empty notebook", "run": python(run_notebook, outputs=scratch),
         "bar_added_s": 3.0} | started,
        {"what": "one append, fsync included", "run": ours, "base": plain,
         "baseline": "the same line to a buffered file", "bar_added_s": 0.01},
    ]  # fmt: skip


def export(scratch: Path, stack: ExitStack) -> list[dict[str, Any]]:
    """The line of writing a GGUF file."""
    return benching.export.lines(scratch)


def ollama(scratch: Path, stack: ExitStack) -> list[dict[str, Any]]:
    """The lines of the client of an Ollama server; none, with the reason said, without one."""
    try:
        return benching.ollama.lines(stack)
    except Missing as error:
        print(f"skipped: ollama: {error}", file=sys.stderr)
        return []


PARTS = {part.__name__: part for part in (workbench, export, ollama)}


def measure(line: dict[str, Any], rounds: int, order: random.Random) -> list[dict[str, Any]]:
    """`rounds` pairs of a line and its baseline, in random order within a pair."""
    rows = []
    for number in range(rounds):
        for side in order.sample(["run", "base"], 2):
            rows.append({"what": line["what"], "pair": number, "side": side} | line[side]())
    return rows


def summary(line: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: medians with intervals in seconds, and whether the bar is met."""
    sides = {s: [r["s"] for r in rows if r["side"] == s] for s in ("run", "base")}
    ours, base = median_interval(sides["run"]), median_interval(sides["base"])
    added = median_interval([a - b for a, b in zip(sides["run"], sides["base"], strict=True)])
    peaks = [max((r.get("bytes", 0) for r in rows if r["side"] == s), default=0) for s in sides]
    peak, more = peaks[0], peaks[0] - peaks[1]
    met = [ours.value < line.get("bar_s", float("inf")),
           added.value < line.get("bar_added_s", float("inf")),
           peak < line.get("bar_bytes", float("inf")),
           more < line.get("bar_added_bytes", float("inf"))]  # fmt: skip
    return {
        "what": line["what"], "median_s": ours.value, "low_s": ours.low, "high_s": ours.high,
        "baseline": line["baseline"], "baseline_s": base.value, "added_s": added.value,
        "added_low_s": added.low, "added_high_s": added.high,
        "peak_mb": peak / 1e6 if {"bar_bytes", "bar_added_bytes"} & set(line) else None,
        "added_mb": more / 1e6 if "bar_added_bytes" in line else None,
        "bar": "; ".join(f"{k.removeprefix('bar_')} < {v:g}" for k, v in line.items()
                         if k.startswith("bar_")),
        "met": all(met), "pairs": ours.n,
    }  # fmt: skip


def main() -> None:
    """Measure every line, print the table, keep it; a part of it is kept only where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    table, kept, order = [], [], random.Random(17)
    for name in asked.only or PARTS:
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            for line in PARTS[name](Path(scratch), stack):
                print(line["what"], file=sys.stderr, flush=True)
                rows = measure(line, asked.rounds, order)
                kept += rows
                table.append(summary(line, rows))
    if not table:
        raise SystemExit("nothing could be measured")
    frame = pd.DataFrame(table)
    shown = frame.drop(columns=["added_low_s", "added_high_s"])
    print(shown.to_string(index=False, float_format="%.6f"))
    if folder := asked.keep or (None if asked.only else KEEP):
        keep(folder, frame, kept)
    sys.exit(0 if frame["met"].all() else 1)


def keep(folder: Path, frame: pd.DataFrame, pairs: list[dict[str, Any]]) -> None:
    """Write the table and the single times, with the machine they are of."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = environment() | {"fingerprint": fingerprint(machine()), "load": load_average()}
    store.snapshot_json(folder / "bench.json", {"environment": facts, "pairs": pairs})
    store.snapshot(folder / "bench.csv", frame.to_csv(index=False).encode())


if __name__ == "__main__":
    main()
