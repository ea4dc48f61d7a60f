"""The probe beside a turn: a rate that counts what was read, whatever the number of threads."""

import numpy as np
import pytest

from llmbench.profilers import read_probe


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_rate_is_all_bytes_over_the_best_pass(threads, monkeypatch):
    ticks = iter(np.arange(0, 1e3, 0.5))  # s: every pass takes as long
    monkeypatch.setattr(read_probe.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(read_probe, "LEAST_BYTES", 2**20)
    size = 3 * 2**20
    assert read_probe.read_bytes_per_s(size, threads, seconds=2.0) == size / 0.5


def test_every_word_is_read_once_a_pass_and_small_models_are_read_from_a_larger_buffer(monkeypatch):
    monkeypatch.setattr(read_probe, "LEAST_BYTES", 2**20)
    seen = []
    monkeypatch.setattr(read_probe.np, "bitwise_or", type("Or", (), {"reduce": seen.append}))
    read_probe.read_bytes_per_s(1, 2, seconds=0.0)
    assert sum(part.nbytes for part in seen) == 2**20 * (1 + read_probe.LEAST_PASSES)
