"""What the report says of comparisons, attention, windows and loads: from planted rows."""

import numpy as np
import pandas as pd
import pytest

from llmbench import figures, findings, tables
from llmbench.findings.comparisons import attention_share, comparisons
from llmbench.findings.windows import doublings
from tests import synthetic

AUDIT = {"prefixes": [1], "next_ids": [[3]], "next_logprobs": [[-0.5]], "prompt_s": 1.0,
         "again_s": 1.0}  # fmt: skip


def side(engine, slower=1.0, *, study, twin=False, seed=1, **columns):
    lengths = columns.pop("context_lens", (64, 128))
    rows = synthetic.rows(engine=engine, batch_sizes=(1,), context_lens=lengths, slower=slower,
                          noise=0.002, seed=seed)  # fmt: skip
    columns = {"study": study, "twin": twin, "others_cpu_s": 0.0} | columns
    rows = rows.assign(**columns, layer_classes=[{} for _ in range(len(rows))])
    rows["prompt_sha256"] = [f"{n}/{b}" for n, b in zip(rows["context_len"], rows["block"],
                                                        strict=True)]  # fmt: skip
    rows["audit"] = [AUDIT if i == 0 else None for i in range(len(rows))]
    return rows


def by_turns(*sides):
    """The rows of all sides, in a random order within each block of a process run."""
    rows = pd.concat(sides, ignore_index=True).sample(frac=1, random_state=3)
    rows = rows.sort_values(["process_run", "block", "context_len"], kind="stable")
    return rows.assign(sequence=range(len(rows))).reset_index(drop=True)


def compared(more=(), run="demo"):
    study = "ollama_comparison"
    sides = [side("edge", study=study), side("transformers", 1.4, study=study, seed=2),
             side("transformers", 1.4, study=study, twin=True, seed=3), *more]  # fmt: skip
    return by_turns(*sides).assign(run=run)


def attended():
    impls = [("reference", 2.0, False), ("sdpa-flash", 1.5, False), ("skipped", 1.0, False),
             ("reference", 2.0, True)]  # fmt: skip
    rows = [side("edge", slower, study="attention", twin=twin, seed=i, attention_impl=impl)
            for i, (impl, slower, twin) in enumerate(impls)]  # fmt: skip
    return by_turns(*rows)


def test_the_report_gives_ratio_interval_floor_and_verdict():
    told = comparisons(compared(), ["decode_tok_per_s"], at_least=1.2)
    assert [(t.target, t.baseline, t.comparison.verdict) for t in told] == [
        ("edge", "transformers", "yes")
    ]
    text = findings.findings(compared()).answer
    assert "edge is 1.40 times as good as transformers in decode rate on builtin:tiny" in text
    assert "noise floor" in text and "6 process runs" in text


def test_a_declared_target_is_held_against_every_baseline_with_one_correction():
    rows = compared([side("ollama", 1.2, study="ollama_comparison", seed=4)])
    told = comparisons(rows, ["decode_tok_per_s"], target="edge")
    assert [(t.target, t.baseline) for t in told] == [("edge", "ollama"), ("edge", "transformers")]
    assert {c.together for t in told for c in t.comparison.claims} == {4}  # two lengths each
    assert len({t.comparison.noise_floor for t in told}) == 1
    unnamed = comparisons(rows, ["decode_tok_per_s"])
    assert [(t.target, t.baseline) for t in unnamed] == [
        ("edge", "transformers"), ("ollama", "transformers")
    ]  # fmt: skip


def test_a_declared_bar_is_the_one_that_is_judged():
    about = findings.About("demo", "studies:\n  ollama_comparison: {at_least: 3.0}\n")
    text = " ".join(findings.findings(compared(), [about]).sentences())
    assert "at least 3 times as good: no" in text


def test_each_run_is_judged_by_what_it_declared_itself():
    abouts = [findings.About(name, f"studies:\n  ollama_comparison: {{at_least: {bar}}}\n")
              for name, bar in (("low", 1.1), ("high", 3.0))]  # fmt: skip
    rows = pd.concat([compared(run=about.name) for about in abouts], ignore_index=True)
    told = comparisons(rows, ["ttft_s"], declared=findings.declared(abouts))
    bars = {dict(c.group)["run"]: (c.at_least, c.verdict)
            for t in told for c in t.comparison.claims}  # fmt: skip
    assert bars == {"low": (1.1, "yes"), "high": (3.0, "no")}


def test_a_contender_that_never_served_is_named_with_its_reason():
    rows = attended()
    lost = rows["attention_impl"] == "sdpa-flash"
    rows["options"] = ['{"attention_impl":"sdpa-flash"}' if no else "" for no in lost]
    rows = rows.assign(attention_impl=rows["attention_impl"].where(~lost),
                       status=rows["status"].where(~lost, "unsupported"))  # fmt: skip
    (told,) = comparisons(rows)
    assert told.target == "sdpa-flash" and "unsupported" in told.why_not


def test_numbers_that_no_clock_gives_do_not_end_the_report():
    rows = compared()
    rows.loc[rows["engine"] == "edge", "ttft_s"] = -1.0
    (told,) = comparisons(rows, ["ttft_s"])
    assert told.comparison is None and "not above 0" in told.why_not


