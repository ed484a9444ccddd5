"""The page of `mlclip report` in a real browser: marks by keyboard, the file of corrections, hostile names, many photos."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from chromium import PROGRAM, Chromium
from PIL import Image

from mlclip.config import ReportConfig
from mlclip.labels.review import correct, read_corrections
from mlclip.labels.table import Labels, read_truth
from mlclip.report.pictures import difference_hash
from mlclip.report.work_page import SCALE, packed, whole_thresholds, write_page

needs_browser = pytest.mark.skipif(not PROGRAM, reason="Chromium is not installed")
CLASSES = ["cat", "dog", "cow"]
EVIL = [
    "<script>window.hacked=1</script>",
    "</script><img src=x onerror=window.hacked=1>",
    "\"'`&$report\n\r,\u2028 -->",
]


@pytest.fixture
def labels(photos) -> Labels:
    """Twelve photos, whose most doubtful label is of the class "cat", least doubtful first in the table."""
    cat = 0.95 - 0.03 * torch.arange(12)
    scores = torch.stack([cat, torch.full((12,), 0.02), torch.full((12,), 0.99)], 1)
    return Labels([f"{n:02d}.jpg" for n in range(12)], CLASSES, scores, root=str(photos))


@pytest.fixture(scope="module")
def program() -> Iterator[Chromium]:
    with Chromium() as started:
        yield started


@pytest.fixture
def browser(program) -> Chromium:
    """One browser for all tests: it remembers marks by the table, so each test has other scores."""
    program.resize(1280, 900)
    program.events.clear()
    for file in program.downloads.glob("*"):
        file.unlink()
    return program


def shown(browser: Chromium) -> list[str]:
    return browser.run("[...document.querySelectorAll('#window .photo .file')].map((node) => node.title)")


@needs_browser
def test_labels_marked_by_keyboard_are_downloaded_and_survive_a_reload(labels, browser, tmp_path):
    write_page(labels, tmp_path / "report.html", looks=ReportConfig(sort="doubt"))
    browser.open(tmp_path / "report.html")
    assert shown(browser)[:2] == ["11.jpg", "10.jpg"]
    browser.press("n", "y", "u", "n", "j", "k", "ArrowRight", "2")  # 11: no; 10: yes, undone, no; 08: the second class
    browser.press("a")
    browser.send("Input.insertText", text="dog")
    browser.press("Enter")
    assert browser.run("document.getElementById('progress').textContent") == "4 marked, 4 wrong"
    browser.press("d")
    (tmp_path / "c.csv").write_bytes(browser.downloaded("corrections.csv"))
    browser.open(tmp_path / "report.html")
    assert browser.run("document.getElementById('progress').textContent") == "4 marked, 4 wrong"
    assert not browser.complaints
    found = read_corrections(tmp_path / "c.csv")
    assert found["11.jpg"] == {"cat": 0} and found["10.jpg"] == {"cat": 0}
    assert sorted(found) == ["08.jpg", "10.jpg", "11.jpg"] and found["08.jpg"] == {"cow": 0, "dog": 1}
    assert correct(labels, found).changed == 4


@needs_browser
def test_large_photos_answers_for_several_and_a_file_of_complete_ones(labels, photos, browser, tmp_path):
    labels.scores[:, 2] = 0.98
    truth = Labels(labels.paths, CLASSES, (labels.scores > 0.5).float(), root=str(photos))
    truth.scores[3] = torch.tensor([1.0, 1.0, 0.0])  # not dog as labelled, but cow
    given = {"00.jpg": {"cat": 1, "pink": 0}, "gone.jpg": {"cat": 1}}
    report, alone = tmp_path / "report.html", tmp_path / "alone" / "moved" / "report.html"
    labels.meta["corrections"] = given
    write_page(labels, report, truth=truth, looks=ReportConfig(sort="random"))
    marked = "document.getElementById('progress').textContent"
    source = "document.getElementById('large-photo').src"
    browser.open(report)
    order = shown(browser)
    assert sorted(order) == labels.paths and order != labels.paths
    browser.run("document.getElementById('select').focus()")
    browser.press("Tab", "Enter")  # the first card, its photo
    browser.wait(f"{source} === '{(photos / order[0]).as_uri()}' && document.getElementById('large-photo').complete")
    assert browser.run("document.getElementById('large-photo').naturalWidth") == 60
    assert order[0] in browser.run("document.getElementById('large-photo').alt")
    browser.press("ArrowRight", "y", "c", "k", "Escape")  # the second: yes; the third is complete
    browser.wait(f"document.activeElement.ariaLabel === 'Photo {order[2]}' && !document.querySelector('dialog[open]')")
    before = browser.run(marked)
    browser.press("k", "k", "x", "j", "x")
    picture = f"document.querySelector('#window [aria-label=\"Photo {order[5]}\"] .picture')"
    browser.run(f"{picture}.dispatchEvent(new MouseEvent('click', {{bubbles: true, shiftKey: true}}))")
    assert browser.run("document.getElementById('many-count').textContent") == "6 selected"
    browser.run("document.getElementById('many-class').value = '1'")
    browser.press("n")
    assert browser.run(marked) != before
    browser.press("u")
    assert browser.run(marked) == before
    browser.press("f")
    browser.send("Input.insertText", text="07")
    browser.wait("document.getElementById('count').textContent === '1 of 12 photos'")
    browser.press("Escape")
    assert browser.run("document.getElementById('count').textContent") == "12 photos"
    browser.run("document.getElementById('state').value = 'differs'")
    browser.run("document.getElementById('state').dispatchEvent(new Event('change'))")
    assert shown(browser) == ["03.jpg"]
    words = browser.run("document.querySelector('#window .chips').innerText")
    assert "dog true" in words and "cow not true" in words
    browser.run("document.getElementById('tab-classes').click()")
    browser.open(report)
    kept = "['state', 'sort'].map((name) => document.getElementById(name).value)"
    assert browser.run(kept) == ["differs", "random"] and not browser.run("document.getElementById('classes').hidden")
    browser.run("document.getElementById('tab-photos').click()")
    browser.run("document.getElementById('clear').click()")
    assert shown(browser) == order and browser.run(marked) == before
    browser.press("d", "D")
    for name in ("corrections.csv", "complete.csv"):
        (tmp_path / name).write_bytes(browser.downloaded(name))
    assert not browser.complaints
    alone.parent.mkdir(parents=True)
    report.rename(alone)
    no_storage = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('none'); }})"
    script = browser.send("Page.addScriptToEvaluateOnNewDocument", source=no_storage)
    browser.open(alone)
    browser.send("Page.removeScriptToEvaluateOnNewDocument", **script)
    browser.press("Enter")
    browser.wait("!document.getElementById('large-small').hidden")  # the thumbnail stays
    assert browser.run(f"{source}.startsWith('data:')")
    found = read_corrections(tmp_path / "corrections.csv")
    assert found["gone.jpg"] == {"cat": 1} and found["00.jpg"]["pink"] == 0 and found["00.jpg"]["cat"] == 1
    assert found[order[1]].popitem()[1] == 1
    (complete,) = read_truth(str(tmp_path / "complete.csv")).paths
    assert complete == order[2] and found[complete] == {"cat": 1, "dog": 0, "cow": 1}
    assert correct(labels, found).unknown == [("00.jpg", "pink", 0), ("gone.jpg", "cat", 1)]


@needs_browser
def test_hostile_names_run_nothing_request_nothing_and_come_back_unchanged(photos, browser, tmp_path):
    names = [f"{evil.replace('/', '∕')}{n}.jpg" for n, evil in enumerate(EVIL)] + [os.fsdecode(b"\xff.jpg")]
    for number, name in enumerate(names):
        (photos / f"{number:02d}.jpg").rename(photos / name)
    meta = {"method": EVIL[1], EVIL[0]: EVIL, "thresholds": [0.5] * 3}
    labels = Labels(names, EVIL, torch.full((4, 3), 0.6), root=str(photos), meta=meta)
    truth = Labels(names, EVIL, torch.ones(4, 3))
    write_page(labels, tmp_path / "report.html", truth=truth, predictions=labels, title=EVIL[1])
    browser.open(tmp_path / "report.html")
    for tab in ("classes", "report", "photos"):
        browser.run(f"document.getElementById('tab-{tab}').click()")
    for _ in names:
        browser.press("1", "2", "3", "j")
    browser.press("d")
    (tmp_path / "c.csv").write_bytes(browser.downloaded("corrections.csv"))
    assert browser.run("typeof window.hacked") == "undefined"
    assert {address.partition(":")[0] for address in browser.requests} <= {"file", "data", "blob"}
    assert sum(address.startswith("file:") for address in browser.requests) == 1  # the page itself
    assert not browser.complaints
    assert read_corrections(tmp_path / "c.csv") == {name: dict.fromkeys(EVIL, 0) for name in names}


@needs_browser
def test_thumbnails_in_a_folder_are_shown_and_nothing_overflows_on_a_phone(labels, browser, tmp_path):
    labels.scores[:, 2] = 0.97
    made = write_page(labels, tmp_path / "my page.html", looks=ReportConfig(thumbnails="folder"))
    assert sorted(file.name for file in made.folder.iterdir()) == sorted(f"{n}.jpg" for n in range(12))
    browser.resize(390, 800)
    browser.open(tmp_path / "my page.html")
    pictures = "[...document.querySelectorAll('#window img')]"
    browser.wait(f"{pictures}.length && {pictures}.every((image) => image.complete)")
    assert browser.run(f"{pictures}.every((image) => image.naturalWidth > 0)")
    for tab in ("photos", "classes", "report"):
        browser.run(f"document.getElementById('tab-{tab}').click()")
        assert browser.run("document.documentElement.scrollWidth") <= 390, tab
        small = """[...document.querySelectorAll('button, select, summary, input:not([type=checkbox]), .pick')]
            .filter((node) => node.offsetParent).map((node) => [node.outerHTML, node.getBoundingClientRect()])
            .filter(([, box]) => Math.min(box.width, box.height) < 40)"""
        assert not browser.run(f"{small}.map(([words]) => words)"), tab
    browser.run("document.getElementById('tab-photos').click()")
    browser.run("document.getElementById('select').click()")
    browser.run("document.querySelectorAll('#window .pick input')[1].click()")
    browser.run("document.querySelector('#window .picture').click()")
    assert browser.run("document.getElementById('many-count').textContent") == "2 selected"
    browser.run("document.getElementById('many-complete').click()")
    assert "2 complete" in browser.run("document.getElementById('progress').textContent")
    browser.run("document.querySelector('#window .picture').click()")
    assert browser.run("document.getElementById('large').open && innerWidth === document.documentElement.scrollWidth")
    assert not browser.complaints
    write_page(labels, tmp_path / "my page.html", looks=ReportConfig(thumbnails="embed"))
    assert not made.folder.exists()


def test_thumbnails_move_to_the_folder_when_the_page_would_be_too_large(labels, tmp_path, monkeypatch):
    assert write_page(labels, tmp_path / "report.html").folder is None
    monkeypatch.setattr("mlclip.report.pictures.EMBED_LIMIT", 10_000)
    made = write_page(labels, tmp_path / "report.html")
    assert len(list(made.folder.iterdir())) == 12 and not made.failed
    assert all(source.startswith("report_files/") for source in made.sources)


def test_rounding_for_the_page_never_moves_a_score_over_its_threshold():
    scores = torch.rand(5000, 1, generator=torch.Generator().manual_seed(1))
    thresholds = torch.tensor([float(scores[7]) + 1e-6])
    whole = np.frombuffer(base64.b64decode(packed(scores, thresholds)), dtype="<i2")
    assert ((whole >= int(whole_thresholds(thresholds))) == (scores[:, 0] >= thresholds).numpy()).all()
    assert np.abs(whole / SCALE - scores[:, 0].numpy()).max() <= 1.01 / SCALE


def test_a_smaller_and_brighter_copy_looks_alike_and_another_photo_does_not(photos, tmp_path):
    rng = np.random.default_rng(3)
    for name in ("a", "b"):
        image = Image.fromarray(rng.integers(0, 200, (8, 9, 3), dtype=np.uint8)).resize(
            (300, 240), Image.Resampling.BICUBIC
        )
        image.save(photos / f"{name}.jpg")
        image.resize((150, 120)).point(lambda value: min(255, value + 20)).save(photos / f"{name}-copy.jpg", quality=60)
    Image.new("RGB", (80, 80), "red").save(photos / "flat.jpg")
    assert difference_hash(Image.new("RGB", (9, 9), "blue")) is None
    names = ["a.jpg", "b.jpg", "flat.jpg", "a-copy.jpg", "b-copy.jpg", "none.jpg"]
    labels = Labels(names, ["x"], torch.ones(6, 1), root=str(photos))
    made = write_page(labels, tmp_path / "report.html")
    assert made.alike == [0, 1, -1, 0, 1, -1] and made.failed == 1


def test_a_page_without_photos_or_classes_with_labels_is_written(tmp_path):
    write_page(Labels([], ["x"], torch.empty(0, 1), root=str(tmp_path)), tmp_path / "empty.html")
    unknown = Labels(["a"], ["x"], torch.full((1, 1), torch.nan), root=str(tmp_path))
    write_page(unknown, tmp_path / "unknown.html", looks=ReportConfig(limit=0))
    text = (tmp_path / "unknown.html").read_text()
    assert text.count("<script") == 2 and "default-src 'none'" in text
