"""The ordinary path, and real deaths, against a real server of our own: `make ollama` first."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

import llmbench
from llmbench.engines import ollama, ollama_server
from llmbench.engines.ollama import OllamaEngine
from llmbench.errors import EngineLost, Missing, Unsupported
from llmbench.models.checksum import sha256_of
from llmbench.models.export import export
from llmbench.models.source import BUILTIN, find_model
from llmbench.profilers.clock import MonotonicClock
from llmbench.profilers.memory import tree_bytes
from llmbench.timing import time_repeat

pytestmark = pytest.mark.ollama
ROOT = Path(__file__).parents[2]
SECRET = "canary-8c1f"
# Largest difference of log-probabilities to transformers in float32, over the 20 likeliest tokens
# of four prefixes: the server's cache is F16. Seen on one machine: 0.0013, 0.0021 and 0.11.
CLOSE = {"F32": 0.005, "F16": 0.01, "Q8_0": 0.3}


def gone(pids: list[int], within_s: float = 20.0) -> bool:
    """Whether all processes are gone, as soon as they are."""
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return not psutil.wait_procs(left, within_s)[1]


@pytest.fixture(autouse=True)
def no_other_server(monkeypatch):
    monkeypatch.delenv("OLLAMA_HOST", raising=False)


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    engine = OllamaEngine()
    engine.served = engine.load(find_model("builtin:tiny"), {"threads": 1})
    yield engine
    engine.close()


@pytest.fixture
def ids(engine):
    return engine.texts.encode(" the name of the file")


def test_it_generates_counts_right_and_leaves_no_process(engine, ids):
    pids = engine.pids()
    assert len(pids) == 2
    raw, witness = time_repeat(engine, [ids], 32, clock=MonotonicClock())
    assert engine.told().flags == (), engine.told().reason
    assert (witness.output_tokens, witness.end_reason) == (32, "length")
    assert raw.step_ns == sorted(raw.step_ns)
    assert raw.server["prompt_eval_count"] == len(ids)
    assert raw.server["eval_count"] == raw.server["chunks"] == 32
    assert raw.server["total_s"] <= raw.end_ns / 1e9
    engine.close()
    assert gone(pids)


def test_the_tokens_are_those_of_our_own_engine(engine, ids):
    with llmbench.load("builtin:tiny", engine="edge") as edge:
        expected = [token.id for token in edge.stream(ids, 32)]
    assert [token for [token] in engine.stream([ids], 32)] == expected


def test_what_serves_is_told_by_the_server_its_log_and_the_file(engine):
    served = engine.served
    assert served.impl == "own server" and served.attention_impl == "flash"
    assert [file.name for file in engine.files] == [f"sha256-{served.file_sha256}"]
    assert (served.weight_format, served.window) == ("float32", 2048)
    assert served.kv_format == "float16"
    assert served.weight_bytes == 3_409_664 * 4
    assert "CPU.0." in served.build
    assert served.versions["ollama"] == engine.server.version


def test_the_server_sees_no_secret_and_hides_from_the_network(engine):
    for pid in engine.pids():
        environment = psutil.Process(pid).environ()
        assert SECRET not in str(environment)
        assert environment["OLLAMA_NO_CLOUD"] == "1"
    listening = [c.laddr.ip for pid in engine.pids() for c in psutil.Process(pid).net_connections()
                 if c.status == psutil.CONN_LISTEN]  # fmt: skip
    assert set(listening) == {"127.0.0.1"}


@pytest.mark.parametrize("weights", CLOSE)
def test_log_probabilities_are_those_of_transformers(weights):
    prefixes = ["def", " the name", "import os\nimport sys\n", "class Reader(object):\n    "]
    seen = []
    with (
        llmbench.load("builtin:tiny", engine="transformers") as truth,
        llmbench.load("builtin:tiny", engine="ollama", weights=weights) as engine,
    ):
        for ids in map(truth.tokenizer.encode, prefixes):
            table = truth.logprobs(ids)[-1]
            told = engine.next_logprobs(ids)
            assert len(told) >= 15  # some of 20 are bytes of characters
            seen += [abs(table[token] - value) for token, value in told.items()]
    assert np.max(seen) < CLOSE[weights]


def test_a_prompt_given_twice_is_read_twice(monkeypatch):
    """As the server's own log tells, which says how much of a prompt it found in its cache."""
    monkeypatch.setitem(ollama.FLASH, "auto", {"OLLAMA_DEBUG": "1"})
    engine = OllamaEngine()
    engine.load(find_model("builtin:tiny"), {"threads": 1})
    ids = engine.texts.encode(" the name of the file")
    for _ in range(3):
        list(engine.stream([ids], 2))
    log = engine.server.log_text()
    used = re.findall(rf"loading cache slot.* prompt={len(ids)} used=(\d+)", log)
    engine.close()
    assert used == ["0"] * 3


def test_a_model_is_made_once(engine):
    import ollama as package

    client = package.Client(host=engine.server.address)
    [found] = [m for m in client.list().models if m.model == f"{engine._model}:latest"]
    again = OllamaEngine()
    again.load(find_model("builtin:tiny"), {"threads": 1})
    [same] = [m for m in client.list().models if m.model == found.model]
    again.close()
    assert same.modified_at == found.modified_at


def test_a_server_that_is_there_is_used_and_left_alone(engine, ids):
    guest = OllamaEngine()
    served = guest.load(
        find_model("builtin:tiny"),
        {"host": engine.server.address, "threads": 1, "weights": "F16"},
    )
    assert (served.impl, served.weight_format) == (engine.server.address, "float16")
    assert guest.pids()[0] == engine.pids()[0]
    assert len(list(guest.stream([ids], 4))) == 4
    guest.close()
    assert list(engine.stream([ids], 4))
    assert engine.told().flags == ("reloaded",)  # there is room for one model at a time


@pytest.fixture
def tag(engine):
    """A tag of the server's own, as a pull would leave it."""
    import ollama as package

    client = package.Client(host=engine.server.address)
    client.copy(engine._model, "llmbench-test/tiny:f32")
    yield "ollama:llmbench-test/tiny:f32"
    client.delete("llmbench-test/tiny:f32")


def test_a_tag_is_the_bytes_that_the_server_has(engine, ids, tag, monkeypatch):
    """Each engine reads the server's own file, and no server is sent what it has."""
    source, answers = find_model(tag), {}
    assert source.sha256 == find_model(f"gguf:{source.file}").sha256
    for name in ("edge", "ollama"):
        with llmbench.load(tag, engine=name, threads=1) as loaded:
            assert loaded.tokenizer.encode(" the name of the file") == ids
            answers[name] = [token.id for token in loaded.stream(ids, 32)]
    assert answers["ollama"] == answers["edge"] == [token for [token] in engine.stream([ids], 32)]
    monkeypatch.setattr("ollama.Client.create_blob", lambda *given: pytest.fail("sent again"))
    monkeypatch.setattr("ollama.Client.list", lambda client: SimpleNamespace(models=[]))
    guest = OllamaEngine()
    guest.load(source, {"host": engine.server.address, "threads": 1})
    assert guest._model == engine._model


def test_a_runner_that_dies_amid_an_answer_is_a_lost_engine(engine, ids):
    stream = engine.stream([ids], 1500)
    next(stream)
    os.kill(engine.pids()[1], signal.SIGKILL)
    with pytest.raises(EngineLost, match="lines of the answer had come"):
        list(stream)


