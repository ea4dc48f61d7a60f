"""Faults 16 to 27 of a server, each played by a scripted one: what the row says of it."""

import socket
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmbench
from llmbench import store
from llmbench.engines.ollama import OllamaEngine
from llmbench.engines.ollama_text import UNKNOWN
from llmbench.errors import BadParams, EngineLost, Missing, OutOfMemory, Refused, Unsupported
from llmbench.models.source import find_model
from llmbench.models.tokenizer import Tokenizer, load_tokenizer
from llmbench.profilers.clock import MonotonicClock
from llmbench.record import Repeat
from llmbench.timing import time_repeat
from llmbench.worker import Session
from tests.engines.ollama_double import OK, Double, chunked, serving
from tests.faults.door import plant_roofs
from tests.store_samples import make_record

TOKENS = 8
QUICK = {"first_s": 0.3, "between_s": 0.3, "total_s": 5.0, "connect_s": 2.0}
GIVEN = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_model("builtin:tiny").folder)


@pytest.fixture
def double(tokenizer, tmp_path, monkeypatch):
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    with serving(tokenizer) as double:
        yield double


@pytest.fixture
def engine(double):
    engine = loaded(double)
    yield engine
    engine.close()


@pytest.fixture
def ids(tokenizer):
    return tokenizer.encode(" how neural networks work")


def loaded(double: Double, device: str = "cpu", **options) -> OllamaEngine:
    engine = OllamaEngine()
    asked = {"host": double.host, "deadlines": QUICK, "device": device} | options
    engine.served = engine.load(find_model("builtin:tiny"), asked)
    return engine


def steps(engine: OllamaEngine, ids: list[int], tokens: int = TOKENS) -> list[int]:
    return [token for [token] in engine.stream([ids], tokens)]


def test_a_sound_answer_is_told_without_a_flag(engine, double, ids):
    raw, witness = time_repeat(engine, [ids], TOKENS, clock=MonotonicClock())
    assert engine.told().flags == () and engine.told().reason == ""
    assert (witness.output_tokens, witness.end_reason) == (TOKENS, "length")
    assert raw.server == {"load_s": 0.004, "total_s": 0.09, "prompt_eval_s": 0.03, "eval_s": 0.05,
                          "prompt_eval_count": len(ids), "eval_count": TOKENS,
                          "chunks": TOKENS}  # fmt: skip
    assert steps(engine, ids) == double.tokens[:TOKENS]
    assert engine.served.impl == f"http://{double.host}"


# -- 16 --------------------------------------------------------------------------------------------


def test_16_no_server_is_said_with_the_command_that_starts_one():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(Missing, match=f"OLLAMA_HOST={host} ollama serve"):
            OllamaEngine().load(find_model("builtin:tiny"), {"host": host})


def test_16_another_program_at_the_port_is_no_server(double):
    double.version = None
    with pytest.raises(Unsupported, match="version None"):
        loaded(double)


# -- 17 --------------------------------------------------------------------------------------------


def test_17_cut_after_every_byte_no_answer_is_taken_for_a_short_one(engine, double, ids):
    steps(engine, ids, 3)
    asked = {"prompt": double.prompts[-1], "options": {"num_predict": 3}}
    lines = double.lines(asked)
    whole = chunked(*lines)
    double.raw = whole
    end = whole.index(lines[-1]) + len(lines[-1])
    for cut in range(len(whole)):
        double.cut = cut
        if cut >= end:
            assert steps(engine, ids, 3) == double.tokens[:3]
            continue
        with pytest.raises(EngineLost) as lost:
            steps(engine, ids, 3)
        assert "lines of the answer had come" in str(lost.value)


@pytest.mark.parametrize(("times", "lost"), [(30, False), (29, True)])
def test_17_an_answer_that_the_servers_own_rule_ends_is_short_and_no_loss(
    engine, double, ids, times, lost
):
    line = b'{"response":" a","done":false}\n'
    double.raw = chunked(b'{"response":" the","done":false}\n', *[line] * times)
    if lost:
        with pytest.raises(EngineLost):
            steps(engine, ids, 64)
        return
    _, witness = time_repeat(engine, [ids], 64, clock=MonotonicClock())
    told = engine.told()
    assert (witness.output_tokens, witness.end_reason, told.flags) == (31, "lost", ("short",))
    assert "30 times in a row: 31 of 64 tokens" in told.reason
    double.raw = None
    assert steps(engine, ids) == double.tokens[:TOKENS] and engine.told().flags == ()


