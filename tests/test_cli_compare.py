"""`llmbench compare` as a command: its exit codes, its refusals, its one JSON document."""

import json

import pytest

from llmbench import store
from llmbench.hardware import environment
from llmbench.params import OllamaComparison
from llmbench.planted import play
from llmbench.record import Record
from llmbench.store.journal import encode
from llmbench.sweep import status
from tests.said import llmbench

FASTER = 1.3  # planted: edge takes so many times less time for a token and for a prompt
SIDES = ["--target", "edge", "--baseline", "transformers"]


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    """The command on a run in which edge is `FASTER` than transformers, which has a twin."""
    outputs = tmp_path_factory.mktemp("outputs")
    study = OllamaComparison(target="edge", baselines=["transformers"], process_runs=6, blocks=5,
                             output_tokens=8, threads=1)  # fmt: skip
    law = {"unit_s": 1e-6, "decode_s": 1e-4, "noise": 0.01}
    slow = {name: law[name] * FASTER for name in ("unit_s", "decode_s")}
    folder = store.create_run("compared", outputs)
    here = store.add_environment(folder, environment({"roofs": None}))
    with (folder / "records" / "0123456789abcdef.jsonl").open("wb") as file:
        for row in play("ollama_comparison", study, {"edge": law, "transformers": law | slow}):
            file.write(encode(Record.model_validate(row | {"environment": here})))

    def next_commands():
        return status("compared", outputs)["next"]

    def run(*words, sides=SIDES, code=0):
        done = llmbench("compare", "compared", *sides, *words, "--outputs", outputs)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    run.next_commands = next_commands
    run.params = folder / "params.yaml"
    return run


def test_yes_is_a_sentence_with_its_ratio_and_ends_with_0(compare):
    done = compare("--at-least", "1.0")
    first = done.stdout.splitlines()[0]
    assert first.startswith("edge") and "transformers" in first
    assert "1.3" in first or "1.29" in first
    assert not done.stderr


def test_no_ends_with_1(compare):
    done = compare("--at-least", "2", code=1)
    assert "edge" in done.stdout
    assert "not at least 2" in done.stderr


def test_a_bar_inside_the_interval_ends_with_4(compare):
    claim = json.loads(compare("--json").stdout)["claims"][0]
    assert claim["low"] < claim["ratio"] < claim["high"]
    done = compare("--json", "--at-least", repr(claim["ratio"]), code=4)
    assert json.loads(done.stdout)["verdict"] == "inconclusive"
    assert "no verdict" in done.stderr


@pytest.mark.parametrize("bar", ["0", "-1", "nan"])
def test_a_bar_that_is_no_ratio_ends_with_2(bar, compare):
    done = compare("--at-least", bar, code=2)
    assert done.stdout == ""
    assert "at_least" in done.stderr or "--at-least" in done.stderr


@pytest.mark.parametrize("sides", [["nobody", "transformers"], ["edge", "nobody"]])
def test_an_unknown_engine_ends_with_2_and_the_known_ones(sides, compare):
    words = ["--target", sides[0], "--baseline", sides[1]]
    done = compare(sides=words, code=2)
    assert done.stdout == ""
    for name in ("nobody", "edge", "transformers"):
        assert name in done.stderr


@pytest.mark.parametrize("words", [["--metric", "decode_tok"], ["--metric", "seed"],
                                   ["--by", "colour"]])  # fmt: skip
def test_an_unknown_column_ends_with_2_and_its_name(words, compare):
    done = compare(*words, code=2)
    assert done.stdout == ""
    assert words[1] in done.stderr


def test_what_is_no_metric_is_told_with_those_that_can_be_compared(compare):
    said = compare("--metric", "nope", code=2).stderr
    assert "'nope' is no metric of these rows" in said
    assert "can be compared: decode_tok_per_s, " in said and "process_run" not in said
    assert "did you mean ttft_s?" in compare("--metric", "tft_s", code=2).stderr


def test_energy_that_nobody_measured_is_told_so(compare):
    said = compare("--metric", "energy_j", code=4).stderr
    assert "no energy was measured in these rows" in said


def test_status_says_how_to_compare_whom(compare):
    report, command = compare.next_commands()
    assert report.split()[1] == "report"
    assert command.split()[1] == "compare" and command.endswith(" ".join(SIDES))


def test_json_is_one_document_with_the_planted_ratio(compare):
    done = compare("--json")
    told = json.loads(done.stdout)
    assert told["verdict"] == "yes"
    for claim in told["claims"]:
        assert (claim["target"], claim["baseline"]) == ("edge", "transformers")
        assert (claim["process_runs"], claim["blocks"]) == (6, 30)
        assert claim["low"] < FASTER < claim["high"]
        assert claim["checks"] and all(check["passed"] is not False for check in claim["checks"])
    assert not done.stderr


def test_two_metrics_give_claims_of_both(compare):
    metrics = ["decode_tok_per_s", "ttft_s"]
    told = json.loads(compare("--metric", metrics[0], "--metric", metrics[1], "--json").stdout)
    assert [claim["metric"] for claim in told["claims"]] == metrics
    assert all(claim["ratio"] > 1.2 for claim in told["claims"])  # a cost and a rate: both better
    assert told["verdict"] == "yes"


def test_without_a_bar_the_declared_ones_are_asked(compare, tmp_path):
    declared = (
        "studies: {ollama_comparison: {at_least: 2.0, bars: [{metric: ttft_s, at_least: 1.1}]}}"
    )
    compare.params.write_text(declared)
    try:
        assert "not at least 2" in compare(code=1).stderr
        assert (
            json.loads(compare("--metric", "ttft_s", "--json").stdout)["claims"][0]["at_least"]
            == 1.1
        )
        compare("--at-least", "1.0")
    finally:
        compare.params.unlink()
