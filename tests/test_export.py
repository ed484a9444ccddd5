"""ONNX: the exported student has the same scores as the PyTorch model. Needs the extra `onnx`."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlclip.cli import _status
from mlclip.clip import read_state_dict
from mlclip.config import ARCHS, CLIP_ARCH, InputError, OptionError
from mlclip.images import find_images
from mlclip.student import export
from mlclip.student.checkpoint import Checkpoint, save_checkpoint
from mlclip.student.export import export_onnx
from mlclip.student.model import Classifier, clip_trunk
from mlclip.student.onnx_model import load_onnx
from mlclip.student.predict import fold_batch_norm, predict


def make_checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    model = Classifier("resnet18", ["cat", "dog"], 64).eval()
    model.calibrate(torch.tensor([0.6, 1.7]), torch.tensor([-0.8, 1.2]))
    return Checkpoint(model, torch.tensor([0.3, 0.6]))


@pytest.fixture
def checkpoint() -> Checkpoint:
    return make_checkpoint()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The fp32 file, and its graph, which takes most of the time."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason="the extra mlclip[onnx] is not installed")
    checkpoint, file = make_checkpoint(), tmp_path_factory.mktemp("onnx") / "m.onnx"
    graph = export._graph(checkpoint.model, export.random_pixels(64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_graph", lambda *_: copy.deepcopy(graph))
        difference = export_onnx(checkpoint, file)
    return file, graph, difference


def test_the_exported_scores_equal_those_of_the_model_for_any_number_of_photos(checkpoint, exported):
    file, _, difference = exported
    assert difference.largest < 1e-4 and difference.photos == 0
    model = load_onnx(file)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    scores = model.scores(pixels)
    with torch.inference_mode():
        expected = checkpoint.model(torch.from_numpy(pixels)).sigmoid()
        plain = checkpoint.model.maps(torch.from_numpy(pixels)).mean((2, 3)).sigmoid()
    assert np.allclose(scores, expected.numpy(), atol=1e-4)
    assert not np.allclose(scores, plain.numpy(), atol=1e-2)  # the calibration is in the file
    assert model.scores(pixels[:0]).shape == (0, 2)
    assert (model.classes, model.size) == (["cat", "dog"], 64)
    assert model.thresholds == pytest.approx([0.3, 0.6])


def test_the_script_for_onnxruntime_alone_names_what_predict_names(exported, tmp_path, monkeypatch, capsys):
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    rng, exif = np.random.default_rng(0), Image.Exif()
    for number, turn in enumerate((1, 6, 1, 3)):
        exif[0x0112] = turn
        noise = Image.fromarray(rng.integers(0, 256, (6 + number, 9, 3), dtype=np.uint8))
        noise.resize((300, 200), Image.Resampling.BICUBIC).save(f"{number}.jpg", exif=exif)
    scores = predict(tmp_path, str(exported[0])).scores
    proto = onnx.load(exported[0])
    (entry,) = [entry for entry in proto.metadata_props if entry.key == "thresholds"]
    entry.value = str(scores.median(0).values.tolist())
    onnx.save(proto, "model.onnx")
    page = (Path(__file__).parents[1] / "docs" / "onnx.md").read_text()
    script = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    monkeypatch.setattr(sys, "argv", ["script.py", *sorted(str(file) for file in Path().glob("*.jpg"))])
    exec(compile(script, "onnx.md", "exec"), {})
    found = [ast.literal_eval(line.partition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    expected = predict(tmp_path, str(tmp_path / "model.onnx"))
    assert [sorted(names) for names in found] == [sorted(names) for names in expected.above_threshold()]
    assert len({len(names) for names in found}) > 1  # not all of them, not none


def test_a_variant_that_is_too_far_from_the_model_is_not_written(checkpoint, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_graph", lambda *_: copy.deepcopy(exported[1]))
    monkeypatch.setitem(export.TOLERANCE, "fp32", (1e-9, 1e-9))
    with pytest.raises(InputError, match="the fp32 model is not good enough: on random images"):
        export_onnx(checkpoint, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_variant_must_exist(checkpoint, tmp_path):
    with pytest.raises(OptionError, match='`variant="int4"` is not known'):
        export_onnx(checkpoint, tmp_path / "m.onnx", variant="int4")


def test_int8_is_a_quarter_of_the_size_and_predict_reads_it(checkpoint, exported, photos, tmp_path, monkeypatch, capfd):
    onnx = pytest.importorskip("onnx")
    file, graph, _ = exported
    monkeypatch.setattr(export, "_graph", lambda *_: copy.deepcopy(graph))
    save_checkpoint(checkpoint, tmp_path / "model.pt")
    small = tmp_path / "small.onnx"
    command = ["export", "--model", str(tmp_path / "model.pt"), "-o", str(small), "--variant", "int8"]
    assert _status(command) == 2
    assert "--variant int8 needs --photos" in capfd.readouterr().err
    assert _status([*command, "--photos", str(photos)]) == 0
    said = capfd.readouterr().err
    told = r"on 12 photos, its scores differ from PyTorch's .*; on this machine it takes \d\.\d\d times as long as"
    assert re.search(told, said)
    kernels = [t for t in onnx.load(small).graph.initializer if t.data_type == onnx.TensorProto.INT8]
    kernels = [abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() for tensor in kernels if len(tensor.dims) == 4]
    assert kernels and max(kernels) <= 64  # 7 bits, so that no sum overflows on a CPU without VNNI
    assert small.stat().st_size < 0.3 * file.stat().st_size
    pixels = export.photo_pixels(find_images([photos]), 64)
    change = np.abs(load_onnx(small).scores(pixels) - load_onnx(file).scores(pixels))
    assert 0 < change.mean() <= export.TOLERANCE["int8"][1]
    assert _status(["predict", str(photos / "00.jpg"), "--model", str(small), "-q"]) == 0
    assert _status([*command[:3], "-o", str(tmp_path / "t.csv"), "--variant", "int8"]) == 2


def test_ctrl_c_during_the_export_ends_it_with_one_line_and_leaves_no_file(checkpoint, tmp_path):
    """The interrupt comes where torch's exporter would swallow it: in a callback of a weak reference."""
    pytest.importorskip("onnxscript", reason="the extra mlclip[onnx] is not installed")
    save_checkpoint(checkpoint, tmp_path / "model.pt")
    code = """
import os, signal, sys, time, weakref
import torch
from mlclip.cli import main
class Thing: pass
inside = torch.onnx.export
def export(*arguments, **options):
    def gone(_):
        print(time.time(), flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    thing = Thing()
    reference = weakref.ref(thing, gone)
    del thing
    return inside(*arguments, **options)
torch.onnx.export = export
main(sys.argv[1:])
"""
    command = ["export", "--model", str(tmp_path / "model.pt"), "-o", str(tmp_path / "m.onnx"), "-q"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=200)
    assert done.returncode == 130 and time.time() - float(done.stdout) < 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("mlclip")]
    assert lines == ["mlclip: interrupted"] and done.stderr.endswith("mlclip: interrupted\n")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


