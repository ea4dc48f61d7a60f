"""A model folder → a GGUF file that llama.cpp and Ollama read, tokenizer included.

Tensors of one dimension and norms stay F32, as llama.cpp wants them. A matrix whose rows are no
whole number of blocks of the asked type is written in F16, and the caller is told its name.
Rows are read, converted and written some at a time, so memory does not grow with the model.
"""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmbench.errors import BadParams, Missing, StoreFailed, Unsupported
from llmbench.models.gguf_layout import (
    ARCHITECTURES,
    Planned,
    describe,
    in_pairs,
    notes_on,
    spec_for_gguf,
    tensors_of,
)
from llmbench.models.gguf_package import check_gguf_package
from llmbench.models.gguf_vocab import Tell, write_vocabulary
from llmbench.models.new_file import check_target, replacing
from llmbench.models.source import find_model
from llmbench.models.weights import Weights

VERSION = 1  # of what is written: other bytes, other number
KINDS = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2}  # → general.file_type
STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # types of a safetensors file that are read
CHUNK = 1 << 20  # values converted at a time


class Stored(Weights):
    """Where the tensors of a folder lie in its files; their values are not read yet."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, None, "cpu")

    def find(self, planned: Planned) -> Any:
        """The place of `planned`'s source. Raises: Missing, Unsupported for its type."""
        if planned.source not in self:
            raise Missing(f"models: {self.folder.name} has no tensor {planned.source!r}",
                          how="check the folder: its config.json asks for this tensor")  # fmt: skip
        found = self._files[planned.source].tensors[planned.source]
        if found.shape != planned.shape:
            raise Missing(f"models: tensor {planned.source!r} has the shape {found.shape}, not "
                          f"{planned.shape}",
                          why="its config.json and its weights do not belong together")  # fmt: skip
        if found.dtype not in STORED:
            raise Unsupported(f"models: tensor {planned.source!r} is {found.dtype}",
                              how=f"types that can be exported: {', '.join(STORED)}")  # fmt: skip
        return found

    def check_all_used(self, made: list[Planned]) -> None:
        """Raises: Unsupported when the folder has a tensor that no place of the file is for."""
        used = {planned.source for planned in made} | {"lm_head.weight"}  # a tied head is a copy
        left = [n for n in self._files if n not in used and not n.endswith("rotary_emb.inv_freq")]
        if left:
            raise Unsupported(f"models: {len(left)} tensors have no place in the file: {left[:3]}",
                              why="leaving them out would make another model")  # fmt: skip

    def _open(self, path: Path) -> Any:
        from gguf.utility import SafetensorsLocal

        try:
            opened = SafetensorsLocal(path)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise Missing(f"models: {path.name} cannot be read as safetensors: {error}",
                          how="fetch the file again") from None  # fmt: skip
        opened.keys = opened.tensors.keys
        return opened


def export(
    model: str, file: Path | str, kind: str, *, force: bool = False, tell: Tell = lambda note: None
) -> Path:
    """The GGUF file of `model`'s folder in `kind`, written now, whole or not at all.

    `tell` hears of each tensor that is written in another type than asked, and of what llama.cpp
    does otherwise. Raises: BadParams, Missing, Unsupported, StoreFailed when there is no room.
    """
    file = Path(file)
    if kind not in KINDS:
        raise BadParams(f"export: no type {kind!r}", how=f"types: {', '.join(KINDS)}")
    check_target(file, force)
    with replacing(file, force) as part:
        write_gguf(model, part, kind, tell)
    return file


def write_gguf(model: str, part: Path, kind: str, tell: Tell) -> None:
    """Write `model` to `part`, a file of `part_beside` or `replacing`."""
    source = find_model(model)
    if source.folder is None:
        raise Unsupported(f"export: {model} is a GGUF file already",
                          how="name the folder it was made from, or one of llama.cpp's types",
                          )  # fmt: skip
    check_gguf_package()
    config = source.config
    spec, stored = spec_for_gguf(config), Stored(source.folder)
    made = tensors_of(config, spec)
    stored.check_all_used(made)
    places = [stored.find(planned) if planned.source else None for planned in made]
    for note in notes_on(config):
        tell(note)
    writer = _writer(ARCHITECTURES[config["model_type"]], model, kind)
    describe(writer, config, spec)
    write_vocabulary(writer, source.folder, spec.vocab_size, tell)
    kinds = [_announce(writer, planned, kind, tell) for planned in made]
    _check_room(part.parent, sum(info.nbytes for info in writer.tensors[0].values()))
    _write(writer, part, made, places, kinds)


