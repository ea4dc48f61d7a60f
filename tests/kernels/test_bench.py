"""`kernels bench`: every operation and part is there, counts are right, refusals come first."""

from dataclasses import replace

import pytest

from llmbench.errors import BadParams, OutOfMemory, Unsupported
from llmbench.hardware import Roofs
from llmbench.kernels import bench as subject
from llmbench.kernels import made_up, speed
from llmbench.kernels.bench import Part, Split, bench, by_dtype
from llmbench.kernels.cpu import PARTS, packed_bytes
from llmbench.kernels.speed import Speed, shapes, step_bytes
from llmbench.models.families import traits_of
from llmbench.models.gguf_cache import as_gguf
from llmbench.models.source import find_model
from tests.kernels.test_build import needs_compiler

pytestmark = needs_compiler
TINY = find_model("builtin:tiny")
SPEC = traits_of(TINY.config)[0]
MANY = 16  # instead of 512: quick, and the same code
SHAPES = {"qkv": (1024, 256), "o": (256, 512), "gate_up": (1024, 256), "down": (256, 512),
          "head": (4096, 256)}  # fmt: skip
ROOFS = Roofs(1e10, 1e11, "planted", {"threads": 1, "readings": [
    {"what": "matmul", "of": "int8", "threads": 1, "per_s": [3e11, 4e11]},
    {"what": "matmul", "of": "int8", "threads": 2, "per_s": [8e11]},
    {"what": "read", "of": "int8", "threads": 1, "per_s": [9e11]}]},
    {"bfloat16": 2e11})  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings as short as can be, beside planted roofs."""
    monkeypatch.setattr(speed, "READING_S", 1e-5)
    monkeypatch.setattr(speed, "PROBE_S", 1e-5)
    monkeypatch.setattr(speed, "MANY", MANY)
    monkeypatch.setattr(subject, "matmul_roofs", lambda threads: ROOFS)


def measured(kinds=("Q8_0",), isa=("scalar",), model=TINY, **more):
    asked = {"rounds": 2, "prompt": 5, "tokens": 3} | more
    return bench(model, kinds, isa, 1, **asked)


def test_each_operation_is_read_as_often_as_asked_beside_its_roof():
    done = measured(("Q8_0", "F32"), rounds=3)
    assert [(one.weights, one.operation, one.tokens) for one in done.speeds] == [
        (kind, name, tokens) for kind in ("Q8_0", "F32") for name in SHAPES
        for tokens in (1, MANY) if (name, tokens) != ("head", MANY)]  # fmt: skip
    for one in done.speeds:
        assert len(one.per_s) == 3 and min(one.per_s) > 0
        assert (one.rows, one.cols) == SHAPES[one.operation]
        assert len(one.roof_per_s) == (3 if one.tokens == 1 else 1)
        assert min(one.roof_per_s) > 0
    roofs = {one.weights: (one.roof_per_s, one.roof) for one in done.speeds if one.tokens == MANY}
    assert roofs == {"Q8_0": ((4e11,), "torch matmul in int8"),
                     "F32": ((1e11,), "torch matmul in float32")}  # fmt: skip


def test_each_reading_is_told():
    told = []
    speed.speeds(SPEC, ["Q8_0", "F32"], ["scalar"], 1, 3, {}, told.append)
    assert len(told) == 3 * 2 * speed.TASKS
    assert told.count("qkv") == 3 * 2 * 2 and told.count("head") == 3 * 2
    assert told[:18] != told[18:36], "each round in an order of its own"


def test_one_token_reads_at_least_what_a_whole_step_reads():
    assert shapes(SPEC) == SHAPES
    layer = sum(rows * cols for name, (rows, cols) in SHAPES.items() if name != "head")
    assert step_bytes(SPEC, "F32") == 4 * (3 * layer + 4096 * 256)
    for one in measured().speeds:
        assert one.read_bytes == one.copies * packed_bytes("Q8_0", *SHAPES[one.operation])
        if one.tokens == 1:
            rest = one.read_bytes - step_bytes(SPEC, "Q8_0")
            assert 0 <= rest < packed_bytes("Q8_0", *SHAPES[one.operation])
        else:
            assert one.copies == 1


def test_a_split_holds_all_parts_and_all_the_time():
    done = measured(("Q8_0", "F16"), isa=("scalar", "auto"))
    assert [(s.weights, s.isa, s.phase) for s in done.splits] == [
        (kind, isa, phase) for kind in ("Q8_0", "F16")
        for isa in dict.fromkeys(("scalar", made_up.isas_of(["auto"])[0]))
        for phase in ("decode", "prefill")]  # fmt: skip
    for split in done.splits:
        names = [part.part for part in split.parts]
        assert names == [*PARTS, "outside"]
        for at, seconds in enumerate(split.seconds):
            assert sum(part.seconds[at] for part in split.parts) == pytest.approx(seconds)
        assert len(split.seconds) == 2
        reads = {part.part: part.read_bytes for part in split.parts}
        kept = reads.pop("attend")
        assert sum(reads.values()) == step_bytes(SPEC, split.weights)
        tokens = {"decode": 3, "prefill": 5}[split.phase]
        assert (split.tokens, split.context_tokens) == (tokens, 5 if tokens == 3 else 0)
        flops = {part.part: part.flops for part in split.parts if part.flops}
        wanted = {name: 2 * rows * cols * (tokens * 3 if name != "head" else 1)
                  for name, (rows, cols) in SHAPES.items()}  # fmt: skip
        wanted["head"] *= 3 if split.phase == "decode" else 1
        pairs = 6 + 7 + 8 if split.phase == "decode" else 1 + 2 + 3 + 4 + 5  # query and key
        head_dims = SPEC.n_layers * SPEC.head_dim
        wanted["attend"] = pairs * 4 * head_dims * SPEC.n_heads
        assert kept == pairs * 2 * head_dims * SPEC.n_kv_heads * 2 // tokens  # float16
        assert flops == wanted


def test_what_follows_from_readings():
    one = Speed("o", "F32", "avx2", 2, 1, 8, 8, 3, 768, (10.0, 40.0, 20.0), (40.0, 80.0, 10.0), "")
    assert (one.median_per_s, one.of_roof, one.facts()["unit"]) == (20, 0.5, "B/s")
    many = replace(one, tokens=9, roof_per_s=(200.0,))
    assert (many.of_roof, many.facts()["unit"]) == (0.1, "FLOP/s")
    assert replace(many, roof_per_s=()).of_roof is None
    reads, other = Part("qkv", (1.0, 2.0, 3.0), 100, 600), Part("place", (1.0, 1.0, 1.0), 0, 0)
    split = Split("decode", "F32", "avx2", 2, "f16", 9, 8, (4.0, 4.0, 4.0), (reads, other))
    assert split.tok_per_s == (2, 2, 2)
    assert (split.share(reads), split.bytes_per_s(reads), split.flops_per_s(reads)) == (
        0.5, 400, 300)  # fmt: skip
    assert (split.bytes_per_s(other), split.flops_per_s(other)) == (None, None)
    assert replace(split, phase="prefill").bytes_per_s(reads) is None
    assert by_dtype(ROOFS) == {"float32": 1e11, "bfloat16": 2e11, "int8": 4e11}
    assert by_dtype(Roofs(1, 2, "a sheet")) == {"float32": 2}


def test_roofs_are_those_kept_or_measured_and_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    there = {}
    monkeypatch.setattr(subject, "kept", lambda own, threads: there.get(threads))
    monkeypatch.setattr(subject, "keep", lambda roofs, own: there.update({2: roofs}))
    monkeypatch.setattr("llmbench.profilers.probes.measure_roofs", lambda threads: ROOFS)
    assert subject.matmul_roofs(2) is ROOFS and there == {2: ROOFS}
    there[2] = replace(ROOFS, source="kept")
    assert subject.matmul_roofs(2).source == "kept"


def test_a_type_that_no_folder_is_exported_in_is_measured_but_not_decoded():
    done = measured(("Q5_K",))
    assert done.not_decoded == ("Q5_K",) and done.splits == ()
    assert {one.weights for one in done.speeds} == {"Q5_K"}


def test_a_file_is_measured_in_its_own_types():
    done = measured((), model=as_gguf(TINY, "Q4_0"))
    assert {one.weights for one in done.speeds} == {"Q4_0"}
    assert [split.weights for split in done.splits] == ["Q4_0", "Q4_0"]
    assert {one.weights for one in measured(()).speeds} == {"Q8_0"}


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [({"kinds": ("Q9",)}, BadParams, "'Q9' is no type"),
     ({"isa": ("sse",)}, Unsupported, "no sse"),
     ({"kinds": ("Q2_K",)}, BadParams, "no type that impl cpu holds")],
)  # fmt: skip
def test_what_cannot_be_is_refused(asked, error, said):
    with pytest.raises(error, match=said):
        measured(**asked)


def test_rows_that_have_no_whole_blocks_are_refused():
    with pytest.raises(BadParams, match="rows of 576 values cannot be stored as Q4_K"):
        speed.speeds(replace(SPEC, d_model=576), ["Q4_K"], ["scalar"], 1, 1, {}, print)


def test_copies_that_do_not_fit_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(speed, "available_bytes", lambda: 1000)
    with pytest.raises(OutOfMemory, match="copies of all weights need"):
        measured()
