"""What the commands show to people: nothing cut, nothing raw, and the way on where one is asked."""

import re
import sys
from pathlib import Path

import click
import pandas as pd
import pytest
from click.testing import CliRunner

import llmbench
from llmbench import cli, store
from llmbench.cli import runs, show
from llmbench.errors import BadParams, CannotSay
from llmbench.findings.validation import validation_table
from llmbench.models import cards
from tests.test_forms import loads


@pytest.fixture
def terminal(monkeypatch, capsys):
    """A table as a terminal of so many columns gets it: its lines, and what stderr says."""

    def lines(width, *given, **options):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        show.table(*given, **options)
        told = capsys.readouterr()
        return click.unstyle(told.out).splitlines(), told.err

    return lines


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_the_catalog_is_never_cut(width, terminal):
    rows = [show.catalog_row(row) for row in cards.models()]
    lines, said = terminal(width, rows, spare=("licence", "gated", "family", "trained for"))
    shown = "\n".join(lines)
    assert "…" not in shown
    for row in rows:
        for value in (row["name"], row["parameters"], row["use here"]):
            assert value in shown
    assert ("licence" in said) == (width < 160)
    assert width < 80 or max(map(len, lines)) <= width


def test_words_fold_and_numbers_with_their_unit_do_not(terminal):
    row = {"name": "shape:smollm-135m", "size": "12.3 MiB", "why": "a b c d e f"}
    lines, said = terminal(34, [row])
    assert any("shape:smollm-135m" in line and "12.3 MiB" in line for line in lines)
    assert len(lines) > 2 and max(map(len, lines)) <= 34 and said == ""
    assert "".join("".join(lines).split()).endswith("abcdef")


def test_a_terminal_too_narrow_for_all_gets_all(terminal):
    lines, _ = terminal(10, [{"name": "shape:smollm-135m", "use": "shape:smollm-135m"}])
    assert lines[1].split() == ["shape:smollm-135m"] * 2


def test_no_table_of_nothing_is_an_error(terminal):
    assert "".join(terminal(80, [])[0]).strip() == ""


def test_a_validation_is_no_markdown_and_keeps_its_models_whole(capsys):
    rows = loads()
    show.validation(rows)
    told = capsys.readouterr().out
    assert "|" not in told and "builtin:tiny" in told
    assert all(form in told for form in validation_table(rows)["Asked"])
    assert "loads and generates as asked in 4 of 4 forms" in told


# -- facts -----------------------------------------------------------------------------------------


def test_facts_are_words_not_values_of_python(capsys):
    given = {"peak_bytes": 340103808, "tags": ["a", "b"], "none_of": [], "fits": True,
             "statuses": {"ok": 1200, "oom": 1}, "rope": 10000.0, "gated": None}  # fmt: skip
    show.facts(given, as_json=False)
    told = [re.split("  +", line)[1] for line in capsys.readouterr().out.splitlines()]
    assert told == ["324 MiB", "a, b", "none", "yes", "ok 1,200, oom 1", "10,000", "not known"]


def test_a_card_has_no_bracket_and_no_raw_bytes():
    done = CliRunner().invoke(cli.commands, ["models", "smollm-135m"])
    assert re.search(r"memory for 2,048 tokens +324 MiB\n", done.output)
    assert not set("[]{}") & set(done.output)
    assert "HuggingFaceTB/SmolLM-135M\n" in done.output
    assert (
        re.search(r"trained context +2,048 tokens\n", done.output) and "_layers" not in done.output
    )


def test_models_points_an_unknown_name_to_names():
    for name, near in (("nope", "moe-4x7b"), ("builtin:tinny", "builtin:tiny")):
        with pytest.raises(BadParams) as told:
            cards.models(name)
        assert near in told.value.how and ".toml" not in str(told.value)


# -- generate --------------------------------------------------------------------------------------


