"""The demo scenes, the tiny CLIP that was trained on their things, and `mlclip demo` with few scenes."""

from __future__ import annotations

import csv
import importlib
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mlclip.cli import _status
from mlclip.clip import load_clip, tokenize
from mlclip.clip.registry import TINY_FILE
from mlclip.demo import KINDS, SCENE_FREQUENCY, draw_scene, draw_single, draw_thing, write_scenes
from mlclip.labels.table import read_labels
from mlclip.teacher.scoring import Teacher, class_embeddings, class_scores

MEGABYTE = 10**6


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)


def scene(number: int) -> tuple[Image.Image, list[str]]:
    return draw_scene(np.random.default_rng([99, number]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=12, test=5, seed=3)
    return folder


@pytest.fixture(scope="module")
def many_scenes() -> list[list[str]]:
    return [scene(number)[1] for number in range(300)]


def read_table(path) -> tuple[list[str], list[list[str]]]:
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


@pytest.mark.parametrize("kind", KINDS)
def test_a_thing_fills_its_tile_and_stays_inside(kind):
    for number in range(8):
        alpha = pixels(draw_thing(kind, 60, np.random.default_rng(number)))[..., 3]
        assert alpha.shape == (60, 60)
        assert 0.06 < (alpha > 127).mean() < 0.8
        border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert (border > 0).mean() < 0.1


def test_the_same_random_numbers_give_the_same_images_and_others_do_not():
    first, again, other = (pixels(draw_single("key", np.random.default_rng(s))) for s in (5, 5, 6))
    assert (first == again).all()
    assert (first != other).any()
    assert (pixels(scene(1)[0]) == pixels(scene(1)[0])).all()
    assert scene(1)[1] == scene(1)[1]


def test_the_true_labels_are_exactly_the_drawn_things(monkeypatch):
    drawn = []
    monkeypatch.setattr("mlclip.demo.draw_thing", lambda kind, *rest: drawn.append(kind) or draw_thing(kind, *rest))
    for number in range(40):
        drawn.clear()
        truth = scene(number)[1]
        assert len(drawn) == len(truth)
        assert truth == [kind for kind in KINDS if kind in drawn]


def test_every_thing_in_the_true_labels_is_visible(monkeypatch):
    """Draw the scene without its last small thing: only an area of the size of a small thing changes."""
    number = next(n for n in range(40) if len(scene(n)[1]) >= 3)
    full, truth = scene(number)
    calls = []

    def all_but_the_last(kind, side, rng):
        calls.append(side)
        tile = draw_thing(kind, side, rng)
        if len(calls) == len(truth):
            tile.putalpha(0)
        return tile

    monkeypatch.setattr("mlclip.demo.draw_thing", all_but_the_last)
    changed = (pixels(full).astype(int) - pixels(scene(number)[0])) != 0
    assert calls[0] > 1.3 * max(calls[1:])  # one large thing, the others small
    assert 0.05 * calls[-1] ** 2 < changed.any(-1).sum() <= calls[-1] ** 2


def test_scenes_hold_up_to_five_kinds_some_are_empty_and_frequent_kinds_dominate(many_scenes):
    counts = [len(present) for present in many_scenes]
    assert 0.02 < counts.count(0) / len(counts) < 0.12
    assert set(counts) == {0, 2, 3, 4, 5}
    shown = np.array([sum(kind in present for present in many_scenes) for kind in KINDS])
    assert shown.min() > 0
    assert shown[SCENE_FREQUENCY.argmax()] > 4 * shown[SCENE_FREQUENCY.argmin()]


def test_the_folder_holds_jpegs_class_names_and_one_row_of_true_labels_per_image(folder):
    assert (folder / "classes.txt").read_text().splitlines() == list(KINDS)
    for part, count in (("train", 12), ("test", 5)):
        header, rows = read_table(folder / f"truth_{part}.csv")
        assert header == ["path", *KINDS]
        assert [row[0] for row in rows] == sorted(path.name for path in (folder / part).iterdir())
        assert len(rows) == count
        assert {cell for row in rows for cell in row[1:]} == {"0", "1"}
        assert Image.open(folder / part / rows[0][0]).format == "JPEG"


def test_the_same_seed_writes_the_same_scenes_whatever_their_number(folder, tmp_path):
    write_scenes(tmp_path / "again", train=4, test=1, seed=3)
    write_scenes(tmp_path / "other", train=4, test=1, seed=4)
    for number in range(4):
        name = f"train/{number:05d}.jpg"
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_the_tiny_clip_needs_at_most_four_megabytes_in_a_wheel():
    assert len(zlib.compress(TINY_FILE.read_bytes(), 6)) <= 4 * MEGABYTE


def test_the_tiny_clip_is_half_precision_and_has_only_the_words_of_its_captions():
    state = torch.load(TINY_FILE, weights_only=True)
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float16}
    vocabulary = state["token_embedding.weight"]
    used = vocabulary.abs().amax(dim=1) > 0
    assert vocabulary.shape[0] == 49408
    assert used.sum() < 100
    wanted = tokenize([f"a photo of a {kind}" for kind in KINDS])
    assert used[wanted[wanted > 0]].all()
    assert not used[tokenize(["philosophy"])[0, 1]]


def test_the_tiny_clip_recognises_new_images_of_single_things():
    teacher = Teacher(load_clip("tiny"))
    kinds = np.arange(108) % len(KINDS)
    views = [pixels(draw_single(KINDS[kind], np.random.default_rng([12345, n]))) for n, kind in enumerate(kinds)]
    embeddings = teacher.embed_views(torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2))
    scores = class_scores(embeddings, class_embeddings(teacher, KINDS, ["a photo of a {}"]), teacher.logit_scale)
    right = (scores.argmax(-1).numpy() == kinds).mean()
    assert right > 0.75  # random guessing: 0.06
    assert scores.amax(-1).mean() > 0.6  # it is confident, like a real CLIP


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
    for name in [
        "train",
        "test",
        "clip.pt",
        "classes.txt",
        "truth_train.csv",
        "truth_test.csv",
        "model.pt",
        "report.html",
    ]:
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
