"""The probe beside a turn: a rate that counts what was read, whatever the number of threads."""

import numpy as np
import pytest

from llmbench.errors import Missing
from llmbench.profilers import read_probe


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_rate_is_all_bytes_over_the_best_pass(threads, monkeypatch):
    ticks = iter(np.arange(0, 1e3, 0.5))  # s: every pass takes as long
    monkeypatch.setattr(read_probe.time, "perf_counter", lambda: next(ticks))
    size = 3 * 2**20
    assert read_probe.numpy_read_bytes_per_s(size, threads, seconds=2.0) == size / 0.5


def test_every_word_is_read_once_a_pass(monkeypatch):
    seen = []
    monkeypatch.setattr(read_probe.np, "bitwise_or", type("Or", (), {"reduce": seen.append}))
    read_probe.numpy_read_bytes_per_s(2**20, 2, seconds=0.0)
    assert sum(part.nbytes for part in seen) == 2**20 * (1 + read_probe.LEAST_PASSES)


def test_small_models_are_read_from_a_larger_buffer_by_our_library_or_without_it_by_numpy(
    monkeypatch,
):
    asked = []
    monkeypatch.setattr(read_probe.cpu, "read_bytes_per_s", lambda *a: asked.append(a) or 7.0)
    assert read_probe.read_bytes_per_s(1, 2, seconds=0.5) == 7.0
    assert asked == [(read_probe.LEAST_BYTES, 2, 0.5)]

    def no_compiler(*asked):
        raise Missing("no compiler")

    monkeypatch.setattr(read_probe.cpu, "read_bytes_per_s", no_compiler)
    monkeypatch.setattr(read_probe, "LEAST_BYTES", 2**20)
    assert read_probe.read_bytes_per_s(1, 1, seconds=0.0) > 0
