"""Faults of folders, lists, weights, downloads and trainings through the command line: one line and its status, nothing lost."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from mlclip.labels.table import Labels, read_labels, write_labels
from mlclip.student.checkpoint import Checkpoint, save_checkpoint
from mlclip.student.model import Classifier

CLASSES = ["red", "green", "blue"]
SMALL = ["--arch", "mobilenet_v3_small", "--init", "none", "--size", "64", "--lr", "1e-3"]


@pytest.fixture
def command(command):
    """Runs a command in `tmp_path`; returns its status, its stdout, and the last line of stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status, out, err = command(*arguments)
        return status, out, (err.splitlines() or [""])[-1]

    return run


@pytest.fixture
def labels_file(photos, tmp_path) -> Path:
    scores = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    write_labels(Labels([f"{n:02d}.jpg" for n in range(12)], CLASSES, scores, str(photos)), tmp_path / "labels.pt")
    return tmp_path / "labels.pt"


@pytest.fixture
def model_file(tmp_path) -> Path:
    torch.manual_seed(0)
    model = Classifier("mobilenet_v3_small", CLASSES, 64).eval()
    save_checkpoint(Checkpoint(model, torch.full((3,), 0.5), {}), tmp_path / "student.pt")
    return tmp_path / "student.pt"


def changed(file: Path, change) -> None:
    """Write a copy of a .pt file, `bad.pt` in the current folder, after `change(content)`."""
    content = torch.load(file, weights_only=True)
    change(content)
    torch.save(content, "bad.pt")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("predict photos --model student.pt -o scores.tsv", "scores.tsv is not a name for a labels file"),
        ("predict photos --model student.pt -o scores --append", "scores is not a name for a labels file"),
        ("pseudolabel photos --clip CLIP --classes a,b -o labels.xlsx", "labels.xlsx is a spreadsheet"),
        ("train --labels labels.pt -o .", ". is a folder"),
        ("train --labels labels.pt -o student.onnx", "student.onnx must end in .pt or .safetensors"),
        ("train --labels labels.pt --method cdul --save-labels refined", "refined is not a name for a labels file"),
        ("calibrate photos --model student.pt --truth labels.pt -o student.onnx", "student.onnx must end in .pt"),
    ],
)
def test_a_name_that_no_output_can_have_is_refused_before_the_first_photo(
    command, labels_file, model_file, monkeypatch, arguments, words
):
    monkeypatch.setattr("PIL.Image.open", lambda *_: pytest.fail("a photo was opened"))
    status, out, line = command(arguments)
    assert (status, out) == (1, "") and line.startswith("mlclip: ") and words in line


# Photos and lists


@pytest.mark.parametrize("source", ["pipe", "/dev/null"])
@pytest.mark.parametrize("arguments", [["pseudolabel", "--clip", "CLIP", "--classes", "a,b"], ["predict", "--model", "student.pt"]],
                         ids=["pseudolabel", "predict"])  # fmt: skip
def test_a_source_that_is_neither_a_file_nor_a_folder_is_refused(command, model_file, tmp_path, source, arguments):
    os.mkfifo(tmp_path / "pipe")
    status, out, line = command(arguments[0], source, *arguments[1:])
    assert (status, out) == (1, "") and line.startswith("mlclip: ") and source in line
    assert sorted(os.listdir(tmp_path)) == ["pipe", "student.pt"]


def test_a_batch_of_bad_photos_shifts_no_row_of_labels_or_predictions(command, photos, model_file):
    def rows(text: str) -> dict[str, list[str]]:
        return {row[0]: row[1:] for row in csv.reader(io.StringIO(text))}

    label = ["pseudolabel photos --clip CLIP --classes red,green --method cdul --set batch_size=40"]
    predict = ["predict", "photos", "--model", model_file, "--format", "csv", "--batch-size", "4"]
    assert command(*label, "-o", "good.pt")[0] == 0
    good = rows(command(*predict)[1])
    bad = ("04", "05", "06", "07")  # a batch of 4 photos; 40 views are 4 photos with 10 views
    for name in bad:
        (photos / f"{name}.jpg").write_bytes(b"<html>")
    assert command(*label, "-o", "rest.pt", "--store", "other")[0] == 3
    first, rest = read_labels("good.pt"), read_labels("rest.pt")
    kept = [n for n in range(12) if not 4 <= n < 8]
    assert rest.paths == [first.paths[n] for n in kept]
    assert torch.allclose(rest.scores, first.scores[kept], atol=1e-5)
    status, out, _ = command(*predict)
    assert status == 3 and rows(out) == {name: row for name, row in good.items() if name[:2] not in bad}


# Weights and other files


