"""`model.predict` of a loaded model: photos in memory, one or many, and from several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from small_onnx import write_small_onnx

import mlclip
from mlclip.config import InputError
from mlclip.student.checkpoint import Checkpoint, save_checkpoint
from mlclip.student.model import Classifier
from mlclip.student.onnx_model import Prediction


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    checkpoint = Checkpoint(Classifier("resnet18", ["cat", "dog"], 64).eval(), torch.tensor([0.0, 1.0]))
    save_checkpoint(checkpoint, folder / "model.pt")
    write_small_onnx(folder / "model.onnx", ["red", "green", "blue"])
    return folder


@pytest.mark.parametrize("name", ["model.pt", "model.onnx"])
def test_every_kind_of_photo_has_the_scores_of_the_folder(files, name, photos, capfd):
    model = mlclip.load_model(files / name)
    table = mlclip.predict(photos, model, progress=mlclip.SILENT)
    expected = [dict(zip(table.classes, row, strict=True)) for row in table.scores.tolist()]
    paths = [photos / path for path in table.paths]
    rgb = Image.open(paths[0]).convert("RGB")
    pixels = np.array(rgb)
    capfd.readouterr()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for photo in (str(paths[0]), paths[0], paths[0].read_bytes(), rgb, pixels, tensor):
        found = model.predict(photo)
        assert isinstance(found, Prediction) and found.labels == table.above_threshold()[0]
        assert found.scores == pytest.approx(expected[0], abs=1e-4), type(photo)
    many = model.predict(paths)
    assert [one.scores for one in many] == [pytest.approx(scores, abs=1e-4) for scores in expected]
    asked = []
    lazy = model.predict(asked.append(path) or path for path in paths)
    assert next(lazy).scores == pytest.approx(expected[0], abs=1e-4) and len(asked) == 1
    assert len(list(lazy)) == len(paths) - 1
    assert model.transform(paths[0]).shape[:2] == (1, 3) and model.predict([]) == []
    assert capfd.readouterr() == ("", "")


def test_what_is_no_photo_is_an_error_of_one_line(files, photos):
    model = mlclip.load_model(files / "model.pt")
    for wrong, words in (
        (3, "cannot use int"),
        ([None], "cannot use NoneType"),
        (np.zeros((4, 4), np.uint8), r"uint8 \(H, W, 3\).*uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3)), "this one is float64"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"this one is uint8 \(4, 4, 3\)"),
        ("gone.jpg", "gone.jpg cannot be used: the file no longer exists"),
        (b"text", "the photo cannot be used: not an image"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            model.predict(wrong)
        assert "\n" not in str(caught.value)


def test_several_threads_answer_as_one_thread_does(files):
    model, rng = mlclip.load_model(files / "model.pt"), np.random.default_rng(0)
    sent = [Image.fromarray(rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:  # as in a web server
        answers = [answer.scores for answer in pool.map(model.predict, sent * 4)]
    expected = [mlclip.load_model(files / "model.pt").predict(photo).scores for photo in sent]
    assert answers == [pytest.approx(scores, abs=1e-5) for scores in expected * 4]
    assert len({scores["cat"] for scores in answers}) > 1