def _check_room(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed + (16 << 20):
        raise StoreFailed(f"export: {needed >> 20} MiB of disk are needed, {free >> 20} are free",
                          kept="what was there before", how="free space, or name another place",
                          )  # fmt: skip


def _writer(architecture: str, model: str, kind: str) -> Any:
    from gguf import GGML_QUANT_VERSION, GGUFWriter

    writer = GGUFWriter(None, architecture)
    writer.add_type("model")
    writer.add_name(Path(model).name if os.sep in model else model)
    writer.add_file_type(KINDS[kind])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    return writer


def _announce(writer: Any, planned: Planned, kind: str, tell: Tell) -> str:
    """Tell `writer` of a tensor that is to come; the type in which it is written."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    flat = len(planned.shape) == 1 or planned.name.endswith("_norm.weight")
    chosen = "F32" if flat else kind
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[chosen]]
    if planned.shape[-1] % block:
        tell(f"{planned.name} is written in F16: its rows of {planned.shape[-1]} values are no "
             f"whole number of {kind} blocks of {block}")  # fmt: skip
        chosen, block, size = "F16", 1, 2
    writer.add_tensor_info(planned.name, planned.shape, np.dtype(np.float32),
                           math.prod(planned.shape) // block * size,
                           GGMLQuantizationType[chosen])  # fmt: skip
    return chosen


def _write(
    writer: Any, part: Path, made: list[Planned], places: list[Any], kinds: list[str]
) -> None:
    """The whole file: header, keys, places of tensors, and their values."""
    from gguf import GGMLQuantizationType, quants

    writer.write_header_to_file(part)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (file,) = writer.fout
    for planned, place, kind in zip(made, places, kinds, strict=True):
        writer.write_padding(file, file.tell())
        for values in _rows(planned, place):
            with np.errstate(over="ignore"):  # such a value is refused by name
                made_of_it = quants.quantize(values, GGMLQuantizationType[kind])
            file.write(_checked(made_of_it, kind, planned))
    writer.write_padding(file, file.tell())
    writer.close()


def _rows(planned: Planned, place: Any) -> Iterator[np.ndarray]:
    """The values of a tensor in float32, some rows at a time, in the file's order."""
    if place is None:
        yield planned.values
        return
    rows, wide = planned.shape[0], math.prod(planned.shape[1:])
    group = planned.head_dim or 1  # rows that stay together
    step = max(1, CHUNK // (wide * group)) * group
    kind = np.dtype(STORED[place.dtype])
    for first in range(0, rows, step):
        some = min(step, rows - first)
        start = place.data_range.offset + first * wide * kind.itemsize
        read = np.fromfile(place.data_range.filename, kind, some * wide, offset=start)
        if read.size < some * wide:
            raise Missing(f"models: {place.data_range.filename.name} ends inside the tensor "
                          f"{planned.source!r}", how="fetch the file again")  # fmt: skip
        yield _float32(read, planned).reshape(some, *planned.shape[1:])


def _float32(read: np.ndarray, planned: Planned) -> np.ndarray:
    """Stored values as float32, each head's rows in pairs, the norm's convention applied."""
    if read.dtype == np.dtype("<u2"):  # bfloat16: the upper half of a float32
        read = (read.astype(np.uint32) << 16).view(np.float32)
    values = read.astype(np.float32, copy=False)
    if planned.head_dim:
        wide = math.prod(planned.shape[1:])
        values = in_pairs(values.reshape(-1, wide), planned.head_dim).reshape(-1)
    return values + np.float32(planned.add) if planned.add else values


def _checked(written: np.ndarray, kind: str, planned: Planned) -> bytes:
    """Bytes of converted values. Raises: Unsupported when float16 cannot hold one of them."""
    if kind == "F16" and not np.isfinite(written).all():
        raise Unsupported(f"models: {planned.name} has values that float16 cannot hold",
                          how="--type BF16 or F32")  # fmt: skip
    return np.ascontiguousarray(written).tobytes()
