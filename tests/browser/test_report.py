"""report.html on a phone, a tablet and a desk, by day and by night, and on paper."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

from tests import synthetic
from tests.browser import look

pytestmark = pytest.mark.browser

SIZES = {"phone": (390, 844), "tablet": (768, 1024), "desk": (1280, 900)}
PAPER = (718, 1047)  # CSS px of an A4 page within margins of 1 cm
MEASURE = """
--run-id seen --engines fake --batch-sizes 1 4 --context-lens 64 128 256 512
--process-runs 2 --blocks 2 --threads 1 --output-tokens 3
--engine-options {fake: {law: n, floor_s: 0.002, unit_s: 2.0e-6, oom_above: 1000}}
"""
LONG = (64, 91, 128, 181, 256, 362, 512, 724, 1000)


def llmbench(outputs: Path, *words: str) -> str:
    """What the command line prints to stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "llmbench", *words], capture_output=True, text=True, timeout=240,
        env=os.environ | {"LLMBENCH_OUTPUTS": str(outputs)}, cwd=outputs, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def measured(outputs: Path) -> str:
    """A run really measured, one size of which runs out of memory."""
    options, planted = MEASURE.split("--engine-options ")
    llmbench(outputs, "measure", "scaling", *options.split(), "--engine-options", planted.strip())
    return "seen"


def claimed(outputs: Path) -> str:
    """A run of made-up rows, enough of them for intervals, laws, two models and long names."""
    model = "hf:an-organisation-with-a-long-name/a-model-of-7-billion-parameters-chat"
    known = {"context_lens": LONG, "model": model}
    frame = synthetic.flag(synthetic.rows(**known), "contaminated", 5)
    frame = synthetic.fail(frame, "oom", "Cannot allocate 3 GiB", batch_size=4, context_len=1000)
    other = synthetic.rows(context_lens=LONG, model="builtin:tiny", slower=0.2, seed=3)
    synthetic.write_run(
        outputs / "claimed", pd.concat([frame, other]), state="done",
        title="Which of two models is faster, and how does cost grow?",
        command="llmbench run params/two-models-side-by-side.yaml --run-id claimed --set "
                "scaling.process_runs=6",
    )  # fmt: skip
    return "claimed"


@pytest.fixture(scope="module", params=[measured, claimed], ids=lambda make: make.__name__)
def report(request, tmp_path_factory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    return Path(llmbench(outputs, "report", request.param(outputs)))


@pytest.fixture(scope="module", params=["light", "dark"])
def scheme(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=SIZES)
def opened(request, browser, report, scheme, tmp_path_factory):
    """The open page, and all that it asked for or complained of so far."""
    width, height = SIZES[request.param]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    heard = []
    page.on("request", lambda request: heard.append(request.url))
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.goto(report.as_uri())
    picture(page, f"report-{report.parent.name}-{request.param}-{scheme}",
            tmp_path_factory.mktemp("pictures"))  # fmt: skip
    yield page, heard
    page.close()


def picture(page, name: str, folder: Path) -> None:
    """Keep a picture of the whole page, also in LLMBENCH_SCREENSHOTS when that is set."""
    for place in {folder, Path(os.environ.get("LLMBENCH_SCREENSHOTS") or folder)}:
        page.screenshot(path=str(place / f"{name}.png"), full_page=True)


def test_it_looks_right_and_asks_for_nothing(opened, report):
    page, heard = opened
    assert look.faults(page) == []
    assert heard == [report.as_uri()]


def test_what_matters_is_visible(opened, report):
    page, _ = opened
    for what in ("h1", ".answer", "figure svg", ".card .value", "pre", "table"):
        shown = page.locator(what).all()
        assert shown, what
        assert all(each.is_visible() for each in shown), what
    assert re.search(r"\d", page.locator(".answer").inner_text())
    drawn = {path.stem for path in (report.parent / "figures").glob("*.csv")}
    assert len(drawn) >= 4
    assert page.locator("figure").count() == len(drawn)
    assert page.get_by_role("img").count() == len(drawn)
    command = json.loads((report.parent / "status.json").read_text())["command"]
    assert page.locator("pre").first.inner_text().strip() == command
    assert page.get_by_text("out of memory").first.is_visible()


def test_every_link_leads_to_a_file(browser, report):
    page = browser.new_page()
    page.goto(report.as_uri())
    links = page.locator("a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert len(links) > 10
    assert [link for link in links if not (report.parent / unquote(link)).is_file()] == []
    page.close()


def test_on_paper(browser, report, tmp_path):
    page = browser.new_page(viewport=dict(zip(("width", "height"), PAPER, strict=True)))
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    picture(page, f"report-{report.parent.name}-paper", tmp_path)
    assert look.faults(page) == []
    pdf = page.pdf(path=str(tmp_path / "report.pdf"), format="A4", print_background=True)
    assert 1 < len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf)) < 30
    page.close()


BAD = {
    "the page is wider than the window": "<div style='width: 900px'>wide</div>",
    "a picture has no size": "<svg width='0' height='0'></svg>",
    "words of a figure are cut off": "<svg width='99' height='99'><text x='60' y='50'>far too "
                                     "long</text></svg>",
    "words of a figure lie upon each other": "<svg width='99' height='99'><text x='9' y='50'>one"
                                             "</text><text x='14' y='50'>two</text></svg>",
    "words are clipped": "<p style='overflow: hidden; height: 9px'>lower<br>half</p>",
    "words leave their box": "<div class='card' style='width: 50px'>unbreakablewords</div>",
    "words are too small to read": "<p style='font-size: 8px'>small print</p>",
    "words are hard to tell from their ground": "<p style='color: #999'>grey</p>",
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_the_looks_see_a_planted_fault_and_no_other(browser, fault):
    page = browser.new_page(viewport={"width": 390, "height": 400})
    page.set_content(f"<body><p>fine</p>{BAD[fault]}</body>")
    assert {found.partition(": ")[0] for found in look.faults(page)} == {fault}
    page.close()


def test_every_look_is_tried():
    assert set(BAD) == set(look.LOOKS)
