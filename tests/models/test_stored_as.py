"""One vocabulary for how weights are stored, whoever tells it."""

import pytest

from llmbench.models.header import read_header
from llmbench.models.stored_as import FILE_TYPES, stored_as
from tests.gguf_bytes import (
    GGML_F32,
    GGML_Q4_K,
    GGML_Q8_0,
    TEXT,
    U32,
    gguf,
    key,
    tensor,
    written,
)

TENSORS = [tensor("a.weight", (1, 256), GGML_Q4_K), tensor("b.weight", (8,), GGML_F32, 160)]
DATA = bytes(160 + 32)


def told(tmp_path, *keys, tensors=TENSORS, data=DATA):
    path = written(tmp_path / "m.gguf", gguf(keys, tensors, data))
    return stored_as(read_header(path, texts=False))


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "float32"), (1, "float16"), (32, "bfloat16"), (7, "Q8_0"), (2, "Q4_0"), (15, "Q4_K_M")],
)
def test_a_file_type_has_the_name_of_records(tmp_path, number, name):
    assert told(tmp_path, key("general.file_type", U32, number)) == name


@pytest.mark.parametrize("keys", [(), (key("general.file_type", U32, 1024),),
                                  (key("general.file_type", U32, 9999),),
                                  (key("general.file_type", TEXT, "x"),)])  # fmt: skip
def test_a_file_that_does_not_say_is_called_by_what_most_bytes_are(tmp_path, keys):
    assert told(tmp_path, *keys) == "Q4_K"
    plain = [tensor("a.weight", (64,)), tensor("b.weight", (1, 32), GGML_Q8_0, 256)]
    assert told(tmp_path, *keys, tensors=plain, data=bytes(320)) == "float32"


def test_the_names_are_those_of_the_gguf_package():
    from gguf import LlamaFileType

    theirs = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
              for kind in LlamaFileType if kind is not LlamaFileType.GUESSED}  # fmt: skip
    assert {number: theirs[number] for number in FILE_TYPES} == FILE_TYPES
