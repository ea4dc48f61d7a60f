"""`plan` foretells from specs and measured roofs alone, and says where it knows nothing."""

import re

import pytest

import llmbench
from llmbench import kept_roofs, store
from llmbench.hardware import Roofs, environment, fingerprint, machine
from llmbench.models import shapes
from llmbench.models.export import export
from llmbench.pairs.power import side_sd, simulated

TEXT = """
price_per_hour: 3.6
studies:
  scaling:
    engines: [transformers, fake]
    batch_sizes: [2]
    context_lens: [100]
    process_runs: 2
    blocks: 3
    output_tokens: 11
"""


@pytest.fixture
def params(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No roofs that an earlier run on this machine kept."""
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))


def know_roofs(outputs):
    roofs = {"bytes_per_s": 1e6, "flops_per_s": 1e15, "source": "planted", "raw": {}}
    folder = store.create_run("before", outputs)
    store.add_environment(folder, environment({"roofs": roofs, "roof_threads": 1}))


def test_without_roofs_there_is_no_time(params, tmp_path):
    plan = llmbench.plan(params, outputs=tmp_path / "none")
    assert plan.seconds_at_least is None
    assert any("not predicted" in line for line in plan.sentences())
    assert (plan.repeats, plan.process_runs) == (12, 2)


def test_times_are_the_roofs_and_cost_follows(params, tmp_path):
    know_roofs(tmp_path)
    plan = llmbench.plan(
        params, ["scaling.engines=[transformers]", "scaling.threads=1"], outputs=tmp_path
    )
    weights, kv = 3_409_664 * 4, 2 * 3 * 4 * 64 * 4
    decode = (weights + 2 * 100 * kv) / 1e6
    prefill = weights / 1e6
    assert plan.seconds_at_least == pytest.approx(6 * (prefill + 10 * decode), rel=0.01)
    cost = plan.seconds_at_least / 3600 * 3.6
    assert any(f"cost at least {cost:.2f}"[:17] in line for line in plan.sentences())


def test_kept_roofs_serve_where_no_run_knows_any(params, tmp_path):
    raw = {"threads": 1, "others_busy_share": 0.0, "taken_at": "2020-01-01T00:00:00+00:00"}
    roofs = Roofs(1e6, 1e15, "measured in 2020", raw, {"float32": 1e15, "bfloat16": 2e15})
    kept_roofs.keep(roofs, fingerprint(machine()))
    base = ["scaling.engines=[transformers]", "scaling.threads=1"]
    plan = llmbench.plan(params, base, outputs=tmp_path / "none")
    assert plan.seconds_at_least > 0
    assert any("measured in 2020" in line for line in plan.sentences())
    narrow = [*base, "scaling.engine_options={transformers: {dtype: bfloat16}}"]
    half = llmbench.plan(params, narrow, outputs=tmp_path / "none").seconds_at_least
    assert half == pytest.approx(plan.seconds_at_least / 2, rel=0.05), "half of the bytes"


@pytest.mark.parametrize(
    ("engine", "options", "itemsize"),
    [("ollama", "{weights: BF16}", 2), ("llamacpp", "{weights: F16}", 2), ("ollama", "{}", 4),
     ("edge", "{weights: BF16}", 2), ("edge", "{}", 2), ("edge", "{weights: Q8_0}", None),
     ("edge", "{weights: BF16, impl: reference}", 4),
     ("edge", "{weights: Q8_0, dtype: float16}", 2), ("llamacpp", "{weights: Q8_0}", None)],
)  # fmt: skip
def test_weights_are_foretold_as_the_engine_holds_them(params, tmp_path, engine, options, itemsize):
    asked = [f"scaling.engines=[{engine}]", f"scaling.engine_options={{{engine}: {options}}}"]
    (point,) = llmbench.plan(params, [*asked, "scaling.batch_sizes=[1]"], outputs=tmp_path).points
    if itemsize is None:
        assert point.peak_bytes is None and "Q8_0" in point.why
    else:
        least = 3_409_664 * itemsize
        assert least < point.peak_bytes < 1.3 * least


def test_what_will_not_fit_is_said_with_the_reason(params, tmp_path):
    plan = llmbench.plan(
        params,
        ["scaling.engines=[transformers]", "scaling.memory_limit_gib=0.001"],
        outputs=tmp_path,
    )
    assert [p.fits for p in plan.points] == [False]
    assert any("does not fit" in line for line in plan.sentences())


def test_nothing_is_made_and_what_no_disk_could_hold_is_said(params, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes, "free_bytes", lambda name: 2 * 10**9)
    models = "[shape:qwen2.5-0.5b, shape:smollm-135m, shape:qwen2.5-1.5b, shape:llama-3.1-8b]"
    plan = llmbench.plan(params, [f"scaling.models={models}"], outputs=tmp_path)
    lost = [line for line in plan.sentences() if "cannot be made and is left out" in line]
    assert [line.partition(": cannot")[0] for line in lost] == [
        "shape:qwen2.5-1.5b", "shape:llama-3.1-8b"
    ]  # fmt: skip
    assert "needs 15.0 GiB of disk" in lost[1]
    assert len({p.model for p in plan.points}) == 4
    assert not (tmp_path / "cache").exists()


def test_a_planted_law_is_not_predicted(params, tmp_path):
    know_roofs(tmp_path)
    plan = llmbench.plan(params, ["scaling.engines=[fake]"], outputs=tmp_path)
    assert plan.points[0].peak_bytes is None
    assert plan.seconds_at_least is None


def test_roofs_of_other_threads_devices_and_dtypes_are_not_used(params, tmp_path):
    know_roofs(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "environment.json").write_text("{")
    base = ["scaling.engines=[transformers]", "scaling.threads=1"]
    for other in (
        "scaling.threads=2",
        "scaling.device=cuda",
        "scaling.engine_options={transformers: {dtype: bfloat16}}",
    ):
        plan = llmbench.plan(params, [*base, other], outputs=tmp_path)
        assert plan.seconds_at_least is None, other


SEEN = re.compile(r"(\d+) process runs of (\d+) blocks a difference of ([\d.]+) % can be seen "
                  r"\(in 95 of 100 such runs beyond the noise floor, where a process run's mean of "
                  r"an engine varies by ([\d.]+) %")  # fmt: skip


def seen(params, *overrides):
    """The sentence of the comparison's design, and its four numbers."""
    plan = llmbench.plan(params, overrides, outputs=params.parent / "none")
    said = next(line for line in plan.sentences() if line.startswith("ollama_comparison: with"))
    runs, blocks, percent, varies = SEEN.search(said).groups()
    return said, int(runs), int(blocks), float(percent) / 100, float(varies) / 100


@pytest.fixture
def comparison(tmp_path):
    """Params of a comparison in one metric and for one group of prompts: one claim."""
    path = tmp_path / "comparison.yaml"
    path.write_text("studies: {ollama_comparison: {metrics: [ttft_s]}}")
    return path


@pytest.mark.parametrize(
    ("runs", "metrics", "context_lens", "claims"),
    [(6, "[ttft_s]", "[]", 1), (4, "[ttft_s]", "[]", 1), (12, "[tpot_s]", "[]", 1),
     (6, "[ttft_s, decode_tok_per_s]", "[]", 2),
     (6, "[ttft_s, decode_tok_per_s]", "[64, 128]", 6)],
)  # fmt: skip
def test_the_difference_that_can_be_seen_is_said(comparison, runs, metrics, context_lens, claims):
    """It is the smallest, to its tenth of a percent, of which 95 of 100 runs are sure."""
    asked = {"process_runs": runs, "metrics": metrics, "context_lens": context_lens}
    chosen = [f"ollama_comparison.{name}={value}" for name, value in asked.items()]
    said, *numbers, least, varies = seen(comparison, *chosen)
    assert numbers == [runs, 5] and varies == pytest.approx(0.01) == side_sd(5)
    told = f"and {claims} claims are corrected together"
    assert told in said if claims > 1 else "corrected" not in said
    level = 1 - 0.05 / claims
    assert simulated(least - 0.001, runs, varies, level)[1] < 0.95
    assert simulated(least + 0.001, runs, varies, level)[1] > 0.95


def test_more_claims_and_fewer_runs_see_less(comparison):
    least = seen(comparison)[3]
    assert seen(comparison, "ollama_comparison.context_lens=[64, 128]")[3] > least
    assert seen(comparison, "ollama_comparison.process_runs=3")[3] > least
    assert seen(comparison, "ollama_comparison.process_runs=12")[3] < least
    assert seen(comparison, "ollama_comparison.blocks=2")[3] > least
    assert seen(comparison, "ollama_comparison.blocks=20")[3] < least


def test_one_process_run_sees_nothing_and_without_a_twin_nothing_is_said(
    params, comparison, tmp_path
):
    assert not any("can be seen" in s for s in llmbench.plan(params, outputs=tmp_path).sentences())
    one = "ollama_comparison.process_runs=1"
    said = llmbench.plan(comparison, [one], outputs=tmp_path).sentences()
    assert "ollama_comparison: one process run gives no interval and sees no difference" in said


def test_a_plan_makes_no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "shapes.yaml"
    path.write_text("studies: {ollama_comparison: {models: ['shape:llama-3.1-8b']}}")
    plan = llmbench.plan(path, outputs=tmp_path)
    assert plan.points and all(point.peak_bytes > 10**10 for point in plan.points)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("study", "said"), [
    ("scaling", "builtin:tiny: up to 4,107 tokens of prompt and answer, beyond its trained context "
                "of 2,048 tokens: cost only"),
    ("context_windows", "builtin:tiny: windows beyond its trained context of 2,048 tokens will be "
                        "refused: 4,096"),
    ("context_windows: {beyond_trained: true, ",
     "builtin:tiny: windows beyond its trained context of 2,048 tokens tell costs only: 4,096"),
])  # fmt: skip
def test_more_than_was_trained_for_is_warned_of(study, said, tmp_path):
    path = tmp_path / "p.yaml"
    begun = study if "{" in study else f"{study}: {{"
    text = "studies: {%sengines: [fake], output_tokens: 11, context_lens: [2048, 4096]}}"
    path.write_text(text % begun)
    assert said in llmbench.plan(path, outputs=tmp_path).sentences()
    path.write_text(text.replace("2048, 4096", "512, 2037") % begun)
    told = llmbench.plan(path, outputs=tmp_path).sentences()
    assert not any("trained context" in line for line in told)


def test_a_files_own_type_is_not_taken_for_float32(params, tmp_path):
    file = export("builtin:tiny", tmp_path / "tiny.gguf", "Q8_0")
    asked = ["scaling.engines=[llamacpp]", f"scaling.models=['gguf:{file}']",
             "scaling.batch_sizes=[1]"]  # fmt: skip
    plan = llmbench.plan(params, asked, outputs=tmp_path)
    (point,) = plan.points
    assert point.peak_bytes is None
    assert any("llmbench inspect" in line for line in plan.sentences())
