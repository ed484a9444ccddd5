"""A head on CLIP's own embeddings: its fit, its training from the labels' store, its file, its predictions."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
import torch.nn.functional as F

import mlclip
from mlclip.cli import _status
from mlclip.clip import load_clip
from mlclip.clip.pixels import OPENAI
from mlclip.config import InputError, OptionError, TrainConfig
from mlclip.images import PhotoViews, find_images
from mlclip.methods.dense import pool_cells
from mlclip.methods.linear_head import LOG_MEAN_EXP, MEAN, choose_l2, fit_head, fit_pooled_head, pooled_logits
from mlclip.student.checkpoint import load_checkpoint, save_checkpoint
from mlclip.student.export import export_onnx
from mlclip.student.heatmaps import write_heatmaps
from mlclip.teacher.encode import embed_views_and_cells
from mlclip.teacher.scoring import Teacher
from mlclip.training.probe import fit_pooled

CLASSES = ["red", "green", "blue"]


def problem(photos=60, views=4, channels=8, classes=3, seed=0):
    """Views (photos, views, channels) whose best view decides the soft labels (photos, classes), in float64."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-1, 1, channels, dtype=torch.float64)
    features = torch.randn(photos, views, channels, generator=generator, dtype=torch.float64) * scales + 1
    weight = torch.randn(classes, channels, generator=generator, dtype=torch.float64) / scales
    noise = torch.randn(photos, classes, generator=generator, dtype=torch.float64)
    return features, ((features @ weight.T).amax(1) - 3 + noise).sigmoid()


def objective(views, labels, l2, weight, bias):
    """The objective in a slow form, photo by photo and class by class."""
    total = 0.0
    for photo, targets in zip(views, labels, strict=True):
        for c, target in enumerate(targets.tolist()):
            if not math.isnan(target):
                logit = torch.stack([(view @ weight[c] + bias[c]).exp() for view in photo]).mean().log()
                total = total + F.softplus(logit) - target * logit
    return total / len(views) + l2 / 2 * weight.square().sum()


@pytest.mark.parametrize("l2", [1e-2, 1.0])
def test_the_fit_is_a_minimum_of_the_slow_objective(l2):
    views, labels = problem(photos=20)
    labels[3, 1] = labels[7] = math.nan
    weight, bias = (part.requires_grad_() for part in fit_pooled_head(views, labels, l2))
    value = objective(views, labels, l2, weight, bias)
    for gradient in torch.autograd.grad(value, (weight, bias)):
        assert gradient.abs().max() < 1e-6
    start = objective(views, labels, l2, torch.zeros_like(weight), bias.detach())
    assert value < start


def test_one_view_gives_the_linear_head_and_its_penalty():
    views, labels = problem(views=1)
    weight, bias = fit_pooled_head(views, labels, 0.1)
    expected = fit_head(views[:, 0], labels, 0.1)
    assert torch.allclose(weight, expected[0], atol=1e-6) and torch.allclose(bias, expected[1], atol=1e-6)
    views, labels = views.float(), labels.float()
    assert choose_l2(views, labels, pooled=True).l2 == choose_l2(views, labels).l2


def test_pooled_logits_lie_between_the_mean_and_the_highest_view():
    views, labels = problem()
    weight, bias = fit_pooled_head(views, labels, 0.01)
    each = views @ weight.T + bias
    pooled = pooled_logits(views, weight, bias)
    assert (pooled >= each.mean(1) - 1e-9).all() and (pooled <= each.amax(1) + 1e-9).all()


def test_held_out_photos_choose_the_pool():
    views, best = (part.float() for part in problem())
    mean = views.mean(1)[:, -3:].sigmoid()
    rows = torch.arange(len(views))
    both = {pool: fit_pooled(views, rows, best, pools=[pool]).loss for pool in (LOG_MEAN_EXP, MEAN)}
    assert both[LOG_MEAN_EXP] < 0.9 * both[MEAN]
    chosen = fit_pooled(views, rows, best)
    assert (chosen.pool, chosen.loss) == (LOG_MEAN_EXP, both[LOG_MEAN_EXP])
    chosen = fit_pooled(views, rows, mean)
    assert chosen.pool == MEAN
    logits = pooled_logits(views, chosen.weight, chosen.bias, MEAN)
    assert torch.allclose(logits, views.mean(1) @ chosen.weight.T + chosen.bias)


@pytest.fixture
def labels(photos, clip_file):
    settings = {"clip": str(clip_file), "device": "cpu", "progress": mlclip.SILENT}
    table = mlclip.pseudolabel(photos, CLASSES, **settings)
    scores = F.one_hot(torch.arange(12) % 3).float() * 0.9 + 0.05  # the random CLIP knows no colours
    return mlclip.Labels(table.paths, table.classes, scores, table.root, table.meta)


