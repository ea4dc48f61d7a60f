"""Names become models to fetch, each once, or say what was meant."""

import pytest

from llmbench.errors import BadParams
from llmbench.pulling.wanted import Wanted, wanted


def kinds(*names: str, **how: bool) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in wanted(names, **how)]


def test_tiers_are_those_of_the_catalog_and_all_is_ten():
    assert kinds("tier1") == [("tag", "smollm:135m"), ("tag", "qwen2.5:0.5b"),
                              ("tag", "qwen2.5:1.5b")]  # fmt: skip
    assert len(kinds("all")) == 10
    assert kinds("tier1", "tier2", "tier3", "all", "smollm:135m") == kinds("all")
    assert kinds("tier3", from_hub=True)[1] == ("hub", "Qwen/Qwen2.5-7B-Instruct")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ollama:any:thing", ("tag", "any:thing")),
     ("ollama:hf.co/a/b:Q4_0", ("tag", "hf.co/a/b:Q4_0")),
     ("qwen2.5:3b", ("tag", "qwen2.5:3b")),
     ("smollm-135m", ("tag", "smollm:135m")),
     ("Owner/Name", ("hub", "Owner/Name")),
     ("hf:Owner/Name", ("hub", "Owner/Name")),
     ("llama-2-7b", ("hub", "meta-llama/Llama-2-7b-hf"))],
)  # fmt: skip
def test_a_name_says_where_from(name, expected):
    assert kinds(name) == [expected]


def test_a_revision_is_kept_and_asked_for_again():
    [one] = wanted(["hf:Owner/Name@v1.0"])
    assert (one.revision, one.asked) == ("v1.0", "hf:Owner/Name@v1.0")
    assert wanted([one.asked]) == [one]
    assert wanted([Wanted("tag", "a:b").asked])[0].name == "a:b"


def test_the_size_of_a_tag_is_foreseen_from_the_catalog_alone():
    assert wanted(["qwen2.5:0.5b"])[0].foreseen_bytes == 494_032_768
    assert wanted(["qwen2.5:3b"])[0].foreseen_bytes == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [("shape:smollm-135m", "needs no fetching"), ("builtin:tiny", "needs no fetching"),
     ("gguf:x.gguf", "needs no fetching"), (".", "needs no fetching"),
     ("spectral:small", "no published weights"), ("smolm-135m", "smollm-135m"),
     ("tier4", "tier1, tier2"), ("a/b/c", "no owner/name"), ("/b", "no owner/name"),
     ("hf:", "no owner/name")],
)  # fmt: skip
def test_what_cannot_be_fetched_is_said(name, said):
    with pytest.raises(BadParams) as caught:
        wanted([name])
    assert said in str(caught.value)
