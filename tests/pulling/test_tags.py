"""A tag comes into the server's folder; what the server says otherwise becomes what to do."""

import shutil

import pytest

from llmbench.cli.show import pulled_row
from llmbench.engines.ollama_server import Server, attach
from llmbench.errors import BadParams, EngineLost, LlmbenchError, Missing, StoreFailed, StudyFailed
from llmbench.pulling import pull
from llmbench.pulling.tags import pull_tag
from llmbench.pulling.wanted import Wanted
from tests.gguf_bytes import small_model
from tests.ollama_folders import add_tag
from tests.pulling.doubles import Registry, RegistryHandler, serving

pytest.importorskip("ollama")
WANT = Wanted("tag", "qwen2.5:0.5b")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    double = Registry()
    with serving(double, RegistryHandler) as address:
        monkeypatch.setenv("OLLAMA_HOST", address)
        double.address = address
        yield double


@pytest.fixture
def server(registry: Registry) -> Server:
    return attach(registry.address, "")


def failing(server: Server, want: Wanted = WANT) -> LlmbenchError:
    with pytest.raises(LlmbenchError) as caught:
        pull_tag(want, server)
    return caught.value


def test_a_tag_is_fetched_once_and_its_file_named(registry, server, tmp_path):
    blob = tmp_path / "sha256-aa"
    blob.touch()
    registry.blob = str(blob)
    first, second = pull_tag(WANT, server), pull_tag(WANT, server)
    assert (first.fetched, second.fetched, registry.pulls) == (True, False, ["qwen2.5:0.5b"])
    assert first.model == f"gguf:{blob}"
    assert (first.nbytes, first.weights) == (registry.size, "ab" * 6)


def test_a_tag_that_is_found_by_its_name_is_called_so(registry, server, tmp_path, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    registry.blob = str(add_tag(tmp_path, WANT.name, small_model()))
    assert pull_tag(WANT, server).model == "ollama:qwen2.5:0.5b"
    registry.blob = str(add_tag(tmp_path / "elsewhere", WANT.name, small_model()))
    assert pull_tag(WANT, server).model == f"gguf:{registry.blob}"


def test_a_file_that_cannot_be_seen_has_no_name_here(registry, server):
    pulled = pull_tag(WANT, server)
    assert pulled.model == ""
    assert "cannot be read" in pulled_row(pulled)["name it"]


@pytest.mark.parametrize(
    ("said", "kind", "how"),
    [("pull model manifest: file does not exist", BadParams, "did you mean qwen2.5:0.5b"),
     ("dial tcp: lookup registry.example: no such host", Missing, "HTTPS_PROXY"),
     ("write blob: no space left on device", StoreFailed, "free some space"),
     ("something new", StudyFailed, "same command")],
)  # fmt: skip
def test_the_servers_words_become_what_to_do(registry, server, said, kind, how):
    registry.error = said
    error = failing(server, Wanted("tag", "qwen2.5:0.5"))
    assert isinstance(error, kind)
    assert how in error.how and said in error.why


def test_a_pull_that_ends_without_success_is_none(registry, server):
    registry.success = False
    assert isinstance(failing(server), EngineLost)


def test_a_layer_that_does_not_fit_is_not_fetched(registry, server, tmp_path, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=258 * 2**20)
    monkeypatch.setattr("llmbench.pulling.room.shutil.disk_usage", lambda place: usage)
    server.models = tmp_path
    assert "2.50 MiB of disk" in failing(server).what
    registry.have.clear()
    registry.pulls.clear()
    foreseen = Wanted("tag", "qwen2.5:0.5b", foreseen_bytes=2**30)
    assert "1.00 GiB of disk" in failing(server, foreseen).what
    assert registry.pulls == []


def test_a_server_that_goes_away_is_said(registry, server):
    server.port = 1
    assert isinstance(failing(server), EngineLost)


def test_a_server_is_found_once_and_its_absence_said_once(registry, monkeypatch):
    assert [one.asked for one in pull(["tier1"])] == [
        "ollama:smollm:135m", "ollama:qwen2.5:0.5b", "ollama:qwen2.5:1.5b"]  # fmt: skip
    assert len(registry.pulls) == 3
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    told = []
    with pytest.raises(Missing) as caught:
        pull(["tier1"], tell=told.append)
    assert len(told) == 3 and caught.value.what.count("no Ollama server") == 1


def test_our_own_server_sees_the_proxy_and_ends(monkeypatch):
    given, closed = {}, []
    double = Server("127.0.0.1", 1, "0.17.4", None, end=lambda: closed.append(True))
    monkeypatch.setattr("llmbench.pulling.open_server",
                        lambda host, **how: given.update(host=host, **how) or double)  # fmt: skip
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    with pytest.raises(EngineLost):
        pull(["ollama:a:b"])
    assert given["host"] == "" and given["tuning"]["HTTPS_PROXY"] == "http://proxy:3128"
    assert closed == [True]


def test_nothing_named_is_said():
    with pytest.raises(BadParams):
        pull([])
