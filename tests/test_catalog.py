"""The catalog holds every model of the mission, and its numbers agree with each other."""

import pytest
from pydantic import ValidationError

from llmbench import catalog
from llmbench.errors import BadParams, Missing, Unsupported
from llmbench.models.cost import parameters
from llmbench.models.spec import spec_from_catalog

TAGS = {
    "smollm:135m", "qwen2.5:0.5b", "qwen2.5:1.5b", "llama3.2:1b", "llama3.2:3b", "phi3.5:3.8b",
    "gemma2:2b", "llama3.1:8b", "qwen2.5:7b", "mistral:7b",
}  # fmt: skip


def of(system: str) -> set[str]:
    return {name for name, model in catalog.models().items() if system in model.systems}


def test_every_model_of_each_system_is_there() -> None:
    sizes = ("small", "medium", "large", "xlarge", "xxlarge", "ultimate")
    spectral = {f"spectral:{size}" for size in sizes}
    assert of("S1") == spectral | {"llama-2-7b"}
    assert of("S2") == {"moe-4x7b", "ayla-12b", "deepseek-14b", "wizardlm-7b"}
    assert of("S3") == {"llama-3.1-70b", "qwen2.5-omni-7b", "mixtral-8x22b"}
    assert {catalog.models()[name].ollama_tag for name in of("S4")} == TAGS
    assert of("S5") == {"llama-2-7b", "granite-7b-instruct"}


def test_the_tiers_are_those_of_the_mission() -> None:
    tags = [[model.ollama_tag for model in catalog.tier(name)] for name in catalog.TIERS]
    assert [len(some) for some in tags] == [3, 4, 3, 10]
    assert set(tags[0]) == {"smollm:135m", "qwen2.5:0.5b", "qwen2.5:1.5b"}
    assert set(tags[3]) == TAGS == {tag for some in tags[:3] for tag in some}
    assert catalog.tier("tier4") == ()


def test_tiers_are_three_four_and_three() -> None:
    tiers = [catalog.models()[name].tier for name in of("S4")]
    assert [tiers.count(tier) for tier in (1, 2, 3)] == [3, 4, 3]


@pytest.mark.parametrize(
    "name", [n for n, m in catalog.models().items() if m.parameters is not None]
)
def test_exact_parameter_counts_follow_from_the_architecture(name: str) -> None:
    assert parameters(spec_from_catalog(name)).total == catalog.model(name).parameters


def test_what_is_absent_is_named() -> None:
    for model in catalog.models().values():
        numbers = model.architecture.model_dump() if model.architecture else {}
        for field in ("n_kv_heads", "d_ff", "vocab_size"):
            if model.architecture and numbers[field] is None:
                assert field in model.unverified or model.name == "wizardlm-7b"
        assert model.parameters or model.parameters_claimed or "parameters" in model.unverified


@pytest.mark.parametrize(
    "alias",
    ["llama-2-7b", "hf:meta-llama/Llama-2-7b-hf", "meta-llama/llama-2-7b-HF",
     "hf:meta-llama/Llama-2-7b-hf@main"],
)  # fmt: skip
def test_a_model_is_found_by_each_of_its_names(alias: str) -> None:
    assert catalog.model(alias).name == "llama-2-7b"


def test_ollama_tag_finds_its_model() -> None:
    assert catalog.model("ollama:mistral:7b").hf_id == "mistralai/Mistral-7B-Instruct-v0.3"


def test_no_name_means_two_models() -> None:
    names = [alias.lower() for model in catalog.models().values() for alias in model.names]
    assert len(names) == len(set(names))


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(BadParams, match=r"did you mean llama-3\.2-1b"):
        catalog.model("llama-3.2-1")


def test_a_spec_that_is_not_known_is_refused_by_its_missing_numbers() -> None:
    with pytest.raises(Missing, match="n_kv_heads, d_ff"):
        spec_from_catalog("ayla-12b")
    with pytest.raises(Unsupported, match="qwen2_5_omni"):
        spec_from_catalog("qwen2.5-omni-7b")
    with pytest.raises(Unsupported, match="not a transformer"):
        spec_from_catalog("spectral:small")


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="licenze"):
        catalog.CatalogModel(name="x", systems=["S1"], licenze="MIT")


def test_claims_have_unique_ids_and_contradictions_are_told_on_both_sides() -> None:
    claims = {claim.id: claim for claim in catalog.claims()}
    assert len(claims) == len(catalog.claims())
    for claim in claims.values():
        assert claim.id.startswith(claim.system.lower())
        for other in claim.contradicts:
            assert claim.id in claims[other].contradicts, f"{claim.id} and {other}"


def test_both_sides_of_a_spread_are_kept() -> None:
    claims = {claim.id: claim for claim in catalog.claims()}
    assert claims["s1-time-ultimate"].value["2048"] == 150
    assert claims["s1-time-2048"].value["ultimate"] == 250
    assert claims["s2-moe-512"].value["time_s"] == 12.70
    assert claims["s2-moe-windows-spread"].value["512"] == 25.99
    assert claims["s4-smollm-135m"].value == {"edge": 708, "ollama": 423, "ratio": 1.67}


def test_every_system_has_claims() -> None:
    tested = {claim.system for claim in catalog.claims() if claim.kind == "claim"}
    assert tested == {"S1", "S2", "S3", "S4", "S5"}
