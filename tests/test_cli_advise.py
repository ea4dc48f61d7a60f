"""`llmbench advise`: the answer with its rows, JSON, exit codes, what is refused."""

import json

import pytest

from llmbench.hardware import fingerprint, machine
from tests import synthetic
from tests.said import llmbench

HERE = fingerprint(machine())


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A run of this machine, one of flagged rows, a published one of another machine."""
    folder = tmp_path_factory.mktemp("outputs")
    own = synthetic.windows(fingerprint=HERE, engine="edge")
    synthetic.write_run(folder / "own", own)
    bad = synthetic.flag(synthetic.windows(fingerprint=HERE), "contaminated", 10**6)
    synthetic.write_run(folder / "bad", bad)
    synthetic.write_run(folder / "far", synthetic.windows(fingerprint="elsewhere"))
    synthetic.write_run(folder / "published" / "pub", synthetic.windows(fingerprint="elsewhere"))
    return folder


def advise(outputs, *words, code=0):
    done = llmbench("advise", *words, "--outputs", outputs)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_people_get_the_answer_the_rules_the_rows_and_what_was_not_used(outputs):
    said = advise(outputs, "--tokens", "900").stdout
    for words in ("A text of 900 tokens and an answer of 64", "[measured-window]",
                  "window of 1,024", "edge, 2 threads, the only one measured", "The rows behind it",
                  "none measured", "fired nothing: 36 contaminated",
                  "never recommended from", "pub"):  # fmt: skip
        assert words in said, words
    assert "far" not in said.split()


def test_programs_get_one_document(outputs):
    facts = json.loads(advise(outputs, "--tokens", "5000", "--json").stdout)
    assert facts["here"]["fingerprint"] == HERE and facts["here"]["free_bytes"] > 0
    assert facts["answered"] is True
    assert [c["rule"] for c in facts["choices"]] == ["beyond-trained-context"]
    assert facts["plans"][0]["layout"]["window"] == 2048
    assert [o["run"] for o in facts["others"]] == ["pub"]


def test_a_document_is_counted_and_named_in_the_command(outputs, tmp_path):
    text = tmp_path / "a text.txt"
    text.write_text("import os\n" * 2000)
    said = advise(outputs, "--document", str(text), "--output-tokens", "8").stdout
    assert f"--document '{text}' --tokens 8 --chunks --window 2048" in said
    facts = json.loads(advise(outputs, "--document", str(text), "--json").stdout)
    assert facts["request"]["tokens"] == {"builtin:tiny": 6000}


def test_without_a_length_only_general_recommendations_are_given(outputs):
    said = advise(outputs).stdout
    assert said.startswith("\nIn general") and "for this text" not in said


@pytest.mark.parametrize(
    ("words", "why", "how"),
    [
        (["--run", "bad"], "only rows that may not enter a claim: 36 contaminated",
         "--models builtin:tiny --context-lens 512 1024"),
        (["--run", "far"], "measured on other machines", "llmbench measure context_windows"),
        (["--run", "own", "--output-tokens", "2048"], "it was trained for 2,048 tokens",
         "--output-tokens 2047 or fewer"),
    ],
)  # fmt: skip
def test_what_no_measured_row_answers_ends_with_4_and_what_to_run(outputs, words, why, how):
    done = advise(outputs, "--tokens", "900", *words, code=4)
    assert why in done.stderr and how in done.stderr
    facts = json.loads(advise(outputs, "--tokens", "900", *words, "--json", code=4).stdout)
    assert facts["answered"] is False


def test_no_run_at_all_ends_with_4(tmp_path):
    done = advise(tmp_path, "--tokens", "900", code=4)
    assert "no row of the studies context_windows and scaling" in done.stderr
    assert "go on: llmbench measure context_windows --models builtin:tiny" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--tokens", "0"], "range 1<=x"),
        (["--tokens", "5", "--output-tokens", "0"], "range 1<=x"),
        (["--tokens", "5", "--document", "x"], "give one of them"),
        (["--document", "absent.txt"], "absent.txt"),
        (["--document", "EMPTY"], "is empty"),
        (["--document", "BINARY"], "no UTF-8 text"),
        (["--tokens", "5", "--run", "nope"], "no run 'nope'"),
    ],
)
def test_bad_input_is_refused(outputs, tmp_path, words, told):
    (tmp_path / "EMPTY").touch()
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe")
    words = [str(tmp_path / w) if w in ("EMPTY", "BINARY") else w for w in words]
    done = advise(outputs, *words, code=2)
    assert told in done.stderr and done.stdout == ""


def test_a_run_whose_note_of_its_machine_is_damaged_is_left_out_and_told(outputs, tmp_path):
    synthetic.write_run(tmp_path / "own", synthetic.windows(fingerprint=HERE))
    synthetic.write_run(tmp_path / "torn", synthetic.windows(fingerprint=HERE))
    (tmp_path / "torn" / "environment.json").write_text("{")
    done = advise(tmp_path, "--tokens", "900", "--json")
    assert "left out: torn" in done.stderr
    rows = [row for c in json.loads(done.stdout)["choices"] for row in c["evidence"]]
    assert {row["run"] for row in rows} == {"own"}
