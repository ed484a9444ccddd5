"""CCD: its equations against slow references, its labels, its training, its label update and its report."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mlclip.config import InputError, PseudolabelConfig, TrainConfig
from mlclip.distributed import Runtime
from mlclip.images import PhotoCrops, crop_size, find_images, open_image
from mlclip.labels.table import Labels, read_labels
from mlclip.methods import ccd
from mlclip.report.build import report_sections
from mlclip.student.checkpoint import load_checkpoint
from mlclip.student.model import Classifier
from mlclip.teacher.pseudolabel import label_photos
from mlclip.teacher.scoring import class_embeddings, class_scores
from mlclip.teacher.where import CellMaps
from mlclip.training.augment import jitter_colours, jitter_table
from mlclip.training.local_views import choose_local_views, crop_scorer_for, local_labels, pictured_rows
from mlclip.training.loop import train_student
from mlclip.training.schedule import stopping_measure

CLASSES = {"red": "red", "green": "green thing", "blue": "blue"}
SMALL = {"arch": "mobilenet_v3_small", "init": "none", "size": 64, "epochs": 3, "batch_size": 4, "lr": 1e-3}
CONFIG = TrainConfig(method="ccd", **SMALL, warmup=1, stopping=False)


@pytest.fixture
def labels(photos, teacher) -> Labels:
    return label_photos(find_images([photos]), CLASSES, teacher, config=PseudolabelConfig(method="ccd"))


def test_the_bias_is_the_mean_of_confident_top_scores():
    scores = (torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) * 3).softmax(-1)
    bias = ccd.class_bias(scores, max_entropy=1.0)
    for c in range(6):
        sure = [float(row.max()) for row in scores if row.argmax() == c and -(row * row.log()).sum() <= 1.0]
        assert float(bias[c]) == pytest.approx(np.mean(sure), rel=1e-5)
    assert ccd.complete_bias(torch.tensor([0.5, math.nan, 0.7])).tolist() == pytest.approx([0.5, 0.6, 0.7])
    assert ccd.complete_bias(torch.tensor([math.nan, math.nan])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("fewer_than", [2.0, 4.0, 6.0])
def test_the_threshold_is_the_first_step_at_which_few_enough_classes_are_above_it(fewer_than):
    scores = torch.rand(100, 20, generator=torch.Generator().manual_seed(1)) ** 3
    t = ccd.calibrate_threshold(scores, fewer_than)
    slow = next(0.05 + 0.001 * k for k in range(951) if (scores > 0.05 + 0.001 * k).sum(1).float().mean() < fewer_than)
    assert t == pytest.approx(slow, abs=1e-6)
    assert ccd.calibrate_threshold(torch.zeros(30, 3)) == 0.05  # few classes are above its start


def test_a_box_contains_all_high_pixels_not_only_the_first_and_last_in_row_order():
    cam = torch.zeros(100, 200)
    cam[20, 150] = cam[50, 30] = cam[80, 90] = 1.0  # in row order the first is to the right of all others
    assert ccd.cam_box(cam, margin=0) == (30, 20, 151, 81)
    assert ccd.cam_box(cam, margin=80) == (0, 0, 200, 100)
    assert ccd.cam_box(torch.full((7, 9), 0.3)) == (0, 0, 9, 7)


def test_the_consistency_loss_is_lowest_if_both_views_agree_and_has_no_gradient_for_the_weak_view():
    weak = torch.tensor([[2.0, -1.0]], requires_grad=True)
    strong = torch.tensor([[2.0, -1.0]], requires_grad=True)
    loss = ccd.consistency_loss(weak, strong).sum()
    loss.backward()
    assert weak.grad is None and torch.allclose(strong.grad, torch.zeros(1, 2), atol=1e-6)
    assert ccd.consistency_loss(weak, strong + 1.0).sum() > loss


def test_the_training_stops_where_the_increase_first_accelerates():
    assert ccd.acceleration([0.1, 0.3, 0.4, 0.45, 0.6, 0.9]) == 4
    assert ccd.acceleration([0.1, 0.3]) is None
    assert ccd.acceleration([0.5, 0.8, 0.9, 0.95]) is None


def test_crops_keep_their_aspect_ratio_and_have_sides_of_whole_strides():
    assert crop_size(640, 640, 640, 32) == (640, 640)
    assert crop_size(10, 400, 224, 32) == (32, 224)
    for width, height in ((300, 200), (123, 77), (50, 400)):
        w, h = crop_size(width, height, 320, 32)
        assert max(w, h) == 320 and w % 32 == 0 and h % 32 == 0
        assert abs(w / h - width / height) < 0.35 * width / height or min(w, h) == 32


def test_a_crop_shows_its_part_of_the_photo(tmp_path):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[50:, 100:] = (255, 0, 0)  # the lower right quarter is red
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (photo,) = find_images([tmp_path / "a.png"]).photos
    _, (red, black) = PhotoCrops([photo], [[(0.5, 0.5, 1.0, 1.0), (0.0, 0.0, 0.5, 0.5)]], 64, 32)[0]
    assert red.shape == (3, 32, 64) and int(red[0].min()) == 255 and int(red[1].max()) == 0
    assert int(black.max()) == 0


def test_the_whole_photo_is_encoded_at_ten_sevenths_of_clip_s_input_size(labels, photos, teacher):
    assert teacher.larger_size() == 96 and labels.meta["clip"]["view_size"] == 96
    text = class_embeddings(teacher, list(CLASSES.values()), ["a photo of a {}"])
    rows = []
    for path in labels.paths:
        view = open_image(photos / path).resize((96, 96), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(view).transpose(2, 0, 1).copy())[None]
        rows.append(class_scores(teacher.embed_views(pixels)[0], text, teacher.logit_scale))
    scores = torch.stack(rows)
    expected = ccd.debias(scores, ccd.complete_bias(ccd.class_bias(scores)))
    assert torch.allclose(labels.scores, expected, atol=0.03)  # embeddings are kept in half precision
    assert labels.meta["bias"] == pytest.approx(ccd.complete_bias(ccd.class_bias(scores)).tolist(), abs=0.01)


def test_debiasing_can_be_turned_off_and_a_view_size_that_does_not_fit_is_an_error(photos, teacher):
    plain = PseudolabelConfig(method="ccd", debias=False, floor=0.0)
    scores = label_photos(find_images([photos]), CLASSES, teacher, config=plain).scores
    assert torch.allclose(scores.sum(1), torch.ones(12), atol=1e-4)
    with pytest.raises(InputError, match="needs a multiple of 32 pixels, such as 96"):
        label_photos(find_images([photos]), CLASSES, teacher, config=replace(plain, view_size=100))


def test_positive_cells_of_the_maps_are_boosted_and_the_boost_is_saved_with_the_model(labels, teacher, tmp_path):
    train_student(labels, tmp_path / "m.pt", config=replace(CONFIG, epochs=1, warmup=2), teacher=teacher)
    model = load_checkpoint(tmp_path / "m.pt").model
    pixels = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        maps, logits = model.maps(pixels), model(pixels)
    assert float(model.cam_boost) == 3.0
    boosted = (maps.clamp(min=0) * 3 + maps.clamp(max=0)).mean((2, 3))
    assert torch.allclose(logits, model.scale * boosted + model.offset, atol=1e-4)


def test_the_strong_view_depends_only_on_its_row_and_changes_only_colours():
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    table = jitter_table(3, torch.Generator().manual_seed(0))
    assert (table[:, :3] >= 0.5).all() and (table[:, :3] <= 1.5).all() and (table[:, 3].abs() <= 0.5).all()
    together = jitter_colours(pixels, table)
    assert together.dtype == torch.uint8 and together.shape == pixels.shape
    assert torch.equal(jitter_colours(pixels[2:], table[2:])[0], together[2])
    grey = torch.full((1, 3, 8, 8), 90, dtype=torch.uint8)
    assert len(jitter_colours(grey, table[:1]).unique()) == 1


BOXES = [[(0.1, 0.0, 0.6, 0.5), (0.2, 0.3, 1.0, 1.0)]] * 11 + [[]]


def local_views_of(photos, labels, cells=None):
    torch.manual_seed(0)
    model = Classifier("resnet18", labels.classes, 64)
    scores = torch.tensor([[0.9, 0.8, 0.1]] * 11 + [[0.0, 0.0, 0.0]])
    return choose_local_views(model, find_images([photos]).photos, scores, 0.5, Runtime(), cells)


def test_a_photo_has_as_many_local_views_as_classes_above_the_threshold(photos, labels, teacher):
    for cells in (None, CellMaps(teacher, torch.eye(3, teacher.clip.embed_dim), 10.0, torch.zeros(3))):
        views = local_views_of(photos, labels, cells)
        assert [len(boxes) for boxes in views.boxes] == [2] * 11 + [0]
        for x0, y0, x1, y1 in (box for boxes in views.boxes for box in boxes):
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
        assert local_views_of(photos, labels, cells).boxes == views.boxes


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_photo_above_the_threshold_is_no_error(photos, labels, teacher, num_workers):
    model, found = Classifier("resnet18", labels.classes, 64), find_images([photos]).photos
    runtime = Runtime(num_workers=num_workers)
    views = choose_local_views(model, found, torch.zeros(12, 3), 0.5, runtime)
    assert views.boxes == views.classes == [[]] * 12 and not views.maps
    scorer = crop_scorer_for(labels, teacher)
    local = local_labels(scorer, found, views.boxes, runtime)
    assert torch.allclose(local, (0.05 / scorer.bias).expand(12, -1))


def test_maps_are_kept_for_the_report(photos, labels):
    views = local_views_of(photos, labels)
    assert views.classes == [[0, 1]] * 11 + [[]]
    assert sorted(views.maps) == list(range(11)) and views.maps[0].shape == (2, 2, 2)
    assert pictured_rows(120)[:3] == [0, 5, 10] and len(pictured_rows(1000)) == 24


@pytest.mark.parametrize("at_once", [4, 256])
def test_local_labels_equal_those_of_scoring_one_crop_at_a_time(photos, labels, teacher, monkeypatch, at_once):
    monkeypatch.setattr("mlclip.training.local_views.PHOTOS_AT_ONCE", at_once)
    scorer, found = crop_scorer_for(labels, teacher), find_images([photos]).photos
    local = local_labels(scorer, found, BOXES, Runtime())
    text = class_embeddings(teacher, list(CLASSES.values()), ["a photo of a {}"])
    for row, boxes in enumerate(BOXES):
        _, crops = PhotoCrops([found[row]], [boxes], 96, 32)[0]
        scores = [class_scores(teacher.embed_views(crop[None])[0], text, teacher.logit_scale) for crop in crops]
        expected = ccd.local_scores(torch.stack(scores) if scores else torch.empty(0, 3), scorer.bias)
        assert torch.allclose(local[row], expected, atol=1e-4)
    assert torch.allclose(local[11], 0.05 / scorer.bias)


def test_crops_for_centred_labels_are_scored_as_the_labels_were_made(photos, teacher):
    made = label_photos(find_images([photos]), CLASSES, teacher, contrast={"sky": "sky"})
    scorer, found = crop_scorer_for(made, teacher), find_images([photos]).photos
    local = local_labels(scorer, found, BOXES, Runtime())
    text = class_embeddings(teacher, [*CLASSES.values(), "sky"], ["a photo of a {}"])
    level = torch.tensor(list(made.meta["levels"].values())).mean(0)
    slope, offset = torch.tensor(made.meta["mixture"])
    for row in range(11):
        _, crops = PhotoCrops([found[row]], [BOXES[row]], teacher.input_size, 32)[0]
        cosines = [teacher.embed_views(crop[None])[0] @ text.T for crop in crops]
        shares = [((each - level) * 0.4 * teacher.logit_scale).softmax(0) for each in cosines]
        odds = sum(p / (1 - p) for p in shares)[: len(CLASSES)]
        assert torch.allclose(local[row], (slope * odds.log() + offset).sigmoid(), atol=1e-3)
    assert local[11].isnan().all()


def test_another_teacher_is_an_error_unless_it_is_allowed(labels, teacher, tmp_path):
    others = replace(labels, meta={**labels.meta, "clip": {**labels.meta["clip"], "sha256": "0" * 64}})
    with pytest.raises(InputError, match=r"did not make these labels.*`other_teacher=True`"):
        train_student(others, tmp_path / "m.pt", config=CONFIG, teacher=teacher)
    assert crop_scorer_for(others, teacher, other_teacher=True).longest == 96
    with pytest.raises(InputError, match=r'`local_views="none"`'):
        train_student(replace(labels, meta={}), tmp_path / "m.pt", config=CONFIG)


def test_the_training_updates_the_labels_once_and_resumes_bit_for_bit(labels, teacher, tmp_path, interrupt_at):
    settings = {"config": CONFIG, "teacher": teacher}
    whole = train_student(labels, tmp_path / "whole.pt", save_labels=tmp_path / "whole.labels.pt", **settings)
    # three steps of warm-up, the update, then in the middle of the second epoch
    with interrupt_at("mlclip.training.weight_step.weight_step", 5):
        train_student(labels, tmp_path / "cut.pt", save_labels=tmp_path / "cut.labels.pt", **settings)
    files = {"output": tmp_path / "cut.pt", "save_labels": tmp_path / "cut.labels.pt"}
    resumed = train_student(labels, **files, resume=True, **settings)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    one, two = read_labels(tmp_path / "whole.labels.pt"), read_labels(tmp_path / "cut.labels.pt")
    assert torch.equal(one.scores, two.scores) and not torch.equal(one.scores, labels.scores)
    before = torch.tensor(one.meta["update"]["before"])
    assert torch.equal(before, labels.scores)
    text = "".join(report_sections(one))
    assert "The label update" in text and "Bias of each class" in text and "→" in text


def test_the_stopping_measure_uses_only_labels_that_are_exactly_one():
    labels = torch.tensor([[1.0, 0.99], [0.2, 0.99], [1.0, 0.5]])
    predictions = torch.tensor([[0.9, 0.1], [0.5, 0.2], [0.4, 0.3]])
    assert stopping_measure(predictions, labels) == pytest.approx((1 + 2 / 3) / 2)
    assert math.isnan(stopping_measure(predictions, labels * 0.9))


def test_a_training_stops_early_and_reports_it(labels, teacher, tmp_path, monkeypatch, told):
    measures = iter([0.5, 0.6, 0.65, 0.9, 0.95, 1.0])
    monkeypatch.setattr("mlclip.training.schedule.stopping_measure", lambda *_: next(measures))
    config = replace(CONFIG, epochs=9, stopping=True)
    running = {"teacher": teacher, "runtime": Runtime(progress=told)}
    checkpoint = train_student(labels, tmp_path / "m.pt", config=config, **running)
    assert len((tmp_path / "m.log.csv").read_text().splitlines()) == 1 + 5  # warm-up, and four with a measure
    assert checkpoint.meta["settings"]["epochs"] == 9
    assert any(line.startswith("stopped after epoch 5 of 9") and "`stopping=False`" in line for line in told.lines)


def test_consistent_is_the_student_of_ccd_without_its_teacher(labels, tmp_path):
    alone = replace(CONFIG, local_views="none", warmup=2)
    bare = replace(labels, meta={})  # without the facts about how they were made
    models = [
        train_student(bare, tmp_path / f"{config.method}.pt", config=config).model.state_dict()
        for config in (alone, replace(CONFIG, method="consistent", warmup=2, stopping=True))
    ]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    assert float(models[0]["cam_boost"]) == 3
