"""A folder's safetensors → torch tensors by name. Nothing but tensors is ever loaded."""

import json
from pathlib import Path
from typing import Any

from llmbench.errors import BadParams, Missing

INDEX = "model.safetensors.index.json"


class Weights:
    """The tensors of a model, taken one by one by the code that needs them.

    An index file says which tensor is in which file; without one every file of the folder is read.
    Raises: BadParams when a name stands in two files, Missing when a file or a tensor is not there.
    """

    def __init__(self, folder: Path, dtype: Any, device: str) -> None:
        self.folder, self.dtype, self.device = folder, dtype, device
        indexed = (folder / INDEX).is_file()
        self._files = self._by_index() if indexed else self._by_content()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def take(self, name: str, *shape: int) -> Any:
        """The tensor called `name`, in the wanted dtype. Raises: Missing unless it has `shape`."""
        if name not in self._files:
            raise Missing(f"models: {self.folder.name} has no tensor {name!r}",
                          how="check the folder: its config.json asks for this tensor")  # fmt: skip
        found = self._files[name].get_tensor(name)
        if tuple(found.shape) != shape:
            raise Missing(
                f"models: tensor {name!r} has the shape {tuple(found.shape)}, not {shape}",
                why="its config.json and its weights do not belong together",
            )
        return found.to(self.dtype)

    def _by_index(self) -> dict[str, Any]:
        """Name → open file, for exactly the names and files of the index."""
        try:
            mapped = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            wanted = sorted(set(mapped.values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadParams(f"models: {INDEX} of {self.folder.name} maps no names to files",
                            how="fetch the folder again") from None  # fmt: skip
        present = {path.name for path in self.folder.glob("*.safetensors")}
        if lacking := [file for file in wanted if file not in present]:
            raise Missing(f"models: {self.folder.name} has no file {', '.join(map(repr, lacking))}",
                          why=f"{INDEX} names it", how="fetch the folder again")  # fmt: skip
        files = {file: self._open(self.folder / file) for file in wanted}
        names = {file: set(opened.keys()) for file, opened in files.items()}
        if lost := [name for name, file in mapped.items() if name not in names[file]]:
            raise Missing(f"models: {_some(lost)} not in the files that {INDEX} names for them",
                          how="fetch the folder again")  # fmt: skip
        return {name: files[file] for name, file in mapped.items()}

    def _by_content(self) -> dict[str, Any]:
        """Name → open file, for every name of every file."""
        found: dict[str, Any] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            opened = self._open(path)
            if doubled := [name for name in opened.keys() if name in found]:  # noqa: SIM118
                raise BadParams(
                    f"models: {_some(doubled)} in {path.name} and in another file of "
                    f"{self.folder.name}",
                    why=f"without {INDEX} nothing says which of them is the model's",
                    how="keep one set of weights in the folder",
                )
            found |= dict.fromkeys(opened.keys(), opened)
        return found

    def _open(self, path: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(path, framework="pt", device=self.device)
        except SafetensorError as error:
            raise Missing(f"models: {path.name} cannot be read as safetensors: {error}",
                          how="fetch the file again") from None  # fmt: skip


def _some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
    return f"tensor {', '.join(map(repr, names[:3]))}{more}"
