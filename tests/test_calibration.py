"""Calibration error and Platt scaling: properties of pure functions on small examples."""

from __future__ import annotations

import math

import pytest
import torch

from mlclip.methods.calibration import expected_calibration_error, fit_calibration, logits_of, reliability


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
