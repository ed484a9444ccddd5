"""Thresholds that need no label."""

from __future__ import annotations

import doctest

import pytest
import torch

from mlclip import thresholds
from mlclip.thresholds import match_expected_positives


def test_the_worked_examples_in_the_docstrings_hold():
    assert doctest.testmod(thresholds).failed == 0


def test_as_many_photos_are_above_as_the_labels_expect():
    chance = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(200, 5, generator=chance) ** 3, torch.rand(200, 5, generator=chance) ** 2
    found = match_expected_positives(scores, labels)
    assert ((scores >= found).sum(0) - labels.sum(0)).abs().max() <= 0.5


@pytest.mark.parametrize(("label", "said"), [(0.0, 0), (1.0, 30)])
def test_a_class_nowhere_and_one_everywhere_have_thresholds_beyond_all_scores(label, said):
    scores = torch.linspace(0.2, 0.8, 30)[:, None]
    found = match_expected_positives(scores, torch.full((30, 1), label))
    assert 0 < float(found) < 1 and int((scores >= found).sum()) == said


def test_unknown_cells_do_not_count():
    scores = torch.tensor([[0.9, 0.1], [float("nan"), 0.2], [0.5, 0.3]])
    labels = torch.tensor([[1.0, float("nan")], [1.0, float("nan")], [0.0, float("nan")]])
    assert torch.allclose(match_expected_positives(scores, labels), torch.tensor([0.7, 0.5]))
