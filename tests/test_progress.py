"""Progress where there is no terminal: plain lines, each part apart from the next."""

from llmbench import progress
from llmbench.progress import Progress


def test_a_line_sets_what_is_done_apart_from_the_time_left(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with Progress("scaling", 3) as bar:
        bar.advance("transformers builtin:tiny")
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith("scaling: 1 of 3, ")
    assert said.endswith(" left (transformers builtin:tiny)")