@pytest.fixture
def encoded(monkeypatch):
    """The number of photos or views that every call of CLIP's image encoder has encoded."""
    counts, real = [], Teacher.portions
    monkeypatch.setattr(Teacher, "portions", lambda self, pixels: counts.append(len(pixels)) or real(self, pixels))
    return counts


@pytest.fixture
def of_views(monkeypatch):
    """The CLIP counts as one whose patch features may mean nothing, such as a transformer. The head then takes views."""
    monkeypatch.setattr(Teacher, "is_resnet", False)


def fit(labels, output, **settings):
    settings = {"arch": "clip-head", "device": "cpu", "progress": mlclip.SILENT} | settings
    return mlclip.train(labels, output, **settings)


def test_training_uses_the_patch_features_of_the_labels_and_learns_them(labels, tmp_path, encoded):
    checkpoint = fit(labels, tmp_path / "model.pt")
    assert encoded == []
    model = checkpoint.model
    assert (model.grids, model.side, model.size, model.arch) == ((1,), 4, 128, "clip-head")
    scores = mlclip.predict(labels.root, checkpoint, device="cpu", progress=mlclip.SILENT).scores
    assert sum(encoded) == 12
    assert (scores.argmax(1) == torch.arange(12) % 3).all()
    log = (tmp_path / "model.log.csv").read_text()
    assert log.startswith("l2,held_out_loss,chosen")


def test_embeddings_in_a_folder_that_the_user_chose_are_found(photos, clip_file, tmp_path, encoded):
    settings = {"clip": str(clip_file), "device": "cpu", "progress": mlclip.SILENT}
    table = mlclip.pseudolabel(photos, CLASSES, store=tmp_path / "store", **settings)
    before = len(encoded)
    fit(table, tmp_path / "model.pt")
    assert len(encoded) == before
    shutil.rmtree(tmp_path / "store")
    fit(table, tmp_path / "again.pt")
    assert sum(encoded[before:]) == 12 and not (tmp_path / "store").exists()