@pytest.mark.parametrize("cut", [0, 60, len(OK), 300])
def test_17_a_reset_connection_is_a_lost_engine(engine, double, ids, cut):
    double.cut, double.reset = cut, True
    with pytest.raises(EngineLost, match="lost the server"):
        steps(engine, ids)


@pytest.mark.parametrize(
    ("line", "said"),
    [(b'{"error":"llama runner process has terminated: signal: killed"}\n', "signal: killed"),
     (b'{"response":"\xc3","done":false}\n', "no JSON"), (b'{"response":\n', "no JSON"),
     (b'["response"]\n', "no object"), (b"[" * 10_000_000 + b"\n", "a line of more than")],
    ids=["error line", "half a character", "half a line", "no object", "10 MB line"],
)  # fmt: skip
def test_17_a_broken_line_is_a_lost_engine(engine, double, ids, line, said):
    double.raw = chunked(b'{"response":" a","done":false}\n', line)
    came = []
    with pytest.raises(EngineLost, match=said) as lost:
        for [token] in engine.stream([ids], TOKENS):
            came.append(token)
    assert len(came) == 1
    assert "1 lines of the answer had come" in lost.value.kept


def test_17_no_memory_is_no_lost_engine(engine, double, ids):
    double.refusals = [(500, {}, {"error": "model requires more system memory (9 GiB)"})]
    with pytest.raises(OutOfMemory, match="9 GiB"):
        steps(engine, ids)


def test_17_the_next_answer_after_a_lost_one_is_whole(engine, double, ids):
    double.cut = 250
    with pytest.raises(EngineLost):
        steps(engine, ids)
    double.cut = None
    assert steps(engine, ids) == double.tokens[:TOKENS]
    assert engine.told().flags == ()


# -- 18 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, len(OK), len(OK) + 70], ids=["first", "header", "between"])
def test_18_silence_is_a_lost_engine(engine, double, ids, at):
    double.stalls = [(at, 1.0)]
    with pytest.raises(EngineLost, match="silent for too long"):
        steps(engine, ids)


def test_18_the_first_byte_may_take_longer_than_the_next(double, ids):
    patient = loaded(double, deadlines=QUICK | {"first_s": 5.0})
    double.stalls = [(len(OK), 0.6)]
    assert len(steps(patient, ids)) == TOKENS
    double.stalls = [(len(OK) + 70, 0.6)]
    with pytest.raises(EngineLost, match="silent for too long"):
        steps(patient, ids)


def test_18_drops_that_never_end_are_ended(double, ids):
    hurried = loaded(double, deadlines=QUICK | {"total_s": 0.5})
    double.stalls = [(at, 0.1) for at in range(len(OK), len(OK) + 60)]
    with pytest.raises(EngineLost, match=r"not done within 0.5 s"):
        steps(hurried, ids)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how full a backlog is varies")
def test_18_a_server_that_takes_no_connection_is_missing(engine, ids):
    with socket.socket() as full, socket.socket() as one, socket.socket() as two:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (one, two):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        engine._wire._connection.port = full.getsockname()[1]
        engine._wire._limits = engine._wire._limits.model_copy(update={"connect_s": 0.3})
        with pytest.raises(Missing, match="timed out"):
            steps(engine, ids)


# -- 19, 20, 21 ------------------------------------------------------------------------------------


def test_19_a_model_that_was_loaded_again_is_flagged(engine, double, ids):
    double.final = {"load_duration": 51_000_000}
    steps(engine, ids)
    assert engine.told().flags == ("reloaded",)
    assert "0.051 s" in engine.told().reason


def test_19_what_the_server_does_before_every_answer_is_no_reload(double, ids):
    """It reads the file's header again, which takes long where the vocabulary is large."""
    double.load_ns = 80_000_000
    engine = loaded(double)
    double.final = {"load_duration": 200_000_000}
    steps(engine, ids)
    assert engine.told().flags == ()
    double.final = {"load_duration": 250_000_000}
    steps(engine, ids)
    assert engine.told().flags == ("reloaded",)


def test_19_a_model_that_became_another_is_flagged(engine, double, ids):
    double.size += 1
    steps(engine, ids)
    assert engine.told().flags == ("reloaded",)
    steps(engine, ids)
    assert engine.told().flags == ()


