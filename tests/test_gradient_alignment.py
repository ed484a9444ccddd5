"""CDUL's training: label steps, the log of every epoch, refined labels, interruption and continuation."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch

from mlclip.config import InputError, OptionError, TrainConfig
from mlclip.distributed import Runtime
from mlclip.labels.table import Labels, read_labels
from mlclip.methods import cdul
from mlclip.methods.calibration import match_expected_positives
from mlclip.training.label_step import label_step
from mlclip.training.loop import train_student
from mlclip.training.schedule import label_step_due

CLASSES = ["red", "green", "blue"]
SMALL = {"arch": "mobilenet_v3_small", "init": "none", "size": 64, "epochs": 4, "batch_size": 4, "lr": 1e-3}
CONFIG = TrainConfig(method="cdul", **SMALL, warmup=1, label_every=2)


@pytest.fixture
def labels(photos) -> Labels:
    scores = torch.nn.functional.one_hot(torch.arange(12) % 3).float() * 0.6 + 0.2
    scores[0] = torch.tensor([1.0, 0.0, 0.0])
    return Labels([f"{n:02d}.jpg" for n in range(12)], CLASSES, scores, root=str(photos))


def log_rows(model_file) -> list[dict[str, str]]:
    with open(model_file.with_suffix(".log.csv"), newline="") as file:
        return list(csv.DictReader(file))


def test_every_kth_epoch_after_the_warm_up_ends_with_a_label_step():
    due = [n for n in range(1, 10) if label_step_due(replace(CONFIG, warmup=2, label_every=3), n)]
    assert due == [5, 8]
    assert [n for n in range(1, 5) if label_step_due(replace(CONFIG, warmup=0, label_every=1), n)] == [1, 2, 3, 4]
    assert not any(label_step_due(TrainConfig(method="fixed"), n) for n in range(1, 20))


def test_rows_without_a_prediction_keep_their_labels_and_extreme_labels_stay_finite():
    latent = cdul.latent_of(torch.tensor([[0.0, 1.0], [0.3, 0.6]]))
    predictions = torch.tensor([[1.0, 0.0], [float("nan")] * 2])
    moved = label_step(latent, predictions, CONFIG)
    assert moved.isfinite().all()
    assert torch.equal(moved[1], latent[1]) and not torch.equal(moved[0], latent[0])


def test_labels_change_only_at_label_steps_and_are_saved_as_a_table(labels, tmp_path):
    labels.meta["thresholds"] = [0.99] * len(CLASSES)  # for the labels before the training
    train_student(labels, tmp_path / "m.pt", config=CONFIG, save_labels=tmp_path / "refined.pt")
    refined = read_labels(tmp_path / "refined.pt")
    assert refined.paths == labels.paths and refined.classes == CLASSES
    assert refined.meta["refined"]["method"] == "cdul"
    assert refined.thresholds.tolist() == match_expected_positives(refined.scores, refined.scores).tolist()
    assert not torch.allclose(refined.scores, labels.scores, atol=1e-3)
    assert [row["labels_moved"] for row in log_rows(tmp_path / "m.pt")] == ["0", "0", "1", "0"]


def test_with_rate_zero_the_labels_do_not_change_and_unknown_labels_stay_unknown(labels, tmp_path):
    scores = labels.scores.clone()
    scores[5, 1] = float("nan")
    labels = replace(labels, scores=scores)
    config = replace(CONFIG, label_rate=0.0)
    train_student(labels, tmp_path / "m.pt", config=config, save_labels=tmp_path / "refined.csv")
    refined = read_labels(tmp_path / "refined.csv")
    assert refined.scores[5, 1].isnan()
    assert torch.allclose(refined.scores, labels.scores, atol=1e-5, equal_nan=True)


def test_the_truth_adds_numbers_to_the_log_and_has_no_other_effect(labels, tmp_path):
    truth = replace(labels, scores=torch.nn.functional.one_hot(torch.arange(12) % 3).float())
    plain = train_student(labels, tmp_path / "a.pt", config=CONFIG)
    with_truth = train_student(labels, tmp_path / "b.pt", config=CONFIG, truth=truth)
    weights = plain.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in with_truth.model.state_dict().items())
    rows = log_rows(tmp_path / "b.pt")
    assert len(rows) == 4 and float(rows[0]["labels_mAP_report_only"]) == 1.0
    assert all(0 <= float(row["predictions_mAP_report_only"]) <= 1 for row in rows)
    assert not any("report_only" in name for name in log_rows(tmp_path / "a.pt")[0])
    entropy = cdul.bernoulli_entropy(labels.scores).mean()
    assert float(rows[0]["label_entropy"]) == pytest.approx(float(entropy), rel=1e-4)


def test_a_training_interrupted_at_any_step_resumes_bit_for_bit(labels, tmp_path, interrupt_at):
    config = replace(CONFIG, warmup=0, label_every=1)
    whole = train_student(labels, tmp_path / "whole.pt", config=config, save_labels=tmp_path / "whole.labels.pt")
    expected, refined = whole.model.state_dict(), read_labels(tmp_path / "whole.labels.pt")
    facts = [[row["epoch"], row["loss"]] for row in log_rows(tmp_path / "whole.pt")]
    for function, call in (("weight_step.weight_step", 5), ("label_step.score_photos", 2), ("loop.save_state", 2)):
        output = tmp_path / f"{function}.pt"
        settings = {"config": config, "save_labels": tmp_path / f"{function}.labels.pt"}
        with interrupt_at(f"mlclip.training.{function}", call):
            train_student(labels, output, **settings)
        resumed = train_student(labels, output, resume=True, **settings)
        assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items()), function
        assert torch.equal(read_labels(settings["save_labels"]).scores, refined.scores)
        assert facts == [[row["epoch"], row["loss"]] for row in log_rows(output)]


def test_saving_labels_needs_a_method_that_changes_them(labels, tmp_path):
    with pytest.raises(OptionError, match=r'`save_labels`.*`method="cdul"`'):
        train_student(labels, tmp_path / "m.pt", config=replace(CONFIG, method="fixed", warmup=2, label_every=1),
              save_labels=tmp_path / "refined.pt")  # fmt: skip


def test_a_training_without_any_label_step_prints_a_warning(labels, tmp_path, told):
    train_student(labels, tmp_path / "m.pt", config=replace(CONFIG, epochs=1, warmup=3), runtime=Runtime(progress=told))
    assert any(
        line.startswith("warning") and "`epochs=1` with `warmup=3`" in line and "no label step" in line
        for line in told.lines
    )


def test_photos_that_all_cannot_be_read_are_an_error(labels, photos, tmp_path):
    for file in photos.iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match="none of the 12"):
        train_student(labels, tmp_path / "m.pt", config=CONFIG)
    assert not (tmp_path / "m.pt").exists()
