"""Log-probabilities of the same prefixes beside each other, and only of the same."""

from llmbench import tables
from tests import planted_protocol

WHAT = {"prefixes": [1, 4], "next_ids": [[3, 5, 6, 7], [8, 9]],
        "next_logprobs": [[-0.5, -1.0, -3.0, -4.0], [-0.1, -2.0]]}  # fmt: skip


def told(**audits):
    """A frame in which each engine's rows carry what it told."""
    frame = planted_protocol.rows(process_runs=2, blocks=1)
    frame["audit"] = frame["engine"].map(lambda name: audits.get(name))
    return tables.next_tokens_table(frame)


def test_likeliest_tokens_of_each_prefix_stand_beside_each_other():
    other = WHAT | {"next_ids": [[3, 6, 5], [8, 4]],
                    "next_logprobs": [[-0.6, -0.9, -1.2], [-0.1, -2.5]]}  # fmt: skip
    table = told(edge=WHAT, ollama=other)
    assert table["After (tokens)"].tolist() == [1, 1, 1, 4, 4, 4]
    assert table["Token id"].tolist() == [3, 6, 5, 8, 9, 4]
    assert table["edge"].tolist() == [
        "-0.5000",
        "-3.0000",
        "-1.0000",
        "-0.1000",
        "-2.0000",
        "lower",
    ]
    assert table["ollama"].tolist()[-3:] == ["-0.1000", "lower", "-2.5000"]
    assert table["Apart"].tolist() == ["0.1", "2.1", "0.2", "0", "", ""]


def test_other_prefixes_are_not_laid_beside_each_other():
    table = told(edge=WHAT, ollama=WHAT | {"prefixes": [1, 9]})
    assert set(table["After (tokens)"]) == {1}


def test_one_engine_alone_or_none_makes_no_table():
    assert told(edge=WHAT).empty and told().empty
    assert list(told().columns) == ["Model", "After (tokens)", "Token id"]
