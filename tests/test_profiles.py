"""Class profiles: what is learned from confident views, and what re-ranking by profiles improves."""

from __future__ import annotations

import pytest
import torch

from mlclip.labels.metrics import average_precision
from mlclip.methods import profiles


def drawn_views(photos: int = 600, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Excess cosines (N, 4, 3) of views, most of them background, and which photo shows which class (N, 3).

    Views of the second class also match the first name, but views of the first class do not match the second name.
    """
    generator = torch.Generator().manual_seed(seed)
    shown = torch.rand(photos, 3, generator=generator) < 0.25
    typical = torch.tensor([[3.0, 0.0, 0.0], [2.2, 2.0, 0.0], [0.0, 0.0, 3.0]])
    views = 0.7 * torch.randn(photos, 4, 3, generator=generator)
    for row, column in shown.nonzero().tolist():
        views[row, column] += typical[column]  # each class has its own view; the last view is always background
    return views - views.mean(-1, keepdim=True), shown.float()


@pytest.mark.parametrize("seed", range(5))
def test_profiles_separate_classes_that_a_single_name_cannot_separate(seed):
    views, shown = drawn_views(seed=seed)
    plain = views.amax(1)  # (N, 3) the best cosine of each class
    labels = torch.where(plain.argsort(0).argsort(0) >= 500, 0.95, 0.1)  # confident for the best hundred photos of each
    fitted = profiles.fit_profiles(profiles.statistics(views, profiles.sure_views(views, labels)))
    scores = profiles.profile_logits(fitted, views, 1.0).amax(1)
    before, after = (average_precision(s[:, 0], shown[:, 0]) for s in (plain, scores))
    assert after > before + 0.003, (before, after)


def test_a_covariance_of_a_part_of_the_photos_has_no_negative_variance():
    """The part has another mean than all photos."""
    views, weights = torch.randn(90, 4, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(90, 4, 3)
    views[1::3] += 5
    views[2::3] += 5
    sums = profiles.statistics(views, weights, every=3)
    mean = sums.total / sums.views
    assert torch.linalg.eigvalsh(sums.products / sums.views - mean.outer(mean)).min() > 0.5


def test_statistics_of_portions_of_the_photos_can_be_added():
    views, _ = drawn_views(90)
    weights = profiles.sure_views(views, torch.rand(90, 3, generator=torch.Generator().manual_seed(1)), sure=0.6)
    parts = [profiles.statistics(views[a:b], weights[a:b]) for a, b in ((0, 10), (10, 55), (55, 90))]
    sums = profiles.added(profiles.added(*parts[:2]), parts[2])
    whole, pieces = (profiles.fit_profiles(s) for s in (profiles.statistics(views, weights), sums))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, pieces, strict=True))


def test_the_weights_of_a_view_sum_to_one_if_several_classes_get_it():
    weights = profiles.sure_views(torch.zeros(2, 5, 4), torch.ones(2, 4))
    assert torch.allclose(weights.sum((1, 2)), torch.ones(2)) and (weights[:, 0] == 0.25).all()


def test_the_fit_is_linear_discriminant_analysis():
    discriminant = pytest.importorskip("sklearn.discriminant_analysis")
    views, _ = drawn_views(400)
    kind = torch.randint(4, (1600,), generator=torch.Generator().manual_seed(3))  # 3 classes and the background
    flat = views.flatten(0, 1) @ torch.diag(torch.tensor([1.0, 2.0, 3.0])) + torch.eye(4)[kind][:, :3]
    weights = torch.nn.functional.one_hot(kind, 4)[:, :3].float()
    fitted = profiles.fit_profiles(profiles.statistics(flat[None], weights[None]), ridge=1e-9)
    reference = discriminant.LinearDiscriminantAnalysis(solver="lsqr", priors=[0.25] * 4).fit(flat, kind)
    expected = torch.from_numpy(reference.predict_proba(flat.numpy())).float()
    assert torch.allclose((flat @ fitted.weights + fitted.offsets).softmax(-1), expected, atol=1e-3)


def test_a_class_without_a_confident_view_has_no_profile_and_keeps_its_labels():
    views, _ = drawn_views()
    labels = torch.rand(600, 3, generator=torch.Generator().manual_seed(2))
    labels[:, 1] *= 0.8
    fitted = profiles.fit_profiles(profiles.statistics(views, profiles.sure_views(views, labels)))
    logits = profiles.profile_logits(fitted, views, 0.4)
    assert fitted.shown[1] == 0 and (logits[..., 1] == logits[..., 1].min()).all() and logits.isfinite().all()
    merged = profiles.rerank_by_profiles(labels, logits.amax(1), fitted.shown)
    assert torch.equal(merged[:, 1], labels[:, 1]) and not torch.allclose(merged[:, 0], labels[:, 0])


def test_without_confident_photos_nothing_changes():
    views, _ = drawn_views(50)
    labels = torch.full((50, 3), 0.4)
    fitted = profiles.fit_profiles(profiles.statistics(views, profiles.sure_views(views, labels)))
    merged = profiles.rerank_by_profiles(labels, profiles.profile_logits(fitted, views, 0.4).amax(1), fitted.shown)
    assert torch.equal(merged, labels)


def test_re_ranking_keeps_the_values_and_gives_equal_photos_equal_labels():
    generator = torch.Generator().manual_seed(4)
    first, logits = torch.rand(60, 2, generator=generator), 4 * torch.randn(60, 2, generator=generator)
    first[:20], logits[:20] = first[0], logits[0]  # twenty identical photos
    labels = profiles.rerank_by_profiles(first, logits, torch.tensor([30.0, 5.0]))
    assert torch.allclose(labels.sum(0), first.sum(0), atol=1e-4)
    assert (labels[:20] == labels[0]).all() and not torch.allclose(labels, first, atol=0.05)
    assert float(labels.min()) >= float(first.min()) - 1e-6 and float(labels.max()) <= float(first.max()) + 1e-6
