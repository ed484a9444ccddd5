"""The linear probe: its fit, its features, its training method, and a training that starts from it; random crops."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mlclip.config import InputError, TrainConfig
from mlclip.distributed import Runtime
from mlclip.images import PhotoViews, find_images
from mlclip.labels.table import write_labels
from mlclip.methods.linear_head import choose_l2, fit_head
from mlclip.student.card import last_epoch
from mlclip.student.checkpoint import load_checkpoint
from mlclip.student.model import Classifier
from mlclip.student.predict import predict
from mlclip.teacher.cache import clear_stores, list_stores
from mlclip.training import probe as probe_module
from mlclip.training.augment import SMALLEST, crop_boxes, crops
from mlclip.training.loop import resume_file, train_student
from mlclip.training.probe import feature_key, fit_views, stored_views, trunk_features
from mlclip.training.start import start_training
from mlclip.training.weight_step import epoch_batches

PROBE = TrainConfig(method="probe", arch="mobilenet_v3_small", init="none", size=64)
FIXED = TrainConfig(method="fixed", arch="mobilenet_v3_small", init="none", size=64, epochs=1, batch_size=4, lr=1e-3)
CLASSES = ["red", "green", "blue"]


def soft_problem(rows=300, channels=20, classes=3, seed=0):
    """Features (rows, channels) of very different variances, and soft labels (rows, classes), in float64."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-2, 1, channels, dtype=torch.float64)
    features = torch.randn(rows, channels, generator=generator, dtype=torch.float64) @ torch.diag(spread)
    logits = features @ torch.randn(channels, classes, generator=generator, dtype=torch.float64) - 1
    return features + 3, (logits + torch.randn(rows, classes, generator=generator, dtype=torch.float64)).sigmoid()


@pytest.mark.parametrize("l2", [1e-3, 0.1, 3.0])
def test_the_head_is_the_logistic_regression_of_scikit_learn(l2):
    features, labels = soft_problem()
    weight, bias = fit_head(features, labels, l2)
    for c in range(labels.shape[1]):  # a soft label is two weighted rows with hard labels
        both = torch.cat([features, features]).numpy()
        hard = torch.cat([torch.ones(300), torch.zeros(300)]).numpy()
        weights = torch.cat([labels[:, c], 1 - labels[:, c]]).numpy()
        reference = LogisticRegression(C=1 / (300 * l2), tol=1e-9, solver="newton-cholesky").fit(both, hard, weights)
        assert torch.allclose(weight[c], torch.from_numpy(reference.coef_[0]), atol=1e-5)
        assert float(bias[c]) == pytest.approx(reference.intercept_[0], abs=1e-5)


def test_float32_gives_the_predictions_of_float64():
    features, labels = soft_problem()
    for l2 in (1e-3, 1.0):
        exact, fast = fit_head(features, labels, l2), fit_head(features.float(), labels.float(), l2)
        difference = (features @ exact[0].T + exact[1]) - (features.float() @ fast[0].T + fast[1])
        assert difference.abs().max() < 0.01


def test_unknown_labels_do_not_change_the_head_of_other_classes_and_count_as_rows():
    features, labels = soft_problem()
    expected, _ = fit_head(features, labels, 0.1)
    labels[:, 1], labels[::2, 2] = torch.nan, torch.nan
    weight, bias = fit_head(features, labels, 0.1)
    assert torch.allclose(weight[0], expected[0], atol=1e-5)
    assert weight[1].abs().max() < 1e-6 and float(bias[1]) == pytest.approx(0, abs=1e-6)
    half, _ = fit_head(features[1::2], labels[1::2, 2:], 0.2)  # half of the rows: the penalty counts twice
    assert torch.allclose(weight[2], half[0], atol=1e-5)


def test_the_penalty_is_strong_for_noise_and_weak_for_clear_labels():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(200, 2, 10, generator=generator)
    clear = (4 * features.mean(1)[:, :2]).sigmoid()
    noise = torch.rand(200, 2, generator=generator)
    chosen = {name: choose_l2(features, y) for name, y in (("clear", clear), ("noise", noise))}
    assert 10 * chosen["clear"].l2 < chosen["noise"].l2
    for choice in chosen.values():
        losses = dict(choice.tried)
        assert losses[choice.l2] <= min(losses.values()) * 1.0002
        assert list(losses) == sorted(losses, reverse=True)


def test_the_first_view_is_scored_by_a_head_that_has_seen_no_view_of_the_photo():
    features = torch.eye(10)[:, None].repeat(1, 2, 1)  # each photo has a channel of its own
    labels = (torch.arange(10) % 2).float()[:, None]
    choice = choose_l2(features, labels)
    own = torch.where(labels[:, 0] == 1, 1.0, -1.0) * choice.held_out[:, 0]
    assert (own <= 1e-3).all()  # a head that had seen the photo would be on the right side
    weight, bias = fit_head(features.flatten(0, 1), labels.repeat_interleave(2, 0), 1e-3)
    assert (((features[:, 0] @ weight.T + bias) > 0) == (labels == 1)).all()


