"""A claim without a ratio keeps its place and its reason in the table and in the figure."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from llmbench import figures, tables
from llmbench.figures import style
from llmbench.findings import Told
from llmbench.pairs import Claim, Comparison, judged
from llmbench.pairs.checks import Check

WHY = "no row of edge may enter a comparison (12 oom)"
CLAIM = Claim(
    group=(("run", "demo"), ("model", "builtin:tiny"), ("prompt_tokens", 64)), target="edge",
    baseline="transformers", metric="ttft_s", at_least=1.0, ratio=1.4, low=1.38, high=1.42,
    bootstrap=(1.38, 1.42), noise_floor=0.01, p=1e-6, equivalent=False, process_runs=6, blocks=30,
    left_out=0, cv=0.01, cv_sides=(0.01, 0.01), formats=("float32", "float32"),
    checks=(Check("same weights", True, "sha256 ab"), Check("outputs agree", True, "0"),
            Check("turns interleaved", True, "15 of 30"), Check("A/A pair", True, "1")), tails=(),
)  # fmt: skip
UNSAID = replace(
    CLAIM, group=(("model", "builtin:tiny"), ("prompt_tokens", 128)), ratio=math.nan, low=math.nan,
    high=math.nan, noise_floor=None, p=1.0, equivalent=None, process_runs=0, blocks=0,
    checks=(Check("both sides measured", False, WHY),),
)  # fmt: skip


def told(*claims):
    return [Told("edge", "transformers", "ttft_s", Comparison(judged(claims)))]


def drawn(*claims):
    """The figure, which must not warn of anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = figures.ratios(told(*claims))
        figures.svg(made.figure, "f", "alt")
    return made


def texts(made):
    return [text.get_text() for text in made.figure.axes[0].texts]


def test_the_table_says_why_there_is_no_ratio_and_shows_no_number():
    never = Told("edge", "ollama", "ttft_s", None, "they share no question")
    table = tables.ratios_table([*told(CLAIM, UNSAID), never])
    known, unsaid, apart = table.to_dict("records")
    assert known["Ratio"] == "1.400" and known["Verdict"] == "yes"
    assert (known["Process runs"], known["Blocks"]) == (6, 30)
    assert unsaid["Verdict"] == f"cannot say: {WHY}"
    assert apart["Verdict"] == "cannot say: they share no question"
    assert (unsaid["Model"], unsaid["Prompt"]) == ("builtin:tiny", "128 tokens")
    for row in (unsaid, apart):
        numbers = ("Ratio", "95 % interval", "Noise floor", "Process runs", "Blocks")
        assert [row[name] for name in numbers] == [""] * 5
    text = tables.csv(table)
    assert "nan" not in text.lower() and "6.0" not in text and "—" not in text


def test_a_claim_whose_checks_fail_keeps_its_numbers():
    failed = replace(CLAIM, checks=(*CLAIM.checks, Check("same threads", False, "2 against 4")))
    (row,) = tables.ratios_table(told(failed)).to_dict("records")
    assert (row["Ratio"], row["Verdict"]) == ("1.400", "none: not comparable")


def test_a_claim_without_a_ratio_has_a_line_in_words_and_bends_no_axis():
    alone, both = drawn(CLAIM), drawn(CLAIM, UNSAID)
    assert "no ratio" not in texts(alone) and texts(both).count("no ratio") == 1
    assert any("128 tokens" in text for text in texts(both))
    axes = [made.figure.axes[0] for made in (alone, both)]
    assert axes[0].get_xlim() == axes[1].get_xlim()
    assert list(axes[0].get_xticks()) == list(axes[1].get_xticks())
    assert len(axes[1].containers) == 1, "a mark for the ratio that there is"
    assert "Nothing could be paired in 1 of 2 claims." in both.note
    assert "Nothing" not in alone.note


@pytest.mark.parametrize("count", [1, 3])
def test_without_any_ratio_the_figure_is_empty_and_says_so(count):
    made = drawn(*[UNSAID] * count)
    ax = made.figure.axes[0]
    assert len(made.data) == count and texts(made).count("no ratio") == count
    assert not ax.containers and np.isfinite(ax.get_xlim()).all()
    low, high = ax.get_xlim()
    assert low < 1 < high and len(ax.get_xticks())
    assert f"Nothing could be paired in {count} of" in made.note and "Crosses" not in made.note


def test_an_unknown_noise_floor_is_not_drawn():
    known, unknown = drawn(CLAIM), drawn(replace(CLAIM, noise_floor=None))
    assert len(known.figure.axes[0].collections) == 1 + len(unknown.figure.axes[0].collections)


def test_several_baselines_are_named_and_long_names_stay_in_the_figure():
    long = replace(CLAIM, group=(("run", "demo"), ("model", "shape:" + "long" * 20)))
    one = Told("edge", "transformers", "ttft_s", Comparison(judged([long])))
    other = replace(long, baseline="ollama")
    two = Told("edge", "ollama", "ttft_s", Comparison(judged([other])))
    shown = figures.ratios([one, two])
    said = [text for text in texts(shown) if text.startswith("edge")]
    assert [text.partition(",")[0] for text in said] == ["edge / transformers", "edge / ollama"]
    assert figures.ratios([one]).data["claim"].str.startswith("edge, ").all()
    assert max(map(style.width_pt, said)) < 72 * style.WIDTH_IN
    assert shown.figure.axes[0].get_position().width > 0.8


def test_a_preview_among_claims_is_marked_on_its_line():
    early = replace(CLAIM, blocks=4, group=(("model", "builtin:tiny"), ("prompt_tokens", 128)))
    both, alone = drawn(CLAIM, early), drawn(early)
    assert [text.endswith(" (preview)") for text in texts(both)] == [False, True]
    assert not any("preview" in text for text in texts(alone))
    assert both.figure.get_suptitle() and alone.figure.get_suptitle()


def test_no_claims_at_all_can_be_drawn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = figures.ratios([])
    assert texts(made) == ["no rows to show"] and (len(made.data), made.note) == (0, "")