def test_a_server_that_dies_amid_an_answer_is_a_lost_engine(engine, ids):
    stream, pids = engine.stream([ids], 1500), engine.pids()
    next(stream)
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(EngineLost):
        list(stream)
    assert gone(pids)  # its runner too


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_its_owner(number):
    code = (
        "import llmbench, time\n"
        "engine = llmbench.load('builtin:tiny', engine='ollama')\n"
        "print(*engine._engine.pids(), flush=True)\n"
        "time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(pids) == 2 and all(map(psutil.pid_exists, pids))
    owner.send_signal(number)
    owner.wait()
    assert gone(pids)


def test_a_study_counts_the_servers_memory_and_cpu_as_the_engines(tmp_path):
    run = llmbench.measure(
        "scaling", outputs=tmp_path, models=["builtin:tiny"], engines=["ollama"],
        context_lens=[32], output_tokens=64, batch_sizes=[1], process_runs=1, blocks=2, warmups=1,
        threads=1, run_id="r",
    )  # fmt: skip
    assert run.statuses == {"ok": 2}
    from llmbench import store

    for record in store.read_records(run.folder).records:
        memory = record.memory
        assert memory.tree_rss_bytes > memory.tree_pss_bytes > memory.tree_uss_bytes
        assert memory.tree_rss_bytes > memory.rss_peak_bytes  # the server's own is in it
        assert record.raw.server["eval_count"] == 64
        assert record.served.build and set(record.flags) <= {"contaminated"}


def test_a_token_that_the_model_wants_first_stands_there_once(tmp_path):
    source = wanting_a_first_token(tmp_path)
    [asked] = [[*source.tokenizer.first, *source.tokenizer.encode(" the name of the file")]]
    assert asked[0] == source.tokenizer.special_ids[0]
    engine = OllamaEngine()
    ours = llmbench.load(source.name, engine="edge", impl="reference")
    try:
        engine.load(source, {"threads": 1})
        raw, _ = time_repeat(engine, [asked], 8, clock=MonotonicClock())
        told = engine.next_logprobs(asked)
    finally:
        engine.close()
    assert raw.server["prompt_eval_count"] == len(asked)
    with ours:
        with_it, without = ours.next_logprobs(asked), ours.next_logprobs(asked[1:])
    worst = {name: max(abs(told[i] - its[i]) for i in told if i in its)
             for name, its in (("with", with_it), ("without", without))}  # fmt: skip
    assert worst["with"] < CLOSE["F32"] < worst["without"]


def wanting_a_first_token(folder: Path):
    """builtin:tiny, its tokenizer framed as those of many models are."""
    from tokenizers import Tokenizer, processors

    for path in BUILTIN.joinpath("tiny").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    [(token, added)] = tokenizer.get_added_tokens_decoder().items()
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{added.content} $A", special_tokens=[(added.content, token)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": True}))
    return find_model(str(folder))


def test_the_tree_is_of_all_that_serve(engine):
    alone, all_of_them = tree_bytes([os.getpid()]), tree_bytes([os.getpid(), *engine.pids()])
    assert all_of_them.processes == alone.processes  # they are below us, and count once
    assert alone.rss > tree_bytes(engine.pids()).rss > 10 * 2**20


def test_a_file_that_the_server_does_not_know_is_unsupported(engine, tmp_path):
    gguf = pytest.importorskip("gguf")
    from llmbench.engines.ollama_models import make

    file = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(str(file), "oddity")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file,
                 writer.write_tensors_to_file, writer.close):  # fmt: skip
        step()
    engine._model = make(engine.server, file, sha256_of(file)).name
    with pytest.raises(Unsupported, match="unknown model architecture"):
        engine._final(engine._body("", 1))


def top_three(file):
    """The likeliest tokens of a fresh server's model, and the sha256 that it serves."""
    engine = OllamaEngine()
    try:
        served = engine.load(find_model(f"gguf:{file}"), {"threads": 1, "num_ctx": 64})
        return list(engine.next_logprobs(engine.texts.encode("import"), 3)), served.file_sha256
    finally:
        engine.close()


def zero(file, offset=2**20, size=1_200_000):
    """Overwrite in place, as a failing disk or a careless program does."""
    with file.open("rb+") as opened:
        opened.seek(-offset - size, os.SEEK_END)
        opened.write(bytes(size))


def test_what_is_written_to_a_file_later_is_not_served_under_its_sha256(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("LLMBENCH_OLLAMA", str(ollama_server.find_binary()))
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    one = export("builtin:tiny", tmp_path / "one.gguf", "Q8_0")
    other = tmp_path / "other.gguf"
    other.write_bytes(one.read_bytes())
    sha256 = sha256_of(one)
    told = top_three(one)
    assert told[1] == sha256 and one.stat().st_nlink == 1
    zero(one)
    assert top_three(other) == told  # the same bytes under another name
    [blob] = (tmp_path / "cache/ollama/models/blobs").glob(f"sha256-{sha256}")
    zero(blob)
    assert top_three(other) == told  # of a listed model, whose blob was damaged
    assert f"{blob.name} held other bytes and is replaced" in capsys.readouterr().err
    damaged = top_three(one)
    assert damaged[0] != told[0] and damaged[1] == sha256_of(one) != sha256


def test_what_does_not_start_says_why(tmp_path, monkeypatch):
    broken = tmp_path / "ollama"
    broken.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("LLMBENCH_OLLAMA", str(broken))
    with pytest.raises(Missing, match="no such luck"):
        ollama_server.start({})
