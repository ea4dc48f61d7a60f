"""The plan: keys by content, engines interleaved, order shuffled, shards disjoint."""

import hashlib
import json
from itertools import groupby

import pytest

from llmbench.errors import BadParams
from llmbench.params import make_study
from llmbench.points import plan
from llmbench.record import PROTOCOL_VERSION


def study(**fields):
    given = {"engines": ["fake", "transformers"], "batch_sizes": [1, 2], "context_lens": [8, 16],
             "process_runs": 3, "blocks": 2, "threads": 2}  # fmt: skip
    return make_study("scaling", given | fields)


def keys(groups):
    return [r.key for g in groups for r in g.repeats]


def test_every_question_has_one_key_and_the_same_key_again():
    first, second = keys(plan("scaling", study())), keys(plan("scaling", study()))
    assert first == second
    assert len(set(first)) == len(first) == 2 * 4 * 3 * 2


@pytest.mark.parametrize(
    "change",
    [
        {"output_tokens": 3},
        {"engine_options": {"fake": {"law": "n"}, "transformers": {"dtype": "bfloat16"}}},
        {"threads": 1},
        {"memory_limit_gib": 1.0},
    ],
)
def test_another_question_has_other_keys(change):
    assert not set(keys(plan("scaling", study()))) & set(keys(plan("scaling", study(**change))))


def test_what_does_not_change_the_question_keeps_its_key():
    more = study(process_runs=4, blocks=2, timeout_s=9.0, budget_minutes=1.0, warmups=3)
    assert set(keys(plan("scaling", study()))) < set(keys(plan("scaling", more)))


def test_engines_take_their_turns_side_by_side_in_random_order():
    leaders = []
    for group in plan("scaling", study(context_lens=list(range(8, 40)))):
        for _, turns in groupby(group.repeats, key=lambda r: (r.block, r.point.cell)):
            engines = [turn.point.engine for turn in turns]
            assert sorted(engines) == ["fake", "transformers"]
            leaders.append(engines[0])
    assert 0.4 < leaders.count("fake") / len(leaders) < 0.6


def test_blocks_are_whole_and_their_order_differs():
    group = plan("scaling", study())[0]
    blocks = {b: [r.point.cell for r in group.repeats if r.block == b] for b in (0, 1)}
    assert sorted(blocks[0]) == sorted(blocks[1])
    assert blocks[0] != blocks[1]


def test_every_point_once_before_any_twice():
    order = [g.process_run for g in plan("scaling", study())]
    assert order == sorted(order)


def test_shards_are_disjoint_and_whole():
    parts = [set(keys(plan("scaling", study(), f"{i}/2"))) for i in (1, 2)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == set(keys(plan("scaling", study())))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "x", "1", "1/", "-1/2"])
def test_wrong_shards_are_refused(shard):
    with pytest.raises(BadParams, match="I/N"):
        plan("scaling", study(), shard)


def test_only_a_window_beyond_the_trained_context_says_so():
    """So that the keys of all others are those of runs made before this could be asked."""
    asked = {"context_lens": [1024, 4096], "engines": ["edge"], "process_runs": 1}
    studies = [
        make_study("context_windows", asked | more) for more in ({}, {"beyond_trained": True})
    ]
    usual, beyond = ([r for group in plan("context_windows", one) for r in group.repeats]
                     for one in studies)  # fmt: skip
    assert {r.point.window for r in beyond if r.point.beyond_trained} == {4096}
    changed = {r.key for r in beyond} ^ {r.key for r in usual}
    assert changed == {r.key for r in [*usual, *beyond] if r.point.window == 4096}
    asked = usual[0].model_dump() | {"protocol_version": PROTOCOL_VERSION}
    assert "beyond_trained" not in asked["point"]
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    assert usual[0].key == hashlib.sha256(text.encode()).hexdigest()[:32]


def test_each_context_window_has_processes_of_its_own():
    study = make_study("context_windows", {"context_lens": [64, 128], "output_tokens": 4,
                                           "engines": ["edge", "transformers"],
                                           "process_runs": 2})  # fmt: skip
    groups = plan("context_windows", study)
    assert len(groups) == 6  # in a process run one a window, and one of the named prompts
    for group in groups:
        assert len({repeat.point.window for repeat in group.repeats}) == 1
        assert {repeat.point.engine for repeat in group.repeats} == {"edge", "transformers"}


def comparison(**fields):
    given = {"target": "fake", "baselines": ["llamacpp"], "prompts": ["hello"], "process_runs": 2}
    return make_study("ollama_comparison", given | fields)


def test_each_format_of_the_weights_has_processes_of_its_own():
    groups = plan("ollama_comparison", comparison(weights=["Q8_0", "Q4_0"], blocks=1))
    told = [{r.point.weights for r in group.repeats} for group in groups]
    assert sorted(map(sorted, told)) == [["Q4_0"], ["Q4_0"], ["Q8_0"], ["Q8_0"]]
    assert all(len(group.repeats) == 3 for group in groups)  # target, baseline and its twin
    contenders = {r.point.contender for group in groups for r in group.repeats}
    assert len(contenders) == 6
    assert len({r.point.cell for group in groups for r in group.repeats}) == 2


def test_a_point_without_a_format_keeps_the_key_that_it_had():
    [group, _] = plan("ollama_comparison", comparison(blocks=1))
    point = group.repeats[0].point
    assert point.weights is None and "weights" not in point.model_dump()
    asked = point.model_copy(update={"weights": "Q8_0"})
    assert asked.model_dump()["weights"] == "Q8_0"
