"""`mlclip models`: the list of teachers, and the quick test of one; the teacher's facts travel into labels and models."""

import pytest
import torch

import mlclip
from mlclip.cli import _status
from mlclip.clip import load_clip
from mlclip.clip.pixels import Pixels
from mlclip.clip.registry import FAMILIES, in_hub_cache
from mlclip.config import InputError
from mlclip.teacher.scoring import Teacher
from mlclip.training.local_views import crop_scorer_for


@pytest.fixture
def deaf_file(clip_file, tmp_path):
    """The random CLIP with a scale of 1: all its scores are almost equal."""
    state = torch.load(clip_file) | {"logit_scale": torch.tensor(0.0)}
    torch.save(state, tmp_path / "deaf.pt")
    return str(tmp_path / "deaf.pt")


def test_the_tiny_clip_passes_its_test_silently_without_the_network(capsys):
    assert _status(["models", "--check", "tiny", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    lines = out.replace("mean top-1", "top1").replace("drawn pictures", "drawn").splitlines()
    facts = dict(line.split(None, 1) for line in lines)
    assert facts["activation"] == "quick_gelu" and facts["pixels"].startswith("OpenAI's mean and std, bicubic")
    assert facts["licence"] == "mit" and "18" in facts["drawn"] and int(facts["drawn"].split()[0]) >= 14
    assert float(facts["top1"].split()[0]) > 0.5 and err == ""


def test_flat_scores_and_assumed_facts_are_warnings_and_a_broken_file_fails(deaf_file, capsys):
    assert _status(["models", "--check", deaf_file, "--device", "cpu"]) == 0
    err = capsys.readouterr().err
    assert "scores are almost equal for all names" in err and "are assumed" in err
    given = ["--set", "clip_activation=gelu", "--set", "clip_pixels=half"]
    assert _status(["models", "--check", deaf_file, "--device", "cpu", *given]) == 0
    out, err = capsys.readouterr()
    assert "are assumed" not in err and "mean 0.5, std 0.5, bicubic" in out and "gelu" in out
    assert _status(["models", "--check", "no.pt"]) == 1 and _status(["models", "--check", "RN50"]) == 1
    assert "nothing may be downloaded" in capsys.readouterr().err
    assert _status(["models", "--set", "clip_pixels=half"]) == 2


def test_the_list_names_every_family_with_its_licence_and_what_is_here(tmp_path, monkeypatch, capsys):
    (tmp_path / "models--timm--ViT-B-16-SigLIP2").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert _status(["models"]) == 0
    out = capsys.readouterr().out
    assert all(family.name in out and family.licence in out for family in FAMILIES)
    assert (
        max(len(line) for line in out.splitlines() if "Downloads go to" not in line) <= 100
        and "Without --clip: RN50x64 on a GPU" in out
    )
    assert "apple-amlr: for research only" in out and "timm/ViT-B-16-SigLIP2" in out and "CLIP_benchmark" in out
    assert [f.name for f in FAMILIES if in_hub_cache(f)] == ["SigLIP, SigLIP 2"]


@pytest.fixture
def labels(photos, clip_file):
    settings = {"clip": str(clip_file), "clip_activation": "gelu", "clip_pixels": "0.4/0.3/bilinear"}
    return mlclip.pseudolabel(photos, ["red", "green", "blue"], device="cpu", progress=mlclip.SILENT, **settings)


def test_labels_and_models_hold_the_pixels_and_licence_of_the_teacher(labels, tmp_path):
    facts = labels.meta["clip"]
    assert facts["pixels"] == Pixels((0.4,) * 3, (0.3,) * 3, "bilinear").as_plain() and facts["licence"] == ""
    quiet = {"device": "cpu", "progress": mlclip.SILENT}
    mlclip.write_labels(labels, tmp_path / "labels.pt")
    model = mlclip.train(tmp_path / "labels.pt", tmp_path / "model.pt", arch="clip-head", **quiet)
    assert model.meta["labels_meta"]["clip"] == facts
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["clip"]["pixels"] == facts["pixels"]
    both = [mlclip.predict(labels.root, m, **quiet).scores for m in (model, tmp_path / "model.pt")]
    assert torch.equal(*both)  # the model that is read again loads its CLIP with the same pixels
    del content["clip"]["pixels"]
    torch.save(content, tmp_path / "old.pt")  # from before there were pixels: OpenAI's
    assert not torch.equal(mlclip.predict(labels.root, tmp_path / "old.pt", **quiet).scores, both[0])
    content["clip"]["pixels"] = {"mean": [9, 9, 9]}
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(InputError, match=r"this model needs CLIP .*: the pixels' mean is"):
        mlclip.predict(labels.root, tmp_path / "bad.pt", **quiet)


def test_other_pixels_or_another_activation_are_not_the_labels_teacher(labels, clip_file):
    half = Pixels((0.4,) * 3, (0.3,) * 3, "bilinear")
    same = Teacher(load_clip(clip_file, activation="gelu", pixels=half))
    crop_scorer_for(labels, same)
    with pytest.raises(InputError, match=r"its pixels is OpenAI's.*; theirs is mean 0.4,0.4,0.4.*`other_teacher=True`"):
        crop_scorer_for(labels, Teacher(load_clip(clip_file, activation="gelu")))
    with pytest.raises(InputError, match=r"its activation is quick_gelu; theirs is gelu"):
        crop_scorer_for(labels, Teacher(load_clip(clip_file, pixels=half)))
    crop_scorer_for(labels, Teacher(load_clip(clip_file)), other_teacher=True)
