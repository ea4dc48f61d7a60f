"""A models folder of Ollama, as a server leaves it after a pull."""

import hashlib
import json
from pathlib import Path

WEIGHTS = "application/vnd.ollama.image.model"


def add_tag(folder: Path, tag: str, data: bytes, *, place: str = "registry.ollama.ai/library",
            others: tuple[str, ...] = ("license",)) -> Path:  # fmt: skip
    """The blob that `data` is kept in as the weights of `tag`, beside layers of `others` kinds."""
    sha256 = hashlib.sha256(data).hexdigest()
    blob = folder / "blobs" / f"sha256-{sha256}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    kinds = [f"application/vnd.ollama.image.{kind}" for kind in others]
    layers = [{"mediaType": kind, "digest": f"sha256:{'0' * 64}", "size": 3} for kind in kinds]
    layers.append({"mediaType": WEIGHTS, "digest": f"sha256:{sha256}", "size": len(data)})
    manifest = manifest_of(folder, tag, place)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return blob


def manifest_of(folder: Path, tag: str, place: str = "registry.ollama.ai/library") -> Path:
    return folder / "manifests" / place / tag.replace(":", "/")
