"""The page of `mlclip report` in a real browser: marks by keyboard, the file of corrections, hostile names, many photos."""

from __future__ import annotations

import base64
import os

import numpy as np
import pytest
import torch
from chromium import PROGRAM, Chromium
from PIL import Image

from mlclip.labels.corrections import correct, read_corrections
from mlclip.labels.table import Labels
from mlclip.report import thumbnails as thumbnails_module
from mlclip.report.thumbnails import difference_hash
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


def shown(browser: Chromium) -> list[str]:
    return browser.run("[...document.querySelectorAll('#window .photo .file')].map((node) => node.title)")


@needs_browser
def test_labels_marked_by_keyboard_are_in_the_downloaded_file_and_are_still_there_after_a_reload(labels, tmp_path):
    write_page(labels, tmp_path / "report.html", sort="doubt")
    with Chromium() as browser:
        browser.open(tmp_path / "report.html")
        assert shown(browser)[:2] == ["11.jpg", "10.jpg"]
        browser.press(
            "n", "y", "u", "n", "j", "k", "ArrowRight", "2"
        )  # 11: no; 10: yes, undone, no; 08: the second class
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
def test_hostile_names_run_nothing_request_nothing_and_come_back_unchanged(photos, tmp_path):
    names = [f"{evil.replace('/', '∕')}{n}.jpg" for n, evil in enumerate(EVIL)] + [os.fsdecode(b"\xff.jpg")]
    for number, name in enumerate(names):
        (photos / f"{number:02d}.jpg").rename(photos / name)
    meta = {"method": EVIL[1], EVIL[0]: EVIL, "thresholds": [0.5] * 3}
    labels = Labels(names, EVIL, torch.full((4, 3), 0.6), root=str(photos), meta=meta)
    truth = Labels(names, EVIL, torch.ones(4, 3))
    write_page(labels, tmp_path / "report.html", truth=truth, predictions=labels, title=EVIL[1])
    with Chromium() as browser:
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
def test_thumbnails_in_a_folder_are_shown_and_nothing_overflows_on_a_phone(labels, tmp_path):
    made = write_page(labels, tmp_path / "my page.html", thumbnails="folder")
    assert sorted(file.name for file in made.folder.iterdir()) == sorted(f"{n}.jpg" for n in range(12))
    with Chromium(width=390, height=800) as browser:
        browser.open(tmp_path / "my page.html")
        pictures = "[...document.querySelectorAll('#window img')]"
        browser.wait(f"{pictures}.length && {pictures}.every((image) => image.complete)")
        assert browser.run(f"{pictures}.every((image) => image.naturalWidth > 0)")
        for tab in ("photos", "classes", "report"):
            browser.run(f"document.getElementById('tab-{tab}').click()")
            assert browser.run("document.documentElement.scrollWidth") <= 390, tab
        assert not browser.complaints
    write_page(labels, tmp_path / "my page.html", thumbnails="embed")
    assert not made.folder.exists()


def test_thumbnails_move_to_the_folder_when_the_page_would_be_too_large(labels, tmp_path, monkeypatch):
    assert write_page(labels, tmp_path / "report.html").folder is None
    monkeypatch.setattr(thumbnails_module, "EMBED_LIMIT", 10_000)
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
    write_page(unknown, tmp_path / "unknown.html", limit=0)
    assert (tmp_path / "unknown.html").read_text().count("<script") == 2