def test_a_made_up_model_says_so_once_before_its_text(capsys):
    order = []
    told = show.made_up("shape:x", lambda piece: order.append((piece, capsys.readouterr().err)))
    assert capsys.readouterr().err == ""
    told("a")
    told("b")
    (first, note), second = order
    assert first == "a" and note.startswith("shape:x: its weights are made up")
    assert second == ("b", "")


def test_generate_warns_of_a_shape_and_of_no_other(monkeypatch):
    def fake(model, text, *, show, **options):
        show("words")
        raise BadParams("enough")

    monkeypatch.setattr(llmbench, "generate", fake, raising=False)
    for name, warned in (("shape:smollm-135m", True), ("builtin:tiny", False)):
        for words in ([], ["--json"]):
            done = CliRunner().invoke(cli.commands, ["generate", name, *words])
            assert ("its weights are made up" in done.stderr) == warned


# -- runs ------------------------------------------------------------------------------------------


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store.create_run("r", Path("outputs"))
    (tmp_path / "outputs/empty").mkdir()
    return Path("outputs")


def test_a_run_is_found_by_name_and_by_path(outputs):
    assert runs.folder_of("r", outputs).resolve() == (outputs / "r").resolve()
    assert runs.folder_of("./outputs/r", None) == Path("outputs/r")


@pytest.mark.parametrize(
    ("path", "what", "known"),
    [
        ("./outputs/nope", "no such folder: './outputs/nope'", "outputs/r"),
        ("outputs/empty", "no records in 'outputs/empty'", "outputs/r"),
        ("outputs/", "no records in 'outputs/'", "outputs/r"),
        (f"./{'x' * 300}", "no such folder", "r"),
    ],
)
def test_a_path_that_is_no_run_is_named_with_the_runs_there_are(path, what, known, outputs):
    with pytest.raises(BadParams, match=what) as told:
        runs.folder_of(path, outputs)
    assert told.value.how == f"runs: {known}"
    assert runs.folder_of(known, outputs).samefile("outputs/r")


def test_growth_is_told_of_studies_about_growth(capsys):
    frame = pd.DataFrame({"study": ["scaling", "attention", "context_windows"]})
    assert list(runs.of_growth(frame)["study"]) == ["scaling", "context_windows"]
    assert "not about growth: attention" in capsys.readouterr().err
    with pytest.raises(CannotSay, match="about growth: attention"):
        runs.of_growth(frame[frame["study"] == "attention"])


def test_flags_are_counted_by_row_and_by_name():
    frame = pd.DataFrame({"flags": [("preview",), ("preview", "cold"), (), ("unsteady",)]})
    assert runs.told(runs.flagged(frame), "are flagged") == (
        "3 of 4 rows are flagged: cold 1 (not warmed up); preview 2 (too few blocks for a claim); "
        "unsteady 1 (its process changed its speed by 1 % or more and stayed there; a label only)"
    )
    counted = runs.flagged(frame, but=runs.SURENESS)
    assert (counted["rows"], counted["flags"]) == (2, {"cold": 1, "preview": 2})
    assert runs.told(runs.flagged(frame[2:3]), "are flagged") == "0 of 1 rows are flagged"


# -- Ctrl-C ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["generate", "builtin:tiny"], "kept: nothing; generate writes no file"),
        (["models"], "go on: the same command"),
        (["run", "p.yaml"], "kept: every finished repeat\ngo on: the same command"),
        (["measure", "scaling"], "kept: every finished repeat\ngo on: the same command"),
    ],
)
def test_ctrl_c_says_what_is_kept_and_ends_with_130(words, last, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    for place in ("llmbench.run", "llmbench.generate", "llmbench.sweep.measure_study",
                  "llmbench.models.cards.models"):  # fmt: skip
        monkeypatch.setattr(place, stop, raising=False)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["llmbench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    said = capsys.readouterr().err.strip()
    assert said.endswith(f"llmbench: stopped by Ctrl-C\n{last}")
    assert ("every finished repeat" in said) == (words[0] in ("run", "measure"))
