"""Ultralytics, multi-label: `images/train`, `labels/train` with a text file per photo, and `data.yaml`.

A folder per class, which `yolo classify train` reads, has one class per photo. So this is the layout of the pull requests that
add multi-label classification to Ultralytics: a line of a text file is the number of a class. The photos are links or copies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from ...config import InputError
from ...files import atomic
from ..table import Labels
from .chosen import checked_paths, chosen, photo_file

SPLIT = "train"
_UNPRINTABLE = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_yolo(labels: Labels, folder: Path, *, copy_photos: bool) -> list[Path]:
    """Write the data set to `folder`, which should be new. Returns `data.yaml`.

    A text file holds the numbers of the classes that reach their thresholds, one per line; it is empty for a photo without a class.
    InputError if two photos have the same name without their suffix.
    """
    number = {name: c for c, name in enumerate(labels.classes)}
    stems: dict[str, str] = {}
    for path in checked_paths(labels):
        stem = os.path.splitext(path)[0]
        if stem in stems:
            raise InputError(f"{stems[stem]} and {path} would have the same file of labels. Rename one of them.")
        stems[stem] = path
    for stem, (path, names) in zip(stems, chosen(labels), strict=True):
        _place(photo_file(labels, path), folder / "images" / SPLIT / path, copy=copy_photos)
        target = folder / "labels" / SPLIT / f"{stem}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(f"{c}\n" for c in sorted(number[name] for name in names)), encoding="utf-8")
    with atomic(folder / "data.yaml") as temporary:
        temporary.write_text(_yaml(labels.classes), encoding="utf-8")
    return [folder / "data.yaml"]


def _place(photo: Path, target: Path, *, copy: bool) -> None:
    """A link to the photo, or a copy of it, in place of an earlier one. The photo itself is only read."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if copy:
            shutil.copyfile(photo, target)
        else:
            target.symlink_to(photo)
    except OSError as error:
        hint = "Check the place." if copy else "Pass `copy_photos=True` where links are not possible."
        raise InputError(f"cannot write {target}: {error.strerror or error}. {hint}") from error


def _yaml(classes: list[str]) -> str:
    lines = ["# One class number per line in labels/. Choose your own photos for val.", "path: ."]
    lines += [f"{key}: images/{SPLIT}" for key in ("train", "val")]
    lines += [f"nc: {len(classes)}", "names:"]
    return "\n".join([*lines, *(f"  {c}: {_quoted(name)}" for c, name in enumerate(classes))]) + "\n"


def _quoted(text: str) -> str:
    """Text in double quotes, as both JSON and YAML read it."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))
