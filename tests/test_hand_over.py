"""A model to hand over: the .safetensors file gives the same scores, its card says what is recorded, and nothing else."""

from __future__ import annotations

import json
import struct

import pytest
import torch

import mlclip
from mlclip.cli import _status
from mlclip.config import InputError
from mlclip.student.card import hand_over, model_card
from mlclip.student.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mlclip.student.model import Classifier

pytest.importorskip("safetensors", reason="the extra mlclip[safetensors] is not installed")

META = {
    "settings": {"method": "fixed", "lr": 1e-4, "epochs": 3},
    "labels": "0123",
    "root": "/home/secret",
    "skipped": [["secret.jpg", "damaged"]],
    "labels_meta": {
        "method": "centred",
        "templates": ["a photo of a {}."],
        "settings": {"method": "centred", "grids": [1, 2], "zeta": 0.5},
        "skipped": [["secret.jpg", "damaged"]],
        "update": {"before": torch.ones(2)},
        "clip": {"name": "RN50", "sha256": "ab12", "logit_scale": 100.0, "licence": "mit"},
    },
    "calibration": {
        "source": "true labels",
        "photos": 20,
        "positives": {"cat": 5},
        "before": {"scale": [1.0, 1.0], "offset": [0.0, 0.0], "thresholds": [0.5, 0.5], "calibration": None},
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model.pt whose scores are not all the same, with the log of its training."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    student = Classifier("mobilenet_v3_small", ["cat", "big | *dog*"], 64)
    student.calibrate(torch.tensor([0.6, 1.7]), torch.tensor([-0.8, 1.2]))
    save_checkpoint(Checkpoint(student.eval(), torch.tensor([0.3, 0.123456789]), META), folder / "model.pt")
    (folder / "model.log.csv").write_text("epoch,loss,mAP_report_only\n1,4,\n2,3.5,0.75\n")
    return folder / "model.pt"


@pytest.fixture
def handed(model, tmp_path):
    hand_over(model, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def header_of(file) -> dict:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


def with_texts(file, **changes):
    """The file with other texts in its header; None removes one."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    texts = header["__metadata__"] | changes
    header["__metadata__"] = {name: text for name, text in texts.items() if text is not None}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return file


def test_the_scores_are_equal_to_the_last_bit(model, handed, photos):
    options = {"device": "cpu", "progress": mlclip.SILENT}
    first, second = (mlclip.predict(photos, file, **options) for file in (model, handed))
    assert torch.equal(first.scores, second.scores) and first.scores.std() > 0
    assert torch.equal(first.thresholds, second.thresholds) and first.classes == second.classes


def test_every_command_that_takes_a_model_takes_the_file(handed, photos, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "truth.csv").write_text("path,cat\n00.jpg,1\n01.jpg,0\n02.jpg,1\n")
    run = ["--model", str(handed), "--device", "cpu", "-q"]
    assert _status(["predict", str(photos), *run, "--heatmaps", "maps"]) == 0
    assert _status(["evaluate", str(photos), *run, "--truth", "truth.csv"]) == 0
    assert _status(["calibrate", str(photos), *run, "--truth", "truth.csv", "-o", "c.safetensors"]) == 0
    assert load_checkpoint("c.safetensors").meta["calibration"]["photos"] == 3
    assert _status(["export", "--model", str(handed), "-o", "t.csv"]) == 0
    capfd.readouterr()


def test_a_second_export_is_the_same_file(handed, tmp_path):
    hand_over(handed, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == handed.read_bytes()


def test_the_file_says_what_is_recorded_and_no_name_of_a_photo_or_folder(handed):
    texts = header_of(handed)["__metadata__"]
    assert json.loads(texts["classes"]) == ["cat", "big | *dog*"] and json.loads(texts["arch"]) == "mobilenet_v3_small"
    assert json.loads(texts["teacher"])["licence"] == "mit"
    assert json.loads(texts["calibration"])["photos"] == 20
    assert json.loads(texts["measured"]) == {"epoch": 2, "loss": 3.5, "mAP_report_only": 0.75}
    assert json.loads(texts["training"])["settings"]["epochs"] == 3
    assert "secret" not in str(texts)
    text = handed.with_suffix(".md").read_text()
    for line in (
        "- licence: mit",
        "- epochs: 3",
        "- grids: 1, 2",
        "- photos: 20",
        "- mAP\\_report\\_only: 0.75",
        "| big \\| \\*dog\\* | 0.123 |",
    ):
        assert line in text, line
    assert "secret" not in text and "zeta" not in text, "settings that the method did not use are left out"
    assert "No mAP is recorded" not in text


def test_a_card_invents_nothing_about_a_model_of_which_nothing_is_recorded():
    model = Classifier("mobilenet_v3_small", ["cat"], 64)
    text = model_card(Checkpoint(model, torch.tensor([0.5]), {}), "m.safetensors")
    assert text.count("Not recorded.") == 4 and "mlclip evaluate PHOTOS --model m.safetensors" in text
    hostile = {
        "labels_meta": {"clip": 3, "settings": [{}], "method": {"a": {}}},
        "calibration": [],
        "measured": {"a": "b"},
    }
    assert model_card(Checkpoint(model, torch.tensor([0.5]), hostile), "m.safetensors")


def test_existing_files_stay_without_overwrite(model, handed, tmp_path, capfd):
    (tmp_path / "n.md").write_text("notes")
    for output in ("m.safetensors", "n.safetensors"):
        assert _status(["export", "--model", str(model), "-o", str(tmp_path / output)]) == 1
        assert "--overwrite" in capfd.readouterr().err
    assert (tmp_path / "n.md").read_text() == "notes" and not (tmp_path / "n.safetensors").exists()
    assert _status(["export", "--model", str(model), "-o", str(handed), "--overwrite"]) == 0
    assert _status(["export", "--model", str(model), "-o", str(handed), "--overwrite", "--variant", "int8"]) == 2


CHANGES = [
    {"format": None},
    {"version": "1"},
    {"arch": "3"},
    {"arch": '"resnet18"'},
    {"size": "9" * 5000},
    {"classes": '["cat"]'},
    {"classes": '["cat", ["dog"]]'},
    {"thresholds": "[0.5, 2]"},
    {"thresholds": "[0.5, NaN]"},
    {"thresholds": '"ab"'},
    {"thresholds": "[" * 50_000},
    {"arch": '"clip-head"'},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_wrong_texts_in_the_header_are_refused_in_one_line(changes, handed):
    with pytest.raises(InputError) as error:
        load_checkpoint(with_texts(handed, **changes))
    assert str(handed) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_cut_or_foreign_file_is_refused(handed, tmp_path):
    data = handed.read_bytes()
    for content in (b"", data[:7], data[:100], data[:-1], b"\xff" * 8 + data[8:], data[:9] + b"\0" + data[10:]):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(InputError):
            load_checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"mlclip export -o model\.safetensors"):
        load_checkpoint(tmp_path / "missing.safetensors")


def test_the_library_of_the_format_reads_the_file(model, handed):
    from safetensors import safe_open

    weights = load_checkpoint(model).model.state_dict()
    with safe_open(handed, framework="pt") as file:
        assert set(file.keys()) == weights.keys() and file.metadata()["format"] == "mlclip.model"
        assert all(torch.equal(file.get_tensor(name), weight) for name, weight in weights.items())
