"""Roofs of before are used again only when they are fresh, of this machine, and of a quiet one."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmbench import kept_roofs
from llmbench.hardware import Roofs
from llmbench.kept_roofs import keep, kept


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    return tmp_path


def roofs(age_s: float = 0.0, busy: float = 0.0, threads: int = 2) -> Roofs:
    taken = datetime.now(UTC) - timedelta(seconds=age_s)
    raw = {"threads": threads, "others_busy_share": busy, "taken_at": taken.isoformat(),
           "load_average": 0.4, "read_bytes_per_s": [1e10, 9e9]}  # fmt: skip
    return Roofs(1e10, 2e11, "measured", raw, {"float32": 2e11, "bfloat16": 1e12})


def test_what_is_kept_comes_back_whole() -> None:
    made = roofs()
    assert keep(made, "f" * 16) == ""
    assert kept("f" * 16, 2) == made


def test_they_hold_for_their_machine_and_threads_alone() -> None:
    keep(roofs(), "f" * 16)
    assert kept("e" * 16, 2) is None
    assert kept("f" * 16, 1) is None
    kept_roofs.roofs_file("f" * 16, 1).parent.mkdir()
    kept_roofs.roofs_file("f" * 16, 2).rename(kept_roofs.roofs_file("f" * 16, 1))
    assert kept("f" * 16, 1) is None


@pytest.mark.parametrize(
    ("age_s", "again"), [(60, True), (3540, True), (3660, False), (-60, False)]
)
def test_an_hour_is_their_age(age_s: float, again: bool) -> None:
    keep(roofs(age_s), "f" * 16)
    assert (kept("f" * 16, 2) is not None) == again
    assert (kept("f" * 16, 2, max_age_s=None) is not None) == (age_s > 0)


def test_those_of_a_busy_machine_are_not_kept_and_do_not_replace_others() -> None:
    keep(roofs(), "f" * 16)
    assert "34 % of the CPU" in keep(roofs(busy=0.34), "f" * 16)
    assert kept("f" * 16, 2).raw["others_busy_share"] == 0


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"bytes_per_s": "1", "flops_per_s": 1, "source": "x"}',
             '{"bytes_per_s": 1.0, "flops_per_s": 1.0, "source": "x", "raw": {}}',
             '{"bytes_per_s": 1.0, "flops_per_s": 1.0, "source": "x", "raw": {"taken_at": "now"}}',
             '{"bytes_per_s": 1.0, "flops_per_s": 1.0, "source": "x", '
             '"raw": {"taken_at": "2020-01-01"}}'],
)  # fmt: skip
def test_a_damaged_file_counts_as_none(text: str) -> None:
    path = kept_roofs.roofs_file("f" * 16, 2)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert kept("f" * 16, 2) is None


def test_a_cache_that_cannot_be_written_is_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "file").touch()
    monkeypatch.setenv("LLMBENCH_CACHE", str(cache / "file"))
    assert "cannot be written" in keep(roofs(), "f" * 16)
