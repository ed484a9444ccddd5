"""Prediction with an ONNX model: without torch, in all formats, and with clear errors for files that cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlclip
from mlclip.cli import _status
from mlclip.config import InputError
from mlclip.images import find_images
from mlclip.images.views import read_batches
from mlclip.student.onnx_model import load_onnx, predict_onnx

onnx = pytest.importorskip("onnx", reason="the extra mlclip[onnx] is not installed")
pytest.importorskip("onnxruntime", reason="the extra mlclip[onnx] is not installed")

SIZE, CLASSES = 32, ["red", "green", "blue"]
ENTRIES = {"format": "mlclip.onnx", "version": "1", "classes": json.dumps(CLASSES), "size": str(SIZE)}
ENTRIES["thresholds"] = "[0.5, 0.6, 0.5]"


def write_model(file: Path, *, scale: float = 1 / 255, **changes: str | None) -> Path:
    """A model whose three scores are the means of red, green and blue, times `scale`; with `changes` of its metadata."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "scale"], ["scores"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 3, SIZE, SIZE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    factor = helper.make_tensor("scale", TensorProto.FLOAT, [], [scale])
    graph = helper.make_graph(nodes, "means", [pixels], [scores], [axes, factor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for key, value in (ENTRIES | changes).items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(file))
    return file


@pytest.fixture
def model(tmp_path) -> Path:
    return write_model(tmp_path / "model.onnx")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None  # an import of them fails
from mlclip.cli import _status
sys.exit(_status(sys.argv[1:]))
"""


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_every_format_is_printed_without_torch(model, photos, form):
    done = run("predict", photos, "--model", model, "--format", form, "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert "00.jpg" in done.stdout and "11.jpg" in done.stdout
    if form == "json":
        first, second = json.loads(done.stdout)[:2]
        assert (first["labels"], second["labels"]) == (["red"], ["green"])
        assert list(first["scores"]) == CLASSES


def test_the_scores_are_those_of_the_resized_photo_for_any_batch_and_thread_count(model, photos):
    found, loaded = find_images([photos]), load_onnx(model)
    one = predict_onnx(found, loaded, batch_size=64)
    for batch_size, threads in ((1, 0), (5, 2), (64, 3)):
        again = predict_onnx(found, loaded, batch_size=batch_size, num_workers=threads)
        assert again.paths == one.paths and np.array_equal(again.scores, one.scores)
    (batch,) = read_batches(found.photos, SIZE, batch_size=64)
    assert np.allclose(one.scores, batch.pixels.mean((2, 3)) / 255, atol=1e-5)
    assert one.meta["thresholds"] == [0.5, 0.6, 0.5]


def test_one_animated_photo_among_several_is_predicted_with_the_defaults(model, photos):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    for frame in frames:
        frame.paste("white", (0, 0, 9, 9))
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    done = run("predict", photos, "--model", model, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert {row["path"]: row["labels"] for row in json.loads(done.stdout)}["moving.gif"] == ["red"]
    assert "frames or pages: 1, such as moving.gif" in done.stderr


def test_unreadable_photos_have_no_row_and_are_listed(model, photos, capfd):
    (photos / "03.jpg").write_bytes(b"<html>")
    assert _status(["predict", str(photos), "--model", str(model), "--format", "csv", "--workers", "2"]) == 3
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 12 and "03.jpg" not in out
    assert "03.jpg: not an image (looks like HTML)" in err
    for file in photos.iterdir():
        file.write_bytes(b"")
    assert _status(["predict", str(photos), "--model", str(model)]) == 1
    assert "none of the 12 photos" in capfd.readouterr().err


def test_evaluate_and_the_python_function_take_an_onnx_model(model, photos, tmp_path, capfd):
    rows = [f"{number:02d}.jpg,{','.join(str(int(number % 3 == c)) for c in range(3))}" for number in range(12)]
    (tmp_path / "truth.csv").write_text("\n".join(["path,red,green,blue", *rows]))
    command = ["evaluate", str(photos), "--model", str(model), "--truth", str(tmp_path / "truth.csv")]
    command += ["--format", "json"]
    assert _status(command) == 0
    assert json.loads(capfd.readouterr().out)["mAP"] == pytest.approx(1.0)
    labels = mlclip.predict(photos, model, progress=mlclip.SILENT)
    assert isinstance(labels, mlclip.Labels) and labels.above_threshold()[2] == ["blue"]


def test_heat_maps_are_refused(model, photos, tmp_path, capfd):
    assert _status(["predict", str(photos), "--model", str(model), "--heatmaps", str(tmp_path / "maps")]) == 2
    assert "--heatmaps needs a model.pt" in capfd.readouterr().err
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"version": "2"},
        {"classes": None},
        {"classes": "[[" * 100_000},
        {"classes": '["red", "red", "blue"]'},
        {"classes": '["red", "blue"]', "thresholds": "[0.5, 0.5]"},
        {"thresholds": "[0.5, 0.5]"},
        {"thresholds": "[0.5, 0.5, NaN]"},
        {"size": "64"},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_metadata_that_does_not_fit_the_network_is_refused(tmp_path, changes):
    with pytest.raises(InputError, match=r"is not a model of this version|do not fit its network") as caught:
        load_onnx(write_model(tmp_path / "m.onnx", **changes))
    assert "m.onnx" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/passwd"])
def test_a_model_that_names_files_elsewhere_is_refused(model, photos, place, capfd):
    proto = onnx.load(str(model))
    tensor = proto.graph.initializer[1]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    model.write_bytes(proto.SerializeToString())
    (model.parent.parent / "secret.bin").write_bytes(bytes(4))
    assert _status(["predict", str(photos), "--model", str(model)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "model.onnx is not a readable ONNX file" in line


def test_scores_out_of_range_are_refused(tmp_path, photos):
    model = load_onnx(write_model(tmp_path / "m.onnx", scale=1.0))
    with pytest.raises(InputError, match="not numbers from 0 to 1"):
        predict_onnx(find_images([photos]), model)


def test_without_onnxruntime_the_error_says_how_to_install_it(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        load_onnx(model)


def test_an_unavailable_device_is_refused(model):
    with pytest.raises(InputError, match=r'`device="mps"` is not available for ONNX models'):
        load_onnx(model, "mps")
