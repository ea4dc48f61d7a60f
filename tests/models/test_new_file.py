"""A file that appears whole or not at all."""

import pytest

from llmbench.errors import BadParams, StoreFailed
from llmbench.models.new_file import part_beside, replacing


def test_it_appears_at_the_end_and_whole(tmp_path):
    target = tmp_path / "x"
    with replacing(target, force=False) as part:
        part.write_text("whole")
        assert not target.exists()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "whole")]


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "x"
    target.write_text("before")
    with pytest.raises(ZeroDivisionError), replacing(target, force=True) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "before")]


def test_a_file_that_came_meanwhile_is_kept(tmp_path):
    target = tmp_path / "x"
    with pytest.raises(BadParams, match="there already"), replacing(target, force=False) as part:
        part.write_text("ours")
        target.write_text("theirs")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "theirs")]


def test_what_the_system_refuses_is_an_error_with_a_remedy(tmp_path):
    with (
        pytest.raises(StoreFailed, match="File name too long"),
        part_beside(tmp_path / ("x" * 250)),
    ):
        pass


def test_parts_of_other_files_are_let_alone(tmp_path):
    other = tmp_path / ".y.0000.part"
    other.write_text("")
    with part_beside(tmp_path / "x") as part:
        assert part.exists()
    assert list(tmp_path.iterdir()) == [other]
