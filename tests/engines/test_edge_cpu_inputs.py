"""What `impl: cpu` of edge refuses, in words, before it touches memory."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from llmbench.engines.edge import EdgeEngine
from llmbench.engines.edge_cpu import CpuDecoder
from llmbench.errors import BadParams, Missing, OutOfMemory, Refused, Unsupported
from llmbench.kernels import cpu
from llmbench.models.header import read_header
from llmbench.models.source import find_model
from tests.engines.test_edge import greedy, loaded
from tests.engines.test_families import written
from tests.kernels.stored import needs_compiler
from tests.models.gguf_files import write_gguf

pytestmark = needs_compiler
IDS = list(range(20, 57))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return written(folder, "Mistral", 6, 2, 8, 44, 67, dict(sliding_window=None))


@pytest.fixture
def decoder(source):
    made = CpuDecoder(source, "auto", "auto", 2)
    yield made
    made.close()


class Untouched:
    """The library, in which no engine may be opened."""

    def __init__(self, library):
        self.library = library

    def __getattr__(self, name):
        assert name != "lb_open", "memory was asked for"
        return getattr(self.library, name)


@pytest.fixture
def nothing_opened(monkeypatch):
    library = cpu.library()
    monkeypatch.setattr(cpu, "library", lambda: Untouched(library))


def ids_of(*rows):
    return np.array(rows, np.int32)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"model_type": "qwen3"}, Unsupported, "qwen3"),
        ({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}, Unsupported,
         "mixture of experts"),
        ({"hidden_act": "gelu"}, Unsupported, "gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, Unsupported, "yarn"),
        ({"num_hidden_layers": 4}, Missing, "model.layers.3"),
        ({"vocab_size": 212}, Missing, r"model.embed_tokens.weight.*\(211, 44\)"),
        ({"intermediate_size": 68}, Missing, "mlp"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("nothing_opened")
def test_a_model_that_it_cannot_compute_is_refused(values, error, words, tmp_path):
    made = written(tmp_path, "Mistral", 6, 2, 8, 44, 67, dict(sliding_window=None))
    path = made.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(error, match=words):
        loaded(EdgeEngine, made, impl="cpu")


@pytest.mark.usefixtures("nothing_opened")
def test_a_type_that_it_does_not_hold_is_named_with_its_place(tmp_path):
    blocks = (np.zeros((512, 84), np.uint8), "Q2_K")
    file = write_gguf(tmp_path / "tiny.gguf", find_model("builtin:tiny").folder,
                      tensors={"blk.2.ffn_up.weight": blocks})  # fmt: skip
    with pytest.raises(Unsupported, match=r"'blk.2.ffn_up.weight' of tiny.gguf .* Q2_K") as told:
        loaded(EdgeEngine, find_model(f"gguf:{file}"), impl="cpu")
    assert "Q4_K" in told.value.why and "llamacpp" in told.value.how


@pytest.mark.usefixtures("nothing_opened")
@pytest.mark.parametrize("options", [{"attention_impl": "sdpa-flash"}, {"dtype": "float32"}])
def test_an_option_of_the_reference_is_refused(options, source):
    with pytest.raises(BadParams, match="is an option of impl reference, not of cpu"):
        loaded(EdgeEngine, source, impl="cpu", **options)


@pytest.mark.usefixtures("nothing_opened")
@pytest.mark.parametrize("options", [{"kv_type": "f16"}, {"isa": "scalar"}])
def test_its_own_options_are_refused_by_the_reference(options, source):
    with pytest.raises(BadParams, match="is an option of impl cpu, not of reference"):
        loaded(EdgeEngine, source, impl="reference", **options)
    with pytest.raises(Unsupported, match="device cuda"):
        loaded(EdgeEngine, source, impl="cpu", device="cuda")


def test_own_options_choose_it_and_it_is_told(source):
    for isa in cpu.isas():
        engine = loaded(EdgeEngine, source, impl="auto", isa=isa)
        assert engine.served.impl == "cpu" and f"isa {isa} |" in engine.served.build
        assert engine.served.kv_format == "float32"  # as the weights
    narrow = loaded(EdgeEngine, source, impl="auto", kv_type="f16")
    assert narrow.served.kv_format == "float16"
    plain = loaded(EdgeEngine, source, impl="auto").served
    assert plain.impl == "cpu" and f"isa {cpu.isas()[0]} |" in plain.build


def test_an_instruction_set_that_is_not_here_is_refused_with_those_that_are(source):
    with pytest.raises(Unsupported, match=r"avx1024.*scalar") as told:
        CpuDecoder(source, "avx1024", "auto", 1)
    assert "isa: auto" in told.value.how


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_a_number_of_threads_that_cannot_be_is_refused(threads, source):
    with pytest.raises(BadParams, match="threads"):
        CpuDecoder(source, "auto", "auto", threads)


def test_more_threads_than_cores_serve_and_a_warning_says_what_is_faster(source):
    many = (os.cpu_count() or 1) * 4 + 1
    with pytest.warns(UserWarning, match=f"{many} threads on .* threads: "):
        engine = loaded(EdgeEngine, source, impl="cpu", threads=many)
    assert engine.served.threads == many
    expected = loaded(EdgeEngine, source, impl="cpu", threads=1)
    assert greedy(engine, [IDS], 20) == greedy(expected, [IDS], 20)


def test_a_context_longer_than_its_cache_is_refused_and_nothing_is_lost(decoder):
    decoder.begin(1, 40)
    expected = decoder.logits(ids_of(IDS))
    with pytest.raises(BadParams, match="41 tokens do not fit a cache of 40"):
        decoder.logits(ids_of([1, 2, 3, 4]))
    after = decoder.logits(ids_of([1, 2, 3]))
    with pytest.raises(BadParams, match="41 tokens"):
        decoder.greedy(ids_of([1]))
    decoder.begin(1, 40)
    assert (decoder.logits(ids_of(IDS)) == expected).all()
    assert (decoder.logits(ids_of([1, 2, 3])) == after).all()


@pytest.mark.parametrize("token", [-1, 211, 2**31 - 1, -(2**31)])
def test_ids_outside_the_vocabulary_are_refused_and_nothing_is_lost(token, decoder, source):
    decoder.begin(2, 40)
    with pytest.raises(BadParams, match=f"token id {token} lies outside the vocabulary of 211"):
        decoder.logits(ids_of(IDS, [*IDS[:-1], token]))
    again = decoder.logits(ids_of(IDS, IDS))
    assert (again[0] == again[1]).all()
    with pytest.raises(Refused, match="vocabulary"):
        next(loaded(EdgeEngine, source, impl="cpu").stream([[token]], 1))


def test_no_tokens_no_rows_no_cache_are_refused(decoder):
    with pytest.raises(BadParams, match="rows"):
        decoder.logits(ids_of([1]))  # nothing was begun
    for rows, tokens in ((0, 1), (1, 0), (-1, 5), (5, -1)):
        with pytest.raises(BadParams, match="at least one row and one token"):
            decoder.begin(rows, tokens)
    decoder.begin(1, 5)
    with pytest.raises(BadParams, match="no tokens"):
        decoder.logits(np.zeros((1, 0), np.int32))
    for rows in (0, 2):
        with pytest.raises(BadParams, match="rows"):
            decoder.logits(np.ones((rows, 1), np.int32))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_a_damaged_number_is_refused(kind, tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", find_model("builtin:tiny").folder, kind)
    found = {info.name: info for info in read_header(file).tensors}["blk.1.attn_q.weight"]
    size = {"F32": 4, "Q8_0": 34, "Q4_1": 20}.get(kind, 2)
    with file.open("rb+") as opened:
        opened.seek(found.offset + found.nbytes - size)
        opened.write({"F32": b"\0\0\xc0\x7f", "BF16": b"\x80\x7f"}.get(kind, b"\0\x7e"))
    with pytest.raises(BadParams, match=r"'blk\.1\.attn_q\.weight' of tiny\.gguf.* no finite"):
        loaded(EdgeEngine, find_model(f"gguf:{file}"), impl="cpu")


def test_a_cache_larger_than_the_machine_is_no_memory(decoder):
    always = Path("/proc/sys/vm/overcommit_memory")
    if always.exists() and always.read_text().strip() == "1":
        pytest.skip("this kernel promises any amount of memory")
    with pytest.raises(OutOfMemory):
        decoder.begin(1, 1 << 30)  # most of a terabyte
    with pytest.raises(BadParams, match="so many tokens"):
        decoder.begin(1, 2**31 - 1)


NO_MEMORY = """
import sys
import numpy as np
from llmbench.engines.edge_cpu import CpuDecoder
from llmbench.errors import BadParams, OutOfMemory
from llmbench.models.source import find_model

