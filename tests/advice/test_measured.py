"""What is read from measured rows: sizes, times between and beyond them, memory."""

import numpy as np
import pandas as pd
import pytest

from llmbench.advice.measured import lengths, series, sound
from tests import synthetic

MiB = 2**20


def one(**how):
    return series(synthetic.windows(noise=0, **how))[0]


def truth(prompt, output, **_):
    floor, linear, square = synthetic.PREFILL
    ttft = floor + linear * prompt + square * prompt**2 + 1e-4
    return ttft + (output - 1) * (4e-3 + 1e-6 * prompt)


def test_the_planted_windows_come_back_with_their_prompts():
    found = one()
    assert found.prompts == {512: 480, 1024: 992, 2048: 2016}
    assert [found.reaching(n) for n in (1, 512, 513, 2048, 2049)] == [512, 512, 1024, 2048, None]
    assert found.name == "builtin:tiny with transformers, 2 threads"
    row = found.evidence(1024)
    assert (row.run, row.window, row.prompt_tokens, row.process_runs) == ("demo", 1024, 992, 6)
    assert row.median == pytest.approx(truth(992, 32)) == row.low == row.high


def test_a_measured_length_is_the_prompt_and_its_output():
    frame = synthetic.rows(batch_sizes=(1, 4))
    assert series(frame)[0].prompts == {80: 64, 144: 128, 272: 256, 528: 512}


@pytest.mark.parametrize("prompt", [480, 992, 2016])
def test_a_request_that_is_a_measured_window_takes_what_was_measured(prompt):
    found = one().seconds(prompt, 1)
    assert found.value == pytest.approx(truth(prompt, 1))
    assert (found.kind, found.process_runs) == ("measured", 6)


@pytest.mark.parametrize(("tokens", "output"), [(100, 8), (700, 64), (1200, 32), (1500, 500)])
def test_between_sizes_the_time_is_never_less_than_the_law(tokens, output):
    found, law = one().seconds(tokens, output), truth(tokens, output)
    assert law <= found.value < 2.2 * law


def test_what_the_largest_prompt_lacks_is_read_as_slowly_as_decoding():
    found = one()
    assert found.seconds(2040, 8).value == pytest.approx(found.seconds(2016, 32).value)


def test_the_interval_is_that_of_process_runs():
    noisy = series(synthetic.windows(noise=0.05))[0]
    found = noisy.seconds(992, 32)
    assert found.low < found.value < found.high
    rows = synthetic.windows(noise=0.05)
    few = series(rows[rows["process_run"] < 3])[0].seconds(992, 32)
    assert few.value > 0 and (few.low, few.process_runs) == (None, 3)


@pytest.mark.parametrize(("tokens", "output"), [(4000, 64), (8000, 1), (1900, 400), (700, 4000)])
def test_beyond_the_measured_the_bounds_hold_the_law(tokens, output):
    found, law = one().seconds_beyond(tokens, output), truth(tokens, output)
    assert found.low <= law <= found.high
    assert (found.kind, found.value) == ("bounds", None)


def test_one_size_alone_bounds_too():
    found = one(sizes=(512,)).seconds_beyond(960, 2)
    assert found.low == pytest.approx(truth(480, 2))
    assert found.high > 2 * found.low


def test_memory_is_measured_where_the_window_was_and_else_predicted_from_three_parts():
    found = one(base=300 * MiB)
    known, guessed = found.need(1024), found.need(8192)
    assert (known.source, guessed.source) == ("measured", "predicted")
    assert known.bytes == 300 * MiB + synthetic.WEIGHTS + 1024 * synthetic.KV
    assert guessed.bytes == 300 * MiB + synthetic.WEIGHTS + 8192 * synthetic.KV
    assert "32.0 MiB of KV cache + 300 MiB measured besides" in guessed.why


def test_memory_that_the_rows_do_not_tell_is_not_made_up():
    frame = synthetic.windows()
    assert series(frame.assign(peak_bytes=np.nan))[0].need(1024).bytes is None
    assert series(frame.assign(kv_bytes_per_token=np.nan))[0].need(4096).source == "unknown"
    gpu = series(frame.assign(device="cuda"))[0]
    assert (gpu.need(1024).bytes, gpu.name) == (None, "builtin:tiny with transformers, cuda")


def test_memory_that_ran_out_is_remembered_at_its_smallest_size():
    frame = synthetic.fail(synthetic.windows(), "oom", "planted", window=2048)
    found = series(frame)[0]
    assert (found.oom_tokens, found.reaching(1025)) == (2048, None)


@pytest.mark.parametrize("flag", ["contaminated", "preview", "drift", "impossible", "cold"])
def test_flagged_rows_are_no_measurement(flag):
    assert series(synthetic.flag(synthetic.windows(), flag, 10**6)) == []
    some = synthetic.flag(synthetic.windows(), flag, 6)
    assert sum(len(found.rows) for found in series(some)) == len(some) - 6


def test_unsteady_rows_count_and_say_so():
    found = series(synthetic.flag(synthetic.windows(), "unsteady", 10**6))[0]
    assert found.evidence(512).labels == ("unsteady",)


def test_only_single_texts_of_the_studies_of_length_are_read():
    frame = synthetic.windows()
    assert series(frame.assign(study="attention")) == []
    assert series(frame.assign(batch_size=2)) == []
    assert series(frame.assign(twin=True)) == []
    assert series(frame.iloc[:0]) == []
    assert sound(lengths(frame.iloc[:0])).empty


def test_contenders_studies_and_runs_stay_apart():
    both = pd.concat([synthetic.windows(), synthetic.windows(engine="edge"), synthetic.rows(),
                      synthetic.windows(run="other")])  # fmt: skip
    assert sorted((f.run, f.engine, f.study) for f in series(both)) == [
        ("demo", "edge", "context_windows"), ("demo", "transformers", "context_windows"),
        ("demo", "transformers", "scaling"), ("other", "transformers", "context_windows"),
    ]  # fmt: skip
    assert len({found.who for found in series(both)}) == 2