def test_what_cannot_be_compared_is_said_and_nothing_else():
    rows = compared()
    rows["flags"] = [("contaminated",) if e == "edge" else f
                     for e, f in zip(rows["engine"], rows["flags"], strict=True)]  # fmt: skip
    told = comparisons(rows)
    assert all(t.comparison is None and "no row of edge" in t.why_not for t in told)
    assert "cannot be compared" in findings.findings(rows).answer
    assert tables.ratios_table(told)["Verdict"].str.startswith("cannot say").all()


def test_attentions_share_is_found_by_leaving_it_out():
    table = attention_share(attended()).set_index(["attention_impl", "context_len"])["share"]
    assert table["reference", 128] == pytest.approx(0.5, abs=0.01)
    assert table["sdpa-flash", 128] == pytest.approx(1 / 3, abs=0.01)
    assert "skipped" not in table.index.get_level_values(0)
    told = comparisons(attended())
    assert {t.target for t in told} == {"sdpa-flash"}
    assert "50 % of the prefill of 128 tokens" in " ".join(
        findings.findings(attended()).sentences()
    )


def test_doubled_windows_and_their_memory():
    lengths = (256, 512, 1024)
    rows = side("transformers", study="context_windows", context_lens=lengths)
    rows = rows.assign(window=rows["context_len"], prefill_s=rows["context_len"] ** 1.5)
    table = doublings(rows)
    assert table["Time"].tolist() == ["x 2.83", "x 2.83"]
    text = " ".join(findings.findings(rows).sentences())
    assert "512 → 1,024 tokens, takes 2.83 times as long" in text
    assert "grows by 28.6 MiB (95 % interval 28.6 MiB–28.6 MiB) for each 1,000 tokens" in text


def test_windows_of_two_runs_are_told_apart():
    lengths = (256, 512)
    one = side("transformers", study="context_windows", context_lens=lengths)
    one = one.assign(window=one["context_len"])
    two = one.assign(run="later", prefill_s=one["prefill_s"] * one["context_len"])
    table = doublings(pd.concat([one, two], ignore_index=True))
    assert table["Engine"].tolist() == ["transformers, demo", "transformers, later"]
    assert table["Process runs"].tolist() == [6, 6]
    assert table["Time"].tolist()[1] != table["Time"].tolist()[0]


def test_tails_are_those_of_process_runs_and_kinds_of_prompt():
    rows = compared()
    named = rows.assign(prompt="hello", prompt_tokens=9, context_len=9)
    other = named.assign(prompt="quantum")
    table = tables.tails_table(pd.concat([rows, named, other], ignore_index=True))
    assert table["Prompt"].tolist() == ["128 tokens", "64 tokens", "named texts"] * 2
    assert table["Repeats"].tolist() == [12, 12, 48] * 2 and set(table["Process runs"]) == {6}
    assert set(table["95 % of process runs within (ms)"]) == {"not estimable: n=6, needs 90"}
    many = [rows.assign(process_run=rows["process_run"] + 6 * i) for i in range(15)]
    bound = tables.tails_table(pd.concat(many)).set_index(["Engine", "Prompt"])
    worst = 1e3 * rows.loc[(rows["engine"] == "edge") & (rows["context_len"] == 64), "e2e_s"].max()
    assert bound.loc[("edge", "64 tokens"), "95 % of process runs within (ms)"] == f"≤ {worst:.1f}"


def test_every_claims_own_checks_are_shown():
    rows = compared()
    late = rows["twin"] & (rows["context_len"] == 128)
    rows.loc[late, "decode_tok_per_s"] *= 1.02
    table = tables.checks_table(comparisons(rows, ["decode_tok_per_s"]))
    weights = table[table["Check"] == "same weights"]
    pairs = table[table["Check"] == "A/A pair"]
    assert weights["Claims"].tolist() == ["all"]
    assert pairs["Claims"].tolist() == ["Decode rate, 64 tokens", "Decode rate, 128 tokens"]


def test_a_claim_names_the_prompts_and_outputs_that_it_is_about():
    rows = compared().assign(prompt="hello", output_tokens=16)
    (told,) = comparisons(rows, ["ttft_s"])
    assert "on builtin:tiny after prompts of 64 to 128 tokens, 16 tokens out (" in told.sentences[0]


def test_a_cell_whose_rows_are_all_flagged_keeps_its_line():
    rows = compared()
    gone = (rows["engine"] == "edge") & (rows["context_len"] == 64)
    rows["flags"] = [("contaminated",) if f else () for f in gone]
    table = tables.scaling_table(rows)
    line = table[(table["Engine"] == "edge") & (table["Prompt (tokens)"] == 64)]
    assert line["Outcome"].tolist() == ["all flagged: contaminated"]
    assert set(table["Outcome"]) == {"measured", "all flagged: contaminated"}


@pytest.mark.parametrize(
    ("draw", "rows"),
    [(lambda f: figures.ratios(comparisons(f)), compared), (figures.attention_share, attended)],
    ids=["ratios", "share"],
)
def test_figures_show_these_rows_and_are_empty_without(draw, rows):
    drawn = draw(rows())
    assert len(drawn.data) and np.isfinite(drawn.data.select_dtypes("number")).any().any()
    assert not len(draw(synthetic.rows()).data)
    drawn.figure.clear()
