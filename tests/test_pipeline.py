"""From photos to labels: the teacher, the store of view embeddings, and the labels from it."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from mlclip.clip import load_clip
from mlclip.config import InputError, OptionError, PseudolabelConfig
from mlclip.files import locked
from mlclip.images import find_images, open_image, view_pixels
from mlclip.labels.class_names import without_classes
from mlclip.teacher.embed import embed_images, store_key
from mlclip.teacher.embedding_store import LOCK, Store, default_store
from mlclip.teacher.label_from_store import cdul_labels
from mlclip.teacher.pseudolabel import pseudolabel
from mlclip.teacher.scoring import Teacher, class_embeddings, class_scores
from mlclip.teacher.view_batches import ViewBatches

CDUL = PseudolabelConfig(method="cdul")
CLASSES = {"red": "red", "green": "green thing", "blue": "blue"}


@pytest.fixture(scope="module")
def teacher(clip_file):
    return Teacher(load_clip(clip_file))


def label(photos, teacher, **options):
    return pseudolabel(find_images([photos]), CLASSES, teacher, num_workers=0, **{"config": CDUL, **options})


class Counting:
    """A teacher that counts the views it has encoded."""

    def __init__(self, teacher, stop_after=None):
        self.teacher, self.views, self.stop_after = teacher, 0, stop_after

    def __getattr__(self, name):
        return getattr(self.teacher, name)

    embed_photos = Teacher.embed_photos  # through the counting `embed_views` below

    def embed_views(self, pixels):
        if self.stop_after is not None and self.views >= self.stop_after:
            raise KeyboardInterrupt
        self.views += len(pixels)
        return self.teacher.embed_views(pixels)


def test_labels_equal_a_slow_computation_of_the_paper_photo_by_photo(photos, teacher):
    labels = label(photos, teacher)
    text = class_embeddings(teacher, list(CLASSES.values()), ["a photo of a {}"])
    for path, row in zip(labels.paths, labels.scores, strict=True):
        views = view_pixels(open_image(photos / path), 64, (1, 3))
        similarity = torch.stack([class_scores(teacher.embed_views(v[None])[0], text, 100.0) for v in views])
        highest, lowest = similarity[1:].amax(0), similarity[1:].amin(0)
        expected = 0.5 * (similarity[0] + torch.where(highest >= 0.5, highest, lowest))
        assert torch.allclose(row, expected, atol=0.02), path  # embeddings are stored in half precision
    assert labels.paths == [f"{n:02d}.jpg" for n in range(12)]
    assert labels.root == str(photos)


def test_a_second_run_with_other_names_and_settings_encodes_no_photo(photos, teacher):
    first = Counting(teacher)
    label(photos, first)
    assert first.views == 12 * 10
    second = Counting(teacher)
    config = replace(CDUL, zeta=0.1, temperature=0.02)
    pseudolabel(find_images([photos]), {"cat": "cat", "dog": "dog"}, second, config=config, num_workers=0)
    assert second.views == 0


def test_only_new_and_changed_photos_are_encoded(photos, teacher):
    label(photos, teacher)
    shutil.copy(photos / "03.jpg", photos / "new.jpg")
    Image.new("RGB", (50, 50), "white").save(photos / "04.jpg")
    counting = Counting(teacher)
    labels = label(photos, counting)
    assert counting.views == 2 * 10
    assert len(labels) == 13
    assert torch.equal(labels.scores[labels.paths.index("new.jpg")], labels.scores[labels.paths.index("03.jpg")])


def test_an_interrupted_run_continues_after_its_last_shard_with_the_same_result(photos, teacher, tmp_path, monkeypatch):
    whole = label(photos, teacher, store=tmp_path / "whole", batch_size=10)
    monkeypatch.setattr("mlclip.teacher.embed.SHARD_PHOTOS", 2)
    with pytest.raises(KeyboardInterrupt):
        label(photos, Counting(teacher, stop_after=50), store=tmp_path / "cut", batch_size=10)
    counting = Counting(teacher)
    labels = label(photos, counting, store=tmp_path / "cut", batch_size=10)
    assert counting.views == 120 - 40  # five photos were encoded, four of them are in complete shards
    assert labels.paths == whole.paths
    assert torch.equal(labels.scores, whole.scores)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (1000, 2)])
def test_batch_size_and_dataloader_workers_do_not_change_the_labels(photos, teacher, tmp_path, batch_size, num_workers):
    found = find_images([photos])
    one = pseudolabel(found, CLASSES, teacher, config=CDUL, num_workers=0, store=tmp_path / "a")
    other = pseudolabel(
        found, CLASSES, teacher, config=CDUL, num_workers=num_workers, batch_size=batch_size, store=tmp_path / "b"
    )
    assert one.paths == other.paths
    assert torch.allclose(one.scores, other.scores, atol=0.02)


def test_unreadable_photos_are_listed_and_get_no_row_and_the_others_keep_their_scores(photos, teacher, tmp_path):
    good = label(photos, teacher, store=tmp_path / "a")
    (photos / "05.jpg").write_bytes((photos / "05.jpg").read_bytes()[:600])
    (photos / "06.jpg").write_bytes(b"")
    mixed = label(photos, teacher, store=tmp_path / "b", batch_size=10)
    assert [path for path, _ in mixed.meta["skipped"]] == ["05.jpg", "06.jpg"]
    kept = [n for n in range(12) if n not in (5, 6)]
    assert mixed.paths == [good.paths[n] for n in kept]
    assert torch.allclose(mixed.scores, good.scores[kept], atol=0.02)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_with_several_frames_are_reported_once(photos, teacher, num_workers):
    from mlclip.progress import Progress

    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "green")]
    for name in ("a.gif", "b.webp", "c.tiff"):
        frames[0].save(photos / name, save_all=True, append_images=frames[1:])
    lines = []

    class Recorder(Progress):
        def log(self, line):
            lines.append(line)

    for _ in range(2):  # the second run reads no photo
        pseudolabel(find_images([photos]), CLASSES, teacher, num_workers=num_workers, progress=Recorder())
    assert [line for line in lines if "frames" in line] == [
        "files with several frames or pages: 3, such as a.gif. Only the first frame of each is used."
    ]


def test_a_folder_without_a_readable_photo_raises_an_error_with_the_count(tmp_path, teacher):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("<html>")
    with pytest.raises(InputError, match="0 of 2 photos"):
        pseudolabel(find_images([tmp_path]), CLASSES, teacher, num_workers=0)


def test_a_store_of_another_model_or_of_other_views_is_refused(photos, teacher, tmp_path):
    label(photos, teacher, store=tmp_path / "s")
    with pytest.raises(InputError, match="another model or other views"):
        label(photos, teacher, store=tmp_path / "s", config=replace(CDUL, snippets=2))


def test_a_folder_with_other_files_is_not_used_as_a_store(photos, teacher, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(InputError, match="holds other files"):
        label(photos, teacher, store=tmp_path / "mine")
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["thesis.txt"]


def test_two_runs_cannot_write_to_one_store_at_the_same_time(photos, teacher, tmp_path):
    with (
        locked(tmp_path / "s" / LOCK, "the store"),
        pytest.raises(InputError, match="another mlclip process is writing"),
    ):
        label(photos, teacher, store=tmp_path / "s")


def test_a_damaged_shard_is_refused_and_named(photos, teacher, tmp_path):
    label(photos, teacher, store=tmp_path / "s")
    shard = next((tmp_path / "s").glob("shard-*.pt"))
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(InputError, match=shard.name):
        label(photos, teacher, store=tmp_path / "s")


def test_embeddings_are_stored_in_half_precision_and_read_back_in_order(photos, teacher, tmp_path):
    found = find_images([photos])
    store, skipped = embed_images(found.photos, teacher, root=found.root, store=tmp_path / "s", num_workers=0)
    assert skipped == []
    reversed_photos = found.photos[::-1]
    for rows, embeddings in ViewBatches(store, reversed_photos):
        assert embeddings.shape[1:] == (10, 32)
        for row, views in zip(rows.tolist(), embeddings, strict=True):
            pixels = view_pixels(open_image(reversed_photos[row].file), 64, (1, 3))
            assert torch.allclose(views, teacher.embed_views(pixels), atol=1e-3)
    shard = torch.load(next((tmp_path / "s").glob("shard-*.pt")), weights_only=True)
    assert shard["embeddings"].dtype == torch.float16
    assert '"complete": true' in (tmp_path / "s" / "mlclip-store.json").read_text()


def test_the_default_store_depends_on_model_views_and_root(teacher):
    key = store_key(teacher, (1, 3))
    places = {default_store(key, "/a"), default_store(key, "/b"), default_store(store_key(teacher, (1, 2)), "/a")}
    assert len(places) == 3
    assert all(str(place).startswith(os.environ["MLCLIP_CACHE"]) for place in places)


def test_contrast_names_compete_and_are_then_dropped(photos, teacher):
    found = find_images([photos])
    config = replace(CDUL, part="global")
    alone = pseudolabel(found, CLASSES, teacher, config=config, num_workers=0)
    with_contrast = pseudolabel(found, CLASSES, teacher, config=config, contrast={"sky": "sky"}, num_workers=0)
    assert with_contrast.classes == list(CLASSES)
    assert torch.allclose(alone.scores.sum(1), torch.ones(12), atol=1e-3)
    assert (with_contrast.scores.sum(1) < alone.scores.sum(1)).all()


def test_classes_and_contrast_may_be_plain_lists_of_names(photos, teacher):
    found = find_images([photos])
    mapping = {"classes": {"cat": "cat", "dog": "a small dog"}, "contrast": {"sky": "sky"}}
    names = {"classes": ["cat", "dog = a small dog"], "contrast": ["sky"]}
    from_mapping, from_list = (
        pseudolabel(found, option["classes"], teacher, contrast=option["contrast"], num_workers=0)
        for option in (mapping, names)
    )
    assert from_list.classes == ["cat", "dog"] and torch.equal(from_list.scores, from_mapping.scores)
    assert from_list.meta["prompts"] == ["cat", "a small dog"] and from_list.meta == from_mapping.meta


def test_contrast_names_that_are_classes_are_removed():
    contrast = {"Cat": "Cat", "hound": "DOG", "sky": "sky"}
    assert without_classes(contrast, {"cat": "cat", "dog": "a  dog", "d": "dog"}) == {"sky": "sky"}


def test_infinite_settings_raise_an_error_and_grids_are_sorted():
    for wrong in ({"rank_scale": math.inf}, {"prior_photos": math.inf}, {"method": "ccd", "max_entropy": math.inf}):
        with pytest.raises(OptionError, match="finite"):
            PseudolabelConfig(**wrong)
    assert PseudolabelConfig(grids=(3, 1)).grids == (1, 3)


def test_the_mean_top1_probability_is_that_of_the_largest_views(photos, teacher):
    top1 = {
        grids: pseudolabel(
            find_images([photos]), CLASSES, teacher, config=PseudolabelConfig(grids=grids), num_workers=0
        ).meta["mean_top1"]
        for grids in ((1, 2), (2, 1), (2, 3), (2,))
    }
    assert top1[1, 2] == top1[2, 1]
    assert top1[2, 3] == pytest.approx(top1[(2,)]) and top1[2, 3] != pytest.approx(top1[1, 2], abs=1e-6)


def test_a_single_class_needs_contrast_names(photos, teacher):
    with pytest.raises(InputError, match="`contrast`"):
        pseudolabel(find_images([photos]), {"cat": "cat"}, teacher, num_workers=0)
    contrast = {"sky": "sky"}
    labels = pseudolabel(find_images([photos]), {"cat": "cat"}, teacher, config=CDUL, contrast=contrast, num_workers=0)
    assert labels.scores.max() < 1
    centred = pseudolabel(find_images([photos]), {"cat": "cat"}, teacher, contrast=contrast, num_workers=0)
    assert centred.scores.isfinite().all() and centred.classes == ["cat"]


def test_a_temperature_that_makes_all_scores_equal_is_refused(photos, teacher):
    with pytest.raises(InputError, match=r"`temperature` 4.6 is too high"):
        label(photos, teacher, config=replace(CDUL, temperature=4.6))


def test_text_embeddings_average_the_normalised_templates(teacher):
    templates = ["a photo of a {}", "many {}"]
    mean = class_embeddings(teacher, ["cat", "dog"], templates)
    single = torch.stack([teacher.embed_texts([t.replace("{}", n) for t in templates]) for n in ("cat", "dog")])
    assert torch.allclose(mean, torch.nn.functional.normalize(single.mean(1), dim=-1), atol=1e-5)
    assert torch.allclose(mean.norm(dim=-1), torch.ones(2))


def test_final_labels_are_the_mean_of_the_global_and_aggregate_parts():
    similarity = torch.rand(4, 10, 3)
    parts = {part: cdul_labels(similarity, replace(CDUL, part=part)) for part in PseudolabelConfig.PARTS}
    assert torch.allclose(parts["final"], (parts["global"] + parts["aggregate"]) / 2)


def test_settings_out_of_range_raise_an_error():
    for wrong in ({"zeta": 2}, {"snippets": 0}, {"temperature": 0.0}, {"method": "magic"}):
        with pytest.raises(OptionError):
            PseudolabelConfig(**{"method": "cdul", **wrong})


def test_histograms_count_every_view(photos, teacher):
    histograms = label(photos, teacher).meta["histograms"]
    assert sum(histograms["global"]["counts"]) == 12
    assert sum(histograms["snippets"]["counts"]) == 12 * 9


def test_labels_have_a_threshold_per_class(photos, teacher):
    assert label(photos, teacher, config=None).meta["thresholds"] == [0.5] * len(CLASSES)
    labels = label(photos, teacher)
    positives = (labels.scores >= labels.thresholds).sum(0)
    assert (positives - labels.scores.sum(0)).abs().max() <= 0.5


def test_a_reopened_store_knows_its_photos(photos, teacher, tmp_path):
    found = find_images([photos])
    embed_images(found.photos[:5], teacher, root=found.root, store=tmp_path / "s", num_workers=0)
    store = Store(tmp_path / "s", store_key(teacher, (1, 3)))
    assert [photo in store for photo in found.photos] == [True] * 5 + [False] * 7


def test_a_lock_file_is_removed_on_release_and_can_be_locked_again(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "folder" / "lock", "it"):
            assert (tmp_path / "folder" / "lock").exists()
        assert not (tmp_path / "folder" / "lock").exists()
