"""Each rule by itself: what fires it, what it says; the order of the tables."""

import pytest

from llmbench.advice.measured import Span, series
from llmbench.advice.rules import (
    CUTTING,
    RANKING,
    RULES,
    SERVING,
    Case,
    Cut,
    Ranked,
    fired,
    next_window,
    told,
)  # fmt: skip
from tests import synthetic

GiB = 2**30
WINDOWS = {"noise": 0.01}


def case(tokens=900, output=64, *, frame=None, trained=8192, free=4 * GiB):
    rows = synthetic.windows(**WINDOWS) if frame is None else frame
    return Case(series(rows)[0], tokens, output, trained, free)


def oom(size):
    """Windows of which those from `size` on ran out of memory."""
    frame = synthetic.windows(sizes=(512, 1024, 2048, 4096))
    for window in (w for w in (512, 1024, 2048, 4096) if w >= size):
        frame = synthetic.fail(frame, "oom", "planted", window=window)
    return frame


SERVED = {
    "tokens-not-counted": (case(None), "its tokenizer is not here"),
    "beyond-trained-context": (case(8129), "trained for 8,192 tokens, not 8,193"),
    "ran-out-of-memory": (case(1500, frame=oom(2048)), "ran out of memory at 2,048 tokens"),
    "too-little-memory-free": (case(free=200 * 2**20),
                               "a window of 1,024 tokens needs more than the 200 MiB that are free;"
                               " measured: 434 MiB was the peak measured at 1,024"),
    "measured-window": (case(), "the measured window of 1,024 tokens serves 964, in "),
    "measured-length": (case(300, frame=synthetic.rows()),
                        "a prompt of 512 tokens and 16 of answer were measured"),
    "next-power-of-two": (case(4000), "extrapolated, not measured: 4,064 tokens are more than the "
                                      "2,048 that were; predicted window 4,096, the next power"),
    "trained-context-unknown": (case(4000, trained=None), "4,064 tokens are more than the 2,048"),
}  # fmt: skip


@pytest.mark.parametrize("name", [rule.name for rule in SERVING])
def test_each_rule_of_serving_fires_and_says_why(name):
    asked, words = SERVED[name]
    rule = fired(SERVING, asked)
    assert rule.name == name
    said = rule.says(asked)
    assert words in said and said.startswith("builtin:tiny with transformers, 2 threads: ")
    assert ("refused" in said) == (rule.verdict == "refused")
    assert ("extrapolated" in said) == (rule.verdict == "extrapolated")


def test_every_rule_has_a_name_of_its_own_and_each_table_an_end():
    assert len(RULES) == len(SERVING) + len(RANKING) + len(CUTTING)
    nothing = Case(series(synthetic.windows())[0], 10**7, 1, None, None)
    assert fired(SERVING, nothing).verdict == "refused"


@pytest.mark.parametrize(("tokens", "window"), [(448, 512), (449, 1024), (960, 1024), (961, 2048)])
def test_the_smallest_measured_window_that_holds_text_and_answer_serves(tokens, window):
    asked = case(tokens)
    assert (asked.window, fired(SERVING, asked).name) == (window, "measured-window")


@pytest.mark.parametrize(
    ("tokens", "trained", "window"),
    [(1, None, 512), (512, None, 512), (513, None, 1024), (2048, 4096, 2048), (2049, 3000, 3000),
     (2049, 4096, 4096), (5000, 4096, 8192)],
)  # fmt: skip
def test_a_predicted_window_is_the_next_power_of_two_or_the_trained_context(
    tokens, trained, window
):
    assert next_window(tokens, trained) == window


def test_the_trained_context_is_named_where_it_is_the_window():
    asked = case(2500, trained=3000)
    assert "predicted window 3,000, the trained context" in fired(SERVING, asked).says(asked)


def test_a_predicted_window_is_checked_against_the_memory_that_is_free():
    base, kv = 350 * 2**20 + synthetic.WEIGHTS, 4096 * synthetic.KV
    assert fired(SERVING, case(4000, free=base + kv)).name == "next-power-of-two"
    short = case(4000, free=base + kv - 1)
    assert fired(SERVING, short).name == "too-little-memory-free"
    assert "predicted: 80.0 MiB of weights + 16.0 MiB of KV" in fired(SERVING, short).says(short)