decoder = CpuDecoder(find_model(sys.argv[1]), "auto", "auto", 2)
decoder.begin(1, 10)
for _ in range(2):
    try:
        decoder.begin(1000, 1 << 30)
        sys.exit("it began")
    except OutOfMemory:
        pass
    try:
        decoder.logits(np.ones((1, 2), np.int32))
        sys.exit("it computed")
    except BadParams:
        pass
decoder.begin(1, 10)
print(np.isfinite(decoder.logits(np.ones((1, 2), np.int32))).all())
"""


def test_a_cache_that_found_no_memory_is_none(source):
    """In a process of its own: it may crash."""
    done = subprocess.run([sys.executable, "-c", NO_MEMORY, str(source.folder)],
                          capture_output=True, text=True, timeout=100, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


NO_ROOM = """
import resource, sys
import numpy as np
from llmbench.engines.edge_cpu import CpuDecoder
from llmbench.errors import OutOfMemory
from llmbench.models.source import find_model

ids = np.ones((1, 512), np.int32)
decoder = CpuDecoder(find_model(sys.argv[1]), "auto", "auto", 2)
decoder.begin(1, 600)
first = decoder.logits(ids[:, :3])
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 100_000, resource.RLIM_INFINITY))
for _ in range(2):
    decoder.begin(1, 600)
    try:
        decoder.greedy(ids)
        sys.exit("it computed")
    except OutOfMemory:
        pass
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
decoder.begin(1, 600)
print((decoder.logits(ids[:, :3]) == first).all())
"""

NO_THREADS = """
import resource, sys
from llmbench.engines.edge_cpu import CpuDecoder
from llmbench.errors import BadParams
from llmbench.kernels import cpu
from llmbench.models.source import find_model

