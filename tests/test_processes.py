"""Several processes (torchrun, gloo) do what one does: the same labels, and at equal batch the same losses to rounding."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mlclip.labels.table import Labels, read_labels, write_labels

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
    """The logs of one.pt and two.pt agree to rounding, which Adam blows up from step to step."""
    one, two = log_rows(tmp_path / "one.pt"), log_rows(tmp_path / "two.pt")
    assert len(one) == len(two) > 0
    assert float(two[0]["loss"]) == pytest.approx(float(one[0]["loss"]), rel=1e-5)
    for name in columns:
        assert [float(row[name]) for row in two] == pytest.approx([float(row[name]) for row in one], rel=2e-3), name


def test_two_processes_learn_by_gradient_alignment_as_one_does(photos, tmp_path):
    paths = [f"{n:02d}.jpg" for n in range(9)]  # steps of 4, 4 and 1: one process has nothing in the last
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


def test_two_processes_label_and_look_again_as_one_does(photos, clip_file, tmp_path):
    (photos / "05.jpg").write_bytes(b"")  # 11 readable photos: shares of unequal length
    for processes, name in ((1, "one"), (2, "two")):
        status = run(processes, "pseudolabel", str(photos), "--classes", "red,green,blue", "--clip", str(clip_file),
                     "--method", "ccd", "-o", str(tmp_path / f"{name}.labels.pt"), "--store", str(tmp_path / name))  # fmt: skip
        assert status == 3 or processes == 2  # of two, the launcher has a status of its own
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