# --- prediction with PyTorch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [*ARCHS, CLIP_ARCH])
def test_folding_batch_norms_into_convolutions_keeps_the_scores(arch, clip_file):
    torch.manual_seed(0)
    trunk = clip_trunk(read_state_dict(clip_file), "small.pt") if arch == CLIP_ARCH else None
    model = Classifier(arch, ["cat", "dog"], 64, trunk=trunk)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    before = copy.deepcopy(model.eval().state_dict())
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        folded = fold_batch_norm(model)
        assert torch.allclose(folded(pixels).sigmoid(), model(pixels).sigmoid(), atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert all(map(torch.equal, model.state_dict().values(), before.values()))  # the model itself does not change


def test_predictions_do_not_depend_on_batches_or_threads(checkpoint, photos):
    found, before = find_images([photos]), torch.get_num_threads()
    one = predict(found, checkpoint, device="cpu", batch_size=1).scores
    try:
        for threads, batch_size, num_workers in ((1, 5, 2), (1, 64, 0), (2, 5, 0), (2, 64, 3), (3, 4, 1)):
            torch.set_num_threads(threads)
            again = predict(found, checkpoint, device="cpu", batch_size=batch_size, num_workers=num_workers).scores
            assert torch.allclose(again, one, atol=1e-6)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_prediction_with_a_default_student_imports_no_torchvision_no_compiler_and_no_tokenizer(photos, tmp_path):
    checkpoint = Checkpoint(Classifier("mobilenet_v2", ["cat", "dog"], 64), torch.tensor([0.3, 0.6]))
    save_checkpoint(checkpoint, tmp_path / "model.pt")
    slow = {"torchvision", "torch._dynamo", "sympy", "ftfy", "pandas", "onnxruntime"}
    if torch.__version__.startswith("2.6."):
        slow.remove("sympy")  # torch 2.6 imports it for the shapes of a convolution on the meta device
    code = (
        "import sys; from mlclip.cli import _status; status = _status(sys.argv[1:]);"
        f"found = {slow} & set(sys.modules);"
        "sys.exit(f'imported {found}' if found else status)"
    )
    arguments = ["predict", str(photos / "00.jpg"), "--model", str(tmp_path / "model.pt"), "--device", "cpu", "-q"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
