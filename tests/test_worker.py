"""The parent's handle of a child: whose work counts as the child's."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from llmbench.engines.base import served_files
from llmbench.models.checksum import sha256_of
from llmbench.models.gguf_cache import gguf_of
from llmbench.models.source import find_model
from llmbench.record import Point, Repeat
from llmbench.worker import Child, Session

BURN = "import time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\ninput()"
BELOW = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])"


@pytest.fixture
def child():
    child = Child(1)
    yield child
    child.kill()


@pytest.mark.parametrize("code", [BURN, BELOW], ids=["a server", "its runner"])
def test_the_cpu_time_of_those_that_work_for_a_child_is_the_childs(child, code):
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        server.stdout.readline()
        alone = child.cpu_s()
        child.servers = [server.pid]
        assert child.cpu_s() - alone > 0.45
        server.communicate(b"\n")


def test_a_server_that_is_gone_takes_nothing_of_the_childs_own(child):
    with subprocess.Popen([sys.executable, "-c", ""]) as server:
        pass
    before = child.ask({"do": "nothing"}, 30) and child.cpu_s()
    child.servers = [server.pid]
    assert child.cpu_s() >= before > 0


def test_a_child_whose_servers_cannot_be_seen_has_no_watch(child):
    assert child.watch().pids == [child.process.pid]
    child.servers = [123]
    assert child.watch().pids == [child.process.pid, 123]
    child.servers = None
    assert child.watch() is None
    assert child.cpu_s() >= 0


def test_memory_of_unseen_servers_is_not_told_as_the_clients_own():
    session = Session()
    session.engine = SimpleNamespace(capabilities=frozenset({"server"}), pids=lambda: [])
    assert session._servers() is None
    session.engine.pids = lambda: [7, 8]
    assert session._servers() == [7, 8]
    session.engine.capabilities = frozenset()
    assert session._servers() == []


@pytest.mark.parametrize(("prompt", "label"), [(2016, []), (2017, ["beyond_context"])])
def test_a_repeat_longer_than_the_training_is_labelled(child, prompt, label):
    source = find_model("builtin:tiny")
    point = Point(study="scaling", model=source.name, model_sha256=source.sha256, engine="fake",
                  engine_options={},
                  batch_size=1, prompt="exact", prompt_tokens=prompt, output_tokens=32,
                  device="cpu", threads=1, seed=17, memory_limit_bytes=0)  # fmt: skip
    load = {"do": "load", "engine": "fake", "model": source.name, "sha256": source.sha256,
            "options": {"device": "cpu", "threads": 1, "process_seed": 1},
            "memory_limit_bytes": 0}  # fmt: skip
    assert child.ask(load, 60)["status"] == "ok"
    asked = Repeat(point=point, process_run=0, block=0)
    told = child.ask({"do": "repeat", "repeat": asked.model_dump(), "warmups": 0}, 60)
    assert (told["status"], told["flags"]) == ("ok", label)


def test_the_page_cache_is_that_of_the_file_that_served(own_cache):
    source = find_model("builtin:tiny")
    file = gguf_of(source, "Q8_0")  # just written: all of it is cached
    session = Session()
    told = session.do_load("edge", source.name, source.sha256,
                           {"threads": 1, "weights": "Q8_0"}, 0)  # fmt: skip
    assert told["served"]["file_sha256"] == sha256_of(file) != source.sha256
    assert session.do_release()["released"]["cached_bytes"] == file.stat().st_size


def test_a_server_whose_file_cannot_be_seen_has_no_page_cache():
    source = find_model("builtin:tiny")
    assert served_files(SimpleNamespace(), source) == source.weight_files
    assert served_files(SimpleNamespace(files=()), source) == ()
