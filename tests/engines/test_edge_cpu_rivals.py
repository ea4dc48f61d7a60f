"""`impl: cpu` of edge beside llama.cpp and Ollama on the same files: no further from the truth.

The truth is the reference in float32 on what the file holds. llama.cpp gets a process of its own:
it, torch and our own engine set up the same tile registers.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import numpy as np
import pytest

from llmbench import engines
from llmbench.models.requantize import export_any
from llmbench.models.source import find_model
from llmbench.pairs.agreement import distance
from llmbench.workload import audit_prefixes
from tests.engines.test_edge_cpu import audit
from tests.kernels.stored import needs_compiler

pytestmark = needs_compiler
KINDS = ("F32", "BF16", "F16", "Q8_0", "Q4_0", "Q5_0", "Q4_K_M", "Q5_K_M", "Q6_K")
WINDOW, WINDOWS = 1024, 5  # tokens of the held-out text that are read together, and how often
LENGTHS = (24, 400, 1800)  # of prefixes
STEPS = 20  # last tokens of the shortest that go in one by one, too: both walks are tried in 18
EXACT = 1e-3  # with weights and cache in float32
REFERENCE, OURS = {"impl": "reference"}, {"impl": "cpu", "kv_type": "f16"}


@cache
def held_out():
    """Ids of the held-out text that is shipped beside builtin:tiny."""
    source = find_model("builtin:tiny")
    ids = source.tokenizer.encode((source.folder / "heldout.txt").read_text(encoding="utf-8"))
    assert len(ids) > WINDOWS * WINDOW
    return ids


def told(engine, file, options):
    """Nats of the held-out text, log-probabilities along prefixes of each length, and by steps."""
    made = engines.create(engine)
    made.load(find_model(f"gguf:{file}"), {"threads": 1} | options)
    ids, nats = held_out(), []
    for first in range(0, WINDOWS * WINDOW, WINDOW):
        window = ids[first : first + WINDOW + 1]
        nats.append(-made.logprobs(window[:-1])[np.arange(WINDOW), window[1:]])
    after = [made.logprobs(ids[7 : 7 + length]) for length in LENGTHS]
    by_steps = decoded(made, ids[7 : 7 + LENGTHS[0]]) if options == OURS else None
    made.close()
    return float(np.concatenate(nats).mean()), after, by_steps


def decoded(engine, ids):
    """(STEPS, V) log-probabilities after each of the last of `ids`, which go in one by one."""
    own, ids = engine.decoder, np.array([ids], np.int32)
    own.begin(1, ids.shape[1])
    own.logits(ids[:, :-STEPS])
    last = range(ids.shape[1] - STEPS, ids.shape[1])
    found = np.concatenate([own.logits(ids[:, at : at + 1]) for at in last]).astype(np.float64)
    return found - np.log(np.exp(found).sum(-1, keepdims=True))


def alone(function, *asked):
    """`function` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *asked).result()


def side_by_side(function, asked):
    """`function` of each of `asked` in a fresh process, two at a time."""
    fresh = {"mp_context": get_context("spawn"), "max_tasks_per_child": 1}
    with ProcessPoolExecutor(2, **fresh) as processes:
        return list(processes.map(function, *zip(*asked, strict=True)))


def exported(folder, kind):
    file = folder / f"tiny-{kind}.gguf"
    export_any("builtin:tiny", file, kind)
    return str(file)


@pytest.fixture(scope="module", params=KINDS)
def sides(request, tmp_path_factory):
    """What the reference, our engine and llama.cpp say of one file."""
    file = alone(exported, tmp_path_factory.mktemp("files"), request.param)
    asked = (("edge", REFERENCE), ("edge", OURS), ("llamacpp", {}))
    return request.param, *side_by_side(
        told, [(engine, file, options) for engine, options in asked]
    )


@pytest.mark.llamacpp
def test_perplexity_is_llama_cpps(sides):
    _, reference, ours, theirs = sides
    assert 3 < np.exp(reference[0]) < 300  # it has learnt something
    assert abs(np.exp(ours[0] - theirs[0]) - 1) < 0.01
    assert abs(np.exp(ours[0] - reference[0]) - 1) < 0.01


@pytest.mark.llamacpp
@pytest.mark.parametrize("place", range(len(LENGTHS)), ids=LENGTHS)
def test_log_probabilities_are_no_further_off_than_twice_llama_cpps(sides, place):
    kind, reference, ours, theirs = sides
    mine, other = (np.abs(side[1][place] - reference[1][place]) for side in (ours, theirs))
    assert mine.max() <= 2 * other.max() + (EXACT if kind == "F32" else 0)
    assert mine.mean() <= 2 * other.mean() + (EXACT if kind == "F32" else 0)


@pytest.mark.llamacpp
def test_decoding_is_no_further_off_than_twice_llama_cpps_prompt(sides):
    kind, reference, ours, theirs = sides
    true, other = reference[1][0][-STEPS:], theirs[1][0][-STEPS:]
    bound = 2 * np.abs(other - true).max() + (EXACT if kind == "F32" else 0)
    assert np.abs(ours[2] - true).max() <= bound


def in_turns(file):
    """Whether llama.cpp says the same before and after our engine computed in the same thread."""
    theirs, ours = engines.create("llamacpp"), engines.create("edge")
    theirs.load(find_model(f"gguf:{file}"), {"threads": 1})
    ours.load(find_model(f"gguf:{file}"), {"threads": 1, "impl": "cpu"})
    ids = held_out()[:100]
    before = theirs.logprobs(ids)
    ours.logprobs(ids)
    return bool((theirs.logprobs(ids) == before).all())


@pytest.mark.llamacpp
def test_llama_cpp_goes_on_after_our_tiles(tmp_path):
    """It sets up the tile registers of a thread once: what we leave there it computes with."""
    assert alone(in_turns, alone(exported, tmp_path, "Q8_0"))


@pytest.mark.ollama
def test_log_probabilities_are_no_further_off_than_twice_ollamas(tmp_path):
    source = find_model(f"gguf:{export_any('builtin:tiny', tmp_path / 'tiny.gguf', 'Q8_0')}")
    prefixes = audit_prefixes(source.tokenizer)
    said = []
    for engine, options in (("edge", REFERENCE), ("edge", OURS), ("ollama", {})):
        made = engines.create(engine)
        made.load(source, {"threads": 2} | options)
        try:
            said.append(audit(made, prefixes))
        finally:
            made.close()
    reference, ours, theirs = said
    assert distance(reference, ours) <= 2 * distance(reference, theirs)