def audit(engine: OllamaEngine, tokenizer) -> dict:
    session = Session()
    session.engine, session.tokenizer = engine, tokenizer
    kept = make_record()
    repeat = Repeat(point=kept.point, process_run=0, block=0)
    return session.do_audit(repeat.model_dump())["audit"]


def test_20_a_prefix_cache_is_caught_by_the_audit(engine, double, tokenizer):
    double.seen.clear()
    double.prompt_delay_s = 0.1
    told = audit(engine, tokenizer)
    assert told["again_s"] < 0.5 * told["prompt_s"]


def test_20_the_one_slot_of_a_real_server_is_emptied_before_each_prompt(engine, double, ids):
    double.prompts.clear()
    for _ in range(2):
        steps(engine, ids)
    first, asked, again, same = double.prompts
    assert asked == same and first == again
    assert len({engine.texts.ids(text)[0] for text in (first, asked)}) == 2


def test_20_the_filler_never_begins_as_the_prompt_does(engine, double, tokenizer):
    for first in tokenizer.plain_ids[:3]:
        double.prompts.clear()
        steps(engine, [first, *tokenizer.encode(" work")])
        filler, asked = double.prompts
        assert tokenizer.encode(filler)[0] != tokenizer.encode(asked)[0]


@pytest.mark.parametrize("counted", [3, 7, None])
def test_21_a_truncated_prompt_is_incorrect(engine, double, ids, counted):
    double.final = {"prompt_eval_count": counted}
    steps(engine, ids)
    assert engine.told().flags == ("incorrect",)
    assert f"read {counted} tokens of a prompt of {len(ids)}" in engine.told().reason


def test_21_the_token_that_a_server_puts_first_is_understood(double, tokenizer, ids):
    double.more, bos = 1, tokenizer.special_ids[0]
    source = find_model("builtin:tiny")
    source.__dict__["tokenizer"] = Tokenizer(tokenizer._backend, bos)  # in place of the cached one
    engine = OllamaEngine()
    engine.load(source, {"host": double.host, "deadlines": QUICK})
    for asked in (ids, [bos, *ids]):  # it is sent in neither
        steps(engine, asked)
        assert double.prompts[-1] == tokenizer.decode(ids)
        assert engine.told().flags == ()
    double.final = {"prompt_eval_count": len(ids)}
    steps(engine, ids)
    assert engine.told().flags == ("incorrect",)


def test_21_a_server_that_begins_texts_otherwise_than_the_model_is_unsupported(double):
    double.more = 1
    with pytest.raises(Unsupported, match="puts token 0 first, where the model's file says None"):
        loaded(double)


def test_21_a_server_with_another_tokenizer_is_unsupported(double):
    double.more = 2
    with pytest.raises(Unsupported, match="reads 3 tokens where the tokenizer has one"):
        loaded(double)


def test_21_what_exceeds_the_window_is_refused_before_it_is_sent(double, ids):
    small = loaded(double, num_ctx=16)
    double.prompts.clear()
    with pytest.raises(Refused, match="exceed the window of 16"):
        small.stream([ids], 16)
    assert double.prompts == []


def test_a_study_of_windows_opens_each_by_its_size(double):
    assert loaded(double, window=512).served.window == 512


def test_21_a_window_that_the_server_cut_is_refused(double):
    double.window = 2048
    with pytest.raises(Refused, match="2048 tokens where 4096 were asked"):
        loaded(double, num_ctx=4096)


def test_21_tokens_that_no_text_stands_for_are_refused(engine, tokenizer):
    ids = [*tokenizer.encode(" networ"), *tokenizer.encode("ks")]
    assert tokenizer.encode(tokenizer.decode(ids)) != ids
    with pytest.raises(Refused, match="no text stands for these"):
        engine.stream([ids], 1)
    with pytest.raises(Refused, match="vocabulary of 4096"):
        engine.stream([[4096]], 1)
    with pytest.raises(BadParams, match="empty prompt"):
        engine.stream([[]], 1)


# -- 22, 23, 24 ------------------------------------------------------------------------------------


def test_22_a_busy_server_is_asked_again_and_the_row_is_no_claim(engine, double, ids):
    double.refusals = [(503, {"Retry-After": "0"}, {"error": "server busy"})] * 2
    assert steps(engine, ids) == double.tokens[:TOKENS]
    assert engine.told().flags == ("contaminated",)
    assert "turned the request away 2 times" in engine.told().reason
    steps(engine, ids)
    assert engine.told().flags == ()


