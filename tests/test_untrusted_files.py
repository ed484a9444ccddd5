"""Files from a stranger: none runs code, and each wrong one ends in one line that names it."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from small_onnx import write_small_onnx
from weight_files import Malicious

import mlclip
from mlclip import files
from mlclip.clip.weights import read_state_dict
from mlclip.config import InputError, TrainConfig
from mlclip.labels.table import Labels, read_labels, write_labels
from mlclip.plain import FIELDS, read_torch
from mlclip.student.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mlclip.student.init import load_trunk
from mlclip.student.model import Classifier, clip_trunk
from mlclip.teacher.store import Key, Store

PACKAGE = Path(mlclip.__file__).parent
CLASSES = ["cat", "dog", "bird"]


def refusal(read, *arguments, **options):
    """The one-line message of the InputError that `read` raises."""
    with pytest.raises(InputError) as caught:
        read(*arguments, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.fixture(scope="module")
def model_content(tmp_path_factory):
    """The content of a valid model.pt."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("model") / "model.pt"
    save_checkpoint(Checkpoint(Classifier("mobilenet_v3_small", CLASSES, 64), torch.full((3,), 0.5), {}), file)
    return torch.load(file, weights_only=True)


@pytest.fixture
def model_file(model_content, tmp_path):
    """Writes a model.pt with changed fields, and returns its path."""

    def write(**changes):
        torch.save({**model_content, **changes}, tmp_path / "model.pt")
        return tmp_path / "model.pt"

    return write


# Code runs from a file


def test_only_two_modules_unpickle_and_neither_may_run_code():
    others = r"pickle\.loads?\(|Unpickler\b|load_state_dict_from_url|get_state_dict\(|torch\.jit\.load|jit\.load\("
    calls = re.compile(rf"torch\.load\(.*|{others}")
    found = {(file.name, call) for file in PACKAGE.rglob("*.py") for call in calls.findall(file.read_text())}
    loads = {call for name, call in found if name == "plain.py"}
    assert len(loads) == 1 and "weights_only=True" in loads.pop()
    assert {name for name, _ in found} == {"plain.py", "weights.py"}
    assert {call for name, call in found if name == "weights.py"} == {"Unpickler"}


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Makes torchvision say that a file of this content is its resnet18, and returns where its cache keeps it."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))

    def use(content: bytes, digits: str | None = None) -> Path:
        name = f"resnet18-{digits or hashlib.sha256(content).hexdigest()[:8]}.pth"
        (tmp_path / "served").mkdir()
        (tmp_path / "served" / name).write_bytes(content)
        entry = SimpleNamespace(url=(tmp_path / "served" / name).as_uri())
        known = SimpleNamespace(DEFAULT=entry, IMAGENET1K_V1=entry)
        monkeypatch.setattr(torchvision.models, "get_model_weights", lambda arch: known)
        return tmp_path / "hub" / "checkpoints" / name

    return use


def saved(content, **how) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def resnet18(**how) -> bytes:
    torch.manual_seed(0)
    return saved(torchvision.models.resnet18(num_classes=2).state_dict(), **how)


@pytest.mark.parametrize("new", [True, False])
def test_torchvision_weights_are_downloaded_once_and_loaded(cached, new):
    content = resnet18(_use_new_zipfile_serialization=new)
    file = cached(content)
    student = Classifier("resnet18", CLASSES, 64)
    load_trunk(student, "imagenet")
    assert file.read_bytes() == content
    load_trunk(student, "imagenet", offline=True)
    expected = torch.load(io.BytesIO(content), weights_only=True)
    assert torch.equal(student.trunk.state_dict()["layer4.1.conv2.weight"], expected["layer4.1.conv2.weight"])


def test_a_malicious_pickle_in_torchvision_s_cache_is_not_executed(cached, tmp_path):
    evil = saved({"conv1.weight": torch.zeros(2), "evil": Malicious(tmp_path / "ran")})
    file = cached(evil)
    file.parent.mkdir(parents=True)
    file.write_bytes(evil)
    message = refusal(load_trunk, Classifier("resnet18", CLASSES, 64), "imagenet", offline=True)
    assert "Nothing was executed" in message and str(file) in message and "resnet18" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("remote", ["missing", "other"])
def test_weights_that_cannot_be_downloaded_name_the_model(cached, tmp_path, remote):
    file = cached(b"other content", "f37072fd")
    if remote == "missing":
        (tmp_path / "served" / file.name).unlink()
    message = refusal(load_trunk, Classifier("resnet18", CLASSES, 64), "imagenet")
    assert "resnet18 cannot be downloaded" in message and str(file) in message and not file.exists()
    assert "resnet18 are missing" in refusal(load_trunk, Classifier("resnet18", CLASSES, 64), "imagenet", offline=True)


@pytest.mark.parametrize("kind", list(FIELDS))
def test_a_malicious_pickle_of_every_kind_is_refused_and_nothing_is_executed(tmp_path, kind):
    content = {"format": f"mlclip.{kind}", "version": 2, "meta": Malicious(tmp_path / "ran")}
    torch.save(content, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(content))
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("zip.pt", "bare.pt", "old.pt"):
        assert name in refusal(files.load_plain, tmp_path / name, kind=kind, made_by="mlclip train")
    assert not (tmp_path / "ran").exists()


