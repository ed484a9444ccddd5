"""Data sets as they are found: parts missing, other line ends, other tools' folders; and files that are hostile."""

from __future__ import annotations

import doctest
import json
import math
import random

import pytest
from PIL import Image

from mlclip.config import InputError
from mlclip.labels.class_names import CLASS_PRESETS
from mlclip.labels.datasets import read_boxes, read_truth, source


def row(labels, path):
    """{class: score} of one photo, unknown classes left out."""
    scores = labels.scores[labels.paths.index(path)].tolist()
    return {name: score for name, score in zip(labels.classes, scores, strict=True) if not math.isnan(score)}


def positives(labels):
    return {path: {name for name, score in row(labels, path).items() if score == 1} for path in labels.paths}


def notes(found):
    return " | ".join(found.meta["notes"] if hasattr(found, "meta") else found.notes)


def refused(spec, *words, read=read_truth):
    with pytest.raises(InputError) as error:
        read(spec)
    text = str(error.value)
    assert "\n" not in text and len(text) < 600 and all(word in text for word in words), text


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def photo(file, size=(40, 20)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(file)


def xml(*objects, name=""):
    inside = "".join(f"<object><name>{each}</name></object>" for each in objects)
    return f'<?xml version="1.0"?>\r\n<annotation>\r\n<filename>{name}</filename>{inside}</annotation>\r\n'


def test_the_examples_in_the_docstrings_are_correct():
    result = doctest.testmod(source)
    assert result.attempted > 0 and result.failed == 0


# -- VOC


@pytest.fixture
def voc(tmp_path):
    home = tmp_path / "VOC2007"
    write(home / "Annotations" / "000001.xml", xml("dog"))
    write(home / "Annotations" / "000002.xml", xml())
    write(home / "ImageSets" / "Main" / "val.txt", "000001.jpg\r\nJPEGImages/000002.JPG\r\n\r\n000003\r\n")
    return home


def test_a_voc_photo_without_xml_is_unknown_and_counted(voc):
    labels = read_truth(f"voc:{voc}:val.txt")
    assert labels.paths == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert row(labels, "000003.jpg") == {} and len(row(labels, "000002.jpg")) == 20
    assert "1 photo without an XML file: unknown, not negative (first: 000003.jpg)" in notes(labels)


def test_voc_lists_of_a_class_stand_in_for_a_missing_xml(voc):
    write(voc / "ImageSets" / "Main" / "cat_val.txt", "000001 -1\r\n000002 -1\r\n000003  1\r\n")
    write(voc / "ImageSets" / "Main" / "dog_val.txt", "000001  1\n000002 -1\n000003  0\n")
    write(voc / "ImageSets" / "Main" / "cow_val.txt", "000001 -1\n000002 -1\n000003 -1\n")
    assert row(read_truth(f"voc:{voc}:val"), "000003.jpg") == {"cat": 1, "cow": 0}
    for file in (voc / "Annotations").iterdir():
        file.unlink()
    assert positives(read_truth(f"voc:{voc}:val")) == {
        "000001.jpg": {"dog"},
        "000002.jpg": set(),
        "000003.jpg": {"cat"},
    }


def test_voc_photos_that_are_missing_or_have_another_suffix(voc):
    for name in ("000001.png", "000004.jpg"):
        write(voc / "JPEGImages" / name, b"")
    labels = read_truth(str(voc))
    assert labels.paths == ["000001.png", "000002.jpg", "000004.jpg"] and row(labels, "000004.jpg") == {}
    assert "1 photo with labels, but not in JPEGImages (first: 000002.jpg)" in notes(labels)
    assert f"read as voc:{voc}" in notes(labels)


def test_voc_objects_without_a_box_count_as_labels_but_not_as_boxes(voc):
    boxes = read_boxes(f"voc:{voc}")
    assert boxes == {"000001.jpg": [], "000002.jpg": []} and "1 object without a box" in notes(boxes)
    assert positives(read_truth(f"voc:{voc}"))["000001.jpg"] == {"dog"}


def test_a_folder_of_xml_files_beside_their_photos_has_its_own_classes(tmp_path):
    write(tmp_path / "a.xml", xml("helmet", "person", name="a.PNG"))
    write(tmp_path / "b.xml", xml(name="b.jpg"))
    labels = read_truth(f"voc:{tmp_path}")
    assert labels.classes == ["helmet", "person"] and positives(labels) == {
        "a.PNG": {"helmet", "person"},
        "b.jpg": set(),
    }
    assert "helmet: not among VOC's 20 classes" in notes(labels)


# -- COCO


def coco(tmp_path, **change):
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
    labels = read_truth(f"coco:{coco(tmp_path)}")
    assert labels.classes == ["dog", "cat"]
    assert positives(labels) == {"val2014/a.jpg": {"cat", "dog"}, "data/b.jpg": set()}
    said = notes(labels)
    for text in (
        "1 crowd counted",
        "1 category with the name of another",
        "images without annotations, which have no class: 1 of 2",
    ):
        assert text in said
    boxes = read_boxes(f"coco:{tmp_path}")
    assert boxes["val2014/a.jpg"] == [("dog", (5, 5, 6, 7))] and "1 box without an area" in notes(boxes)


def test_a_coco_file_or_folder_is_recognised_without_its_prefix(tmp_path):
    file = coco(tmp_path)
    for place in (file, tmp_path):
        assert f"read as coco:{place}" in notes(read_truth(str(place)))


def test_a_split_chooses_one_of_several_coco_files(tmp_path):
    file = coco(tmp_path)
    write(file.with_name("instances_train.json"), "{}")
    refused(f"coco:{tmp_path}", "2 COCO files", "instances_val.json")
    assert len(read_truth(f"coco:{tmp_path}:val")) == 2


def test_images_that_list_their_negative_categories_are_unknown_elsewhere(tmp_path):
    images = [
        {"id": 7, "file_name": "a.jpg", "neg_category_ids": [4]},
        {"id": 8, "file_name": "b.jpg", "neg_category_ids": []},
    ]
    annotations = [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1]}]
    labels = read_truth(f"coco:{coco(tmp_path, images=images, annotations=annotations)}")
    assert row(labels, "a.jpg") == {"dog": 1, "cat": 0} and row(labels, "b.jpg") == {}


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1e999, 1]}]},
        {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 10**400, 1]}]},
        {"annotations": [{"image_id": 7, "category_id": 3, "bbox": ["0", 0, 1, 1]}]},
        {"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 7, "file_name": "b.jpg"}]},
        {"images": [{"id": 7, "file_name": "a\0.jpg"}], "annotations": []},
        {"images": [], "annotations": []},
        {"images": [{"id": i, "file_name": f"{i}"} for i in range(6000)],
         "categories": [{"id": i, "name": f"c{i}"} for i in range(6000)], "annotations": []},
    ],
)  # fmt: skip
def test_a_nonsense_coco_file_is_refused_in_one_line(tmp_path, change):
    refused(f"coco:{coco(tmp_path, **change)}", "instances_val.json")


