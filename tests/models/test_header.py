"""A header is read as ggml's own library reads it, or refused with where and what was expected."""

import os
import struct
from pathlib import Path

import gguf as library
import numpy as np
import pytest

from llmbench.errors import BadParams
from llmbench.models.header import MAX_HEADER, MAX_ITEMS, Skipped, TensorInfo, read_header
from llmbench.models.header.bounded import CHUNK, Bounded
from llmbench.models.header.ggml_types import RETIRED, TYPES
from tests.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    F64,
    GGML_F32,
    GGML_Q4_K,
    GGML_Q8_0,
    I8,
    I16,
    I32,
    I64,
    TEXT,
    U8,
    U16,
    U32,
    U64,
    array,
    gguf,
    key,
    small_model,
    tensor,
    text,
    written,
)

SCALARS = [(U8, 255), (I8, -128), (U16, 65535), (I16, -32768), (U32, 2**32 - 1), (I32, -(2**31)),
           (F32, 0.5), (BOOL, True), (TEXT, "naïve ▁ 漢"), (U64, 2**64 - 1), (I64, -(2**63)),
           (F64, 1e-300)]  # fmt: skip


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a file."""
    return lambda data, **options: read_header(written(tmp_path / "m.gguf", data), **options)


@pytest.fixture
def refused(read):
    """What is said of bytes that must be refused."""

    def refusal(data: bytes) -> str:
        with pytest.raises(BadParams) as caught:
            read(data)
        assert "m.gguf" in caught.value.what
        assert caught.value.how
        return str(caught.value)

    return refusal


# -- what is right ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_every_kind_of_value_is_read(read, version):
    scalars = [key(f"k{kind}", kind, found) for kind, found in SCALARS]
    arrays = [array(f"a{kind}", kind, [found, found]) for kind, found in SCALARS]
    header = read(gguf(scalars + arrays, version=version))
    assert header.version == version
    assert header.tensors == ()
    assert dict(header.metadata) == {f"k{kind}": found for kind, found in SCALARS} | {
        f"a{kind}": (found, found) for kind, found in SCALARS
    }


def test_tensors_have_row_major_shapes_and_absolute_places(read):
    data = bytes(24) + bytes(8) + bytes(68)
    header = read(gguf([], [tensor("a", (2, 3)), tensor("b", (2, 32), GGML_Q8_0, 32)], data))
    start = header.data_offset
    assert start % 32 == 0
    assert header.tensors == (
        TensorInfo("a", (2, 3), "F32", start, 24),
        TensorInfo("b", (2, 32), "Q8_0", start + 32, 68),
    )


@pytest.mark.parametrize("alignment", [1, 8, 4096])
def test_the_alignment_that_a_file_states_holds(read, alignment):
    keys = [key("general.alignment", U32, alignment)]
    second = -(-12 // alignment) * alignment
    data = bytes(second + 4)
    infos = [tensor("a", (3,)), tensor("b", (1,), offset=second)]
    header = read(gguf(keys, infos, data, alignment=alignment))
    assert (header.alignment, header.data_offset % alignment) == (alignment, 0)
    assert header.tensors[1].offset == header.data_offset + second


def test_padding_behind_the_last_tensor_may_lack_and_more_may_follow(read):
    infos = [tensor("a", (3,))]
    assert read(gguf([], infos, bytes(12))).tensors == read(gguf([], infos, bytes(99))).tensors


def test_texts_can_be_walked_over_without_building_them(read):
    data = small_model()
    whole, light = read(data), read(data, texts=False)
    assert whole.metadata["tokenizer.ggml.tokens"] == ("a", "b", "▁c")
    assert light.metadata["tokenizer.ggml.tokens"] == Skipped(3)
    assert len(light.metadata["tokenizer.ggml.tokens"]) == 3
    assert light.tensors == whole.tensors
    assert light.metadata["llama.block_count"] == 1


@pytest.mark.parametrize("longest", [3, CHUNK + 5])
def test_texts_that_cross_what_was_read_at_once_are_whole(read, longest):
    words = ["x" * (n % longest) for n in range(0, 40 * longest, longest // 3 + 1)]
    keys = [array("t", TEXT, words), key("after", U32, 7)]
    assert read(gguf(keys)).metadata == {"t": tuple(words), "after": 7}
    assert read(gguf(keys), texts=False).metadata == {"t": Skipped(len(words)), "after": 7}


def test_bytes_that_are_not_utf8_are_kept(read):
    found = read(gguf([array("t", TEXT, [b"\xffa"]), key("u", TEXT, b"\xc3")])).metadata
    assert found["t"][0].encode("utf-8", "surrogateescape") == b"\xffa"
    assert found["u"].encode("utf-8", "surrogateescape") == b"\xc3"


def test_a_file_larger_than_memory_is_read_by_its_header(tmp_path):
    path = written(tmp_path / "m.gguf", gguf([], [tensor("a", (2**34,))]))
    os.truncate(path, path.stat().st_size + 2**36)
    assert read_header(path).tensors[0].nbytes == 2**36


# -- as the gguf package reads it ------------------------------------------------------------------


def model_of_the_library(path: Path) -> None:
    """A file with every type that the gguf package can lay out, written by it."""
    writer = library.GGUFWriter(path, "llama")
    writer.add_name("Golden")
    writer.add_custom_alignment(64)
    for kind, found in SCALARS:
        writer.add_key_value(f"k{kind}", found, library.GGUFValueType(kind))
    writer.add_array("words", ["a", "", "ü" * 100])
    writer.add_array("reals", [0.25, -1.5])
    writer.add_array("wholes", [1, -2, 3])
    writer.add_array("flags", [True, False])
    for kind, (block, nbytes) in library.GGML_QUANT_SIZES.items():
        raw = np.full((3, 2 * nbytes), int(kind), np.uint8)
        writer.add_tensor(f"t.{kind.name}", raw, raw_shape=(3, 2 * nbytes), raw_dtype=kind)
        assert block
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_walk_agrees_with_the_gguf_package(tmp_path):
    path = tmp_path / "golden.gguf"
    model_of_the_library(path)
    ours, theirs = read_header(path), library.GGUFReader(path)
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in ours.metadata.items()} == fields
    assert (ours.alignment, ours.data_offset) == (theirs.alignment, theirs.data_offset)
    assert [
        (t.name, t.kind, t.shape, t.offset, t.nbytes) for t in ours.tensors
    ] == [
        (t.name, t.tensor_type.name, tuple(int(n) for n in reversed(t.shape)), t.data_offset,
         t.n_bytes) for t in theirs.tensors
    ]  # fmt: skip
    content = path.read_bytes()
    for info in ours.tensors:
        kind = library.GGMLQuantizationType[info.kind]
        assert set(content[info.offset : info.offset + info.nbytes]) == {int(kind)}


def test_the_table_of_types_is_that_of_the_gguf_package():
    theirs = {int(k): (k.name, *sizes) for k, sizes in library.GGML_QUANT_SIZES.items()}
    assert {number: tuple(TYPES[number]) for number in theirs} == theirs
    assert set(TYPES) - set(theirs) == {42}  # Q2_0 is younger than the package
    assert not set(RETIRED) & set(TYPES)


# -- what ggml's own test refuses: each of its kinds, made here ------------------------------------

ONE = [tensor("my_tensor", (8,))]
DATA = bytes(32)
BAD_ALIGNMENT = key("general.alignment", U32, 13)
BROKEN = {
    "header, bad magic": (gguf(magic=b"FUGG"), "bytes swapped"),
    "header, version 0": (gguf(version=0), "a little-endian file"),
    "header, version 1": (gguf(version=1), "version 2 or 3, found version 1"),
    "header, a future version": (gguf(version=4), "version 2 or 3, found version 4"),
    "header, big endian": (gguf(version=3 << 24), "found a big-endian one"),
    "header, number of tensors": (gguf(n_tensors=2**64 - 1), "at most 100,000 tensors"),
    "header, number of keys": (gguf(n_keys=2**64 - 1), "at most 100,000 keys"),
    "key, its size": (gguf([struct.pack("<Q", 2**64 - 1) + b"key"]), "key 1 of 1 of at most"),
    "key, empty": (gguf([key("", U32, 1)]), "a name for key 1 of 1, found an empty one"),
    "key, not UTF-8": (gguf([key(b"\xff", U32, 1)]), "key 1 of 1 in UTF-8"),
    "key, its type": (gguf([key("k", 13, b"\0" * 8)]), "a type from 0 to 12 for 'k', found 13"),
    "key, type of an array": (gguf([array("k", TEXT, [])[:-12] + struct.pack("<IQ", 13, 0)]),
                              "a type from 0 to 12"),
    "key, twice": (gguf([key("k", U32, 1), key("k", U32, 2)]), "every key once, found 'k' again"),
    "key, alignment": (gguf([BAD_ALIGNMENT]), "a power of two as general.alignment, found 13"),
    "key, alignment 0": (gguf([key("general.alignment", U32, 0)]), "a power of two"),
    "key, type of alignment": (gguf([key("general.alignment", I32, 1)]), "32-bit unsigned number"),
    "key, boolean 2": (gguf([key("k", BOOL, b"\2")]), "0 or 1 in 'k', found 2"),
    "key, boolean 2 in an array": (gguf([array("k", U8, [1, 2]).replace(
        struct.pack("<IIQ", ARRAY, U8, 2), struct.pack("<IIQ", ARRAY, BOOL, 2))]), "0 or 1"),
    "key, array of arrays": (gguf([array("k", TEXT, [])[:-12] + struct.pack("<IQ", ARRAY, 0)]),
                             "found arrays"),
    "tensor, size of its name": (gguf([], [tensor("x" * 64, (8,))], DATA), "at most 63 bytes"),
    "tensor, empty name": (gguf([], [tensor("", (8,))], DATA), "a name for the name of tensor 1"),
    "tensor, 5 dimensions": (gguf([], [tensor("t", (1,) * 5)], DATA), "1 to 4 dimensions"),
    "tensor, no dimension": (gguf([], [tensor("t", ())], DATA), "1 to 4 dimensions"),
    "tensor, negative shape": (gguf([], [tensor("t", (-1, 8))], DATA), "a shape of 't'"),
    "tensor, dimension 0": (gguf([], [tensor("t", (0, 8))], DATA), "a shape of 't'"),
    "tensor, too many values": (gguf([], [tensor("t", (2**33, 2**33))], DATA), "a shape of 't'"),
    "tensor, too many bytes": (gguf([], [tensor("t", (3 * 2**30, 2**30), 27)], DATA),
                               "bytes of 't', found the end of the file"),
    "tensor, part of a block": (gguf([], [tensor("t", (2, 128), GGML_Q4_K)], DATA),
                                "blocks of 256 values (Q4_K), found 128 values a row"),
    "tensor, its type": (gguf([], [tensor("t", (8,), 43)], DATA), "a known type of 't'"),
    "tensor, a retired type": (gguf([], [tensor("t", (32,), 31)], DATA),
                               "Q4_0_4_4 was taken out of ggml"),
    "tensor, its offset": (gguf([], [tensor("t", (8,), offset=-1)], DATA), "an offset of 't'"),
    "tensor, name twice": (gguf([], [*ONE, tensor("my_tensor", (8,), offset=32)], bytes(64)),
                           "every tensor name once, found 'my_tensor' 2 times"),
    "tensor, alignment": (gguf([BAD_ALIGNMENT], ONE, DATA), "a power of two"),
    "tensor, other alignment": (gguf([], [tensor("a", (2,)), tensor("b", (2,), offset=8)],
                                     bytes(64)), "an offset of 'b' that 32 divides"),
    "data, overlapping": (gguf([], [*ONE, tensor("b", (8,))], bytes(64)),
                          "'b' at 32 of the data"),
    "data, a hole": (gguf([], [*ONE, tensor("b", (8,), offset=64)], bytes(96)),
                     "'b' at 32 of the data"),
    "data, too little": (gguf([], ONE, bytes(31)), "1 bytes too early"),
    "data, none": (gguf([], ONE), "32 bytes of 'my_tensor'"),
    "data, sizes that overflow": (
        gguf([], [tensor("a", (2**63 - 64,), 24), tensor("b", (2**63 - 64,), 24, 2**63 - 64)],
             DATA), "bytes of 'a', found the end of the file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused(refused, kind):
    data, said = BROKEN[kind]
    assert said in refused(data)


def test_a_refusal_names_file_offset_expected_found_and_remedy(refused, tmp_path):
    said = refused(gguf([key("ok", U32, 1), key("k", 13, b"")]))
    at = len(gguf([key("ok", U32, 1)], n_keys=2, alignment=1)) + len(text("k"))
    assert said.startswith(
        f"{tmp_path / 'm.gguf'}: refused at byte {at}: expected a type from 0 to 12 for 'k', "
        "found 13\ngo on: fetch the file again and compare"
    )


@pytest.mark.parametrize(
    "keys",
    [
        [struct.pack("<Q", 2**63) + b"key"],
        [key("k", TEXT, "")[:-8] + struct.pack("<Q", 2**63)],
        [array("k", TEXT, [], count=2**40)],
        [array("k", TEXT, [], count=2**22)],
        [array("k", U64, [], count=2**61)],
        [array("k", U8, [], count=2**22)],
        [array("k", BOOL, [], count=2**63)],
    ],
)
def test_a_hostile_length_is_refused(refused, keys):
    refused(gguf(keys))


def test_numbers_of_10_to_the_12_are_refused(refused):
    refused(gguf(n_tensors=10**12))
    refused(gguf(n_keys=10**12))


def test_a_header_of_more_than_its_bound_is_refused(tmp_path):
    large = text("k") + struct.pack("<IQ", TEXT, MAX_HEADER - 1000) + bytes(MAX_HEADER - 1000)
    path = written(tmp_path / "m.gguf", gguf([large, key("l", TEXT, "x" * 1000)]))
    with pytest.raises(BadParams, match=f"a header of at most {MAX_HEADER:,} bytes"):
        read_header(path)
    path = written(path, gguf([text("k") + struct.pack("<IQ", TEXT, 2**28)]))
    with pytest.raises(BadParams, match=f"'k' of at most {MAX_HEADER:,} bytes"):
        read_header(path)


@pytest.mark.parametrize("texts", [True, False])
def test_more_items_than_any_vocabulary_are_refused(tmp_path, texts):
    half = MAX_ITEMS // 2 + 1
    keys = [array("a", TEXT, [""] * half), array("b", TEXT, [], count=half)]
    path = written(tmp_path / "m.gguf", gguf(keys) + bytes(8 * half))
    with pytest.raises(BadParams, match=f"at most {MAX_ITEMS:,} items in all"):
        read_header(path, texts=texts)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    path = written(tmp_path / "m", bytes(3 * CHUNK))
    with path.open("rb", buffering=0) as file:
        source = Bounded(file, path)
        source.take(10, "the start")
        os.truncate(path, CHUNK)
        with pytest.raises(BadParams, match="the file became shorter"):
            source.take(2 * CHUNK, "the rest")


# -- what is no GGUF file --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "an empty file"),
        (b"GG", "b'GG'"),
        (bytes(5000), "zeros"),
        (b"\n <!DOCTYPE html><html>", "a web page"),
        (b"<html><head><title>Sign in", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (struct.pack("<Q", 60) + b'{"a":{"dtype":"F32"', "a safetensors file"),
        (b"PK\x03\x04\x14\x00archive/data.pkl", "a zip archive"),
        (b"\x80\x02}q\x00(X\x01", "a pickle"),
        (b'{"schemaVersion":2,"mediaType":', "an Ollama manifest"),
        (b'{"error":"Repository not found"}', "a JSON text"),
        (b"tjgg\x03\0\0\0", "a GGML file from before GGUF"),
        (b"\x1f\x8b\x08\0", "a compressed file"),
        (b"Entry not found", "b'Entry not found'"),
    ],
)
def test_another_kind_of_file_is_named(refused, data, said):
    assert said in refused(data)


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "absent", Path("a\0b"), Path("/dev/zero")):
        with pytest.raises(BadParams, match=r"is no file|cannot be read: No such file"):
            read_header(path)


def test_ggml_numbers_are_what_the_helper_calls_them():
    assert [TYPES[n].name for n in (GGML_F32, GGML_Q8_0, GGML_Q4_K)] == ["F32", "Q8_0", "Q4_K"]
