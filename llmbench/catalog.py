"""The named models and the published claims, read from `catalog.toml` and `claims.toml`."""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from llmbench.errors import BadParams
from llmbench.record import Noun

HERE = Path(__file__).parent
TIERS = ("tier1", "tier2", "tier3", "all")
System = Literal["S1", "S2", "S3", "S4", "S5"]
Scalar = int | float | str


class Architecture(Noun):
    """Architecture numbers under the house's names; None where not established."""

    model_type: str
    n_layers: int | None = None
    n_heads: int | None = None
    n_kv_heads: int | None = None
    head_dim: int | None = None
    d_model: int | None = None
    d_ff: int | None = None
    vocab_size: int | None = None  # rows of the embedding, padding included
    tie_word_embeddings: bool | None = None
    qkv_bias: bool | None = None
    n_experts: int | None = None
    n_experts_used: int | None = None
    rope_theta: float | None = None
    rope_scaling: str | None = None
    sliding_window: int | None = None  # tokens, in the layers that have one
    trained_context: int | None = None  # tokens


class SpectralShape(Noun):
    """The four numbers with which the spectral family is described."""

    input_dim: int
    frequencies: int
    hidden_dim: int
    n_layers: int


class CatalogModel(Noun):
    """One named model: what it is called in each place, and what is known of it."""

    name: str
    systems: list[System] = Field(min_length=1)
    tier: int | None = None
    hf_id: str | None = None
    hf_variants: list[str] = Field(default_factory=list)  # same architecture numbers
    ollama_tag: str | None = None
    parameters: int | None = None  # exact
    parameters_claimed: int | None = None  # by its authors, in round numbers
    quantization: Literal["nf4", "int8"] | None = None  # with which it is to be validated
    gated: bool | None = None
    licence: str | None = None
    architecture: Architecture | None = None
    spectral: SpectralShape | None = None
    unverified: list[str] = Field(default_factory=list)  # fields that could not be established
    note: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that finds this model: its own, its hub ids, its Ollama tag."""
        return tuple(n for n in (self.name, self.hf_id, *self.hf_variants, self.ollama_tag) if n)


class Claim(Noun):
    """What a system's authors claim: a hypothesis to test, never a result."""

    id: str
    system: System
    statement: str
    kind: Literal["claim", "fact", "asked"] = "claim"  # tested; stated of a part; a plan or a wish
    value: Scalar | list[Scalar] | dict[str, Scalar | list[Scalar]] | None = None
    unit: str | None = None
    circumstances: str | None = None
    contradicts: list[str] = Field(default_factory=list)  # ids; told on both sides
    source: Literal["published by the system's authors"] = "published by the system's authors"


@lru_cache(maxsize=1)
def models() -> Mapping[str, CatalogModel]:
    """Every model of the catalog, by name."""
    table = tomllib.loads((HERE / "catalog.toml").read_text(encoding="utf-8"))
    return MappingProxyType({n: CatalogModel(name=n, **fields) for n, fields in table.items()})


def model(name: str) -> CatalogModel:
    """The model that `name` finds: a catalog name, `hf:<id>`, a hub id, `ollama:<tag>` or a tag.

    A revision after `@` is ignored: revisions share the architecture. Raises: BadParams.
    """
    bare = name.removeprefix("hf:").removeprefix("ollama:").partition("@")[0].lower()
    known = _by_alias()
    if bare in known:
        return known[bare]
    near = get_close_matches(bare, known, n=3)
    far = get_close_matches(bare, models(), n=3, cutoff=0.0)
    raise BadParams(
        f"models: the catalog has no model {name!r}",
        how=f"did you mean {' or '.join(near)}?" if near else
            f"the nearest names are {', '.join(far)}; `llmbench models` lists all",
    )  # fmt: skip


def names() -> Mapping[str, CatalogModel]:
    """Every model by every name that finds it, in small letters."""
    return MappingProxyType(_by_alias())


def tier(name: str) -> tuple[CatalogModel, ...]:
    """The models of one of `TIERS`, in the order of the catalog; `all` is every tier."""
    return tuple(m for m in models().values()
                 if m.tier is not None and name in (f"tier{m.tier}", "all"))  # fmt: skip


@lru_cache(maxsize=1)
def _by_alias() -> dict[str, CatalogModel]:
    return {alias.lower(): entry for entry in models().values() for alias in entry.names}


@lru_cache(maxsize=1)
def claims() -> tuple[Claim, ...]:
    """Every published claim, in the order of the file."""
    table = tomllib.loads((HERE / "claims.toml").read_text(encoding="utf-8"))
    return tuple(Claim(**fields) for fields in table["claim"])
