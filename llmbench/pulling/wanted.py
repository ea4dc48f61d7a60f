"""What a person asks for → what is fetched from where: a hub's folder, or a server's tag."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmbench import catalog
from llmbench.errors import BadParams

HERE = ("builtin:", "shape:", "gguf:")  # made or lying on this machine
BYTES_A_PARAMETER = 1.0  # of a tag, at most about: most hold 4 to 6 bits a weight
TIERS = ("tier1", "tier2", "tier3", "all")


@dataclass(frozen=True)
class Wanted:
    """One model to fetch."""

    kind: Literal["hub", "tag"]
    name: str  # a hub's owner/name, or a tag
    revision: str = ""  # of a hub; empty: the newest, which is then pinned
    foreseen_bytes: int = 0  # of a tag whose parameters the catalog knows; 0: not known

    @property
    def asked(self) -> str:
        """What asks for exactly this."""
        if self.kind == "tag":
            return f"ollama:{self.name}"
        return f"hf:{self.name}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Pulled:
    """What lies on this machine now."""

    asked: str
    model: str  # what `models:` takes: a folder, ollama:<tag>, gguf:<file>; "": no file to be read
    revision: str  # the commit of a hub, the digest of a tag
    nbytes: int
    fetched: bool  # now; else it was there

    @property
    def weights(self) -> str:
        """'a1b2c3d4e5f6': enough of the revision to tell two apart."""
        return self.revision.removeprefix("sha256:")[:12]


def wanted(names: Sequence[str], *, from_hub: bool = False) -> list[Wanted]:
    """Each model of `names` once, in order. `from_hub`: the catalog's models as a hub has them.

    A name is a tier, a name of the catalog, `hf:owner/name[@revision]`, `owner/name`,
    `ollama:tag`, or a tag with a colon. Raises: BadParams.
    """
    found = [one for name in names for one in _wanted(name.strip(), from_hub)]
    return list(dict.fromkeys(found))


def _wanted(name: str, from_hub: bool) -> list[Wanted]:
    if name in TIERS:
        return [_listed(entry, from_hub) for entry in _tier(name)]
    if name.startswith(HERE) or Path(name).expanduser().is_dir():
        raise BadParams(f"pull: {name} needs no fetching", why="it is on this machine or made here")
    if name.startswith("ollama:"):
        return [_tag(name.removeprefix("ollama:"))]
    if name.startswith("hf:"):
        return [_repository(name.removeprefix("hf:"))]
    entry = next((e for e in catalog.models().values() if e.name == name.lower()), None)
    if entry:
        return [_listed(entry, from_hub)]
    if "/" in name:
        return [_repository(name)]
    if ":" in name:
        return [_tag(name)]
    try:
        return [_listed(catalog.model(name), from_hub)]
    except BadParams as error:
        error.how += f"; also: {', '.join(TIERS)}, owner/name of a hub, ollama:<tag>"
        raise


def _tier(name: str) -> list[catalog.CatalogModel]:
    entries = [entry for entry in catalog.models().values() if entry.tier is not None]
    return [e for e in entries if name in ("all", f"tier{e.tier}")]


def _listed(entry: catalog.CatalogModel, from_hub: bool) -> Wanted:
    """A model of the catalog: its tag, or its folder of a hub where that is asked or all there is.

    Raises: BadParams for a model without published weights.
    """
    if entry.ollama_tag and not from_hub:
        return _tag(entry.ollama_tag)
    if entry.hf_id:
        return Wanted("hub", entry.hf_id)
    raise BadParams(f"pull: the catalog knows no published weights of {entry.name}",
                    how=f"shape:{entry.name} where its architecture is known")  # fmt: skip


def _tag(tag: str) -> Wanted:
    known = next((e for e in catalog.models().values() if e.ollama_tag == tag), None)
    parameters = (known.parameters or 0) if known else 0
    return Wanted("tag", tag, foreseen_bytes=int(parameters * BYTES_A_PARAMETER))


def _repository(name: str) -> Wanted:
    plain, _, revision = name.partition("@")
    owner, _, short = plain.partition("/")
    if not owner or not short or "/" in short:
        raise BadParams(f"pull: {name!r} is no owner/name of a hub", how="as Qwen/Qwen2.5-0.5B")
    return Wanted("hub", plain, revision)
