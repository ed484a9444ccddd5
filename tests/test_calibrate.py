"""Calibration with a few true labels: what it changes, what it does not change, and its errors."""

from __future__ import annotations

import math

import pytest
import torch

from mlclip.config import InputError
from mlclip.labels.table import Labels
from mlclip.methods.calibration import logits_of
from mlclip.student.calibrate import FEWEST, calibrate, undo_calibration
from mlclip.student.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mlclip.student.model import Classifier

CLASSES = ["cat", "dog", "rare", "other"]


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    model = Classifier("resnet18", CLASSES, 64).eval()
    model.calibrate(torch.tensor([0.9, 1.1, 1.0, 0.8]), torch.tensor([0.1, -0.2, 0.0, 0.3]))
    return Checkpoint(model, torch.tensor([0.4, 0.5, 0.6, 0.7]), {"calibration": {"source": "the labels it learned"}})


def tables(photos: int = 60, known: int = 40) -> tuple[Labels, Labels]:
    """Overconfident scores (the logits are twice too large) and the truth of the first photos, without the class "other".

    The class "rare" has two positives.
    """
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(photos, 4, generator=generator) * 4 - 1
    truth = torch.bernoulli((0.5 * logits).sigmoid(), generator=generator)
    truth[:, 2] = 0
    truth[:2, 2] = 1
    paths = [f"{n}.jpg" for n in range(photos)]
    return Labels(paths, CLASSES, logits.sigmoid()), Labels(paths[:known], CLASSES[:3], truth[:known, :3])


def test_scores_get_closer_to_the_truth_and_meta_has_the_facts(checkpoint):
    predicted, truth = tables()
    found = calibrate(checkpoint, predicted, truth)
    assert found.after.calibration_error < found.before.calibration_error
    facts = found.checkpoint.meta["calibration"]
    assert facts["source"] == "true labels" and facts["photos"] == found.photos == 40
    assert facts["positives"] == {name: int(truth.scores[:, c].sum()) for c, name in enumerate(truth.classes)}
    assert facts["before"]["thresholds"] == pytest.approx([0.4, 0.5, 0.6, 0.7])
    assert facts["before"]["calibration"] == {"source": "the labels it learned"}


def test_a_class_with_few_positives_keeps_its_photos_and_one_without_truth_does_not_change(checkpoint):
    predicted, truth = tables()
    old = (checkpoint.model.scale.clone(), checkpoint.model.offset.clone(), checkpoint.thresholds)
    found = calibrate(checkpoint, predicted, truth)
    assert found.kept == ["rare"] and found.untouched == ["other"] and found.positives["rare"] < FEWEST
    model, thresholds = found.checkpoint.model, found.checkpoint.thresholds
    slope = model.scale / old[0]
    scores = (slope * logits_of(predicted.scores) + model.offset - slope * old[1]).sigmoid()
    assert torch.equal(scores[:, 2] >= thresholds[2], predicted.scores[:, 2] >= old[2][2])
    assert (model.scale[3], model.offset[3], thresholds[3]) == (old[0][3], old[1][3], old[2][3])
    assert model.scale[2] != old[0][2]


def test_the_same_labels_twice_give_the_same_model(checkpoint, tmp_path):
    predicted, truth = tables()
    save_checkpoint(calibrate(checkpoint, predicted, truth).checkpoint, tmp_path / "once.pt")
    again = undo_calibration(load_checkpoint(tmp_path / "once.pt"))
    assert torch.allclose(again.model.scale, torch.tensor([0.9, 1.1, 1.0, 0.8]))
    assert again.thresholds.tolist() == pytest.approx([0.4, 0.5, 0.6, 0.7])
    twice, once = calibrate(again, predicted, truth).checkpoint, load_checkpoint(tmp_path / "once.pt")
    assert torch.equal(twice.model.scale, once.model.scale) and torch.equal(twice.thresholds, once.thresholds)
    assert twice.meta == once.meta


def test_unknown_cells_are_ignored(checkpoint):
    predicted, truth = tables()
    truth.scores[5:, 0] = math.nan
    truth.scores[30:] = math.nan
    found = calibrate(checkpoint, predicted, truth)
    assert found.photos == 30 and found.positives["cat"] == int(truth.scores[:5, 0].sum())


@pytest.mark.parametrize(
    ("value", "classes", "paths", "words"),
    [
        (math.nan, CLASSES[:3], None, "every cell is empty"),
        (0.5, CLASSES[:3], None, "value 0.5 for 'cat' in 0.jpg"),
        (1.0, ["cow", "hen", "pig"], None, "the truth has no class of the model"),
        (1.0, CLASSES[:3], "elsewhere", "no photo"),
    ],
)
def test_truth_that_cannot_be_used_is_refused_and_changes_nothing(checkpoint, value, classes, paths, words):
    predicted, truth = tables()
    names = [f"{paths}{path}" if paths else path for path in truth.paths]
    with pytest.raises(InputError, match=words) as error:
        calibrate(checkpoint, predicted, Labels(names, classes, torch.full_like(truth.scores, value)))
    assert "\n" not in str(error.value)
    assert checkpoint.model.scale.tolist() == pytest.approx([0.9, 1.1, 1.0, 0.8])


def test_classes_and_photos_of_the_truth_without_a_match_are_listed(checkpoint):
    predicted, truth = tables()
    odd = Labels([*truth.paths, "elsewhere.jpg"], ["cat", "dgo", "rare"], torch.cat([truth.scores, truth.scores[:1]]))
    found = calibrate(checkpoint, predicted, odd)
    assert found.unmatched == ["dgo", "elsewhere.jpg"] and found.untouched == ["dog", "other"]
