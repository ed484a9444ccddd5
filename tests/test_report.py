"""The report in the page of `mlclip report`: safe, and with the right numbers."""

from __future__ import annotations

import math
import os
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from mlclip.config import InputError
from mlclip.labels.metrics import matched_cells, mean_average_precision
from mlclip.labels.table import Labels
from mlclip.methods.calibration import expected_calibration_error
from mlclip.report import html as page
from mlclip.report.build import report_sections

VOID = {"meta", "img", "br"}  # elements without an end tag
EVIL = "<script>alert(1)</script>\"'&\n\x07"


class Reader(HTMLParser):
    """Collects tags, attributes and words, and checks that elements are closed in the right order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def attributes(self, tag, name):
        return [attrs[name] for kind, attrs in self.tags if kind == tag and name in attrs]


def photos(folder, names):
    for number, name in enumerate(names):
        colour = (40 * number % 256, 200, 255 - 40 * number % 256)
        Image.new("RGB", (90 + number, 60), colour).save(folder / name, "JPEG")


@pytest.fixture
def labels(tmp_path):
    names = [f"{i}.jpg" for i in range(6)]
    photos(tmp_path, names)
    scores = torch.tensor([[0.9, 0.6], [0.8, 0.1], [0.2, 0.3], [0.7, 0.55], [0.0, 0.0], [math.nan, 0.42]])
    meta = {"method": "cdul", "settings": {"zeta": 0.5}, "skipped": [["bad.jpg", "empty file"]]}
    return Labels(names, ["cat", "dog"], scores, root=str(tmp_path), meta=meta)


def facts(text):
    return dict(reversed(pair) for pair in re.findall(r'<div class="fact"><b>(.*?)</b><span>(.*?)</span>', text))


def text_of(labels, truth=None) -> str:
    """The sections of the page; every element in them is closed."""
    text = "\n".join(report_sections(labels, truth=truth))
    Reader(text)
    return text


def test_the_facts_match_the_table(labels):
    shown = facts(text_of(labels))
    assert shown["photos"] == "6" and shown["classes"] == "2" and shown["photos skipped"] == "1"
    assert shown["labels per photo"] == "0.83" and shown["photos without a label"] == "3"
    assert shown["mean top-1 score"] == f"{(0.9 + 0.8 + 0.3 + 0.7 + 0 + 0.42) / 6:.2f}"


@pytest.mark.parametrize("thresholds", [[0.75, 0.5], {"cat": 0.75}, torch.tensor([0.75, 0.5])])
def test_the_thresholds_decide_which_labels_count(labels, thresholds):
    labels.meta["thresholds"] = thresholds
    text = text_of(labels)
    assert facts(text)["labels per photo"] == "0.67"
    assert "2 <small>≥ 0.75</small>" in text and "2 <small>≥ 0.50</small>" in text


def test_the_photos_with_the_highest_scores_come_first_and_unknown_scores_are_not_shown(labels):
    hints = Reader(text_of(labels)).attributes("img", "title")
    assert hints[:5] == ["0.jpg: 0.900", "1.jpg: 0.800", "3.jpg: 0.700", "2.jpg: 0.200", "4.jpg: 0.000"]


def test_truth_adds_ap_marked_as_report_only(labels):
    truth = Labels(labels.paths[:5], ["dog", "cat"], torch.tensor([[0, 1], [1, 1], [0, 0], [0, 0], [0, 1.0]]))
    text = text_of(labels, truth=truth)
    mean, each = mean_average_precision(labels, truth)
    assert facts(text)["mAP in %, report only"] == f"{100 * mean:.1f}"
    assert all(f'<td class="number">{100 * ap:.1f}</td>' in text for ap in each.values())
    assert "report only" not in text_of(labels)


def test_the_page_shows_scores_against_the_truth_with_the_calibration_error(labels):
    truth = Labels(labels.paths, labels.classes, torch.tensor([[1, 1], [1, 0], [0, 0], [1, 0], [0, 0], [0, 1.0]]))
    text = text_of(labels, truth=truth)
    error = expected_calibration_error(*matched_cells(labels, truth))
    assert f"Expected calibration error {100 * error:.1f} %, over 11 pairs" in text
    assert "Scores against the truth, report only" in text and "Scores against" not in text_of(labels)
    unknown = Labels(labels.paths, labels.classes, torch.full((6, 2), math.nan))
    assert "Scores against" not in text_of(labels, truth=unknown)


def test_the_diagram_draws_the_share_as_a_bar_and_correct_scores_as_dots_on_the_line():
    reader = Reader(page.diagram("d", [5, 0, 1500], [0.2, math.nan, 0.8], [0.2, math.nan, 0.4]))
    low, high = map(float, reader.attributes("rect", "height"))
    assert high == 2 * low and "1.5k" in reader.words
    (line,) = (attrs for tag, attrs in reader.tags if tag == "line" and attrs.get("class") == "even")
    right = [float(line[name]) for name in ("x1", "y1", "x2", "y2")]
    (x, y), _ = zip(
        map(float, reader.attributes("circle", "cx")), map(float, reader.attributes("circle", "cy")), strict=True
    )
    along = (x - right[0]) / (right[2] - right[0])
    assert along == pytest.approx(0.2, abs=0.01) and y == pytest.approx(
        right[1] + along * (right[3] - right[1]), abs=0.2
    )


def test_all_text_from_outside_is_escaped(tmp_path):
    meta = {
        "method": EVIL,
        "clip": {"name": EVIL},
        EVIL: [EVIL],
        "skipped": [[EVIL, EVIL]],
        "histograms": {EVIL: {"edges": [0, 1], "counts": [3]}},
    }
    labels = Labels(
        [EVIL, os.fsdecode(b"\xff.jpg")], [EVIL, "b"], torch.rand(2, 2), root=str(tmp_path / EVIL), meta=meta
    )
    truth = Labels(labels.paths, labels.classes, torch.ones(2, 2))
    text = text_of(labels, truth=truth)
    assert "<script" not in text and "\x07" not in text and "\\udcff.jpg" in text
    assert "script" not in {tag for tag, _ in Reader(text).tags}
    text.encode("utf-8")


def test_photos_that_cannot_be_opened_are_shown_as_grey_fields(labels, tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"")
    (tmp_path / "1.jpg").unlink()
    labels.paths[2] = "nul\0.jpg"
    text = text_of(labels)
    assert text.count(">no photo<") == 2 * 3


def test_the_bars_of_a_histogram_are_proportional_to_the_counts_and_those_of_clips_confidence_are_shown(labels):
    text = page.histogram("h", [0, 0.5, 1], [10, 5])
    low, high = sorted(float(tall) for tall in Reader(text).attributes("rect", "height"))
    assert high == 2 * low and "15 in total, at most 10 in one bar" in text
    Reader(page.histogram("nothing", [0, 1], [0]))
    labels.meta["histograms"] = {name: {"edges": [0, 0.5, 1], "counts": [1, 2]} for name in ("global", "snippets")}
    text = text_of(labels)
    assert text.count("<svg") == 3 and "top-1 confidence: snippets" in text


@pytest.mark.parametrize(
    "change",
    [
        {"histograms": {"a": {"edges": [0, 1], "counts": []}}},
        {"histograms": {"a": 1}},
        {"thresholds": [0.5] * 3},
        {"thresholds": ["x", "y"]},
    ],
)
def test_damaged_meta_raises_a_message_of_one_line(labels, change):
    labels.meta.update(change)
    with pytest.raises(InputError, match="Make the labels again") as error:
        text_of(labels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_table_without_rows_or_known_scores_has_a_page(rows):
    text = text_of(Labels(["a"][:rows], ["x", "y"], torch.full((rows, 2), math.nan)))
    assert facts(text)["mean top-1 score"] == "–"
