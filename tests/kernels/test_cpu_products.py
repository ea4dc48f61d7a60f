"""Products of the CPU engine's library against float64, for every type and instruction set."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmbench.errors import BadParams, Unsupported
from llmbench.kernels import cpu
from tests.kernels.stored import (
    BLOCKS,
    FACTOR,
    ISAS,
    KINDS,
    OFFSET,
    PLAIN,
    WHOLE,
    expected,
    held,
    inputs,
    needs_compiler,
    put_half,
    random_raw,
    read,
)

pytestmark = needs_compiler
ROOT = Path(__file__).resolve().parents[2]
ROWS = (1, 15, 16, 17, 63, 100, 1000)
COLS = {"plain": (1, 32, 63, 64, 96, 100, 288), "block": (32, 64, 96, 288, 1024),
        "k": (256, 512, 1024, 2304)}  # fmt: skip
TOKENS = (1, 2, 3, 4, 7, 8, 9, 16, 33, 64, 100)
THREADS = (1, 2, 3)
CASES = 22  # of rows, columns, tokens and threads, for each type and instruction set


def cases(kind):
    """Every size at least once, in mixtures that differ from type to type."""
    cols = COLS["plain" if kind in PLAIN else "k" if kind.endswith("_K") else "block"]
    shift = KINDS.index(kind)
    for i in range(CASES):
        yield (ROWS[(i + shift) % len(ROWS)], cols[i * 3 % len(cols)],
               TOKENS[(i * 5 + shift) % len(TOKENS)], THREADS[i % len(THREADS)])  # fmt: skip


@pytest.fixture(params=ISAS)
def isa(request):
    if request.param not in cpu.isas():
        pytest.skip(f"this CPU has no {request.param}")
    return request.param


def product(kind, raw, x, isa="auto", threads=1):
    """What the library makes of it: of one token by both walks, which must be the same bits."""
    with cpu.Packed(kind, len(raw), x.shape[1], raw, isa, threads) as packed:
        made = packed.product(x)
        if len(x) == 1:
            assert (packed.product(x, walk=1) == made).all()
    return made


def test_every_instruction_set_is_known_here():
    assert set(cpu.isas()) <= set(ISAS) and "scalar" in cpu.isas()


def test_every_size_is_among_the_cases():
    for kind in KINDS:
        rows, _, tokens, threads = (set(column) for column in zip(*cases(kind), strict=True))
        assert (rows, tokens, threads) == (set(ROWS), set(TOKENS), set(THREADS))


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_the_sums_that_are_documented(kind, isa):
    for seed, (rows, cols, tokens, threads) in enumerate(cases(kind)):
        raw, x = random_raw(kind, rows, cols, seed), inputs(tokens, cols, seed + 100)
        exact, allowed = expected(kind, raw, x, isa)
        apart = np.abs(product(kind, raw, x, isa, threads) - exact)
        worst = (apart / allowed).max()  # a NaN fails, too
        assert worst <= 1, f"{rows} x {cols}, {tokens} tokens, {threads} threads: {worst:.3g}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_inputs_kept_in_fewer_bits_lose_little(kind):
    """What `expected` allows for is not the whole truth: against the inputs as they were given."""
    raw, x = random_raw(kind, 100, 512), inputs(9, 512)
    exact = x.astype(np.float64) @ sum(held(kind, raw)).T
    lost = np.linalg.norm(product(kind, raw, x) - exact) / np.linalg.norm(exact)
    assert lost < {"F32": 1e-6, "F16": 1e-6, "BF16": 4e-3}.get(kind, 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_the_same_bits_for_any_number_of_threads(kind, isa):
    for tokens in (1, 9, 40):
        raw, x = random_raw(kind, 333, 768), inputs(tokens, 768)
        one, *more = (product(kind, raw, x, isa, threads) for threads in (1, 2, 3, 7))
        assert all((some == one).all() for some in more)


@pytest.mark.parametrize("kind", KINDS)
def test_instruction_sets_say_the_same(kind):
    for tokens in (1, 8, 31):  # with more, amx rounds otherwise
        raw, x = random_raw(kind, 65, 512), inputs(tokens, 512)
        _, allowed = expected(kind, raw, x)
        first, *others = (product(kind, raw, x, name) for name in cpu.isas())
        assert all((np.abs(other - first) <= 2 * allowed).all() for other in others)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_does_not_see_its_neighbours(kind, isa):
    raw = random_raw(kind, 40, 512)
    for tokens, token in ((2, 0), (19, 8), (19, 18), (70, 31), (70, 69)):
        x = inputs(tokens, 512)
        before = product(kind, raw, x, isa)
        x[token] *= -3
        after, others = product(kind, raw, x, isa), np.arange(tokens) != token
        assert (after[others] == before[others]).all()
        assert (after[token] != before[token]).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_what_the_gguf_package_reads(kind):
    raw = random_raw(kind, 37, 512)
    theirs, ours = read(kind, raw), sum(held(kind, raw)).astype(np.float32)
    with cpu.Packed(kind, 37, 512, raw) as packed:
        rows = np.stack([packed.row(row) for row in range(37)])
    np.testing.assert_allclose(rows, ours, rtol=3e-7, atol=1e-6 if kind in OFFSET else 0)
    if kind.endswith("_K"):  # two products of a factor and a scale are rounded to 11 bits
        np.testing.assert_allclose(rows, theirs, rtol=0, atol=2**-11 * np.abs(theirs).max() * 2)
    else:
        np.testing.assert_allclose(rows, theirs, rtol=3e-7, atol=1e-6 if kind in OFFSET else 0)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("pattern", [0x00, 0xFF, 0x7F, 0x80])
def test_sums_of_the_largest_values_do_not_overflow(kind, pattern, isa):
    """All bytes alike, inputs all as large as they can be, of one sign and of both."""
    raw = np.full_like(random_raw(kind, 16, 1024), pattern)
    blocks = raw.reshape(16, -1, BLOCKS[kind][1])
    for at in {FACTOR.get(kind, 0), OFFSET.get(kind, FACTOR.get(kind, 0))}:
        put_half(blocks, at, 0.25)
    x = np.full((33, 1024), 127, np.float32)
    x[1::3] = -127
    x[2::3, ::2] = -127
    for first, end in ((0, 33), (0, 9), (0, 1), (1, 2), (2, 3)):
        exact, allowed = expected(kind, raw, x[first:end], isa)
        assert (np.abs(product(kind, raw, x[first:end], isa) - exact) <= allowed).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_times_anything_is_nothing(kind, isa):
    raw = random_raw(kind, 17, 256)
    for tokens in (1, 9, 33):
        assert (product(kind, raw, np.zeros((tokens, 256), np.float32), isa) == 0).all()
        tiny = product(kind, raw, np.full((tokens, 256), 1e-40, np.float32), isa)
        assert np.isfinite(tiny).all() and np.abs(tiny).max() < 1e-30


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_is_refused(kind, value):
    """In the last number, or the last factor, of the last row: and of an offset, too."""
    raw = random_raw(kind, 17, 512)
    if kind in PLAIN:
        wrong = [raw.copy()]
        bits = np.float32(value) if kind != "F16" else np.float16(value)
        size = 4 if kind == "F32" else 2
        wrong[0][-1, -size:] = np.frombuffer(bits.tobytes()[-size:], np.uint8)
    else:
        wrong = []
        for at in {FACTOR.get(kind, 0), OFFSET.get(kind, FACTOR.get(kind, 0))}:
            wrong.append(raw.copy())
            put_half(wrong[-1].reshape(17, -1, BLOCKS[kind][1])[-1:, -1:], at, value)
    for damaged in wrong:
        with pytest.raises(BadParams, match="finite"):
            cpu.Packed(kind, 17, 512, damaged, threads=2)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("_K")])
def test_a_factor_that_float16_cannot_hold_with_its_scale_is_no_silent_infinity(kind):
    raw = random_raw(kind, 1, 256)
    put_half(raw.reshape(1, 1, -1), FACTOR.get(kind, 0), 6e4)
    try:
        made = product(kind, raw, inputs(1, 256))
    except (BadParams, Unsupported):
        return
    assert np.isfinite(made).all()


def refused(kind, rows, cols, isa="auto", threads=1):
    with pytest.raises((BadParams, Unsupported)) as told:
        cpu.Packed(kind, rows, cols, np.zeros(1 << 16, np.uint8), isa, threads)
    return str(told.value)


def test_what_cannot_be_held_is_refused():
    assert "type" in refused("Q2_K", 16, 256)
    assert "type" in refused("no such", 16, 256)
    for rows, cols in ((0, 32), (16, 0), (-1, 32), (16, -32)):
        assert "empty" in refused("F32", rows, cols)
        assert cpu.packed_bytes("F32", rows, cols) == 0
    for threads in (0, -1, 100_000):
        assert "threads" in refused("F32", 16, 32, threads=threads)
    assert "avx9" in refused("F32", 16, 32, isa="avx9")


@pytest.mark.parametrize("kind", WHOLE)
def test_columns_that_are_no_whole_blocks_are_refused(kind):
    for cols in (1, BLOCKS[kind][0] - 1, BLOCKS[kind][0] + 1, BLOCKS[kind][0] * 3 // 2):
        assert cpu.packed_bytes(kind, 16, cols) == 0
        refused(kind, 16, cols)


def test_a_row_that_is_not_there_is_refused():
    with cpu.Packed("F32", 17, 32, random_raw("F32", 17, 32)) as packed:
        assert np.isfinite(packed.row(16)).all()
        for row in (-1, 17, 31):
            with pytest.raises(BadParams, match="no such row"):
                packed.row(row)
        with pytest.raises(BadParams, match="no tokens"):
            packed.product(np.zeros((0, 32), np.float32))


def test_nothing_is_read_or_written_past_an_end():
    """Raw bytes, inputs and outputs end where a page begins that nobody may touch."""
    done = subprocess.run([sys.executable, "-m", "tests.kernels.past_the_end"], cwd=ROOT,
                          capture_output=True, text=True, timeout=200, check=False)  # fmt: skip
    assert done.returncode == 0, f"ended with {done.returncode} at {done.stdout}{done.stderr}"
    asked = {(kind, isa) for kind in KINDS for isa in cpu.isas()}
    assert {tuple(json.loads(line)) for line in done.stdout.splitlines()} == asked


def test_a_read_past_an_end_would_be_seen():
    done = subprocess.run([sys.executable, "-m", "tests.kernels.past_the_end", "--break"], cwd=ROOT,
                          capture_output=True, text=True, timeout=200, check=False)  # fmt: skip
    assert done.returncode == -11