# -- NUS-WIDE


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
    assert "from the folder Flickr on" in notes(labels)
    write(tmp_path / "Concepts81.txt", "../cat\n")
    refused(f"nuswide:{tmp_path}", "Concepts81.txt")


# -- Open Images

LEVEL = "ImageID,Source,LabelName,Confidence\r\n"


@pytest.fixture
def open_images(tmp_path):
    write(tmp_path / "class-descriptions.csv", '/m/1,Cat\n/m/2,"Dog, hound"\n/m/3,Crane\n/m/4,Crane\n')
    write(
        tmp_path / "val-labels.csv",
        LEVEL + "a,verification,/m/1,1\na,verification,/m/2,0\nb,machine,/m/1,0.7\nb,v,/m/3,1\n",
    )
    return tmp_path


def test_open_images_labels_are_known_only_where_they_were_checked(open_images):
    labels = read_truth(f"openimages:{open_images / 'val-labels.csv'}")
    assert labels.classes == ["Cat", "Crane (/m/3)", "Dog, hound"]
    assert row(labels, "a.jpg") == {"Cat": 1, "Dog, hound": 0} and row(labels, "b.jpg") == {"Crane (/m/3)": 1}
    assert "1 label with a Confidence between 0 and 1" in notes(labels) and "unknown, not negative" in notes(labels)
    assert row(read_truth(str(open_images / "val-labels.csv")), "a.jpg") == row(labels, "a.jpg")


