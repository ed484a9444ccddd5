"""From photos to labels: the teacher, the store of view embeddings, and the labels from it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from mlclip.config import InputError, PseudolabelConfig
from mlclip.distributed import Runtime
from mlclip.files import locked
from mlclip.images import find_images, open_image, view_pixels
from mlclip.images.shards import content_hash
from mlclip.labels.class_names import find_contrast
from mlclip.teacher import store as store_module
from mlclip.teacher.cache import clear_stores, list_stores
from mlclip.teacher.encode import StoredViews, encoded_views
from mlclip.teacher.label import cdul_labels
from mlclip.teacher.pseudolabel import label_photos
from mlclip.teacher.scoring import class_embeddings, class_scores
from mlclip.teacher.store import LOCK

CDUL = PseudolabelConfig(method="cdul")
CLASSES = {"red": "red", "green": "green thing", "blue": "blue"}


def label(photos, teacher, **options):
    return label_photos(find_images([photos]), CLASSES, teacher, **{"config": CDUL, **options})


class Counting:
    """A teacher that counts the views it has encoded."""

    def __init__(self, teacher):
        self.teacher, self.views = teacher, 0

    def __getattr__(self, name):
        return getattr(self.teacher, name)

    def embed_views(self, pixels):
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


def test_a_second_run_with_other_names_and_settings_encodes_only_new_and_changed_photos(photos, teacher):
    first = Counting(teacher)
    label(photos, first)
    assert first.views == 12 * 10
    second = Counting(teacher)
    config = replace(CDUL, zeta=0.1, temperature=0.02)
    label_photos(find_images([photos]), {"cat": "cat", "dog": "dog"}, second, config=config)
    assert second.views == 0
    shutil.copy(photos / "03.jpg", photos / "new.jpg")
    Image.linear_gradient("L").save(photos / "04.jpg")
    labels = label(photos, second)
    assert second.views == 10 and len(labels) == 13  # the copy has the content of another photo
    assert torch.equal(labels.scores[labels.paths.index("new.jpg")], labels.scores[labels.paths.index("03.jpg")])


def test_an_interrupted_run_keeps_every_embedding_and_continues_with_the_same_result(
    photos, teacher, tmp_path, monkeypatch, interrupt_at
):
    whole = label(photos, teacher, store=tmp_path / "whole", batch_size=10)
    monkeypatch.setattr("mlclip.teacher.fill.SHARD_PHOTOS", 2)
    with interrupt_at("mlclip.teacher.scoring.Teacher.embed_views", 6):
        label(photos, teacher, store=tmp_path / "cut", batch_size=10)
    counting = Counting(teacher)
    labels = label(photos, counting, store=tmp_path / "cut", batch_size=10)
    assert counting.views == 120 - 50  # all five photos that were encoded are kept
    assert labels.paths == whole.paths
    assert torch.equal(labels.scores, whole.scores)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (1000, 2)])
def test_batch_size_and_dataloader_workers_do_not_change_the_labels(photos, teacher, tmp_path, batch_size, num_workers):
    found = find_images([photos])
    one = label_photos(found, CLASSES, teacher, config=CDUL, store=tmp_path / "a")
    settings = {"batch_size": batch_size, "runtime": Runtime(num_workers=num_workers)}
    other = label_photos(found, CLASSES, teacher, config=CDUL, store=tmp_path / "b", **settings)
    assert one.paths == other.paths
    assert torch.allclose(one.scores, other.scores, atol=0.02)


def test_files_with_several_frames_are_reported_once(photos, teacher, told):
    frames = [Image.linear_gradient("L").resize((40, 40)).rotate(turn) for turn in (0, 90, 180)]
    for name in ("a.gif", "b.webp", "c.tiff"):
        frames[0].save(photos / name, save_all=True, append_images=frames[1:])
    for _ in range(2):  # the second run reads no photo
        label_photos(find_images([photos]), CLASSES, teacher, runtime=Runtime(progress=told))
    assert [line for line in told.lines if "frames" in line] == [
        "files with several frames or pages: 3, such as a.gif. Only the first frame of each is used."
    ]


def test_a_store_of_other_views_and_a_folder_with_other_files_are_refused(photos, teacher, tmp_path):
    label(photos, teacher, store=tmp_path / "s")
    with pytest.raises(InputError, match="another model or other views"):
        label(photos, teacher, store=tmp_path / "s", config=replace(CDUL, snippets=2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(InputError, match="holds other files"):
        label(photos, teacher, store=tmp_path / "mine")
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["thesis.txt"]


def test_the_photos_of_a_damaged_shard_are_encoded_again(photos, teacher, tmp_path, monkeypatch, told):
    monkeypatch.setattr("mlclip.teacher.fill.SHARD_PHOTOS", 4)
    whole = label(photos, teacher, store=tmp_path / "s", batch_size=10)
    shard = sorted((tmp_path / "s").glob("shard-*.pt"))[1]
    shard.write_bytes(shard.read_bytes()[:1000])
    counting = Counting(teacher)
    labels = label(photos, counting, store=tmp_path / "s", batch_size=10, runtime=Runtime(progress=told))
    assert counting.views == 4 * 10 and torch.equal(labels.scores, whole.scores)
    assert [line for line in told.lines if shard.name in line and "encoded again" in line]


def test_a_photo_is_known_by_its_content_whatever_its_name_and_date_and_read_once(photos, teacher, monkeypatch):
    whole = label(photos, teacher)
    read, real = [], store_module.content_hash
    monkeypatch.setattr(store_module, "content_hash", lambda file: read.append(file) or real(file))
    for number, file in enumerate(sorted(photos.iterdir())):
        os.utime(file, (number, number))
    (photos / "00.jpg").rename(photos / "z.jpg")
    counting = Counting(teacher)
    labels = label(photos, counting)
    assert counting.views == 0 and labels.paths[-1] == "z.jpg" and len(read) == 12
    assert torch.equal(label(photos, teacher).scores, labels.scores) and len(read) == 12
    assert torch.equal(labels.scores, whole.scores.roll(-1, 0))
    hashes = [content_hash(str(photos / path)) for path in labels.paths]
    assert [bytes(row.tolist()) for row in labels.meta["content"]] == hashes


def test_copies_are_encoded_once_and_photos_of_a_moved_folder_not_again(photos, teacher, told):
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(photos / "00.jpg", photos / name)
    counting = Counting(teacher)
    labels = label(photos, counting)
    assert counting.views == 12 * 10 and len(labels) == 14
    assert torch.equal(labels.scores[labels.paths.index("a.jpg")], labels.scores[0])
    moved = photos.rename(photos.with_name("moved"))
    Image.linear_gradient("L").convert("RGB").save(moved / "03.jpg")  # another photo under an old name
    again = label(moved, counting, runtime=Runtime(progress=told))
    assert counting.views == 13 * 10
    assert "13 photos were encoded in another folder: their embeddings are used" in told.lines
    same = [path != "03.jpg" for path in labels.paths]
    assert torch.equal(again.scores[same], labels.scores[same]) and not torch.equal(again.scores, labels.scores)


def test_a_store_that_lacks_nothing_is_not_written(photos, teacher, tmp_path, monkeypatch):
    whole = label(photos, teacher, store=tmp_path / "s")
    for name in ("save_plain", "atomic", "file_lock"):
        monkeypatch.setattr(store_module, name, Mock(side_effect=OSError(30, "Read-only file system")))
    monkeypatch.setattr(store_module.os, "access", lambda *_: False)
    assert torch.equal(label(photos, teacher, store=tmp_path / "s").scores, whole.scores)
    shutil.copy(photos / "03.jpg", photos / "new.jpg")
    label(photos, teacher, store=tmp_path / "s")  # it has this content
    Image.linear_gradient("L").save(photos / "04.jpg")
    with pytest.raises(InputError, match=r"1 photos are not in the store .*cannot be written: Read-only.*MLCLIP_CACHE"):
        label(photos, teacher, store=tmp_path / "s")


def test_a_store_in_use_is_not_deleted(photos, teacher):
    found = find_images([photos])
    with encoded_views(found.photos, teacher, root=found.root) as ([store], _):
        with pytest.raises(InputError, match="another mlclip process is using the store"):
            clear_stores(list_stores())
        with encoded_views(found.photos, teacher, root=found.root):  # a second run may use it
            pass
    assert not (store.folder / LOCK).exists()
    assert clear_stores(list_stores()) > 0


def test_embeddings_are_stored_in_half_precision_and_read_back_in_order(photos, teacher, tmp_path):
    found = find_images([photos])
    with encoded_views(found.photos, teacher, root=found.root, store=tmp_path / "s") as ([store], skipped):
        assert skipped == []
    reversed_photos = found.photos[::-1]
    for rows, embeddings in StoredViews(store, reversed_photos):
        assert embeddings.shape[1:] == (10, 32)
        for row, views in zip(rows.tolist(), embeddings, strict=True):
            pixels = view_pixels(open_image(reversed_photos[row].file), 64, (1, 3))
            assert torch.allclose(views, teacher.embed_views(pixels), atol=1e-3)
    shard = torch.load(next((tmp_path / "s").glob("shard-*.pt")), weights_only=True)
    assert shard["embeddings"].dtype == torch.float16
    assert '"complete": true' in (tmp_path / "s" / "mlclip-store.json").read_text()


def test_contrast_names_compete_and_are_then_dropped(photos, teacher):
    found = find_images([photos])
    config = replace(CDUL, part="global")
    alone = label_photos(found, CLASSES, teacher, config=config)
    with_contrast = label_photos(found, CLASSES, teacher, config=config, contrast={"sky": "sky"})
    assert with_contrast.classes == list(CLASSES)
    assert torch.allclose(alone.scores.sum(1), torch.ones(12), atol=1e-3)
    assert (with_contrast.scores.sum(1) < alone.scores.sum(1)).all()


def test_contrast_names_that_are_classes_are_removed():
    contrast = {"Cat": "Cat", "hound": "DOG", "sky": "sky"}
    assert find_contrast(contrast, {"cat": "cat", "dog": "a  dog", "d": "dog"}, print) == {"sky": "sky"}


def test_the_mean_top1_probability_is_that_of_the_largest_views(photos, teacher):
    top1 = {}
    for grids in ((1, 2), (2, 1), (2, 3), (2,)):
        top1[grids] = label(photos, teacher, config=PseudolabelConfig(grids=grids)).meta["mean_top1"]
    assert top1[1, 2] == top1[2, 1]
    assert top1[2, 3] == pytest.approx(top1[(2,)]) and top1[2, 3] != pytest.approx(top1[1, 2], abs=1e-6)


def test_a_single_class_needs_contrast_names(photos, teacher):
    with pytest.raises(InputError, match="`contrast`"):
        label_photos(find_images([photos]), {"cat": "cat"}, teacher)
    contrast = {"sky": "sky"}
    labels = label_photos(find_images([photos]), {"cat": "cat"}, teacher, config=CDUL, contrast=contrast)
    assert labels.scores.max() < 1
    centred = label_photos(find_images([photos]), {"cat": "cat"}, teacher, contrast=contrast)
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


def test_a_lock_file_is_removed_on_release_and_can_be_locked_again(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "folder" / "lock", "it"):
            assert (tmp_path / "folder" / "lock").exists()
        assert not (tmp_path / "folder" / "lock").exists()


def test_a_photo_of_another_folder_with_the_same_name_size_and_date_is_not_taken_for_it(tmp_path, teacher):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, colour in zip(folders, ("red", "blue"), strict=True):
        folder.mkdir()
        image = Image.new("RGB", (32, 32), colour)
        image.paste("white", (0, 0, 32, 16))
        image.save(folder / "0.bmp")
        os.utime(folder / "0.bmp", (1_000_000_000, 1_000_000_000))
    first, second = (
        label_photos(find_images(folder), CLASSES, teacher, config=CDUL).meta["content"] for folder in folders
    )
    assert not torch.equal(first, second)
