"""The Python front door does what the commands do."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import mlclip
import mlclip.clip
import mlclip.images
from mlclip.cli import _status
from mlclip.config import InputError, OptionError
from mlclip.demo import write_scenes
from mlclip.labels.table import read_labels
from mlclip.progress import LineProgress

ROOT = Path(__file__).parents[1]
SMALL = {"arch": "clip-resnet", "init": "clip", "size": 64, "epochs": 1, "batch_size": 8, "lr": 1e-3}
QUIET = {"device": "cpu", "progress": mlclip.SILENT}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    write_scenes(folder, train=24, test=6)
    return folder


@pytest.fixture(scope="module")
def labels(scenes) -> mlclip.Labels:
    return mlclip.pseudolabel(scenes / "train", clip="tiny", store=scenes / "store", **QUIET)


def test_functions_and_commands_give_equal_labels_and_equal_models(scenes, labels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = ["--device", "cpu", "--quiet"]
    assert _status(["pseudolabel", str(scenes / "train"), "--clip", "tiny", *run]) == 0
    assert torch.equal(read_labels("labels.pt").scores, labels.scores)
    options = [part for name, value in SMALL.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert _status(["train", *options, *run]) == 0
    model = mlclip.train(labels, "own.pt", **SMALL, **QUIET)
    theirs = mlclip.load_model("model.pt", device="cpu")
    for name, weights in model.model.state_dict().items():
        assert torch.equal(weights, theirs.model.state_dict()[name]), name
    first = mlclip.predict(scenes / "test", model, **QUIET)
    second = mlclip.predict([str(scenes / "test")], "model.pt", **QUIET)
    assert torch.equal(first.scores, second.scores) and first.paths == second.paths


def test_class_names_may_be_a_list_a_dict_a_string_or_lie_beside_the_photos(scenes, labels):
    names = (scenes / "classes.txt").read_text().split("\n")[:-1]
    for classes in (names, {name: name for name in names}, ",".join(names), scenes / "classes.txt"):
        again = mlclip.pseudolabel(scenes / "train", classes, clip="tiny", store=scenes / "store", **QUIET)
        assert again.classes == names
        assert torch.equal(again.scores, labels.scores)


def test_output_is_written_and_not_replaced_by_accident(scenes, tmp_path):
    call = {"clip": "tiny", "store": scenes / "store", "output": tmp_path / "labels.pt", **QUIET}
    written = mlclip.pseudolabel(scenes / "train", **call)
    assert torch.equal(read_labels(tmp_path / "labels.pt").scores, written.scores)
    with pytest.raises(InputError, match="overwrite=True"):
        mlclip.pseudolabel(scenes / "train", **call)
    mlclip.pseudolabel(scenes / "train", overwrite=True, **call)


def test_evaluate_says_how_much_was_matched(scenes, labels):
    result = mlclip.evaluate(labels, scenes / "truth_train.csv")
    assert 0 < result.mean_average_precision <= 1
    assert len(result.match.rows) == 24 and len(result.match.classes) == len(labels.classes)
    assert set(result.average_precision) | set(result.without_positives) == set(labels.classes)
    some = mlclip.evaluate(labels, scenes / "truth_train.csv", only=["star", "moon"])
    assert set(some.average_precision) | set(some.without_positives) == {"star", "moon"}
    with pytest.raises(InputError, match="unicorn"):
        mlclip.evaluate(labels, scenes / "truth_train.csv", only=["unicorn"])


def test_an_unknown_setting_is_named_with_the_nearest_one(labels, tmp_path):
    with pytest.raises(OptionError, match="no setting `epoch`; did you mean `epochs`"):
        mlclip.train(labels, tmp_path / "m.pt", epoch=3, **QUIET)
    with pytest.raises(OptionError, match="no setting `zeta_`; did you mean `zeta`"):
        mlclip.pseudolabel(labels.root, zeta_=0.2)
    with pytest.raises(OptionError, match="`epochs` is 0"):
        mlclip.train(labels, tmp_path / "m.pt", epochs=0, **QUIET)


def test_the_labels_being_read_are_not_replaced(labels, tmp_path):
    mlclip.write_labels(labels, tmp_path / "labels.pt")
    with pytest.raises(OptionError, match="would replace the labels"):
        mlclip.train(tmp_path / "labels.pt", tmp_path / "m.pt", method="cdul", save_labels=tmp_path / "labels.pt")


@pytest.mark.parametrize("package", [mlclip, mlclip.clip, mlclip.images], ids=lambda package: package.__name__)
def test_every_public_name_exists_and_type_checkers_see_those_of_the_package(package):
    text = Path(package.__file__).read_text()
    for name in package.__all__:
        assert f"import {name} as {name}" in text or package is not mlclip, name
        assert getattr(package, name) is vars(package)[name]  # kept after the first use
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_the_notebook_runs_and_its_results_are_short(tmp_path, own_cache, monkeypatch, capfd):
    """As a notebook does it: the value of a cell's last line is shown, by its `_repr_html_` where it has one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ipykernel", None)  # progress goes where a notebook wants it
    names, shown = {}, []
    for cell in json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())["cells"]:
        tree = ast.parse("".join(cell["source"])) if cell["cell_type"] == "code" else ast.Module([], [])
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if last:
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    out, err = capfd.readouterr()
    assert err == "" and "encoding photos" in out and "\r" in out
    labels, first, *_, model, one, _, evaluation = shown[1:]
    assert repr(labels).startswith("<Labels: 60 photos × 18 classes, ") and repr(model).startswith(
        "<Checkpoint: clip-resnet"
    )
    pages = []
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=pages.append))
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    labels.show(2)
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(InputError, match="notebook"):
        labels.show(2)
    assert [page.count("<img") for page in pages] == [2]
    assert first._repr_html_().count("<img") == 3 and len(labels._repr_html_()) < 60_000
    assert "mAP" in repr(evaluation) and "<td>star</td>" in evaluation._repr_html_()
    assert all(len(repr(value)) < 2000 for value in shown) and set(one.labels) <= set(labels.classes)
    with pytest.raises(InputError, match="already exists") as caught:
        names["mlclip"].train(labels, "world/model.pt")
    assert caught.value._render_traceback_() == [f"InputError: {caught.value}"]


