"""`import llmbench`: every promised name is there and does what the contract shows."""

import subprocess
import sys

import numpy as np
import pytest

import llmbench
from llmbench.errors import BadParams


def test_every_name_is_a_function_and_no_room_shadows_it():
    for name in set(llmbench.__all__) - {"__version__"}:
        assert callable(getattr(llmbench, name)), name
    code = (
        "import llmbench, pkgutil, importlib;"
        "rooms = [m.name for m in pkgutil.iter_modules(llmbench.__path__) if m.name[0] != '_'];"
        "[importlib.import_module('llmbench.' + room) for room in rooms];"
        "assert all(callable(getattr(llmbench, n)) for n in llmbench.__all__ if n[0] != '_')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        llmbench.nonsense  # noqa: B018


def test_a_loaded_engine_streams_tokens_with_their_text():
    with llmbench.load("builtin:tiny", engine="transformers", threads=1) as engine:
        ids = engine.tokenizer.encode("import os\n\n\ndef ")
        tokens = list(engine.stream(ids, output_tokens=6))
        assert len(tokens) == 6
        assert all(token.text == engine.tokenizer.decode([token.id]) for token in tokens)
        batch = list(engine.stream([ids, ids], output_tokens=2))
        assert [[t.id for t in step] for step in batch] == [[t.id] * 2 for t in tokens[:2]]
        table = engine.logprobs(ids)
        assert table.shape == (len(ids), 4096)
        assert table.dtype == np.float32
        assert next(iter(engine.next_logprobs(ids, top=1))) == tokens[0].id


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(BadParams, match="did you mean 'transformers'"):
        llmbench.load("builtin:tiny", engine="transformer")
    with pytest.raises(BadParams, match="did you mean builtin:tiny"):
        llmbench.load("builtin:tine")
    with pytest.raises(BadParams, match="did you mean 'dtype'"):
        llmbench.load("builtin:tiny", dtyp="float32")


def test_predict_without_a_device_means_this_machine():
    found = llmbench.predict("builtin:tiny", context_len=64)
    assert found.fits is True and "not known" not in found.why


def test_predict_knows_what_cannot_fit():
    found = llmbench.predict("hf:meta-llama/Llama-2-7b-hf", context_len=65536, dtype="float16")
    assert found.kv_bytes == 65536 * 524_288
    assert found.weight_bytes == 6_738_415_616 * 2
