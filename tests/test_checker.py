"""A good run has no finding; each planted fault gives exactly its own."""

import copy
import json
import shutil
import zlib
from pathlib import Path

import pytest

from llmbench import checker, metrics, page, record, store
from llmbench.models.source import find_model
from llmbench.record import Audit, Memory, Point, Raw, Record, Repeat, Served, Witness
from llmbench.store.journal import CRC_BYTES
from tests.said import llmbench

MS = 1_000_000  # ns
ROOFS = {"bytes_per_s": 1e9, "flops_per_s": 1e12}
CACHE = {"cache_bytes": {"L2": 2**20, "L3": 2**24}}
ENVIRONMENTS = {
    "here": {"fingerprint": "f1", "roofs": ROOFS, "machine": CACHE},
    "there": {"fingerprint": "f2", "roofs": ROOFS, "machine": CACHE},
}


def row(process_run=0, tokens=64, **asked) -> dict:
    """A sound row: prefill 9 ms, five tokens from 10 ms on, 2 ms apart."""
    fields = {"study": "scaling", "model": "m", "model_sha256": "0" * 64, "engine": "edge",
              "engine_options": {}, "batch_size": 1, "prompt": "exact", "prompt_tokens": tokens,
              "output_tokens": 5, "device": "cpu", "threads": 2, "seed": 1,
              "memory_limit_bytes": 0}  # fmt: skip
    point = Point(**fields | asked)
    repeat = Repeat(point=point, process_run=process_run, block=0)
    steps = [10 * MS + 2 * MS * k for k in range(5)]
    return Record(
        key=repeat.key, point=point, process_run=process_run, block=0, repeat=0, status="ok",
        measured_at=f"2026-01-01T00:00:{process_run:02d}", sequence=process_run,
        served=Served(engine="edge", impl="cpu", weight_format="float32", weight_bytes=10**5,
                      kv_bytes_per_token=64, threads=2, device="cpu", load_s=0.5),
        raw=Raw(submit_ns=1, prefill_ns=9 * MS, step_ns=steps, end_ns=steps[-1] + 5),
        memory=Memory(rss_before_load_bytes=1, rss_after_load_bytes=2, rss_peak_bytes=3),
        witness=Witness(output_sha256="s", output_tokens=5, end_reason="length"),
        environment="here",
    ).model_dump()  # fmt: skip


def good() -> list[dict]:
    """Three process runs of two sizes, and one row that ran out of memory."""
    lost = row(tokens=4096) | {"status": "oom", "raw": None, "witness": None, "served": None}
    return [row(run, tokens) for run in range(3) for tokens in (64, 128)] + [lost]


def put(path: str, value):
    """A fault: set a dotted field of the first row."""

    def plant(rows):
        *parents, last = path.split(".")
        part = rows[0]
        for name in parents:
            part = part[name]
        part[last] = value

    return plant


def again(rows):
    rows.append(copy.deepcopy(rows[0]) | {"measured_at": "2026-01-02T00:00:00"})


def other_protocol(rows):
    kept = record.PROTOCOL_VERSION
    try:
        record.PROTOCOL_VERSION = kept + 1
        asked = {name: rows[0][name] for name in ("point", "process_run", "block", "repeat")}
        rows[0]["key"] = Repeat.model_validate(asked).key
    finally:
        record.PROTOCOL_VERSION = kept


def heavy(rows, device="cpu", weights=10**7):
    """One row on `device`, with weights so large that a step of 2 ms cannot have read them."""
    rows[:] = [row(device=device)]
    rows[0]["served"] = rows[0]["served"] | {"weight_bytes": weights}


def narrow(rows):
    """The first row asks for a window that its 64 + 5 tokens do not fit."""
    rows[0] = row(window=68)


