"""The llamacpp engine: its numbers are transformers', its tokens are greedy, nothing is reused."""

import os
import signal

import numpy as np
import pytest

from llmbench import worker
from llmbench.engines.llamacpp import LlamaCppEngine
from llmbench.errors import BadParams, Refused, Unsupported
from llmbench.models.export import export
from llmbench.models.source import find_model
from llmbench.profilers.tree_watch import TreeWatch
from llmbench.record import Point, Repeat
from llmbench.turns import Lane
from tests.families import FAMILIES, random_model

pytestmark = pytest.mark.llamacpp
IDS = [17, 300, 901, 44, 1200, 7, 88, 2000, 3, 3, 4095, 12]
EXACT = {"flash_attn": "off", "kv_type": "f32"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def loaded(model, **options):
    engine = LlamaCppEngine()
    engine.served = engine.load(find_model(str(model)), {"threads": 1} | options)
    return engine


@pytest.fixture(scope="module")
def engine():
    engine = loaded("builtin:tiny", **EXACT)
    yield engine
    engine.close()


def transformers_logprobs(model, ids, half_gelu=False):
    from llmbench.engines.transformers import TransformersEngine

    engine = TransformersEngine()
    engine.load(find_model(str(model)), {"threads": 1, "attention_impl": "eager"})
    for layer in engine.model.model.layers if half_gelu else []:
        exact = layer.mlp.act_fn.forward
        layer.mlp.act_fn.forward = lambda x, exact=exact: exact(x.half().float()).half().float()
    return engine.logprobs(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_of_every_family_are_those_of_transformers(family, tmp_path):
    """llama.cpp looks GELU up in a table in float16, so transformers is made to do so, too."""
    ids = IDS * 4  # longer than gemma2's window, and than Llama 3's first trained length
    folder = random_model(family, tmp_path)
    engine = loaded(folder, **EXACT)
    found = engine.logprobs(ids)
    expected = transformers_logprobs(folder, ids, half_gelu=family == "gemma2")
    engine.close()
    assert np.abs(expected).max() > 9  # not all alike
    assert np.abs(found - expected).max() < 1e-3
    if family == "gemma2":
        assert np.abs(found - transformers_logprobs(folder, ids)).max() < 5e-3


def test_logprobs_of_the_builtin_model_are_those_of_transformers(engine):
    expected = transformers_logprobs("builtin:tiny", IDS)
    assert np.abs(engine.logprobs(IDS) - expected).max() < 1e-3


def test_tokens_are_greedy_one_a_step_after_a_marked_prefill(engine):
    steps = [list(step) for step in engine.stream([IDS], 5)]
    assert [len(step) for step in steps] == [0, 1, 1, 1, 1, 1]
    ids = list(IDS)
    for step in steps[1:]:
        assert step == [next(iter(engine.next_logprobs(ids, 1)))]
        ids += step


def test_a_prompt_longer_than_a_batch_gives_the_same(engine):
    small = loaded("builtin:tiny", n_batch=5, **EXACT)
    np.testing.assert_allclose(small.logprobs(IDS), engine.logprobs(IDS), atol=1e-4)
    assert list(small.stream([IDS], 4)) == list(engine.stream([IDS], 4))
    small.close()


def test_an_end_token_does_not_stop_it(tmp_path):
    folder = random_model("llama3", tmp_path)
    engine = loaded(folder)
    ended = [*IDS, 0]  # 0 ends a text
    assert len(list(engine.stream([ended], 300))) == 301
    engine.close()


def test_nothing_of_a_prompt_is_left_for_the_next(engine):
    before = engine.next_logprobs(IDS, 5)
    list(engine.stream([[5] * 40], 3))
    assert engine.next_logprobs(IDS, 5) == before


def test_a_death_inside_it_is_an_answer_that_names_the_file(tmp_path, monkeypatch):
    """A signal as a native fault sends it, amid a turn; the next turn has a fresh child."""
    file = export("builtin:tiny", tmp_path / "tiny.gguf", "Q8_0")
    source = find_model(f"gguf:{file}")
    point = Point(study="scaling", model=source.name, model_sha256=source.sha256, engine="llamacpp",
                  engine_options={}, batch_size=1, prompt="exact", prompt_tokens=64, device="cpu",
                  output_tokens=1900, threads=1, seed=17, memory_limit_bytes=0)  # fmt: skip
    lane = Lane(point, 120.0, 0)
    monkeypatch.setattr(worker, "TreeWatch", Killing)
    lost = lane.take_turn(Repeat(point=point, process_run=0, block=0), 0)
    monkeypatch.undo()
    short = point.model_copy(update={"output_tokens": 4})
    after = lane.take_turn(Repeat(point=short, process_run=0, block=0), 0)
    lane.close()
    assert (lost["status"], after["status"]) == ("failed", "ok")
    said = f"ended with signal SIGSEGV, with gguf:{file} (sha256 {source.sha256[:12]})"
    assert said in lost["reason"]


class Killing(TreeWatch):
    """Sends its child a SIGSEGV while it works."""

    def sample(self):
        super().sample()
        if self.samples == 4:
            os.kill(self.pids[0], signal.SIGSEGV)


def test_what_serves_is_told(engine):
    served = engine.served
    assert (served.engine, served.impl, served.attention_impl) == ("llamacpp", "llama.cpp", "plain")
    assert (served.weight_format, served.device, served.threads) == ("float32", "cpu", 1)
    assert abs(served.weight_bytes - 3_409_664 * 4) < 1000  # the tied head once
    assert served.kv_bytes_per_token == 2 * 3 * 4 * 64 * 4
    assert "CPU" in served.build and "offloaded 0/4 layers" in served.build
    assert served.window is None
    assert set(served.versions) == {"llama_cpp_python"}


def test_options_are_those_that_serve():
    engine = loaded("builtin:tiny", weights="Q8_0", flash_attn="on", n_ctx=300, use_mmap=False)
    served = engine.served
    assert (served.weight_format, served.attention_impl) == ("Q8_0", "flash")
    assert served.kv_bytes_per_token == 2 * 3 * 4 * 64 * 2
    assert served.window >= 300
    assert served.weight_bytes < 3_409_664 * 1.1
    engine.close()


def test_the_window_grows_when_none_was_asked_and_refuses_when_one_was():
    grown = loaded("builtin:tiny")
    before = grown.next_logprobs(IDS, 5)
    assert len(list(grown.stream([IDS * 200], 3))) == 4  # 2403 tokens
    assert grown.next_logprobs(IDS, 5) == pytest.approx(before, abs=1e-2)
    grown.close()
    held = loaded("builtin:tiny", n_ctx=256)
    assert len(list(held.stream([IDS], 244))) == 245
    with pytest.raises(Refused, match="257 tokens do not fit n_ctx: 256"):
        next(held.stream([IDS], 245))
    held.close()


def test_a_study_of_windows_opens_each_by_its_size_and_an_option_overrules_it():
    sizes = [loaded("builtin:tiny", **asked).served.window
             for asked in ({"window": 512}, {"window": 512, "n_ctx": 1024})]  # fmt: skip
    assert sizes == [512, 1024]


def test_what_it_cannot_do_is_refused(engine):
    with pytest.raises(Unsupported, match="one row at a time"):
        next(engine.stream([IDS, IDS], 1))
    for bad in ([1, 4096], [-1]):
        with pytest.raises(Refused, match="vocabulary of 4096"):
            next(engine.stream([bad], 1))
    with pytest.raises(BadParams, match="empty"):
        next(engine.stream([[]], 1))
    with pytest.raises(Unsupported, match="n_gpu_layers: 3 on the device cpu"):
        loaded("builtin:tiny", n_gpu_layers=3)


def test_a_build_without_a_gpu_says_so():
    import llama_cpp

    if llama_cpp.llama_supports_gpu_offload():
        pytest.skip("this build knows a GPU")
    with pytest.raises(Unsupported, match="knows no GPU"):
        loaded("builtin:tiny", device="cuda")


def test_a_gguf_file_is_taken_as_it_is(tmp_path):
    file = export("builtin:tiny", tmp_path / "tiny.gguf", "Q8_0")
    engine, whole = loaded(f"gguf:{file}"), loaded("builtin:tiny", weights="Q8_0")
    assert engine.served.weight_format == "Q8_0"
    assert (
        engine.served.file_sha256 == whole.served.file_sha256 == find_model(f"gguf:{file}").sha256
    )
    assert engine.next_logprobs(IDS, 5) == whole.next_logprobs(IDS, 5)
    engine.close(), whole.close()
    with pytest.raises(BadParams, match="has its own"):
        loaded(f"gguf:{file}", weights="F16")


def test_a_file_that_is_no_model_is_an_error_with_the_reason(tmp_path, monkeypatch):
    import llmbench.engines.llamacpp as room

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really" * 10)
    monkeypatch.setattr(room, "file_of", lambda model, kind: broken)
    with pytest.raises(Unsupported, match=r"cannot load broken\.gguf") as caught:
        loaded("builtin:tiny")
    assert caught.value.why


@pytest.mark.parametrize(
    ("kind", "name"),
    [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("Q4_0", "Q4_0")],
)
def test_weights_are_called_as_every_engine_calls_them(kind, name):
    engine = loaded("builtin:tiny", weights=kind)
    assert engine.served.weight_format == name
    engine.close()
