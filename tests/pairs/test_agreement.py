"""What log-probabilities may be apart follows from what was measured, side by side."""

import json

import pytest

from llmbench.pairs.agreement import LEAST, MEASURED, TIMES, own_error
from tests.pairs.test_compare import audit, check, compared, frame

ROWS = json.loads(MEASURED.read_text())["rows"]


SHORT, LONG = 32, 1800


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(
    [row["model"], row["file"], row["engine"], row["cache"]]))  # fmt: skip
def test_nothing_that_was_measured_is_beyond_half_of_what_is_allowed(row):
    exact = row["cache"] == "float32" == row["weights"]
    for length, apart in row["apart"].items():
        allowed = own_error(row["engine"], row["weights"], row["cache"], int(length))
        assert apart <= (LEAST if exact else max(LEAST, allowed / TIMES))


def _who(row):
    return row["engine"], row["weights"], row["cache"]


@pytest.mark.parametrize(("engine", "weights", "kept"), sorted(set(map(_who, ROWS))))
def test_what_is_allowed_is_no_more_than_twice_what_was_measured(engine, weights, kept):
    for length in (SHORT, LONG):
        most = max(
            row["apart"][str(length)] for row in ROWS if _who(row) == (engine, weights, kept)
        )
        assert own_error(engine, weights, kept, length) <= max(LEAST, 2 * most)


def test_every_engine_and_type_is_among_what_was_measured():
    assert {row["engine"] for row in ROWS} == {"edge", "llamacpp", "ollama"}
    assert {row["file"] for row in ROWS} >= {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M"}


def test_fewer_bits_are_allowed_more_and_the_unknown_the_most():
    order = ["float32", "bfloat16", "Q8_0", "Q4_0", "Q4_K_M"]
    allowed = [own_error("llamacpp", weights, "float16", LONG) for weights in order]
    assert allowed == sorted(allowed) and allowed[0] > LEAST
    assert own_error("any", "float32", "float32", LONG) == LEAST
    most = max(own_error(r["engine"], r["weights"], r["cache"], LONG) for r in ROWS)
    assert own_error("llamacpp", "of its own", "float16", LONG) == most
    assert own_error("any", "Q8_0", "float16", LONG) == max(
        own_error(engine, "Q8_0", "float16", LONG) for engine in ("ollama", "llamacpp")
    )


def test_a_drift_with_the_length_does_not_widen_what_short_prompts_may_miss():
    short, long, beyond = (
        own_error("ollama", "float32", "float16", n) for n in (SHORT, LONG, 9999)
    )
    assert short < long / 4 and long == beyond


@pytest.mark.parametrize(("cache", "gap", "verdict"), [
    ("float32", 0.004, None), ("float16", 0.004, "yes"), ("float16", 0.4, None),
])  # fmt: skip
def test_a_cache_in_float16_explains_what_one_in_float32_does_not(cache, gap, verdict):
    rows = frame(1.3).assign(weight_format="float32", kv_format="float32")
    fast = rows["engine"] == "fast"
    rows["kv_format"] = rows["kv_format"].where(~fast, cache)
    first = rows["audit"].notna() & fast
    rows["audit"] = [audit(gap) if f else a for f, a in zip(first, rows["audit"], strict=True)]
    found = compared(rows)
    assert found.verdict == verdict and f"{gap:g} after" in check(found, "outputs agree").detail
