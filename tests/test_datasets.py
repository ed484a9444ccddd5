"""VOC, COCO, NUS-WIDE and class folders: small data sets in the format of their own files, and as they are found."""

from __future__ import annotations

import json
import math

import pytest
import torch

from mlclip.config import InputError, TableOptions
from mlclip.labels.class_names import CLASS_PRESETS
from mlclip.labels.datasets import read_nuswide, read_voc
from mlclip.labels.exchange import read_coco
from mlclip.labels.table import Labels, read_truth, write_labels

VOC, COCO, NUSWIDE = (list(CLASS_PRESETS[name]) for name in ("voc", "coco", "nuswide"))


def refused(call, *words):
    """`call` raises InputError with one line that contains `words`."""
    with pytest.raises(InputError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and all(str(word) in text for word in words), text


def row(labels, path):
    """{class: score} of one photo, unknown classes left out."""
    scores = labels.scores[labels.paths.index(path)].tolist()
    return {name: score for name, score in zip(labels.classes, scores, strict=True) if not math.isnan(score)}


def present(labels, path):
    return {name for name, score in row(labels, path).items() if score == 1}


def positives(labels):
    return {path: present(labels, path) for path in labels.paths}


def notes(found):
    return " | ".join(found.meta["notes"])


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


# -- VOC


def xml(*objects, name=""):
    """An annotation; an object with "?" behind its name is difficult."""
    inside = ""
    for each in objects:
        difficult, part = int(each.endswith("?")), "<part><name>head</name></part>"
        inside += f"<object><name>{each.rstrip('?')}</name><difficult>{difficult}</difficult>{part}</object>"
    return f'<?xml version="1.0"?>\r\n<annotation>\r\n<filename>{name}</filename>{inside}</annotation>\r\n'


@pytest.fixture
def voc(tmp_path):
    home = tmp_path / "VOCdevkit" / "VOC2012"
    write(home / "Annotations" / "2007_000027.xml", xml("person", "dog?"))
    write(home / "Annotations" / "2007_000032.xml", xml("dog?", "dog", "dog?"))
    write(home / "Annotations" / "2008_000001.xml", xml())
    lists = home / "ImageSets" / "Main"
    write(lists / "val.txt", "2007_000032.jpg\r\nJPEGImages/2007_000027.JPG\r\n\r\n2012_000003\r\n")
    write(lists / "dog_val.txt", "2007_000032  1\n2007_000027 -1\n")
    write(home / "ImageSets" / "Layout" / "body.txt", "2007_000027 1\r\n\r\n")
    return home


def test_voc_labels_are_1_0_and_nan_if_all_instances_are_difficult(voc):
    labels = read_voc(voc)
    assert labels.paths == ["2007_000027.jpg", "2007_000032.jpg", "2008_000001.jpg"] and labels.classes == VOC
    assert labels.root == str(voc / "JPEGImages")
    assert list(positives(labels).values()) == [{"person"}, {"dog"}, set()]
    assert labels.scores.isnan().nonzero().tolist() == [[0, VOC.index("dog")]]
    assert read_voc(voc.parent).paths == read_voc(voc.parent.parent).paths == labels.paths  # from the folders above


def test_a_voc_split_is_read_from_main_or_layout_in_its_order_and_a_photo_without_xml_is_unknown(voc):
    assert read_voc(voc, "dog_val").paths == ["2007_000032.jpg", "2007_000027.jpg"]
    assert read_voc(voc, "body").paths == ["2007_000027.jpg"]
    labels = read_truth(f"voc:{voc}:val.txt")
    assert labels.paths == ["2007_000032.jpg", "2007_000027.jpg", "2012_000003.jpg"]
    assert row(labels, "2012_000003.jpg") == {} and len(row(labels, "2007_000032.jpg")) == 20
    assert "nobody annotated 1 of 3 photos (first: 2012_000003.jpg): their classes are unknown" in notes(labels)
    absent = read_truth(f"voc:{voc}:val.txt", TableOptions(empty="absent"))
    assert absent.scores[2].eq(0).all() and "are absent" in notes(absent)
    refused(lambda: read_voc(voc, "test"), "test.txt not found", "val")


def test_a_voc_photo_has_the_name_of_its_annotation_file_and_the_suffix_of_the_photo(voc):
    write(voc / "Annotations" / "a.xml", xml(name="a.png"))
    write(voc / "Annotations" / "b.xml", xml(name="../b.jpg"))
    write(voc / "Annotations" / "c.xml", "<annotation/>")
    write(voc / "JPEGImages" / "2007_000027.png", b"")
    labels = read_truth(str(voc))
    assert labels.paths[0] == "2007_000027.png" and labels.paths[-3:] == ["a.png", "b.jpg", "c.jpg"]
    assert f"read as voc:{voc}" in notes(labels)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("<annotation><object>", "damaged"),
        ("<annotation><object><bndbox/></object></annotation>", "without a name"),
        (xml("unicorn"), "'unicorn'"),
        ('<!DOCTYPE a [<!ENTITY b "ha">]><annotation>&b;</annotation>', "document type"),
    ],
)
def test_a_damaged_or_unusual_annotation_is_refused_with_its_file_name(voc, text, word):
    file = write(voc / "Annotations" / "2008_000001.xml", text)
    refused(lambda: read_voc(voc), voc if "unicorn" in text else file, word)


