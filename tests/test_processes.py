"""Several processes (torchrun, gloo) have the same results as one: equal labels, and with equal batches equal losses up to rounding."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mlclip.distributed import Distributed, sync_batch_norm
from mlclip.labels.table import Labels, read_labels, write_labels
from mlclip.student.model import Classifier

CLASSES = ["red", "green", "blue"]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
HERE = ["--workers", "0", "--device", "cpu"]


def run(processes: int, *args: str) -> int:
    launcher = LAUNCHER if processes == 2 else [sys.executable]
    done = subprocess.run(
        [*launcher, "-m", "mlclip", *args, *HERE], capture_output=True, text=True, timeout=240, env=ENV
    )
    assert "Traceback" not in done.stderr.split("torch/distributed")[0], done.stderr
    return done.returncode


def log_rows(model: Path) -> list[dict[str, str]]:
    with open(model.with_suffix(".log.csv"), newline="") as file:
        return list(csv.DictReader(file))


def agree(tmp_path: Path, columns: list[str]) -> None:
    """The logs of one.pt and two.pt agree up to rounding. Adam makes rounding differences larger at every step."""
    one, two = log_rows(tmp_path / "one.pt"), log_rows(tmp_path / "two.pt")
    assert len(one) == len(two) > 0
    assert float(two[0]["loss"]) == pytest.approx(float(one[0]["loss"]), rel=1e-5)
    for name in columns:
        assert [float(row[name]) for row in two] == pytest.approx([float(row[name]) for row in one], rel=2e-3), name


def test_two_processes_train_by_gradient_alignment_like_one(photos, tmp_path):
    paths = [f"{n:02d}.jpg" for n in range(9)]  # steps of 4, 4 and 1 photos: one process has no photo in the last
    true = torch.nn.functional.one_hot(torch.arange(9) % 3).float()
    write_labels(Labels(paths, CLASSES, true * 0.6 + 0.2, root=str(photos)), tmp_path / "labels.pt")
    write_labels(Labels(paths, CLASSES, true), tmp_path / "truth.csv")
    shared = ["train", "--labels", str(tmp_path / "labels.pt"), "--truth", str(tmp_path / "truth.csv"), "--method", "cdul",
              "--init", "none", "--size", "64", "--batch-size", "4", "--warmup", "1", "--arch", "resnet18", "--epochs", "3",
              "--lr", "1e-5", "--average", "0.5"]  # fmt: skip
    for processes, name in ((1, "one"), (2, "two")):
        outputs = ["-o", str(tmp_path / f"{name}.pt"), "--save-labels", str(tmp_path / f"{name}.csv")]
        assert run(processes, *shared, *outputs) == 0
    agree(tmp_path, ["loss", "label_entropy", "predictions_mAP_report_only"])
    refined = [read_labels(tmp_path / f"{name}.csv").scores for name in ("one", "two")]
    assert torch.allclose(*refined, atol=1e-4)


def test_two_processes_make_and_update_labels_like_one(photos, clip_file, tmp_path):
    (photos / "05.jpg").write_bytes(b"")  # 11 readable photos: the parts have different lengths
    for processes, name in ((1, "one"), (2, "two")):
        status = run(processes, "pseudolabel", str(photos), "--classes", "red,green,blue", "--clip", str(clip_file),
                     "--method", "ccd", "-o", str(tmp_path / f"{name}.labels.pt"), "--store", str(tmp_path / name))  # fmt: skip
        assert status == 3 or processes == 2  # with two, the launcher has its own exit status
    one, two = (read_labels(tmp_path / f"{name}.labels.pt") for name in ("one", "two"))
    assert one.paths == two.paths and len(one) == 11
    assert one.meta["skipped"] == two.meta["skipped"]
    assert torch.allclose(one.scores, two.scores, atol=2e-3)
    write_labels(replace(one, scores=one.scores), tmp_path / "labels.pt")
    for processes, name in ((1, "one"), (2, "two")):
        status = run(processes, "train", "--labels", str(tmp_path / "labels.pt"), "--method", "ccd", "--init", "none",
                     "--arch", "resnet18", "--size", "64", "--batch-size", "4", "--warmup", "1", "--epochs", "3", "--lr",
                     "1e-5", "-o", str(tmp_path / f"{name}.pt"), "--save-labels", str(tmp_path / f"{name}.json"))  # fmt: skip
        assert status == 0
    agree(tmp_path, ["loss", "label_entropy"])
    refined = [read_labels(tmp_path / f"{name}.json") for name in ("one", "two")]
    assert torch.allclose(refined[0].scores, refined[1].scores, atol=1e-3)
    assert refined[0].meta["update"]["classes"] == refined[1].meta["update"]["classes"]


def test_on_gpus_the_batch_norm_of_torch_is_used_with_the_same_weights():
    model, images = Classifier("resnet18", CLASSES, 64), torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    before, logits = {k: v.clone() for k, v in model.state_dict().items()}, model.eval()(images)
    sync_batch_norm(model, Distributed(0, 2, torch.device("cuda")))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(module, torch.nn.SyncBatchNorm) for module in norms)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.eval()(images), logits)


def test_on_gpus_an_empty_batch_in_half_precision_is_normalised_in_float32(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.nn.SyncBatchNorm, "forward", lambda _, features: seen.append(features.dtype))
    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    sync_batch_norm(norm, Distributed(0, 2, torch.device("cuda")))
    for photos in (0, 3):
        norm(torch.zeros(photos, 4, 2, 2, dtype=torch.bfloat16))
    assert seen == [torch.float32, torch.bfloat16]


def test_the_batch_norm_of_one_process_does_not_change():
    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    sync_batch_norm(norm, Distributed())
    assert type(norm[0]) is torch.nn.BatchNorm2d
