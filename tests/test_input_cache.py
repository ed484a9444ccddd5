"""The cache of decoded photos: same training with and without it, resumable, stale photos, full disks, several ranks."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mlclip.cli.cache import cache as cache_command
from mlclip.config import TrainConfig
from mlclip.distributed import Distributed
from mlclip.images import PhotoViews, find_images, photo_batches
from mlclip.labels.table import Labels
from mlclip.progress import SILENT, Progress
from mlclip.training import input_cache
from mlclip.training.input_cache import (
    CHECKS,
    PIXELS,
    clear_input_caches,
    inputs_folder,
    list_input_caches,
    open_input_cache,
    remove_input_cache,
)
from mlclip.training.loop import train
from mlclip.training.weight_step import weight_step

CONFIG = TrainConfig(method="fixed", arch="resnet18", init="none", size=64, epochs=2, batch_size=4, lr=1e-3)
HERE = Distributed()


class Messages(Progress):
    """A Progress that keeps the lines it gets."""

    def __init__(self):
        self.lines = []

    def log(self, line):
        self.lines.append(line)


@pytest.fixture
def found(photos):
    (photos / "05.jpg").write_bytes(b"not a photo")
    return find_images([photos])


@pytest.fixture
def labels(photos) -> Labels:
    scores = torch.nn.functional.one_hot(torch.arange(12) % 3).float() * 0.9 + 0.05
    return Labels([f"{n:02d}.jpg" for n in range(12)], ["red", "green", "blue"], scores, root=str(photos))


def decoded_rows(monkeypatch) -> list[list[int]]:
    """The rows that each later call of `open_input_cache` decodes."""
    seen, original = [], input_cache._decoded

    def recorded(photos, rows, *rest):
        seen.append(list(rows))
        return original(photos, rows, *rest)

    monkeypatch.setattr(input_cache, "_decoded", recorded)
    return seen


@pytest.mark.parametrize("num_threads", [0, 3])
def test_the_batches_of_the_cache_are_those_of_the_loader(found, num_threads):
    cache = open_input_cache(found.photos, 64, num_threads, HERE, SILENT)
    order = [3, 11, 5, 0, 7, 5, 2, 9]
    expected = list(photo_batches(PhotoViews(found.photos, 64), batch_size=3, order=order))
    batches = list(cache.batches(order, 3))
    assert len(batches) == len(expected) == 3
    for (rows, pixels, unreadable), (expected_rows, expected_pixels, expected_unreadable) in zip(
        batches, expected, strict=True
    ):
        assert torch.equal(rows, expected_rows) and torch.equal(pixels, expected_pixels)
        assert unreadable == expected_unreadable
    pixels.zero_()  # a copy: the cache stays as it was
    assert torch.equal(next(cache.batches(order, 3))[1], expected[0][1])


@pytest.mark.parametrize("method", ["cdul", "consistent"])
def test_a_training_is_the_same_bit_for_bit_with_and_without_the_cache(labels, photos, tmp_path, method):
    (photos / "05.jpg").write_bytes(b"not a photo")
    config = replace(CONFIG, method=method, warmup=1)
    models = []
    for name, cache, workers in (("a", True, 0), ("b", True, 2), ("c", False, 0)):
        config = replace(config, cache=cache)
        checkpoint = train(labels, tmp_path / f"{name}.pt", config=config, num_workers=workers)
        assert [path for path, _ in checkpoint.meta["skipped"]] == ["05.jpg"]
        models.append((checkpoint.model.state_dict(), checkpoint.thresholds))
    for state, thresholds in models[1:]:
        assert torch.equal(thresholds, models[0][1])
        assert all(torch.equal(value, models[0][0][name]) for name, value in state.items())


def test_the_cache_is_announced_and_is_deleted_when_the_training_has_finished(labels, tmp_path):
    messages = Messages()
    train(labels, tmp_path / "m.pt", config=CONFIG, num_workers=0, progress=messages)
    assert any(line.startswith(f"input cache: 12 photos, 0 MB in {inputs_folder()}") for line in messages.lines)
    assert list(inputs_folder().iterdir()) == []


def test_one_epoch_and_no_cache_make_no_file(labels, tmp_path):
    train(labels, tmp_path / "a.pt", config=replace(CONFIG, epochs=1), num_workers=0)
    train(labels, tmp_path / "b.pt", config=replace(CONFIG, cache=False), num_workers=0)
    assert not inputs_folder().exists()


def test_an_interrupted_training_keeps_the_cache_and_continues_without_decoding(labels, tmp_path, monkeypatch):
    decoded, calls = decoded_rows(monkeypatch), iter(range(100))

    def interrupted(*args):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return weight_step(*args)

    with monkeypatch.context() as patch:
        patch.setattr("mlclip.training.weight_step.weight_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(labels, tmp_path / "m.pt", config=CONFIG, num_workers=0)
    (info,) = list_input_caches()
    assert (info.photos, info.side) == (12, 64) and info.size > 12 * 3 * 64 * 64
    train(labels, tmp_path / "m.pt", config=CONFIG, num_workers=0, resume=True)
    assert decoded == [list(range(12)), []]
    assert list_input_caches() == []


def test_only_missing_damaged_changed_and_unreadable_photos_are_decoded_again(found, photos, monkeypatch):
    stride, decoded = 3 * 64 * 64, decoded_rows(monkeypatch)
    cache = open_input_cache(found.photos, 64, 0, HERE, SILENT)
    with open(cache.folder / CHECKS, "r+b") as file:  # photo 2: killed before it was written
        file.seek(4 * 2)
        file.write(bytes(4))
    with open(cache.folder / PIXELS, "r+b") as file:  # photo 3: only half was written
        file.seek(3 * stride)
        file.write(bytes(stride // 2))
    shutil.copyfile(photos / "01.jpg", photos / "07.jpg")  # photo 7: another photo under the same name
    os.utime(photos / "07.jpg", ns=(1, 1))
    again = open_input_cache(find_images([photos]).photos, 64, 0, HERE, SILENT)
    assert decoded == [list(range(12)), [2, 3, 5, 7]]
    assert again.folder == cache.folder and list(again.unreadable) == [5]
    assert np.array_equal(again.pixels[7], again.pixels[1])


def test_a_kill_while_photos_are_decoded_loses_only_the_unwritten_ones(found, monkeypatch):
    original = input_cache._decoded

    def killed(photos, rows, *rest):
        for number, item in enumerate(original(photos, rows, *rest)):  # the unreadable photo comes last
            if number == 8:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(input_cache, "_decoded", killed)
        with pytest.raises(KeyboardInterrupt):
            open_input_cache(found.photos, 64, 0, HERE, SILENT)
    decoded = decoded_rows(monkeypatch)
    open_input_cache(found.photos, 64, 0, HERE, SILENT)
    assert decoded == [[5, 9, 10, 11]]


def test_other_photos_or_another_size_have_another_cache(found):
    folders = {
        open_input_cache(photos, size, 0, HERE, SILENT).folder
        for photos, size in ((found.photos, 64), (found.photos, 96), (found.photos[1:], 64))
    }
    assert len(folders) == 3


def test_too_little_space_falls_back_to_no_cache_with_a_message(labels, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(input_cache.shutil, "disk_usage", lambda _: free)
    messages = Messages()
    train(labels, tmp_path / "m.pt", config=CONFIG, num_workers=0, progress=messages)
    assert any("no input cache" in line and "and 1 MB are free" in line for line in messages.lines)
    assert list(inputs_folder().iterdir()) == []


def test_a_disk_that_gets_full_falls_back_to_no_cache_with_a_message(found, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(input_cache, "_decoded", full)
    messages = Messages()
    assert open_input_cache(found.photos, 64, 0, HERE, messages) is None
    assert messages.lines[-1].endswith("(No space left on device). Every epoch decodes the photos again.")
    assert list(inputs_folder().iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_falls_back_to_no_cache(found, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLCLIP_CACHE", str(tmp_path / "file"))
    messages = Messages()
    assert open_input_cache(found.photos, 64, 0, HERE, messages) is None
    assert messages.lines[-1].startswith("no input cache: ")


class TwoRanks(Distributed):
    """One of two ranks, whose partner is not there: `all_gather` returns what `other` says that the partner has sent."""

    def __init__(self, rank, other):
        object.__setattr__(self, "rank", rank)
        object.__setattr__(self, "world_size", 2)
        object.__setattr__(self, "device", torch.device("cpu"))
        object.__setattr__(self, "other", other)

    def all_gather(self, value):
        theirs = self.other(value)
        return [value, theirs] if self.rank == 0 else [theirs, value]


def test_ranks_of_one_machine_share_a_cache_and_those_of_others_have_their_own(found, monkeypatch):
    decoded = decoded_rows(monkeypatch)
    sent = iter([("here", str(inputs_folder())), (None, []), (None, {1: "reason of rank 1"})])
    monkeypatch.setattr(input_cache.socket, "gethostname", lambda: "here")
    first = open_input_cache(found.photos, 64, 0, TwoRanks(0, lambda _: next(sent)), SILENT)
    assert decoded == [[0, 2, 4, 6, 8, 10]]
    assert first.unreadable == {1: "reason of rank 1"}
    sent = iter([("here", str(inputs_folder())), (None, list(range(12))), (None, {})])
    second = open_input_cache(found.photos, 64, 0, TwoRanks(1, lambda _: next(sent)), SILENT)
    assert second.folder == first.folder and decoded[1] == [1, 3, 5, 7, 9, 11] and list(second.unreadable) == [5]
    assert first.pixels[1].any() and np.array_equal(first.pixels, second.pixels)
    sent = iter([("elsewhere", str(inputs_folder())), (None, []), (None, {2: "of the other machine"})])
    alone = open_input_cache(found.photos, 64, 0, TwoRanks(1, lambda _: next(sent)), SILENT)
    assert alone.folder != first.folder and decoded[2] == list(range(12)) and list(alone.unreadable) == [5]


def test_a_problem_of_one_rank_means_no_cache_for_all(found):
    sent = iter([("elsewhere", str(inputs_folder())), ("its disk is full", [])])
    messages = Messages()
    assert open_input_cache(found.photos, 64, 0, TwoRanks(0, lambda _: next(sent)), messages) is None
    assert messages.lines == ["no input cache: its disk is full. Every epoch decodes the photos again."]


def test_caches_are_listed_and_cleared_and_other_files_stay(found):
    cache = open_input_cache(found.photos, 64, 0, HERE, SILENT)
    (inputs_folder() / "notes").mkdir()
    (cache.folder / "mine.txt").write_text("mine")
    (info,) = list_input_caches()
    assert (info.path, info.photos, info.side) == (cache.folder, 11, 64)
    assert clear_input_caches([info]) == info.size
    assert [file.name for file in cache.folder.iterdir()] == ["mine.txt"]
    assert list_input_caches() == []
    remove_input_cache(cache)  # already deleted: no error


def test_mlclip_cache_lists_and_clears_decoded_photos(found):
    folder = open_input_cache(found.photos, 64, 0, HERE, SILENT).folder
    listed = CliRunner().invoke(cache_command, [])
    assert "photos at 64 px" in listed.stdout and str(folder) in listed.stdout and " 11 " in listed.stdout
    cleared = CliRunner().invoke(cache_command, ["--clear", "--yes"])
    assert "1 sets of decoded photos deleted" in cleared.stderr and not folder.exists()