cpu.library()
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 300_000_000, resource.RLIM_INFINITY))
try:
    CpuDecoder(find_model(sys.argv[1]), "auto", "auto", 1024)
except BadParams as error:
    print(error.what)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by Linux's count")
@pytest.mark.parametrize(
    ("program", "told"),
    [(NO_ROOM, r"True"), (NO_THREADS, r".*: thread \d+ of 1024 could not be started: .*")],
)
def test_a_process_that_has_no_memory_left_says_so_and_goes_on(source, program, told):
    """In a process of its own: it may crash."""
    done = subprocess.run([sys.executable, "-c", program, str(source.folder)],
                          capture_output=True, text=True, timeout=100, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(told, done.stdout.strip())


def test_logits_that_are_no_numbers_are_no_answer(decoder):
    """As when keys are beyond float16: here by scores that are none."""
    decoder.begin(1, 4)
    cpu.check(decoder.library.lb_scores(decoder._handle, 0, np.nan, 0, 0), "scores")
    with pytest.raises(BadParams, match="no logit is a finite number"):
        decoder.greedy(ids_of([1, 2]))


def test_a_cpu_for_which_only_portable_code_is_there_is_told(source, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CpuDecoder(source, "scalar", "auto", 1).close()
    monkeypatch.setattr(CpuDecoder, "isa", "scalar")
    with pytest.warns(UserWarning, match="the portable code serves"):
        CpuDecoder(source, "auto", "auto", 1).close()


def test_a_decoder_can_be_closed_twice_and_made_again(source):
    for _ in range(20):
        made = CpuDecoder(source, "auto", "auto", 3)
        made.begin(1, 4)
        assert np.isfinite(made.logits(ids_of([1, 2]))).all()
        made.close()
        made.close()