def test_a_folder_without_voc_or_with_several_or_with_a_missing_photo_is_refused(voc, tmp_path):
    refused(lambda: read_voc(tmp_path / "nowhere"), "nowhere", "Annotations")
    write(voc / "ImageSets" / "Main" / "test.txt", "2012_000001\n")
    refused(lambda: read_voc(voc, "test"), "2012_000001")
    write(voc.parent / "VOC2007" / "Annotations" / "000001.xml", xml())
    refused(lambda: read_voc(voc.parent), "several", "VOC2007", "VOC2012")
    (tmp_path / "VOC2000" / "Annotations").mkdir(parents=True)
    refused(lambda: read_voc(tmp_path / "VOC2000"), "no .xml")


def test_a_folder_of_xml_files_beside_their_photos_has_its_own_classes(tmp_path):
    write(tmp_path / "a.xml", xml("helmet", "person", name="a.PNG"))
    write(tmp_path / "b.xml", xml(name="b.jpg"))
    labels = read_truth(f"voc:{tmp_path}")
    assert labels.classes == ["helmet", "person"] and positives(labels) == {
        "a.PNG": {"helmet", "person"},
        "b.jpg": set(),
    }
    assert "classes that are not VOC's 20" in notes(labels)


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
    assert labels.scores[2].isnan().all()  # nobody annotated it
    (coco.parents[1] / "val2014").mkdir()
    assert read_coco(coco).root == str(coco.parents[1] / "val2014")


@pytest.mark.parametrize(
    "change",
    [
        {"categories": None},
        {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}]},
        {"annotations": [3]},
        {"categories": [{"id": 1, "name": "cat"}, {"id": "b", "name": "dog"}]},
        {"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}], "annotations": []},
        {"images": [], "annotations": []},
    ],
)
def test_a_coco_file_with_another_structure_is_refused_with_its_name(coco, change):
    coco.write_text(json.dumps(json.loads(coco.read_text()) | change))
    refused(lambda: read_coco(coco), coco)


