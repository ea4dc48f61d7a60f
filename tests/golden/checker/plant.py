"""Makes the folders beside it from `good` and `version-1`, each with one fault; run by hand.

`good` is a run of two engines and a twin (`llmbench measure ollama_comparison`), `version-1` some
records of outputs/published/laptop-cpu-2026-11-21. What is checked in is the truth: look at
what changes before keeping it.

    python tests/golden/checker/plant.py
"""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmbench import checker
from llmbench.record import Repeat

HERE = Path(__file__).parent
Rows = list[dict[str, Any]]


def lines(rows: Rows) -> bytes:
    """The rows as a journal, each with its checksum."""
    bodies = [json.dumps(row, sort_keys=True, separators=(",", ":")).encode() for row in rows]
    return b"".join(b[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(b) for b in bodies)


def put(path: str, value: Any, rows: slice = slice(1)) -> Callable[[Rows], None]:
    """A fault: a dotted field of the first row, or of `rows`."""

    def plant(all_rows: Rows) -> None:
        for row in all_rows[rows]:
            *parents, last = path.split(".")
            part = row
            for name in parents:
                part = part[name]
            part[last] = value

    return plant


def asked(**changed: Any) -> Callable[[Rows], None]:
    """The last row answers another question, and its key says so."""

    def plant(rows: Rows) -> None:
        rows[-1]["point"] |= changed
        question = {n: rows[-1][n] for n in ("point", "process_run", "block", "repeat")}
        rows[-1]["key"] = Repeat.model_validate(question).key

    return plant


def twice(rows: Rows) -> None:
    """The first question was answered again, later."""
    rows.append(rows[0] | {"measured_at": "2026-11-25T00:00:00+00:00", "sequence": 999})


def backwards(rows: Rows) -> None:
    """The second token came before the first."""
    times = rows[0]["raw"]["step_ns"]
    times[0], times[1] = times[1], times[0]


def a_step_too_few(rows: Rows) -> None:
    """One token has no time."""
    del rows[0]["raw"]["step_ns"][-1]


def cached(rows: Rows) -> None:
    """The target answers a prompt given twice in a fifth of the time."""
    for row in rows:
        if row["audit"] and row["point"]["engine"] == "edge":
            row["audit"]["again_s"] = row["audit"]["prompt_s"] / 5


def other_twin(rows: Rows) -> None:
    """The twin kept its weights in another format."""
    for row in rows:
        if row["point"]["twin"]:
            row["served"]["weight_format"] = "bfloat16"


def other_code(rows: Rows) -> None:
    """The target ran other code in its second process."""
    for row in rows:
        if row["process_run"] == 1 and row["point"]["engine"] == "edge":
            row["served"]["impl"] = "compiled"


FAULTS = {  # folder: what it is made from, the fault, its rule
    "unknown-flag": ("version-1", put("flags", ["weird"]), "schema"),
    "unknown-environment": ("version-1", put("environment", "gone"), "environment"),
    "changed-question": ("version-1", put("point.prompt_tokens", 65), "key"),
    "no-witness": ("version-1", put("witness", None), "missing"),
    "backwards": ("version-1", backwards, "order"),
    "too-few-steps": ("version-1", a_step_too_few, "count"),
    "window-too-small": ("good", asked(window=13), "count"),
    "duplicate": ("version-1", twice, "duplicate"),
    "incorrect": ("version-1", put("witness.output_sha256", "0" * 64), "incorrect"),
    "cached": ("good", cached, "cached"),
    "mixed-threads": ("good", asked(threads=1), "mixed"),
    "mixed-machines": ("version-1", put("environment", "another machine"), "mixed"),
    "mixed-twin": ("good", other_twin, "mixed"),
    "mixed-code": ("good", other_code, "mixed"),
    "impossible-mbu": ("version-1", put("served.weight_bytes", 10**9, slice(None)), "impossible"),
}  # fmt: skip


def damage(folder: Path, name: str) -> None:
    """The faults that are no value of a sound line."""
    (journal,) = (folder / "records").iterdir()
    data = journal.read_bytes()
    if name == "torn-line":  # as a crash leaves it; ended, for the sake of editors
        journal.write_bytes(data[: -len(data.splitlines()[-1]) // 2] + b"\n")
    elif name == "no-environment":
        (folder / "environment.json").unlink()
    elif name == "other-report":
        footer = "<p>llmbench 0.1.0 · records 0123456789abcdef</p>\n"
        (folder / "report.html").write_text(footer, encoding="utf-8")


DAMAGES = {"torn-line": "schema", "no-environment": "environment",
           "other-report": "claim"}  # fmt: skip


def make(name: str, base: str) -> Path:
    """A fresh copy of `base`."""
    shutil.rmtree(HERE / name, ignore_errors=True)
    shutil.copytree(HERE / base, HERE / name)
    return HERE / name


def plant(folder: Path, fault: Callable[[Rows], None]) -> None:
    """Write the fault into the folder's one journal."""
    (journal,) = (folder / "records").iterdir()
    rows = [json.loads(line) for line in journal.read_bytes().splitlines()]
    rows = [{k: v for k, v in row.items() if k != "crc"} for row in rows]
    fault(rows)
    journal.write_bytes(lines(rows))


def tell(folder: Path, rules: list[str]) -> None:
    """Write expected.json, when the checker finds just these rules."""
    found = checker.check(folder)
    if [finding.rule for finding in found] != rules:
        raise SystemExit(f"{folder.name}: expected {rules}, found {found}")
    kept = [{"rule": f.rule, "what": f.what, "rows": len(f.rows), "how": f.how} for f in found]
    text = json.dumps(kept, indent=1, ensure_ascii=False) + "\n"
    (folder / "expected.json").write_text(text, encoding="utf-8")


def second_machine(folder: Path) -> None:
    """Add another machine with the same facts to environment.json."""
    path = folder / "environment.json"
    known = json.loads(path.read_text(encoding="utf-8"))["environments"]
    (first,) = known.values()
    known["another machine"] = first | {"fingerprint": "0000000000000000"}
    text = json.dumps({"environments": known}, indent=1, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Every folder again."""
    for base in ("good", "version-1"):
        tell(HERE / base, [])
    for name, (base, fault, rule) in FAULTS.items():
        folder = make(name, base)
        plant(folder, fault)
        if name == "mixed-machines":
            second_machine(folder)
        tell(folder, [rule])
    for name, rule in DAMAGES.items():
        damage(make(name, "version-1"), name)
        tell(HERE / name, [rule])


if __name__ == "__main__":
    main()
