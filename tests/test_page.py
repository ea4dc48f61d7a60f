"""The page answers, shows what failed, can be run again, loads nothing and cannot be injected."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib._pylab_helpers import Gcf

from llmbench import findings, metrics, page, store
from tests import synthetic

LONG = (64, 91, 128, 181, 256, 362, 512, 724, 1000)
PARAMS = "title: What does it cost?\nstudies:\n  scaling: {models: [builtin:tiny]}\n"
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Outline(HTMLParser):
    """What a browser would see: balanced tags, resources, headings, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [v for k, v in attributes if k in ("href", "src", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def make_run(folder: Path, frame, **status) -> Path:
    known = {"title": "What does it cost?", "command": "llmbench run p.yaml --run-id demo",
             "state": "done"}  # fmt: skip
    synthetic.write_run(folder, frame, **(known | status))
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "notebooks" / "02_scaling_study.ipynb").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    frame = synthetic.rows(context_lens=LONG)
    frame = synthetic.fail(frame, "oom", "Cannot allocate 3 GiB", batch_size=4, context_len=1000)
    frame = synthetic.flag(frame, "contaminated", 5)
    studies = {"scaling": {"planned": 230, "settled": 216, "deferred": 14}}
    folder = make_run(tmp_path_factory.mktemp("outputs") / "demo", frame, studies=studies)
    page.write_page(folder)
    return folder


@pytest.fixture(scope="module")
def text(run) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def seen(text) -> Outline:
    return Outline(text)


def plain(words: str) -> str:
    return re.sub(r"\s+", " ", words.replace("\N{NO-BREAK SPACE}", " "))


def test_it_says_the_question_and_the_answer(run, seen):
    found = findings.read_findings(run)
    assert found.question == "What does it cost?"
    assert found.answer in plain(seen.text)
    for section in found.sections:
        assert all(sentence in plain(seen.text) for sentence in section.sentences)
        assert all(number.value in plain(seen.text) for number in section.numbers)


def test_it_shows_what_failed_was_flagged_and_deferred(seen):
    text = plain(seen.text)
    assert "12 repeats of builtin:tiny with transformers ran out of memory" in text
    assert "Cannot allocate 3 GiB" in text
    assert "5 repeats of 204 flagged contaminated" in text
    assert "14 of 230 repeats of scaling in demo were deferred" in text


def test_it_says_how_to_run_it_again(seen):
    assert "llmbench run p.yaml --run-id demo" in seen.text
    assert PARAMS.strip() in seen.text


def test_captions_hold_the_circumstances(text, seen):
    captions = [plain(c) for c in re.findall(r"<figcaption>(.*?)</figcaption>", text, re.DOTALL)]
    assert len(captions) == seen.tags.count("figure") == 5
    for caption in captions:
        for words in ("Example CPU 3000", "llmbench 0.", "process runs 6",
                      "warm-up 100 ms (turns: 1)", "measured 2026-03-01", "records ",
                      "edian"):  # fmt: skip
            assert words in caption
    assert sum("exact 95 % interval of the median" in caption for caption in captions) == 4


def test_it_loads_nothing_and_its_links_lead_somewhere(run, text, seen):
    assert "http:" not in text and "https:" not in text and "//" not in seen.links
    assert not {"script", "link", "img", "iframe", "object"} & set(seen.tags)
    assert "@import" not in text and text.count("url(") == text.count("url(#")
    for link in seen.links:
        if link.startswith("#"):
            assert link[1:] in seen.ids
        else:
            assert (run / link).is_file(), link


def test_it_is_sound_html(seen):
    assert seen.open == [] and len(seen.ids) == len(set(seen.ids))
    headings = [tag for tag in seen.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1" and headings.count("h1") == 1
    assert set(headings) <= {"h1", "h2", "h3"}


def test_every_figure_has_words_for_those_who_cannot_see_it(text):
    alts = re.findall(r'<svg role="img" aria-label="([^"]*)"', text)
    assert len(alts) == 5 and all(len(alt) > 40 for alt in alts)
    assert "batch 1: 5.9" in alts[0] and "at 1,000 tokens" in alts[0]


def test_no_missing_value_leaks(seen):
    assert not re.search(r"\b(nan|NaN|None|inf|<NA>|Undefined)\b", seen.text)


def test_it_adapts_to_phone_dark_and_print(text):
    for rule in (
        'name="viewport"',
        "prefers-color-scheme: dark",
        "@media print",
        "max-width: 36rem",
    ):
        assert rule in text
    assert text.count("<table>") == text.count('<div class="scroll"')


def test_figures_and_tables_are_written_and_closed(run):
    for name in page.GROWTH:
        for kind in ("pdf", "png", "csv"):
            assert (run / "figures" / f"{name}.{kind}").stat().st_size > 100
    for name in ("scaling", "laws", "failures", "flags"):
        for kind in ("csv", "md", "tex"):
            assert (run / "tables" / f"{name}.{kind}").is_file()
    assert not Gcf.get_all_fig_managers()


def test_a_notebook_saves_the_same_figures_under_the_same_names(run, tmp_path):
    written = page.save_plates(page.plates(metrics.read(run)), tmp_path, ["demo"])
    assert {path.name for path in written} == {path.name for path in (run / "figures").iterdir()}
    for path in written:
        assert path.read_bytes() == (run / "figures" / path.name).read_bytes(), path.name
    assert page.plates(metrics.frame_of([], {})) == {}


def test_several_runs_are_flagged_together_on_the_page(tmp_path):
    """A copy of a run in another folder adds no evidence."""
    one = make_run(tmp_path / "one", synthetic.rows(run="one"))
    shutil.copytree(one, tmp_path / "two")
    text = plain(Outline(page.render(one, [one, tmp_path / "two"])).text)
    assert "96 repeats of 192 flagged duplicate" in text


def test_render_is_the_page_and_writes_nothing(run, text):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert page.render(run) == text
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_names_cannot_break_out(tmp_path):
    evil = '</title><script>alert(1)</script>"><img src=x onerror=alert(2)>{{ 7*7 }}'
    frame = synthetic.fail(synthetic.rows(model=evil), "failed", evil, batch_size=4)
    text = page.render(make_run(tmp_path / "demo", frame, title=evil, command=evil, faults=[evil]))
    seen = Outline(text)
    assert not {"script", "img"} & set(seen.tags)
    assert "{{ 7*7 }}" in seen.text and "onerror=alert" in seen.text


def test_runs_of_several_machines_stand_side_by_side(tmp_path):
    one = make_run(tmp_path / "one", synthetic.rows(run="one", fingerprint="aaaa"))
    two = make_run(tmp_path / "two", synthetic.rows(run="two", fingerprint="bbbb", slower=9.0))
    text = plain(Outline(page.render(one, [one, two])).text)
    assert "run one, machine aaaa" in text and "run two, machine bbbb" in text
    assert "2 machines took part; they are shown apart and never pooled." in text


def test_a_run_without_records_says_so(tmp_path):
    folder = tmp_path / "empty"
    (folder / "records").mkdir(parents=True)
    written = page.write_page(folder)
    assert "No rows were measured" in Outline(written.read_text(encoding="utf-8")).text


def test_the_page_names_its_records(run, text):
    assert f"records {store.digest(run)[:16]}" in text


def test_a_preview_is_called_one(tmp_path):
    frame = synthetic.rows(process_runs=2, blocks=1)
    text = plain(Outline(page.render(make_run(tmp_path / "demo", frame))).text)
    assert "Preview, not a claim" in text and "no interval, 2 process runs" in text
    assert "[\N{EN DASH}]: no interval, which needs six of them" in text
    assert text.count("4 more than there are") == 1


def test_a_roof_that_is_passed_is_not_called_the_least_time(tmp_path, text):
    assert "lie below the roof" not in text
    fast = synthetic.rows(slower=0.1)
    fast = plain(Outline(page.render(make_run(tmp_path / "demo", fast))).text)
    assert "8 of 8 medians lie below the roof: it was read too low, or a cache serves." in fast


def test_captions_speak_only_of_what_is_drawn(tmp_path, text):
    assert "Dotted: fixed cost" in text and "Crossed out" in text and "bars: exact" in text
    frame = synthetic.rows(process_runs=2, blocks=1).assign(mbu=float("nan"))
    few = plain(Outline(page.render(make_run(tmp_path / "demo", frame))).text)
    for words in ("Dotted: fixed cost", "Crossed out", "bars: exact"):
        assert words not in few
