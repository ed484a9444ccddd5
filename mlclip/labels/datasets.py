"""True labels from the files of public data sets: VOC, COCO, NUS-WIDE, and folders of photos -> `Labels` (1, 0, NaN = not known).

They are for reporting only. `meta["notes"]` says in sentences what was unusual. A damaged file gives one InputError.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from ..config import InputError
from ..files import parse_json
from ..images import SUFFIXES
from ..spelling import shorten
from .class_names import CLASS_PRESETS
from .labels import Labels
from .sheet import load_text

UNKNOWN = math.nan
SPLITS = ("train", "val", "valid", "validation", "test")
Marks = Mapping[str, float]  # class -> 1, 0 or NaN
Unusual = defaultdict[str, list[str]]  # what is unusual -> the names of the photos, files or classes


def table_of(
    rows: Mapping[str, Marks | None],
    classes: Iterable[str],
    source: str | Path,
    *,
    root: str | Path = ".",
    notes: Iterable[str] = (),
    absent: float = 0.0,
) -> Labels:
    """The table of {path: {class: mark}}. A class that a row does not name is `absent`; a row of None is unknown."""
    column = {name: c for c, name in enumerate(classes)}
    if not rows or not column:
        raise InputError(f"{source} names no {'classes' if rows else 'photos'}. Check the path.")
    scores = torch.full((len(rows), len(column)), absent)
    for r, marks in enumerate(rows.values()):
        if marks is None:
            scores[r] = UNKNOWN
        elif marks:
            scores[r, [column[name] for name in marks]] = torch.tensor(list(marks.values()), dtype=torch.float32)
    try:
        return Labels(list(rows), list(column), scores, root=str(root), meta={"notes": list(notes)})
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def read_json(file: Path) -> Any:
    try:
        return parse_json(load_text(file))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({str(error)[:80]}). Unpack or export it again.") from error


def photo_path(name: str) -> str:
    r"""A photo's name in a data set as a path that stays inside the data set's folder, with forward slashes.

    >>> [photo_path(name) for name in ("a\\1.jpg", "./a/1.jpg", "C:\\data\\1.jpg", "../../1.jpg")]
    ['a/1.jpg', 'a/1.jpg', 'data/1.jpg', '1.jpg']
    """
    name = re.sub(r"^[A-Za-z]:/", "", name.strip().replace("\\", "/"))
    return "/".join(part for part in posixpath.normpath(name).split("/") if part not in ("", ".", ".."))


def looks_like(place: str) -> str | None:
    """The prefix of what a path without one looks like; None for a table. InputError if a folder is unclear."""
    if place.lower().endswith(".json") and os.path.isfile(place):
        content = read_json(Path(place))
        return (
            "coco" if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys() else None
        )
    folder = Path(place)
    if not os.path.isdir(folder):
        return None
    found = {
        "voc": _voc_homes(folder),
        "coco": _coco_files(folder),
        "nuswide": _inside(folder, "Groundtruth") != folder,
    }
    kinds = [kind for kind, there in found.items() if there]
    if not kinds and _is_image_folder(folder):
        return "imagefolder"
    if len(kinds) != 1:
        what = f"could be {' or '.join(kinds)}" if kinds else "looks like no data set that is known here"
        forms = ", ".join(f"{kind}:{place}" for kind in kinds or DATASETS)
        raise InputError(f"{place} {what}. Say how to read it: {forms}; docs/formats.md has others.")
    return kinds[0]


def _is_photo(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if _is_photo(name) else name


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in load_text(file).split("\n") if line.strip()]


def _notes(unusual: Unusual) -> list[str]:
    return [f"{what}: {len(names)} (first: {names[0]:.100})" for what, names in unusual.items()]


# -- VOC


def read_voc(folder: str | Path, split: str | None = None) -> Labels:
    """True labels of PASCAL VOC from `VOCdevkit` or one of its `VOC20xx` folders: 20 classes, all photos or those of a split.

    A split is a list in ImageSets/Main or ImageSets/Layout, such as "train" or "val". A label is NaN if all instances of the
    class are difficult. A photo of the split without an XML file gets its labels from the lists of each class (such as
    cat_val.txt, with 1, -1 or 0 = difficult); without these they are NaN. Other folders with XML files of this format, in
    Annotations or beside the photos, may have other classes: then the classes are the names in the files, sorted.
    Paths are file names in `root`, the folder JPEGImages. InputError names a missing or damaged file.
    """
    homes = _voc_homes(Path(folder))
    if len(homes) != 1 and Path(folder) not in homes:
        found = f"several: {shorten(list(map(str, homes)))}" if homes else "no Annotations folder"
        raise InputError(f"{folder} contains no VOC data set, or not one ({found}). Give VOCdevkit or its VOC2012.")
    home = homes[0]
    annotations = home / "Annotations" if os.path.isdir(home / "Annotations") or not any(home.glob("*.xml")) else home
    photos = home if annotations == home else home / "JPEGImages"
    names = sorted(os.listdir(photos)) if os.path.isdir(photos) else []
    present = {_stem(name): name for name in names if _is_photo(name)}
    listed, rows, unusual = _class_lists(home, split), {}, Unusual(list)
    ids = _voc_ids(home, annotations, split, listed)
    for id in [*ids, *([] if split else sorted(present.keys() - set(ids)))]:
        file = annotations / f"{id}.xml"
        tree = _parse_xml(file) if os.path.isfile(file) else None
        named = "" if tree is None else (tree.findtext("filename") or "").strip()
        path = present.get(id) or (named if _stem(named) == id else f"{id}.jpg")
        rows[path] = listed.get(id) if tree is None else _voc_marks(tree, file)
        if rows[path] is None:
            unusual["photos without an XML file, unknown and not negative"].append(path)
        elif UNKNOWN in rows[path].values():
            unusual["photos with a class of which all objects are difficult, unknown"].append(path)
        if present and id not in present:
            unusual[f"photos with labels, but not in {photos.name}"].append(path)
    if all(marks is None for marks in rows.values()):
        raise InputError(f"{annotations / f'{ids[0]}.xml'} not found, and no other XML of these photos.")
    names = {name for marks in rows.values() for name in marks or ()}
    other = sorted(names - set(CLASS_PRESETS["voc"]))
    if other and re.fullmatch(r"VOC20\d\d", home.name):
        raise InputError(
            f"{home}: {other[0]!r} is not one of VOC's 20 classes. Rename the folder: in other folders the classes are the names "
            "in the files."
        )
    if other:
        unusual[f"classes that are not VOC's 20, so the classes are the {len(names)} names in the files"] = other
    classes = sorted(names) if other else CLASS_PRESETS["voc"]
    return table_of(rows, classes, home, root=photos, notes=_notes(unusual))


def _voc_homes(folder: Path) -> list[Path]:
    """The folder itself, or the VOC20xx below it, that have annotations; a folder of .xml files, if there is no other."""
    inside = [home for parent in (folder, folder / "VOCdevkit") for home in sorted(parent.glob("VOC2*"))]
    homes = [home for home in (folder, *inside) if os.path.isdir(home / "Annotations") or any(_class_files(home))]
    return homes or ([folder] if any(folder.glob("*.xml")) else [])


def _class_files(home: Path) -> Iterator[Path]:
    return (file for file in sorted((home / "ImageSets" / "Main").glob("*_*.txt")))


def _voc_ids(home: Path, annotations: Path, split: str | None, listed: Mapping[str, Marks]) -> list[str]:
    """The names of the photos of a split, or of all photos with annotations, without a suffix."""
    if split is None:
        ids = sorted(file.stem for file in annotations.glob("*.xml")) or list(listed)
        if not ids:
            raise InputError(f"{annotations} contains no .xml file. Unpack VOC's annotations there.")
        return ids
    lists = [home / "ImageSets" / kind / f"{Path(split).name.removesuffix('.txt')}.txt" for kind in ("Main", "Layout")]
    file = next((file for file in lists if os.path.isfile(file)), None)
    ids = list(dict.fromkeys(_voc_id(line, file) for line in _lines(file))) if file else list(listed)
    if not ids:
        splits = sorted(file.stem for file in lists[0].parent.glob("*.txt") if "_" not in file.stem)
        raise InputError(f"{lists[0]} not found or empty. The splits in this folder are: {shorten(splits) or 'none'}.")
    return ids


def _voc_id(line: str, file: Path) -> str:
    """`2007_000027`, `2007_000027.jpg 1` or `JPEGImages/2007_000027.jpg` -> 2007_000027."""
    name = _stem(re.split(r"[\\/]", re.sub(r"\s+-?[01]$", "", line))[-1]).removesuffix(".xml")
    if not name or "\0" in name or name in (".", "..") or len(name) > 250:  # file systems have no longer names
        raise InputError(f"{file}: {line[:40]!r} is not the name of a photo. Unpack VOC's lists again.")
    return name


def _class_lists(home: Path, split: str | None) -> dict[str, dict[str, float]]:
    """{id: {class: 1, 0 or NaN}} from the lists such as cat_val.txt; a class without a list is NaN."""
    rows: dict[str, dict[str, float]] = {}
    end = split.removesuffix(".txt").rpartition("_")[2] if split else None
    for file in _class_files(home):
        name, _, part = file.stem.rpartition("_")
        if end not in (None, part) or name not in CLASS_PRESETS["voc"]:
            continue
        for line in _lines(file):
            words = line.split()
            if len(words) != 2 or words[1] not in ("1", "-1", "0"):
                raise InputError(f"{file}: {line[:40]!r} is not a photo with 1, -1 or 0. Unpack VOC's lists again.")
            row = rows.setdefault(_voc_id(words[0], file), dict.fromkeys(CLASS_PRESETS["voc"], UNKNOWN))
            row[name] = {"1": 1.0, "-1": 0.0, "0": UNKNOWN}[words[1]]
    return rows


def _parse_xml(file: Path) -> ElementTree.Element:
    """The root of an annotation. A document type is refused, so no entity is ever defined, expanded or fetched."""
    data = file.read_bytes()
    if b"<!DOCTYPE" in data or b"\0" in data:
        raise InputError(f"{file} is not a VOC annotation (it has a document type or is binary). Remove it.")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({str(error)[:80]}). Unpack it again.") from error


def _voc_marks(tree: ElementTree.Element, file: Path) -> dict[str, float]:
    """1 for the classes of the objects; NaN if all objects of a class are difficult. Parts, such as hands, are no objects."""
    marks: dict[str, float] = {}
    for item in tree.findall("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise InputError(f"{file}: an object without a name. Unpack the file again.")
        difficult = (item.findtext("difficult") or "0").strip().lower() in ("1", "true")
        marks[name] = 1.0 if not difficult or marks.get(name) == 1 else UNKNOWN
    return marks


# -- COCO


def read_coco(file: str | Path, split: str | None = None, *, scores: bool = False) -> Labels:
    """True labels of COCO from an `instances_*.json` file: categories by id (80 in COCO), images in the order of the file.

    `file` may be a folder that holds one such file, itself or in `annotations/`, or one with `split` in its name. An image has
    a class if it has any annotation of it; crowds count too, as usual. An image without annotations has no class, except in
    LVIS: there, images list their negative categories, and the others are NaN. With `scores`, a class gets the highest
    `score` of its annotations, as `mlclip export --to coco` writes it. `root` is the folder of the photos beside the file or
    beside `annotations/`, if it exists. Raises InputError.
    """
    file, unusual = Path(file), Unusual(list)
    if os.path.isdir(file):
        found = [each for each in _coco_files(file) if not split or split in str(each.relative_to(file))]
        if len(found) != 1:
            raise InputError(
                f"{file} contains {len(found)} COCO files ({shorten(list(map(str, found))) or 'none'}). Give one."
            )
        file = found[0]
    elif split:
        file = Path(f"{file}:{split}")  # a colon in the name of a file that is not there
    content = read_json(file)
    try:
        images = {item["id"]: photo_path(item["file_name"]) for item in content["images"]}
        names = {item["id"]: str(item["name"]).strip() for item in sorted(content["categories"], key=lambda c: c["id"])}
        rows: dict[str, dict[str, float]] = {path: {} for path in images.values()}
        if len(rows) < len(content["images"]) or len(names) < len(content["categories"]):
            raise ValueError("two images or two categories with one id or one name")
        for item in content["images"]:
            rows[images[item["id"]]] = {names[id]: 0.0 for id in item.get("neg_category_ids", ())}
        for item in content["annotations"]:
            marks, name = rows[images[item["image_id"]]], names[item["category_id"]]
            marks[name] = max(marks.get(name, 0.0), float(item.get("score", 1)) if scores else 1.0)
            if item.get("iscrowd"):
                unusual["crowds, which count as their class"].append(images[item["image_id"]])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise InputError(
            f"{file} does not have the structure of COCO's json ({reason}). Give a file such as COCO's instances_val2014.json."
        ) from error
    lvis = any("neg_category_ids" in item for item in content["images"])
    empty = [path for path, marks in rows.items() if not marks]
    if empty and not lvis:
        unusual["images without annotations, which have no class"] = empty
    if lvis:
        what = "images that list their negative categories (LVIS): classes that an image does not list are unknown"
        unusual[what] = list(rows)
    # The photos are in the folder that holds the first of them; else in the one that is named like the file.
    home, first = file.parent, next(iter(rows), "")
    named = home.parent / file.stem.removeprefix("instances_")
    places = [named, home.parent / "images", home, home / "images", home.parent, home.parent / "images" / named.name]
    here = next((place for place in places if os.path.exists(place / first)), None)
    root = here or (named if os.path.isdir(named) else ".")
    return table_of(
        rows, dict.fromkeys(names.values()), file, root=root, notes=_notes(unusual), absent=UNKNOWN if lvis else 0.0
    )


def _coco_files(folder: Path) -> list[Path]:
    names = ("annotations/instances_*.json", "instances_*.json", "_annotations.coco.json", "*/_annotations.coco.json")
    return [file for name in names for file in sorted(folder.glob(name))]


# -- NUS-WIDE


def read_nuswide(folder: str | Path, split: str | None = None) -> Labels:
    r"""True labels of NUS-WIDE's 81 concepts from its ImageList and Groundtruth folders.

    `split` is "train" or "test" (TrainTestLabels), "all" (AllLabels), or None: all photos, from AllLabels if it exists, else
    from TrainTestLabels. The folders and lists may be written in upper or lower case, and may lie in `folder` itself. The
    concepts are those of Concepts81.txt, if it is there, else the 81 of the preset. Paths are those of the lists, with forward
    slashes, from the folder Flickr on. InputError names a missing or damaged file.
    """
    folder = Path(folder)
    if split not in (None, "all", "train", "test"):
        raise InputError(f"NUS-WIDE has no split {split!r}. Choose train, test or all.")
    truth, lists = _inside(folder, "Groundtruth"), _inside(folder, "ImageList")
    files = [_inside(place, "Concepts81.txt") for place in (folder, truth, lists, _inside(folder, "ConceptsList"))]
    listed = next((_lines(file) for file in files if os.path.isfile(file)), None)
    concepts = listed or list(CLASS_PRESETS["nuswide"])
    if split == "all" or (split is None and _inside(truth, "AllLabels") != truth):
        parts = [(_inside(lists, "Imagelist.txt", "AllImagelist.txt"), _inside(truth, "AllLabels"), "")]
    else:
        ends = [split.title()] if split else ["Train", "Test"]
        parts = [(_inside(lists, f"{end}Imagelist.txt"), _inside(truth, "TrainTestLabels"), f"_{end}") for end in ends]
    paths, tables = [], []
    for image_list, labels, end in parts:
        lines = _lines(image_list)
        files = [labels / f"Labels_{Path(concept).name}{end}.txt" for concept in concepts]
        tables.append(torch.stack([_nuswide_marks(file, len(lines), image_list) for file in files], dim=1))  # (n, C)
        paths += [photo_path(line).rpartition("Flickr/")[2] for line in lines]
    photos = next((home for name in ("Flickr", "images") if (home := _inside(folder, name)) != folder), folder)
    try:
        return Labels(paths, concepts, torch.cat(tables), root=str(photos), meta={"notes": []})
    except InputError as error:
        raise InputError(f"{parts[0][0]}: {error}") from error


def _nuswide_marks(file: Path, photos: int, image_list: Path) -> torch.Tensor:
    marks = load_text(file).split()
    if len(marks) != photos or not set(marks) <= {"0", "1"}:
        raise InputError(
            f"{file} does not have a 0 or 1 for each of the {photos} photos of {image_list}. Unpack both again."
        )
    return torch.tensor([mark == "1" for mark in marks], dtype=torch.float32)


def _inside(folder: Path, *names: str) -> Path:
    """The entry of `folder` with one of these names in upper or lower case. Without one: the missing file, or `folder`."""
    entries = {entry.lower(): entry for entry in sorted(os.listdir(folder))} if os.path.isdir(folder) else {}
    found = next((entries[name.lower()] for name in names if name.lower() in entries), None)
    if found is None:
        return folder / names[0] if names[0].endswith(".txt") else folder
    return folder / found


# -- one folder of photos for each class


def read_image_folder(folder: str | Path, split: str | None = None) -> Labels:
    """True labels of a tree such as DIR/cat/1.jpg, as torchvision's ImageFolder reads it: each photo has the class of its folder.

    The folders may lie in train, val and test; `split` takes one of these. A folder `train` that holds photos itself is a
    class of this name. Photos in deeper folders belong to the folder of the class. Classes are sorted by name; a folder
    without photos is a class without photos. Paths are relative to `root`, the folder of the class folders, or DIR itself if
    all splits are read. Raises InputError.
    """
    home, unusual = Path(folder), Unusual(list)
    if not os.path.isdir(home):
        raise InputError(f"{home} is not a folder. Give the folder of the data set.")
    splits = _split_folders(home)
    if split:
        if split not in _folders(home):
            raise InputError(f"{home} has no folder {split!r}. Its folders are: {', '.join(_folders(home)) or 'none'}.")
        home, splits = home / split, []
    elif splits and len(splits) != len(_folders(home)):
        raise InputError(
            f"{home} has folders of splits ({', '.join(splits)}) and others. Give one: imagefolder:{home}:{splits[0]}"
        )
    rows: dict[str, dict[str, float]] = {}
    for place, folders, names in os.walk(home):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        parts = Path(place).relative_to(home).parts[bool(splits) :]
        for name in sorted(name for name in names if _is_photo(name) and not _is_hidden(name)):
            path = (Path(place) / name).relative_to(home).as_posix()
            if parts:
                rows[path] = {parts[0]: 1.0}
            else:
                unusual["photos outside the folders of the classes, left out"].append(path)
    classes = sorted({name for part in ([home / each for each in splits] or [home]) for name in _folders(part)})
    return table_of(rows, classes, home, root=home, notes=["each photo has the class of its folder", *_notes(unusual)])


def _is_image_folder(folder: Path) -> bool:
    """Whether there are two folders or more with photos, and no photo beside them."""
    splits = _split_folders(folder)
    for home in [folder / name for name in splits] if splits and splits == _folders(folder) else [folder]:
        with_photos = [name for name in _folders(home) if any(map(_is_photo, os.listdir(home / name)))]
        if len(with_photos) < 2 or any(map(_is_photo, os.listdir(home))):
            return False
    return True


def _split_folders(home: Path) -> list[str]:
    """The folders that are named as splits and hold no photo themselves."""
    named = [name for name in _folders(home) if name.lower() in SPLITS]
    return [name for name in named if not any(map(_is_photo, os.listdir(home / name)))]


def _folders(home: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(home) if entry.is_dir() and not _is_hidden(entry.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


DATASETS = {"voc": read_voc, "coco": read_coco, "nuswide": read_nuswide, "imagefolder": read_image_folder}
