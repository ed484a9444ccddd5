"""Calibration error, Platt scaling and thresholds: properties of pure functions on small examples."""

from __future__ import annotations

import math

import pytest
import torch

from mlclip.methods.calibration import (
    best_expected_f1,
    expected_calibration_error,
    f1_of_classes,
    fit_calibration,
    logits_of,
    match_expected_positives,
    reliability,
    thresholds_of_labels,
)


def drawn(photos: int, slope: torch.Tensor, offset: torch.Tensor, seed: int = 0):
    """Random logits (N, C), and hard labels drawn with the probability sigmoid(slope · logit + offset)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(photos, len(slope), generator=generator) * 3 - 1
    return logits, torch.bernoulli((slope * logits + offset).sigmoid(), generator=generator)


def test_scores_equal_to_the_share_of_positives_have_error_0():
    scores = torch.tensor([0.25] * 4 + [0.75] * 4)
    truth = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0])
    assert expected_calibration_error(scores, truth) == pytest.approx(0, abs=1e-7)
    assert expected_calibration_error(1 - truth, truth) == 1


def test_the_error_equals_a_slow_simple_reference():
    generator = torch.Generator().manual_seed(0)
    scores, truth = torch.rand(400, generator=generator), torch.randint(0, 2, (400,), generator=generator).float()
    slow = 0.0
    for b in range(10):
        inside = [i for i in range(400) if min(int(float(scores[i].double()) * 10), 9) == b]
        if inside:
            slow += abs(float(scores[inside].double().mean()) - float(truth[inside].mean())) * len(inside) / 400
    assert expected_calibration_error(scores, truth, bins=10) == pytest.approx(slow)


def test_unknown_cells_are_ignored_the_error_of_none_is_nan_and_score_1_is_in_the_last_bin():
    nan = math.nan
    scores, truth = torch.tensor([[0.5, nan], [1.0, 0.2]]), torch.tensor([[1.0, 1.0], [1.0, nan]])
    assert reliability(scores, truth).count.sum() == 2
    assert expected_calibration_error(scores, truth) == 0.25
    assert reliability(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), bins=4).count.tolist() == [1, 0, 0, 1]
    assert math.isnan(expected_calibration_error(scores, torch.full((2, 2), nan)))


def test_a_known_slope_and_offset_are_recovered_from_many_photos():
    slope, offset = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([-1.0, 0.0, 1.0])
    logits, labels = drawn(20_000, slope, offset)
    found = fit_calibration(logits, labels)
    assert torch.allclose(found[0], slope, rtol=0.05) and torch.allclose(found[1], offset, atol=0.1)
    soft = fit_calibration(logits, (slope * logits + offset).sigmoid())
    assert torch.allclose(soft[0], slope, rtol=0.02) and torch.allclose(soft[1], offset, atol=0.02)
    slope, offset = fit_calibration(logits[:500], logits[:500].sigmoid())  # calibrated scores do not change
    assert torch.allclose(slope, torch.ones(3), atol=1e-4) and torch.allclose(offset, torch.zeros(3), atol=1e-4)


@pytest.mark.parametrize("labels", [0.0, 1.0, 0.3, math.nan])
@pytest.mark.parametrize("photos", [0, 1, 7, 3000])
def test_classes_with_equal_labels_have_a_finite_fit_with_positive_slope(labels, photos):
    logits, hard = drawn(photos, torch.ones(3), torch.zeros(3))
    hard[:, 1] = labels
    for table in (hard, torch.full_like(hard, labels)):
        slope, offset = fit_calibration(logits, table)
        assert slope.isfinite().all() and offset.isfinite().all() and (slope > 0).all()


def test_the_order_of_the_photos_never_changes_even_if_the_labels_contradict_it():
    logits, labels = drawn(300, -torch.ones(4), torch.zeros(4))
    slope, offset = fit_calibration(logits, labels)
    assert (slope > 0).all()
    assert torch.equal((slope.double() * logits + offset).argsort(0), logits.argsort(0))


@pytest.mark.parametrize("extreme", [math.inf, 1e6])
def test_saturated_logits_have_a_finite_fit(extreme):
    logits = torch.tensor([[extreme, -extreme], [-extreme, extreme], [extreme, 0.0]])
    slope, offset = fit_calibration(logits, torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]))
    assert slope.isfinite().all() and offset.isfinite().all() and (slope > 0).all()
    assert logits_of(torch.tensor([0.0, 1.0, 0.5])).isfinite().all()


def test_unknown_cells_do_not_change_the_fit():
    logits, labels = drawn(200, torch.tensor([0.5, 2.0]), torch.tensor([1.0, -1.0]))
    more = torch.cat([logits, torch.full((50, 2), 9.0), torch.full((50, 2), math.nan)])
    holes = torch.cat([labels, torch.full((50, 2), math.nan), torch.ones(50, 2)])
    for one, other in zip(fit_calibration(logits, labels), fit_calibration(more, holes), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_class_with_few_photos_uses_the_fit_of_the_others():
    slope, offset = torch.full((6,), 0.4), torch.full((6,), -1.0)
    logits, labels = drawn(2000, slope, offset)
    labels[8:, 5] = math.nan  # only eight photos of the last class are known
    alone = fit_calibration(logits[:8, 5:], labels[:8, 5:])
    together = fit_calibration(logits, labels)
    assert abs(float(together[0][5]) - 0.4) < abs(float(alone[0]) - 0.4)
    assert abs(float(together[1][5]) + 1.0) < 0.6


def test_a_fit_to_few_labels_improves_the_calibration_of_other_photos():
    slope, offset = torch.tensor([0.4, 0.5, 0.6, 0.5]), torch.tensor([-1.0, -1.5, -0.5, -1.0])
    tested, truth = drawn(5000, slope, offset, seed=99)
    before, after = expected_calibration_error(tested.sigmoid(), truth), []
    for seed in range(5):
        found = fit_calibration(*drawn(40, slope, offset, seed))
        after.append(expected_calibration_error((found[0] * tested + found[1]).sigmoid(), truth))
    assert max(after) < before


# Thresholds without true labels


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
    found = match_expected_positives(saturated, torch.zeros(3, 1))
    assert float(found) == pytest.approx(0.6)  # no threshold is above 1, so both are positive
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
        reached = [column >= t for t in column]
        expected = [2 * float(column[over].sum()) / (int(over.sum()) + float(column.sum())) for over in reached]
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
        rules = (best_expected_f1(scores[few]), _best_f1(scores[few], truth[few]))
        for found, rule in zip((by_expectation, by_search), rules, strict=True):
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
