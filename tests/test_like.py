"""New photos, labelled as an earlier table was: `mlclip pseudolabel new/ --like labels.pt`."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from test_dense import MemoryViews, ToyCLIP, toy

from mlclip import InputError, Labels, Progress, PseudolabelConfig, pseudolabel, read_labels, write_labels
from mlclip.cli import _status
from mlclip.demo import write_scenes
from mlclip.methods import centred, profiles
from mlclip.teacher import label, passes
from mlclip.teacher.fitted import other_kind, read_like
from mlclip.training.state import model_meta

FIRST, SUBSET = 24, 3
METHODS = {
    "cdul": ["--method", "cdul", "--set", "zeta=0.4"],
    "ccd": ["--method", "ccd", "--template", "ensemble"],
    "centred": ["--method", "centred", "--contrast", "landscape,building"],
    "dense": ["--method", "dense", "--views", "views,2", "--set", "temperature=0.02"],
    "patches": ["--method", "dense", "--views", "fast", "--set", "profiles=false"],
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes, three of them again in a folder of their own, and labels of all by each method, in a.pt, b.pt, ..."""
    folder = tmp_path_factory.mktemp("like")
    write_scenes(folder, train=FIRST, test=0, seed=5)
    (folder / "few").mkdir()
    for number in range(SUBSET):
        shutil.copy(folder / "train" / f"{number:05d}.jpg", folder / "few")
    names = (folder / "classes.txt").read_text().split("\n")
    (folder / "classes.txt").write_text("\n".join(["plant > flower", *[name for name in names if name != "flower"]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLCLIP_CACHE", str(folder / "cache"))
        for method, options in METHODS.items():
            made = ["pseudolabel", "train", "--clip", "tiny", *options, "-o", f"{method}.pt", "-q"]
            assert _status(made) == 0
        yield folder


@pytest.fixture(autouse=True)
def shared_cache(own_cache, request, monkeypatch):
    """Photos are encoded once: encoded in other batches, half-precision vectors may be rounded in another way."""
    if "scenes" in request.fixturenames:
        monkeypatch.setenv("MLCLIP_CACHE", str(request.getfixturevalue("scenes") / "cache"))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_photos_get_the_same_labels_alone_and_together_and_nothing_is_fitted(scenes, method, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("something was fitted")

    for module, name in (
        (centred, "fit_mixture"), (profiles, "fit_profiles"), (profiles, "fit_ranking"), (label, "fit_bias"),
        (passes, "name_competition"), (passes, "class_levels"), (label.dense, "agreement"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, fail)
    first = read_labels(f"{method}.pt")
    for images in ("train", "few"):
        assert _status(["pseudolabel", images, "--like", f"{method}.pt", "-o", "new.pt", "--overwrite", "-q"]) == 0
        new = read_labels("new.pt")
        same = first.aligned(new.paths, first.classes)
        assert new.classes == first.classes and (new.scores - same.scores).abs().max() <= 1e-6
        for key in ("method", "settings", "prompts", "contrast", "templates", "hierarchy", "thresholds", "clip"):
            assert new.meta[key] == first.meta[key]
    assert len(new) == SUBSET and "plant" in new.classes
    again = pseudolabel(
        "few", like=new, progress=Progress(), device="cpu"
    )  # labels that were made with `like` serve as well
    assert torch.equal(again.scores, new.scores)


def test_fitted_values_are_kept_in_json_and_in_no_other_file(scenes):
    first = read_labels("centred.pt")
    write_labels(first, "a.json", overwrite=True)
    assert _status(["pseudolabel", "few", "--like", "a.json", "-o", "new.pt", "--overwrite", "-q"]) == 0
    new = read_labels("new.pt")
    assert torch.equal(new.scores, first.aligned(new.paths, new.classes).scores)
    assert "fitted" not in model_meta({}, first, {})["labels_meta"]
    for suffix in ("csv", "jsonl"):
        write_labels(first, f"a.{suffix}", overwrite=True)
        with pytest.raises(InputError, match=f"a.{suffix}: .* no fitted values; label the folder again"):
            pseudolabel("few", like=f"a.{suffix}", device="cpu")


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--classes", "cat,dog"], 2, "Remove --classes, or label without --like"),
        (["--method", "ccd"], 2, "Remove --method"),
        (["--views", "fast"], 2, "Remove --views"),
        (["--set", "rank_scale=0.3", "--contrast", "sky"], 2, "Remove rank_scale, --contrast"),
        (["--template", "a {}"], 2, "Remove --template"),
        (["--clip", "other.pt", "--offline"], 1, "did not make these labels: its sha256 is"),
    ],
)
def test_what_would_change_the_fit_is_an_error(scenes, capfd, options, status, words):
    if "--clip" in options:
        torch.save(ToyCLIP().state_dict(), "other.pt")
    assert _status(["pseudolabel", "few", "--like", "centred.pt", "-o", "new2.pt", *options]) == status
    assert words in " ".join(capfd.readouterr().err.split())


def test_damaged_fitted_values_are_an_error(scenes):
    first = read_labels("dense.pt")
    columns = first.aligned(first.paths, first.classes[:5])
    with pytest.raises(InputError, match="of other classes"):
        read_like(columns, {})
    first.meta["fitted"]["sets"]["2"].pop("gaussians")
    with pytest.raises(InputError, match="fitted values of `like` are damaged"):
        pseudolabel("few", like=first, device="cpu")


def test_other_photos_get_a_warning_and_more_of_the_same_kind_none(scenes, capfd):
    write_scenes("more", train=FIRST, test=0, seed=6)
    for name in (f"{number:05d}.jpg" for number in range(FIRST)):
        with Image.open(f"train/{name}") as photo:
            (scenes / "odd").mkdir(exist_ok=True)
            ImageOps.invert(photo).save(f"odd/{name}")
    said = {}
    for images in ("more/train", "odd"):
        assert _status(["pseudolabel", images, "--like", "centred.pt", "-o", "new.pt", "--overwrite", "-q"]) == 0
        said[images] = capfd.readouterr().err
    assert said["more/train"] == "" and "warning: these photos are of another kind" in said["odd"]


def test_the_warning_is_as_rare_as_promised_and_finds_a_small_shift_of_many_photos():
    generator = torch.Generator().manual_seed(0)

    def seen(photos, shift=0.0):
        x = torch.randn(photos, 8, generator=generator) * 0.02 + 0.2 + shift
        return {"photos": torch.full((8,), float(photos)), "mean": x.mean(0), "variance": x.var(0)}

    names = [f"c{number}" for number in range(8)]
    assert sum(other_kind(seen(100), seen(400), names) is not None for _ in range(500)) <= 5
    assert "8 of 8 classes" in other_kind(seen(2000, shift=0.005), seen(2000), names)
    assert other_kind(seen(5, shift=1.0), seen(5), names) is None  # too few to say anything


def test_a_view_set_that_did_not_count_does_not_count_for_new_photos():
    text, cells, _ = toy()
    views = F.normalize(cells.unflatten(1, (8, 2)).mean(2), dim=-1)  # views that mix two cells each
    noise = F.normalize(torch.randn(cells.shape, generator=torch.Generator().manual_seed(1)), dim=-1)
    config = PseudolabelConfig("dense", views=("views", "2", "4"))
    sets = {"views": views, "2": cells, "4": noise}
    of_all, summary = label.label_by_view_sets({k: MemoryViews(v) for k, v in sets.items()}, text, 6, 30.0, config)
    few = {k: MemoryViews(v[10:13]) for k, v in sets.items()}
    of_few, again = label.label_by_view_sets(few, text, 6, 30.0, config, fitted=summary["fitted"])
    least, found = summary["least_agreement"], summary["view_sets"]
    assert found["4"]["agreements"][0] < least <= found["2"]["agreements"][0]
    assert torch.allclose(of_few, of_all[10:13], atol=1e-5) and again["view_sets"] == summary["view_sets"]


def test_very_many_names_are_labelled_the_same_from_a_file(monkeypatch, tmp_path):
    text, cells, _ = toy(photos=60)
    monkeypatch.setattr(centred, "MOST_DENSE", 3)  # then competition is sparse, and profiles have a basis
    monkeypatch.setattr(centred, "MOST_SAME", 5)
    text = torch.cat([text, text[:1] + 0.01])  # a name that means the same as the first
    views, config = MemoryViews(cells[:, :5]), PseudolabelConfig("centred")
    _, of_all, summary = label.centred_labels(views, text, 7, 30.0, config)
    assert summary["same_names"] and set(summary["fitted"]["weights"]) == {"places", "same"}
    labels = Labels([f"{n}.jpg" for n in range(60)], list("abcdefg"), of_all, meta={"fitted": summary["fitted"]})
    write_labels(labels, tmp_path / "a.pt")
    fitted = read_labels(tmp_path / "a.pt").meta["fitted"]
    assert torch.equal(label.centred_labels(views, text, 7, 30.0, config, fitted=fitted)[1], of_all)


def test_a_ranking_of_very_many_photos_keeps_some_and_interpolates(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    first, logits = torch.rand(400, 3, generator=generator), torch.randn(400, 3, generator=generator) * 4
    shown = torch.tensor([20.0, 0.0, 5.0])
    exact = profiles.rerank_by_profiles(first, logits, shown)
    monkeypatch.setattr(profiles, "MAX_PHOTOS", 100)
    ranking = profiles.fit_ranking(first, logits, shown)
    near = profiles.rerank(first, logits, shown, ranking)
    assert ranking.order.shape == (2, 100) and 0 < (near - exact).abs().max() < 0.03
    assert torch.equal(near[:, 1], first[:, 1])
    assert torch.allclose(profiles.rerank(first[:7], logits[:7], shown, ranking), near[:7], atol=1e-5)
