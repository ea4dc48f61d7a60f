"""`validate` and `models`: what is written, what is refused, what the catalog says."""

import json

import pytest

import llmbench
from llmbench.engines.transformers import TransformersEngine
from llmbench.errors import BadParams, Missing
from llmbench.models import cards, cost
from llmbench.models.source import find_model
from llmbench.models.spec import spec_from_config
from tests.said import llmbench as command


@pytest.mark.parametrize(("form", "layer"), [("int8", "Linear8bitLt"), ("nf4", "Linear4bit")])
def test_layers_prove_a_quantization_and_its_bytes_are_those_predicted(form, layer):
    pytest.importorskip("bitsandbytes")
    source = find_model("builtin:tiny")
    engine = TransformersEngine()
    served = engine.load(source, {"threads": 1, "quantization": form, "dtype": "bfloat16"})
    assert served.layer_classes == {"Linear": 1, layer: 21}
    assert served.weight_format == form
    foreseen = cost.weight_bytes(spec_from_config(source.config), cost.FORMATS[form])
    assert served.weight_bytes == pytest.approx(foreseen, rel=0.01)
    assert len([step for step in engine.stream([[5, 6, 7]], 4) if step]) == 4


@pytest.fixture
def no_roofs(monkeypatch):
    """Measuring the machine's roofs takes longer than these tests."""
    monkeypatch.setattr("llmbench.sweep._probe", lambda threads: {"roofs": None})


def test_validate_writes_what_it_found(tmp_path, no_roofs):
    done = command("validate", "builtin:tiny", "--quantization", "bfloat16", "--output-dir",
                   str(tmp_path / "told"), "--outputs", str(tmp_path / "o"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    (facts,) = (tmp_path / "told").glob("model_validation_*.json")
    (row,) = json.loads(facts.read_text())["models"]
    assert (row["asked"], row["passed"], row["layer_classes"]) == ("bfloat16", True, {"Linear": 22})
    summary = (tmp_path / "told" / "MODEL_VALIDATION_SUMMARY.md").read_text()
    assert "1 of 1 form" in summary


def test_what_was_not_measured_has_not_passed(tmp_path, no_roofs):
    found = llmbench.validate(["builtin:tiny"], "none", outputs=tmp_path, budget_minutes=1e-9)
    assert (found.rows, found.left, found.passed) == ([], 1, False)
    assert "1 of 1 repeats are left" in found.files[1].read_text()


def test_without_a_model_the_set_is_named_with_what_it_needs():
    with pytest.raises(Missing) as told:
        llmbench.validate()
    for words in ("Llama-3.1-70B-Instruct", "Mixtral-8x22B", "gated", "llmbench validate FOLDER"):
        assert words in str(told.value)


def test_unknown_forms_are_refused():
    with pytest.raises(BadParams, match="did you mean 'int8'"):
        llmbench.validate(["builtin:tiny"], quantization="int9")


def test_the_catalog_as_a_table_and_as_a_card():
    rows = {row["name"]: row for row in cards.models()}
    assert rows["builtin:tiny"]["fits"] is True
    assert rows["smollm-135m"]["use"] == "shape:smollm-135m"
    assert rows["mixtral-8x22b"]["use"] == "its folder"
    (card,) = cards.models("llama3.2:1b")
    assert card["predicted_bytes"]["nf4"][512] < card["predicted_bytes"]["bfloat16"][512]
    with pytest.raises(BadParams, match="smollm-135m"):
        cards.models("smollm-135")


def test_the_command_shows_both():
    table = command("models")
    assert "shape:qwen2.5-0.5b" in table.stdout
    assert json.loads(command("models", "smollm-135m", "--json").stdout)[0]["tier"] == 1
    assert "n layers" in command("models", "smollm-135m").stdout
    assert command("models", "smolm").returncode == 2