def test_open_images_boxes_are_pixels_of_the_photos_and_labels_too(open_images):
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
    write(open_images / "val-bbox.csv", head + "a,x,/m/1,1,0.5,1,0,0.5,0\na,x,/m/2,1,0,1,0,1,1\n")
    photo(open_images / "val" / "a.jpg")
    boxes = read_boxes(str(open_images))
    assert boxes == {"val/a.jpg": [("Cat", (20, 0, 40, 10))]} and "1 box of a group" in notes(boxes)
    labels = read_truth(str(open_images))
    assert row(labels, "val/a.jpg") == {"Cat": 1, "Dog, hound": 1} and "as there and as not there" in notes(labels)
    assert "read together" in notes(labels) and "b.jpg" in labels.paths
    refused(f"openimages:{open_images}:train", "'train'", "val-bbox.csv")


# -- ImageFolder


def test_an_image_folder_gives_each_photo_the_class_of_its_folder(tmp_path):
    for path in ("cat/1.jpg", "cat/deep/2.JPG", "dog/1.png", ".hidden/1.jpg"):
        write(tmp_path / path, b"")
    (tmp_path / "empty").mkdir()
    labels = read_truth(str(tmp_path))
    assert labels.classes == ["cat", "dog", "empty"]
    assert positives(labels) == {"cat/1.jpg": {"cat"}, "cat/deep/2.JPG": {"cat"}, "dog/1.png": {"dog"}}
    assert labels.scores.isnan().sum() == 0 and "1 folder without photos" in notes(labels)


def test_an_image_folder_with_splits(tmp_path):
    for path in ("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg"):
        write(tmp_path / path, b"")
    assert positives(read_truth(str(tmp_path)))["val/cat/3.jpg"] == {"cat"}
    assert read_truth(f"imagefolder:{tmp_path}:val").paths == ["cat/3.jpg", "dog/4.jpg"]
    (tmp_path / "other").mkdir()
    refused(f"imagefolder:{tmp_path}", "splits", f"imagefolder:{tmp_path}:train")


def test_a_folder_of_photos_of_trains_is_a_class(tmp_path):
    for path in ("car/1.jpg", "train/2.jpg"):
        write(tmp_path / path, b"")
    assert positives(read_truth(str(tmp_path))) == {"car/1.jpg": {"car"}, "train/2.jpg": {"train"}}


# -- LabelMe


def labelme(file, path, *shapes, **more):
    shapes = [{"label": name, "points": points, "shape_type": kind} for name, points, kind in shapes]
    return write(
        file, json.dumps({"version": "5.0", "flags": {}, "shapes": shapes, "imagePath": path, "imageData": None} | more)
    )


def test_labelme_folders_give_labels_and_boxes(tmp_path):
    labelme(tmp_path / "a.json", "a.jpg", ("cat", [[9, 1], [3, 5]], "rectangle"), ("dog", [[5, 5], [5, 8]], "circle"))
    labelme(
        tmp_path / "sub" / "b.json", "..\\sub\\b.jpg", ("tip", [[1, 1]], "point"), flags={"night": True, "day": False}
    )
    labelme(tmp_path / "c.json", "C:\\photos\\c.jpg")
    write(tmp_path / "settings.json", "{}")
    write(tmp_path / "d.jpg", b"")
    labels = read_truth(str(tmp_path))
    known = {"a.jpg": {"cat", "dog"}, "sub/b.jpg": {"tip", "night"}, "c.jpg": set(), "d.jpg": set()}
    assert positives(labels) == known and row(labels, "d.jpg") == {} and len(row(labels, "c.jpg")) == 4
    assert "1 photo without a json file: unknown, not negative (first: d.jpg)" in notes(labels)
    boxes = read_boxes(f"labelme:{tmp_path}")
    assert boxes["a.jpg"] == [("cat", (3, 1, 9, 5)), ("dog", (2, 2, 8, 8))] and boxes["sub/b.jpg"] == []


