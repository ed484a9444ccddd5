"""ONNX: the exported student has the same scores as the PyTorch model. Needs the extra `onnx`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mlclip.config import InputError
from mlclip.student.checkpoint import Checkpoint
from mlclip.student.export import export_onnx
from mlclip.student.model import Classifier


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    model = Classifier("resnet18", ["cat", "dog"], 64).eval()
    model.calibrate(torch.tensor([0.6, 1.7]), torch.tensor([-0.8, 1.2]))
    return Checkpoint(model, torch.tensor([0.3, 0.6]))


def test_without_the_extra_the_error_says_how_to_install_it(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match=r"mlclip\[onnx\]"):
        export_onnx(checkpoint, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_the_exported_scores_equal_those_of_the_model_for_any_number_of_photos(checkpoint, tmp_path):
    pytest.importorskip("onnx", reason="the extra mlclip[onnx] is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra mlclip[onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra mlclip[onnx] is not installed")
    assert export_onnx(checkpoint, tmp_path / "m.onnx") < 1e-4
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    (scores,) = session.run(None, {"pixels": pixels})
    with torch.inference_mode():
        expected = checkpoint.model(torch.from_numpy(pixels)).sigmoid()
        plain = checkpoint.model.maps(torch.from_numpy(pixels)).mean((2, 3)).sigmoid()
    assert np.allclose(scores, expected.numpy(), atol=1e-4)
    assert not np.allclose(scores, plain.numpy(), atol=1e-2)  # the calibration is in the file
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["cat", "dog"]
    assert json.loads(metadata["thresholds"]) == pytest.approx([0.3, 0.6])
