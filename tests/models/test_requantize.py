"""Types that only llama.cpp writes, and the kept exports of folders."""

import hashlib
import sys
from pathlib import Path

import pytest

from llmbench.errors import BadParams, Missing, StoreFailed, Unsupported
from llmbench.models.checksum import kept_export
from llmbench.models.export import export
from llmbench.models.gguf_cache import gguf_of
from llmbench.models.requantize import export_any, requantize
from llmbench.models.source import find_model
from tests.families import random_model, read_gguf


@pytest.mark.llamacpp
def test_k_quants_of_a_file_are_llamacpps(tmp_path):
    told = []
    whole = export("builtin:tiny", tmp_path / "whole.gguf", "F32")
    made = requantize(whole, tmp_path / "k.gguf", "Q4_K_M", tell=told.append)
    tensors, keys = read_gguf(made)
    kinds = {tensor.tensor_type.name for tensor in tensors.values()}
    assert kinds == {"F32", "Q4_K", "Q6_K"} and told == []
    assert keys["general.file_type"] == 15  # LLAMA_FTYPE_MOSTLY_Q4_K_M
    assert made.stat().st_size < whole.stat().st_size / 4
    with pytest.raises(BadParams, match="there already"):
        requantize(whole, made, "Q4_K_M")


@pytest.mark.llamacpp
def test_tensors_that_fall_back_are_counted_and_told(tmp_path):
    folder, told = random_model("llama", tmp_path / "m"), []
    export_any(str(folder), tmp_path / "k.gguf", "Q4_K_M", tell=told.append)
    assert any("required fallback" in note for note in told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.gguf", "m"]


@pytest.mark.llamacpp
def test_a_quantised_file_is_not_quantised_again(tmp_path):
    small = export("builtin:tiny", tmp_path / "q8.gguf", "Q8_0")
    with pytest.raises(Unsupported, match=r"does not write q8\.gguf in Q4_K_M"):
        requantize(small, tmp_path / "k.gguf", "Q4_K_M")
    assert [path.name for path in tmp_path.iterdir()] == ["q8.gguf"]


@pytest.mark.llamacpp
def test_a_gguf_file_goes_through_llamacpp(tmp_path):
    whole = export("builtin:tiny", tmp_path / "whole.gguf", "F32")
    made = export_any(f"gguf:{whole}", tmp_path / "q8.gguf", "Q8_0")
    ours = export("builtin:tiny", tmp_path / "ours.gguf", "Q8_0")
    theirs, expected = (read_gguf(file)[0] for file in (made, ours))
    assert all((theirs[name].data == expected[name].data).all() for name in expected)
    with pytest.raises(Unsupported, match="a GGUF file already"):
        export(f"gguf:{whole}", tmp_path / "x.gguf", "Q8_0")
    with pytest.raises(BadParams, match="the file to be read"):
        requantize(whole, whole, "Q8_0", force=True)
    assert whole.stat().st_size > 10**7


def test_an_unknown_type_and_a_missing_library(tmp_path, monkeypatch):
    with pytest.raises(BadParams, match="no type 'Q4_K_XXL'"):
        export_any("builtin:tiny", tmp_path / "x.gguf", "Q4_K_XXL")
    monkeypatch.setattr("llmbench.models.llamacpp_library.find_spec", lambda name: None)
    with pytest.raises(Missing) as caught:
        export_any("builtin:tiny", tmp_path / "x.gguf", "Q4_K_M")
    assert "make llamacpp" in caught.value.how and "llmbench[llamacpp]" in caught.value.how
    assert export_any("builtin:tiny", tmp_path / "x.gguf", "Q8_0").is_file()  # needs none


def test_a_library_of_another_machine_is_named(monkeypatch):
    from llmbench.models import llamacpp_library

    monkeypatch.setattr(llamacpp_library, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # importing it raises ImportError
    with pytest.raises(Missing, match="cannot be loaded") as caught:
        llamacpp_library.llamacpp()
    assert "make llamacpp" in caught.value.how


def test_the_kept_export_is_made_once_and_again_for_other_words(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    folder = random_model("llama", tmp_path / "m")
    first = gguf_of(find_model(str(folder)), "Q8_0")
    written = first.stat().st_mtime_ns
    assert gguf_of(find_model(str(folder)), "Q8_0") == first
    assert first.stat().st_mtime_ns == written
    assert gguf_of(find_model(str(folder)), "F16") != first
    config = folder / "config.json"
    config.write_text(config.read_text().replace("1e-06", "1e-05"))
    assert gguf_of(find_model(str(folder)), "Q8_0") != first


def test_a_kept_export_that_is_damaged_is_made_again_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    folder = find_model(str(random_model("llama", tmp_path / "m")))
    file = gguf_of(folder, "Q8_0")
    whole, sums = file.read_bytes(), Path(f"{file}.sha256")
    assert sums.read_text() == f"{hashlib.sha256(whole).hexdigest()}\n"
    assert kept_export(sums.read_text().strip()) == file
    file.chmod(0o644)
    with file.open("rb+") as opened:
        opened.seek(-5000, 2)
        opened.write(bytes(3000))
    assert kept_export(sums.read_text().strip()) is None
    assert gguf_of(folder, "Q8_0") == file and file.read_bytes() == whole
    assert f"{file.name} is not as it was written and is made again" in capsys.readouterr().err
    sums.unlink()  # as an export of which nobody knows what was written
    gguf_of(folder, "Q8_0")
    assert sums.is_file() and "made again" in capsys.readouterr().err
    gguf_of(folder, "Q8_0")
    assert capsys.readouterr().err == ""


def test_a_cache_without_a_place_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreFailed, match="cannot be made"):
        gguf_of(find_model("builtin:tiny"), "Q8_0")


@pytest.mark.llamacpp
def test_a_kept_export_in_a_k_quant_is_llamacpps(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    made = gguf_of(find_model("builtin:tiny"), "Q4_K_M")
    tensors, _ = read_gguf(made)
    assert {tensor.tensor_type.name for tensor in tensors.values()} == {"F32", "Q4_K", "Q6_K"}
    assert gguf_of(find_model("builtin:tiny"), "Q4_K_M").stat().st_ino == made.stat().st_ino
    assert sorted(path.suffix for path in made.parent.iterdir()) == [".gguf", ".sha256"]


def test_a_k_quant_needs_llamacpp(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setattr("llmbench.models.llamacpp_library.find_spec", lambda name: None)
    with pytest.raises(Missing, match=r"llama\.cpp is not installed"):
        gguf_of(find_model("builtin:tiny"), "Q6_K")
    assert not list((tmp_path / "cache").rglob("*.gguf"))
