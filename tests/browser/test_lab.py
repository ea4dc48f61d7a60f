"""The notebooks in a real JupyterLab, one after the other, as a person would run them."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

SOURCE = Path(__file__).parents[2] / "notebooks"
FIGURES = {"00_setup": 0, "01_model_validation": 1, "02_scaling_study": 4,
           "03_ollama_comparison": 2, "04_attention_study": 2, "05_context_windows": 2,
           "06_report_figures": 4, "07_analysis": 0}  # at least  # fmt: skip
SMALL = {  # in the parameters cells of the copies
    "00_setup": {"threads": 1},
    "02_scaling_study": {
        "engines": ["fake"], "batch_sizes": [1, 2], "context_lens": [8, 16, 32, 64],
        "engine_options": {"fake": {"law": "n", "unit_s": 1e-5, "oom_above": 100}},
        "process_runs": 2, "threads": 1, "output_tokens": 3,
    },
    "01_model_validation": {"quantizations": ["none", "int8"], "process_runs": 1, "blocks": 1,
                            "threads": 1, "output_tokens": 3},
    "03_ollama_comparison": {"process_runs": 2, "blocks": 2, "prompts": ["hello"], "threads": 1,
                             "output_tokens": 4},
    "04_attention_study": {"context_lens": [32, 64], "process_runs": 2, "threads": 1,
                           "output_tokens": 2},
    "05_context_windows": {"context_lens": [64, 128, 2048], "process_runs": 2, "threads": 1,
                           "output_tokens": 3, "answer_tokens": 4,
                           "prompts": ["creative_writing", "capability_summary"]},
}  # fmt: skip
Q8 = {"weights": "Q8_0"}
REAL = {  # copies that ask the engines that others make: name, its notebook, its values, figures
    "03_four_engines": ("03_ollama_comparison", SMALL["03_ollama_comparison"] | {
        "target": "edge", "baselines": ["ollama", "llamacpp", "transformers"],
        "engine_options": {"edge": Q8, "ollama": Q8, "llamacpp": Q8, "transformers": Q8}}, 2),
    "05_one_file": ("05_context_windows", SMALL["05_context_windows"] | {
        "engines": ["llamacpp"], "engine_options": {"llamacpp": Q8}}, 2),
}  # fmt: skip
TOKEN = "a-token-of-this-test"
SETTINGS = {  # quiet, and with every cell in the page, seen or not
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
STARTING_S, RUNNING_S = 90, 180
ENDED = """() => {
  const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')];
  const told = cells.at(-1)?.querySelector('.jp-OutputArea')?.textContent ?? '';
  const red = [...document.querySelectorAll('.jp-OutputArea .ansi-red-fg')];
  return told.includes('complete:') || red.some(e => e.textContent.startsWith('-----'));
}"""  # the end mark, or the first line of a traceback


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, and the folder of the copied notebooks."""

    url: str
    folder: Path


def copied(folder: Path) -> None:
    """The notebooks in `folder`, with small values in their parameters cells."""
    folder.mkdir()
    for path in SOURCE.glob("*.ipynb"):
        shutil.copy(path, folder)
    for name, (source, *_) in REAL.items():
        shutil.copy(SOURCE / f"{source}.ipynb", folder / f"{name}.ipynb")
    for name, values in [*SMALL.items(), *((name, real[1]) for name, real in REAL.items())]:
        path = folder / f"{name}.ipynb"
        notebook = json.loads(path.read_text())
        tags = [cell["metadata"].get("tags", []) for cell in notebook["cells"]]
        cell = notebook["cells"][next(i for i, t in enumerate(tags) if "parameters" in t)]
        text = "".join(cell["source"])
        for field, value in values.items():
            line = re.compile(rf"^({field}: [^=]+= )(.*?)(  #.*)$", re.MULTILINE)
            assert line.search(text), f"{name} has lost its parameter {field}"
            text = line.sub(lambda m, v=value: f"{m[1]}{v!r}{m[3]}", text)
        cell["source"] = text.splitlines(keepends=True)
        path.write_text(json.dumps(notebook))


def environment(home: Path) -> dict[str, str]:
    """Nothing of this user's own Jupyter is read or written."""
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR",
              "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")  # fmt: skip
    own = {place: str(home / place.lower()) for place in places}
    for name, values in SETTINGS.items():
        path = Path(own["JUPYTERLAB_SETTINGS_DIR"], "@jupyterlab", f"{name}.jupyterlab-settings")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    kept = ("LLMBENCH_CACHE", "LLMBENCH_OLLAMA")  # where a server was put
    known = {name: value for name, value in os.environ.items()
             if name in kept or not name.startswith(("JUPYTER", "LLMBENCH_"))}  # fmt: skip
    return known | own | {"LLMBENCH_OUTPUTS": str(home / "outputs"), "HF_HUB_OFFLINE": "1"}


