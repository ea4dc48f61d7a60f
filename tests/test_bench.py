"""The bench: what its lines subtract, and that each of their bars can be missed."""

import sys
from pathlib import Path

import pytest

from llmbench.errors import Missing

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import bench
from benching import ollama

TOLD = {"load_s": 0.003, "prompt_eval_s": 0.010, "eval_s": 0.290, "total_s": 0.305}


@pytest.mark.parametrize(
    ("what", "seconds"), [(ollama.FIRST, 0.002), (ollama.TOKEN, 1e-4), (ollama.WHOLE, 0.004)]
)
def test_what_lies_past_the_servers_clock(what, seconds):
    answer = ollama.Answer(first_s=0.015, last_s=0.015 + 0.290 + 29e-4, end_s=0.309, server=TOLD)
    assert answer.past(what) == pytest.approx(seconds)


ROWS = [
    {"side": side, "pair": pair, "s": seconds, "bytes": size}
    for pair in range(6)
    for side, seconds, size in (("run", 3.0, 700), ("base", 1.0, 400))
]


@pytest.mark.parametrize(
    ("bar", "limit"),
    [("bar_s", 3.0), ("bar_added_s", 2.0), ("bar_bytes", 700), ("bar_added_bytes", 300)],
)
def test_a_bar_is_met_below_its_limit_only(bar, limit):
    line = {"what": "a line", "baseline": "nothing"}
    assert bench.summary(line | {bar: 1.01 * limit}, ROWS)["met"]
    assert not bench.summary(line | {bar: limit}, ROWS)["met"]


def test_without_a_server_the_clients_lines_are_skipped_with_a_word(tmp_path, monkeypatch, capsys):
    def none(stack):
        raise Missing("engine ollama: no server", how="make ollama")

    monkeypatch.setattr(ollama, "lines", none)
    assert bench.ollama(tmp_path, None) == []
    assert capsys.readouterr().err.startswith("skipped: ollama: engine ollama: no server")
