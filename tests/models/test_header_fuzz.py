"""Whatever the bytes, a header is read or refused with BadParams, in little memory."""

import json
import os
import struct
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmbench.errors import BadParams
from llmbench.models.file_card import file_card
from llmbench.models.header import Skipped, TensorInfo, read_header
from tests.gguf_bytes import CODES, F32, F64, TEXT, array, gguf, key, small_model, tensor, written

ROOT = Path(__file__).resolve().parents[2]
SMALL = small_model()
KEPT = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WHOLE = {"B": (0, 2**8), "b": (-(2**7), 2**7), "H": (0, 2**16), "h": (-(2**15), 2**15),
         "I": (0, 2**32), "i": (-(2**31), 2**31), "Q": (0, 2**64),
         "q": (-(2**63), 2**63)}  # fmt: skip


def test_every_truncation_and_every_flip_is_read_or_refused_in_little_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "models" / "hostile.py"), str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    counted = json.loads(done.stdout)
    assert counted["cut refused"] == len(SMALL)
    assert "cut read" not in counted
    assert counted["flip refused"] > 1000
    assert counted["flip read"] > 1000  # in a name, a value or the data: only a checksum can tell


def survives(path: Path) -> None:
    for attempt in (read_header, file_card):
        try:
            attempt(path)
        except BadParams as error:
            assert error.how


@KEPT
@given(st.binary(max_size=400))
def test_any_bytes_behind_the_magic(tmp_path, data):
    survives(written(tmp_path / "m.gguf", b"GGUF" + data))


@KEPT
@given(
    st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=9)),
             min_size=1, max_size=4),
    st.integers(0, len(SMALL)),
)  # fmt: skip
def test_a_file_damaged_in_several_places(tmp_path, edits, length):
    data = bytearray(SMALL)
    for at, wrong in edits:
        data[at : at + len(wrong)] = wrong
    survives(written(tmp_path / "m.gguf", bytes(data[: max(length, 24)])))


@KEPT
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, len(SMALL) - 8))
def test_any_length_at_any_place(tmp_path, first, second, at):
    data = SMALL[:8] + struct.pack("<QQ", first % 64, second % 64) + SMALL[24:]
    survives(written(tmp_path / "m.gguf", data))
    survives(written(tmp_path / "m.gguf", SMALL[:at] + struct.pack("<Q", first) + SMALL[at + 8 :]))


def values(kind: int) -> st.SearchStrategy:
    if kind == TEXT:
        return st.text(max_size=20)
    if kind in (F32, F64):
        return st.floats(width=32 if kind == F32 else 64, allow_nan=False)
    if CODES[kind] == "?":
        return st.booleans()
    low, high = WHOLE[CODES[kind]]
    return st.integers(low, high - 1)


KINDS = st.sampled_from([*CODES, TEXT])
SCALAR = KINDS.flatmap(lambda kind: st.tuples(st.just(kind), values(kind)))
MANY = KINDS.flatmap(lambda kind: st.tuples(st.just(kind), st.lists(values(kind), max_size=5)))
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=15)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@KEPT
@given(
    st.dictionaries(NAMES, SCALAR | MANY, max_size=6),
    st.dictionaries(NAMES, SHAPES, max_size=5),
    st.sampled_from([2, 3]),
    st.booleans(),
)
def test_what_was_written_is_read(tmp_path, told, shapes, version, texts):
    told.pop("general.alignment", None)
    keys = [array(name, kind, found) if isinstance(found, list) else key(name, kind, found)
            for name, (kind, found) in told.items()]  # fmt: skip
    infos, places = [], []
    for name, shape in shapes.items():
        offset = -(-sum(places[-1]) // 32) * 32 if places else 0
        infos.append(tensor(name, shape, offset=offset))
        places.append((offset, 4 * prod(shape)))
    data = gguf(keys, infos, bytes(sum(places[-1]) if places else 0), version=version)
    header = read_header(written(tmp_path / "m.gguf", data), texts=texts)
    assert header.metadata == {name: _told(kind, found, texts)
                               for name, (kind, found) in told.items()}  # fmt: skip
    assert header.tensors == tuple(
        TensorInfo(name, shape, "F32", header.data_offset + offset, nbytes)
        for (name, shape), (offset, nbytes) in zip(shapes.items(), places, strict=True)
    )


def _told(kind: int, found: object, texts: bool) -> object:
    if not isinstance(found, list):
        return found
    return tuple(found) if texts or kind != TEXT else Skipped(len(found))


# -- safetensors ----------------------------------------------------------------------------------


def safetensors(header: str | bytes, data: bytes = b"") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text + data


ONE = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the length of the header"),
        (struct.pack("<Q", 2**62), "a header of at most 100,000,000 bytes"),
        (struct.pack("<Q", 99), "the end of the file"),
        (safetensors("[]"), "tensors by name, found list"),
        (safetensors("{"), "a header in JSON"),
        (safetensors("[" * 100_000), "a header in JSON"),
        (safetensors("[" * 300_000), "at most 200,000 of '['"),
        (safetensors(b'{"\xff":1}'), "a header in JSON"),
        (safetensors('{"a":1,"a":2}'), "a name stands twice"),
        (safetensors('{"__metadata__":[]}'), "__metadata__ as texts by name"),
        (safetensors('{"a":{"dtype":"F32","shape":[2]}}'), "dtype, shape and two data_offsets"),
        (safetensors(ONE.replace("[2]", "[-2]")), "dtype, shape and two data_offsets"),
        (safetensors(ONE.replace("[2]", "[true]")), "dtype, shape and two data_offsets"),
        (safetensors(ONE.replace("[2]", "[3]"), bytes(8)), "expected 12 bytes of 'a', found 8"),
        (safetensors(ONE, bytes(7)), "a file of"),
        (safetensors(ONE, bytes(9)), "a file of"),
        (safetensors(ONE.replace("[0,8]", "[8,16]"), bytes(16)), "a tensor at 63"),
        (safetensors('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                     '"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}', bytes(12)),
         "'b' at"),
    ],
    ids=lambda said: said[:30] if isinstance(said, str) else "",
)  # fmt: skip
def test_a_broken_safetensors_file_is_refused(tmp_path, data, said):
    with pytest.raises(BadParams) as caught:
        file_card(written(tmp_path / "m.safetensors", data))
    assert said in str(caught.value)


@KEPT
@given(st.binary(max_size=200), st.binary(max_size=20))
def test_any_bytes_as_safetensors(tmp_path, header, data):
    survives_safetensors(written(tmp_path / "m.safetensors", safetensors(header, data)))


@KEPT
@given(st.integers(0, len(ONE) - 1), st.binary(min_size=1, max_size=4))
def test_a_damaged_safetensors_file(tmp_path, at, wrong):
    text = ONE.encode()
    damaged = text[:at] + wrong + text[at + len(wrong) :]
    survives_safetensors(written(tmp_path / "m.safetensors", safetensors(damaged, bytes(8))))


def survives_safetensors(path: Path) -> None:
    try:
        file_card(path)
    except BadParams as error:
        assert error.how
