"""The files of params/: each is read, planned without making anything, and fits its machine."""

from dataclasses import replace
from pathlib import Path

import pytest

import llmbench
from llmbench import catalog, ready, sweep
from llmbench.bars import bar_of
from llmbench.errors import Missing
from llmbench.hardware import find_device, machine
from llmbench.models import shapes
from llmbench.models.predict import predict
from llmbench.params import load_params
from llmbench.ready import check_options
from llmbench.units import GB, GiB
from llmbench.workload import PROMPTS

FILES = sorted((Path(__file__).parent.parent / "params").glob("*.yaml"))
GPU = {"kaggle-t4": "T4", "colab-t4": "T4", "colab-l4": "L4", "colab-a100": "A100 40GB",
       "lambda-a100": "A100 40GB", "rtx4090": "RTX 4090", "l40s": "L40S",
       "h200": "H200"}  # file: its data sheet  # fmt: skip
SEEDS = {"answers-128-cpu": 24}  # of the others; its file says why
QUANTISED = {"ollama-cpu", "ollama-cpu-4096", "ollama-cpu-long", "four-engines-cpu",
             "answers-128-cpu", "windows-cpu", "load-cpu"}  # fmt: skip
RUNTIME = GiB // 2  # bytes of a process that `predict` leaves out: a CUDA context and libraries
USUAL = 2048  # tokens; the window of the machine files' comparison
TIERS = [f"shape:{model.name}" for model in catalog.tier("all")]
of_a_machine = pytest.mark.parametrize("name", GPU)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where models would be made; here none is, and trying to is an error: they have gigabytes."""
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes, "write_shape", None)
    return tmp_path / "cache"


def file_of(name):
    return next(path for path in FILES if path.stem == name)


def studies(name):
    chosen = load_params(file_of(name)).chosen
    return chosen["ollama_comparison"], chosen["context_windows"]


def together(study, model, window):
    """Bytes of GPU memory of all contenders, which are loaded at the same time."""
    dtype = study.options_of("edge")["dtype"]
    alone = predict(model, context_len=window, dtype=dtype).peak_bytes
    return len(study.contenders) * (alone + RUNTIME)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_planned_anywhere_and_nothing_is_made(path, cache, tmp_path):
    params = load_params(path)
    assert params.title.endswith("?") and params.seed == SEEDS.get(path.stem, 17)
    for study in params.chosen.values():
        check_options(study)
    plan = llmbench.plan(path, outputs=tmp_path / "none")
    assert {point.model for point in plan.points} == {
        model for study in params.chosen.values() for model in study.models}  # fmt: skip
    quantised = {p.why for p in plan.points if not p.peak_bytes}  # what engines of others hold
    assert all("weights is not predicted" in why for why in quantised)
    assert not quantised or path.stem in QUANTISED
    assert not cache.exists()


def test_every_file_that_asks_for_a_gpu_is_held_to_its_machine_below():
    devices = {path.stem: {s.device for s in load_params(path).chosen.values()} for path in FILES}
    asking = {name for name, found in devices.items() if "cuda" in found}
    assert asking == set(GPU)


@of_a_machine
def test_the_models_are_those_of_the_tiers_that_fit_together(name):
    study, _ = studies(name)
    memory = find_device(GPU[name]).memory_bytes
    assert study.models == [m for m in TIERS if together(study, m, USUAL) <= memory]


@of_a_machine
def test_a_model_that_is_left_out_is_named_with_what_it_would_need(name):
    study, _ = studies(name)
    comment = " ".join(line[2:] for line in file_of(name).read_text().splitlines()
                       if line.startswith("# "))  # fmt: skip
    told = {f"{m.removeprefix('shape:')} {together(study, m, USUAL) / GB:.1f}"
            for m in TIERS if m not in study.models}  # fmt: skip
    _, found, listed = comment.partition("would need: ")
    assert set(listed.partition(". ")[0].split(", ")) == told if told else not found
    assert f"the {find_device(GPU[name]).memory_bytes // GB} GB of the data sheet" in comment


@of_a_machine
def test_the_comparison_is_the_whole_protocol_on_the_same_bytes(name):
    study, _ = studies(name)
    assert (study.target, study.baselines, study.at_least) == ("edge", ["ollama"], 1.5)
    assert study.process_runs * study.blocks * len(study.prompts) == 100
    assert study.prompts == list(PROMPTS)
    assert (study.process_runs * study.warmups, study.output_tokens) == (20, 128)
    dtype, kind = ("float16", "F16") if GPU[name] == "T4" else ("bfloat16", "BF16")
    assert dtype in find_device(GPU[name]).flops_per_s
    edge, ollama = study.options_of("edge"), study.options_of("ollama")
    assert (edge["dtype"], edge["weights"], ollama["weights"]) == (dtype, kind, kind)
    assert ollama["num_ctx"] == USUAL >= max(study.context_lens) + study.output_tokens
    assert edge["attention_impl"] == ("reference" if GPU[name] == "T4" else "auto")


@of_a_machine
def test_the_windows_of_a_small_and_a_large_model_of_that_machine_fit(name):
    comparison, study = studies(name)
    memory = find_device(GPU[name]).memory_bytes
    assert study.context_lens == [512, 1024, 2048, 4096]
    small, large = study.models
    assert {small, large} <= set(comparison.models)
    size = {m: predict(m, context_len=1).parameters for m in comparison.models}
    assert size[large] == max(size.values())
    for model in study.models:
        assert together(study, model, max(study.context_lens)) <= memory
        told = predict(model, context_len=max(study.context_lens)).why
        assert "was trained to" not in told
    for engine in study.engines:
        asked = comparison.options_of(engine)
        assert study.options_of(engine) == {k: asked[k] for k in asked if k != "num_ctx"}


@of_a_machine
def test_without_a_gpu_it_is_refused_before_anything_is_made(name, cache, tmp_path, monkeypatch):
    bare = replace(machine(), gpus=(), gpu_reason="no NVIDIA driver answers")
    monkeypatch.setattr(ready, "machine", lambda: bare)
    with pytest.raises(Missing, match="no GPU is found here") as told:
        llmbench.run(file_of(name), run_id="r", outputs=tmp_path)
    assert told.value.exit_code == 3 and told.value.why == "no NVIDIA driver answers"
    with pytest.raises(Missing, match="no GPU is found here"):
        sweep.measure_study("ollama_comparison", studies(name)[0], outputs=tmp_path)
    assert not list(tmp_path.iterdir())


def bars_of(name):
    """What is asked of each claim in decode and in the time to the first token."""
    study = load_params(file_of(name)).chosen["ollama_comparison"]
    return study, {
        (model, weights, metric, baseline): bar_of(study.bars, study.at_least, {
            "model": model, "weights": weights, "metric": metric, "baseline": baseline})
        for model in study.models for weights in study.weights for metric in study.metrics
        for baseline in study.baselines
    }  # fmt: skip


def test_the_bars_of_the_cpu_engine_are_those_that_were_set():
    study, bars = bars_of("ollama-cpu")
    small, large = study.models
    decode = {
        key: bars[(*key[:2], "decode_tok_per_s", key[2])]
        for key in [
            (small, "Q8_0", "ollama"),
            (small, "Q8_0", "llamacpp"),
            (small, "Q4_0", "ollama"),
            (large, "Q8_0", "llamacpp"),
            (large, "Q4_0", "ollama"),
            (large, "BF16", "ollama"),
            (small, "BF16", "llamacpp"),
            (large, "Q4_K_M", "ollama"),
            (small, "Q4_K_M", "llamacpp"),
        ]
    }
    assert list(decode.values()) == [1.6, 1.2, 2.2, 1.3, 2.0, 1.2, 1.0, 1.5, 1.1]
    told = {key[2:]: bar for key, bar in bars.items() if key[2] != "decode_tok_per_s"}
    assert told == {("ttft_s", "ollama"): 1.5, ("ttft_s", "llamacpp"): 1.2,
                    ("held_bytes", "ollama"): 1.0, ("held_bytes", "llamacpp"): 1.0,
                    ("load_s", "ollama"): 0.5, ("load_s", "llamacpp"): 0.5}  # fmt: skip
    assert study.process_runs * study.blocks == 10 and study.process_runs == 5


def test_the_bars_at_a_long_context_are_lower_and_its_window_holds_it():
    study, bars = bars_of("ollama-cpu-4096")
    decode = {key[3]: bar for key, bar in bars.items() if key[2] == "decode_tok_per_s"}
    assert decode == {"ollama": 1.5, "llamacpp": 1.1}
    assert study.options_of("ollama")["num_ctx"] == study.options_of("llamacpp")["n_ctx"]
    assert study.options_of("ollama")["num_ctx"] >= max(study.context_lens) + study.output_tokens
