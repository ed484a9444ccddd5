"""The cache of decoded photos: same training with and without it, several trainings at once, full disks, several ranks."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mlclip.cli.cache import cache as cache_command
from mlclip.config import InputError, TrainConfig
from mlclip.distributed import Distributed, Runtime
from mlclip.files import cache_folder
from mlclip.images import PhotoViews, find_images, photo_batches
from mlclip.progress import SILENT, Progress
from mlclip.training import input_cache
from mlclip.training.input_cache import open_input_cache
from mlclip.training.loop import train_student

CONFIG = TrainConfig(method="fixed", arch="mobilenet_v3_small", init="none", size=64, epochs=2, batch_size=4, lr=1e-3)


@pytest.fixture
def found(photos):
    (photos / "05.jpg").write_bytes(b"not a photo")
    return find_images([photos])


@pytest.mark.parametrize("num_threads", [0, 3])
def test_the_batches_of_the_cache_are_those_of_the_loader(found, num_threads):
    cache = open_input_cache(found.photos, 64, Runtime(num_workers=num_threads))
    order = [3, 11, 5, 0, 7, 5, 2, 9]
    expected = list(photo_batches(PhotoViews(found.photos, 64), batch_size=3, order=order))
    batches = list(cache.batches(order, 3))
    assert len(batches) == len(expected) == 3
    for (rows, pixels, unreadable), wanted in zip(batches, expected, strict=True):
        assert torch.equal(rows, wanted[0]) and torch.equal(pixels, wanted[1]) and unreadable == wanted[2]
    pixels.zero_()  # a copy: the cache stays as it was
    assert torch.equal(next(cache.batches(order, 3))[1], expected[0][1])


@pytest.mark.parametrize("method", ["cdul", "consistent"])
def test_a_training_is_the_same_bit_for_bit_with_and_without_the_cache(labels, photos, tmp_path, method):
    (photos / "05.jpg").write_bytes(b"not a photo")
    config = replace(CONFIG, method=method, warmup=1)
    models = []
    for name, cache, workers in (("a", True, 2), ("b", False, 0)):
        config = replace(config, cache=cache)
        checkpoint = train_student(labels, tmp_path / f"{name}.pt", config=config, runtime=Runtime(num_workers=workers))
        assert [path for path, _ in checkpoint.meta["skipped"]] == ["05.jpg"]
        models.append((checkpoint.model.state_dict(), checkpoint.thresholds))
    (state, thresholds), (other, other_thresholds) = models
    assert torch.equal(thresholds, other_thresholds)
    assert all(torch.equal(value, other[name]) for name, value in state.items())


def left() -> list[Path]:
    """The files of the input caches."""
    return [file for file in (cache_folder() / "inputs").rglob("*") if file.is_file()]


def test_one_epoch_and_no_cache_make_no_file(labels, tmp_path):
    train_student(labels, tmp_path / "a.pt", config=replace(CONFIG, epochs=1))
    train_student(labels, tmp_path / "b.pt", config=replace(CONFIG, cache=False))
    assert not (cache_folder() / "inputs").exists()


def test_two_caches_of_the_same_photos_do_not_share_anything_and_their_files_have_no_name(found, photos, told):
    first = open_input_cache(found.photos, 64, Runtime(progress=told))
    assert told.lines == [f"input cache: 12 photos, 0 MB in {cache_folder() / 'inputs'}"] and not left()
    before = first.pixels.copy()
    shutil.copyfile(photos / "01.jpg", photos / "07.jpg")
    second = open_input_cache(found.photos, 64, Runtime())
    assert np.array_equal(second.pixels[7], second.pixels[1]) and np.array_equal(first.pixels, before)


def test_too_little_space_and_a_full_disk_mean_no_cache_with_a_message(labels, found, tmp_path, monkeypatch, told):
    free = shutil.disk_usage(tmp_path)._replace(free=10**6)
    with monkeypatch.context() as patch:
        patch.setattr(input_cache.shutil, "disk_usage", lambda _: free)
        train_student(labels, tmp_path / "m.pt", config=CONFIG, runtime=Runtime(progress=told))
    assert any("no input cache" in line and "and 1 MB are free" in line for line in told.lines) and not left()

    def full(*_, **__):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(input_cache, "read_batches", full)
    assert open_input_cache(found.photos, 64, Runtime(progress=told)) is None
    assert told.lines[-1].endswith(": No space left on device. Every epoch decodes the photos again.")
    assert not left()


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_folder(found, monkeypatch, tmp_path, told):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLCLIP_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert open_input_cache(found.photos, 64, Runtime(progress=told)).pixels[0].any()
    assert told.lines == [f"input cache: 12 photos, 0 MB in {tmp_path}"]
    assert not list(tmp_path.glob("mlclip-inputs-*"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert open_input_cache(found.photos, 64, Runtime(progress=told)) is None
    assert told.lines[-1].startswith("no input cache: neither the cache nor $TMPDIR can be written")


class TwoRanks(Distributed):
    """One of two ranks. `all_gather` exchanges values with the other one, which is a thread."""

    def __init__(self, rank: int, host: str, meet: threading.Barrier, values: list):
        for name, value in {"rank": rank, "world_size": 2, "device": torch.device("cpu"), "notices": None}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "everything", (host, meet, values))

    def all_gather(self, value):
        host, meet, values = self.everything
        values[self.rank] = host if value == socket.gethostname() else value
        meet.wait(60)
        gathered = list(values)
        meet.wait(60)
        return gathered


def caches_of_two_ranks(found, hosts: tuple[str, str], messages: tuple[Progress, Progress] = (SILENT, SILENT)) -> list:
    meet, values = threading.Barrier(2), [None, None]
    ranks = [TwoRanks(rank, host, meet, values) for rank, host in enumerate(hosts)]
    with ThreadPoolExecutor(2) as pool:
        opened = [pool.submit(open_input_cache, found.photos, 64, Runtime(ranks[i], 0, messages[i])) for i in (0, 1)]
        return [future.result() for future in opened]


@pytest.mark.parametrize("hosts", [("here", "here"), ("here", "elsewhere")])
def test_ranks_share_the_work_on_one_machine_and_every_rank_has_all_photos(found, hosts, monkeypatch):
    decoded, original = [], input_cache.read_batches
    counted = lambda photos, *a, **k: decoded.append(len(photos)) or original(photos, *a, **k)  # noqa: E731
    monkeypatch.setattr(input_cache, "read_batches", counted)
    alone = open_input_cache(found.photos, 64, Runtime())
    for cache in caches_of_two_ranks(found, hosts):
        assert np.array_equal(cache.pixels, alone.pixels) and cache.unreadable.keys() == {5}
    assert decoded == ([12, 6, 6] if hosts[0] == hosts[1] else [12, 12, 12]) and not left()


def test_a_problem_of_one_rank_means_no_cache_for_all(found, monkeypatch, told):
    original, calls = input_cache._create, iter((False, True))

    def second_fails(length):
        if next(calls):
            raise InputError("its disk is full")
        return original(length)

    monkeypatch.setattr(input_cache, "_create", second_fails)
    messages = (told, type(told)())
    assert caches_of_two_ranks(found, ("here", "elsewhere"), messages) == [None, None] and not left()
    for one in messages:
        assert re.fullmatch(r"no input cache: (rank 1: )?its disk is full\. Every epoch decodes .*", one.lines[-1])


def test_clearing_the_cache_deletes_what_a_killed_training_has_left(own_cache):
    (own_cache / "inputs").mkdir()
    (own_cache / "inputs" / "mlclip-inputs-x.u8").write_bytes(bytes(10**6))
    (own_cache / "inputs" / "mine.txt").write_text("mine")
    assert CliRunner().invoke(cache_command, ["--clear", "--yes"]).exit_code == 0
    assert [file.name for file in left()] == ["mine.txt"]
