"""What it costs to write a model folder as a GGUF file: seconds, and memory beyond the imports."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmbench.models.source import find_model

MODEL, KIND = "shape:smollm-135m", "Q8_0"
SIZES = 1.5  # of the written file, which is the smaller of the two
IMPORTS = "import sys, numpy, gguf.quants, gguf.utility; from llmbench.models.export import export"
PEAK = (  # of this very process; that of `wait4` begins with the parent's
    "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
)


def lines(scratch: Path) -> list[dict[str, Any]]:
    """The table's line; the model is made here, before any clock."""
    file = scratch / "exported.gguf"
    find_model(MODEL)
    export = f"export({MODEL!r}, {str(file)!r}, {KIND!r}, force=True)"
    python(export)()
    return [{"what": f"export of {MODEL} to {KIND}", "run": python(export), "bar_s": 10.0,
             "base": python("pass"), "baseline": "the same imports",
             "bar_added_bytes": SIZES * file.stat().st_size}]  # fmt: skip


def python(code: str) -> Callable[[], dict[str, float]]:
    """Code after the imports, to time as a whole process: wall seconds and its peak in bytes."""

    def run() -> dict[str, float]:
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", f"{IMPORTS}\n{code}\n{PEAK}"], check=True,
                              capture_output=True, text=True)  # fmt: skip
        seconds = time.perf_counter() - started
        return {"s": seconds, "bytes": json.loads(done.stdout.split()[-1]) * 1024}

    return run
