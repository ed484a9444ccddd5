"""A tree with one folder of photos for each class, as torchvision's ImageFolder reads it -> true labels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ...config import InputError
from ..table import Labels
from .source import Tally, checked_folder, files_under, is_photo, table_of

SPLITS = ("train", "val", "valid", "validation", "test")


def read_image_folder(folder: str | Path, split: str | None = None) -> Labels:
    """True labels of a tree such as DIR/cat/1.jpg: each photo has the class of its folder, and no other.

    The folders may lie in train, val and test; `split` takes one of these. A folder `train` that holds photos itself is a
    class of this name. Photos in deeper folders belong to the folder of the
    class. Classes are sorted by name; a folder without photos is a class without photos. Paths are relative to `root`, the
    folder of the class folders, or DIR itself if all splits are read. Raises InputError.
    """
    home, tally = checked_folder(folder), Tally()
    splits = _splits(home)
    if split:
        if split not in _folders(home):
            raise InputError(f"{home} has no folder {split!r}. Its folders are: {', '.join(_folders(home)) or 'none'}.")
        home, splits = home / split, []
    elif splits and len(splits) != len(_folders(home)):
        raise InputError(
            f"{home} has folders of splits ({', '.join(splits)}) and others. Give one: imagefolder:{home}:{splits[0]}"
        )
    photos = {path: parts for path in files_under(home, is_photo) if (parts := path.split("/")[bool(splits) :])}
    lost = [path for path, parts in photos.items() if len(parts) < 2]
    for path in lost:
        tally.add("photo", "outside the folders of the classes: left out", path)
    rows = {path: {parts[0]: 1.0} for path, parts in photos.items() if len(parts) > 1}
    classes = _all_classes(home, splits)
    for name in sorted(set(classes) - {parts[0] for parts in photos.values()}):
        tally.add("folder", "without photos: a class that no photo has", name)
    tally.say("each photo has the class of its folder; all other classes count as absent")
    return table_of(rows, classes, home, size=sum(map(len, rows)), root=home, notes=tally.notes())


def is_image_folder(folder: Path) -> bool:
    """Whether there are two folders or more with photos, and no photo beside them."""
    splits = _splits(folder)
    homes = [folder / name for name in splits] if splits and splits == _folders(folder) else [folder]
    return all(map(_is_tree, homes))


def _is_tree(home: Path) -> bool:
    with_photos = [name for name in _folders(home) if any(map(is_photo, os.listdir(home / name)))]
    return len(with_photos) > 1 and not any(map(is_photo, os.listdir(home)))


def _splits(home: Path) -> list[str]:
    """The folders that are named as splits and hold no photo themselves."""
    named = [name for name in _folders(home) if name.lower() in SPLITS]
    return [name for name in named if not any(map(is_photo, os.listdir(home / name)))]


def _folders(home: Path) -> list[str]:
    names = (entry.name for entry in os.scandir(home) if entry.is_dir() and not entry.name.startswith("."))
    return sorted(name for name in names if name != "__MACOSX")


def _all_classes(home: Path, splits: Iterable[str]) -> list[str]:
    return sorted({name for part in ([home / split for split in splits] or [home]) for name in _folders(part)})
