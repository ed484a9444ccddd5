"""Compound prompts: the embeddings of pairs of names, and the labels that they give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mlclip.config import InputError, PseudolabelConfig
from mlclip.images import find_images
from mlclip.methods import compound
from mlclip.teacher.pseudolabel import label_photos
from mlclip.teacher.scoring import class_embeddings, embeddings_of
from mlclip.training.local_views import crop_scorer_for

NAMES = ["red", "green thing", "blue", "sky"]
TEMPLATES = ["a photo of a {}", "the {}"]


def test_the_parts_of_the_names_are_found_and_partners_cancel():
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(6, 8, generator=generator)
    parts -= parts.mean(0)
    pairs = torch.stack([torch.ones(8) + parts[a] + parts[b] for a, b in compound.pairs_of(6)])
    assert torch.allclose(compound.main_effects(pairs), parts, atol=1e-5)


def test_pairs_that_say_the_same_as_the_names_change_nothing_and_better_pairs_help():
    generator = torch.Generator().manual_seed(1)
    true = torch.eye(6, 16)
    noisy = F.normalize(true + 0.3 * torch.randn(6, 16, generator=generator), dim=-1)
    same = torch.stack([noisy[a] + noisy[b] for a, b in compound.pairs_of(6)])
    better = torch.stack([true[a] + true[b] for a, b in compound.pairs_of(6)])
    assert (compound.with_pairs(noisy, same) * noisy).sum(-1).min() > 0.999
    assert (compound.with_pairs(noisy, better) * true).sum(-1).mean() > (noisy * true).sum(-1).mean() + 0.02
    assert torch.equal(compound.with_pairs(noisy[:2], better[:1]), noisy[:2])


def test_labels_remember_that_they_are_compound_so_that_an_update_uses_the_same_text(photos, teacher):
    config = PseudolabelConfig("centred", compound=True)
    classes, found = {name: name for name in NAMES[:3]}, find_images([photos])
    running = {"templates": TEMPLATES, "contrast": {"sky": "sky"}}
    labels = label_photos(found, classes, teacher, config=config, **running)
    plain = label_photos(found, classes, teacher, config=PseudolabelConfig("centred"), **running)
    assert not torch.equal(labels.scores, plain.scores)
    text = class_embeddings(teacher, NAMES, TEMPLATES, compound=True)
    assert torch.equal(embeddings_of(labels.meta, teacher), text)
    assert torch.equal(crop_scorer_for(labels, teacher).text, text)


def test_too_many_names_are_refused_before_their_pairs_are_encoded(teacher):
    with pytest.raises(InputError, match="at most 400"):
        class_embeddings(teacher, [f"name {i}" for i in range(401)], ["a {}"], compound=True)
