"""A Hugging Face folder: which of its files hold the weights, and its small JSON files."""

import json
from pathlib import Path
from typing import Any

from llmbench.errors import BadParams, Missing


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model: those its index names, else all of them.

    Raises: BadParams for an index that names no files, Missing when there are none.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
    else:
        named = json_object(index).get("weight_map")
        names = set(named.values()) if isinstance(named, dict) else set()
        if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
            raise BadParams(f"{index} names no files", how="fetch the folder again")
        found = [folder / name for name in sorted(names)]
    if not found:
        raise Missing(
            f"models: {folder} has no *.safetensors",
            how="give a GGUF file, a safetensors file or a Hugging Face folder",
        )
    return found


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty without one. Raises: BadParams when it is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadParams(f"{path} cannot be read as JSON: {error}",
                        how="fetch the folder again") from None  # fmt: skip
    if not isinstance(found, dict):
        raise BadParams(f"{path} holds no names and values", how="fetch the folder again")
    return found