FAULTS = {
    "unknown flag": (put("flags", ["weird"]), "flags", "unknown flags: weird"),
    "no circumstances": (put("environment", "gone"), "environment", "not in environment.json"),
    "changed question": (put("point.prompt_tokens", 65), "key", "changed, or another protocol"),
    "other protocol": (other_protocol, "key", "another protocol version"),
    "no times": (put("raw.step_ns", []), "missing", "without token times"),
    "no n_out": (put("witness", None), "missing", "without a count of output tokens"),
    "backwards": (put("raw.step_ns", [MS * t for t in (10, 9, 14, 16, 18)]), "order", "backwards"),
    "ends early": (put("raw.end_ns", 17 * MS), "order", "end before the last token"),
    "prefill late": (put("raw.prefill_ns", 11 * MS), "order", "before the prefill was done"),
    "a step too few": (put("raw.step_ns", [10 * MS, 12 * MS, 14 * MS, 16 * MS]), "count", "differ"),
    "counted too few": (put("witness.output_tokens", 4), "count", "differ"),
    "beyond the window": (narrow, "count", "longer than the window"),
    "twice": (again, "duplicate", "settled before"),
    "other output": (put("witness.output_sha256", "x"), "incorrect", "other output"),
    "zero times": (put("raw.step_ns", [0, MS, MS, MS, MS]), "impossible", "ttft_s is not above 0"),
    "negative prefill": (put("raw.prefill_ns", -1), "impossible", "prefill_s is not above 0"),
    "zero memory": (put("memory.rss_peak_bytes", 0), "impossible", "rss_peak_bytes is not above 0"),
    "negative load": (put("served.load_s", -1.0), "impossible", "load_s is below 0"),
    "too fast for a GPU": (lambda rows: heavy(rows, "cuda"), "impossible", "up to 5.0"),
    "too fast for a CPU": (lambda rows: heavy(rows, weights=10**8), "impossible", "up to 50.0"),
}  # fmt: skip


def test_a_good_run_has_no_finding():
    assert checker.check_rows(good(), ENVIRONMENTS) == []
    assert checker.check_rows([], {}) == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_gives_exactly_its_finding(name):
    plant, rule, what = FAULTS[name]
    rows = good()
    plant(rows)
    (finding,) = checker.check_rows(rows, ENVIRONMENTS, "r")
    assert (finding.run, finding.rule, finding.rows) == ("r", rule, (rows[0]["key"],))
    assert what in finding.what and finding.what.startswith("1 row: ") and finding.how


def test_a_definition_that_breaks_the_identities_is_found(monkeypatch):
    """TPOT over n instead of n - 1 tokens, as some tools have it."""
    sound = checker.metrics._times

    def wrong(*told):
        times = sound(*told)
        return times | {"tpot_s": times["tpot_s"] * 4 / 5}

    monkeypatch.setattr(checker.metrics, "_times", wrong)
    (finding,) = checker.check_rows(good(), ENVIRONMENTS)
    assert finding.rule == "identity" and len(finding.rows) == 6


def test_what_fits_the_caches_may_be_faster_than_memory():
    rows = good()
    heavy(rows, weights=10**7)  # below four times the last-level cache of 16 MiB
    assert checker.check_rows(rows, ENVIRONMENTS) == []


def test_a_row_stored_as_short_is_no_fault():
    rows = good()
    rows[0]["flags"] = ["short"]
    rows[0]["raw"]["step_ns"] = rows[0]["raw"]["step_ns"][:3]
    rows[0]["witness"]["output_tokens"] = 3
    assert checker.check_rows(rows, ENVIRONMENTS) == []
    rows[0]["point"]["output_tokens"] = 2  # more than asked is not short
    assert [f.rule for f in checker.check_rows(rows, ENVIRONMENTS)] == ["key", "count"]


@pytest.mark.parametrize(
    ("changed", "what"),
    [(lambda: row(5) | {"environment": "there"}, "mixes machines: f1, f2"),
     (lambda: row(5, threads=4), "mixes numbers of threads: 2, 4"),
     (lambda: row(5, seed=2), "mixes seeds: 1, 2")],
)  # fmt: skip
def test_mixed_circumstances(changed, what):
    rows = [*good(), changed()]
    (finding,) = checker.check_rows(rows, ENVIRONMENTS)
    assert finding.rule == "mixed" and what in finding.what and len(finding.rows) == 7