@pytest.mark.parametrize("status", [503, 429])
def test_22_a_server_that_stays_busy_is_lost(engine, double, ids, status):
    double.refusals = [(status, {"Retry-After": "0"}, {"error": "maximum pending requests"})] * 3
    with pytest.raises(EngineLost, match="busy: maximum pending requests"):
        steps(engine, ids)


@GIVEN
@given(st.data())
def test_23_however_tokens_are_put_in_pieces_each_is_one_step(engine, double, ids, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, TOKENS - 1)), label="cuts"))
    empty = data.draw(st.integers(0, 2), label="empty pieces")

    def pieces(texts: list[str]) -> list[str]:
        ends = [*cuts, len(texts)]
        merged = ["".join(texts[a:b]) for a, b in zip([0, *cuts], ends, strict=True)]
        return [""] * empty + merged + [""] * empty

    double.pieces = pieces
    came = steps(engine, ids)
    assert len(came) == TOKENS
    told = engine.told()
    assert told.server["chunks"] == len(cuts) + 1
    assert ("merged" in told.flags) == (1 not in cuts)
    if len(cuts) == TOKENS - 1:
        assert came == double.tokens[:TOKENS] and told.flags == ()


def test_23_a_held_back_character_is_counted_and_its_tokens_are_unknown(engine, double, ids):
    double.pieces = lambda texts: [*texts[:-3], "\u2603"]  # three tokens of a byte each
    came = steps(engine, ids)
    assert len(came) == TOKENS
    assert came[: TOKENS - 3] == double.tokens[: TOKENS - 3]
    assert engine.told().flags == ()
    double.pieces = lambda texts: texts[:-3]  # the last character was not finished
    assert steps(engine, ids)[-3:] == [UNKNOWN] * 3
    assert engine.told().flags == ()


def test_23_a_first_piece_that_may_be_several_tokens_is_told(engine, double, ids):
    double.pieces = lambda texts: ["\u2603", *texts[3:]]
    assert len(steps(engine, ids)) == TOKENS
    assert engine.told().flags == ("merged",)


def test_23_text_that_is_missing_without_a_reason_is_incorrect(engine, double, ids):
    double.pieces = lambda texts: texts[:3]
    assert len(steps(engine, ids)) == TOKENS
    assert engine.told().flags == ("incorrect",)


def test_24_an_early_end_is_short_and_says_so(engine, double, ids):
    double.pieces = lambda texts: texts[:3]
    double.final = {"done_reason": "stop", "eval_count": 4}  # the end token is counted
    _, witness = time_repeat(engine, [ids], TOKENS, clock=MonotonicClock())
    assert (witness.output_tokens, witness.end_reason) == (3, "eos")
    assert engine.told().flags == ("short",)


@pytest.mark.parametrize("counted", [TOKENS + 1, TOKENS - 2, 0, None])
def test_24_a_count_that_the_text_denies_is_incorrect(engine, double, ids, counted):
    double.final = {"eval_count": counted}
    steps(engine, ids)
    assert "incorrect" in engine.told().flags


def test_24_a_server_that_runs_past_is_incorrect_and_the_rest_is_not_taken(engine, double, ids):
    double.pieces = lambda texts: [*texts, " and", " more"]
    double.final = {"eval_count": TOKENS + 2}
    assert steps(engine, ids) == double.tokens[:TOKENS]
    assert engine.told().flags == ("incorrect",)


# -- 25, 27 and hosts ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.17.0", "0.9.9", "0.5", "unknown"])
def test_25_a_version_with_a_known_hole_is_refused_unless_allowed(double, version):
    double.version = version
    with pytest.raises(Unsupported, match=f"version {version}"):
        loaded(double)
    assert loaded(double, allow_old=True).served.versions["ollama"] == version


@pytest.mark.parametrize("version", ["0.17.1", "0.17.4", "0.33.2", "1.0", "0.17.1-rc0"])
def test_25_the_floor_and_what_is_above_it_serve(double, version):
    double.version = version
    assert loaded(double).served.versions["ollama"] == version