# Odd contents


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2, 2).to_sparse(),
        lambda: torch.zeros(2, 2, device="meta"),
        lambda: torch.zeros(2, 2, dtype=torch.complex64),
        lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.quint8),
    ],
    ids=["sparse", "meta", "complex", "quantized"],
)
@pytest.mark.filterwarnings("ignore:torch.quantize")
def test_only_dense_tensors_of_ordinary_numbers_are_read(tmp_path, make):
    torch.save({"format": "mlclip.labels", "version": 2, "scores": make()}, tmp_path / "labels.pt")
    assert "not a readable labels file" in refusal(read_labels, tmp_path / "labels.pt")


def test_transposed_and_shared_tensors_are_read_as_they_are(tmp_path):
    table = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    content = {"given": table, "part": table[1], "turned": torch.rand(3, 4).T, "again": table, "none": torch.rand(0, 7)}
    files.save_plain({"list": [content, (1, 2.5, None, True, "\udcff")]}, tmp_path / "x.pt")
    for mapped in (False, True):
        found = read_torch(tmp_path / "x.pt", mmap=mapped)["list"]
        assert found[1] == (1, 2.5, None, True, "\udcff")
        for name, tensor in content.items():
            assert torch.equal(found[0][name], tensor) and found[0][name].stride() == tensor.stride()


