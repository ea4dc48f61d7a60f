"""Every notebook also runs by papermill alone, without the workbench's own door."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench import store

pytestmark = pytest.mark.slow  # each notebook wakes a kernel
FOLDER = Path(__file__).parent.parent / "notebooks"
SMALL = "{run_id: t, process_runs: 1, blocks: 1, warmups: 0, threads: 1, output_tokens: 2}"
CHOSEN = {
    "00_setup": "{run_id: t, threads: 1}",
    "01_model_validation": f"{SMALL[:-1]}, quantizations: [none]}}",
    "02_scaling_study": f"""{SMALL[:-1]}, engines: [fake], batch_sizes: [1, 2],
        engine_options: {{fake: {{law: n, unit_s: 1.0e-5, oom_above: 60}}}},
        context_lens: [8, 16, 40]}}""",
    "03_ollama_comparison": f"""{SMALL[:-1]}, prompts: [hello],
        models: ["builtin:tiny", "shape:smollm-135m"]}}""",
    "04_attention_study": f"{SMALL[:-1]}, context_lens: [16]}}",
    "05_context_windows": f"""{SMALL[:-1]}, context_lens: [16], answer_tokens: 3,
        prompts: [creative_writing],
        models: ["builtin:tiny", "shape:smollm-135m"]}}""",
}  # what is asked of a study; the others only read what these measured
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))  # the order in which they are read


def papermill(name: str, folder: Path) -> subprocess.CompletedProcess:
    """Run the notebook `name` into `folder`, with few and small points."""
    command = [sys.executable, "-m", "papermill", str(FOLDER / f"{name}.ipynb"),
               str(folder / f"{name}.ipynb"), "--kernel", "python3", "--no-progress-bar",
               "--parameters_yaml", CHOSEN.get(name, "run_ids: [t]")]  # fmt: skip
    env = os.environ | {"LLMBENCH_OUTPUTS": str(folder / "outputs")}
    return subprocess.run(
        command, cwd=folder, env=env,
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the executed copies and the run lie; filled in the order of reading."""
    return tmp_path_factory.mktemp("plain")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_to_its_end_mark(folder, name):
    ended = papermill(name, folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "unknown parameter" not in ended.stderr
    cells = json.loads((folder / f"{name}.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    told = [line for out in code[-1]["outputs"] for line in out.get("text", [])]
    assert any(line.startswith("complete:") for line in told)


def test_what_was_asked_is_in_the_records(folder):
    rows, faults = store.read_rows(folder / "outputs" / "t")
    assert not faults
    rows = [row for row in rows if row["repeat"] == 0]  # others followed a disturbed one
    engines = {}
    for row in rows:
        engines.setdefault(row["point"]["study"], set()).add(row["point"]["engine"])
    assert engines == {
        "model_validation": {"transformers"}, "scaling": {"fake"},
        "ollama_comparison": {"edge", "transformers"}, "attention": {"edge"},
        "context_windows": {"transformers"},
    }  # fmt: skip
    scaling = [row["status"] for row in rows if row["point"]["study"] == "scaling"]
    assert sorted(scaling) == ["ok"] * 5 + ["oom"]


def test_the_repository_is_left_as_it_was():
    for path in FOLDER.glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") for cell in cells)