def test_on_a_cpu_a_script_needs_no_main_guard(scenes, tmp_path):
    script = tmp_path / "bare.py"
    script.write_text(
        "import mlclip\n"
        f"labels = mlclip.pseudolabel({str(scenes / 'train')!r}, clip='tiny', num_workers=2, device='cpu')\n"
        "print(len(labels))\n"
    )
    environment = {**os.environ, "MLCLIP_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    # Threads decode, so nothing imports the script again.
    assert done.stdout.strip() == "24" and "__main__" not in done.stderr


def test_progress_lines_have_counts_and_rates(capsys):
    progress = LineProgress()
    with progress.bar("encoding", 4, "photos") as bar:
        bar.started -= 3  # seconds
        bar.update(3)
    progress.log("done")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("encoding: 3 of 4 photos, ") and lines[0].endswith("0:01 left") and lines[1] == "done"


def test_a_cpu_trains_the_small_student_unless_the_papers_settings_are_wanted(labels, tmp_path, monkeypatch):
    seen = []

    def fake_train(table, output, *, config, **rest):
        seen.append(config)

    monkeypatch.setattr("mlclip.training.train.train_student", fake_train)
    mlclip.train(labels, tmp_path / "m.pt", **QUIET)
    mlclip.train(labels, tmp_path / "m.pt", preset="paper", **QUIET)
    mlclip.train(labels, tmp_path / "m.pt", size=96, method="ccd", **QUIET)
    small, paper, own = seen
    assert (small.arch, small.size, small.epochs, small.batch_size, small.lr) == ("mobilenet_v2", 224, 4, 32, 1e-4)
    assert (paper.arch, paper.size, paper.epochs, paper.batch_size, paper.lr) == ("resnet101", 448, 20, 8, 1e-5)
    assert (own.arch, own.size, own.epochs) == ("mobilenet_v2", 96, 4)
    assert mlclip.TrainConfig().arch == "resnet101"
