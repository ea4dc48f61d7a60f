"""The whole advice: who is recommended for which length, from which rows; plans; silence."""

import json
import shlex

import pandas as pd
import pytest

import llmbench
from llmbench import advice
from llmbench.errors import BadParams
from tests import synthetic

GiB = 2**30
LONG = "hf:meta-llama/Llama-3.2-1B-Instruct"  # the catalog says that it was trained for 131,072
HERE = {"fingerprint": "f00dcafe", "free_bytes": 8 * GiB}


def frames(*parts):
    return pd.concat(parts, ignore_index=True)


def asked(frame, tokens=None, **how):
    return llmbench.advise(frame, tokens=tokens, **HERE | how)


def rivals(slower=1.5):
    """edge and, so many times slower, transformers in windows up to 2,048."""
    return frames(synthetic.windows(engine="edge"), synthetic.windows(slower=slower, seed=3))


def test_the_fastest_measured_one_comes_first_with_rule_interval_and_rows():
    found = asked(rivals(), 900)
    assert [(c.engine, c.verdict, c.rule) for c in found.choices] == [
        ("edge", "measured", "measured-window"), ("transformers", "measured", "measured-window"),
    ]  # fmt: skip
    first = found.choices[0]
    assert (first.window, first.window_from, first.fits) == (1024, "measured", True)
    assert first.seconds.low < first.seconds.value < first.seconds.high
    assert {row.window for row in first.evidence} == {512, 1024}
    assert {(row.run, row.engine, row.process_runs) for row in first.evidence} == {
        ("demo", "edge", 6)
    }
    assert (found.answer.rule, found.answer.engine) == ("fastest-surely", "edge")
    assert (found.cutting, found.plans, found.answered) == ("read-whole", (), True)


def test_equal_engines_are_not_told_apart():
    assert asked(rivals(slower=1.0), 900).answer.rule == "fastest-not-surely"


def test_general_recommendations_go_as_far_as_measurement_does():
    wide = synthetic.windows(model=LONG, sizes=(2048, 8192, 65536), engine="llamacpp")
    found = {c.name: c for c in asked(frames(rivals(), wide)).classes}
    assert {name: (c.model, c.engine, c.measured_to) for name, c in found.items()} == {
        "short": ("builtin:tiny", "edge", 2048), "medium": (LONG, "llamacpp", 32_768),
        "long": (LONG, "llamacpp", 65_536), "very long": (None, None, None),
    }  # fmt: skip
    rules = {name: c.rule for name, c in found.items()}
    assert rules == {"short": "fastest-not-surely", "medium": "only-one-measured",
                     "long": "only-one-measured", "very long": "none-measured"}  # fmt: skip
    assert found["medium"].window == 65_536
    assert {row.window for row in found["long"].evidence} == {8192, 65_536}
    assert "very long (above 131,072): none measured" in found["very long"].sentence


def test_a_general_recommendation_compares_only_what_reaches_as_far():
    slow = synthetic.windows(model=LONG, sizes=(512, 1024), slower=0.1)
    short = asked(frames(rivals(), slow)).classes[0]
    assert (short.engine, short.measured_to) == ("edge", 2048)


def test_a_length_that_was_not_measured_is_extrapolated_and_a_plan_stands_beside_it():
    found = asked(synthetic.windows(model=LONG), 5000)
    (one,) = found.choices
    assert (one.verdict, one.rule) == ("extrapolated", "next-power-of-two")
    assert (one.window, one.window_from, one.seconds.kind) == (8192, "predicted", "bounds")
    assert "extrapolated, not measured" in one.sentence
    assert (found.answer.rule, found.answer.model) == ("none-measured", None)
    assert found.cutting == "pieces-instead-of-extrapolation"
    assert found.plans[0].layout.window == 2048
    words = shlex.split(found.measure)
    assert words[:5] == ["llmbench", "measure", "context_windows", "--models", LONG]
    assert words[words.index("--context-lens") + 1 :] == ["1024", "2048", "4096", "8192"]


def test_measured_ones_stand_before_extrapolated_and_refused_ones():
    wide = synthetic.windows(model=LONG, sizes=(4096, 8192), slower=9)
    fast = synthetic.windows(model="hf:meta-llama/Llama-3.2-3B-Instruct", slower=0.1)
    found = asked(frames(rivals(), wide, fast), 5000)
    assert [c.verdict for c in found.choices] == ["measured", "extrapolated", *["refused"] * 2]
    assert found.answer.model == LONG
    assert found.plans == ()


def test_what_fits_no_window_gets_a_plan_that_covers_it_at_the_measured_price():
    found = asked(rivals(), 5000, document="my text.txt")
    assert {c.rule for c in found.choices} == {"beyond-trained-context"}
    assert (found.cutting, found.answered) == ("pieces", True)
    assert [plan.engine for plan in found.plans] == ["edge", "transformers"]
    plan = found.plans[0]
    cut = plan.layout
    assert (cut.window, cut.piece_tokens, cut.overlap_tokens, cut.pieces) == (2048, 1984, 198, 3)
    whole, *_ = asked(rivals(), 1984).choices
    assert 2 * whole.seconds.value < plan.seconds.value < 3 * whole.seconds.value
    assert plan.seconds.low < plan.seconds.value < plan.seconds.high
    assert shlex.split(plan.command) == [
        "llmbench", "generate", "builtin:tiny", "--engine", "edge", "--document", "my text.txt",
        "--tokens", "64", "--chunks", "--window", "2048", "--overlap", "198", "--threads", "2",
    ]  # fmt: skip
    assert plan.lost.startswith("Lost: each piece is answered by itself")
    assert plan.sentence in found.cutting_sentence


