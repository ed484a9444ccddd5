"""`benchmarks/papers.py` on a small copy of VOC 2007: the whole way from photos to the table beside the papers' numbers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from mlclip.demo import KINDS, draw_single

FILE = Path(__file__).parents[1] / "benchmarks" / "papers.py"
OBJECT = "<object><name>{}</name><difficult>{}</difficult></object>"


@pytest.fixture
def papers(monkeypatch):
    monkeypatch.syspath_prepend(FILE.parent)  # where it finds `bench`
    spec = importlib.util.spec_from_file_location("papers", FILE)
    sys.modules["papers"] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["papers"]


@pytest.fixture
def voc(tmp_path):
    """Eight photos for training and six for testing; one of the latter has only a difficult object, and one is not on the disk."""
    home = tmp_path / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (home / folder).mkdir(parents=True)
    for split, ids in (("trainval", range(8)), ("test", range(8, 14))):
        (home / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{i:06d}\n" for i in ids))
        for i in ids:
            objects = OBJECT.format(("cat", "dog", "car")[i % 3], int(i == 13))
            (home / "Annotations" / f"{i:06d}.xml").write_text(f"<annotation>{objects}</annotation>")
            if i != 12:
                draw_single(KINDS[i], np.random.default_rng(i), 64).save(home / "JPEGImages" / f"{i:06d}.jpg")
    return home


def test_every_method_gets_a_row_beside_the_published_numbers(papers, voc, tmp_path):
    student = {"arch": "resnet18", "init": "none", "size": 64, "epochs": 1, "batch_size": 8}
    lines = papers.run("voc07", voc, "tiny", tmp_path / "out", **student)
    assert "8 photos on the disk of 8 in the list; the complete list has 5,011" in lines[1]
    assert "5 photos on the disk of 6 in the list; the complete list has 4,952; 4 show a class" in lines[2]
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in lines[6:]}
    assert list(rows)[:4] == list(papers.METHODS) and rows["CDUL, published"][2] == "89.0"
    for method in papers.METHODS:
        assert all(0 <= float(cell) <= 100 for cell in rows[method]) and len(rows[method]) == 4


def test_a_list_limits_the_test_photos(papers, voc, tmp_path):
    named = tmp_path / "list.txt"
    named.write_text("000009.jpg\n000010.jpg\n")
    part = papers.read_part(papers.PROTOCOLS["voc07"].test, voc, named)
    assert part.truth.paths == ["000009.jpg", "000010.jpg"] == [photo.path for photo in part.photos.photos]
