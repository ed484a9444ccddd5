"""True labels from the files of data sets: VOC, NUS-WIDE, and folders of photos -> `Labels` (1, 0, NaN = not known).

`meta["notes"]` says in sentences what was unusual. A damaged file gives one InputError.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import torch

from ..config import InputError
from ..images.find import is_photo
from ..spelling import shorten
from .class_names import CLASS_PRESETS
from .labels import Labels
from .sheet import load_text

UNKNOWN = math.nan
SPLITS = ("train", "val", "valid", "validation", "test")
Marks = Mapping[str, float]  # class -> 1, 0 or NaN


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


def photo_path(name: str) -> str:
    r"""A photo's name in a data set as a path that stays inside the data set's folder, with forward slashes.

    >>> [photo_path(name) for name in ("a\\1.jpg", "./a/1.jpg", "C:\\data\\1.jpg", "../../1.jpg")]
    ['a/1.jpg', 'a/1.jpg', 'data/1.jpg', '1.jpg']
    """
    name = re.sub(r"^[A-Za-z]:/", "", name.strip().replace("\\", "/"))
    return "/".join(part for part in posixpath.normpath(name).split("/") if part not in ("", ".", ".."))


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in load_text(file).split("\n") if line.strip()]


def notes_of(unusual: Mapping[str, list[str]]) -> list[str]:
    """Sentences about what is unusual; `unusual` has the photos or classes of each kind."""
    return [f"{what}: {len(names)} (first: {names[0]:.100})" for what, names in unusual.items() if names]


# -- VOC


def read_voc(folder: str | Path, split: str | None = None) -> Labels:
    """True labels of PASCAL VOC from `VOCdevkit` or one of its `VOC20xx` folders: 20 classes, all photos or those of a split.

    A split is a list in ImageSets/Main or ImageSets/Layout, such as "train" or "val". A label is NaN if all instances of the
    class are difficult, and so are all labels of a photo of the split without an XML file. Other folders with XML files of
    this format, in Annotations or beside the photos, may have other classes: then the classes are the names in the files,
    sorted. Paths are file names in `root`, the folder JPEGImages. InputError names a missing or damaged file.
    """
    homes = voc_homes(Path(folder))
    if len(homes) != 1 and Path(folder) not in homes:
        found = f"several: {shorten(list(map(str, homes)))}" if homes else "no Annotations folder"
        raise InputError(f"{folder} contains no VOC data set, or not one ({found}). Give VOCdevkit or its VOC2012.")
    home = homes[0]
    usual = os.path.isdir(home / "Annotations")
    annotations, photos = (home / "Annotations", home / "JPEGImages") if usual else (home, home)
    names = sorted(os.listdir(photos)) if os.path.isdir(photos) else []
    present = {_stem(name): name for name in names if is_photo(name)}
    rows: dict[str, Marks | None] = {}
    for id in _voc_ids(home, annotations, split):
        file = annotations / f"{id}.xml"
        tree = _parse_xml(file) if os.path.isfile(file) else None
        named = "" if tree is None else (tree.findtext("filename") or "").strip()
        path = present.get(id) or (named if _stem(named) == id else f"{id}.jpg")
        rows[path] = None if tree is None else _voc_marks(tree, file)
    if not any(marks is not None for marks in rows.values()):
        raise InputError(f"{annotations} has no .xml file of the photos ({next(iter(rows)):.100}). Unpack them there.")
    names = {name for marks in rows.values() for name in marks or ()}
    other = sorted(names - set(CLASS_PRESETS["voc"]))
    if other and re.fullmatch(r"VOC20\d\d", home.name):
        raise InputError(f"{home}: {other[0]!r} is none of VOC's 20 classes. Rename the folder to read other classes.")
    unusual = {f"classes that are not VOC's 20, so the classes are the {len(names)} names in the files": other}
    classes = sorted(names) if other else CLASS_PRESETS["voc"]
    return table_of(rows, classes, home, root=photos, notes=notes_of(unusual))


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if is_photo(name) else name


def voc_homes(folder: Path) -> list[Path]:
    """The folder itself, or the VOC20xx below it, that have annotations; a folder of .xml files, if there is no other."""
    inside = [home for parent in (folder, folder / "VOCdevkit") for home in sorted(parent.glob("VOC2*"))]
    homes = [home for home in (folder, *inside) if os.path.isdir(home / "Annotations")]
    return homes or ([folder] if any(folder.glob("*.xml")) else [])


def _voc_ids(home: Path, annotations: Path, split: str | None) -> list[str]:
    """The names of the photos of a split, or of all photos with annotations, without a suffix."""
    if split is None:
        ids = sorted(file.stem for file in annotations.glob("*.xml"))
        if not ids:
            raise InputError(f"{annotations} contains no .xml file. Unpack VOC's annotations there.")
        return ids
    lists = [home / "ImageSets" / kind / f"{Path(split).name.removesuffix('.txt')}.txt" for kind in ("Main", "Layout")]
    file = next((file for file in lists if os.path.isfile(file)), None)
    lines = [re.sub(r"\s+-?[01]$", "", line) for line in _lines(file)] if file else []  # `2007_000027 1`
    if not lines:
        splits = sorted(file.stem for file in lists[0].parent.glob("*.txt") if "_" not in file.stem)
        raise InputError(f"{lists[0]} not found or empty. The splits in this folder are: {shorten(splits) or 'none'}.")
    return list(dict.fromkeys(_stem(re.split(r"[\\/]", line)[-1]).removesuffix(".xml") for line in lines))


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


# -- NUS-WIDE


def read_nuswide(folder: str | Path, split: str | None = None) -> Labels:
    r"""True labels of NUS-WIDE's 81 concepts from its ImageList and Groundtruth folders.

    `split` is "train" or "test" (TrainTestLabels), "all" (AllLabels), or None: all photos, from AllLabels if it exists, else
    from TrainTestLabels. The lists are found by their names, in upper or lower case, anywhere in `folder`. The concepts are
    those of Concepts81.txt, if it is there, else the 81 of the preset. Paths are those of the lists, with forward slashes,
    from the folder Flickr on. InputError names a missing or damaged file.
    """
    folder, files, homes = Path(folder), {}, {}
    if split not in (None, "all", "train", "test"):
        raise InputError(f"NUS-WIDE has no split {split!r}. Choose train, test or all.")
    for place, folders, names in os.walk(folder):
        homes |= {name.lower(): Path(place, name) for name in folders if name.lower() in ("flickr", "images")}
        folders[:] = [name for name in folders if name.lower() not in homes]  # there are 270,000 photos
        files |= {name.lower(): Path(place, name) for name in names}

    def there(name: str) -> Path:
        return files.get(name.lower(), folder / name)

    concepts = _lines(there("Concepts81.txt")) if "concepts81.txt" in files else list(CLASS_PRESETS["nuswide"])
    whole = split == "all" or (split is None and f"labels_{concepts[0]}.txt".lower() in files)
    ends = [""] if whole else [split.title()] if split else ["Train", "Test"]
    paths, tables = [], []
    for end in ends:
        image_list = there("AllImagelist.txt" if whole and "allimagelist.txt" in files else f"{end}Imagelist.txt")
        lines, suffix = _lines(image_list), f"_{end}" if end else ""
        columns = [_nuswide_marks(there(f"Labels_{name}{suffix}.txt"), len(lines), image_list) for name in concepts]
        tables.append(torch.stack(columns, dim=1))  # (n, C)
        paths += [photo_path(line).rpartition("Flickr/")[2] for line in lines]
    photos = homes.get("flickr") or homes.get("images") or folder
    try:
        return Labels(paths, concepts, torch.cat(tables), root=str(photos), meta={"notes": []})
    except InputError as error:
        raise InputError(f"{image_list}: {error}") from error


def _nuswide_marks(file: Path, photos: int, image_list: Path) -> torch.Tensor:
    marks = load_text(file).split()
    if len(marks) != photos or not set(marks) <= {"0", "1"}:
        raise InputError(f"{file} does not have a 0 or 1 for each of the {photos} photos of {image_list}. Unpack it.")
    return torch.tensor([mark == "1" for mark in marks], dtype=torch.float32)


# -- one folder of photos for each class


def read_image_folder(folder: str | Path, split: str | None = None) -> Labels:
    """True labels of a tree such as DIR/cat/1.jpg, as torchvision's ImageFolder reads it: each photo has the class of its folder.

    The folders may lie in train, val and test; `split` takes one of these. A folder `train` that holds photos itself is a
    class of this name. Photos in deeper folders belong to the folder of the class. Classes are sorted by name. Paths are
    relative to `root`, the folder of the class folders, or DIR itself if all splits are read.
    """
    home, outside = Path(folder), []
    if not os.path.isdir(home):
        raise InputError(f"{home} is not a folder. Give the folder of the data set.")
    inside, splits = folders_in(home), _split_folders(home)
    if split and split not in inside:
        raise InputError(f"{home} has no folder {split!r}. Its folders are: {', '.join(inside) or 'none'}.")
    if split:
        home, splits = home / split, []
    elif splits and splits != inside:
        raise InputError(f"{home} has folders of splits and others. Give one: imagefolder:{home}:{splits[0]}")
    rows: dict[str, dict[str, float]] = {}
    for place, folders, names in os.walk(home):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        parts = Path(place).relative_to(home).parts[bool(splits) :]
        for name in sorted(name for name in names if is_photo(name) and not _is_hidden(name)):
            path = (Path(place) / name).relative_to(home).as_posix()
            if parts:
                rows[path] = {parts[0]: 1.0}
            else:
                outside.append(path)
    classes = sorted({name for part in ([home / each for each in splits] or [home]) for name in folders_in(part)})
    notes = ["each photo has the class of its folder"]
    notes += notes_of({"photos outside the folders of the classes, left out": outside})
    return table_of(rows, classes, home, root=home, notes=notes)


def is_image_folder(folder: Path) -> bool:
    """Whether it, or each of its splits, has two folders or more with photos, and no photo beside them."""
    splits = _split_folders(folder)
    homes = [folder / name for name in splits] if splits == folders_in(folder) else [folder]
    with_photos = [sum(_holds_photos(home / name) for name in folders_in(home)) for home in homes]
    return min(with_photos, default=0) > 1 and not any(map(_holds_photos, homes))


def _split_folders(home: Path) -> list[str]:
    """The folders that are named as splits and hold no photo themselves."""
    return [name for name in folders_in(home) if name.lower() in SPLITS and not _holds_photos(home / name)]


def _holds_photos(folder: Path) -> bool:
    return any(map(is_photo, os.listdir(folder)))


def folders_in(home: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(home) if entry.is_dir() and not _is_hidden(entry.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