def gappy_coco(tmp_path, **change):
    content = {
        "images": [{"id": 7, "file_name": "val2014\\a.jpg"}, {"id": "x", "file_name": "/data/b.jpg"}],
        "categories": [{"id": 90, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [
            {"image_id": 7, "category_id": 90, "iscrowd": 1, "segmentation": {"counts": "abc", "size": [1, 1]}},
            {"image_id": 7, "category_id": 3, "bbox": [], "segmentation": [[0, 0, 1, 1]]},
            {"image_id": 7, "category_id": 3, "bbox": [5, 5, 0, 2]},
            {"image_id": 7, "category_id": 3, "bbox": [5, 5, 1, 2]},
        ],
    }
    return write(tmp_path / "annotations" / "instances_val.json", json.dumps(content | change))


def test_coco_with_gaps_in_its_ids_crowds_and_folders_in_its_names(tmp_path):
    labels = read_truth(f"coco:{gappy_coco(tmp_path)}")
    assert labels.classes == ["dog", "cat"]
    assert positives(labels) == {"val2014/a.jpg": {"cat", "dog"}, "data/b.jpg": set()}
    said = notes(labels)
    assert "crowds, which count as their class: 1" in said
    assert "nobody annotated 1 of 2 photos (first: data/b.jpg): their classes are unknown" in said
    for place in (tmp_path / "annotations" / "instances_val.json", tmp_path):
        assert f"read as coco:{place}" in notes(read_truth(str(place)))  # without the prefix


def test_a_split_chooses_one_of_several_coco_files(tmp_path):
    file = gappy_coco(tmp_path)
    write(file.with_name("instances_train.json"), "{}")
    refused(lambda: read_truth(f"coco:{tmp_path}"), "2 COCO files", "instances_val.json")
    assert len(read_truth(f"coco:{tmp_path}:val")) == 2


def test_images_that_list_their_negative_categories_are_unknown_elsewhere(tmp_path):
    images = [
        {"id": 7, "file_name": "a.jpg", "neg_category_ids": [4]},
        {"id": 8, "file_name": "b.jpg", "neg_category_ids": []},
    ]
    annotations = [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1]}]
    labels = read_truth(f"coco:{gappy_coco(tmp_path, images=images, annotations=annotations)}")
    assert row(labels, "a.jpg") == {"dog": 1, "cat": 0} and row(labels, "b.jpg") == {}


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
    for text, word in (("0\n1\n", "0 or 1"), ("2\n", "0 or 1"), ("", "0 or 1"), ("0.5\n", "0 or 1")):
        file.write_text(text)
        refused(lambda word=word: read_nuswide(nuswide), file, word)
    file.unlink()
    refused(lambda: read_nuswide(nuswide), file.name, "No such file")
    (nuswide / "ImageList" / "TrainImagelist.txt").write_text("a\\1.jpg\na\\1.jpg\n")
    refused(lambda: read_nuswide(nuswide, "train"), "TrainImagelist.txt", "a/1.jpg")


# -- by a short name


def test_true_labels_are_read_from_tables_and_from_folders_with_a_colon(voc, nuswide, tmp_path):
    assert len(read_truth(f"nuswide:{nuswide}")) == 3 and len(read_truth(f"nuswide:{nuswide}:test")) == 1
    for suffix in (".csv", ".pt", ".jsonl", ".json"):
        write_labels(Labels(["a"], ["x"], torch.ones(1, 1)), tmp_path / f"t{suffix}")
        assert read_truth(str(tmp_path / f"t{suffix}")).paths == ["a"]
    odd = voc.rename(tmp_path / "a:b")
    assert len(read_truth(f"voc:{odd}")) == 3 and len(read_truth(f"voc:{odd}:val")) == 3


