"""Centred labels: the equations, the two passes over the store, few photos, options."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mlclip.config import PseudolabelConfig
from mlclip.images import find_images, open_image, view_pixels
from mlclip.methods import centred
from mlclip.teacher.pseudolabel import label_photos
from mlclip.teacher.scoring import class_embeddings

CLASSES = {"red": "red", "green": "green thing", "blue": "blue"}
CONFIG = PseudolabelConfig(method="centred")


def test_a_constant_added_to_one_class_changes_nothing_after_centring():
    generator = torch.Generator().manual_seed(0)
    cosines = torch.randn(200, 5, 4, generator=generator) * 0.02 + 0.2
    biased = cosines + torch.tensor([0.0, 0.05, -0.03, 0.0])
    labels = []
    for views in (cosines, biased):
        level = views.flatten(0, 1).mean(0)
        labels.append(centred.pool_views(centred.centred_logits(views, level, 100.0), 2))
    assert torch.allclose(labels[0], labels[1], atol=1e-3)


def test_few_photos_are_centred_less_and_one_photo_not_at_all():
    mean, variance = torch.tensor([0.20, 0.22, 0.27]), torch.full((3,), 0.03**2)
    counts = (torch.full((3,), n) for n in (1, 2, 10, 100, 10_000))
    spread = [float(centred.shrunk_levels(mean, variance, count).std()) for count in counts]
    assert spread[0] == 0 and spread == sorted(spread)
    assert spread[-1] == pytest.approx(float(mean.std()), rel=1e-3)
    assert torch.allclose(centred.shrunk_levels(mean, variance, torch.full((3,), 3)).mean(), mean.mean())
    level = centred.shrunk_levels(mean, variance, torch.tensor([500.0, 500.0, 0.3]))
    assert torch.allclose(level[:2], mean[:2], atol=2e-3) and 0.23 < float(level[2]) < 0.26


def test_pooling_counts_an_object_that_each_grid_shows_once_as_one_object():
    odds = torch.tensor([3.0, 3.0, 1e-9, 1e-9, 1e-9])  # visible in the whole photo, and in one of four cells
    assert float(centred.pool_views(odds.log()[:, None], 2).exp()) == pytest.approx(3.0)


def two_components(photos: int, shares: list[float], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-odds (N, C) of classes that a share of the photos shows, and which photos show them (N, C)."""
    generator = torch.Generator().manual_seed(seed)
    shown = torch.rand(photos, len(shares), generator=generator) < torch.tensor(shares)
    return torch.where(shown, 2.0, -5.0) + 1.2 * torch.randn(photos, len(shares), generator=generator), shown


def test_the_two_mixture_components_are_separated_at_any_offset():
    logits, shown = two_components(500, [0.1, 0.5, 0.3])
    for offset in (0.0, -4.0, 6.0):
        labels = centred.presence(logits + offset)
        assert ((labels >= 0.5) == shown).float().mean() > 0.99
        assert (labels.gather(0, logits.argsort(0)).diff(dim=0) >= 0).all()  # same order as the log-odds


def test_a_class_that_no_photo_shows_and_one_that_nearly_all_photos_show_are_not_split():
    logits, shown = two_components(400, [0.2, 0.0, 0.95, 0.1, 0.3])
    labels = centred.presence(logits)
    assert float(labels[:, 1].max()) < 0.5
    assert ((labels[:, 2] >= 0.5) == shown[:, 2]).float().mean() > 0.97


def test_a_fit_to_a_sample_of_very_many_photos_agrees_with_the_fit_to_all(monkeypatch):
    logits, _ = two_components(6000, [0.1, 0.4, 0.02])
    whole = centred.presence(logits)
    monkeypatch.setattr(centred, "MAX_PHOTOS", 1000)
    assert ((centred.presence(logits) >= 0.5) == (whole >= 0.5)).float().mean() > 0.995


def test_a_class_with_few_photos_uses_the_estimates_of_the_other_classes():
    logits, shown = two_components(6, [0.3] * 20, seed=3)
    labels = centred.presence(logits)
    assert labels.isfinite().all() and ((labels >= 0.5) == shown).float().mean() > 0.95


@pytest.mark.parametrize("classes", [2, 1000])
def test_labels_are_finite_for_one_photo_and_for_equal_photos(classes):
    for logits in (torch.zeros(1, classes), torch.full((5, classes), -3.0), torch.randn(3, classes)):
        labels = centred.presence(logits)
        assert labels.isfinite().all() and (labels >= 0).all() and (labels <= 1).all()


def test_labels_equal_the_equations_computed_slowly_photo_by_photo(photos, teacher):
    labels = label_photos(find_images([photos]), CLASSES, teacher, config=CONFIG, contrast={"sky": "sky"})
    text = class_embeddings(teacher, [*CLASSES.values(), "sky"], ["a photo of a {}"])
    views = [teacher.embed_views(view_pixels(open_image(photos / path), 64, (1, 2, 3))) for path in labels.paths]
    cosines = torch.stack(views).half().float() @ text.T  # (N, 14, 4)
    absent = torch.ones(12, 4)
    for _ in range(2):  # levels of all photos, then of the photos without the class
        slow = []
        for photo in cosines:
            odds = torch.zeros(4)
            for first, last in ((0, 1), (1, 5), (5, 14)):
                per_photo, count = cosines[:, first:last].mean(1), absent.sum(0)  # (N, 4), (4,)
                mean = (absent * per_photo).sum(0) / count
                spread = (absent * (per_photo - mean) ** 2).sum(0) / (count - 1).clamp(min=1)
                level = centred.shrunk_levels(mean, spread, count)
                for view in photo[first:last]:
                    p = ((view - level) * teacher.logit_scale * 0.4).softmax(0)
                    odds += (p / (1 - p)) / 3
            slow.append(odds.log())
        absent = 1 - centred.presence(torch.stack(slow))
    alone = label_photos(
        find_images([photos]), CLASSES, teacher, config=replace(CONFIG, profiles=False), contrast={"sky": "sky"}
    )
    assert torch.allclose(alone.scores, 1 - absent[:, :3], atol=5e-3)
    counts = {name: sum(h["counts"]) for name, h in labels.meta["histograms"].items()}
    assert counts == {"whole photos": 12, "2×2 snippets": 48, "3×3 snippets": 108}
    assert set(labels.meta["levels"]) == {"1", "2", "3"} and len(labels.meta["levels"]["2"]) == 4
    assert len(labels.meta["profile_views"]) == 3 and "profile_views" not in alone.meta


def test_one_photo_with_two_classes_gets_labels(photos, teacher):
    found = find_images([photos / "00.jpg"])
    labels = label_photos(found, {"red": "red", "blue": "blue"}, teacher, config=CONFIG)
    assert labels.scores.isfinite().all() and labels.scores.shape == (1, 2)


def test_a_mixture_does_not_depend_on_how_many_classes_are_computed_at_a_time(monkeypatch):
    torch.manual_seed(0)
    logits = torch.randn(50, 7) - 3 + 6 * (torch.rand(50, 7) < 0.2)
    together = centred.fit_mixture(logits)
    for classes in (1, 3):
        monkeypatch.setattr(centred, "CACHED_NUMBERS", 50 * classes)
        for found, wanted in zip(centred.fit_mixture(logits), together, strict=True):
            assert torch.equal(found, wanted)
