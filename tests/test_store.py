"""The journal keeps what it acknowledged, whatever happens to the machine."""

import errno
import gc
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench import store
from llmbench.errors import BadParams, StoreFailed
from llmbench.record import Record
from llmbench.store.reader import read_rows_and_digest
from tests.store_samples import keys, keys_of, make_record, write_run

TEXT = st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from('\u2028\x00\n\r\\"é😀'))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda kids: st.lists(kids, max_size=3) | st.dictionaries(TEXT, kids, max_size=3),
    max_leaves=6,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return store.create_run("run", tmp_path)


def read_back(record: Record, folder: Path) -> Record:
    with store.Journal(folder) as journal:
        journal.append(record)
        path = folder / "records" / journal.name
    contents = store.read_records(folder)
    rows, faults = store.read_rows(folder)
    path.unlink()
    assert not contents.faults
    assert not faults
    rows[0]["raw"]["step_ns"] = list(rows[0]["raw"]["step_ns"])
    assert rows == [record.model_dump()]
    return contents.records[0]


# ── what is written is what is read


@settings(max_examples=60, deadline=None)
@given(reason=TEXT, options=st.dictionaries(TEXT, JSON, max_size=3), load_s=st.floats(0, 1e300))
def test_a_record_comes_back_as_it_was(tmp_path_factory, reason, options, load_s):
    folder = store.create_run("run", tmp_path_factory.getbasetemp())
    sample = make_record()
    record = make_record(
        reason=reason,
        point=sample.point.model_copy(update={"engine_options": options}),
        served=sample.served.model_copy(update={"load_s": load_s}),
    )
    assert read_back(record, folder) == record


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", 2**64, object(), {1}])
def test_what_json_cannot_keep_is_refused_and_nothing_is_written(folder, value):
    point = make_record().point.model_copy(update={"engine_options": {"x": value}})
    with store.Journal(folder) as journal, pytest.raises(BadParams, match="cannot keep"):
        journal.append(make_record(point=point))
    assert os.listdir(folder / "records") == []


def test_a_line_is_canonical_and_ends_with_its_checksum(tmp_path):
    line = write_run(tmp_path / "run", 1).read_bytes()
    fields = json.loads(line)
    crc = fields.pop("crc")
    body = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    assert line == body[:-1] + f',"crc":"{crc}"}}\n'.encode()
    assert crc == f"{zlib.crc32(body):08x}"


def test_a_journal_is_made_at_its_first_record_and_every_writer_has_its_own(folder):
    with store.Journal(folder) as one, store.Journal(folder) as two:
        assert os.listdir(folder / "records") == []
        one.append(make_record(1))
        two.append(make_record(2))
        one.append(make_record(3))
    assert len(os.listdir(folder / "records")) == 2
    assert keys(folder) == keys_of(1, 2, 3)


def test_secrets_do_not_reach_the_journal(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "canary-0123456789")
    sample = make_record()
    point = sample.point.model_copy(update={"engine_options": {"a": ["canary-0123456789"]}})
    served = sample.served.model_copy(update={"build": "-DKEY=canary-0123456789"})
    with store.Journal(folder) as journal:
        journal.append(make_record(reason="no canary-0123456789", point=point, served=served))
    store.add_environment(folder, {"fingerprint": "f", "env": "canary-0123456789"})
    store.write_status(folder, {"command": "run canary-0123456789"})
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"canary" not in written
    assert written.count(b"<redacted HF_TOKEN>") == 5


# ── damage


BARE = dict.fromkeys(["served", "raw", "memory", "energy", "quiet", "witness"])  # a short line


