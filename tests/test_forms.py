"""Whether a form loaded as asked: planted rows pass, and each fault is found and said."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmbench import figures, findings, tables
from llmbench.findings.validation import validation_rows, validation_sentences
from llmbench.validation import Validation
from tests import synthetic

FORMS = {  # options, format, linear layers by class, log-probability of the likeliest token
    "none": ("", "float32", {"Linear": 22}, -0.5),
    "bfloat16": ('{"dtype":"bfloat16"}', "bfloat16", {"Linear": 22}, -0.52),
    "int8": ('{"dtype":"bfloat16","quantization":"int8"}', "int8",
             {"Linear": 1, "Linear8bitLt": 21}, -0.75),
    "nf4": ('{"dtype":"bfloat16","quantization":"nf4"}', "nf4",
            {"Linear": 1, "Linear4bit": 21}, -1.5),
}  # fmt: skip
REPEATS = 12  # of each form: 6 process runs, 2 blocks


TOLD = "which is told and not judged."
MOVED = ("after the prefixes that were asked for, log-probabilities of the likeliest tokens move "
         "by at most")  # fmt: skip


def audit(logprob, prefixes=(1,), ids=((3,),)):
    return {"prefixes": list(prefixes), "next_ids": [list(some) for some in ids],
            "next_logprobs": [[logprob] for _ in ids], "prompt_s": 1.0, "again_s": 1.0}  # fmt: skip


def form(name, **columns):
    """The rows of one form; each column is set in all of them."""
    options, held, classes, logprob = FORMS[name]
    columns = {"options": options, "weight_format": held, "layer_classes": classes,
               "audit": audit(logprob)} | columns  # fmt: skip
    place = {key: columns.pop(key) for key in ("run", "fingerprint", "model") if key in columns}
    rows = synthetic.rows(batch_sizes=(1,), context_lens=(64,), **place)
    rows = rows.assign(study="model_validation", key=name + rows["key"])
    for column, value in columns.items():
        rows[column] = pd.Series([value] * len(rows), dtype=object)
    return rows


def loads(*names, **columns):
    return pd.concat([form(name, **columns) for name in names or FORMS], ignore_index=True)


def spoiled(name, **columns):
    """All forms, of which the last repeat of `name` has other values."""
    rows = loads()
    last = rows.index[rows["key"].str.startswith(name)][-1]
    for column, value in columns.items():
        rows[column] = rows[column].astype(object)
        rows.at[last, column] = value
    return rows


def read_by_people(rows):
    """Every word that is shown of the rows."""
    return "\n".join([*validation_sentences(rows), tables.csv(tables.validation_table(rows))])


def test_every_form_passes_with_its_distance_and_its_proof():
    rows = validation_rows(loads())
    assert rows["asked"].tolist() == list(FORMS) and rows["passed"].all()
    assert rows["why"].tolist() == [""] * 4
    assert rows["distance"].tolist() == pytest.approx([0.0, 0.02, 0.25, 1.0])
    told = validation_sentences(loads())
    assert told[0].startswith("builtin:tiny loads and generates as asked in 4 of 4 forms")
    assert told[1:3] == [
        "int8 of builtin:tiny is proved by 21 of 22 linear layers of class Linear8bitLt; "
        f"{MOVED} 0.25 nats, {TOLD}",
        "nf4 of builtin:tiny is proved by 21 of 22 linear layers of class Linear4bit; "
        f"{MOVED} 1 nats, {TOLD}",
    ]


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("int8", {"layer_classes": {"Linear": 10, "Linear8bitLt": 1}},
         "only 1 of 10 linear layers but the output head are Linear8bitLt"),
        ("int8", {"layer_classes": {"Linear": 2, "Linear8bitLt": 20}},
         "only 20 of 21 linear layers but the output head are Linear8bitLt"),
        ("nf4", {"layer_classes": {"Linear": 12, "Linear4bit": 3}},
         "only 3 of 14 linear layers but the output head are Linear4bit"),
        ("nf4", {"layer_classes": {"Linear": 22}}, "no linear layer is Linear4bit"),
        ("nf4", {"layer_classes": {"Linear": 1, "Linear8bitLt": 21}},
         "no linear layer is Linear4bit"),
        ("nf4", {"layer_classes": {}}, "no linear layer is Linear4bit"),
        ("bfloat16", {"layer_classes": {"Linear": 1, "Linear8bitLt": 21}},
         "nobody asked for quantized layers: 21 Linear8bitLt"),
        ("bfloat16", {"weight_format": "float32"}, "weights are float32, not bfloat16"),
        ("none", {"weight_format": "bfloat16"}, "weights are bfloat16, not float32"),
        ("int8", {"weight_format": "bfloat16"}, "weights are bfloat16, not int8"),
        ("nf4", {"weight_format": None}, "weights are in no known format, not nf4"),
        ("int8", {"flags": ("short",)}, "1 of 12 repeats: fewer tokens than asked"),
        ("int8", {"flags": ("preview", "incorrect")}, "1 of 12 repeats: the output differs"),
        ("none", {"load_s": 1200.0}, "a load took 20 min 0 s, allowed are 20 min 0 s"),
        ("none", {"load_s": np.nan}, "a load was not timed"),
        ("none", {"status": "oom", "reason": "no\nmemory"},
         "1 of 12 repeats: ran out of memory (no memory)"),
    ],
)  # fmt: skip
def test_one_spoiled_repeat_fails_its_form_alone_and_the_reason_is_said(name, change, why):
    rows = spoiled(name, **change)
    found = validation_rows(rows).set_index("asked")
    assert found.index[~found["passed"]].tolist() == [name]
    assert why in found.loc[name, "why"]
    table = tables.validation_table(rows).set_index("Asked")
    assert table["Passed"].to_dict() == dict.fromkeys(FORMS, "yes") | {name: "NO"}
    assert why in table.loc[name, "Why not"]
    shown = "float32" if name == "none" else name
    sentence = f"builtin:tiny as {shown} did not pass: {why}"
    assert any(text.startswith(sentence) for text in validation_sentences(rows))


def test_a_form_that_never_loaded_says_so_once():
    rows = loads("none", "int8")
    lost = rows["key"].str.startswith("int8")
    rows.loc[lost, ["status", "reason"]] = "unsupported", "needs bitsandbytes"
    rows["layer_classes"] = rows["layer_classes"].where(~lost, None)
    found = validation_rows(rows).set_index("asked")
    why = "12 of 12 repeats: is not supported (needs bitsandbytes)"
    assert found.loc["int8", "why"] == why and found.loc["none", "passed"]
    assert tables.validation_table(rows)["Outcome"].tolist() == ["loaded", "is not supported"]
    assert f"int8 did not pass: {why}." in read_by_people(rows)
    assert "nan" not in read_by_people(rows)


@pytest.mark.parametrize("classes", [{"Linear8bitLt": 22}, {"Linear": 1, "Linear8bitLt": 1}])
def test_one_plain_layer_may_be_the_output_head_and_none_must(classes):
    found = validation_rows(loads("int8", layer_classes=classes))
    assert found["passed"].all()


def test_a_repeat_that_failed_and_was_then_made_is_no_fault():
    rows = loads("none")
    again = rows.tail(1).assign(status="timeout", reason="late")
    assert validation_rows(pd.concat([again, rows], ignore_index=True))["passed"].all()


def test_a_busy_machine_does_not_hide_what_loaded():
    rows = loads().assign(flags=pd.Series([("contaminated",)] * (4 * REPEATS)))
    assert "loads and generates as asked in 4 of 4 forms" in findings.findings(rows).answer


# -- the distance ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told",
    [None, audit(-0.75, prefixes=(2,)), audit(-0.75, ids=())],
    ids=["no audit", "other prefixes", "no log-probabilities"],
)
def test_an_unknown_distance_is_left_out(told):
    rows = pd.concat([form("none", audit=told and audit(-0.5, ids=told["next_ids"])),
                      form("int8", audit=told)], ignore_index=True)  # fmt: skip
    found = validation_rows(rows).set_index("asked").loc["int8"]
    assert found["passed"] and np.isnan(found["distance"])
    assert "is proved by 21 of 22 linear layers of class Linear8bitLt." in read_by_people(rows)
    words = read_by_people(rows).lower()
    assert not any(word in words for word in ("nan", "inf", "log-probabilities"))


def test_the_distance_is_the_worst_of_all_processes():
    rows = spoiled("int8", audit=audit(-2.5))
    assert validation_rows(rows).set_index("asked").loc["int8", "distance"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("plain", "quantized", "known"),
    [
        ('{"memory_limit_bytes":9}', '{"memory_limit_bytes":9,"quantization":"int8"}', True),
        ('{"dtype":"float32"}', '{"quantization":"int8"}', True),
        ('{"quantization":"none"}', '{"quantization":"int8"}', True),
        ('{"attention_impl":"eager"}', '{"quantization":"int8"}', False),
        ('{"dtype":"bfloat16"}', '{"quantization":"int8"}', False),
    ],
)
def test_the_unquantized_form_is_known_by_its_options(plain, quantized, known):
    rows = pd.concat([form("none", options=plain), form("int8", options=quantized)])
    found = validation_rows(rows.reset_index(drop=True)).set_index("asked")["distance"]
    assert np.isfinite(found["int8"]) == known


@pytest.mark.parametrize(
    ("column", "other"),
    [("fingerprint", "beef"), ("run", "another"), ("model_sha256", "cd" * 32), ("threads", 8),
     ("output_tokens", 4), ("device", "cuda"), ("seed", 3)],
)  # fmt: skip
def test_rows_of_two_places_are_never_mixed(column, other):
    spoilt = {"layer_classes": {"Linear": 22}, column: other}
    rows = pd.concat([loads("none", "int8"), form("int8", **spoilt)], ignore_index=True)
    found = validation_rows(rows)
    assert len(found) == 3 and found["name"].nunique() == 2
    here = found[found[column] != other].set_index("asked")
    there = found[found[column] == other].set_index("asked")
    assert here["passed"].all() and here.loc["int8", "distance"] == pytest.approx(0.25)
    assert not there.loc["int8", "passed"] and np.isnan(there.loc["int8", "distance"])
    told = validation_sentences(rows)
    assert sum("in 2 of 2 forms" in text for text in told) == 1
    assert sum("in 0 of 1 form" in text for text in told) == 1


# -- what is drawn and what is decided -------------------------------------------------------------


def test_bars_name_the_form_and_whether_it_passed():
    drawn = figures.weights(spoiled("int8", layer_classes={"Linear": 22}))
    labels = [text.get_text() for text in drawn.figure.axes[0].get_yticklabels()]
    assert labels == ["none", "bfloat16", "int8:\ndid not pass", "nf4"]
    assert len(drawn.data) == 4 and not len(figures.weights(synthetic.rows()).data)
    unknown = figures.weights(loads(weight_bytes=np.nan))
    assert not len(unknown.data)
    assert [text.get_text() for text in unknown.figure.axes[0].texts] == ["no rows to show"]


def test_a_validation_passes_only_when_all_of_it_was_measured():
    def passed(rows, left):
        return Validation(Path(), rows, (Path(), Path()), left).passed

    assert passed([{"passed": True}], 0)
    assert not passed([{"passed": True}], 1)
    assert not passed([{"passed": True}, {"passed": False}], 0)
    assert not passed([], 0)
