"""The drawn world: the same for the same seed, unequal, sometimes empty; and what the tiny CLIP knows of it."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

from mlclip.clip import load_clip
from mlclip.clip.registry import TINY_FILE
from mlclip.images import find_images
from mlclip.labels import read_labels
from mlclip.teacher import Teacher, class_embeddings
from mlclip.world import KINDS, draw_scene, draw_single, write_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, train=150, test=5, seed=3)
    return folder


def test_a_seed_draws_the_same_world_however_many_scenes_are_asked_for(folder, tmp_path):
    write_world(tmp_path, train=4, test=2, seed=3)
    for name in ("train/00003.jpg", "test/00001.jpg"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    write_world(tmp_path / "other", train=1, test=1, seed=4)
    assert (tmp_path / "other/train/00000.jpg").read_bytes() != (folder / "train/00000.jpg").read_bytes()


def test_train_and_test_scenes_differ(folder):
    assert (folder / "train/00000.jpg").read_bytes() != (folder / "test/00000.jpg").read_bytes()


def test_truth_names_what_was_drawn(folder):
    truth = read_labels(folder / "truth_train.csv")
    assert truth.classes == list(KINDS) == (folder / "classes.txt").read_text().split()
    assert truth.paths == [photo.path for photo in find_images([folder / "train"]).photos]
    for number in (0, 7, 149):
        _, present = draw_scene(np.random.default_rng([3, 0, number]))
        assert [k for k, t in zip(KINDS, truth.scores[number], strict=True) if t] == present


def test_kinds_are_unequally_frequent_and_some_scenes_are_empty(folder):
    truth = read_labels(folder / "truth_train.csv").scores
    counts = truth.sum(0)
    assert counts.max() > 4 * counts.min()
    assert 0 < (truth.sum(1) == 0).sum() < 30
    assert truth.sum(1).max() >= 4


def test_the_tiny_clip_is_small_half_precision_and_zero_where_no_caption_was():
    assert len(zlib.compress(TINY_FILE.read_bytes(), 6)) < 4e6
    state = torch.load(TINY_FILE, weights_only=True)
    assert all(t.dtype == torch.float16 for t in state.values() if t.is_floating_point())
    assert (state["token_embedding.weight"].abs().sum(1) > 0).sum() < 100


def test_the_tiny_clip_names_single_things_it_has_never_seen():
    teacher = Teacher(load_clip("tiny"))
    text = class_embeddings(teacher, KINDS, ["a photo of a {}"])
    rng = np.random.default_rng(99)
    kinds = [KINDS[n % len(KINDS)] for n in range(90)]
    pixels = torch.stack([torch.from_numpy(np.array(draw_single(kind, rng))).permute(2, 0, 1) for kind in kinds])
    named = (teacher.embed_views(pixels) @ text.T).argmax(1)
    assert sum(KINDS[n] == kind for n, kind in zip(named.tolist(), kinds, strict=True)) > 72
