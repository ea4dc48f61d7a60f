"""Strict parameters: every fault of a file is listed at once, with line, value and nearest name."""

import re
from typing import get_args

import pytest

from llmbench.errors import BadParams
from llmbench.models.gguf_cache import ExportType
from llmbench.params import WEIGHTS, load_params, make_study

GOOD = "studies:\n  scaling:\n    models: [builtin:tiny]\n"


def faults_of(tmp_path, text, overrides=()):
    path = tmp_path / "p.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadParams) as caught:
        load_params(path, overrides)
    return str(caught.value)


def test_defaults_and_inheritance(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("seed: 5\nbudget_minutes: 3\n" + GOOD)
    study = load_params(path).chosen["scaling"]
    assert (study.seed, study.budget_minutes, study.process_runs) == (5, 3.0, 6)


def test_override_reaches_the_study_with_the_same_strictness(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(GOOD)
    study = load_params(path, ["scaling.batch_sizes=[1, 2]", "scaling.seed=9"]).chosen["scaling"]
    assert (study.batch_sizes, study.seed) == ([1, 2], 9)
    assert "must be ≥ 1" in faults_of(tmp_path, GOOD, ["scaling.blocks=0"])
    assert "NAME=VALUE" in faults_of(tmp_path, GOOD, ["scaling.blocks"])


def test_all_faults_are_listed_at_once_in_order_of_lines(tmp_path):
    text = "titel: x\nseed: no\nstudies:\n  scaling:\n    batch_size: [1]\n    blocks: 0\n"
    said = faults_of(tmp_path, text)
    assert "4 faults" in said
    assert said.index(":1:") < said.index(":2:") < said.index(":5:") < said.index(":6:")
    assert "did you mean 'title'?" in said and "did you mean 'batch_sizes'?" in said


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("blocks: '128'", "blocks is '128'"),
        ("blocks: true", "blocks is True"),
        ("blocks: -1", "blocks is -1; must be ≥ 1"),
        ("blocks: 1.5", "blocks is 1.5"),
        ("blocks: 12345678901", "must be ≤ 1000"),
        ("timeout_s: .nan", "timeout_s is nan; must be a finite number"),
        ("timeout_s: .inf", "finite"),
        ("timeout_s: 0", "timeout_s is 0; must be greater than 0"),
        ("batch_sizes: [1, 1]", "names a value twice"),
        ("batch_sizes: []", "at least 1 item"),
        ("batch_sizes: 4", "must be a valid list"),
        ("batch_sizes: [1, 0]", "batch_sizes[1] is 0; must be ≥ 1"),
        ("context_lens: [1000000000000]", "context_lens[0] is 1000000000000"),
        ("models: [builtin:tini]", "did you mean builtin:tiny?"),
        ("models: [../../etc]", "no model that can be used here"),
        ('models: ["a\\nb"]', "one printable line"),
        ("engines: [transformer]", "did you mean 'transformers'?"),
        ("engine_options: {fakke: {}}", "did you mean 'fake'?"),
        ("device: gpu", "is no device"),
        ("run_id: ../x", "run_id is '../x'"),
        ('run_id: "x\\n"', "run_id is"),
        ("run_id: /abs", "run_id is '/abs'"),
    ],
)
def test_wrong_values(tmp_path, line, expected):
    text = f"studies:\n  scaling:\n    {line}\n"
    said = faults_of(tmp_path, text)
    assert expected in said
    assert "p.yaml:3" in said or "twice" in said  # a rule over a whole list stands at its study


@pytest.mark.parametrize(
    ("metrics", "named"),
    [("", "decode_tok_per_s"), ("metrics: [ttft_s, tpot_s]", "tpot_s"),
     ("metrics: [tpot_s, decode_tok_per_s]", "tpot_s and decode_tok_per_s")],
)  # fmt: skip
def test_decoding_is_not_compared_in_answers_of_one_token(tmp_path, metrics, named):
    text = f"studies:\n  ollama_comparison:\n    output_tokens: 1\n    {metrics}\n"
    said = faults_of(tmp_path, text)
    assert f"p.yaml:2: studies.ollama_comparison: metrics names {named}, which" in said
    assert "output_tokens: 2 or more, or for metrics: [ttft_s]" in said


def test_an_answer_of_one_token_has_other_metrics_and_one_of_two_has_all():
    one = {"output_tokens": 1, "metrics": ["ttft_s", "prefill_tok_per_s", "e2e_s"]}
    for fields in (one, {"output_tokens": 2}):
        assert make_study("ollama_comparison", fields).output_tokens == fields["output_tokens"]


def test_a_sweep_of_a_billion_cells_is_refused_with_its_size(tmp_path):
    sizes = list(range(1, 2001))
    text = f"studies:\n  scaling:\n    batch_sizes: {sizes}\n    context_lens: {sizes}\n"
    assert "sweep of 48,000,000 repeats" in faults_of(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\t1\n", "no tabs"),
        ('title: "a\\0b"\n' + GOOD, "title is 'a\\x00b'; must be one printable line"),
        ("studies: [\n", ":2:1:"),
        (b"title: \xff\n", "not UTF-8"),
        ("", "is empty"),
        ("- 1\n", "is no mapping"),
        ("just text\n", "is no mapping"),
        ("seed: 1\nseed: 2\n" + GOOD, "seed stands twice (first: 1)"),
        ("title: &a x\nseed: *a\n" + GOOD, "seed is an alias"),
        ("title: !!python/object:os.system x\n", "constructor"),
        ("studies:\n  scalin: {}\n", "did you mean 'scaling'?"),
        ("seed: 1\n", "studies is missing"),
        ("title: " + "x" * 1_000_001, "at most 1000000"),
    ],
)
def test_wrong_files(tmp_path, text, expected):
    assert expected in faults_of(tmp_path, text)


