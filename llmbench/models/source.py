"""A model's name → its folder or file, config, tokenizer and checksum, without torch."""

import hashlib
import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from llmbench.errors import BadParams, Missing
from llmbench.models.checksum import sha256_of
from llmbench.models.gguf_config import config_of
from llmbench.models.gguf_tokenizer import tokenizer_of
from llmbench.models.header import Header, read_header
from llmbench.models.ollama_tags import damaged, tag_file
from llmbench.models.tokenizer import Tokenizer, load_tokenizer

BUILTIN = Path(__file__).parent / "builtin"
FORMS = ("builtin:", "shape:", "gguf:", "ollama:", "hf:", "spectral:")  # of names, not of paths


@dataclass(frozen=True)
class ModelSource:
    """A model on this disk: its public name, its folder or its GGUF file, and its sha256.

    An engine that takes one of the two refuses the other by name.
    """

    name: str
    folder: Path | None  # of Hugging Face: config.json, tokenizer.json, *.safetensors
    sha256: str  # of the weight files; of a GGUF file all its bytes
    file: Path | None = None  # GGUF

    @cached_property
    def header(self) -> Header:
        """What the GGUF file says before its weights. Raises: BadParams for a damaged file."""
        assert self.file, f"{self.name} is no GGUF file"
        return read_header(self.file)

    @property
    def config(self) -> dict[str, Any]:
        """The folder's config.json, or the same made from the file's header."""
        if self.file:
            return config_of(self.header)
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The GGUF file, or the folder's safetensors in the order of their names."""
        return (self.file,) if self.file else tuple(sorted(self.folder.glob("*.safetensors")))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's own. Raises: Missing, Unsupported, BadParams when it cannot be read."""
        return tokenizer_of(self.header.metadata) if self.file else load_tokenizer(self.folder)


def find_model(name: str) -> ModelSource:
    """The model called `name`: `builtin:`, `shape:`, `gguf:<file>`, `ollama:<tag>`, or a folder.

    A `shape:` model is made when it is not there yet. Raises: BadParams when there is no such name
    or its file is damaged, Missing when the folder lacks its files or the tag is not here,
    StoreFailed when there is no room to make it.
    """
    place = shapes().make_shape(name) if name.startswith("shape:") else locate(name)
    if place.is_file():
        read_header(place, texts=False)  # refuse a damaged file before anything is made of it
        sha256 = sha256_of(place)
        if name.startswith("ollama:") and place.name != f"sha256-{sha256}":
            raise damaged(name, place)
        return ModelSource(name, None, sha256, place)
    weights = sorted(place.glob("*.safetensors"))
    return ModelSource(name, place, _sha256(tuple((p, p.stat().st_mtime_ns) for p in weights)))


def peek_model(name: str) -> ModelSource:
    """As `find_model`, but a `shape:` model that is not there is not made.

    Of such a one only name and tokenizer are true; its sha256 is empty.
    """
    if name.startswith("shape:") and not (locate(name) / "model.safetensors").is_file():
        return ModelSource(name, shapes().TINY, "")  # whose tokenizer every shape has
    return find_model(name)


def locate(name: str) -> Path:
    """The folder or the GGUF file of the model called `name`; its content is not read.

    That of a `shape:` model is made by `find_model` only. Raises: BadParams when
    there is no such name, Missing when the folder lacks its files or the tag is not here.
    """
    if name.startswith("shape:"):
        shapes().shape_architecture(name)
        return shapes().shape_folder(name)
    if name.startswith("gguf:"):
        return _file(name)
    if name.startswith("ollama:"):
        return tag_file(name)
    folder = _builtin(name) if name.startswith("builtin:") else _folder(name)
    if not any(folder.glob("*.safetensors")) or not (folder / "config.json").is_file():
        raise Missing(
            f"models: {name} has no config.json with *.safetensors beside it",
            why="llmbench reads safetensors and GGUF; other weight files can run code when loaded",
            how="point to a Hugging Face folder, or convert its weights to safetensors",
        )
    return folder


def weights_place(text: str) -> Path:
    """Where the weights of a model's name lie; any other text is the path of a file or folder.

    Raises: as `locate`, and Missing for a `shape:` model that is not made yet.
    """
    if not text.startswith(FORMS):
        return Path(text).expanduser()
    place = locate(text)
    if not place.exists():
        raise Missing(
            f"models: {text} has no weights here yet: they are made when it is first used",
            how=f"llmbench models {text} tells what it will need; llmbench generate {text}",
        )
    return place


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
        why="it is no builtin:<name>, shape:<name>, gguf:<file>, ollama:<tag>, and no folder here",
        how=f"use gguf:{name}" if folder.is_file() else _hint(name),
    )  # fmt: skip


def _hint(name: str) -> str:
    """What to ask for in place of a name that is no folder."""
    from llmbench import catalog

    hub = name.removeprefix("hf:") if name.startswith("hf:") else None
    own = "gguf:<file>, ollama:<tag>, or the path of a Hugging Face folder"
    try:
        entry = catalog.model(name)
    except BadParams:
        near = get_close_matches(name.lower(), ["builtin:tiny", *shapes().known_shapes()], n=1)
        guess = near[0] if near and ":" in near[0] else f"shape:{near[0]}" if near else ""
        asked = f"did you mean {guess}? else " if guess else ""
        kinds = f"use builtin:tiny, shape:<name> (`llmbench models` lists them), {own}"
    else:
        hub, made = entry.hf_id or hub, entry.name in shapes().known_shapes()
        what = "its architecture with made-up weights"
        asked = f"did you mean shape:{entry.name} ({what})? else " if made else ""
        kinds = f"use {own}"
    fetched = f" (`llmbench pull {hub}` fetches one)" if hub else ""
    return f"{asked}{kinds}{fetched}"


def _file(name: str) -> Path:
    file = Path(name.removeprefix("gguf:")).expanduser()
    if file.is_file():
        return file
    raise BadParams(f"models: no file {str(file)!r}", why=f"{name} asks for it",
                    how="give the path of a GGUF file on this machine")  # fmt: skip


@lru_cache(maxsize=64)
def _sha256(files: tuple[tuple[Path, int], ...]) -> str:
    """One digest over the weight files in name order; a single file has its plain sha256."""
    digest = hashlib.sha256()
    for path, _ in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
