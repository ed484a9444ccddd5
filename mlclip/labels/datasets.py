"""True labels from the annotation files of public data sets -> `Labels` (1, 0, NaN = difficult), for reporting only.

The photos themselves are not needed. Boxes are `box_xyxy` in pixels: floats x0, y0, x1, y1 from the top left corner of the
photo; x1 and y1 are exclusive.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

from ..config import InputError, TableOptions
from ..progress import SILENT, Progress
from .class_names import CLASS_PRESETS as CLASS_PRESETS
from .class_names import decode_text, shorten
from .table import READ_SUFFIXES, Labels, read_labels

Boxes = dict[str, list[tuple[str, tuple[float, float, float, float]]]]
MAX_XML = 4_000_000  # bytes; the files of VOC have fewer than 10,000


def read_truth(
    spec: str,
    options: TableOptions | None = None,
    *,
    progress: Progress = SILENT,
    known_classes: Collection[str] = (),
) -> Labels:
    """True labels by a short name: `voc:DIR`, `voc:DIR:val`, `coco:FILE`, `nuswide:DIR`, `nuswide:DIR:test`, or FILE.csv.

    `options`, `progress` and `known_classes` as for `read_labels`; they matter for a table. Raises InputError for another name,
    or if the files are missing or damaged.
    """
    kind, colon, rest = str(spec).partition(":")
    if colon and kind == "coco":
        return read_coco(rest)
    if colon and kind in ("voc", "nuswide"):
        folder, split = (rest, None) if Path(rest).is_dir() else _split_off(rest)
        return (read_voc if kind == "voc" else read_nuswide)(folder, split)
    if Path(spec).suffix.lower() in READ_SUFFIXES:
        if not Path(spec).is_file():
            raise InputError(
                f"{spec} not found. A table of true labels has a path column, and 1, 0 or an empty cell for each class."
            )
        return read_labels(spec, options, progress=progress, known_classes=known_classes)
    raise InputError(
        f"{spec!r} is not a source of true labels. Give voc:DIR, voc:DIR:val, coco:FILE, nuswide:DIR or a .csv file."
    )


def read_boxes(spec: str) -> Boxes:
    """Boxes by a short name: `voc:DIR`, `voc:DIR:val` or `coco:FILE` -> {path: [(class, box_xyxy in pixels)]}."""
    kind, colon, rest = str(spec).partition(":")
    if colon and kind == "coco":
        return read_coco_boxes(rest)
    if colon and kind == "voc":
        return read_voc_boxes(*((rest, None) if Path(rest).is_dir() else _split_off(rest)))
    raise InputError(f"{spec!r} is not a source of boxes. Give voc:DIR, voc:DIR:val or coco:FILE.")


def _split_off(text: str) -> tuple[str, str | None]:
    folder, colon, split = text.rpartition(":")
    return (folder, split or None) if colon else (text, None)


# -- PASCAL VOC ----------------------------------------------------------------------------------------------------


def read_voc(folder: str | Path, split: str | None = None) -> Labels:
    """True labels of PASCAL VOC from `VOCdevkit` or one of its `VOC20xx` folders: 20 classes, all photos or those of a split.

    A split is a list in ImageSets/Main or ImageSets/Layout, such as "train" or "val". A label is NaN if all instances of the
    class are difficult. Paths are file names in `root`, the folder JPEGImages. InputError names a missing file.
    """
    home = _voc_home(folder)
    classes = list(CLASS_PRESETS["voc"])
    column = {name: i for i, name in enumerate(classes)}
    paths, rows = [], []
    for file, photo, tree in _voc_annotations(home, split):
        row = [0.0] * len(classes)
        for name, difficult, _ in _voc_objects(tree, file):
            if name not in column:
                raise InputError(f"{file}: {name!r} is not one of VOC's 20 classes. Give other classes as a .csv file.")
            if not difficult:
                row[column[name]] = 1.0
            elif row[column[name]] == 0:
                row[column[name]] = float("nan")
        paths.append(photo)
        rows.append(row)
    return Labels(paths, classes, torch.tensor(rows), root=str(home / "JPEGImages"))


def read_voc_boxes(folder: str | Path, split: str | None = None) -> Boxes:
    """{path: [(class, box_xyxy)]} of the photos of `read_voc`, without the difficult instances."""
    boxes: Boxes = {}
    for file, photo, tree in _voc_annotations(_voc_home(folder), split):
        objects = _voc_objects(tree, file)
        boxes[photo] = [(name, _voc_box(item, file)) for name, difficult, item in objects if not difficult]
    return boxes


def _voc_home(folder: str | Path) -> Path:
    folder = Path(folder)
    inside = [home for parent in (folder, folder / "VOCdevkit") for home in sorted(parent.glob("VOC2*"))]
    homes = [home for home in (folder, *inside) if (home / "Annotations").is_dir()]
    if not homes:
        raise InputError(f"{folder} contains no VOC data set (no Annotations folder). Give VOCdevkit or its VOC2012.")
    if len(homes) > 1 and homes[0] != folder:
        raise InputError(
            f"{folder} contains several VOC data sets. Give one: {shorten([str(home) for home in homes])}."
        )
    return homes[0]


def _voc_ids(home: Path, split: str | None) -> list[str]:
    if split is None:
        ids = sorted(file.stem for file in (home / "Annotations").glob("*.xml"))
        if not ids:
            raise InputError(f"{home / 'Annotations'} contains no .xml file. Unpack VOC's annotations there.")
        return ids
    lists = [home / "ImageSets" / kind / f"{split}.txt" for kind in ("Main", "Layout")]
    found = next((file for file in lists if file.is_file()), None)
    if found is None:
        splits = sorted(file.stem for file in lists[0].parent.glob("*.txt") if "_" not in file.stem)
        raise InputError(f"{lists[0]} not found. The splits in this folder are: {shorten(splits) or 'none'}.")
    lines = decode_text(_read(found), errors="replace").splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def _voc_annotations(home: Path, split: str | None) -> Iterator[tuple[Path, str, ElementTree.Element]]:
    """(annotation file, file name of the photo, root of the XML) for each photo."""
    for id in _voc_ids(home, split):
        file = home / "Annotations" / f"{id}.xml"
        data = _read(file)
        if len(data) > MAX_XML or b"<!DOCTYPE" in data or b"\0" in data:
            raise InputError(f"{file} is not a VOC annotation (it is too large or has a document type). Remove it.")
        try:
            tree = ElementTree.fromstring(data)
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise InputError(f"{file} is damaged ({error}). Unpack it again.") from error
        name = (tree.findtext("filename") or "").strip()
        yield file, name if Path(name).stem == id and "/" not in name else f"{id}.jpg", tree


def _voc_objects(tree: ElementTree.Element, file: Path) -> Iterator[tuple[str, bool, ElementTree.Element]]:
    """(class, difficult, element) of each object. The head, hands and feet of a person are parts, not objects."""
    for item in tree.findall("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise InputError(f"{file}: an object without a name. Unpack the file again.")
        yield name, (item.findtext("difficult") or "0").strip() == "1", item


def _voc_box(item: ElementTree.Element, file: Path) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = (float(item.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise InputError(f"{file}: an object without a complete bndbox. Unpack the file again.") from error
    return x0 - 1, y0 - 1, x1, y1  # VOC counts pixels from 1 and includes the last


# -- COCO ----------------------------------------------------------------------------------------------------------


def read_coco(file: str | Path) -> Labels:
    """True labels of COCO from an `instances_*.json` file: categories by id (80 in COCO), images in the order of the file.

    An image has a class if it has any instance of it; crowds count too, as usual. An image without annotations has no class.
    Paths are `file_name`. `root` is the folder of the photos beside `annotations/`, if it exists.
    Raises InputError if the file is missing, damaged, or has another structure.
    """
    file = Path(file)
    images, names, instances = _coco(file)
    row, column = {id: i for i, id in enumerate(images)}, {id: i for i, id in enumerate(names)}
    scores = torch.zeros(len(images), len(names))
    rows = torch.tensor([row[image] for image, _, _ in instances], dtype=torch.long)
    columns = torch.tensor([column[category] for _, category, _ in instances], dtype=torch.long)
    scores[rows, columns] = 1
    photos = file.parent.parent / file.stem.removeprefix("instances_")
    root = str(photos) if photos.is_dir() else "."
    try:
        return Labels(list(images.values()), list(names.values()), scores, root=root)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def read_coco_boxes(file: str | Path) -> Boxes:
    """{path: [(class, box_xyxy)]} of the images of `read_coco`, without crowds: their boxes contain many objects."""
    images, names, instances = _coco(Path(file))
    boxes: Boxes = {path: [] for path in images.values()}
    for image, category, box in instances:
        if box:
            boxes[images[image]].append((names[category], (box[0], box[1], box[0] + box[2], box[1] + box[3])))
    return boxes


def _coco(file: Path) -> tuple[dict[int, str], dict[int, str], list[tuple[int, int, list[float] | None]]]:
    """{image id: path}, {category id: name}, and (image id, category id, box) of each instance."""
    remedy = "Give a file such as COCO's annotations/instances_val2014.json."
    try:
        content = json.loads(_read(file))
        names = {item["id"]: item["name"] for item in sorted(content["categories"], key=lambda item: item["id"])}
        images = {item["id"]: item["file_name"] for item in content["images"]}
        instances = [_coco_instance(item) for item in content["annotations"]]
        unknown = [item for item in instances if item[0] not in images or item[1] not in names]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({str(error)[:80]}). {remedy}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} does not have the structure of COCO's instances ({error}). {remedy}") from error
    if unknown:
        image, category, _ = unknown[0]
        raise InputError(
            f"{file} has an annotation with the unknown image {image!r} or the unknown category {category!r}. {remedy}"
        )
    return images, names, instances


def _coco_instance(item: dict[str, Any]) -> tuple[int, int, list[float] | None]:
    """(image id, category id, [x, y, width, height]); the box of a crowd is None."""
    if item.get("iscrowd") or "bbox" not in item:
        return item["image_id"], item["category_id"], None
    x, y, width, height = (float(number) for number in item["bbox"])
    return item["image_id"], item["category_id"], [x, y, width, height]


# -- NUS-WIDE ------------------------------------------------------------------------------------------------------


def read_nuswide(folder: str | Path, split: str | None = None) -> Labels:
    """True labels of NUS-WIDE's 81 concepts from its ImageList and Groundtruth folders.

    `split` is "train" or "test" (TrainTestLabels), "all" (AllLabels), or None: all photos, from AllLabels if it exists, else
    from TrainTestLabels. Paths are those of the lists, with forward slashes. InputError names a missing or damaged file.
    """
    folder = Path(folder)
    truth = folder / "Groundtruth" if (folder / "Groundtruth").is_dir() else folder
    lists = folder / "ImageList" if (folder / "ImageList").is_dir() else folder
    if split not in (None, "all", "train", "test"):
        raise InputError(f"NUS-WIDE has no split {split!r}. Choose train, test or all.")
    if split == "all" or (split is None and (truth / "AllLabels").is_dir()):
        parts = [(lists / "Imagelist.txt", truth / "AllLabels", "")]
    else:
        ends = [split.title()] if split else ["Train", "Test"]
        parts = [(lists / f"{end}Imagelist.txt", truth / "TrainTestLabels", f"_{end}") for end in ends]
    tables = [_nuswide_part(*part) for part in parts]
    paths = [path for names, _ in tables for path in names]
    scores = torch.cat([scores for _, scores in tables])  # (N, 81)
    photos = next((home for name in ("Flickr", "images", "Images") if (home := folder / name).is_dir()), folder)
    try:
        return Labels(paths, list(CLASS_PRESETS["nuswide"]), scores, root=str(photos))
    except InputError as error:
        raise InputError(f"{parts[0][0]}: {error}") from error


def _nuswide_part(image_list: Path, folder: Path, end: str) -> tuple[list[str], torch.Tensor]:
    """The paths of one list and their scores (N, 81). The file of each concept in `folder` ends in `end`."""
    lines = decode_text(_read(image_list), errors="surrogateescape").split("\n")
    paths = [line.strip().replace("\\", "/") for line in lines if line.strip()]
    columns = []
    for concept in CLASS_PRESETS["nuswide"]:
        file = folder / f"Labels_{concept}{end}.txt"
        marks = np.array(_read(file).split(), dtype="S2")
        if not ((marks == b"0") | (marks == b"1")).all():
            raise InputError(f"{file} has lines other than 0 and 1. Unpack NUS-WIDE's Groundtruth again.")
        if len(marks) != len(paths):
            raise InputError(f"{file} has {len(marks)} lines, {image_list} has {len(paths)} photos. Unpack both again.")
        columns.append(torch.from_numpy(marks == b"1"))
    return paths, torch.stack(columns, dim=1).float()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}). Check the path or unpack the data set again."
        ) from error