def test_cut_at_every_byte_then_repaired_then_written_to(tmp_path, monkeypatch):
    whole = write_run(tmp_path / "sample", 1, 2, **BARE).read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [0, len(lines[0]), len(whole)]
    folder = store.create_run("run", tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of them say nothing more
    for cut in range(len(whole) + 1):
        path = folder / "records" / f"{cut}.jsonl"
        path.write_bytes(whole[:cut])
        sound = max(end for end in ends if end <= cut)
        torn = [f"records/{cut}.jsonl"] * (cut != sound)
        assert [fault.file for fault in store.read_rows(folder)[1]] == torn
        assert [fault.file for fault in store.repair(folder)] == torn
        assert path.read_bytes() == whole[:sound]
        quarantined = list(folder.glob("records/quarantine/*"))
        assert b"".join(kept.read_bytes() for kept in quarantined) == whole[sound:cut]
        assert store.repair(folder) == []
        after = write_run(folder, 3)
        assert keys(folder) == sorted(keys_of(*range(1, 1 + ends.index(sound)), 3))
        for done in (path, after, *quarantined):
            done.unlink()


def test_every_flipped_byte_is_a_fault_and_never_another_row(tmp_path):
    path = write_run(tmp_path / "run", 1, 2, **BARE)
    good, _ = store.read_rows(tmp_path / "run")
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(path.read_bytes()):
            for mask in (1 << place % 8, 0x20):
                os.pwrite(file.fileno(), bytes([byte ^ mask]), place)
                rows, faults = store.read_rows(tmp_path / "run")
                assert faults, (place, mask)
                assert len(rows) < 2, (place, mask)
                assert all(row in good for row in rows), (place, mask)
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert store.read_rows(tmp_path / "run") == (good, [])


def test_a_damaged_line_in_the_middle_stays_and_is_told_with_its_place(tmp_path):
    path = write_run(tmp_path / "run", 1, 2, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"ok"', b'"no"')
    path.write_bytes(b"".join(lines))
    assert store.repair(tmp_path / "run") == []
    assert path.read_bytes() == b"".join(lines)
    (fault,) = store.read_records(tmp_path / "run").faults
    assert (fault.file, fault.line) == (f"records/{path.name}", 2)
    assert "checksum" in fault.what
    assert keys(tmp_path / "run") == keys_of(1, 3)


def test_a_damaged_last_line_is_moved_away(tmp_path):
    path = write_run(tmp_path / "run", 1, 2)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second.replace(b'"ok"', b'"no"'))
    (fault,) = store.repair(tmp_path / "run")
    assert fault.line == 2
    assert path.read_bytes() == first


def _line(**fields: object) -> bytes:
    body = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body)


@pytest.mark.parametrize("read", [store.read_rows, store.read_records])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "newer llmbench"),
        ({"schema_version": "1"}, "schema version '1'"),
        ({"schema_version": None}, "schema version None"),
        ({"extra": 1}, "extra"),
        ({"raw": {"step_ns": ["x"]}}, "raw"),
        ({"process_run": "1"}, "process_run"),
        ({"status": "fine"}, "status"),
    ],
)
def test_lines_of_another_schema_are_never_guessed(folder, read, change, message):
    line = _line(**make_record().model_dump() | change)
    (folder / "records" / "a.jsonl").write_bytes(line)
    contents = read(folder)
    rows, faults = contents if isinstance(contents, tuple) else (contents.records, contents.faults)
    assert rows == []
    assert message in faults[0].what


# ── the disk refuses


def test_a_short_write_is_taken_back_and_the_journal_goes_on(folder, monkeypatch):
    journal = store.Journal(folder)
    journal.append(make_record(1))
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:100]))
    with pytest.raises(StoreFailed) as refused:
        journal.append(make_record(2))
    monkeypatch.undo()
    assert "100 of" in refused.value.why
    assert "1 records" in refused.value.kept
    assert "free disk space" in refused.value.how
    assert keys(folder) == keys_of(1)
    journal.append(make_record(3))
    assert keys(folder) == keys_of(1, 3)
    assert store.repair(folder) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_every_refused_write_says_what_why_kept_and_how(folder, monkeypatch, number):
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    journal = store.Journal(folder)
    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(StoreFailed) as refused:
        journal.append(make_record(1))
    assert refused.value.exit_code == 74
    assert refused.value.why == os.strerror(number)
    assert all((refused.value.what, refused.value.kept, refused.value.how))


def test_after_a_failed_fsync_the_journal_refuses_for_good(folder, monkeypatch):
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = store.Journal(folder)
    journal.append(make_record(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreFailed, match="cannot be written"):
            journal.append(make_record(2))
    with pytest.raises(StoreFailed, match="may have been lost"):
        journal.append(make_record(3))
    assert make_record(3).key not in keys(folder)


def test_the_file_and_its_name_are_made_durable(folder, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_mode), real(fd)))
    with store.Journal(folder) as journal:
        journal.append(make_record(1))
        journal.append(make_record(2))
    assert [mode >> 12 for mode in synced] == [0o04, 0o10, 0o10]  # the directory, then the file


def _append_until_refused(folder: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with store.Journal(folder) as journal:
        try:
            for number in range(100):
                journal.append(make_record(number))
        except StoreFailed as refused:
            os._exit(74 if "ulimit" in refused.how or "free disk" in refused.how else 1)
    os._exit(0)


@pytest.mark.parametrize("limit", [100, 2000, 5000])
def test_a_real_limit_on_the_file_leaves_whole_lines_only(folder, limit):
    child = multiprocessing.get_context("fork").Process(
        target=_append_until_refused, args=(folder, limit)
    )
    child.start()
    child.join(20)
    assert child.exitcode == 74
    contents = store.read_records(folder)
    assert not contents.faults
    size = sum(path.stat().st_size for path in folder.glob("records/*.jsonl"))
    assert [r.block for r in contents.records] == list(range(len(contents.records)))
    assert size <= limit


def test_without_its_folder_a_journal_says_so(tmp_path):
    with store.Journal(tmp_path / "gone") as journal, pytest.raises(StoreFailed, match="is gone"):
        journal.append(make_record())


# ── several processes, sudden death


def _append_many(folder: Path, numbers: range) -> None:
    with store.Journal(folder) as journal:
        for number in numbers:
            journal.append(make_record(number))


def test_four_processes_write_side_by_side(folder):
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=_append_many, args=(folder, range(i * 10, i * 10 + 10)))
        for i in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0] * 4
    assert len(list(folder.glob("records/*.jsonl"))) == 4
    assert keys(folder) == keys_of(*range(40))