READERS = {  # a file of each kind, and a command that reads it as bad.pt
    "labels": ["train", "--labels", "bad.pt", *SMALL],
    "model": ["predict", "photos", "--model", "bad.pt"],
    "clip": ["pseudolabel", "photos", "--clip", "bad.pt", "--classes", "a,b", "-o", "new.pt"],
    "init": ["train", "--labels", "labels.pt", "--init", "bad.pt", *SMALL[:2], *SMALL[4:]],
}


@pytest.fixture
def sources(labels_file, model_file, clip_file, tmp_path) -> dict[str, Path]:
    weights = torchvision.models.mobilenet_v3_small(num_classes=2).state_dict()
    torch.save(weights, tmp_path / "init.pt")
    return {"labels": labels_file, "model": model_file, "clip": clip_file, "init": tmp_path / "init.pt"}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", list(READERS))
def test_nan_and_inf_in_scores_and_weights_are_refused(command, sources, tmp_path, kind, number):
    def spoil(content: dict) -> None:
        tensors = {"labels": content, "model": content.get("weights")}.get(kind, content)
        large = (n for n, t in tensors.items() if t.is_floating_point() and t.dim() > 1)
        name = "scores" if kind == "labels" else next(large)
        tensors[name].view(-1)[3] = number

    changed(sources[kind], spoil)
    files = set(os.listdir())
    status, out, line = command(*READERS[kind])
    if kind == "labels" and number != number:  # "not known" in a table of labels
        assert status == 0
    else:
        assert (status, out) == (1, "") and "bad.pt" in line and re.search("NaN|[Ii]nf|from 0 to 1|'weights'", line)
        assert set(os.listdir()) == files


def test_a_file_of_another_arch_or_class_count_is_refused(command, sources, tmp_path):
    torch.save(torchvision.models.resnet34(num_classes=2).state_dict(), tmp_path / "bad.pt")
    status, _, line = command("train --labels labels.pt --arch resnet18 --init bad.pt --size 64")
    assert status == 1 and "bad.pt does not have weights of resnet18" in line
    changed(sources["model"], lambda content: content.update(arch="mobilenet_v2"))
    status, _, line = command(*READERS["model"])
    assert status == 1 and "the weights are not those of mobilenet_v2" in line
    changed(sources["model"], lambda content: content.update(classes=["red", "green"]))
    status, _, line = command(*READERS["model"])
    assert status == 1 and "'thresholds' is missing or wrong" in line


# Trainings


def test_a_loss_that_is_not_finite_is_one_line_and_the_last_epoch_can_still_be_used(command, labels_file, monkeypatch):
    from mlclip.training.weight_step import weight_step

    calls = iter(range(100))

    def diverging(*arguments):
        return (float("nan"), 4) if next(calls) == 4 else weight_step(*arguments)

    train = ["train", "--labels", labels_file, *SMALL, "--batch-size", "4"]
    monkeypatch.setattr("mlclip.training.weight_step.weight_step", diverging)
    status, out, line = command(*train, "--epochs", "3")
    assert (status, out) == (1, "") and "not finite in epoch 2" in line and "--resume" in line and "--epochs 1" in line
    assert not Path("model.pt").exists()
    monkeypatch.undo()
    os.chdir(labels_file.parent)
    assert command(*train, "--epochs", "1", "--resume")[0] == 0 and Path("model.pt").exists()


COMMANDS = [
    ["evaluate", "--labels", "labels.pt", "--truth", "pipe"],
    ["evaluate", "--labels", "labels.pt", "--truth", "pipe.csv"],
    ["evaluate", "--labels", "labels.pt", "--truth", "coco:pipe.json"],
    ["evaluate", "--labels", "labels.pt", "--truth", "label-studio:pipe.json"],
    ["evaluate", "--labels", "pipe.csv", "--truth", "labels.pt"],
    ["review", "--labels", "pipe.pt"],
    ["review", "--labels", "labels.pt", "--corrections", "pipe.csv"],
    ["train", "--labels", "labels.pt", "--corrections", "pipe.csv"],
    ["train", "--labels", "coco:pipe.json"],
    ["pseudolabel", ".", "-o", "new.pt", "--classes", "pipe"],
    ["pseudolabel", ".", "-o", "new.pt", "--classes", "cat,dog", "--contrast", "pipe.txt"],
]


@pytest.mark.timeout(60)  # reading a pipe would wait for ever
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_named_pipe_is_refused_at_once(command, tmp_path, arguments):
    for name in ("pipe", "pipe.csv", "pipe.json", "pipe.pt", "pipe.txt"):
        os.mkfifo(tmp_path / name)
    Image.linear_gradient("L").save(tmp_path / "a.jpg")
    write_labels(Labels(["a.jpg"], ["cat", "dog"], torch.ones(1, 2)), tmp_path / "labels.pt")
    status, out, err = command(*arguments)
    assert (status, out) == (1, "")
    assert "is a named pipe or a device, not a file" in err.strip().splitlines()[-1]
