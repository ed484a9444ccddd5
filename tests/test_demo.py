"""`mlclip demo`, with few scenes."""

from __future__ import annotations

import importlib

import pytest

from mlclip.cli import _status
from mlclip.labels.table import read_labels

demo_module = importlib.import_module("mlclip.cli.demo")  # `mlclip.cli.demo` itself is the command


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo_module, "TRAIN_SCENES", 24)
    monkeypatch.setattr(demo_module, "TEST_SCENES", 12)
    monkeypatch.setattr(demo_module, "STUDENT", ["--arch", "clip-resnet", "--size", "64", "--epochs", "1"])


def test_the_demo_writes_only_to_its_folder_and_prints_its_table(small, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert _status(["demo", "--dir", "d"]) == 0
    table = capfd.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in table[2:]] == [
        "CDUL's global labels", "CDUL's aggregate labels", "CDUL's final labels", "centred labels",
        "student of CDUL's final labels", "student of the centred labels", "student of the true labels",
    ]  # fmt: skip
    assert all(0 < float(line.split()[-1]) < 100 for line in table[2:])
    for name in (
        "train",
        "test",
        "clip.pt",
        "classes.txt",
        "truth_train.csv",
        "truth_test.csv",
        "model.pt",
        "report.html",
    ):
        assert (tmp_path / "d" / name).exists()
    assert len(read_labels(tmp_path / "d" / "labels.pt")) == 24
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d"]
    (tmp_path / "d" / ".model.pt.lock").touch()  # left by a killed process
    assert _status(["demo", "--dir", "d", "--quiet", "--overwrite"]) == 0


def test_the_demo_replaces_no_folder_of_the_user(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert _status(["demo", "--dir", "mine"]) == 1
    assert _status(["demo", "--dir", "mine", "--overwrite"]) == 1
    assert "thesis.txt" in capfd.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