def test_features_times_the_head_are_the_logits_of_the_photo_and_of_its_mirror_image(labels):
    torch.manual_seed(0)
    model = Classifier("mobilenet_v3_small", CLASSES, 64).eval()
    photos = find_images([labels.root]).photos
    with trunk_features(model, photos, labels.root, Runtime()) as ([store], skipped):
        features, rows = stored_views(store, photos)
    assert features.shape == (12, 2, model.head.in_channels) and rows.tolist() == [*range(12)] and not skipped
    pixels = torch.stack([PhotoViews(photos, 64)[n][1][0] for n in range(12)])
    weight = model.head.weight[:, :, 0, 0]
    for view, seen in enumerate((pixels, pixels.flip(-1))):
        with torch.inference_mode():
            assert torch.allclose(features[:, view] @ weight.T + model.head.bias, model(seen), atol=2e-3)


def test_features_are_computed_once_and_continued_after_an_interruption(labels, monkeypatch):
    torch.manual_seed(0)
    model = Classifier("mobilenet_v3_small", CLASSES, 64).eval()
    photos = find_images([labels.root]).photos
    seen, compute = [], probe_module.pooled_features

    def counted(model, pixels, device):
        if len(seen) == 6:
            raise KeyboardInterrupt
        seen.append(len(pixels))
        return compute(model, pixels, device)

    monkeypatch.setattr(probe_module, "pooled_features", counted)
    monkeypatch.setattr(probe_module, "BATCH", 1)
    monkeypatch.setattr("mlclip.teacher.fill.SHARD_PHOTOS", 2)

    def features_of(photos):
        with trunk_features(model, photos, labels.root, Runtime()) as ([store], _):
            return stored_views(store, photos)[0]

    with pytest.raises(KeyboardInterrupt):
        features_of(photos)
    seen.clear()
    first = features_of(photos)
    assert len(seen) == 6  # the first six were kept
    again = features_of(photos[::-1])
    assert len(seen) == 6 and torch.equal(first, again.flip(0))
    [info] = list_stores()
    assert (info.kind, info.photos, info.complete) == ("features", 12, True)
    clear_stores([info])
    assert list_stores() == []


def test_other_weights_or_another_size_have_another_store():
    model, other = Classifier("resnet18", CLASSES, 64), Classifier("resnet18", CLASSES, 64)
    larger = Classifier("resnet18", CLASSES, 96)
    larger.load_state_dict(model.state_dict())
    assert len({feature_key(m, torch.device("cpu")) for m in (model, other, larger)}) == 3
    other.trunk.load_state_dict(model.trunk.state_dict())
    assert feature_key(other, torch.device("cpu")) == feature_key(model, torch.device("cpu"))


