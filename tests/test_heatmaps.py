"""Class maps over photos: where the student sees its classes, and where CLIP sees the labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from mlclip.cli import _status
from mlclip.cli.report import report
from mlclip.clip import load_clip
from mlclip.config import InputError
from mlclip.demo import KINDS, draw_single
from mlclip.images import find_images
from mlclip.images.overlay import draw_boxes, lay_over
from mlclip.labels.table import Labels, write_labels
from mlclip.report.pictures import where_section
from mlclip.student.checkpoint import Checkpoint, save_checkpoint
from mlclip.student.heatmaps import GAP, SIDE, write_heatmaps
from mlclip.student.model import Classifier
from mlclip.teacher.scoring import Teacher
from mlclip.teacher.where import maps_of_labels

CLASSES = ["red", "green", "blue"]


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(Classifier("resnet18", CLASSES, 64).eval(), torch.full((3,), 0.5))


def test_the_highest_cell_of_a_map_is_red_and_the_lowest_is_blue():
    grey = Image.new("RGB", (40, 20), (128, 128, 128))
    shown = np.asarray(lay_over(grey, torch.tensor([[-5.0, -5.0, -5.0, 3.0]]))).astype(int)
    assert shown.shape == (20, 40, 3)
    assert shown[10, 39, 0] > shown[10, 39, 2] + 40
    assert shown[10, 0, 2] > shown[10, 0, 0] + 20


def test_a_box_is_drawn_at_its_shares_of_the_image_size():
    shown = np.asarray(draw_boxes(Image.new("RGB", (101, 51), "white"), [(0.5, 0.0, 1.0, 1.0)], width=1))
    assert (shown[25, 50] != 255).any() and (shown[25, 100] != 255).any()
    assert (shown[25, 49] == 255).all() and (shown[25, 75] == 255).all()


def test_every_photo_gets_a_picture_in_the_same_subfolder(checkpoint, photos, tmp_path):
    (photos / "sub").mkdir()
    (photos / "00.jpg").rename(photos / "sub" / "01.jpg")
    found = find_images([str(photos)])
    (photos / "02.jpg").write_bytes(b"")
    chosen = [[(0, 0.9), (2, 0.4)]] * len(found.photos)
    written = write_heatmaps(found.photos, chosen, checkpoint, tmp_path / "maps")
    assert written == 11
    assert (tmp_path / "maps" / "sub" / "01.jpg.heatmap.jpg").is_file()
    with Image.open(tmp_path / "maps" / "01.jpg.heatmap.jpg") as picture:
        assert picture.width == 3 * SIDE + 2 * GAP
    assert not (tmp_path / "maps" / "02.jpg.heatmap.jpg").exists()


def test_the_command_draws_the_classes_it_lists_and_does_not_overwrite_a_folder(checkpoint, photos, tmp_path, capfd):
    save_checkpoint(checkpoint, tmp_path / "model.pt")
    shared = ["predict", str(photos / "01.jpg"), "--model", str(tmp_path / "model.pt")]
    shared += ["--heatmaps", str(tmp_path / "maps")]
    assert _status([*shared, "--topk", "2"]) == 0
    with Image.open(tmp_path / "maps" / "01.jpg.heatmap.jpg") as picture:
        assert picture.width == 3 * SIDE + 2 * GAP
    assert _status([*shared, "--threshold", "1.0"]) == 1
    assert "--overwrite" in capfd.readouterr().err
    assert _status([*shared, "--threshold", "1.0", "--overwrite"]) == 0  # no class reaches it: the closest one is drawn
    with Image.open(tmp_path / "maps" / "01.jpg.heatmap.jpg") as picture:
        assert picture.width == 2 * SIDE + GAP


PLACES = {"wheel": (0, 0), "flower": (64, 64)}  # of two objects in a scene of 128 × 128 pixels, x and y


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Two scenes with a wheel at the top left and a flower at the bottom right, and a third without labels."""
    folder = tmp_path_factory.mktemp("scenes")
    scores = torch.zeros(3, len(KINDS))
    for number in range(3):
        scene = Image.new("RGB", (128, 128), (120, 120, 120))
        for kind, place in PLACES.items():
            scene.paste(draw_single(kind, np.random.default_rng(number), 64), place)
            scores[number, KINDS.index(kind)] = 0.9 if number < 2 else 0.1
        scene.save(folder / f"{number}.png")
    clip = {"name": "tiny", "activation": "quick_gelu", "sha256": "", "logit_scale": 17.9}
    meta = {"prompts": list(KINDS), "templates": ["a photo of a {}"], "clip": clip}
    return Labels(["0.png", "1.png", "2.png"], list(KINDS), scores, str(folder), meta)


def test_the_map_of_a_class_is_highest_where_the_object_is(labels):
    where = maps_of_labels(labels, Teacher(load_clip("tiny")))
    assert list(where["maps"]) == [0, 1]  # only photos with a label
    for row in (0, 1):
        for column, cam in zip(where["classes"][row], torch.tensor(where["maps"][row]), strict=True):
            y, x = divmod(int(cam.argmax()), cam.shape[1])
            left, top = PLACES[KINDS[column]]
            assert (x * 128 / cam.shape[1] >= 64, y * 128 / cam.shape[0] >= 64) == (left == 64, top == 64)


def test_the_report_shows_the_maps_if_asked(labels, tmp_path):
    file, page = tmp_path / "labels.pt", tmp_path / "report.html"
    write_labels(labels, file)
    for options, shown in ((["--set", "where=true"], True), (["--overwrite"], False)):
        done = CliRunner().invoke(report, ["--labels", str(file), "-o", str(page), *options])
        assert done.exit_code == 0, (done.output, done.exception)
        assert ("Where CLIP sees the labels" in page.read_text()) == shown


def test_labels_without_prompts_or_with_damaged_maps_are_refused(labels):
    predictions = Labels(labels.paths, labels.classes, labels.scores, labels.root)
    with pytest.raises(InputError, match="which prompts"):
        maps_of_labels(predictions, Teacher(load_clip("tiny")))
    predictions.meta["where"] = {"classes": {}, "maps": {0: [[[0, 255]]]}}
    with pytest.raises(InputError, match="CLIP's class maps cannot be shown"):
        where_section(predictions)
