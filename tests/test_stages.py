"""The five stages of each model, from planted rows and from one real short run."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import llmbench
from llmbench import catalog, page, stages
from llmbench.findings import findings
from llmbench.findings.stages import stages as read_stages
from llmbench.models.checksum import sha256_of
from llmbench.models.gguf_cache import gguf_of
from llmbench.models.source import find_model
from tests import synthetic

MiB = 2**20
SHA256 = find_model("builtin:tiny").sha256
LEFT = {"rss_bytes": 290 * MiB, "anonymous_bytes": 200 * MiB, "file_bytes": 70 * MiB,
        "cached_bytes": 7 * MiB, "reason": None}  # fmt: skip
MACHINE = {"env-f00dcafe": {"machine": {"memory_bytes": 2**30, "cgroup_memory_bytes": None}}}


def windows(*lengths, **columns):
    """Filled windows whose memory is 350 MiB + 30,000 bytes a token."""
    rows = synthetic.rows(context_lens=lengths, batch_sizes=(1,), noise=0.0)
    rows = rows.assign(study="context_windows", window=rows["context_len"], model_sha256=SHA256)
    rows["child"] = [f"{run} {n}" for run, n in zip(rows["process_run"], rows["window"],
                                                     strict=True)]  # fmt: skip
    last = ~rows.duplicated("child", keep="last")
    rows["released"] = [LEFT if ends else None for ends in last]
    return rows.assign(**columns)


def prompts(*names):
    """Answers of 100 tokens to prompts of 28, in a window of 2048."""
    rows = pd.concat([windows(28).assign(prompt=name) for name in names], ignore_index=True)
    rows = rows.assign(window=2048, output_tokens=100, received_tokens=100.0, child="p",
                       released=None)  # fmt: skip
    return rows.assign(key=[f"{prompt} {i}" for i, prompt in enumerate(rows["prompt"])])


def only(frame, environments=MACHINE):
    (one,) = read_stages(frame, environments)
    return one


def test_the_card_is_that_of_the_bytes_that_were_measured():
    assert only(windows(256)).card.facts.n_layers == 3
    other = only(windows(256, model_sha256="0" * 64))
    assert other.card is None and "not here any more" in other.card_reason
    gone = only(windows(256, model="gguf:/nowhere.gguf"))
    assert gone.card is None and "nowhere" in gone.card_reason


def test_the_card_of_an_export_is_that_of_the_file_that_served(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    file = gguf_of(find_model("builtin:tiny"), "Q8_0")
    card = only(windows(256, file_sha256=sha256_of(file))).card
    assert {row.kind for row in card.tensors} == {"Q8_0", "F32"} and card.facts.n_layers == 3
    file.unlink()
    gone = only(windows(256, file_sha256="0" * 64))
    assert gone.card is None and "not here any more" in gone.card_reason


def test_loading_is_counted_once_a_process():
    rows = windows(256, 512)
    rows.loc[rows["child"] == "0 256", "load_s"] = 3.0
    load = only(rows).load
    assert load["loads"] == 12  # of two windows in six process runs, whose blocks share a load
    assert load["time_s"]["max"] == 3.0 and load["time_s"]["median"] == pytest.approx(0.4)
    assert load["added_bytes"]["median"] == 100 * MiB


def test_answers_have_length_speed_errors_and_use_of_the_window():
    rows = prompts("creative_writing", "capability_summary")
    rows = rows.assign(e2e_s=np.where(rows["prompt"] == "creative_writing", 2.0, 1.0))
    story = rows.index[rows["prompt"] == "creative_writing"]
    rows.loc[story[0], ["status", "reason"]] = "timeout", "no answer within 5 s"
    rows.at[story[1], "flags"] = ("short",)
    again = rows.loc[[story[0]]].assign(status="ok", reason=None)  # the same question, later
    found = only(pd.concat([windows(256), rows], ignore_index=True)).inference
    summary, told, both = found
    assert [one["prompt"] for one in found] == ["capability_summary", "creative_writing", "all"]
    assert (told["repeats"], told["failed"], told["error_rate"]) == (12, 2, 2 / 12)
    assert "no answer within 5 s" in told["reason"]
    assert told["utilisation"] == 128 / 2048 and told["response_tokens"]["mean"] == 100
    assert (told["time_s"]["mean"], summary["time_s"]["mean"]) == (2.0, 1.0)
    assert both["error_rate"] == 2 / 24 and both["time_s"]["std"] > 0
    mended = only(pd.concat([rows, again], ignore_index=True)).inference[1]
    assert mended["failed"] == 1


def test_prompts_leave_the_windows_and_their_figures_alone():
    alone, rows = windows(256, 512, 1024), pd.concat(
        [windows(256, 512, 1024), prompts("creative_writing")], ignore_index=True)  # fmt: skip
    assert only(rows).growth == only(alone).growth
    mixed, plain = findings(rows), findings(alone)
    assert mixed.sections == plain.sections
    assert [fit.series for fit in mixed.fits] == [fit.series for fit in plain.fits]
    assert page.plates(rows)["memory_growth"].data.equals(page.plates(alone)["memory_growth"].data)
    assert only(alone).inference == []


def test_a_refused_window_stays_with_its_reason():
    rows = synthetic.fail(windows(256, 4096), "refused", "trained to 2048", window=4096)
    filled, refused = only(rows).windows
    assert (filled["outcome"], filled["process_runs"]) == ("measured", 6)
    assert (refused["outcome"], refused["reason"]) == ("refused", "refused: trained to 2048")
    assert stages.filled_table([only(rows)])["Outcome"].tolist() == ["measured", "was refused"]


def test_growth_and_buffer_find_what_was_planted():
    rows = windows(256, 512, 1024)
    (grown,) = only(rows.assign(prefill_s=rows["window"] ** 1.5)).growth
    assert [one["median"] for one in grown["time_per_doubling"]] == pytest.approx([2**1.5] * 2)
    assert [one["median"] for one in grown["memory_per_doubling_bytes"]] == [256 * 3e4, 512 * 3e4]
    found = grown["buffer"]
    assert found["base_bytes"]["median"] == pytest.approx(350 * MiB)
    assert found["bytes_per_token"]["low"] == pytest.approx(30_000)
    assert found["kv_bytes_per_token"] == synthetic.KV


def test_an_engine_with_a_server_is_seen_by_all_its_processes_and_its_first_token():
    rows = windows(256, 512)
    server = rows.assign(peak_bytes=rows["rss_peak_bytes"] + 5, rss_peak_bytes=np.nan,
                         ttft_s=rows["prefill_s"], prefill_s=np.nan)  # fmt: skip
    assert only(server).growth[0]["memory_per_doubling_bytes"][0]["median"] == 256 * 30_000
    assert only(server).growth[0]["time_per_doubling"] == only(rows).growth[0]["time_per_doubling"]


def test_what_is_left_is_beside_what_was_there_before_and_the_page_cache_apart():
    told = only(windows(256, 512)).cleanup
    assert told["processes"] == 12
    assert told["left_bytes"]["median"] == 40 * MiB  # 290 held, 250 before loading
    assert (told["page_cache_bytes"], told["anonymous_bytes"]) == (7 * MiB, 200 * MiB)
    unread = only(windows(256, released=[{"rss_bytes": None, "reason": "no /proc"}] * 12)).cleanup
    assert unread["left_bytes"]["n"] == 0 and unread["reason"] == "no /proc"
    assert "no process told" in only(windows(256, released=None)).cleanup["reason"]


def test_capacity_is_what_was_trained_and_what_memory_allows():
    told = only(windows(256, 512)).capacity
    assert (told["trained_tokens"], told["trained_pages"]) == (2048, 6)
    assert told["memory_tokens"] == (2**30 - synthetic.WEIGHTS) // synthetic.KV
    assert told["line_tokens"] == pytest.approx((2**30 - 350 * MiB) / 30_000, rel=1e-3)
    assert only(windows(256), None).capacity["memory_tokens"] is None
    assert only(windows(256, device="cuda")).capacity["memory_bytes"] is None


def test_published_rows_stand_below_and_are_never_called_measured():
    table = stages.across_table([only(windows(256, 512))])
    assert table["Source"].tolist() == [stages.HERE] + [stages.THERE] * 4
    moe = table.set_index("Model").loc["MoE 4x7B"]
    assert (moe["Time per doubling"], moe["Per 1K tokens"]) == ("x 1.8", "0.3 GB")
    assert (moe["Pages"], moe["Memory per doubling"]) == ("98", "0.2–0.3 GB")
    known = {claim.id for claim in catalog.claims() if claim.system == "S2" and claim.value}
    published = stages.published_table().set_index("Claim")["Value"]
    assert set(published.index) == known
    assert published["s2-moe-512"] == "memory_gb: 17.5; time_s: 12.7; output_tokens: 241"


def test_what_memory_is_needed_comes_last_and_by_context():
    facts = ["layers", f"{stages.NEED}1,024", f"{stages.NEED}512", "norms in F32"]
    ordered = ["layers", "norms in F32", f"{stages.NEED}512", f"{stages.NEED}1,024"]
    assert sorted(facts, key=stages._needs_last) == ordered


def test_a_file_is_named_without_its_folder():
    told = replace(only(windows(256)), model="gguf:/somewhere/else/model.gguf")
    assert stages.load_table([told])["Model"].tolist() == ["model.gguf"]


def test_nothing_measured_gives_tables_without_rows():
    assert read_stages(windows(256).iloc[:0], {}) == []
    assert stages.filled_table([]).empty and len(stages.across_table([])) == 4


def test_a_real_run_tells_all_five_stages(tmp_path):
    run = llmbench.measure(
        "context_windows", outputs=tmp_path, engines=["edge"], context_lens=[64, 4096],
        output_tokens=2, answer_tokens=3, prompts=["creative_writing"], process_runs=1, blocks=1,
        threads=1,
    )  # fmt: skip
    assert run.statuses == {"ok": 2, "refused": 1}
    facts, page = stages.write_stages(run.folder)
    (one,) = json.loads(facts.read_text())["models"]
    assert one["card"]["n_layers"] == 3 and one["load"]["loads"] >= 2
    assert one["inference"][0]["error_rate"] == 0
    assert [w["window"] for w in one["windows"]] == [64, 4096]
    assert "trained to 2048" in one["windows"][1]["reason"]
    assert one["cleanup"]["processes"] == 2
    assert one["cleanup"]["released"]["median"] > 0
    assert "published elsewhere, not measured here" in page.read_text()