# -- YOLO

YAML = "path: ../x\nnames:  # two\n  0: cat\n  1: 'dog: hound'\nnc: 2\n"


@pytest.mark.parametrize("folders", ["images/val,labels/val", "val/images,val/labels"])
def test_yolo_folders_give_labels_and_boxes(tmp_path, folders):
    images, labels = folders.split(",")
    write(tmp_path / "data.yaml", YAML)
    photo(tmp_path / images / "a.jpg")
    photo(tmp_path / images / "b.png")
    write(tmp_path / labels / "a.txt", "1 0.5 0.5 0.5 1\r\n0 0 0 0.5 0 0.5 0.5\r\n")
    found = read_truth(str(tmp_path))
    assert found.classes == ["cat", "dog: hound"]
    assert positives(found) == {f"{images}/a.jpg": {"cat", "dog: hound"}, f"{images}/b.png": set()}
    assert "1 photo without a text file: it has no class, as YOLO defines it" in notes(found)
    boxes = read_boxes(f"yolo:{tmp_path}:valid")
    assert boxes[f"{images}/a.jpg"] == [("dog: hound", (10, 0, 30, 20)), ("cat", (0, 0, 20, 10))]
    refused(f"yolo:{tmp_path}:train", "'train'")
    write(tmp_path / labels / "a.txt", "2 0.5 0.5 0.5 1\n")
    refused(f"yolo:{tmp_path}", "a.txt", "'2'")


def test_yolo_text_files_may_lie_beside_the_photos_or_have_none(tmp_path):
    write(tmp_path / "classes.txt", "cat\ndog\n")
    write(tmp_path / "a.txt", "")
    write(tmp_path / "b.txt", "1 0.5 0.5 1 1\n")
    write(tmp_path / "a.jpg", b"")
    labels = read_truth(f"yolo:{tmp_path}")
    assert positives(labels) == {"a.jpg": set(), "b.jpg": {"dog"}} and "1 text file whose photo is not there" in notes(
        labels
    )
    refused(f"yolo:{tmp_path}", "b.jpg", read=read_boxes)


# -- which kind


def test_a_folder_that_could_be_several_kinds_or_none_is_refused_with_the_prefixes(tmp_path):
    refused(str(tmp_path), "looks like no data set", "imagefolder:DIR")
    write(tmp_path / "a.xml", xml("cat"))
    labelme(tmp_path / "a.json", "a.jpg")
    refused(str(tmp_path), "voc or labelme", "voc:DIR", "labelme:DIR")


# -- hostile files

BOMB = '<!DOCTYPE a [<!ENTITY b "{}"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'.replace("{}", "ha" * 1000)
FETCH = (
    '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation><object><name>&b;</name></object></annotation>'
)
HOSTILE_XML = [
    BOMB, FETCH, BOMB.encode("utf-16"), "<annotation>&b;</annotation>", "<a>" * 100_000, "<a>" * 100_000 + "</a>" * 100_000,
    '<?xml version="1.0" encoding="cp037"?><annotation/>', '<?xml version="1.0" encoding="nonsense"?><annotation/>',
    '<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE a><annotation/>', b"\xff\xfe", "<annotation\0/>",
]  # fmt: skip
HOSTILE_JSON = [
    "[" * 100_000,
    '{"a":' * 100_000,
    "1" * 10_000,
    '{"shapes": [], "imagePath": "\\u0000"}',
    "\udcff",
    "NaN",
    "null",
]
NAMES = ["../../etc/passwd", "a\0b", "/etc/passwd", "..", ".", "", "\\\\x\\y", "C:", "\ud800", "a" * 300, "é/ü.jpg"]