def test_alias_bomb_costs_nothing(tmp_path):
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))
    assert "is an alias" in faults_of(tmp_path, "l0: &l0 [x]\n" + levels)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(BadParams, match="No such file"):
        load_params(tmp_path / "none.yaml")


def test_yaml_means_what_a_person_means(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("title: no\nstudies:\n  scaling:\n    timeout_s: 1e1\n")
    params = load_params(path)
    assert params.title == "no"
    assert params.chosen["scaling"].timeout_s == 10.0


def test_study_from_python():
    assert make_study("scaling", {"blocks": 3}).blocks == 3
    with pytest.raises(BadParams, match="did you mean 'blocks'"):
        make_study("scaling", {"block": 3})
    with pytest.raises(BadParams, match="did you mean 'scaling'"):
        make_study("scalling", {})


def test_a_tier_stands_for_its_models_in_the_form_that_is_asked(tmp_path):
    asked = {"models": ["builtin:tiny", "shape:tier1"]}
    study = make_study("ollama_comparison", asked)
    assert study.models == [
        "builtin:tiny", "shape:smollm-135m", "shape:qwen2.5-0.5b", "shape:qwen2.5-1.5b"
    ]  # fmt: skip
    assert make_study("ollama_comparison", study.model_dump()) == study
    said = faults_of(tmp_path, "studies:\n  scaling:\n    models: [shape:smollm-135m, shape:tier1]")
    assert "names a value twice" in said


@pytest.mark.parametrize(
    ("name", "named"),
    [("ollama:tier1", ["ollama:smollm:135m", "ollama:qwen2.5:0.5b", "ollama:qwen2.5:1.5b"]),
     ("hf:tier3", ["hf:meta-llama/Llama-3.1-8B-Instruct", "hf:Qwen/Qwen2.5-7B-Instruct",
                   "hf:mistralai/Mistral-7B-Instruct-v0.3"]),
     ("shape:all", ["shape:gemma-2-2b"])],
)  # fmt: skip
def test_each_model_of_a_tier_that_cannot_be_had_is_refused_by_name(
    tmp_path, monkeypatch, name, named
):
    def locate(model):
        if model in named:
            raise BadParams(f"models: {model} is not here")

    monkeypatch.setattr("llmbench.params.words.locate", locate)
    said = faults_of(
        tmp_path, f"studies:\n  scaling:\n    models:\n    - builtin:tiny\n    - {name}"
    )
    assert "p.yaml:5: studies.scaling.models[1]" in said
    assert all(f"{model} is not here" in said for model in named)
    assert said.count("is not here") == len(named)


def test_a_tier_without_a_form_is_told_its_forms(tmp_path):
    said = faults_of(tmp_path, "studies:\n  scaling:\n    models: [tier1]")
    assert "shape:tier1, ollama:tier1, hf:tier1" in said
    assert "shape:tier4" in faults_of(tmp_path, "studies:\n  scaling:\n    models: [shape:tier4]")


def test_formats_of_weights_are_claims_of_their_own():
    study = make_study("ollama_comparison", {"weights": ["Q8_0", "Q4_K_M"], "prompts": ["hello"]})
    assert study.claims == 2 * make_study("ollama_comparison", {"prompts": ["hello"]}).claims


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"weights": ["Q8"]}, "is no format of weights llmbench has; did you mean 'Q8_0'?"),
     ({"weights": ["Q8_0", "Q8_0"]}, "names a value twice"),
     ({"weights": ["Q8_0"], "engine_options": {"edge": {"weights": "F16"}}},
      "weights are asked of all engines, and once more in engine_options of edge"),
     ({"weights": ["Q8_0"], "models": ["gguf:x.gguf"]}, "a file is in a type of its own")],
)  # fmt: skip
def test_a_format_that_cannot_be_meant_is_refused(fields, said, monkeypatch):
    monkeypatch.setattr("llmbench.params.words.locate", lambda model: model)
    with pytest.raises(BadParams, match=re.escape(said)):
        make_study("ollama_comparison", fields)


def test_the_formats_of_a_study_are_those_that_can_be_made():
    assert get_args(ExportType) == WEIGHTS


Q8 = {"weights": "Q8_0", "at_least": 1.6}


@pytest.mark.parametrize(
    ("bars", "said"),
    [([{"weights": "Q4_0", "at_least": 1.5}], "bars: 'Q4_0' is no weights of this study"),
     ([{"at_least": 1.5}], "names nothing; that is `at_least` itself"),
     ([{"weights": "Q8_0"}], "bars[0].at_least is missing"),
     ([Q8 | {"at_least": 0.0}], "must be greater than 0"),
     ([Q8 | {"engine": "edge"}], "bars[0].engine is no setting"),
     ([Q8, Q8 | {"at_least": 2.0}], "name the same claims"),
     ([Q8, {"metric": "ttft_s", "at_least": 2.0}], "name the same claims")],
)  # fmt: skip
def test_bars_that_cannot_be_meant_are_refused(bars, said):
    with pytest.raises(BadParams, match=re.escape(said)):
        make_study("ollama_comparison", {"weights": ["Q8_0"], "bars": bars})


def test_bars_that_name_more_stand_beside_those_that_name_less():
    bars = [Q8, Q8 | {"metric": "ttft_s", "at_least": 1.5}, {"baseline": "transformers"} | Q8]
    study = make_study("ollama_comparison", {"weights": ["Q8_0"], "bars": bars[:2]})
    assert [len(bar.named) for bar in study.bars] == [1, 2]
    with pytest.raises(BadParams, match="neither more closely"):
        make_study("ollama_comparison", {"weights": ["Q8_0"], "bars": bars})
