"""A hub's model comes whole, pinned and without pickles; every failure says what to do."""

import shutil
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmbench.errors import BadParams, LlmbenchError, Missing, StoreFailed, StudyFailed, Unsupported
from llmbench.models.source import locate
from llmbench.pulling import pull
from llmbench.pulling.hub import pull_from_hub
from llmbench.pulling.wanted import Wanted
from tests.pulling.doubles import SHA, Hub, HubHandler, serving

constants = pytest.importorskip("huggingface_hub.constants")
WANT = Wanted("hub", "org/model")
TOKEN = "hf_" + "x" * 34


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a library that may use the network of this test."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    hasty = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(import_module(f"huggingface_hub.{module}"), "time", hasty)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    double = Hub()
    with serving(double, HubHandler) as address:
        monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
        yield double


def failing(want: Wanted = WANT) -> LlmbenchError:
    with pytest.raises(LlmbenchError) as caught:
        pull_from_hub(want)
    return caught.value


def test_safetensors_and_what_is_beside_them_come_pinned(hub):
    pulled = pull_from_hub(WANT)
    assert sorted(p.name for p in Path(pulled.model).rglob("*") if p.is_file()) == [
        "config.json", "model.safetensors", "tokenizer.json"]  # fmt: skip
    assert (pulled.revision, pulled.fetched) == (SHA, True)
    assert pulled.nbytes == 300_000 + 2 + 8
    assert locate(pulled.model) == Path(pulled.model)
    assert (hub.seen["model"], hub.seen["main"]) == (1, 0), "the newest may change meanwhile"


def test_what_is_there_is_not_fetched_again(hub):
    pull_from_hub(WANT)
    before = hub.seen["model.safetensors"]
    again = pull_from_hub(WANT)
    assert (again.fetched, again.revision) == (False, SHA)
    assert hub.seen["model.safetensors"] == before


def test_a_cut_download_goes_on_where_it_stopped(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.cuts = [100_000, 60_000]
    pulled = pull_from_hub(WANT)
    assert (Path(pulled.model) / "model.safetensors").read_bytes() == b"w" * 300_000
    assert hub.ranges == ["bytes=100000-", "bytes=160000-"]


def test_files_that_came_whole_are_kept_when_the_rest_does_not_come(hub):
    hub.cuts = [0] * 50
    error = failing()
    assert isinstance(error, Missing) and "whole" in error.kept
    hub.cuts, hub.seen = [], Counter()
    assert pull_from_hub(WANT).fetched
    assert (hub.seen["tokenizer.json"], hub.seen["model.safetensors"]) == (0, 2)


def test_bytes_of_another_sha256_are_put_aside(hub, cache):
    hub.told_sha256 = "f" * 64
    error = failing()
    assert isinstance(error, StudyFailed) and "damaged" in error.what
    assert "f" * 64 in error.why
    assert len(list(cache.rglob("*.damaged"))) == 1
    assert not list(cache.rglob("snapshots/*/model.safetensors"))
    hub.told_sha256 = None
    assert pull_from_hub(WANT).fetched


def test_pickles_are_not_fetched(hub):
    del hub.files["model.safetensors"]
    error = failing()
    assert isinstance(error, Unsupported) and "pytorch_model.bin" in error.why
    assert hub.seen["pytorch_model.bin"] == 0


def test_without_room_nothing_is_fetched(hub, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=200_000)
    monkeypatch.setattr("llmbench.pulling.room.shutil.disk_usage", lambda place: usage)
    error = failing()
    assert isinstance(error, StoreFailed) and "293 KiB" in error.what
    assert hub.seen["model.safetensors"] == 0


def test_a_bad_token_is_said_and_never_shown(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.refuse["/api/"] = (
        401, {"X-Error-Message": "Invalid credentials in Authorization header"})  # fmt: skip
    error = failing()
    assert isinstance(error, Missing) and "HF_TOKEN" in error.how
    assert f"Bearer {TOKEN}" in hub.tokens
    assert TOKEN not in str(error)


@pytest.mark.parametrize("where", ["/api/", "/resolve/"])
def test_a_gated_model_names_the_page_where_its_licence_is_accepted(hub, where):
    hub.refuse[where] = (403, {"X-Error-Code": "GatedRepo"})
    error = failing()
    assert isinstance(error, Missing) and "licence" in error.what
    assert "/org/model" in error.how and "HF_TOKEN" in error.how


def test_what_is_not_there_names_the_nearest(hub):
    error = failing(Wanted("hub", "Qwen/Qwen2.5-0.5B-Instuct"))
    assert isinstance(error, BadParams)
    assert "did you mean Qwen/Qwen2.5-0.5B-Instruct?" in error.how


def test_a_revision_that_is_not_there_is_not_taken_for_a_missing_model(hub):
    hub.refuse["/revision/v9"] = (404, {"X-Error-Code": "RevisionNotFound"})
    error = failing(Wanted("hub", "org/model", "v9"))
    assert isinstance(error, BadParams) and "no revision 'v9'" in error.what


def test_a_busy_hub_is_asked_again_later(hub):
    hub.refuse["/api/"] = (429, {"Retry-After": "1"})
    assert "answered 429" in failing().what
    hub.refuse["/api/"] = (503, {})
    assert "answered 503" in failing().what


def test_a_page_of_a_proxy_is_no_hub(hub):
    hub.page = b"<html>Please log in</html>"
    error = failing()
    assert isinstance(error, Missing) and "no hub" in error.what and "proxy" in error.why


def test_nobody_there_is_said_with_the_address(cache, monkeypatch):
    with serving(Hub(), HubHandler) as address:
        pass
    monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
    error = failing()
    assert isinstance(error, Missing) and address in error.what


def test_offline_what_is_there_serves_and_nobody_is_asked(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = failing()
    assert isinstance(error, Missing)
    assert error.how == "HF_HUB_OFFLINE=0 llmbench pull hf:org/model"
    assert not hub.seen
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fetched = pull_from_hub(WANT)
    hub.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for want in (WANT, Wanted("hub", "org/model", SHA)):
        there = pull_from_hub(want)
        assert (there.model, there.revision, there.fetched) == (fetched.model, SHA, False)
    assert isinstance(failing(Wanted("hub", "org/model", "v9")), Missing)
    (Path(fetched.model) / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}')  # fmt: skip
    assert "not whole" in failing().what
    assert not hub.seen


def test_a_name_that_is_none_is_refused_before_anybody_is_asked(hub):
    error = failing(Wanted("hub", "org/.."))
    assert isinstance(error, BadParams) and not hub.seen


def test_one_that_fails_does_not_keep_the_others(hub):
    told = []
    with pytest.raises(BadParams) as caught:
        pull(["hf:other/thing", "hf:org/model"], tell=told.append)
    assert told[1] == "hf:org/model: fetched"
    assert "other/thing" in caught.value.what and "hf:org/model" in caught.value.kept