def test_memory_that_cannot_be_checked_is_said():
    asked = case(frame=synthetic.windows().assign(device="cuda"))
    assert "memory not checked: the rows do not tell the memory of a GPU" in (
        fired(SERVING, asked).says(asked)
    )


def test_memory_that_ran_out_above_what_serves_refuses_nothing():
    assert fired(SERVING, case(900, frame=oom(2048))).name == "measured-window"
    assert fired(SERVING, case(2500, frame=oom(4096))).name == "ran-out-of-memory"
    below = synthetic.fail(synthetic.windows(), "oom", "planted", window=512)
    assert fired(SERVING, case(900, frame=below)).name == "measured-window"


def test_a_time_is_said_with_its_interval_and_bounds_as_bounds():
    assert told(Span(1.2, 1.1, 1.3, 6, "measured")) == (
        "1.20 s (95 % interval 1.10 \N{EN DASH} 1.30 s, 6 process runs)")  # fmt: skip
    assert "950 ms \N{EN DASH} 1.30 s," in told(Span(1.2, 0.95, 1.3, 6, "measured"))
    assert told(Span(1.2, None, None, 1, "measured")) == "1.20 s (no interval, 1 process run)"
    assert told(Span(None, None, None, 0, "measured")) == "time not measured"
    assert told(Span(None, None, None, 0, "bounds")) == "its time is not known"
    assert told(Span(None, 1.0, 4.0, 6, "bounds")).startswith("between 1.00 s, if it grows on")


def ranked(*times):
    names = ("a with x", "b with y", "c with z")
    spans = [Span(middle, low, high, 6, "measured") for low, middle, high in times]
    return Ranked("short", tuple(zip(names, spans, strict=False)))


RANKS = {
    "none-measured": (ranked(), "short: none measured on this machine"),
    "only-one-measured": (ranked((1, 2, 3)), "short: a with x, the only one measured, 2.00 s"),
    "fastest-surely": (ranked((1, 2, 3), (3.1, 4, 5), (4, 5, 6)),
                       "surely the fastest of 3 measured, 2.00 s (95 % interval 1.00 "),
    "fastest-not-surely": (ranked((1, 2, 3), (2.9, 4, 5)), "but not surely: the intervals overlap"),
}  # fmt: skip


@pytest.mark.parametrize("name", [rule.name for rule in RANKING])
def test_each_rule_of_ranking_fires_and_says_why(name):
    asked, words = RANKS[name]
    assert fired(RANKING, asked).name == name
    assert words in fired(RANKING, asked).says(asked)


@pytest.mark.parametrize(
    "times", [((1, 2, 3), (3.1, 4, 5), (2.5, 9, 19)), ((None, 2, None), (3, 4, 5)),
              ((1, 2, 3), (None, 9, None))],
)  # fmt: skip
def test_nobody_is_surely_the_fastest_while_one_interval_is_open_or_overlaps(times):
    assert fired(RANKING, ranked(*times)).name == "fastest-not-surely"


CUTS = {
    "read-whole": (Cut(3, 1, 1, 0, ""), "no need to cut"),
    "pieces-instead-of-extrapolation": (Cut(3, 0, 1, 1, "PLAN"), "as measured, in pieces: PLAN"),
    "pieces": (Cut(3, 0, 0, 2, "PLAN"), "fits no window here; in pieces: PLAN"),
    "nothing-to-cut-for": (Cut(0, 0, 0, 0, ""), "needs measured rows"),
    "no-plan": (Cut(1, 0, 0, 0, ""), "no measured window has room"),
}


@pytest.mark.parametrize("name", [rule.name for rule in CUTTING])
def test_each_rule_of_cutting_fires_and_says_why(name):
    asked, words = CUTS[name]
    assert fired(CUTTING, asked).name == name
    assert words in fired(CUTTING, asked).says(asked)
