"""The number format of CLIP's image encoder."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mlclip.clip import load_clip
from mlclip.config import OptionError
from mlclip.images import find_images
from mlclip.teacher import scoring
from mlclip.teacher.encode import StoredViews, embed_views_and_cells, encoded_views
from mlclip.teacher.pseudolabel import label_photos
from mlclip.teacher.scoring import Teacher, choose_precision, cpu_bf16_is_faster
from mlclip.teacher.store import MANIFEST

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    return torch.nn.Linear(8, 8)


def test_auto_takes_bf16_only_for_large_encoders_on_cpus_that_are_faster_with_it(encoder, monkeypatch):
    monkeypatch.setattr(scoring, "cpu_bf16_is_faster", lambda: True)
    assert choose_precision("auto", CPU, encoder) == "fp32"
    monkeypatch.setattr(scoring, "SMALLEST", 64)
    assert choose_precision("auto", CPU, encoder) == "bf16"
    monkeypatch.setattr(scoring, "cpu_bf16_is_faster", lambda: False)
    assert choose_precision("auto", CPU, encoder) == "fp32"
    assert choose_precision("auto", GPU, encoder) == "fp16"


def test_a_precision_that_is_asked_for_is_taken_or_refused(encoder):
    assert [choose_precision(name, CPU, encoder) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    with pytest.raises(OptionError, match="needs a GPU"):
        choose_precision("fp16", CPU, encoder)
    with pytest.raises(OptionError, match="`precision` is 'half'"):
        choose_precision("half", CPU, encoder)


@pytest.mark.parametrize(
    ("avx512", "amx", "allowed", "faster"),
    [
        *((True, False, "", True), (False, True, "", True), (False, False, "", False)),
        *((True, False, name, True) for name in ("all", "AVX512_CORE_BF16", "AVX512_CORE_AMX")),
        *((True, False, name, False) for name in ("AVX512_CORE", "AVX2")),
    ],
)
def test_the_instructions_that_onednn_may_use_decide(monkeypatch, avx512, amx, allowed, faster):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert cpu_bf16_is_faster.__wrapped__() == faster
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not cpu_bf16_is_faster.__wrapped__()


def test_bf16_embeddings_point_the_same_way_and_labels_hardly_move(photos, clip_file, tmp_path):
    classes = {"red": "red", "green": "green", "blue": "blue"}
    found = find_images([photos])
    tables = {}
    for name in ("fp32", "bf16"):
        teacher = Teacher(load_clip(str(clip_file)), CPU, name)
        with encoded_views(found.photos, teacher, root=found.root, store=tmp_path / name) as ([store], _):
            _, embeddings = next(iter(StoredViews(store, found.photos)))
        labels = label_photos(found, classes, teacher, store=tmp_path / f"labels-{name}")
        tables[name] = (embeddings, labels)
    cosines = (tables["fp32"][0] * tables["bf16"][0]).sum(-1)
    assert cosines.min() > 0.999
    assert (tables["fp32"][1].scores - tables["bf16"][1].scores).abs().mean() < 0.02
    assert tables["bf16"][1].meta["clip"]["precision"] == "bf16"


def test_the_precision_is_part_of_the_store(photos, clip_file, tmp_path):
    found, clip = find_images([photos]), load_clip(str(clip_file))
    with encoded_views(found.photos, Teacher(clip), root=found.root, store=tmp_path / "s") as ([store], _):
        key = json.loads((tmp_path / "s" / MANIFEST).read_text())["key"]
    assert key == store.key.as_plain() and (key["precision"], key["sha256"]) == ("fp32", clip.sha256)
    assert replace(store.key, precision="bf16").as_plain() != key


def test_a_cpu_encodes_many_views_in_parts_with_the_same_embeddings_and_cells(clip_file, monkeypatch):
    teacher = Teacher(load_clip(str(clip_file)))
    views = torch.randint(0, 256, (7, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert len(teacher.portions(views)) == 1
    whole, (also_whole, cells) = teacher.embed_views(views), embed_views_and_cells(teacher, views, "key")
    monkeypatch.setattr(scoring, "CPU_PIXELS", 3 * 64**2)
    assert [len(part) for part in teacher.portions(views)] == [3, 3, 1]
    torch.testing.assert_close(teacher.embed_views(views), whole)
    in_parts, cells_in_parts = embed_views_and_cells(teacher, views, "key")
    torch.testing.assert_close(in_parts, also_whole)
    torch.testing.assert_close(cells_in_parts, cells)
    assert teacher.embed_views(views[:0]).shape == (0, 32)
