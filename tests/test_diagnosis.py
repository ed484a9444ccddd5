"""Advice on a table of labels: what looks wrong, and when there is nothing to say."""

from __future__ import annotations

import torch

from mlclip.labels.diagnosis import diagnose
from mlclip.labels.table import Labels
from mlclip.report.build import report_sections


def table(scores: torch.Tensor, classes: list[str]) -> Labels:
    return Labels([f"{n:02d}.jpg" for n in range(len(scores))], classes, scores)


def good(photos: int = 40, classes: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.arange(photos) % classes, classes).float() * 0.9 + 0.03


def test_good_labels_get_no_advice():
    found = diagnose(table(good(), ["a", "b", "c", "d"]))
    assert found.advice == []
    assert found.photos == [10] * 4 and all(abs(value - 0.93) < 1e-6 for value in found.sure)


def test_classes_in_no_photo_and_in_nearly_all_photos_are_named():
    scores = good()
    scores[:, 1], scores[:, 2] = 0.01, 0.9
    found = diagnose(table(scores, ["cat", "unicorn", "thing", "dog"]))
    assert found.dead == ["unicorn"] and found.frequent == ["thing"]
    assert any("No photo shows unicorn" in line and "other words" in line for line in found.advice)
    assert any("thing" in line and "`contrast`" in line for line in found.advice)


def test_classes_with_more_doubtful_than_certain_labels_are_named():
    scores = good()
    scores[::4, 0] = 0.3
    scores[0, 0] = 0.9
    labels = table(scores, ["a", "b", "c", "d"])
    assert diagnose(labels).doubtful == ["a"]
    labels.meta["method"] = "cdul"  # its labels often lie in the middle
    assert diagnose(labels).doubtful == []


def test_two_names_for_the_same_photos_are_a_confused_pair():
    scores = good()
    scores[:, 3] = scores[:, 0]
    found = diagnose(table(scores, ["sofa", "dog", "cat", "couch"]))
    assert found.confused == [("sofa", "couch", 1.0)]
    assert any("sofa and couch" in line for line in found.advice)


def test_with_few_photos_no_class_is_called_missing_or_too_frequent():
    scores = torch.tensor([[0.9, 0.01]] * 3)
    found = diagnose(table(scores, ["a", "b"]))
    assert found.photos == [3, 0] and found.dead == [] and found.frequent == []


def report_of(labels):
    return "".join(report_sections(labels))


def test_photos_without_a_class_are_all_listed_and_get_advice_if_there_are_many():
    scores = good()
    scores[:4] = 0.01
    few = diagnose(table(scores, ["a", "b", "c", "d"]))
    assert few.empty == ["00.jpg", "01.jpg", "02.jpg", "03.jpg"] and few.advice == []
    labels = table(scores, ["a", "b", "c", "d"])
    labels.meta["prompts"] = labels.classes
    assert "4 of 40 photos fit no class" in report_of(labels) and "What to look at" not in report_of(labels)
    scores[:12] = 0.01
    found = diagnose(table(scores, ["a", "b", "c", "d"]))
    assert len(found.empty) == 12 and any("`contrast`" in line for line in found.advice)
    labels.scores = scores
    assert "What to look at" in report_of(labels)
    del labels.meta["prompts"]  # predictions or true labels, which were not made with prompts
    assert "What to look at" not in report_of(labels)


def test_unknown_labels_are_ignored():
    scores = good()
    scores[:, 0] = float("nan")
    scores[5] = float("nan")
    found = diagnose(table(scores, ["a", "b", "c", "d"]))
    assert found.photos[0] == 0 and found.dead == [] and "05.jpg" not in found.empty
    assert found.known == 39


def test_each_class_has_its_own_threshold():
    labels = table(good() * 0.3, ["a", "b", "c", "d"])
    assert diagnose(labels).dead == ["a", "b", "c", "d"]
    labels.meta["thresholds"] = [0.15] * 4
    found = diagnose(labels)
    assert found.photos == [10] * 4 and found.dead == [] and found.advice == []
