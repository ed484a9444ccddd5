"""Thresholds without true labels."""

from __future__ import annotations

import pytest
import torch

from mlclip.methods.calibration import fit_calibration
from mlclip.methods.thresholds import best_expected_f1, f1_of_classes, match_expected_positives, thresholds_of_labels


def test_the_number_of_photos_above_the_threshold_is_what_the_labels_expect():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(200, 5, generator=generator) ** 3, torch.rand(200, 5, generator=generator) ** 2
    found = match_expected_positives(scores, labels)
    assert ((scores >= found).sum(0) - labels.sum(0)).abs().max() <= 0.5


@pytest.mark.parametrize(("label", "positives"), [(0.0, 0), (1.0, 30)])
def test_a_class_in_no_photo_or_in_all_photos_has_a_threshold_beyond_all_scores(label, positives):
    scores = torch.linspace(0.2, 0.8, 30)[:, None]
    found = match_expected_positives(scores, torch.full((30, 1), label))
    assert 0 < float(found) < 1 and int((scores >= found).sum()) == positives


def test_saturated_scores_and_neighbouring_floats_are_separated_correctly():
    saturated = torch.tensor([[1.0], [1.0], [0.2]])
    assert float(match_expected_positives(saturated, torch.zeros(3, 1))) == pytest.approx(
        0.6
    )  # no threshold is above 1, so both are positive
    neighbours = torch.tensor([[0.7], [float(torch.nextafter(torch.tensor(0.7), torch.tensor(0.0)))], [0.1]])
    found = match_expected_positives(neighbours, torch.tensor([[1.0], [0.0], [0.0]]))
    assert int((neighbours >= found).sum()) == 1


def test_unknown_cells_are_ignored():
    scores = torch.tensor([[0.9, 0.1], [float("nan"), 0.2], [0.5, 0.3]])
    labels = torch.tensor([[1.0, float("nan")], [1.0, float("nan")], [0.0, float("nan")]])
    assert torch.allclose(match_expected_positives(scores, labels), torch.tensor([0.7, 0.5]))


def test_photos_with_equal_scores_are_all_positive_or_all_negative():
    scores = torch.tensor([0.9, 0.8] + [0.05] * 98)[:, None]  # as after a floor on the labels
    found = match_expected_positives(scores, scores)  # their sum is about 7
    assert int((scores >= found).sum()) == 2


def test_the_threshold_of_best_expected_f1_equals_a_slow_search():
    scores = torch.rand(60, 3, generator=torch.Generator().manual_seed(1)) ** 2
    found = best_expected_f1(scores)
    for column, threshold in zip(scores.T, found, strict=True):
        expected = [
            2 * float(column[column >= t].sum()) / (int((column >= t).sum()) + float(column.sum())) for t in column
        ]
        above = column >= threshold
        assert 2 * float(column[above].sum()) / (int(above.sum()) + float(column.sum())) == pytest.approx(max(expected))


def test_with_few_labels_the_best_expected_f1_is_better_than_the_best_f1_on_these_labels():
    generator, by_expectation, by_search = torch.Generator().manual_seed(0), [], []
    for _ in range(20):
        logits = torch.randn(2040, 6, generator=generator) * 2.5 - 3
        truth = torch.bernoulli((0.6 * logits - 0.5).sigmoid(), generator=generator)
        few, rest = slice(0, 40), slice(40, None)
        slope, offset = fit_calibration(logits[few], truth[few])
        scores = (slope * logits + offset).sigmoid()
        for found, rule in (
            (by_expectation, best_expected_f1(scores[few])),
            (by_search, _best_f1(scores[few], truth[few])),
        ):
            found.append(float(f1_of_classes(scores[rest] >= rule, truth[rest]).nanmean()))
    assert sum(by_expectation) > sum(by_search)


def _best_f1(scores, truth):
    """For each class the score with the best F1 on the same photos."""
    rows = [f1_of_classes(scores >= scores[row], truth).nan_to_num(0) for row in range(len(scores))]
    return scores.gather(0, torch.stack(rows).argmax(0, keepdim=True))[0]


def test_centred_labels_have_threshold_one_half_and_labels_of_the_papers_are_matched_to_their_sum():
    scores = torch.tensor([[0.9, 0.3], [0.4, 0.2], [0.5, 0.1]])
    assert thresholds_of_labels(scores, "centred") == [0.5, 0.5]
    found = torch.tensor(thresholds_of_labels(scores, "cdul"))
    assert (scores >= found).sum(0).tolist() == [2, 1]
