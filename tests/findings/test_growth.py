"""A planted growth of a ratio with the length is found again, and none where none was planted."""

from dataclasses import replace

import pytest

from llmbench import figures, findings, tables
from llmbench.findings.comparisons import comparisons
from llmbench.findings.growth import growth
from llmbench.pairs import Comparison
from tests import planted_protocol

LENGTHS = (64, 128, 256, 512)
NOISY = {"lengths": LENGTHS, "engines": {"edge": 1.0, "ollama": 1.5}, "length_noise": 0.003}


def told(**planted):
    rows = planted_protocol.rows(**(NOISY | planted))
    return comparisons(rows, ["decode_tok_per_s", "ttft_s"], 1.5, "edge")


@pytest.mark.parametrize(
    ("per_doubling", "word"),
    [(1.04, "grows"), (0.96, "shrinks"), (1.0, "does not surely change")],
)
def test_the_planted_factor_lies_in_the_interval_and_the_word_follows(per_doubling, word):
    for one in growth(told(per_doubling=per_doubling)):
        assert one.low < per_doubling < one.high and one.high / one.low < 1.02
        assert (one.word, one.process_runs, one.lengths) == (word, 5, LENGTHS)
        assert f"it {word} with the prompt." in one.sentence


def test_the_sentence_has_both_ends_the_factor_and_its_interval():
    one = growth(told(per_doubling=1.04))[0]
    assert one.ratios[0] == pytest.approx(1.5, rel=0.01)
    assert one.ratios[-1] == pytest.approx(1.5 * 1.04**3, rel=0.01)
    said = one.sentence
    assert "at 64 tokens and 1.6" in said and "at 512; each doubling of the prompt" in said
    assert f"95 % interval {one.interval}, 5 process runs, 4 lengths" in said
    assert not said.startswith("Preview")


def test_a_weak_growth_is_sure_alone_and_not_among_many():
    (alone,) = growth(told(per_doubling=1.0)[:1])
    many = [replace_metric(told(per_doubling=1.0)[0]) for _ in range(8)]
    assert growth(many)[0].p == pytest.approx(min(1, 8 * alone.p))


def replace_metric(one):
    return replace(one, metric="tpot_s")


def test_lengths_that_are_not_comparable_are_left_out_by_name():
    one = told(per_doubling=1.04)[0]
    claims = [replace(c, verdict=None) if dict(c.group)["prompt_tokens"] == 512 else c
              for c in one.comparison.claims]  # fmt: skip
    (found,) = growth([replace(one, comparison=Comparison(tuple(claims)))])
    assert (found.lengths, found.left_out) == (LENGTHS[:3], (512,))
    assert "left out, since not comparable: 512 tokens" in found.sentence
    claims = [replace(c, verdict=None) for c in claims[:-1]] + claims[-1:]
    (none,) = growth([replace(one, comparison=Comparison(tuple(claims)))])
    assert none.word == "cannot be said" and "cannot be said, " in none.sentence


def test_process_runs_without_every_length_do_not_enter():
    one = told(per_doubling=1.04)[0]
    claims = list(one.comparison.claims)
    claims[0] = replace(claims[0], runs=claims[0].runs[:2])
    (found,) = growth([replace(one, comparison=Comparison(tuple(claims)))])
    assert found.process_runs == 2
    claims[0] = replace(claims[0], runs=claims[0].runs[:1])
    (none,) = growth([replace(one, comparison=Comparison(tuple(claims)))])
    assert "1 process run with all lengths; an interval needs two" in none.sentence


def test_named_texts_alone_have_no_growth():
    rows = planted_protocol.rows()
    assert growth(comparisons(rows)) == []
    assert not len(tables.growth_table(comparisons(rows)))
    assert not len(figures.ratio_growth(comparisons(rows)).data)


def test_table_figure_and_report_tell_the_same():
    rows = planted_protocol.rows(**NOISY, per_doubling=1.04)
    asked = comparisons(rows, ["decode_tok_per_s"], 1.5, "edge")
    (row,) = tables.growth_table(asked).to_dict("records")
    (one,) = growth(asked)
    assert (row["It"], row["95 % interval"], row["Label"]) == ("grows", one.interval, "")
    drawn = figures.ratio_growth(asked)
    assert drawn.data["prompt_tokens"].tolist() == list(LENGTHS)
    assert f"ollama {one.per_doubling:.3f} ({one.interval})" in drawn.note
    about = findings.About(
        "demo", "studies: {ollama_comparison: {target: edge, metrics: [decode_tok_per_s]}}"
    )
    assert one.sentence in findings.findings(rows, [about]).sentences()


def test_a_figure_that_leaves_lines_out_says_so():
    weights = {f"m{i}": 2**27 for i in range(11)}
    asked = comparisons(planted_protocol.rows(**NOISY | {"lengths": LENGTHS[:2]}, weights=weights),
                        ["decode_tok_per_s"], 1.5, "edge")  # fmt: skip
    assert "10 of 11 lines are drawn" in figures.ratio_growth(asked).note


def test_few_blocks_are_a_preview_everywhere():
    asked = told(process_runs=2, blocks=2)
    assert all(one.sentence.startswith("Preview, not a claim: ") for one in growth(asked))
    assert set(tables.growth_table(asked)["Label"]) == {"preview"}
    drawn = figures.ratio_growth(asked)
    assert drawn.data["preview"].all() and drawn.note.startswith("Preview: ")
    assert drawn.figure.get_suptitle().startswith("preview")
    assert not figures.ratio_growth(told()).figure.get_suptitle()
