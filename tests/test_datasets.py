"""VOC, COCO and NUS-WIDE: small data sets in the format of their own files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from mlclip.config import InputError
from mlclip.labels.class_names import CLASS_PRESETS
from mlclip.labels.datasets import read_coco, read_coco_boxes, read_nuswide, read_truth, read_voc, read_voc_boxes
from mlclip.labels.table import Labels, read_labels, write_labels

VOC, COCO, NUSWIDE = (list(CLASS_PRESETS[name]) for name in ("voc", "coco", "nuswide"))
SHARED = Path(__file__).parents[1].parent / "shared" / "voc12"


def present(labels, path):
    return {
        name for name, score in zip(labels.classes, labels.scores[labels.paths.index(path)], strict=True) if score == 1
    }


def refused(call, *words):
    """`call` raises InputError with one line that contains `words`."""
    with pytest.raises(InputError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and all(str(word) in text for word in words), text


# -- VOC


def voc_object(name, difficult=0, box=(1, 2, 30, 40)):
    sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    part = f"<part><name>head</name><bndbox>{sides}</bndbox></part>"
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox>{part}</object>"


def voc_photo(home, id, *objects):
    (home / "Annotations").mkdir(parents=True, exist_ok=True)
    text = f"<annotation><filename>{id}.jpg</filename>{''.join(objects)}</annotation>"
    (home / "Annotations" / f"{id}.xml").write_text(text)


@pytest.fixture
def voc(tmp_path):
    home = tmp_path / "VOCdevkit" / "VOC2012"
    voc_photo(home, "2007_000027", voc_object("person"), voc_object("dog", difficult=1))
    voc_photo(home, "2007_000032", voc_object("dog", difficult=1), voc_object("dog"), voc_object("dog", difficult=1))
    voc_photo(home, "2008_000001")
    (home / "ImageSets" / "Main").mkdir(parents=True)
    (home / "ImageSets" / "Layout").mkdir()
    (home / "ImageSets" / "Main" / "val.txt").write_text("2007_000032\n2007_000027\n")
    (home / "ImageSets" / "Main" / "dog_val.txt").write_text("2007_000032  1\n2007_000027 -1\n")
    (home / "ImageSets" / "Layout" / "body.txt").write_text("2007_000027 1\r\n\r\n")
    return home


def test_voc_labels_are_1_0_and_nan_if_all_instances_are_difficult(voc):
    labels = read_voc(voc)
    assert labels.paths == ["2007_000027.jpg", "2007_000032.jpg", "2008_000001.jpg"] and labels.classes == VOC
    assert labels.root == str(voc / "JPEGImages")
    dog, person = VOC.index("dog"), VOC.index("person")
    assert math.isnan(labels.scores[0, dog]) and labels.scores[0, person] == 1
    assert labels.scores[1, dog] == 1 and labels.scores.nan_to_num(0).sum() == 2


@pytest.mark.parametrize("up", [0, 1, 2])
def test_voc_is_found_in_its_own_folder_and_in_the_folders_above(voc, up):
    folder = [voc, voc.parent, voc.parent.parent][up]
    assert read_voc(folder).paths == read_voc(voc).paths


def test_a_voc_split_is_read_from_main_or_layout_in_its_order(voc):
    assert read_voc(voc, "val").paths == ["2007_000032.jpg", "2007_000027.jpg"]
    assert read_voc(voc, "dog_val").paths == ["2007_000032.jpg", "2007_000027.jpg"]
    assert read_voc(voc, "body").paths == ["2007_000027.jpg"]
    refused(lambda: read_voc(voc, "test"), "test.txt not found", "val")


def test_a_name_in_a_split_that_no_file_can_have_is_refused_in_a_short_message(voc):
    (voc / "ImageSets" / "Main" / "long.txt").write_text("a" * 5000)
    with pytest.raises(InputError, match="is not the name of a photo") as error:
        read_voc(voc, "long")
    assert len(str(error.value)) < 1000


def test_voc_boxes_count_pixels_from_0_and_skip_difficult_objects(voc):
    assert read_voc_boxes(voc) == {
        "2007_000027.jpg": [("person", (0.0, 1.0, 30.0, 40.0))],
        "2007_000032.jpg": [("dog", (0.0, 1.0, 30.0, 40.0))],
        "2008_000001.jpg": [],
    }
    assert list(read_voc_boxes(voc, "body")) == ["2007_000027.jpg"]


def test_a_voc_photo_has_the_name_of_its_annotation_file(voc):
    (voc / "Annotations" / "a.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    (voc / "Annotations" / "b.xml").write_text("<annotation><filename>../b.jpg</filename></annotation>")
    (voc / "Annotations" / "c.xml").write_text("<annotation/>")
    assert read_voc(voc).paths[-3:] == ["a.png", "b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("<annotation><object>", "damaged"),
        ("", "damaged"),
        ("<annotation><object><bndbox/></object></annotation>", "without a name"),
        (f"<annotation>{voc_object('unicorn')}</annotation>", "'unicorn'"),
        ('<!DOCTYPE a [<!ENTITY b "ha">]><annotation>&b;</annotation>', "document type"),
        ("<annotation>" + " " * 5_000_000 + "</annotation>", "too large"),
    ],
)
def test_a_damaged_or_unusual_annotation_is_refused_with_its_file_name(voc, text, word):
    file = voc / "Annotations" / "2008_000001.xml"
    file.write_text(text)
    refused(lambda: read_voc(voc), file, word)


def test_a_box_with_a_missing_side_is_refused_only_by_the_reader_of_boxes(voc):
    voc_photo(voc, "2008_000001", "<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>")
    assert present(read_voc(voc), "2008_000001.jpg") == {"cat"}
    refused(lambda: read_voc_boxes(voc), "2008_000001.xml", "bndbox")


def test_a_folder_without_voc_or_with_several_or_with_a_missing_photo_is_refused(voc, tmp_path):
    refused(lambda: read_voc(tmp_path / "nowhere"), "nowhere", "Annotations")
    (voc / "ImageSets" / "Main" / "test.txt").write_text("2012_000001\n")
    refused(lambda: read_voc(voc, "test"), "2012_000001.xml")
    voc_photo(voc.parent / "VOC2007", "000001")
    refused(lambda: read_voc(voc.parent), "several", "VOC2007", "VOC2012")
    (tmp_path / "VOC2000" / "Annotations").mkdir(parents=True)
    refused(lambda: read_voc(tmp_path / "VOC2000"), "no .xml")


# -- COCO


@pytest.fixture
def coco(tmp_path):
    categories = [{"id": 100 - i, "name": name} for i, name in enumerate(reversed(COCO))]  # ids rise with the order
    images = [{"id": 42, "file_name": "b.jpg"}, {"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "none.jpg"}]
    number = {category["name"]: category["id"] for category in categories}
    annotations = [
        {"image_id": 7, "category_id": number["cat"], "bbox": [1.5, 2, 10, 20], "iscrowd": 0},
        {"image_id": 7, "category_id": number["cat"], "bbox": [5, 5, 1, 1], "iscrowd": 0},
        {"image_id": 7, "category_id": number["person"], "bbox": [0, 0, 99, 99], "iscrowd": 1},
        {"image_id": 42, "category_id": number["toothbrush"], "bbox": [0, 0, 1, 1]},
    ]
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances_val2014.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def test_coco_has_80_classes_in_order_and_counts_crowds_and_empty_images(coco):
    labels = read_coco(coco)
    assert labels.classes == COCO and labels.paths == ["b.jpg", "a.jpg", "none.jpg"] and labels.root == "."
    assert present(labels, "a.jpg") == {"cat", "person"} and present(labels, "b.jpg") == {"toothbrush"}
    assert labels.scores[2].eq(0).all()


def test_coco_finds_the_photos_beside_its_annotations(coco):
    (coco.parents[1] / "val2014").mkdir()
    assert read_coco(coco).root == str(coco.parents[1] / "val2014")


def test_coco_boxes_are_corner_coordinates_without_crowds(coco):
    boxes = read_coco_boxes(coco)
    assert boxes["a.jpg"] == [("cat", (1.5, 2.0, 11.5, 22.0)), ("cat", (5.0, 5.0, 6.0, 6.0))]
    assert boxes["none.jpg"] == [] and len(boxes["b.jpg"]) == 1


def test_coco_without_annotations_is_all_zero(coco):
    coco.write_text(json.dumps(json.loads(coco.read_text()) | {"annotations": []}))
    assert read_coco(coco).scores.shape == (3, 80) and read_coco(coco).scores.sum() == 0


@pytest.mark.parametrize(
    "change",
    [
        {"categories": None},
        {"images": [{"id": 1}]},
        {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}]},
        {"annotations": [{"image_id": 7, "category_id": 999, "bbox": [0, 0, 1, 1]}]},
        {"annotations": [{"image_id": [7], "category_id": 21, "bbox": [0, 0, 1, 1]}]},
        {"annotations": [{"image_id": 7, "category_id": 21, "bbox": [0, 0]}]},
        {"annotations": [3]},
        {"categories": [{"id": 1, "name": "cat"}, {"id": "b", "name": "dog"}]},
        {"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}], "annotations": []},
        {"images": [{"id": 1, "file_name": 5}], "annotations": []},
    ],
)
def test_a_coco_file_with_another_structure_is_refused_with_its_name(coco, change):
    coco.write_text(json.dumps(json.loads(coco.read_text()) | change))
    refused(lambda: read_coco(coco), coco)


@pytest.mark.parametrize("text", ["", "[]", '{"images": [', "\udcff", "[" * 100_000])
def test_a_truncated_coco_file_is_refused_with_its_name(coco, text):
    coco.write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(lambda: read_coco(coco), coco)
    coco.unlink()
    refused(lambda: read_coco(coco), coco, "No such file")


# -- NUS-WIDE


def nuswide_part(folder, image_list, labels, end, paths, marks):
    (folder / "ImageList").mkdir(parents=True, exist_ok=True)
    (folder / "Groundtruth" / labels).mkdir(parents=True, exist_ok=True)
    (folder / "ImageList" / image_list).write_text("".join(f"{path}\r\n" for path in paths))
    for concept in NUSWIDE:
        column = [1 if concept in mark else 0 for mark in marks]
        text = "".join(f"{mark}\n" for mark in column)
        (folder / "Groundtruth" / labels / f"Labels_{concept}{end}.txt").write_text(text)


@pytest.fixture
def nuswide(tmp_path):
    paths = ["actor\\0001_21.jpg", "zebra\\0002_3.jpg"]
    nuswide_part(tmp_path, "TrainImagelist.txt", "TrainTestLabels", "_Train", paths, [{"person"}, {"zebra", "grass"}])
    nuswide_part(tmp_path, "TestImagelist.txt", "TrainTestLabels", "_Test", ["sky\\1.jpg"], [{"sky"}])
    return tmp_path


def test_nuswide_joins_train_and_test_and_uses_forward_slashes(nuswide):
    labels = read_nuswide(nuswide)
    assert labels.paths == ["actor/0001_21.jpg", "zebra/0002_3.jpg", "sky/1.jpg"] and labels.classes == NUSWIDE
    assert [present(labels, path) for path in labels.paths] == [{"person"}, {"zebra", "grass"}, {"sky"}]
    assert read_nuswide(nuswide, "test").paths == ["sky/1.jpg"] and len(read_nuswide(nuswide, "train")) == 2


def test_nuswide_reads_all_labels_if_they_exist(nuswide):
    nuswide_part(nuswide, "Imagelist.txt", "AllLabels", "", ["all\\1.jpg"], [{"water"}])
    for split in (None, "all"):
        assert present(read_nuswide(nuswide, split), "all/1.jpg") == {"water"}
    assert len(read_nuswide(nuswide, "train")) == 2


def test_a_damaged_nuswide_is_refused_with_the_file_name(nuswide):
    refused(lambda: read_nuswide(nuswide, "val"), "'val'", "train, test or all")
    refused(lambda: read_nuswide(nuswide, "all"), "Imagelist.txt")
    file = nuswide / "Groundtruth" / "TrainTestLabels" / "Labels_fox_Test.txt"
    for text, word in (("0\n1\n", "2 lines"), ("2\n", "0 and 1"), ("", "0 lines"), ("0.5\n", "0 and 1")):
        file.write_text(text)
        refused(lambda word=word: read_nuswide(nuswide), file, word)
    file.unlink()
    refused(lambda: read_nuswide(nuswide), file, "No such file")
    (nuswide / "ImageList" / "TrainImagelist.txt").write_text("a\\1.jpg\na\\1.jpg\n")
    refused(lambda: read_nuswide(nuswide, "train"), "TrainImagelist.txt", "a/1.jpg")


# -- by a short name


def test_read_truth_reads_every_kind_of_source(voc, coco, nuswide, tmp_path):
    assert len(read_truth(f"voc:{voc}")) == 3 and len(read_truth(f"voc:{voc}:val")) == 2
    assert len(read_truth(f"coco:{coco}")) == 3
    assert len(read_truth(f"nuswide:{nuswide}")) == 3 and len(read_truth(f"nuswide:{nuswide}:test")) == 1
    for suffix in (".csv", ".pt", ".jsonl", ".json"):
        write_labels(Labels(["a"], ["x"], torch.ones(1, 1)), tmp_path / f"t{suffix}")
        assert read_truth(str(tmp_path / f"t{suffix}")).paths == ["a"]


def test_read_truth_allows_a_colon_in_a_folder_name(voc, tmp_path):
    odd = tmp_path / "a:b"
    voc.rename(odd)
    assert len(read_truth(f"voc:{odd}")) == 3 and len(read_truth(f"voc:{odd}:val")) == 2


@pytest.mark.parametrize(
    "spec", ["", "voc", "voc:", "voc:/nowhere", "voc:/nowhere:val", "coco:", "imagenet:x", "x.csv"]
)
def test_an_unknown_source_of_true_labels_is_refused(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(lambda: read_truth(spec))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED.name}: the real table of true labels is not available")
def test_the_real_table_of_voc_labels_has_the_classes_of_voc():
    truth = read_labels(SHARED / "truth_test.csv")
    assert truth.classes == VOC and len(truth) == 900
    assert set(truth.scores.unique().tolist()) <= {0.0, 1.0}