@pytest.mark.parametrize(
    "spec", ["", "voc", "voc:", "voc:/nowhere", "voc:/nowhere:val", "coco:", "imagenet:x", "x.csv"]
)
def test_an_unknown_source_of_true_labels_is_refused(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(lambda: read_truth(spec))


def test_nuswide_with_its_concepts_file_other_letter_case_and_drive_letters(tmp_path):
    write(tmp_path / "Concepts81.txt", "cat\r\nsky\r\n")
    write(
        tmp_path / "imagelist" / "ImageList.txt",
        "C:\\ImageData\\Flickr\\actor\\1.jpg\r\nC:\\ImageData\\Flickr\\sky\\2.jpg\r\n",
    )
    for concept, marks in (("cat", "1\r\n0\r\n"), ("sky", "0\n1\n\n")):
        write(tmp_path / "GroundTruth" / "AllLabels" / f"Labels_{concept}.txt", marks)
    labels = read_truth(str(tmp_path))
    assert labels.classes == ["cat", "sky"] and positives(labels) == {"actor/1.jpg": {"cat"}, "sky/2.jpg": {"sky"}}


# -- ImageFolder


def test_an_image_folder_gives_each_photo_the_class_of_its_folder(tmp_path):
    for path in ("cat/1.jpg", "cat/deep/2.JPG", "dog/1.png", ".hidden/1.jpg"):
        write(tmp_path / path, b"")
    (tmp_path / "empty").mkdir()
    labels = read_truth(str(tmp_path))
    assert labels.classes == ["cat", "dog", "empty"]
    assert positives(labels) == {"cat/1.jpg": {"cat"}, "cat/deep/2.JPG": {"cat"}, "dog/1.png": {"dog"}}
    assert labels.scores.isnan().sum() == 0


def test_an_image_folder_with_splits(tmp_path):
    for path in ("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg"):
        write(tmp_path / path, b"")
    assert positives(read_truth(str(tmp_path)))["val/cat/3.jpg"] == {"cat"}
    assert read_truth(f"imagefolder:{tmp_path}:val").paths == ["cat/3.jpg", "dog/4.jpg"]
    (tmp_path / "other").mkdir()
    refused(lambda: read_truth(f"imagefolder:{tmp_path}"), "splits", f"imagefolder:{tmp_path}:train")


def test_a_folder_of_photos_of_trains_is_a_class(tmp_path):
    for path in ("car/1.jpg", "train/2.jpg"):
        write(tmp_path / path, b"")
    assert positives(read_truth(str(tmp_path))) == {"car/1.jpg": {"car"}, "train/2.jpg": {"train"}}


# -- which kind


def test_a_folder_that_could_be_several_kinds_or_none_is_refused_with_the_prefixes(tmp_path):
    refused(lambda: read_truth(str(tmp_path)), "looks like no data set", "imagefolder:", "docs/formats.md")
    write(tmp_path / "a.xml", xml("cat"))
    write(tmp_path / "instances_val.json", "{}")
    refused(lambda: read_truth(str(tmp_path)), "voc or coco", f"voc:{tmp_path}", f"coco:{tmp_path}")


# -- hostile files

BOMB = '<!DOCTYPE a [<!ENTITY b "{}"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'.replace("{}", "ha" * 1000)
FETCH = (
    '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation><object><name>&b;</name></object></annotation>'
)
HOSTILE_XML = [BOMB, FETCH, BOMB.encode("utf-16"), "<annotation>&b;</annotation>", "<a>" * 100_000, "<annotation\0/>",
               '<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE a><annotation/>']  # fmt: skip
NAMES = ["../../etc/passwd", "a\0b", "a" * 300]


@pytest.mark.parametrize("text", HOSTILE_XML, ids=range(len(HOSTILE_XML)))
def test_hostile_xml_is_refused(voc, text):
    file = write(voc / "Annotations" / "2008_000001.xml", text)
    refused(lambda: read_truth(f"voc:{voc}"), file)


@pytest.mark.parametrize("kind", ["voc", "coco", "nuswide", "imagefolder", "label-studio", ""])
@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_no_data_set_are_refused(kind, name, tmp_path, monkeypatch):
    (tmp_path / "here" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "inside")
    for spec in (f"{kind}:{name}", f"{kind}:{name}:val", f"{kind}:{tmp_path}:{name}"):
        refused(lambda spec=spec: read_truth(spec))
