"""The repository itself: nothing heavy, nothing stale, no word of other places."""

import functools
import hashlib
import json
import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import llmbench
from llmbench import campaign, cli
from llmbench.params import ENGINES, Studies, Study

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GUIDES = ("README.md", "CONTRIBUTING.md")
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
WRITTEN_ELSEWHERE = {
    "CONTEXT_WINDOWS.md",
    "MODEL_VALIDATION_SUMMARY.md",
    "NAME.md",
}  # by commands, into outputs/

# Each pattern is written so that it does not find itself.
FOREIGN = {
    "a path of somebody's machine": r"(?<![\w.$}])/(?:home|Users|root|work)/(?!someone\b)[\w.]"
    r"|C:\\Users",
    "a host of package registries": r"(?i)\b(?:pypi[.](?:org|python)|pythonhosted[.]|anaconda[.]"
    r"(?:org|com)|registry[.]npmjs|crates[.]io\b|download[.]pytorch|ghcr[.]io\b|quay[.]io\b)",
    "an index other than the user's own": r"--(?:extra-)?index[-]url\b|\bindex(?:_url|[-]url) ?=",
    "a workplace": r"(?i)\b(?:this|my|our|the present) (?:workplace|sandbox)\b",
}


@functools.cache
def files() -> tuple[Path, ...]:
    """Every file that is or may be committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so what would be committed is not known")
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others",
         "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    return tuple(p for name in listed.split("\0") if name and (p := ROOT / name).is_file())


@functools.cache
def texts() -> dict[str, str]:
    """Path → text of every file that is text."""
    found = {}
    for path in files():
        data = path.read_bytes()
        if b"\0" not in data:
            found[str(path.relative_to(ROOT))] = data.decode("utf-8")
    return found


def yaml(name: str) -> dict:
    """A YAML file of the repository."""
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


def hook(name: str) -> tuple[dict, str]:
    """A pre-commit hook and the revision it comes from."""
    for repo in yaml(".pre-commit-config.yaml")["repos"]:
        for found in repo["hooks"]:
            if found["id"] == name:
                return found, repo["rev"]
    raise KeyError(name)


# -- notebooks -------------------------------------------------------------------------------------


def test_every_study_and_every_reading_notebook_is_here():
    wanted = {*campaign.NOTEBOOK_OF.values(), campaign.SETUP, campaign.FIGURES, campaign.ANALYSIS}
    assert wanted == {path.stem for path in NOTEBOOKS}
    assert set(campaign.NOTEBOOK_OF) == set(Studies.model_fields)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_clean_and_can_be_run_headless(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "papermill" not in notebook["metadata"]
    assert [c["id"] for c in code if c["outputs"] or c["execution_count"] is not None] == []
    assert [c["id"] for c in notebook["cells"] if set(c["metadata"]) - {"tags"}] == []
    tags = [tag for cell in code for tag in cell["metadata"].get("tags", [])]
    assert tags == ["parameters"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_hold_no_machinery(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            assert len(source.splitlines()) <= 15, source
            assert not re.search(r"^\s*(?:def|class|while) ", source, re.MULTILINE), source


# -- files -----------------------------------------------------------------------------------------


def test_no_large_file_but_the_model_and_published_journals():
    large, _ = hook("check-added-large-files")
    cap = next(int(a.removeprefix("--maxkb=")) for a in large["args"] if "maxkb" in a) * 1024
    over = [str(p.relative_to(ROOT)) for p in files() if p.stat().st_size > cap]
    assert [name for name in over if not re.search(large["exclude"], name)] == []
    names = [str(p.relative_to(ROOT)) for p in files()]
    named = [n for n in names if re.search(large["exclude"], n) and not n.endswith(".jsonl")]
    assert named == ["llmbench/models/builtin/tiny/model.safetensors"]


@pytest.mark.parametrize("what", FOREIGN)
def test_the_project_speaks_of_itself_alone(what):
    found = {n: m[0] for n, text in texts().items() if (m := re.search(FOREIGN[what], text))}
    assert found == {}


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of somebody's machine", "see /ho" "me/ada/models"),
        ("a path of somebody's machine", "cd /wo" "rk/main"),
        ("a host of package registries", "https://py" "pi.org/simple"),
        ("an index other than the user's own", "pip install --index" "-url x"),
        ("a workplace", "in this sand" "box"),
    ],
)  # fmt: skip
def test_foreign_words_are_found(what, text):
    assert re.search(FOREIGN[what], text)
    assert not re.search(FOREIGN[what], "outputs/root/x, the worker, ~/models, an agent's cost")


def test_every_page_that_is_named_exists():
    """A page in capitals (like README.md) that the text names is a page of this repository."""
    here = {path.name for path in files()} | WRITTEN_ELSEWHERE
    named = {n: set(re.findall(r"\b[A-Z][A-Z_]+\.md\b", text)) for n, text in texts().items()}
    assert {n: sorted(pages - here) for n, pages in named.items() if pages - here} == {}


def test_links_between_pages_resolve():
    broken = []
    for name, text in texts().items():
        if not name.endswith(".md"):
            continue
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            path, _, anchor = target.partition("#")
            goal = (ROOT / name).parent / path if path else ROOT / name
            if "://" in target or target.startswith("mailto:"):
                continue
            if not goal.exists() or (anchor and anchor not in anchors(goal)):
                broken.append(f"{name}: {target}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The names under which the headings of a page can be linked."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/house.md", "docs/contract.md"])
def test_paths_in_the_guides_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = re.findall(
        r"`((?:llmbench|tests|docs|scripts|notebooks|params|kernels|\.ci)/[^`\s<*{]+)`", text
    )
    assert [p for p in paths if not (ROOT / p).exists()] == []


# -- what is said twice is said the same -----------------------------------------------------------


def test_the_licence_is_whole():
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2


def test_one_version():
    assert yaml("CITATION.cff")["version"] == llmbench.__version__
    assert f"## [{llmbench.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_conda_environment_is_what_the_script_makes():
    script = runpy.run_path(str(ROOT / "scripts" / "make_environment_yml.py"))
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert (ROOT / "environment.yml").read_text(encoding="utf-8") == script["environment_yml"](
        pyproject
    )
    pip = yaml("environment.yml")["dependencies"][-1]["pip"]
    names = {script["name_of"](line) for line in pip if not line.startswith("-")}
    assert names >= {"jupyterlab", "papermill", "torch", "transformers", "bitsandbytes", "ollama",
                     "pandas", "matplotlib", "seaborn", "nvidia-ml-py"}  # fmt: skip


def test_every_range_holds_the_tested_version():
    packaging = pytest.importorskip("packaging.requirements", reason="comes with papermill")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for group in [project["dependencies"], *project["optional-dependencies"].values()]:
        for requirement in map(packaging.Requirement, group):
            name = requirement.name.lower().replace("_", "-")
            assert name == "llmbench" or requirement.specifier.contains(tested[name]), name


def test_hooks_are_of_the_tested_versions():
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"ruff=={hook('ruff-format')[1].removeprefix('v')}\n" in tested
    assert f"nbstripout=={hook('nbstripout')[1]}\n" in tested


def targets(makefile: str) -> set[str]:
    """The targets that a Makefile documents."""
    text = (ROOT / makefile).read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][\w-]*):.*##", text, re.MULTILINE))


def commands(text: str) -> set[str]:
    """The targets of the `make` commands in a page, in its code spans and code blocks."""
    spans = re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", text, re.DOTALL)
    lines = [line for pair in spans for part in pair for line in part.splitlines()]
    found = [re.match(r"(?:\$ )?make((?: [\w-]+(?:=\S+)?)*)", line) for line in lines]
    return {word for m in found if m for word in m[1].split() if "=" not in word and word[0] != "-"}


@pytest.mark.parametrize("page", GUIDES)
def test_every_make_command_in_the_guides_exists(page):
    asked = commands((ROOT / page).read_text(encoding="utf-8"))
    assert "test" in asked, f"{page} does not say how to run the tests"
    assert sorted(asked - targets("Makefile") - {""}) == []


def test_every_step_of_the_whole_check_is_a_target():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake ([a-z-]+)", script)) <= targets("Makefile")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


# -- the contract says what is true ----------------------------------------------------------------


def table(heading: str) -> dict[str, str]:
    """First cell → second cell of the first table under `heading` of the contract."""
    text = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w:<>-]+).*? \| (today|reserved) \|", section, re.MULTILINE)
    assert rows, f"docs/contract.md has no table under {heading!r}"
    return dict(rows)


def existing(heading: str) -> set[str]:
    """Names that the contract says exist today."""
    return {name for name, when in table(heading).items() if when == "today"}


def test_the_contract_tells_which_commands_studies_and_engines_exist():
    assert existing("The command line") == set(cli.commands.commands)
    assert existing("Studies") == set(Studies.model_fields)
    assert existing("Engines") == set(ENGINES)
    assert existing("Notebooks") == {path.stem for path in NOTEBOOKS}
    assert existing("Parameter files") == {path.stem for path in (ROOT / "params").glob("*.yaml")}


def test_the_contract_lists_the_fields_of_a_study():
    text = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    section = text.partition("\n## Studies\n")[2].partition("\n## ")[0]
    base = section.partition("Every study has ")[2].partition(".\n")[0]
    assert re.findall(r"`(\w+)`", base) == list(Study.model_fields)