def wait_until_up(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTING_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/api?token={TOKEN}", timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    pytest.importorskip("jupyterlab", reason="needs `pip install jupyterlab`")
    home = tmp_path_factory.mktemp("lab")
    copied(home / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={home / 'notebooks'}",
    ]  # fmt: skip
    lab, log = Lab(f"http://127.0.0.1:{port}", home / "notebooks"), home / "server.log"
    with log.open("wb") as told:
        server = subprocess.Popen(command, env=environment(home), stdout=told, stderr=told,
                                  cwd=home)  # fmt: skip
    try:
        wait_until_up(lab.url, server, log)
        yield lab
    finally:
        server.terminate()  # its kernels end with it
        server.wait(60)


@pytest.fixture
def page(browser, lab):
    """A page that notes what leaves this machine and what goes wrong in it."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.heard = []
    page.on("pageerror", lambda error: page.heard.append(f"error: {error}"))
    page.on("request", lambda asked: page.heard.append(asked.url)
            if not asked.url.startswith((lab.url, "data:", "blob:")) else None)  # fmt: skip
    yield page
    page.close()


def run_all(page, lab: Lab, name: str) -> None:
    """Open the notebook, wait for its kernel, run all cells, wait for the end."""
    page.goto(f"{lab.url}/lab/workspaces/{name}/tree/{name}.ipynb?token={TOKEN}")
    # a kernel that is not attached yet calls itself idle in the toolbar, not in the status bar
    page.get_by_text("| Idle").first.wait_for(timeout=1000 * STARTING_S)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(ENDED, timeout=1000 * RUNNING_S)
    page.get_by_text("| Idle").first.wait_for(timeout=1000 * STARTING_S)


def picture(page, name: str, folder: Path) -> None:
    """Keep a picture of the whole notebook, also in LLMBENCH_SCREENSHOTS when that is set."""
    panel = "document.querySelector('.jp-WindowedPanel-outer')"
    tall = page.evaluate(f"() => {panel}.scrollHeight")
    page.set_viewport_size({"width": 1280, "height": min(12_000, tall + 200)})
    page.evaluate(f"() => {{ {panel}.scrollTop = 0; }}")
    page.wait_for_timeout(300)  # until it is drawn again
    for place in {folder, Path(os.environ.get("LLMBENCH_SCREENSHOTS") or folder)}:
        page.screenshot(path=str(place / f"lab-{name}.png"))


def saved(page, path: Path) -> list[dict]:
    """Save as a person would; the code cells of the file."""
    page.keyboard.press("Control+s")
    for _ in range(100):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        if any(cell["execution_count"] for cell in cells):
            return cells
        page.wait_for_timeout(200)
    pytest.fail(f"{path.name} was not saved")


def run_whole(page, lab: Lab, name: str, least: int, kept: Path) -> None:
    """Run all cells: none fails, all are run once, the end mark stands, figures are seen."""
    run_all(page, lab, name)
    picture(page, name, kept)
    cells = saved(page, lab.folder / f"{name}.ipynb")
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [out["evalue"] for out in outputs if out["output_type"] == "error"] == []
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert prompts == [f"[{n}]:" for n in range(1, len(cells) + 1)]
    last = page.locator(".jp-Notebook .jp-CodeCell").last.locator(".jp-OutputArea")
    assert "complete:" in last.inner_text()
    images = page.locator(".jp-RenderedImage img")
    sizes = images.evaluate_all("all => all.map(e => [e.complete, e.naturalWidth, e.width])")
    assert len(sizes) >= least
    assert all(done and real > 300 and shown > 300 for done, real, shown in sizes)
    assert page.heard == []


@pytest.mark.parametrize("name", FIGURES)  # in this order: the later ones read what 02 measured
def test_run_all_cells(page, lab, name, tmp_path):
    run_whole(page, lab, name, FIGURES[name], tmp_path)


@pytest.mark.ollama
@pytest.mark.llamacpp
@pytest.mark.parametrize("name", REAL)
def test_run_all_cells_with_the_engines_of_others(page, lab, name, tmp_path):
    run_whole(page, lab, name, REAL[name][2], tmp_path)
    text = page.locator(".jp-Notebook").inner_text()
    assert all(engine in text for engine in REAL[name][1].get("baselines", ["llamacpp"]))
    certain = ("same weights", "outputs agree", "same threads")  # however busy the machine is
    judged = [line for line in text.splitlines() if line.split("\t")[2:3] and
              line.split("\t")[2] in certain]  # fmt: skip
    assert len(judged) == (9 if "baselines" in REAL[name][1] else 0)
    assert all("\tholds\t" in line for line in judged), judged


def test_every_notebook_is_run():
    assert set(FIGURES) == {path.stem for path in SOURCE.glob("*.ipynb")}