def test_a_prompt_answered_from_a_cache():
    rows = good()
    for one in rows[:6:2]:  # on a child's first row
        one["audit"] = Audit(prompt_s=0.010, again_s=0.004).model_dump()
    (finding,) = checker.check_rows(rows, ENVIRONMENTS)
    assert (finding.rule, len(finding.rows)) == ("cached", 7)
    for one in rows[:6:2]:
        one["audit"]["again_s"] = 0.009
    assert checker.check_rows(rows, ENVIRONMENTS) == []


@pytest.mark.parametrize(
    ("field", "value", "names"),
    [("impl", "other", "impl cpu, other"),
     ("attention_impl", "flash", "attention_impl None, flash"),
     ("weight_format", "int8", "weight_format float32, int8"),
     ("build", "AVX2 = 1", "build AVX2 = 1, None"),
     ("versions", {"ollama": "0.17.4"}, "versions None, ollama 0.17.4"),
     ("weight_bytes", 50_000, "weight_bytes 100000, 50000")],
)  # fmt: skip
def test_a_contender_is_served_alike_in_every_process_and_as_its_twin(field, value, names):
    rows = [row(run, twin=twin) for run in range(2) for twin in (False, True)]
    assert checker.check_rows(rows, ENVIRONMENTS) == []
    for one in rows[1::2]:
        one["served"] = one["served"] | {field: value}
    (finding,) = checker.check_rows(rows, ENVIRONMENTS)
    assert finding.rule == "mixed" and len(finding.rows) == 4
    assert f"no A/A pair: {names}" in finding.what
    second = rows[2] | {"served": rows[1]["served"]}
    (finding,) = checker.check_rows([rows[0], second], ENVIRONMENTS)
    assert finding.rule == "mixed" and len(finding.rows) == 2
    assert f"differently in its processes: {names}" in finding.what


def test_other_options_are_another_contender():
    rows = [row(run, engine_options={"impl": name}) for run in range(2) for name in "ab"]
    for one in rows[1::2]:
        one["served"] = one["served"] | {"impl": "b"}
    assert checker.check_rows(rows, ENVIRONMENTS) == []


def test_a_window_that_is_just_filled_is_no_fault():
    assert checker.check_rows([row(window=69)], ENVIRONMENTS) == []


@pytest.mark.parametrize(("read", "faults"), [(3.9e10, ["impossible"]), (4.9e10, [])])
def test_a_read_beside_a_turn_that_beats_the_roof_is_the_roof(read, faults):
    rows = []
    heavy(rows, weights=10**8)  # 50 GB/s, with a roof of 1 GB/s
    rows[0]["quiet"] = {"read_bytes_per_s": read}
    found = checker.check_rows(rows, ENVIRONMENTS)
    assert [fault.rule for fault in found] == faults


def test_prefill_beyond_the_peak():
    source = find_model("builtin:tiny")
    rows = [row(model=source.name, model_sha256=source.sha256, batch_size=10_000)]
    (finding,) = checker.check_rows(rows, ENVIRONMENTS)
    assert finding.rule == "impossible" and "of the peak FLOP/s" in finding.what


def test_redacted_questions_are_not_judged_by_their_key():
    rows = good()
    rows[0]["point"]["engine_options"] = {"token": "<redacted HF_TOKEN>"}
    assert checker.check_rows(rows, ENVIRONMENTS) == []


def test_a_key_is_that_of_the_question_whatever_it_holds():
    odd = {"note": 'ä "quoted" \u2028', "share": 1e-7, "large": 1e22, "on": True, "none": None}
    rows = [row(run, tokens, engine_options=odd) for run in range(2) for tokens in (1, 2)]
    assert checker.check_rows(rows, ENVIRONMENTS) == []
    rows[2]["point"]["engine_options"] = odd | {"share": 2e-7}
    assert [(f.rule, f.rows) for f in checker.check_rows(rows, ENVIRONMENTS)] == [
        ("key", (rows[2]["key"],))
    ]