def test_a_probe_learns_colours_and_leaves_the_trunk_as_it_is(labels, tmp_path):
    checkpoint = train_student(
        labels,
        tmp_path / "m.pt",
        config=replace(PROBE, arch="resnet18"),
        truth=replace(labels, scores=labels.scores.round()),
    )
    again = load_checkpoint(tmp_path / "m.pt")
    predicted = predict(find_images([labels.root]), again)
    assert predicted.scores.argmax(1).tolist() == [n % 3 for n in range(12)]
    start = start_training(labels, replace(FIXED, arch="resnet18"), Runtime(), offline=True).model.trunk.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in again.model.trunk.state_dict().items())
    assert checkpoint.meta["settings"]["method"] == "probe" and checkpoint.meta["root"] == labels.root
    with open(tmp_path / "m.log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    [chosen] = [row for row in rows if row["chosen"] == "1"]
    assert float(chosen["held_out_loss"]) <= min(float(row["held_out_loss"]) for row in rows) * 1.0002
    assert float(chosen["predictions_mAP_report_only"]) > 0.5 and float(chosen["labels_mAP_report_only"]) == 1
    assert last_epoch(tmp_path / "m.pt")["chosen"] == 1  # the card shows this row
    assert not resume_file(tmp_path / "m.pt").exists()


def test_a_probe_needs_no_cache_but_a_folder_for_temporary_files(labels, tmp_path, monkeypatch, command):
    expected = train_student(labels, tmp_path / "a.pt", config=PROBE)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLCLIP_CACHE", str(tmp_path / "file"))  # cannot be a folder
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    write_labels(labels, tmp_path / "labels.pt")
    line = f"train --method probe --arch {PROBE.arch} --init none --size 64 -o b.pt"
    status, _, stderr = command(line)
    assert status == 1 and f"{tmp_path / 'file'}" in stderr.splitlines()[-1] and "Traceback" not in stderr
    (tmp_path / "temporary").mkdir()
    status, _, stderr = command(line)
    assert status == 0 and "the features are not kept: " in stderr
    assert list((tmp_path / "temporary").iterdir()) == []
    found = load_checkpoint(tmp_path / "b.pt")
    assert torch.equal(found.model.head.weight, expected.model.head.weight)
    assert torch.equal(found.thresholds, expected.thresholds)


def test_truth_does_not_change_a_probe_and_a_second_one_is_equal(labels, tmp_path):
    wrong = replace(labels, scores=1 - labels.scores.round())
    models = [train_student(labels, tmp_path / f"{n}.pt", config=PROBE, truth=t) for n, t in enumerate((None, wrong))]
    first, second = (checkpoint.model.state_dict() for checkpoint in models)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert torch.equal(models[0].thresholds, models[1].thresholds)


def test_the_thresholds_give_held_out_photos_as_many_positives_as_the_labels_expect(labels):
    features, soft = soft_problem()
    views, soft = features[:, None].repeat(1, 2, 1).float(), torch.cat([soft[:5], soft]).float()
    fitted = fit_views(views, torch.arange(5, len(soft)), soft, None, 0)  # the first five photos cannot be read
    assert fitted.held_out[:5].isnan().all() and not fitted.held_out[5:].isnan().any()


def test_unreadable_photos_are_skipped_and_listed_by_a_probe(labels, photos, tmp_path):
    (photos / "03.jpg").write_bytes(b"")
    (photos / "04.jpg").unlink()
    checkpoint = train_student(labels, tmp_path / "m.pt", config=PROBE)
    assert [path for path, _ in checkpoint.meta["skipped"]] == ["03.jpg", "04.jpg"]
    for n in (0, 1, 2, *range(5, 11)):
        (photos / f"{n:02d}.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="1 of the 11 labelled photos can be read"):
        train_student(labels, tmp_path / "n.pt", config=PROBE)


def test_an_unfinished_training_is_not_replaced_by_a_probe_without_overwrite(labels, tmp_path):
    resume_file(tmp_path / "m.pt").write_text("state")
    for resume in (False, True):
        with pytest.raises(InputError, match="A probe has no epochs to continue"):
            train_student(labels, tmp_path / "m.pt", config=PROBE, resume=resume)
    train_student(labels, tmp_path / "m.pt", config=PROBE, overwrite=True)
    assert not resume_file(tmp_path / "m.pt").exists()
    train_student(labels, tmp_path / "n.pt", config=PROBE, resume=True)  # nothing to continue


def test_a_training_can_start_from_the_head_of_a_probe(labels, tmp_path, monkeypatch):
    probe = train_student(labels, tmp_path / "probe.pt", config=PROBE).model
    config, starts = replace(FIXED, head_init="probe", epochs=2), []

    def recorded(state, *rest):
        starts.append(state.model.head.weight.clone())
        return weight_epoch(state, *rest)

    from mlclip.training.weight_step import weight_epoch

    monkeypatch.setattr("mlclip.training.loop.weight_epoch", recorded)
    train_student(labels, tmp_path / "m.pt", config=config)
    assert len(starts) == 2 and torch.equal(starts[0], probe.head.weight)
    assert not torch.equal(starts[1], probe.head.weight)


def test_boxes_lie_in_the_photo_and_have_the_wanted_area():
    boxes = crop_boxes(2000, torch.Generator().manual_seed(0))
    x0, y0, x1, y1 = boxes.unbind(1)
    assert boxes.min() >= 0 and boxes.max() <= 1 + 1e-6 and (x1 > x0).all() and (y1 > y0).all()
    area = (x1 - x0) * (y1 - y0)
    assert area.min() > SMALLEST * 0.85 and area.max() <= 1 + 1e-6 and 0.68 < area.mean() < 0.76
    assert torch.equal(boxes, crop_boxes(2000, torch.Generator().manual_seed(0)))


def test_the_whole_photo_is_unchanged_and_half_of_it_is_enlarged():
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    whole, left = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.0, 0, 0.5, 1]])
    assert torch.equal(crops(pixels, whole.repeat(2, 1)), pixels)
    pixels[..., :16], pixels[..., 16:] = 10, 200
    both = crops(pixels, torch.cat([whole, left]))
    assert torch.equal(both[0], pixels[0]) and (both[1, ..., :31] == 10).all()
    expected = 15.75 + torch.arange(64) / 2
    ramp = torch.arange(64, dtype=torch.uint8).repeat(1, 3, 64, 1)
    found = crops(ramp, torch.tensor([[0.25, 0, 0.75, 1]]))[0, 0, 0]
    assert torch.allclose(found.float(), expected, atol=0.51)


def test_crops_do_not_depend_on_batch_size_and_differ_between_epochs(labels):
    photos = find_images([labels.root]).photos

    def epoch(number, **changes):
        config = replace(FIXED, augment="crop", **changes)
        batches = [(rows, pixels) for rows, pixels, _ in epoch_batches(photos, number, config, Runtime(num_workers=0))]
        return torch.cat([pixels for _, pixels in batches])[torch.cat([rows for rows, _ in batches]).argsort()]

    first = epoch(1)
    assert torch.equal(first, epoch(1, batch_size=3)) and not torch.equal(first, epoch(2))
    plain = torch.cat([pixels for _, pixels, _ in epoch_batches(photos, 1, FIXED, Runtime(num_workers=0))])
    assert first.shape == plain.shape and first.dtype == torch.uint8