@pytest.mark.parametrize(("device", "vram"), [("cpu", 10), ("cuda", 999), ("cuda", 0)])
def test_27_weights_in_another_place_than_asked_are_incorrect(double, ids, device, vram):
    double.size_vram = vram
    engine = loaded(double, device)
    steps(engine, ids)
    assert engine.told().flags == ("incorrect",)
    assert f"{vram} of 1000 bytes are on a GPU" in engine.told().reason


def test_27_weights_wholly_where_they_were_asked_are_no_fault(double, ids):
    double.size_vram = 1000
    engine = loaded(double, "cuda")
    steps(engine, ids)
    assert engine.told().flags == ()
    assert engine.served.device == "cuda"


def test_another_machine_is_refused_unless_it_is_allowed_by_name():
    for allowed in ("", "other.example.org"):
        with pytest.raises(BadParams, match=r"allow_remote: example\.org"):
            OllamaEngine().load(
                find_model("builtin:tiny"), {"host": "example.org:1", "allow_remote": allowed}
            )


def test_a_model_that_another_machine_would_answer_for_is_refused(engine, double, ids):
    double.line = {"remote_host": "https://ollama.com", "remote_model": "x"}
    with pytest.raises(Refused, match="not on this server"):
        steps(engine, ids)


def test_a_model_that_is_not_there_comes_with_the_command_that_fetches_it(engine, double, ids):
    double.refusals = [(404, {}, {"error": "model 'x' not found"})]
    with pytest.raises(Missing, match="ollama pull llmbench-"):
        steps(engine, ids)


def test_requests_are_raw_greedy_and_keep_the_model(double, ids, monkeypatch):
    asked = []
    lines = Double.lines
    monkeypatch.setattr(Double, "lines", lambda self, body: asked.append(body) or lines(self, body))
    steps(loaded(double, threads=2), ids)
    body = asked[-1]
    assert (body["raw"], body["keep_alive"], body["truncate"]) == (True, -1, False)
    wanted = {"num_predict": TOKENS, "num_ctx": 2048, "temperature": 0.0, "repeat_penalty": 1.0,
              "num_thread": 2, "num_gpu": 0, "stop": []}  # fmt: skip
    assert {name: body["options"][name] for name in wanted} == wanted


# -- as rows ---------------------------------------------------------------------------------------


def measured(double: Double, folder: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """The rows of a study of the scripted server, which OLLAMA_HOST names."""
    monkeypatch.setenv("OLLAMA_HOST", double.host)
    plant_roofs(store.create_run("r", folder))
    run = llmbench.measure(
        "scaling", outputs=folder, models=["builtin:tiny"], engines=["ollama"], context_lens=[16],
        output_tokens=TOKENS, batch_sizes=[1], process_runs=1, blocks=4, warmups=0, threads=1,
        run_id="r", engine_options={"ollama": {"deadlines": QUICK}},
    )  # fmt: skip
    return llmbench.read(run.folder)


def test_faults_become_the_status_and_the_flags_of_rows(double, tmp_path, monkeypatch):
    double.final = {"load_duration": 60_000_000, "prompt_eval_count": 9}
    frame = measured(double, tmp_path, monkeypatch)
    assert set(frame["status"]) == {"ok"}
    assert all({"reloaded", "incorrect", "cold"} <= set(flags) for flags in frame["flags"])
    assert all("9 tokens of a prompt of 16" in reason for reason in frame["reason"])
    assert all(len(gaps) == TOKENS - 1 for gaps in frame["itl_s"])


def test_a_lost_engine_is_a_row_and_given_up_after_three(double, tmp_path, monkeypatch):
    double.cut = 400
    frame = measured(double, tmp_path, monkeypatch)
    assert list(frame["status"]) == ["engine_lost"] * 3
    assert all("lines of the answer had come" in reason for reason in frame["reason"])


def test_gaps_between_tokens_that_came_together_are_not_told(double, tmp_path, monkeypatch):
    double.final = {"prompt_eval_count": 16}
    double.pieces = lambda texts: [*texts[:-2], "".join(texts[-2:])]
    frame = measured(double, tmp_path, monkeypatch)
    assert all(len(gaps) == 0 for gaps in frame["itl_s"])
    assert all(frame["tpot_s"] > 0)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("Q4_0", "Q4_0")],
)
def test_weights_are_called_as_every_engine_calls_them(double, kind, name):
    assert loaded(double, weights=kind).served.weight_format == name