ENDLESS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.store_samples import make_record
from llmbench import store
with store.Journal(Path(sys.argv[1])) as journal:
    for number in range(10**6):
        journal.append(make_record(number))
        print(make_record(number).key, flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.004, 0.011])
def test_killed_at_any_moment_all_that_was_acknowledged_is_there(folder, delay_s):
    command = [sys.executable, "-c", ENDLESS, str(folder), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        told = [child.stdout.readline().strip() for _ in range(5)]
        time.sleep(delay_s)
        os.kill(child.pid, signal.SIGKILL)
        told += child.stdout.read().split()
    store.repair(folder)
    contents = store.read_records(folder)
    assert not contents.faults
    written = [record.key for record in contents.records]
    told = [key for key in told if len(key) == 32]
    assert written[: len(told)] == told
    assert len(written) <= len(told) + 1
    assert len(set(written)) == len(written)


# ── what counts as done


def test_finished_asks_for_a_settled_status_in_the_same_circumstances(folder):
    here = store.add_environment(folder, {"fingerprint": "here", "load": 0.5})
    later = store.add_environment(folder, {"fingerprint": "here", "load": 0.7})
    there = store.add_environment(folder, {"fingerprint": "there"})
    statuses = ["ok", "oom", "unsupported", "refused", "timeout", "engine_lost", "interrupted",
                "failed"]  # fmt: skip
    with store.Journal(folder) as journal:
        for number, status in enumerate(statuses):
            journal.append(make_record(number, status=status, environment=here))
        journal.append(make_record(10, environment=later))
        journal.append(make_record(11, environment=there))
        journal.append(make_record(12, environment="unknown"))
    assert sorted(store.finished(folder, "here")) == keys_of(0, 1, 2, 3, 10)
    assert sorted(store.finished(folder, "there")) == keys_of(11)
    assert store.finished(folder, "elsewhere") == set()


def test_an_environment_is_kept_once_under_the_hash_of_its_content(folder):
    one = store.add_environment(folder, {"fingerprint": "f", "a": 1})
    assert store.add_environment(folder, {"a": 1, "fingerprint": "f"}) == one
    assert len(one) == 16
    assert store.environments(folder) == {one: {"a": 1, "fingerprint": "f"}}


def test_the_digest_sees_records_and_not_how_they_lie_in_files(tmp_path):
    one = write_run(tmp_path / "one", 1, 2, 3)
    both = write_run(tmp_path / "two", 3)
    write_run(tmp_path / "two", 1, 2)
    digest = store.digest(tmp_path / "one")
    assert read_rows_and_digest(tmp_path / "one") == (*store.read_rows(tmp_path / "one"), digest)
    assert store.digest(tmp_path / "two") == digest
    assert store.digest(tmp_path / "one", study="scaling") == digest
    assert store.digest(tmp_path / "one", study="other") != digest
    one.write_bytes(one.read_bytes() + b'{"torn')
    assert store.digest(tmp_path / "one") == digest
    both.write_bytes(both.read_bytes() * 2)
    assert store.digest(tmp_path / "two") != digest


def test_rows_share_their_equal_parts(tmp_path):
    write_run(tmp_path / "run", *range(5))
    rows, _ = store.read_rows(tmp_path / "run")
    assert len({id(row["point"]) for row in rows}) == 1
    assert len({id(row["served"]) for row in rows}) == 1
    assert list(rows[0]["raw"]["step_ns"]) == [10, 25]


@pytest.mark.parametrize("read", [store.read_rows, store.read_records])
def test_reading_leaves_the_collector_as_it_was(tmp_path, read):
    write_run(tmp_path / "run", 1)
    read(tmp_path / "run")
    assert gc.isenabled()
    gc.disable()
    try:
        read(tmp_path / "run")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_no_run_is_no_empty_run(tmp_path):
    for read in (store.read_rows, store.read_records, store.repair, store.digest):
        with pytest.raises(BadParams, match="no run here"):
            read(tmp_path / "nothing")