def test_the_file_holds_the_head_and_the_name_of_its_clip_and_predicts_the_same(labels, clip_file, tmp_path):
    trained = fit(labels, tmp_path / "model.pt")
    trained.model.calibrate(torch.tensor([2.0, 1.0, 1.0]), torch.tensor([0.0, 0.5, 0.0]))
    save_checkpoint(trained, tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {name: tuple(t.shape) for name, t in content["weights"].items()} == {
        "head.weight": (3, 32), "head.bias": (3,), "scale": (3,), "offset": (3,)
    }  # fmt: skip
    sha256 = load_clip(clip_file).sha256
    facts = {"name": str(clip_file), "sha256": sha256, "activation": "quick_gelu", "precision": "fp32"}
    facts["pixels"] = OPENAI.as_plain()
    assert content["clip"] == facts and (content["grids"], content["side"]) == ([1], 4)
    loaded = load_checkpoint(tmp_path / "model.pt")
    quiet = {"device": "cpu", "progress": mlclip.SILENT}
    assert torch.equal(*(mlclip.predict(labels.root, model, **quiet).scores for model in (trained, loaded)))
    assert torch.equal(loaded.thresholds, trained.thresholds)


def slow_loop(checkpoint, clip_file, root, size, grids, vectors_of):
    """The scores of each photo, vector by vector."""
    teacher, model, rows = Teacher(load_clip(clip_file)), checkpoint.model, []
    for _, views in map(PhotoViews(find_images([root]).photos, size, grids).__getitem__, range(12)):
        each = torch.stack([model.head(vector) for vector in vectors_of(teacher, views)])
        logits = each.exp().mean(0).log() if model.pool == LOG_MEAN_EXP else each.mean(0)
        assert torch.allclose(model(views[None])[0], logits, atol=1e-3)
        rows.append(logits.sigmoid())
    return torch.stack(rows)


def test_prediction_says_that_clip_runs_and_is_a_slow_loop_over_the_patch_features(labels, clip_file, tmp_path, told):
    checkpoint = fit(labels, tmp_path / "model.pt")
    table = mlclip.predict(labels.root, tmp_path / "model.pt", batch_size=5, device="cpu", progress=told)
    assert told.lines.count(f"this model runs CLIP {clip_file} for every photo (once, 128 px)") == 1

    def vectors_of(teacher, views):
        return pool_cells(embed_views_and_cells(teacher, views, "key")[1], 7)[0]

    expected = slow_loop(checkpoint, clip_file, labels.root, 128, (1,), vectors_of)
    assert torch.allclose(table.scores, expected, atol=1e-4)


def test_a_clip_whose_patch_features_may_mean_nothing_runs_on_views(labels, clip_file, tmp_path, told, of_views):
    checkpoint = fit(labels, tmp_path / "model.pt")
    table = mlclip.predict(labels.root, tmp_path / "model.pt", batch_size=5, device="cpu", progress=told)
    assert told.lines.count(f"this model runs CLIP {clip_file} for every photo (14 views)") == 1

    def vectors_of(teacher, views):
        return [teacher.embed_views(view[None])[0].clone() for view in views]

    expected = slow_loop(checkpoint, clip_file, labels.root, 64, (1, 2, 3), vectors_of)
    assert torch.allclose(table.scores, expected, atol=1e-4)


def test_unreadable_photos_are_skipped_in_training_and_prediction(labels, tmp_path):
    (tmp_path / "photos" / "04.jpg").write_bytes(b"no photo")
    checkpoint = fit(labels, tmp_path / "model.pt")
    assert [path for path, _ in checkpoint.meta["skipped"]] == ["04.jpg"]
    table = mlclip.predict(labels.root, checkpoint, device="cpu", progress=mlclip.SILENT)
    assert len(table.paths) == 11 and table.meta["skipped"][0][0] == "04.jpg"


def test_a_missing_or_different_clip_is_refused_and_a_moved_one_can_be_named(labels, clip_file, tmp_path):
    own = tmp_path / "own.pt"
    shutil.copy(clip_file, own)
    labels.meta["clip"]["name"] = str(own)
    fit(labels, tmp_path / "model.pt")
    moved = own.rename(tmp_path / "moved.pt")
    with pytest.raises(InputError, match=r"needs CLIP .*own\.pt \(sha256 .*is not a file.*load_model"):
        mlclip.predict(labels.root, tmp_path / "model.pt", device="cpu", progress=mlclip.SILENT)
    with pytest.raises(InputError, match="tiny is another one"):
        mlclip.load_model(tmp_path / "model.pt", clip="tiny", device="cpu")
    checkpoint = mlclip.load_model(tmp_path / "model.pt", clip=str(moved), device="cpu")
    assert len(mlclip.predict(labels.root, checkpoint, device="cpu", progress=mlclip.SILENT).paths) == 12


def test_another_clip_than_that_of_the_labels_needs_other_teacher(labels, tmp_path, encoded):
    with pytest.raises(InputError, match=r"did not make these labels.*`other_teacher=True`"):
        fit(labels, tmp_path / "model.pt", clip="tiny")
    fit(labels, tmp_path / "model.pt", clip="tiny", other_teacher=True)
    assert sum(encoded) == 12


@pytest.mark.parametrize("method", ["fixed", "consistent", "cdul", "ccd"])
def test_the_other_methods_are_refused(method):
    with pytest.raises(OptionError, match=f'works only with `method="probe"`, not with `method="{method}"`'):
        TrainConfig(arch="clip-head", method=method)


def test_heat_maps_and_export_are_refused(labels, tmp_path):
    checkpoint = fit(labels, tmp_path / "model.pt")
    with pytest.raises(InputError, match="cannot draw heat maps"):
        write_heatmaps([], [], checkpoint, tmp_path)
    with pytest.raises(InputError, match="cannot be exported to ONNX"):
        export_onnx(checkpoint, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clip", {"name": "x"}),
        ("clip", None),
        ("grids", [0]),
        ("grids", [1, 1]),
        ("grids", []),
        ("grids", "123"),
        ("side", -1),
        ("pool", "max"),
    ],
)
def test_a_wrong_field_of_the_file_is_named(labels, tmp_path, field, value):
    fit(labels, tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    torch.save({**content, field: value}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=f"'{field}'"):
        load_checkpoint(tmp_path / "model.pt")
    del content[field]
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(InputError, match=f"'{field}'"):
        load_checkpoint(tmp_path / "model.pt")


def test_the_commands_train_and_predict(labels, tmp_path, capsys):
    mlclip.write_labels(labels, tmp_path / "labels.pt")
    arguments = ["train", "--labels", f"{tmp_path}/labels.pt", "--arch", "clip-head", "-o", f"{tmp_path}/model.pt"]
    assert _status([*arguments, "--device", "cpu"]) == 0
    told = capsys.readouterr().err
    assert "prediction with this model will run CLIP" in told and "clip-head, 3 classes, 128 px" in told
    table = ["predict", labels.root, "--model", f"{tmp_path}/model.pt", "--format", "csv"]
    assert _status([*table, "--device", "cpu"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 13
