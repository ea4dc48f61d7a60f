"""The journal: one line a record, appended durably, verified by bytes.

A line is `{...,"crc":"0123abcd"}`: canonical JSON (sorted keys, compact) whose last member is the
CRC-32 of the line's bytes without that member. Every writer has a file of its own.
"""

import errno
import json
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from llmbench.errors import BadParams, StoreFailed
from llmbench.record import SCHEMA_VERSION, Record
from llmbench.redact import redact_tree
from llmbench.store.files import failed, open_directory, open_regular, snapshot

CRC_BYTES = len(b',"crc":"0123abcd"}')


@dataclass(frozen=True)
class Fault:
    """A line, or a whole file (line 0), that cannot be used; its bytes are kept."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.what}"


class Journal:
    """Appends records to a file of its own in `folder`/records, made at the first append."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.name = f"{secrets.token_hex(8)}.jsonl"
        self.count = 0  # records acknowledged
        self._descriptor = -1
        self._sound = True  # the file ends after an acknowledged record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, record: Record) -> None:
        """Write `record`; when this returns it is on the disk.

        Raises: StoreFailed when it is not, BadParams when JSON cannot hold it.
        """
        line = encode(record)
        if not self._sound:
            raise self._failed(OSError(errno.EIO, "an earlier write may have been lost"))
        try:
            self._append(line)
        except OSError as error:
            raise self._failed(error) from error
        self.count += 1

    def close(self) -> None:
        """Close the file; another append would start a new one."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self.name = -1, f"{secrets.token_hex(8)}.jsonl"

    def _append(self, line: bytes) -> None:
        if self._descriptor < 0:
            self._create()
        start = os.fstat(self._descriptor).st_size
        self._sound = False  # until the line is known to be whole or gone
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes were written")
        except OSError:
            os.ftruncate(self._descriptor, start)
            self._sound = True
            raise
        os.fsync(self._descriptor)  # a failure here is final: the kernel may have dropped the page
        self._sound = True

    def _create(self) -> None:
        directory = open_directory(self.folder / "records")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND
            created = os.open(self.name, flags | os.O_CLOEXEC, 0o644, dir_fd=directory)
            self._descriptor, self._sound = created, False
            os.fsync(directory)
            self._sound = True
        finally:
            os.close(directory)

    def _failed(self, error: OSError) -> StoreFailed:
        kept = f"{self.count} records of this session in records/{self.name}, and all earlier ones"
        return failed("a record cannot be written", error, kept)


def encode(record: Record) -> bytes:
    """The line of a record, with its newline, secrets removed from its free texts.

    Raises: BadParams when JSON cannot hold a value and give it back (NaN, lone surrogates).
    """
    fields = record.model_dump()
    fields["reason"] = redact_tree(fields["reason"])
    fields["point"]["engine_options"] = redact_tree(fields["point"]["engine_options"])
    if fields["served"]:
        fields["served"]["build"] = redact_tree(fields["served"]["build"])
    try:
        text = _canonical(fields)
        body = text.encode()
        if _canonical(orjson.loads(body)) != text:
            raise ValueError("a number is too large")
    except (TypeError, ValueError) as error:
        raise BadParams(
            f"record {record.key} holds a value that JSON cannot keep", why=str(error),
            how="use text, finite numbers below 2^64, lists and mappings as engine options",
        ) from None  # fmt: skip
    return body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body)


def decode(line: bytes) -> dict[str, Any]:
    """The fields of a line (with its newline) as plain values. Raises: ValueError, saying why."""
    if not is_sound(line):
        whole = line.endswith(b"\n")
        raise ValueError("damaged: its checksum is wrong" if whole else "torn: it has no end")
    fields = orjson.loads(line[:-1])
    del fields["crc"]
    version = fields.get("schema_version")
    if version == 1:  # before there were comparisons
        fields.setdefault("audit", None)
        fields.setdefault("session", "")
    elif version != SCHEMA_VERSION:
        newer = type(version) is int and version > SCHEMA_VERSION
        raise ValueError(
            f"schema version {version!r}; this llmbench reads {SCHEMA_VERSION}"
            + (": read it with a newer llmbench" if newer else "")
        )
    if fields.keys() != Record.model_fields.keys():
        odd = sorted(fields.keys() ^ Record.model_fields.keys())
        raise ValueError(f"not the fields of a record: {', '.join(odd)}")
    return fields


def is_sound(line: bytes) -> bool:
    """Whether a line ends with a newline and its bytes are those that were written."""
    body, end = line[: -CRC_BYTES - 1], line[-CRC_BYTES - 1 :]
    return end == b',"crc":"%08x"}\n' % zlib.crc32(b"}", zlib.crc32(body))


@contextmanager
def journals(folder: Path) -> Iterator[tuple[int, list[str]]]:
    """A descriptor of `folder`/records and the sorted names of its journals.

    Raises: BadParams when there is no such run, StoreFailed.
    """
    records = Path(folder) / "records"
    if not records.is_dir():
        raise BadParams(f"{folder}: no run here", how="`llmbench status` lists the runs")
    try:
        directory = open_directory(records)
    except OSError as error:
        raise failed(f"cannot read {records}", error, "all records") from error
    try:
        yield directory, sorted(n for n in os.listdir(directory) if n.endswith(".jsonl"))
    finally:
        os.close(directory)


def repair(folder: Path) -> list[Fault]:
    """Move what follows the last sound line of each journal to records/quarantine; say what.

    To be called with the lock on the records held. Sound lines are never touched.
    Raises: BadParams, StoreFailed.
    """
    faults = []
    with journals(folder) as (directory, names):
        for name in names:
            try:
                fault = _repair_one(Path(folder), directory, name)
            except OSError as error:
                fault = Fault(f"records/{name}", 0, f"cannot be repaired: {error.strerror}")
            faults += [fault] if fault else []
    return faults


def _repair_one(folder: Path, directory: int, name: str) -> Fault | None:
    end, lines, tail = 0, 0, b""  # of the sound part; `tail` is what follows it
    with os.fdopen(open_regular(name, os.O_RDWR, directory=directory), "r+b") as file:
        for number, line in enumerate(file, 1):
            tail += line
            if is_sound(line):
                end, lines, tail = end + len(tail), number, b""
        if not tail:
            return None
        quarantine = folder / "records" / "quarantine"
        if quarantine.is_symlink():
            raise OSError(errno.ELOOP, "records/quarantine is a symbolic link")
        quarantine.mkdir(exist_ok=True)
        kept = f"{Path(name).stem}-{end}-{zlib.crc32(tail):08x}.torn"
        snapshot(quarantine / kept, tail)
        file.truncate(end)
        os.fsync(file.fileno())
    what = f"{len(tail)} bytes without a sound end, moved to records/quarantine/{kept}"
    return Fault(f"records/{name}", lines + 1, what)


def _canonical(tree: Any) -> str:
    return json.dumps(
        tree, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )
