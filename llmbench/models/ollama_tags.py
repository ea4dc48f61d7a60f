"""`ollama:<tag>` → the GGUF file of its weights, in a models folder of Ollama, without a server."""

import json
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llmbench.errors import BadParams, Missing, Unsupported

PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"  # so that no part leads out of the folder
NAME = re.compile(rf"(?:(?:({PART}(?::\d+)?)/)?({PART})/)?({PART})(?::({PART}))?")
USUAL = ("registry.ollama.ai", "library", "", "latest")  # what a short name leaves out
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
LAYER = "application/vnd.ollama.image."
MAX_MANIFEST = 1 << 20  # bytes
OURS = "llmbench-"  # how the engine calls the models that it makes


def tag_file(name: str) -> Path:
    """The GGUF file of `ollama:<tag>`; its name holds the sha256 that its bytes must have.

    Raises: BadParams for what is no tag or a damaged folder, Missing for a tag that is not here,
    Unsupported for one that is not a single GGUF file.
    """
    tag = name.removeprefix("ollama:")
    place = _place(tag)
    found = {folder: folder / "manifests" / place for folder in models_folders()}
    files = {str(manifest): _weights(tag, folder, manifest)
             for folder, manifest in found.items() if os.path.isfile(manifest)}  # fmt: skip
    if not files:
        raise _not_here(tag)
    if len({file.name for file in files.values()}) > 1:
        raise BadParams(
            f"models: {name} is several models here", why=", ".join(files),
            how=f"name one by its file: {' or '.join(f'gguf:{f}' for f in files.values())}",
        )  # fmt: skip
    return next(iter(files.values()))


def models_folders() -> list[Path]:
    """Where servers keep models: this user's, the system service's, and that of our own server."""
    from llmbench.models.shapes import cache_folder

    named = os.environ.get("OLLAMA_MODELS", "").strip()
    usual = [Path.home() / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]
    return [*([Path(named).expanduser()] if named else usual), cache_folder() / "ollama/models"]


def tags_here() -> list[str]:
    """The tags in those folders, by the shortest name of each; not those that engines made."""
    tags = set()
    for folder in models_folders():
        for manifest in (folder / "manifests").glob("*/*/*/*"):
            host, owner, model, tag = manifest.parts[-4:]
            shown = 2 * (host != USUAL[0]) or int(owner != USUAL[1])
            tags.add("/".join([*[host, owner][2 - shown :], f"{model}:{tag}"]))
    return sorted(tag for tag in tags if not tag.startswith(OURS))


def _place(tag: str) -> Path:
    """'qwen2.5:0.5b' → registry.ollama.ai/library/qwen2.5/0.5b. Raises: BadParams."""
    match = NAME.fullmatch(tag)
    if not match:
        raise BadParams(f"models: {tag!r} is no Ollama tag", how="as ollama:qwen2.5:0.5b")
    return Path(*(part or usual for part, usual in zip(match.groups(), USUAL, strict=True)))


def _not_here(tag: str) -> Missing:
    known = tags_here()
    near = get_close_matches(tag, known, n=3, cutoff=0.4) or known[:5]
    return Missing(
        f"models: the Ollama tag {tag} is not on this machine",
        why=f"looked in {', '.join(map(str, models_folders()))}",
        how=f"llmbench pull ollama:{tag}"
        + (f"; here are {', '.join(f'ollama:{one}' for one in near)}" if near else ""),
    )


def _weights(tag: str, folder: Path, manifest: Path) -> Path:
    """The one file of weights that the manifest names. Raises: BadParams, Unsupported."""
    layers = _layers(tag, folder, manifest)
    weights = [layer for layer in layers if layer.get("mediaType") == f"{LAYER}model"]
    if len(weights) != 1 or any(layer.get("mediaType") == f"{LAYER}adapter" for layer in layers):
        kinds = sorted({str(layer.get("mediaType")).removeprefix(LAYER) for layer in layers})
        raise Unsupported(f"models: ollama:{tag} is not one GGUF file",
                          why=f"it is made of {', '.join(kinds) or 'nothing'}")  # fmt: skip
    digest = DIGEST.fullmatch(str(weights[0].get("digest")))
    if not digest:
        raise _damaged(tag, f"{manifest} names no sha256")
    blob, size = folder / "blobs" / f"sha256-{digest[1]}", weights[0].get("size")
    if not os.path.isfile(blob):
        raise _damaged(tag, f"{blob} is missing")
    if blob.stat().st_size != size:
        raise _damaged(tag, f"{blob} has {blob.stat().st_size:,} bytes of {size}")
    return blob


def _layers(tag: str, folder: Path, manifest: Path) -> list[dict[str, Any]]:
    try:
        with manifest.open("rb") as file:
            told = json.loads(file.read(MAX_MANIFEST))
    except OSError as error:
        raise Missing(f"models: {manifest} cannot be read: {error.strerror}",
                      how=f"give this user the right to read {folder}") from None  # fmt: skip
    except (ValueError, RecursionError):
        raise _damaged(tag, f"{manifest} is no JSON") from None
    layers = told.get("layers") if isinstance(told, dict) else None
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise _damaged(tag, f"{manifest} lists no layers")
    return layers


def damaged(name: str, file: Path) -> BadParams:
    """The error of a file whose bytes are not those that its name promises."""
    return _damaged(name.removeprefix("ollama:"), f"the bytes of {file} have another sha256")


def _damaged(tag: str, why: str) -> BadParams:
    return BadParams(f"models: ollama:{tag} is damaged on this disk", why=why,
                     how=f"`ollama rm {tag}`, then `llmbench pull ollama:{tag}`")  # fmt: skip
