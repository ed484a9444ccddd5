"""Dense labels: the equations, the cells in their stores, and the labels of several view sets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import Told
from toy_clip import ToyCLIP

import mlclip
from mlclip.cli import _status
from mlclip.clip import encoders
from mlclip.clip.model import CLIP
from mlclip.config import InputError, PseudolabelConfig
from mlclip.demo import write_scenes
from mlclip.distributed import Runtime
from mlclip.images import find_images, loader, open_image, view_pixels
from mlclip.methods import dense
from mlclip.teacher import encode
from mlclip.teacher.cache import list_stores
from mlclip.teacher.encode import cell_key, embed_views_and_cells, view_key
from mlclip.teacher.label import centre, label_by_view_sets, labels_by_gaussians
from mlclip.teacher.pseudolabel import label_photos
from mlclip.teacher.scoring import Teacher
from mlclip.teacher.store import Store, default_store
from mlclip.training.local_views import crop_scorer_for


class MemoryViews:
    """Views in memory: L2-normalised vectors (N, V, D), with `sizes` vectors in each of the `grids`. There is one batch."""

    def __init__(self, vectors: torch.Tensor, grids=(1,), sizes=None):
        self.grids, self.vectors = tuple(grids), vectors
        self.sizes = tuple(sizes) if sizes else (vectors.shape[1],)

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self):
        yield torch.arange(len(self)), self.vectors.float()


CLASSES = {"red": "red", "green": "green thing", "blue": "blue"}
CENTRED, DENSE = PseudolabelConfig(), PseudolabelConfig("dense", views=("views", "cells", "2"))


def label(photos, teacher, config=DENSE, classes=CLASSES, **options):
    return label_photos(find_images([photos]), classes, teacher, config=config, **options)


@pytest.fixture
def encoded(monkeypatch):
    """The shapes of the views that are encoded, for their embedding only ("plain") or with cells ("cells")."""
    shapes = {"plain": [], "cells": []}
    plain, cells = Teacher.embed_views, encode.embed_views_and_cells

    def embed_views(self, pixels):
        shapes["plain"].append(tuple(pixels.shape))
        return plain(self, pixels)

    def embed_with_cells(teacher, pixels, attention):
        shapes["cells"].append(tuple(pixels.shape))
        return cells(teacher, pixels, attention)

    monkeypatch.setattr(Teacher, "embed_views", embed_views)
    monkeypatch.setattr(encode, "embed_views_and_cells", embed_with_cells)
    return shapes


def stored(photos, teacher, kind=None):
    """The content of the default store of the views, or of one kind of cells, in the order of the photos."""
    found = find_images([photos])
    key = cell_key(kind, teacher, (1, 2, 3), "key") if kind else view_key(teacher, (1, 2, 3))
    store = Store(default_store(key, found.root), key)
    [(shard, pairs)] = store.rows_by_shard(found.photos).items()
    return store.read_shard(shard)[[row for _, row in pairs]]


def test_pooled_cells_are_the_mean_directions_of_what_they_cover():
    cells = torch.randn(3, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    pooled = dense.pool_cells(cells, 2)
    lower_right = F.normalize(cells[1, 2:, 3:], dim=-1).mean((0, 1))
    assert torch.allclose(pooled[1, 3], F.normalize(lower_right, dim=-1), atol=1e-6)
    assert torch.allclose(dense.pool_cells(cells, 7), F.normalize(cells, dim=-1).flatten(1, 2), atol=1e-6)


def test_an_average_of_certain_labels_is_not_above_1():
    agreements = torch.rand(100, 5, generator=torch.Generator().manual_seed(0)).tolist()
    assert all(float(dense.average_labels([torch.ones(3, 2)] * 5, part).max()) <= 1 for part in agreements)


def test_one_pass_fills_all_stores_and_decodes_each_photo_once(photos, teacher, encoded, monkeypatch):
    opened, read = [], loader.read_parts
    monkeypatch.setattr(loader, "read_parts", lambda file, *more: opened.append(file) or read(file, *more))
    label(photos, teacher)
    assert len(opened) == len(set(opened)) == 12 and not encoded["plain"]
    views = [shape[0] for shape in encoded["cells"] if shape[-1] == 64]
    whole = [shape[0] for shape in encoded["cells"] if shape[-1] == 128]
    assert (sum(views), sum(whole)) == (12 * 14, 12)
    pixels = view_pixels(open_image(find_images([photos]).photos[5].file), 64, (1, 2, 3))
    embeddings, cells = embed_views_and_cells(teacher, pixels, "key")
    assert torch.allclose(stored(photos, teacher)[5].float(), embeddings, atol=2e-3)
    assert torch.allclose(stored(photos, teacher, "cells")[5].float(), cells.flatten(0, 2), atol=2e-3)
    assert stored(photos, teacher, "2").shape == (12, 16, 32)


def test_a_store_of_centred_labels_is_extended_and_not_computed_again(photos, teacher, encoded):
    centred = label(photos, teacher, CENTRED)
    shard = stored(photos, teacher)
    encoded["plain"].clear()
    labels = label(photos, teacher, PseudolabelConfig("dense", views=("views", "2")))
    assert not encoded["plain"] and {shape[-1] for shape in encoded["cells"]} == {128}
    assert torch.equal(stored(photos, teacher), shard)
    assert labels.meta["levels"] == centred.meta["levels"] and labels.meta["mixture"] == centred.meta["mixture"]
    scorers = [crop_scorer_for(made, teacher) for made in (centred, labels)]  # crops have the levels of the views
    crops = F.normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    combined = [scorer.combine(torch.full((3,), scorer.initial), scorer.score(crops)[0]) for scorer in scorers]
    assert torch.equal(scorers[0].local_label(combined[0]), scorers[1].local_label(combined[1]))


def test_other_names_need_no_second_pass_and_the_cache_lists_the_cells(photos, teacher, encoded):
    label(photos, teacher)
    infos = list_stores()
    assert [(info.kind, info.photos, info.complete) for info in infos] == [
        ("embeddings", 12, True),
        ("cells", 12, True),
        ("cells", 12, True),
    ]
    encoded["cells"].clear()
    label(photos, teacher, classes={"dark": "dark", "bright": "bright"})
    assert not encoded["cells"] and not encoded["plain"]


def test_a_transformer_s_cells_have_a_store_for_each_attention(photos):
    visual = encoders.VisionTransformer(4, 16, (64, 2, 128), 32, "quick_gelu")
    for parameter in visual.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    clip = CLIP(visual, 64, {"context": 77, "vocab": 49408, "width": 64, "layers": 1}, 32, "quick_gelu").eval()
    torch.nn.init.normal_(clip.token_embedding.weight)
    torch.nn.init.eye_(clip.text_projection)
    for attention in ("key", "query"):
        labels = label(photos, Teacher(clip), replace(DENSE, attention=attention))
        assert labels.scores.shape == (12, 3) and set(labels.meta["view_sets"]) == {"views", "cells", "2"}
    assert [info.kind for info in list_stores()] == ["embeddings"] + 4 * ["cells"]


def test_view_sets_that_are_the_same_for_a_clip_are_refused(photos, teacher):
    with pytest.raises(InputError, match=r"`views` 2 and 2\.1 are the same for this CLIP: the photo at 128 pixels"):
        label(photos, teacher, PseudolabelConfig("dense", views=("2", "2.1")))


def test_a_run_that_was_interrupted_continues_and_an_unreadable_photo_is_skipped(
    photos, teacher, tmp_path, monkeypatch, interrupt_at
):
    (photos / "03.jpg").write_bytes(b"no photo")
    with monkeypatch.context() as patch:
        patch.setattr("mlclip.teacher.fill.SHARD_PHOTOS", 1)
        with interrupt_at("mlclip.teacher.encode.embed_views_and_cells", 41):  # between the stores of one photo
            label(photos, teacher, store=tmp_path / "store", batch_size=1)
    labels = label(photos, teacher, store=tmp_path / "store", batch_size=1)
    expected = label(photos, teacher, batch_size=1)  # the cache does not know the store, so all is encoded again
    assert torch.allclose(labels.scores, expected.scores, atol=1e-5)
    assert [path for path, _ in labels.meta["skipped"]] == ["03.jpg"] and len(labels) == 11


def test_sizes_alone_encode_no_views_and_the_store_can_be_extended(photos, teacher, encoded, tmp_path):
    store, told = tmp_path / "store", Told()
    fast = label(photos, teacher, PseudolabelConfig(views="fast"), store=store, runtime=Runtime(progress=told))
    assert fast.meta["method"] == "dense" and fast.meta["settings"]["views"] == ("1.5", "2")
    assert not encoded["plain"] and {shape[-1] for shape in encoded["cells"]} == {96, 128}
    assert "without views, sets that err alike agree, too: trust such labels of a CLIP with a ResNet only" in told.lines
    assert set(fast.meta["view_sets"]) == {"1.5", "2"} and set(fast.meta["histograms"]) == {"patch features"}
    with pytest.raises(
        InputError, match=r"labels from the view sets 1\.5, 2 have no levels for crops.*`--views default`"
    ):
        crop_scorer_for(fast, teacher)
    encoded["cells"].clear()
    label(photos, teacher, store=store)
    assert {shape[-1] for shape in encoded["cells"]} == {64}  # the views, which the folder lacked
    alone = label(photos, teacher, PseudolabelConfig(views=("2",)), store=store)
    assert alone.meta["view_sets"]["2"]["agreements"][0] == 1 and torch.isfinite(alone.scores).all()


def test_patch_features_that_mean_nothing_do_not_count(tmp_path, monkeypatch, capsys):
    write_scenes(tmp_path, train=20, test=0)
    plain, order = encode.embed_views_and_cells, torch.randperm(128, generator=torch.Generator().manual_seed(0))

    def scrambled(*args):
        embeddings, cells = plain(*args)
        return embeddings, cells[..., order]

    monkeypatch.setattr(encode, "embed_views_and_cells", scrambled)
    asked = ["pseudolabel", str(tmp_path / "train"), "--clip", "tiny", "--workers", "0", "-o"]
    assert _status([*asked, str(tmp_path / "dense.pt")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "does not count: its agreement is 0." in line]
    assert [line.split(" does not")[0].split("view set ")[1] for line in lines] == ["cells", "2"]
    assert _status([*asked, str(tmp_path / "centred.pt"), "--method", "centred"]) == 0
    dense_table, centred_table = (mlclip.read_labels(tmp_path / f"{name}.pt") for name in ("dense", "centred"))
    assert torch.equal(dense_table.scores, centred_table.scores)


def toy(photos=300, cells=16, classes=6, seed=0):
    """Texts, and unit vectors (N, M, D) in which a few cells show a class; true labels (N, C)."""
    generator = torch.Generator().manual_seed(seed)
    text = F.normalize(torch.randn(classes, 32, generator=generator), dim=-1)
    truth = (torch.rand(photos, classes, generator=generator) < 0.2).float()
    vectors = torch.randn(photos, cells, 32, generator=generator) * 0.2
    vectors += torch.randn(32, generator=generator) * 0.2  # what all cells have in common
    place = torch.rand(photos, cells, generator=generator).argsort(1)[:, :classes]  # a cell for each class
    for number in range(classes):
        vectors[torch.arange(photos), place[:, number]] += truth[:, number, None] * text[number]
    return text, F.normalize(vectors, dim=-1), truth


def dense_labels(text, views, **cells):
    config = PseudolabelConfig("dense", views=("views", *cells))
    return label_by_view_sets({k: MemoryViews(v) for k, v in {"views": views, **cells}.items()}, text, 6, 30.0, config)


def test_a_class_without_a_confident_photo_does_not_change_the_others():
    text, cells, truth = toy(photos=60)
    views = F.normalize(cells.unflatten(1, (8, 2)).mean(2), dim=-1)
    own, all_taught = centre(MemoryViews(cells), text, 12.0, 30.0), dense_labels(text, views)[0]
    (full, *_), (labels, scores, _) = (
        labels_by_gaussians(MemoryViews(cells), text, own, taught_by, 12.0, PseudolabelConfig("dense"))
        for taught_by in (all_taught, all_taught.index_fill(1, torch.tensor([3]), 0.5))
    )
    assert torch.equal(labels[:, 3], own.labels[:, 3]) and torch.equal(scores[:, 3], own.scores[:, 3])
    assert ((labels >= 0.5) == (full >= 0.5)).float().mean() > 0.95 and agreement_with(truth, labels) > 0.9


def agreement_with(truth, labels):
    return dense.agreement(labels, truth)


def test_cells_find_what_mixed_views_hide_and_useless_cells_do_little_harm():
    text, cells, truth = toy()
    views = F.normalize(cells.unflatten(1, (8, 2)).mean(2), dim=-1)  # views that mix two cells each
    noise = F.normalize(torch.randn(cells.shape, generator=torch.Generator().manual_seed(1)), dim=-1)
    alone, _ = dense_labels(text, views)
    both, summary = dense_labels(text, views, **{"2": cells})
    noisy, bad = dense_labels(text, views, **{"2": cells, "4": noise})
    assert agreement_with(truth, both) > agreement_with(truth, alone) + 0.02
    assert agreement_with(truth, noisy) > agreement_with(truth, both) - 0.02
    agreements = {kind: facts["agreements"] for kind, facts in bad["view_sets"].items()}
    assert max(agreements["4"]) < min(agreements["2"]) and len(summary["view_sets"]["2"]["levels"]["1"]) == 6


def test_labels_do_not_depend_on_the_batches_of_the_cells():
    text, cells, _ = toy(photos=60)

    class Portions(MemoryViews):
        def __iter__(self):
            for rows in torch.arange(len(self)).flip(0).split(7):
                yield rows, self.vectors[rows]

    config = PseudolabelConfig("dense", views=("views", "2"))
    one, several = (
        label_by_view_sets({"views": kind(cells[:, :5]), "2": kind(cells)}, text, 6, 30.0, config)[0]
        for kind in (MemoryViews, Portions)
    )
    assert torch.allclose(one, several, atol=1e-4)


def test_the_method_follows_the_image_encoder(photos, clip_file, tmp_path):
    settings = {"device": "cpu", "progress": mlclip.SILENT}
    vit = tmp_path / "vit.pt"
    torch.save(ToyCLIP().state_dict(), vit)
    for file, method in ((clip_file, "dense"), (vit, "centred")):
        made = mlclip.pseudolabel(
            photos, ["red", "green"], clip=str(file), clip_pixels="openai", clip_activation="gelu", **settings
        )
        assert made.meta["method"] == method
    assert (
        mlclip.pseudolabel(photos, ["red", "green"], clip=str(clip_file), method="cdul", **settings).meta["method"]
        == "cdul"
    )
