"""Names that mean the same do not compete in one softmax: the equations, and labels of drawn scenes by the tiny CLIP."""

from __future__ import annotations

import pytest
import torch

import mlclip
from mlclip.demo import KINDS, write_scenes
from mlclip.methods import centred, profiles
from mlclip.methods.hierarchy import related


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """100 drawn scenes, encoded once for all tests."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=100, test=0)
    return folder


def label(scenes, names, told, **settings):
    settings = {"method": "centred"} | settings
    store = scenes / settings["method"]
    return mlclip.pseudolabel([scenes / "train"], names, clip="tiny", store=store, progress=told, **settings)


def found(labels, name):
    return labels.scores[:, labels.classes.index(name)] >= 0.5


def test_log_odds_with_weights_equal_the_formula():
    scores = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).fill_diagonal_(0)
    slow = torch.stack(
        [scores[:, c] - sum(weights[c, k] * scores[:, k].exp() for k in range(5)).log() for c in range(5)], 1
    )
    assert torch.allclose(centred.log_odds(scores, weights), slow, atol=1e-5)
    assert torch.allclose(centred.log_odds(scores, 1 - torch.eye(5)), centred.log_odds(scores))


def test_names_compete_less_the_more_their_cosines_rise_and_fall_together():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 6, generator=generator, dtype=torch.double)
    expected = {}
    for column, correlation in enumerate(
        (0.6, 0.8, 0.95), start=3
    ):  # with the first name; names 1 and 2 are independent
        x[:, column] = correlation * x[:, 0] + (1 - correlation**2) ** 0.5 * x[:, column]
        expected[column] = min(max((0.9 - correlation) / 0.2, 0), 1)
    for own in (3, 4, 5):
        pair = x[:, [0, 1, 2, own]]
        pair = torch.cat([pair, torch.randn(20_000, 40, generator=generator, dtype=torch.double)], 1)  # a long list
        weights = centred.competition(len(pair), pair.sum(0), pair.T @ pair)
        assert float(1 if weights is None else weights[0, 3]) == pytest.approx(expected[own], abs=0.1)
    distinct = torch.randn(20_000, 6, generator=generator, dtype=torch.double)
    assert centred.competition(20_000, distinct.sum(0), distinct.T @ distinct) is None


def test_the_background_competes_with_every_profile():
    fitted = profiles.Profiles(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), torch.zeros(3), torch.ones(2))
    x = torch.tensor([[2.0, 1.0]])
    alone = profiles.profile_logits(fitted, x, 1.0, torch.zeros(2, 2))  # the two names never compete
    assert torch.allclose(alone, torch.tensor([[1.0, 1.0]]))
    assert torch.allclose(
        profiles.profile_logits(fitted, x, 1.0, 1 - torch.eye(2)), profiles.profile_logits(fitted, x, 1.0)
    )


def test_a_class_and_every_class_above_it_are_related():
    assert sorted(related([1, 2, -1, -1])) == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize("method", ["centred", "dense"])
def test_added_names_that_mean_the_same_erase_no_class(scenes, told, method):
    plain = label(scenes, KINDS, told, method=method)
    assert "same_names" not in plain.meta and not any("same scores" in line for line in told.lines)
    several = label(scenes, [*KINDS, "umbrellas", "parasol"], told, method=method)
    wanted, got = found(plain, "umbrella"), found(several, "umbrella")
    assert wanted.sum() > 10 and (wanted != got).sum() <= 0.1 * wanted.sum() + 1
    (line,) = [line for line in told.lines if "nearly the same scores" in line]
    assert "umbrella and umbrellas" in line and "umbrella and parasol" in line
    assert [[KINDS.index("umbrella"), 18], [KINDS.index("umbrella"), 19], [18, 19]] == [
        pair[:2] for pair in several.meta["same_names"]
    ]


def test_in_a_few_photos_no_names_count_as_the_same(scenes, told):
    files = [str(scenes / "train" / f"{number:05d}.jpg") for number in range(1, 3)]
    labels = mlclip.pseudolabel(files, KINDS, clip="tiny", method="centred", store=scenes / "few", progress=told)
    assert len(labels) == 2 and "same_names" not in labels.meta


def test_a_contrast_name_that_means_the_same_does_not_erase_the_class(scenes, told):
    plain, contrasted = (label(scenes, KINDS, told, contrast=names) for names in (None, ["umbrellas"]))
    assert (found(plain, "umbrella") != found(contrasted, "umbrella")).sum() <= 0.1 * found(plain, "umbrella").sum() + 1


def test_a_parent_does_not_compete_with_its_children(scenes, told):
    names = [name for name in KINDS if name != "umbrella"]
    plain, below = label(scenes, KINDS, told), label(scenes, [*names, "umbrellas > umbrella"], told)
    wanted = found(plain, "umbrella")
    assert (wanted != found(below, "umbrella")).sum() <= 0.1 * wanted.sum() + 1
    assert not any("umbrellas" in line for line in told.lines if "nearly the same scores" in line)


def test_very_many_names_need_no_matrix_of_all_pairs_and_get_the_same_labels(scenes, told, monkeypatch):
    names = [*KINDS[1:], "umbrellas", "parasol", f"thing > {KINDS[0]}"]
    dense = label(scenes, names, told)
    monkeypatch.setattr(centred, "MOST_DENSE", 5)
    monkeypatch.setattr(centred, "MOST_SAME", 4)
    sparse = label(scenes, names, told)
    assert [pair[:2] for pair in sparse.meta["same_names"]] == [pair[:2] for pair in dense.meta["same_names"]]
    assert torch.allclose(sparse.scores, dense.scores, atol=2e-3), (sparse.scores - dense.scores).abs().max()
