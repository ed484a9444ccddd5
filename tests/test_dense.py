"""Dense labels: the equations, the cells in their stores, and the labels of several kinds of views."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from toy_clip import ToyCLIP

import mlclip
from mlclip.clip import encoders
from mlclip.clip.model import CLIP
from mlclip.config import InputError, PseudolabelConfig
from mlclip.images import find_images, loader, open_image, view_pixels
from mlclip.methods import dense
from mlclip.teacher import encode
from mlclip.teacher.cache import list_stores
from mlclip.teacher.encode import cell_key, embed_views_and_cells, view_key
from mlclip.teacher.label import label_by_view_sets
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
CENTRED, DENSE = PseudolabelConfig(), PseudolabelConfig("dense", kinds=("views", "cells", "2"))


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
    labels = label(photos, teacher, PseudolabelConfig("dense", kinds=("views", "2")))
    assert not encoded["plain"] and {shape[-1] for shape in encoded["cells"]} == {128}
    assert torch.equal(stored(photos, teacher), shard)
    assert labels.meta["levels"] == centred.meta["levels"] and labels.meta["mixture"] == centred.meta["mixture"]


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
        assert labels.scores.shape == (12, 3) and set(labels.meta["kinds"]) == {"views", "cells", "2"}
    assert [info.kind for info in list_stores()] == ["embeddings"] + 4 * ["cells"]


def test_kinds_that_are_the_same_cells_for_a_clip_are_refused(photos, teacher):
    with pytest.raises(
        InputError, match=r"`kinds` 2 and 2\.1 are the same cells for this CLIP: the photo at 128 pixels"
    ):
        label(photos, teacher, PseudolabelConfig("dense", kinds=("2", "2.1")))


def test_a_run_that_was_interrupted_continues_and_an_unreadable_photo_is_skipped(
    photos, teacher, tmp_path, monkeypatch, interrupt_at
):
    (photos / "03.jpg").write_bytes(b"no photo")
    expected = label(photos, teacher, batch_size=1)

    monkeypatch.setattr("mlclip.teacher.fill.SHARD_PHOTOS", 1)
    with interrupt_at("mlclip.teacher.encode.embed_views_and_cells", 41):  # between the stores of one photo
        label(photos, teacher, store=tmp_path / "store", batch_size=1)
    monkeypatch.undo()
    labels = label(photos, teacher, store=tmp_path / "store", batch_size=1)
    assert torch.allclose(labels.scores, expected.scores, atol=1e-5)
    assert [path for path, _ in labels.meta["skipped"]] == ["03.jpg"] and len(labels) == 11


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
    config = PseudolabelConfig("dense", kinds=("views", *cells))
    return label_by_view_sets({k: MemoryViews(v) for k, v in cells.items()}, MemoryViews(views), text, 6, 30.0, config)


def agreement_with(truth, labels):
    return dense.agreement(labels, truth)


def test_cells_find_what_mixed_views_hide_and_useless_cells_do_little_harm():
    text, cells, truth = toy()
    views = F.normalize(cells.unflatten(1, (2, 8)).mean(2), dim=-1)  # two views that mix eight cells each
    noise = F.normalize(torch.randn(cells.shape, generator=torch.Generator().manual_seed(1)), dim=-1)
    alone, _ = dense_labels(text, views)
    both, summary = dense_labels(text, views, **{"2": cells})
    noisy, bad = dense_labels(text, views, **{"2": cells, "4": noise})
    assert agreement_with(truth, both) > agreement_with(truth, alone) + 0.02
    assert agreement_with(truth, noisy) > agreement_with(truth, both) - 0.02
    agreements = {kind: facts["agreements"] for kind, facts in bad["kinds"].items()}
    assert max(agreements["4"]) < min(agreements["2"]) and len(summary["kinds"]["2"]["levels"]["1"]) == 6


def test_labels_do_not_depend_on_the_batches_of_the_cells():
    text, cells, _ = toy(photos=60)

    class Portions(MemoryViews):
        def __iter__(self):
            for rows in torch.arange(len(self)).flip(0).split(7):
                yield rows, self.vectors[rows]

    config = PseudolabelConfig("dense", kinds=("views", "2"))
    one, several = (
        label_by_view_sets({"2": kind(cells)}, kind(cells[:, :5]), text, 6, 30.0, config)[0]
        for kind in (MemoryViews, Portions)
    )
    assert torch.allclose(one, several, atol=1e-4)


def test_crops_are_scored_with_the_levels_of_the_views(photos, teacher):
    scorers = [crop_scorer_for(label(photos, teacher, config), teacher) for config in (CENTRED, DENSE)]
    crops = F.normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    combined = [scorer.combine(torch.full((3,), scorer.initial), scorer.score(crops)[0]) for scorer in scorers]
    assert torch.equal(scorers[0].local_label(combined[0]), scorers[1].local_label(combined[1]))


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
