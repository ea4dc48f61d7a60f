"""`impl: cpu` of edge against its reference: every family, odd sizes, long texts."""

from contextlib import closing

import numpy as np
import pytest

from llmbench.engines.edge import EdgeEngine
from llmbench.engines.edge_cpu import CpuDecoder
from llmbench.kernels import cpu
from llmbench.models.source import find_model
from llmbench.pairs.agreement import distance, own_error
from llmbench.workload import audit_prefixes
from tests.engines.test_edge import greedy, loaded
from tests.engines.test_edge_gguf import OUT_OF_FILES, SHAPES
from tests.engines.test_families import written
from tests.families import FAMILIES, random_model
from tests.kernels.stored import ISAS, needs_compiler
from tests.models.gguf_files import write_gguf

pytestmark = needs_compiler
CLOSE = 1e-3  # of log-probabilities, weights and cache in float32
NARROW_CACHE = 0.1  # keys and values in float16
SAME = 1e-4  # of the same numbers, summed in another order
IDS = list(range(20, 57))
LENGTHS = (32, 512, 1800)  # of prefixes, as in pairs/tolerances.json
HEADS = {  # name: heads, kv heads, head size; the rest is alike
    "1 a group, 64": (2, 2, 64), "3, 80": (3, 1, 80), "7, 96": (7, 1, 96), "8, 128": (8, 1, 128),
    "12, 256": (12, 1, 256), "3 of two groups, 40": (6, 2, 40), "7 of two groups, 2": (14, 2, 2),
    "12 of three groups, 64": (36, 3, 64),
}  # fmt: skip
SMALL = {f"small {name}": name for name in FAMILIES}
WINDOWS = {"none": None, "7": 7, "16": 16, "100": 100, "600": 600}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A function: the source of a model of SHAPES, SMALL, HEADS or WINDOWS, made once."""
    made = {}

    def model(name):
        if name not in made:
            made[name] = write(name, tmp_path_factory.mktemp("model"))
        return made[name]

    return model


def write(name, folder):
    if name in SMALL:
        return find_model(str(random_model(SMALL[name], folder)))
    if name in HEADS:
        return written(folder, "Mistral", *HEADS[name], 52, 61, dict(sliding_window=None))
    if name in WINDOWS:
        window = dict(sliding_window=WINDOWS[name])
        return written(folder, "Mistral", 6, 2, 8, 44, 67, window)
    made_by, shape = SHAPES[name]
    return made_by(folder, **shape) if isinstance(shape, dict) else made_by(folder, *shape)


@pytest.fixture(scope="module")
def truth(models):
    """A function: what the reference says of ids after each prefix, asked once."""
    told = {}

    def logprobs(name, ids):
        key = name, tuple(ids)
        if key not in told:
            engine = loaded(EdgeEngine, models(name), impl="reference", attention_impl="reference")
            told[key] = engine.logprobs(ids)
        return told[key]

    return logprobs


@pytest.fixture(params=ISAS)
def isa(request):
    if request.param not in cpu.isas():
        pytest.skip(f"this CPU has no {request.param}")
    return request.param


def opened(source, **options):
    return loaded(EdgeEngine, source, impl="cpu", **options)


def some_ids(count, seed=3, size=211):
    return np.random.default_rng(seed).integers(0, size, count).tolist()


@pytest.mark.parametrize("name", [*SHAPES, *SMALL])
def test_every_family_says_what_the_reference_says(name, models, truth, isa):
    ids = IDS * 2 if name in SMALL else IDS  # longer than trained, and than a window
    found = opened(models(name), isa=isa).logprobs(ids)
    assert np.abs(found - truth(name, ids)).max() < CLOSE
    assert np.ptp(found) > 3  # not all alike


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in OUT_OF_FILES])
def test_a_file_says_what_the_reference_says(name, models, tmp_path):
    """Pairs of rotations, norms and factors as GGUF stores them."""
    source = models(name)
    window = source.config.get("sliding_window") if "mistral" in name else None
    metadata = {"llama.attention.sliding_window": window} if window else {}
    source = find_model(f"gguf:{write_gguf(tmp_path / 'm.gguf', source.folder, metadata=metadata)}")
    expected = loaded(EdgeEngine, source, impl="reference", attention_impl="reference")
    engine = opened(source)
    assert np.abs(engine.logprobs(IDS) - expected.logprobs(IDS)).max() < CLOSE
    assert greedy(engine, [IDS, IDS[::-1]], 9) == greedy(expected, [IDS, IDS[::-1]], 9)


@pytest.mark.parametrize("kv_type", ["f16", "f32"])
@pytest.mark.parametrize("name", HEADS)
def test_heads_of_every_size_and_sharing(name, kv_type, models, truth, isa):
    ids = some_ids(70)
    found = opened(models(name), isa=isa, kv_type=kv_type, threads=2).logprobs(ids)
    assert np.abs(found - truth(name, ids)).max() < (
        CLOSE if kv_type == "f32" else NARROW_CACHE)  # fmt: skip


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 511, 512, 513, 1100])
@pytest.mark.parametrize("window", WINDOWS)
def test_prompts_of_several_passes_under_every_window(window, tokens, models, truth):
    ids = some_ids(1100)[:tokens]
    found = opened(models(window), threads=2).logprobs(ids)
    assert np.abs(found - truth(window, some_ids(1100))[:tokens]).max() < CLOSE


@pytest.mark.parametrize(
    ("name", "kv_type", "close"),
    [("none", "f32", CLOSE), ("600", "f32", CLOSE), ("gemma2, low caps", "f32", CLOSE),
     ("none", "f16", NARROW_CACHE)],
)  # fmt: skip
def test_a_context_of_4096(name, kv_type, close, models, truth):
    ids = some_ids(4096)
    engine, expected = opened(models(name), threads=2, kv_type=kv_type), truth(name, ids)
    assert np.abs(engine.logprobs(ids) - expected).max() < close
    assert np.abs(logits_of(engine, [ids], 4095) - expected[-1]).max() < close  # by a decoding step


def logits_of(engine, rows, first):
    """(rows, V): log-probabilities after all of `rows`, of which `first` go in as the prompt."""
    ids = np.array(rows, np.int32)
    engine.decoder.begin(*ids.shape)
    if first:
        engine.decoder.logits(ids[:, :first])
    for at in range(first, ids.shape[1]):
        last = engine.decoder.logits(ids[:, at : at + 1])
    last = last.astype(np.float64)
    return last - np.log(np.exp(last).sum(-1, keepdims=True))


@pytest.mark.parametrize("window", WINDOWS)
def test_decoding_follows_the_prompt_across_splits(window, models, truth, isa):
    """From before splits of 256 keys, two and four, to behind them, every step."""
    ids = some_ids(1100)
    expected = truth(window, ids)
    engine = opened(models(window), isa=isa, threads=3)
    for first, end in ((0, 40), (505, 521), (1020, 1030)):
        engine.decoder.begin(1, end)
        if first:
            engine.decoder.logits(np.array([ids[:first]], np.int32))
        for at in range(first, end):
            found = engine.decoder.logits(np.array([[ids[at]]], np.int32))[0].astype(np.float64)
            found -= np.log(np.exp(found).sum())
            assert np.abs(found - expected[at]).max() < CLOSE, f"token {at}"


@pytest.mark.parametrize("parts", [[1, 1, 35], [5, 32], [16, 16, 5], [17, 20], [36, 1]])
@pytest.mark.parametrize("name", ["gemma2", "phi3", "16"])
def test_a_prompt_in_parts_is_the_prompt(name, parts, models, truth):
    engine, at, ids = opened(models(name)), 0, np.array([IDS], np.int32)
    engine.decoder.begin(1, len(IDS))
    for part in parts:
        found = engine.decoder.logits(ids[:, at : at + part], every=True)[0].astype(np.float64)
        found -= np.log(np.exp(found).sum(-1, keepdims=True))
        assert np.abs(found - truth(name, IDS)[at : at + part]).max() < CLOSE
        at += part


def test_longrope_changes_its_factors_while_a_text_grows(models):
    source = models("phi3, longrope")
    rows = [list(range(first, first + 26)) for first in (5, 60, 150)]  # trained: 32
    expected = loaded(EdgeEngine, source, impl="reference")
    assert greedy(opened(source), rows, 14) == greedy(expected, rows, 14)


@pytest.mark.parametrize("name", ["16", "gemma2", "7, 96", "phi3, longrope"])
@pytest.mark.parametrize("rows", [2, 4, 9])
def test_rows_of_a_batch_are_rows_alone(name, rows, models, isa):
    engine = opened(models(name), isa=isa, threads=2)
    prompts = [some_ids(37, seed) for seed in range(rows)]
    together = logits_of(engine, prompts, 30)
    for row in (0, rows - 1):
        alone = logits_of(engine, prompts[row : row + 1], 30)[0]
        assert np.abs(together[row] - alone).max() < SAME
    answers = greedy(engine, prompts, 12)
    alone = [greedy(engine, [prompt], 12) for prompt in prompts]
    assert [[step[row] for step in answers] for row in range(rows)] == [
        [token for [token] in one] for one in alone]  # fmt: skip


def test_every_logit_of_every_row_is_there(models):
    engine = opened(models("16"))
    rows = np.array([some_ids(21, seed) for seed in range(4)], np.int32)
    engine.decoder.begin(4, 21)
    every = engine.decoder.logits(rows, every=True)
    engine.decoder.begin(4, 21)
    last = engine.decoder.logits(rows)
    engine.decoder.begin(4, 21)
    best = engine.decoder.greedy(rows)
    assert every.shape == (4, 21, 211) and np.isfinite(every).all()
    assert (every[:, -1] == last).all() and (last.argmax(-1) == best).all()


@pytest.mark.parametrize("name", ["7, 96", "gemma2", "600"])
def test_any_number_of_threads_says_the_same(name, models, isa):
    ids = some_ids(530)
    engines = [opened(models(name), isa=isa, threads=threads) for threads in (1, 2, 3, 8)]
    first, *others = [(e.logprobs(ids), greedy(e, [ids, ids[::-1]], 9)) for e in engines]
    for logprobs, tokens in others:
        assert (logprobs == first[0]).all() and tokens == first[1]


def test_a_cache_begun_again_remembers_nothing(models):
    """Larger, smaller, as large with other rows, as large again: as a fresh engine each time."""
    engine = opened(models("600"), threads=2)
    for rows, tokens in ((1, 40), (4, 700), (2, 33), (1, 700), (1, 690), (9, 20), (9, 20)):
        prompts = [some_ids(tokens, seed) for seed in range(rows)]
        fresh = opened(models("600"), threads=2)
        assert (logits_of(engine, prompts, tokens - 3) ==
                logits_of(fresh, prompts, tokens - 3)).all()  # fmt: skip
        fresh.close()


def test_engines_side_by_side_do_not_meet(models):
    one, two = opened(models("16"), threads=2), opened(models("7, 96"), threads=2)
    alone = one.logprobs(IDS)
    two.logprobs(IDS[::-1])
    two.close()
    assert (one.logprobs(IDS) == alone).all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "BF16") for name in SHAPES if name not in OUT_OF_FILES),
     *((f"small {name}", kind) for name in ("llama", "qwen2", "mistral", "granite", "phi3")
       for kind in ("Q8_0", "Q5_1", "Q4_0"))],
)  # fmt: skip
def test_narrow_weights_miss_little(name, kind, models, tmp_path):
    """A prompt of several tiles: where inputs are rounded, what is said is off by a percent or two.

    What each product must be is exact in tests/kernels; a mistake of the whole is far larger.
    """
    source, ids = models(name), some_ids(75)
    file = write_gguf(tmp_path / "m.gguf", source.folder, kind)
    source = find_model(f"gguf:{file}")
    expected = loaded(EdgeEngine, source, impl="reference", attention_impl="reference")
    wanted = expected.logprobs(ids)
    spread = np.linalg.norm(wanted - wanted.mean(-1, keepdims=True))
    for isa in cpu.isas():
        engine = opened(source, isa=isa, threads=2)
        assert np.linalg.norm(engine.logprobs(ids) - wanted) < 0.03 * spread, isa
        assert np.linalg.norm(logits_of(engine, [ids], 40)[0] - wanted[-1]) < 0.05 * (
            np.linalg.norm(wanted[-1] - wanted[-1].mean())), isa  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A function: builtin:tiny in a type, prefixes of scripts/tolerances.py, what is true there."""
    made = {}

    def tiny_in(kind):
        if kind not in made:
            folder = find_model("builtin:tiny").folder
            file = write_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", folder, kind)
            source = find_model(f"gguf:{file}")
            text = audit_prefixes(source.tokenizer)
            long = text[-1] * (1800 // len(text[-1]) + 1)
            prefixes = [*text, *(long[:n] for n in LENGTHS if n > len(text[-1]))]
            expected = loaded(EdgeEngine, source, impl="reference")
            made[kind] = source, prefixes, audit(expected, prefixes)
        return made[kind]

    return tiny_in


def audit(engine, prefixes):
    """What an engine says after each prefix, as `pairs.agreement` reads it."""
    likeliest = [engine.next_logprobs(prefix, 20) for prefix in prefixes]
    return {"prefixes": list(map(len, prefixes)), "next_ids": [list(one) for one in likeliest],
            "next_logprobs": [list(one.values()) for one in likeliest]}  # fmt: skip


@pytest.mark.parametrize("kind", ["F32", "BF16", "F16", "Q8_0", "Q4_0"])
def test_formats_miss_no_more_than_twice_what_llama_cpp_misses(kind, tiny, isa):
    source, prefixes, expected = tiny(kind)
    if isa == "scalar":  # it is slow
        prefixes = [prefix for prefix in prefixes if len(prefix) <= 512]
    engine = opened(source, threads=2, kv_type="f16", isa=isa)
    for longest in LENGTHS:
        some = [prefix for prefix in prefixes if len(prefix) <= longest]
        bound = own_error("llamacpp", engine.served.weight_format, "float16", longest)
        assert distance(expected, audit(engine, some)) <= bound, f"up to {longest} tokens"


def test_no_bit_depends_on_the_walk_that_is_tried_first_and_then_kept():
    with closing(CpuDecoder(find_model("builtin:tiny"), "auto", "auto", 2)) as own:

        def told():
            own.begin(1, 64)
            step = np.array([IDS[:8]], np.int32)
            for _ in range(40):
                logits = own.logits(step)
                yield logits
                step = logits.reshape(1, -1)[:, -own.spec.vocab_size :].argmax(1)[:, None]

        first, later = np.stack(list(told())), np.stack(list(told()))  # in 18 steps both are tried
        assert (first == later).all()