def test_a_narrow_trunk_that_claims_to_be_wide_is_refused_before_it_is_built(model_content, model_file, tmp_path):
    wide = {"layer1.0.conv1.weight": torch.zeros(50_000, 1), "layer4.0.conv1.weight": torch.zeros(1)}
    weights = {f"trunk.{name}": value for name, value in wide.items()}
    head = {"head.weight": model_content["weights"]["head.weight"]}
    assert "clip-resnet" in refusal(load_checkpoint, model_file(arch="clip-resnet", weights={**weights, **head}))
    assert "a.pt" in refusal(clip_trunk, {f"visual.{name}": value for name, value in wide.items()}, "a.pt")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"scores":' * 50_000, '{"scores": [[' + "9" * 100_000 + "]]}"])
@pytest.mark.parametrize("name", ["l.json", "l.jsonl"])
def test_deep_json_and_giant_numbers_are_refused(tmp_path, text, name):
    (tmp_path / name).write_text(text)
    assert name in refusal(read_labels, tmp_path / name)


def test_meta_that_is_nested_too_deeply_or_contains_itself_is_refused(tmp_path):
    deep, doubled, endless = [], [], []
    for _ in range(100):
        deep = [deep]
    for _ in range(45):
        doubled = [doubled, doubled]
    endless.append(endless)
    for meta in (deep, doubled, endless):
        torch.save({"format": "mlclip.labels", "version": 2, "meta": meta}, tmp_path / "l.pt")
        assert "endlessly nested" in refusal(read_labels, tmp_path / "l.pt")


# Fields are believed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", -5),
        ("size", 64.0),
        ("size", 100_000),
        ("thresholds", torch.tensor([0, 1, 1])),
        ("thresholds", torch.full((2,), 0.5)),
        ("thresholds", torch.full((3,), float("nan"))),
        ("meta", None),
        ("meta.calibration", {"calibration": 3}),
        ("meta.hierarchy", {"hierarchy": {"parents": {"cat": "dog", "dog": "cat"}, "groups": []}}),
        ("classes", []),
        ("classes", ["a", "a", "b"]),
        ("classes", ["a", 2, "b"]),
        ("weights.head", {}),
        ("weights", {"head.weight": torch.zeros(3)}),
        ("weights", {"head.weight": torch.full((3, 1, 1, 1), float("nan"))}),
        ("arch", 3),
    ],
)
def test_a_wrong_field_of_a_model_is_named(model_file, field, value):
    message = refusal(load_checkpoint, model_file(**{field.split(".")[0]: value}))
    assert f"'{field}" in message and "model.pt" in message


VALID = {
    "model": {},
    "labels": {
        "root": ".", "paths": ["a", "b"], "classes": ["x"], "scores": torch.ones(2, 1),
        "meta": {"clip": {"name": "tiny", "sha256": "0", "logit_scale": 1.0}, "prompts": ["x"], "settings": {}},
    },
    "resume": {
        "run": {"settings": {}, "labels": "0"}, "epochs": 1, "weights": {"a": torch.ones(1)}, "given": torch.ones(2, 1),
        "optimizer": {"state": {}, "param_groups": [{}]}, "latent": None, "update": {}, "average": None, "skipped": {}, "log": [],
        "precision": "fp32", "photos": ["a", "b"],
    },
    **{
        kind: {"content": torch.zeros(1, 16, dtype=torch.uint8), "bytes": [1], "embeddings": torch.ones(1, 2, 3).half()}
        for kind in ("embeddings", "features", "cells")
    },
    "photos": {"photos": [["a", 1, 2]], "content": torch.zeros(1, 16, dtype=torch.uint8)},
}  # fmt: skip


@pytest.mark.parametrize("kind", list(FIELDS))
def test_every_required_field_of_every_kind_is_checked_and_named(tmp_path, model_content, kind):
    content = (model_content if kind == "model" else VALID[kind]) | {"format": f"mlclip.{kind}", "version": 2}
    read = {"kind": kind, "made_by": "mlclip train"}
    torch.save(content, tmp_path / "x.pt")
    assert set(files.load_plain(tmp_path / "x.pt", **read)) == set(content)
    fields = [name for name in FIELDS[kind] if "." not in name and "?" not in name]
    for name in fields:
        for value in ("missing", 3.5, [None], torch.zeros(1, 1, 1, 1)):
            changed = {k: v for k, v in content.items() if k != name} | ({} if value == "missing" else {name: value})
            torch.save(changed, tmp_path / "x.pt")
            assert f"'{name}'" in refusal(files.load_plain, tmp_path / "x.pt", **read), (name, value)


@pytest.mark.parametrize("version", [1, None, "2"])
def test_only_version_2_is_read(tmp_path, version):
    torch.save({"format": "mlclip.labels", "version": version}, tmp_path / "l.pt")
    assert "This mlclip reads version 2" in refusal(read_labels, tmp_path / "l.pt")


@pytest.mark.parametrize("suffix", [".pt", ".json"])
@pytest.mark.parametrize("meta", [{"clip": 3}, {"clip": {"name": 1}}, {"prompts": "x"}, {"settings": []}])
def test_damaged_facts_about_labels_are_named(tmp_path, suffix, meta):
    write_labels(Labels(["a"], ["x"], torch.ones(1, 1), meta=meta), tmp_path / f"l{suffix}")
    assert f"'meta.{next(iter(meta))}'" in refusal(read_labels, tmp_path / f"l{suffix}")


@pytest.mark.parametrize(
    "change",
    [
        {"given": torch.ones(3, 3)},
        {"latent": torch.zeros(12, 3)},
        {"weights": {"head.weight": torch.ones(1)}},
        {"optimizer": {"state": {0: {"step": torch.ones(1), "exp_avg": torch.ones(9)}}, "param_groups": [{}, {}]}},
        {"optimizer": {"state": {0: {}}, "param_groups": [{}, {}]}},
    ],
)
def test_a_resume_file_of_another_training_is_refused_and_named(photos, tmp_path, change):
    paths = sorted(file.name for file in photos.iterdir())
    labels = Labels(paths, CLASSES, torch.rand(12, 3), root=str(photos))
    settings = {"arch": "mobilenet_v3_small", "init": "none", "size": 64, "epochs": 1, "batch_size": 12}
    from mlclip.distributed import Runtime
    from mlclip.training.start import start_training
    from mlclip.training.state import save_state

    config = TrainConfig(**settings)
    saved = {"offline": True, "resume_from": tmp_path / "model.resume.pt"}
    save_state(start_training(labels, config, Runtime(), offline=True), tmp_path / "model.resume.pt")
    start_training(labels, config, Runtime(), **saved)
    content = torch.load(tmp_path / "model.resume.pt", weights_only=True)
    torch.save({**content, **change}, tmp_path / "model.resume.pt")
    with pytest.raises(InputError, match=r"model\.resume\.pt"):
        start_training(labels, config, Runtime(), **saved)


# Names, seeds, folders, locks


def test_a_nul_in_a_name_is_one_clear_line(photos, tmp_path):
    name = str(tmp_path / "a\0b.pt")
    labels = Labels(["00.jpg"], CLASSES, torch.rand(1, 3), root=str(photos))
    key = Key("embeddings", "0", "quick_gelu", 64, (1,))
    for call in (
        lambda: read_labels(name),
        lambda: write_labels(labels, name),
        lambda: load_checkpoint(name),
        lambda: read_state_dict(name),
        lambda: mlclip.train(labels, name, arch="mobilenet_v3_small", init="none", size=64),
        lambda: mlclip.pseudolabel(name),
        lambda: mlclip.pseudolabel(photos, CLASSES, clip=name),
        lambda: Store(name, key),
        lambda: Labels(["a\0.jpg"], ["x"], torch.ones(1, 1)),
    ):
        refusal(call)


def test_a_file_system_without_locks_does_not_lock(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    for number in (1, 5, 22, 37, 38, 95, 121):

        def refuse(*_, number=number):
            raise OSError(number, "no locks here")

        monkeypatch.setattr(fcntl, "flock", refuse)
        with files.locked(tmp_path / "lock", "x"):
            assert (tmp_path / "lock").exists()
        assert not (tmp_path / "lock").exists()


def test_onnxruntime_does_not_print_about_a_damaged_model(tmp_path, capfd):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from mlclip.student.onnx_model import load_onnx

    path = tmp_path / "model.onnx"
    write_small_onnx(path, CLASSES)
    path.write_bytes(path.read_bytes().replace(b"Sigmoid", b"Sigm\xffid"))
    assert "is not a readable ONNX file" in refusal(load_onnx, path)
    assert capfd.readouterr().out == ""
