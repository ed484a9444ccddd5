"""CLIP's own class maps: where it sees a class, in the report and for CCD's local views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from mlclip.cli.report import report
from mlclip.clip import load_clip
from mlclip.config import InputError
from mlclip.demo import KINDS, draw_single
from mlclip.labels.table import Labels, write_labels
from mlclip.report.pictures import where_section
from mlclip.teacher.scoring import Teacher
from mlclip.teacher.where import maps_of_labels

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
