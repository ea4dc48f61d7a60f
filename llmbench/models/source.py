"""A model's name → its folder and the checksum of its weights, without torch."""

import hashlib
import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from llmbench.errors import BadParams, Missing

BUILTIN = Path(__file__).parent / "builtin"


@dataclass(frozen=True)
class ModelSource:
    """A model on this disk: its public name, its folder, and the sha256 of its weight files."""

    name: str
    folder: Path
    sha256: str

    @property
    def config(self) -> dict:
        """The folder's config.json."""
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))


def find_model(name: str) -> ModelSource:
    """The model called `name`: `builtin:`, `shape:`, or a folder with config.json and safetensors.

    A `shape:` model is made when it is not there yet. Raises: BadParams when there is no such name,
    Missing when the folder lacks its files, StoreFailed when there is no room to make it.
    """
    folder = shapes().make_shape(name) if name.startswith("shape:") else locate(name)
    weights = sorted(folder.glob("*.safetensors"))
    return ModelSource(name, folder, _sha256(tuple((p, p.stat().st_mtime_ns) for p in weights)))


def foreseen(name: str) -> ModelSource:
    """As `find_model`, but a `shape:` model that is not there yet is not made.

    It has no sha256, and the folder that lends its tokenizer. Raises: as `find_model`.
    """
    if name.startswith("shape:") and shapes().bytes_to_make(name):
        return ModelSource(name, shapes().TINY, "")
    return find_model(name)


def locate(name: str) -> Path:
    """The folder of the model called `name`; its files are there, their content is not read.

    That of a `shape:` model is made by `find_model` only. Raises: BadParams when
    there is no such name, Missing when the folder lacks its files.
    """
    if name.startswith("shape:"):
        shapes().shape_architecture(name)
        return shapes().shape_folder(name)
    folder = _builtin(name) if name.startswith("builtin:") else _folder(name)
    if not any(folder.glob("*.safetensors")) or not (folder / "config.json").is_file():
        raise Missing(
            f"models: {name} has no config.json with *.safetensors beside it",
            why="llmbench reads safetensors only; other weight files can run code when loaded",
            how="point to a Hugging Face folder, or convert its weights to safetensors",
        )
    return folder


def shapes() -> ModuleType:
    """The room that makes `shape:` models, woken when one is asked for: it needs numpy."""
    from llmbench.models import shapes

    return shapes


def _builtin(name: str) -> Path:
    known = sorted(p.name for p in BUILTIN.iterdir() if p.is_dir() and not p.name.startswith("_"))
    short = name.removeprefix("builtin:")
    if short not in known:
        near = get_close_matches(short, known, n=1) or known
        raise BadParams(f"models: no model {name!r}", how=f"did you mean builtin:{near[0]}?")
    return BUILTIN / short


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    raise BadParams(
        f"models: no model {name!r}",
        why="it is neither builtin:<name> nor a folder on this machine",
        how="use builtin:tiny, or the path of a Hugging Face folder",
    )


@lru_cache(maxsize=64)
def _sha256(files: tuple[tuple[Path, int], ...]) -> str:
    """One digest over the weight files in name order; a single file has its plain sha256."""
    digest = hashlib.sha256()
    for path, _ in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
