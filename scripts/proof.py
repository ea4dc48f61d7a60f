"""Tries the whole pipeline on planted truth and writes docs/proof.md from what came of it.

python scripts/proof.py                  # 1,000 trials of what is asked; minutes on one core
python scripts/proof.py --trials 50      # a look
python scripts/proof.py --render         # the page again, from docs/proof.json
"""

import argparse
import json
import math
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import pandas
import scipy
from proving import page, refusals, trials
from scipy.stats import binomtest

from llmbench import __version__

CURVE_SHARE = 5  # the curves beside what is asked have a fifth of the trials
DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    """Try, write the results, render."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--render", action="store_true", help="only the page, from its results")
    parser.add_argument("--folder", type=Path, default=DOCS, help="where the page goes")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    path = asked.folder / "proof.json"
    if not asked.render:
        path.write_text(json.dumps(results(asked.trials), indent=1) + "\n", encoding="utf-8")
    print(page.write(json.loads(path.read_text(encoding="utf-8")), asked.folder))


def results(count: int) -> dict[str, Any]:
    """Every outcome counted over `count` trials, what was refused, and the circumstances."""
    started, rows = time.perf_counter(), []
    for number, scenario in enumerate(trials.SCENARIOS):
        tried = count if scenario in trials.ASKED else math.ceil(count / CURVE_SHARE)
        seeds = range(number * count, number * count + tried)  # no two trials share one
        rows += rows_of(scenario, trials.tried(scenario, seeds), tried)
        said = ", ".join(f"{row['outcome']} {row['count']}" for row in rows[-5:])
        print(f"{time.perf_counter() - started:5.0f} s  {scenario.name}: {said}", file=sys.stderr)
    tails = trials.Scenario("percentiles", process_runs=trials.TAIL_RUNS)
    rows += rows_of(tails, trials.tails_tried(range(count)), count)
    versions = {"llmbench": __version__, "Python": platform.python_version(),
                "numpy": numpy.__version__, "pandas": pandas.__version__,
                "scipy": scipy.__version__}  # fmt: skip
    return {"made": datetime.now(UTC).date().isoformat(), "trials": count,
            "seconds": round(time.perf_counter() - started, 1),
            "versions": ", ".join(f"{name} {v}" for name, v in versions.items()),
            "refusals": refusals.sentences(), "rows": rows}  # fmt: skip


def rows_of(scenario: trials.Scenario, counts: dict[str, int], tried: int) -> list[dict[str, Any]]:
    """A row an outcome: its count, its share with the exact interval, and what theory expects."""
    theory = trials.theory(scenario)
    planted = {"scenario": scenario.name, "difference": scenario.difference,
               "process_runs": scenario.process_runs, "blocks": trials.BLOCKS_A_RUN,
               "machine_drift": scenario.machine_drift, "trials": tried}  # fmt: skip
    found = []
    for outcome, count in counts.items():
        low, high = binomtest(count, tried).proportion_ci(method="exact")
        found.append(planted | {"outcome": outcome, "count": count, "share": count / tried,
                                "low": low, "high": high,
                                "expected": theory.get(outcome)})  # fmt: skip
    return found


if __name__ == "__main__":
    main()
