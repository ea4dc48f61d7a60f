"""Measured roofs: what is counted and kept; no speed is asserted."""

import random
from collections import Counter

import pytest

from llmbench.errors import OutOfMemory
from llmbench.hardware import Roofs
from llmbench.profilers import probes
from llmbench.units import KiB, MiB

torch = pytest.importorskip("torch")
CACHES = {"L1d": 32 * KiB, "L2": 1 * MiB, "L3": 2 * MiB}


@pytest.fixture(scope="module")
def roofs() -> Roofs:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "_cache", lambda *levels: CACHES[levels[0]])
        return probes.measure_roofs(2, 0.0, buffer_bytes=8 * MiB, matmul_size=128)


def readings(roofs: Roofs, what: str) -> dict[tuple, list[float]]:
    found = roofs.raw["readings"]
    return {(r["of"], r["threads"]): r["per_s"] for r in found if r["what"] == what}


def test_a_roof_is_the_best_of_all_rounds_and_all_are_kept(roofs: Roofs) -> None:
    assert len(roofs.raw["read_bytes_per_s"]) == len(roofs.raw["matmul_flops_per_s"]) == 3
    assert roofs.bytes_per_s == max(roofs.raw["read_bytes_per_s"])
    assert roofs.raw["buffer_bytes"] == 8 * MiB
    assert all(len(r["per_s"]) == 3 for r in roofs.raw["readings"])


def test_the_roof_that_counts_is_of_the_largest_buffer_and_all_threads(roofs: Roofs) -> None:
    assert roofs.raw["read_bytes_per_s"] == readings(roofs, "read")[8 * MiB, 2]
    assert roofs.raw["matmul_flops_per_s"] == readings(roofs, "matmul")["float32", 2]
    assert roofs.flops_per_s == max(readings(roofs, "matmul")["float32", 2])


def test_sizes_are_in_a_cache_about_the_last_and_far_beyond_for_one_thread_and_all(
    roofs: Roofs,
) -> None:
    sizes = {(size, n) for size in (MiB // 2, 2 * MiB, 8 * MiB) for n in (1, 2)}
    assert set(readings(roofs, "read")) == set(readings(roofs, "copy")) == sizes


def test_a_dtype_has_at_least_the_roof_of_float32() -> None:
    rates = {"float32": 2e11, "bfloat16": 9e11, "float16": 1e11, "int8": 5e12}
    made = [probes.Reading("matmul", dtype, 2, [rate, rate / 2]) for dtype, rate in rates.items()]
    made += [probes.Reading("matmul", "float32", 1, [9e13]), probes.Reading("read", 8, 2, [1e10])]
    roofs = probes._roofs(made, 8, 2, {"taken_at": "now"})
    assert roofs.flops_by_dtype == {"float32": 2e11, "bfloat16": 9e11, "float16": 2e11}
    assert (roofs.flops_per_s, roofs.bytes_per_s) == (2e11, 1e10)


def test_load_date_and_what_others_used_are_kept(roofs: Roofs) -> None:
    assert 0 <= roofs.raw["others_busy_share"] <= 1
    assert roofs.raw["load_average"] is None or roofs.raw["load_average"] >= 0
    assert roofs.raw["taken_at"] in roofs.source


def test_rates_are_work_over_the_time_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 100_000, 2))  # every reading of the clock is two seconds after the last
    monkeypatch.setattr(probes.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(probes, "_cache", lambda *levels: CACHES[levels[0]])
    tasks = [*probes._memory_tasks(torch, 8 * MiB, 1), *probes._matmul_tasks(torch, 64, 1)]
    probes._take(torch, tasks, 0.0)
    rates = {(t.reading.what, t.reading.of): set(t.reading.per_s) for t in tasks}
    assert rates["read", 8 * MiB] == rates["copy", 8 * MiB] == {8 * MiB / 2}
    assert rates["read", MiB // 2] == {16 * (MiB // 2) / 2}  # as much traffic as the largest
    assert rates["matmul", "float32"] == {2 * 64**3 / 2}


def test_a_copy_moves_half_of_its_working_set_into_the_other() -> None:
    [task] = [t for t in probes._memory_tasks(torch, MiB // 4, 1) if t.reading.what == "copy"]
    target, source = task.call.__defaults__[::-1]
    target.zero_()
    task.call()
    assert torch.equal(target, source) and target.data_ptr() != source.data_ptr()
    assert target.nbytes + source.nbytes == task.work == MiB // 4


def test_every_round_takes_every_reading_once_in_an_order_of_its_own() -> None:
    order = []
    tasks = [probes._Task(probes.Reading("read", n, 1), 1.0, lambda n=n: order.append(n))
             for n in range(8)]  # fmt: skip
    probes._take(torch, tasks, 0.0)
    rounds = [tuple(order[i : i + 8]) for i in range(0, len(order), 8)]
    assert len(rounds) == 4 == len(set(rounds))
    assert all(Counter(one) == Counter(range(8)) for one in rounds)
    assert rounds[0] == tuple(random.Random(0).sample(range(8), 8))


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    made = probes.measure_roofs(before + 1, 0.0, buffer_bytes=MiB, matmul_size=32)
    assert torch.get_num_threads() == before
    assert made.raw["threads"] == before + 1


def test_the_buffer_is_four_times_the_last_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_cache", lambda *levels: 200 * MiB)
    monkeypatch.setattr(probes, "available_bytes", lambda: 1000 * MiB)
    with pytest.raises(OutOfMemory, match="800 MiB"):
        probes.measure_roofs(1)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx2", "f16c"}, {"float32", "bfloat16"}),
     ({"avx512_fp16", "avx512_vnni"}, {"float32", "bfloat16", "float16", "int8"})],
)  # fmt: skip
def test_a_dtype_that_the_cpu_only_converts_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], expected: set[str]
) -> None:
    monkeypatch.setattr(probes, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(probes, "_whole_numbers_are_exact", lambda torch: True)
    assert {t.reading.of for t in probes._matmul_tasks(torch, 32, 1)} == expected


def test_whole_numbers_that_overflow_are_no_honest_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = lambda a, b: (a.int() @ b.int()).to(torch.int8).to(torch.int32)  # noqa: E731
    monkeypatch.setattr(torch, "_int_mm", wrong)
    assert not probes._whole_numbers_are_exact(torch)
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: a.int() @ b.int())
    assert probes._whole_numbers_are_exact(torch)


def test_a_slow_dtype_gets_a_smaller_product(monkeypatch: pytest.MonkeyPatch) -> None:
    for trial_s, size in ((0.0001, 2048), (0.001, 1024), (1.0, 512)):
        ticks = iter(n * trial_s for n in range(6))
        monkeypatch.setattr(probes.time, "perf_counter", lambda t=ticks: next(t))
        assert probes._fitting(lambda: None) == size