def test_a_value_of_a_wrong_type_is_named_and_left_out(tmp_path):
    fill(tmp_path / "a", good())
    journal = next((tmp_path / "a" / "records").iterdir())
    lines = journal.read_bytes().splitlines(keepends=True)
    body = lines[0][: -CRC_BYTES - 1].replace(b'"load_s":0.5', b'"load_s":"x"') + b"}"
    lines[0] = body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body)
    journal.write_bytes(b"".join(lines))
    (finding,) = checker.check(tmp_path / "a")
    assert finding.rule == "schema" and ":1: " in finding.what and "load_s" in finding.what


def fill(folder, rows) -> None:
    """A run on disk."""
    (folder / "records").mkdir(parents=True)
    (folder / "environment.json").write_text(json.dumps({"environments": ENVIRONMENTS}))
    with store.Journal(folder) as journal:
        for one in rows:
            journal.append(Record(**one))


def test_check_reads_folders_and_names_broken_lines(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / name, good())
    assert checker.check(tmp_path / "a", tmp_path / "b") == []
    journal = next((tmp_path / "b" / "records").iterdir())
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0].replace(b"edge", b"Edge"), *lines[1:]]))
    (finding,) = checker.check(tmp_path / "a", tmp_path / "b")
    assert (finding.run, finding.rule, finding.rows) == ("b", "schema", ())
    assert ":1: " in finding.what and "checksum" in finding.what


# -- golden files: what stands on the disk, and what the checker said of it ------------------------

GOLDEN = Path(__file__).parent / "golden" / "checker"  # made by plant.py there, then looked at
CASES = sorted(place.parent.name for place in GOLDEN.glob("*/expected.json"))


@pytest.mark.parametrize("name", CASES)
def test_golden_files(name):
    expected = json.loads((GOLDEN / name / "expected.json").read_text(encoding="utf-8"))
    found = [{"rule": f.rule, "what": f.what, "rows": len(f.rows), "how": f.how}
             for f in checker.check(GOLDEN / name)]  # fmt: skip
    assert found == expected


def test_golden_files_hold_every_rule_and_sound_runs():
    told = {name: json.loads((GOLDEN / name / "expected.json").read_text(encoding="utf-8"))
            for name in CASES}  # fmt: skip
    assert [name for name in CASES if not told[name]] == ["good", "version-1"]
    rules = {finding["rule"] for findings in told.values() for finding in findings}
    assert rules == {"schema", "environment", "key", "missing", "order", "count", "duplicate",
                     "incorrect", "cached", "mixed", "impossible", "claim"}  # fmt: skip


def test_a_report_is_of_the_records_beside_it(tmp_path):
    run = shutil.copytree(GOLDEN / "version-1", tmp_path / "run")
    (run / "report.html").write_text(page.render(run), encoding="utf-8")
    assert checker.check(run) == []
    journal = next((run / "records").iterdir())
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    (finding,) = checker.check(run)
    assert (finding.rule, finding.how) == ("claim", "llmbench report run")


def test_a_report_that_does_not_tell_its_records_is_a_fault(tmp_path):
    run = shutil.copytree(GOLDEN / "version-1", tmp_path / "run")
    (run / "report.html").write_text("<html>of my own making</html>", encoding="utf-8")
    (finding,) = checker.check(run)
    assert finding.rule == "claim" and "does not tell" in finding.what


def test_rows_that_beat_the_memory_enter_no_claim():
    frame = metrics.read(GOLDEN / "impossible-mbu")
    fast = frame["flags"].map(lambda flags: "impossible" in flags)
    assert fast.any() and not fast[metrics.claimable(frame).index].any()
    assert {f.rule for f in checker.check(GOLDEN / "impossible-mbu")} == {"impossible"}


@pytest.mark.parametrize(("name", "code"), [("good", 0), ("cached", 1)])
def test_the_command_ends_as_the_golden_file_says(name, code):
    done = llmbench("check", GOLDEN / name)
    assert done.returncode == code, done.stderr
    expected = json.loads((GOLDEN / name / "expected.json").read_text(encoding="utf-8"))
    assert all(finding["what"] in done.stdout for finding in expected)
    assert ("no faults found" in done.stdout) is (not expected)