@pytest.mark.parametrize("text", HOSTILE_XML, ids=range(len(HOSTILE_XML)))
def test_hostile_xml_is_refused_or_empty(voc, text):
    write(voc / "Annotations" / "000001.xml", text)
    try:
        assert "root:" not in str(read_truth(f"voc:{voc}").classes)
    except InputError as error:
        assert "\n" not in str(error) and "000001.xml" in str(error)


def small_sets(home):
    """One small data set of each kind below `home`: {spec: files}."""
    write(home / "v" / "Annotations" / "1.xml", xml("cat"))
    write(home / "v" / "ImageSets" / "Main" / "val.txt", "1\n")
    write(home / "v" / "ImageSets" / "Main" / "cat_val.txt", "1 1\n")
    coco(home / "c")
    write(home / "n" / "ImageList" / "Imagelist.txt", "a\\1.jpg\n")
    for concept in CLASS_PRESETS["nuswide"]:
        write(home / "n" / "Groundtruth" / "AllLabels" / f"Labels_{concept}.txt", "0\n")
    write(home / "o" / "class-descriptions.csv", "/m/1,Cat\n")
    write(home / "o" / "t.csv", "ImageID,LabelName,Confidence,XMin,XMax,YMin,YMax\na,/m/1,1,0,1,0,1\n")
    labelme(home / "l" / "a.json", "a.jpg", ("cat", [[9, 1], [3, 5]], "rectangle"))
    write(home / "y" / "data.yaml", YAML)
    write(home / "y" / "labels" / "a.txt", "1 0.5 0.5 0.5 1\n")
    for path in ("o/a.jpg", "y/images/a.jpg", "i/cat/1.jpg", "i/dog/1.jpg"):
        photo(home / path)
    kinds = {"voc": "v", "coco": "c", "nuswide": "n", "openimages": "o", "labelme": "l", "yolo": "y"}
    return {
        f"{kind}:{home / folder}": [f for f in (home / folder).rglob("*") if f.is_file()]
        for kind, folder in kinds.items()
    }


def damaged(data, chance):
    """The bytes of a file with one random change that a hostile or broken file could have."""
    at = chance.randrange(len(data) + 1)
    piece = chance.choice(
        [*HOSTILE_JSON[3:], *NAMES, "1e999", "-1", "9" * 400, "[]", "{}", '"', "<", ",", "\n", "0 0 0 0 0"]
    )
    piece = piece.encode("utf-8", "surrogatepass")
    kind = chance.randrange(4)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + piece + data[at:]
    if kind == 2:
        return data[:at] + piece + data[at + len(piece) :]
    return data.replace(chance.choice([b"a", b"1", b"cat", b"0.5", b"7"]), piece)


def test_damaged_files_raise_only_input_errors_of_one_line(tmp_path):
    chance, refusals = random.Random(0), 0
    for spec, files in small_sets(tmp_path).items():
        files = [file for file in files if file.suffix != ".jpg"][:12]
        assert len(read_truth(spec)) > 0
        for _ in range(60):
            file = chance.choice(files)
            before = file.read_bytes()
            file.write_bytes(damaged(before, chance))
            for read in (read_truth, read_boxes):
                try:
                    found = read(spec)
                    paths = found.paths if read is read_truth else found
                    assert not any(path.startswith("/") or ".." in path.split("/") for path in paths)
                except InputError as error:
                    refusals += 1
                    assert "\n" not in str(error)
            file.write_bytes(before)
    assert refusals > 150


@pytest.mark.parametrize("kind", ["voc", "coco", "nuswide", "openimages", "imagefolder", "labelme", "yolo", ""])
@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_no_data_set_are_refused(kind, name, tmp_path, monkeypatch):
    (tmp_path / "here" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "inside")
    for spec in (f"{kind}:{name}", f"{kind}:{name}:val", f"{kind}:{tmp_path}:{name}"):
        refused(spec)
