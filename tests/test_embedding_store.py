"""The store of view embeddings: passes over the stored views, and the list of all stores in the cache."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mlclip.clip.pixels import Pixels
from mlclip.config import InputError, PseudolabelConfig
from mlclip.images import Photo
from mlclip.progress import SILENT
from mlclip.teacher import in_blocks
from mlclip.teacher import store as store_module
from mlclip.teacher.cache import StoreInfo, clear_stores, list_stores
from mlclip.teacher.encode import StoredViews
from mlclip.teacher.label import centred_labels, label_by_ccd, label_by_cdul
from mlclip.teacher.store import LOCK, MANIFEST, Key, Store, default_store

PHOTOS = [Photo(f"{n:02d}.jpg", f"/photos/{n:02d}.jpg", size=n, mtime_ns=1) for n in range(40)]
DIMENSIONS, SHARD = 16, 15  # shards of 15, 15 and 10 photos
METHODS = {
    "cdul": ((1, 3), label_by_cdul),
    "ccd": ((1,), label_by_ccd),
    "centred": ((1, 2, 3), lambda *facts: centred_labels(*facts)[1:]),
}
TEXT = F.normalize(torch.randn(7, DIMENSIONS, generator=torch.Generator().manual_seed(1)), dim=-1)


def make_store(folder, grids=(1, 3)) -> Store:
    key = Key("embeddings", "ab" * 32, "quick_gelu", 64, grids)
    folder.mkdir(parents=True, exist_ok=True)
    store, generator = Store(folder, key), torch.Generator().manual_seed(0)
    for start in range(0, len(PHOTOS), SHARD):
        part = PHOTOS[start : start + SHARD]
        views = F.normalize(torch.randn(len(part), key.vectors, DIMENSIONS, generator=generator), dim=-1)
        store.write_shard(store.next_shard(), part, [photo.size.to_bytes(16, "big") for photo in part], views)
    store.write_index(complete=False)
    return store


def label(method, store, **options):
    views = StoredViews(store, PHOTOS[::-1], **options)
    return METHODS[method][1](views, TEXT, 6, 100.0, PseudolabelConfig(method=method))


@pytest.fixture
def disk_reads(monkeypatch):
    """The names of the shards whose embeddings are read from disk."""
    reads, load = [], store_module.load_plain

    def counting(path, *, mmap=False, **options):
        if not mmap and path.name.startswith("shard"):
            reads.append(path.name)
        return load(path, mmap=mmap, **options)

    monkeypatch.setattr(store_module, "load_plain", counting)
    return reads


@pytest.mark.parametrize("method", METHODS)
def test_one_labelling_reads_every_shard_once_and_above_the_memory_limit_in_every_pass_with_equal_labels(
    method, tmp_path, disk_reads
):
    store = make_store(tmp_path / "s", METHODS[method][0])
    kept, kept_summary = label(method, store)
    assert sorted(disk_reads) == [f"shard-{n:06d}-0.pt" for n in range(3)]
    for limit in (0, SHARD * store.key.vectors * DIMENSIONS * 2):
        streamed, summary = label(method, store, memory_limit=limit)
        assert torch.equal(kept, streamed)
        assert json.dumps(summary, default=torch.Tensor.tolist) == json.dumps(kept_summary, default=torch.Tensor.tolist)
    two_shards = 2 * SHARD * store.key.vectors * DIMENSIONS * 2  # bytes in half precision
    for limit, expected in ((0, [3, 3, 3]), (two_shards, [1, 1, 3]), (2 * two_shards, [1, 1, 1])):
        views = StoredViews(store, PHOTOS, memory_limit=limit)
        disk_reads.clear()
        for _ in range(3):
            assert sum(len(rows) for rows, _ in views) == len(views) == len(PHOTOS)
        assert [disk_reads.count(f"shard-{n:06d}-0.pt") for n in range(3)] == expected


def test_every_pass_gives_the_same_batches_in_float32_with_their_rows(tmp_path):
    store = make_store(tmp_path / "s")
    order = PHOTOS[::2]
    views = StoredViews(store, order)
    passes = [list(views) for _ in range(2)]
    for (rows, embeddings), (again, same) in zip(*passes, strict=True):
        assert torch.equal(rows, again) and torch.equal(embeddings, same) and embeddings.dtype == torch.float32
        for row, embedding in zip(rows.tolist(), embeddings, strict=True):
            stored = store.read_shard(store.folder / f"shard-{order[row].size // SHARD:06d}-0.pt")
            assert torch.equal(embedding, stored[order[row].size % SHARD].float())


def test_batches_do_not_depend_on_the_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("mlclip.teacher.encode.BATCH_VECTORS", 30)
    views = StoredViews(make_store(tmp_path / "s"), PHOTOS)
    sizes = [len(rows) for rows, _ in views]
    assert len(set(sizes[:-1])) == 1 and sizes[0] == 30 // sum(views.sizes) and sum(sizes) == len(PHOTOS)


def default(root, **changes) -> Store:
    key = replace(Key("embeddings", "ab" * 32, "quick_gelu", 64, (1, 3)), **changes)
    return make_store(default_store(key, root), key.grids)


def test_all_stores_in_the_cache_are_listed_with_their_facts(own_cache, tmp_path):
    assert list_stores() == []
    first, second = default("/a"), default("/b", grids=(1,))
    second.write_index(complete=True)
    make_store(tmp_path / "elsewhere")
    (own_cache / "embeddings" / "notes").mkdir()
    infos = {info.path: info for info in list_stores()}
    assert set(infos) == {first.folder, second.folder}
    size = sum(file.stat().st_size for file in first.folder.iterdir())
    assert infos[first.folder] == StoreInfo(first.folder, size, len(PHOTOS), complete=False)
    assert infos[second.folder].complete


def test_a_damaged_store_is_listed_and_can_be_cleared(own_cache):
    store = default("/a")
    shard = store.folder / "shard-000000-0.pt"
    shard.write_bytes(shard.read_bytes()[:500])
    (store.folder / MANIFEST).write_text("{")
    [info] = list_stores()
    assert (info.photos, info.complete) == (len(PHOTOS) - SHARD, False)
    clear_stores([info])
    assert not store.folder.exists()


def test_clearing_removes_the_stores_in_the_list_and_returns_the_freed_bytes(own_cache):
    first, second = default("/a"), default("/b")
    (first.folder / ".shard-000003-0.pt.0123abcd-123.tmp").write_bytes(b"12345")
    (first.folder / LOCK).touch()
    infos = [info for info in list_stores() if info.path == first.folder]
    assert clear_stores(infos) == infos[0].size
    assert not first.folder.exists()
    assert [info.path for info in list_stores()] == [second.folder]


def test_clearing_keeps_files_that_mlclip_did_not_write(own_cache, tmp_path):
    store = default("/a")
    (tmp_path / "mine.pt").write_text("words")
    foreign = ["thesis.txt", "shards.pt", "shard-000000-0.pt.bak", ".hidden.tmp"]
    for name in foreign:
        (store.folder / name).write_text("words")
    (store.folder / "shards").mkdir()
    link = store.folder / "shard-000009-0.pt"
    link.symlink_to(tmp_path / "mine.pt")
    clear_stores(list_stores())
    assert {file.name for file in store.folder.iterdir()} == {*foreign, "shards", MANIFEST, link.name}
    assert link.read_text() == "words"
    link.unlink()
    make_store(store.folder)  # the folder can be used again
    assert list_stores()[0].photos == len(PHOTOS)


def test_clearing_refuses_a_folder_that_is_not_a_store_and_a_link_to_one(own_cache, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "shard-000000-0.pt").write_text("words")
    store = make_store(tmp_path / "s")
    (tmp_path / "link").symlink_to(store.folder)
    for folder in ("photos", "missing", "link"):
        with pytest.raises(InputError, match="is not an embedding store"):
            clear_stores([StoreInfo(tmp_path / folder, 0, 0, complete=True)])
    assert (tmp_path / "photos" / "shard-000000-0.pt").exists() and len(list(store.folder.iterdir())) == 5


def test_other_pixels_need_another_store(tmp_path):
    openai = Key("embeddings", "0" * 64, "gelu", 64, (1, 3))
    half = replace(openai, pixels=Pixels((0.5,) * 3, (0.5,) * 3))
    assert default_store(half, "photos") != default_store(openai, "photos")
    Store(tmp_path, openai).write_index(complete=True)
    with pytest.raises(InputError, match="another model or other views"):
        Store(tmp_path, half)
    squash = replace(openai, pixels=Pixels(resize="squash"))  # embeddings do not depend on it
    assert squash.as_plain() == openai.as_plain()


@pytest.mark.parametrize("method", METHODS)
def test_more_photos_than_the_fit_takes_are_labelled_by_the_values_of_a_sample(tmp_path, method, monkeypatch):
    store = make_store(tmp_path / "s", METHODS[method][0])
    made_of = (TEXT, [-1] * 6, 100.0, PseudolabelConfig(method=method))
    _, of_sample = in_blocks.label_stored([store], PHOTOS[:12], *made_of, None, SILENT)
    expected, _ = in_blocks.label_stored([store], PHOTOS, *made_of, of_sample["fitted"], SILENT)
    monkeypatch.setattr(in_blocks, "FIT_PHOTOS", 12)  # the contents of the first twelve are the lowest
    monkeypatch.setattr(in_blocks, "BLOCK_PHOTOS", 7)
    for photos in (PHOTOS, PHOTOS[::-1], PHOTOS[1::2] + PHOTOS[::2]):
        for fitted in (None, of_sample["fitted"]):
            scores, summary = in_blocks.label_stored([store], photos, *made_of, fitted, SILENT)
            assert torch.allclose(scores, expected[[PHOTOS.index(photo) for photo in photos]], atol=1e-6)
            assert summary["histograms"] == of_sample["histograms"]
