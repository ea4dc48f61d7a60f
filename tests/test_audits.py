"""What a fresh child is asked once: broken decoding and a prompt cache must show."""

import pytest

from llmbench.audits import DECODED, audited
from llmbench.engines.base import PREFILL_DONE
from llmbench.models.source import find_model
from llmbench.models.tokenizer import load_tokenizer
from llmbench.record import Point, Repeat
from llmbench.stats import cached
from llmbench.workload import AUDIT_LENGTHS

SIZE = 50  # of the vocabulary


class Counting:
    """A model whose next token is the last plus one, with log-probability 0 against -9."""

    name, capabilities = "counting", frozenset({"next_logprobs"})
    longest = 0

    def synchronize(self):
        pass

    def stream(self, prompt_ids, output_tokens):
        self.longest = max(self.longest, len(prompt_ids[0]) + output_tokens)
        yield PREFILL_DONE
        for step in range(output_tokens):
            yield [(ids[-1] + 1 + step) % SIZE for ids in prompt_ids]

    def next_logprobs(self, ids, top=20):
        return {(ids[-1] + 1) % SIZE: 0.0, (ids[-1] + 3) % SIZE: -9.0}


class Clock:
    ns = 0

    def now_ns(self):
        self.ns += 1
        return self.ns


def asked(tokens=100):
    point = Point(study="scaling", model="builtin:tiny", model_sha256="0" * 64, engine="edge",
                  engine_options={}, batch_size=1, prompt="exact", prompt_tokens=tokens,
                  output_tokens=4, device="cpu", threads=1, seed=1,
                  memory_limit_bytes=0)  # fmt: skip
    return Repeat(point=point, process_run=0, block=3)


def told(engine, trained=None, **size):
    tokenizer = load_tokenizer(find_model("builtin:tiny").folder)
    return audited(engine, tokenizer, asked(**size), clock=Clock(), trained=trained)


def test_the_longest_prefix_is_as_long_as_the_prompt_and_decoding_follows_it():
    audit = told(Counting())
    assert audit.prefixes == [*AUDIT_LENGTHS, 100]
    assert len(audit.next_ids) == len(audit.next_logprobs) == len(audit.prefixes)
    assert audit.decoded_gap == 0.0


@pytest.mark.parametrize(("skip", "gap"), [(2, 9.0), (5, 9.0)])
def test_decoding_that_strays_from_the_prefill_shows(skip, gap):
    """Token 4 is not the one after token 3: listed with -9, or not listed and at most as likely."""
    engine = Counting()
    engine.stream = lambda ids, n: iter(
        [PREFILL_DONE] + [[(row[-1] + 1 + step + skip * (step == n - 1)) % SIZE for row in ids]
                          for step in range(n)])  # fmt: skip
    assert told(engine).decoded_gap == gap


def test_a_model_is_asked_for_no_more_than_it_was_trained_for():
    engine = Counting()
    assert told(engine, trained=64).prefixes[-1] == 64 - DECODED
    assert engine.longest == 64


def test_every_contender_of_a_group_is_asked_the_same_whatever_its_block():
    one, other = Counting(), Counting()
    assert told(one) == told(other).model_copy(update={"prompt_s": told(one).prompt_s})


@pytest.mark.parametrize(
    ("shares", "found"),
    [([0.85] * 6, True), ([0.85] * 5 + [0.95], False), ([0.85] * 5, False), ([0.3], True),
     ([1.0] * 6, False)],
)  # fmt: skip
def test_a_cache_is_seen_by_the_median_or_surely(shares, found):
    assert cached(shares) is found


class Disturbed(Clock):
    """Each reading 1 ns later, but for one of the first new prompt, which takes a second more."""

    def __init__(self, at):
        self.readings, self.at = 0, at

    def now_ns(self):
        self.readings += 1
        self.ns += 1 + 10**9 * (self.readings == self.at)
        return self.ns


def test_one_disturbed_prompt_is_no_cache():
    tokenizer = load_tokenizer(find_model("builtin:tiny").folder)
    for at in range(1, 60):
        audit = audited(Counting(), tokenizer, asked(), clock=Disturbed(at), trained=None)
        assert audit.prompt_s < 1 and audit.again_s < 1
