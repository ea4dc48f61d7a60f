"""Prompts: exact length, the same for every engine, never twice where a cache could help."""

from llmbench.models.source import BUILTIN
from llmbench.models.tokenizer import Tokenizer, load_tokenizer
from llmbench.params import make_study
from llmbench.points import plan
from llmbench.workload import NONCE_TOKENS, PROMPTS, audit_prefixes, prompt_ids, prompt_tokens

TOKENIZER = load_tokenizer(BUILTIN / "tiny")


def repeats(**fields):
    given = {"engines": ["fake", "transformers"], "batch_sizes": [3], "context_lens": [5, 100],
             "process_runs": 2, "blocks": 2}  # fmt: skip
    groups = plan("scaling", make_study("scaling", given | fields))
    return [r for g in groups for r in g.repeats]


def test_shape_and_length_are_exact():
    for repeat in repeats():
        ids = prompt_ids(repeat, TOKENIZER)
        assert len(ids) == 3
        assert {len(row) for row in ids} == {repeat.point.prompt_tokens}


def test_engines_of_a_block_get_the_same_ids_and_blocks_get_others():
    prompts = {}
    for r in repeats():
        key = (r.point.prompt_tokens, r.block)
        prompts.setdefault(key, set()).add(str(prompt_ids(r, TOKENIZER)))
    assert all(len(same) == 1 for same in prompts.values())  # engines and process runs agree
    assert len({str(v) for v in prompts.values()}) == len(prompts)


def test_rows_of_a_batch_begin_differently():
    ids = prompt_ids(repeats()[0], TOKENIZER)
    assert len({tuple(row[:NONCE_TOKENS]) for row in ids}) == 3


def test_another_seed_asks_another_question():
    one, other = repeats(seed=1)[0], repeats(seed=2)
    assert all(prompt_ids(one, TOKENIZER) != prompt_ids(r, TOKENIZER) for r in other)


def test_the_nonce_is_plain_text_of_known_length():
    row = prompt_ids(repeats(context_lens=[NONCE_TOKENS])[0], TOKENIZER)[0]
    text = TOKENIZER.decode(row)
    assert text.replace(" ", "").isalpha()
    assert TOKENIZER.encode(text) != [] and len(row) == NONCE_TOKENS


def test_named_prompts_are_the_missions_four():
    assert PROMPTS["hello"] == "Hello" and len(PROMPTS) == 4
    for name in PROMPTS:
        assert prompt_tokens(name, TOKENIZER) == NONCE_TOKENS + len(TOKENIZER.encode(PROMPTS[name]))


def test_a_row_begins_with_the_token_that_the_model_wants_first():
    wants = Tokenizer(TOKENIZER._backend, bos=0)
    for repeat in repeats(context_lens=[5, 100]):
        asked, plain = prompt_ids(repeat, wants), prompt_ids(repeat, TOKENIZER)
        assert [row[0] for row in asked] == [0, 0, 0]
        assert [row[1:] for row in asked] == [row[:-1] for row in plain]  # the length counts it
    assert prompt_tokens("hello", wants) == prompt_tokens("hello", TOKENIZER) + 1
    assert audit_prefixes(wants) == [[0, *ids] for ids in audit_prefixes(TOKENIZER)]
