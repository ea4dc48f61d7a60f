"""What log-probabilities may be apart follows from what was measured, side by side."""

import json

import pytest

from llmbench.pairs.agreement import LEAST, MEASURED, TIMES, own_error
from tests.pairs.test_compare import audit, check, compared, frame

ROWS = json.loads(MEASURED.read_text())["rows"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(
    [row["model"], row["file"], row["engine"], row["cache"]]))  # fmt: skip
def test_nothing_that_was_measured_is_beyond_half_of_what_is_allowed(row):
    allowed = own_error(row["engine"], row["weights"], row["cache"])
    exact = row["cache"] == "float32" == row["weights"]
    assert row["apart"] <= (LEAST if exact else max(LEAST, allowed / TIMES))


def test_every_engine_and_type_is_among_what_was_measured():
    assert {row["engine"] for row in ROWS} == {"edge", "llamacpp", "ollama"}
    assert {row["file"] for row in ROWS} >= {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M"}


def test_fewer_bits_are_allowed_more_and_the_unknown_the_most():
    order = ["float32", "bfloat16", "Q8_0", "Q4_0", "Q4_K_M"]
    allowed = [own_error("llamacpp", weights, "float16") for weights in order]
    assert allowed == sorted(allowed) and allowed[0] > LEAST
    assert own_error("any", "float32", "float32") == LEAST
    most = max(own_error(r["engine"], r["weights"], r["cache"]) for r in ROWS)
    assert own_error("llamacpp", "of its own", "float16") == most
    assert own_error("any", "Q8_0", "float16") == own_error("ollama", "Q8_0", "float16")


@pytest.mark.parametrize(("cache", "verdict"), [("float32", None), ("float16", "yes")])
def test_a_cache_in_float16_explains_what_one_in_float32_does_not(cache, verdict):
    rows = frame(1.3).assign(weight_format="float32", kv_format="float32")
    fast = rows["engine"] == "fast"
    rows["kv_format"] = rows["kv_format"].where(~fast, cache)
    first = rows["audit"].notna() & fast
    rows["audit"] = [audit(0.004) if f else a for f, a in zip(first, rows["audit"], strict=True)]
    found = compared(rows)
    assert found.verdict == verdict and "0.004 after" in check(found, "outputs agree").detail