def test_a_plan_takes_the_largest_window_that_the_memory_here_allows():
    frame = synthetic.windows()
    enough = int(frame.loc[frame["window"] == 1024, "peak_bytes"].max())
    assert asked(frame, 5000, free_bytes=enough).plans[0].layout.window == 1024
    none = asked(frame, 5000, free_bytes=1000)
    assert (none.plans, none.cutting, none.answered) == ((), "no-plan", False)
    assert asked(frame, 900, free_bytes=1000).choices[0].rule == "too-little-memory-free"


def test_of_several_runs_the_plan_is_that_of_the_largest_window():
    for runs in (("a", "b"), ("b", "a")):
        sizes = dict(zip(runs, ((512, 1024), (512, 2048)), strict=True))
        both = frames(*(synthetic.windows(run=run, sizes=sizes[run]) for run in ("a", "b")))
        (plan,) = asked(both, 5000).plans
        assert (plan.layout.window, plan.evidence[0].run) == (2048, runs[1])


def test_options_that_generate_cannot_ask_for_give_no_command():
    frame = synthetic.windows().assign(options='{"attention_impl":"eager"}')
    assert asked(frame, 5000).plans[0].command is None
    impl = synthetic.windows(engine="edge").assign(options='{"impl":"reference"}')
    assert asked(impl, 5000).plans[0].command.endswith("--impl reference")


@pytest.mark.parametrize("flag", ["contaminated", "preview", "drift", "beyond_context"])
def test_flagged_rows_fire_nothing_and_are_counted(flag):
    found = asked(synthetic.flag(synthetic.windows(), flag, 10**6), 900)
    assert (found.choices, found.answered, found.answer.rule) == ((), False, "none-measured")
    assert found.unused == {flag: 36}
    assert {c.rule for c in found.classes} == {"none-measured"}


def test_a_flagged_window_is_as_if_it_had_not_been_measured():
    frame = synthetic.windows().sort_values("window", ignore_index=True)
    found = asked(synthetic.flag(frame, "contaminated", 24), 300)
    assert found.choices[0].window == 2048


def test_rows_of_another_machine_recommend_nothing_and_are_listed():
    found = asked(synthetic.windows(fingerprint="elsewhere"), 900)
    assert (found.choices, found.answered) == ((), False)
    assert found.others == (
        {"run": "demo", "fingerprint": "elsewhere", "model": "builtin:tiny",
         "engine": "transformers", "largest_tokens": 2048, "rows": 36},)  # fmt: skip
    assert not asked(synthetic.windows(fingerprint="elsewhere")).answered


def test_of_several_runs_and_studies_a_contender_stands_once_windows_first_newest_first():
    later = synthetic.windows(run="later").assign(measured_at="2027-01-01T00:00:00+00:00")
    both = frames(synthetic.windows(), later, synthetic.rows(context_lens=(600, 900)))
    (one,) = asked(both, 500).choices
    assert (one.rule, one.window, one.run) == ("measured-window", 1024, "later")
    (other,) = asked(synthetic.rows(context_lens=(600, 900)), 500).choices
    assert (other.rule, other.window) == ("measured-length", 616)


def test_each_model_counts_a_text_in_its_own_tokens():
    wide = synthetic.windows(model=LONG)
    found = asked(frames(synthetic.windows(), wide), {LONG: 400})
    assert {c.model: (c.tokens, c.rule) for c in found.choices} == {
        LONG: (400, "measured-window"), "builtin:tiny": (None, "tokens-not-counted"),
    }  # fmt: skip
    assert found.answered


def test_the_document_is_plain_json_with_the_promised_keys():
    for frame, tokens in ((rivals(), 900), (rivals(), 5000), (rivals(), None), (rivals()[:0], 9)):
        facts = json.loads(json.dumps(asked(frame, tokens).facts(), allow_nan=False))
        assert list(facts) == ["request", "here", "answered", "answer", "choices", "cutting",
                               "cutting_sentence", "plans", "classes", "others", "unused",
                               "measure"]  # fmt: skip
    plan = asked(rivals(), 5000).facts()["plans"][0]
    assert plan["layout"]["pieces"] == 3 and plan["sentence"]


def test_without_rows_the_command_that_measures_what_is_asked_is_told():
    told = asked(rivals()[:0], 700).measure
    assert told == "llmbench measure context_windows --models builtin:tiny --context-lens 512 1024"
    assert asked(rivals()[:0], 10**6).measure.endswith("--context-lens 512 1024 2048")


@pytest.mark.parametrize("how", [{"tokens": 0}, {"tokens": {"m": -1}}, {"output_tokens": 0}])
def test_lengths_below_one_are_refused(how):
    with pytest.raises(BadParams, match="must be at least 1"):
        asked(rivals(), **how)


def test_this_machine_is_asked_when_nobody_says_otherwise(monkeypatch):
    monkeypatch.setattr(advice, "available_bytes", lambda: 1000)
    found = llmbench.advise(rivals(), tokens=900)
    assert found.free_bytes == 1000 and found.fingerprint != "f00dcafe" and found.others
