"""Heat maps: pictures that show where the student saw a class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mlclip.cli import _status
from mlclip.images import find_images
from mlclip.images.overlay import draw_boxes, lay_over
from mlclip.student.checkpoint import Checkpoint, save_checkpoint
from mlclip.student.heatmaps import GAP, SIDE, write_heatmaps
from mlclip.student.model import Classifier

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
