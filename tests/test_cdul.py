"""The equations of CDUL: worked examples, slow reference implementations, limits."""

from __future__ import annotations

import torch

from mlclip.methods import cdul
from mlclip.teacher import scoring as teacher


def test_aggregate_equals_the_paper_written_out_slowly():
    local = torch.rand(5, 9, 4, generator=torch.Generator().manual_seed(1))
    expected = torch.empty(5, 4)
    for n in range(5):
        for c in range(4):
            column = [float(local[n, s, c]) for s in range(9)]
            expected[n, c] = max(column) if max(column) >= 0.9 else min(column)
    assert torch.equal(cdul.aggregate(local, 0.9), expected)
    assert (expected < 0.5).any() and (expected >= 0.9).any()
    assert torch.equal(cdul.aggregate(local, 0.0), local.amax(-2))


def test_fuse_averages_both_scores_and_adds_their_disagreement_if_it_has_a_weight():
    whole, parts = torch.tensor([0.2, 0.9]), torch.tensor([0.6, 0.1])
    assert torch.allclose(cdul.fuse(whole, parts), torch.tensor([0.4, 0.5]))
    assert torch.allclose(cdul.fuse(whole, parts, weight=0.25), torch.tensor([0.3, 0.7]))
    assert torch.allclose(cdul.fuse(whole, parts, disagreement=1.0), torch.maximum(whole, parts))


def test_the_divergence_is_zero_for_equal_probabilities_and_positive_otherwise():
    p = torch.rand(100, 7)
    assert cdul.bernoulli_kl(p, p).abs().max() < 1e-4
    assert (cdul.bernoulli_kl(p, 1 - p) > 0).all()


def test_the_divergence_from_logits_equals_the_one_from_probabilities():
    target, logits = torch.rand(50, 3).double(), torch.randn(50, 3).double() * 3
    assert torch.allclose(
        cdul.bernoulli_kl_with_logits(target, logits), cdul.bernoulli_kl(target, logits.sigmoid()), atol=1e-4
    )


def test_hard_targets_and_extreme_logits_stay_finite():
    target = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    logits = torch.tensor([[80.0, -80.0, -80.0, 80.0]], requires_grad=True)
    loss = cdul.bernoulli_kl_with_logits(target, logits).sum()
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert cdul.bernoulli_kl(target, logits.detach().sigmoid()).isfinite().all()
    latent = cdul.latent_of(target)
    assert latent.isfinite().all() and cdul.update_latent(latent, 1 - target).isfinite().all()


def test_the_gradient_of_the_logits_equals_that_of_cross_entropy_with_soft_targets():
    target = torch.rand(6, 4, dtype=torch.double)
    logits = torch.randn(6, 4, dtype=torch.double, requires_grad=True)
    cdul.bernoulli_kl_with_logits(target, logits).sum().backward()
    assert torch.allclose(logits.grad, logits.detach().sigmoid() - target)


def test_the_label_step_uses_the_same_gradient_as_autograd():
    latent = torch.randn(8, 5, dtype=torch.double)
    prediction = torch.rand(8, 5, dtype=torch.double).clamp(0.01, 0.99)
    label = latent.sigmoid().requires_grad_()
    cdul.bernoulli_kl(label, prediction).sum().backward()
    expected = latent - 0.7 * cdul.gaussian_gate(label.detach(), 0.5) * label.grad
    assert torch.allclose(cdul.update_latent(latent, prediction, rate=0.7, sigma=0.5), expected, atol=1e-5)


def test_the_gate_is_widest_at_one_half_and_symmetric():
    label = torch.linspace(0, 1, 101)
    gate = cdul.gaussian_gate(label, 0.3)
    assert gate.argmax() == 50
    assert torch.allclose(gate, gate.flip(0), atol=1e-6)


def test_class_scores_multiply_by_the_logit_scale_rather_than_its_logarithm():
    embeddings = torch.nn.functional.normalize(torch.randn(4, 16), dim=-1)
    classes = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    expected = torch.softmax(100 * embeddings @ classes.T, dim=-1)
    assert torch.allclose(teacher.class_scores(embeddings, classes, 100.0), expected, atol=1e-6)
