"""Several files of labels as one table: parts of a large folder that were labelled apart, by the same fitted values.

Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import InputError
from ..images.names import photo_file
from ..spelling import one_line, shorten
from .labels import Labels
from .review import corrections_of

LabelFiles = str | Path | Sequence[str | Path]  # a file, a pattern such as "labels-*.pt", or several of them
SAME = ("method", "settings", "prompts", "contrast", "templates", "hierarchy")  # of the `meta` of all parts
TEACHER = ("sha256", "activation", "pixels")  # of `meta["clip"]`


def label_files(source: LabelFiles) -> list[str]:
    """The files that a source names; those of a pattern are sorted. A name without * ? [ stays, and so does an existing file."""
    if not isinstance(source, str | os.PathLike):
        return [file for one in source for file in label_files(one)]
    name = os.fspath(source)
    file = name.removeprefix("label-studio:").removeprefix("coco:")
    return [name] if os.path.exists(file) or not glob.has_magic(name) else sorted(glob.glob(name, recursive=True))


def missing_numbers(files: Sequence[str]) -> list[int]:
    """The numbers that lack where names differ in one number only, and at least half of the numbers are there.

    >>> missing_numbers(["part-0.pt", "part-1.pt", "part-3.pt"])
    [2]
    """
    split = [re.split(r"(\d+)(?=\D*$)", os.path.basename(file)) for file in files]  # at the last number
    if any(len(parts) != 3 for parts in split) or len({(start, end) for start, _, end in split}) != 1:
        return []
    there = {int(number) for _, number, _ in split}
    whole = range(min(there), max(there) + 1)
    return [number for number in whole if number not in there] if len(whole) <= 2 * len(there) else []


def join_parts(parts: Sequence[Labels], files: Sequence[str]) -> Labels:
    """The photos of all parts as one table, in the order of the `files`.

    The parts must have the same classes in the same order, teacher, method, settings, prompts, thresholds and fitted values, and no
    photo twice; InputError says what differs, and in which file. Photos of several roots get the deepest common folder as root.
    """
    for part, file in zip(parts[1:], files[1:], strict=True):
        _check_same_kind(parts[0], part, files[0], file)
    first = parts[0]
    try:
        one_root = len({part.root for part in parts}) == 1
        root = first.root if one_root else os.path.commonpath([os.path.abspath(part.root) for part in parts])
    except ValueError as error:  # Windows: different drives
        raise InputError(
            "the photos of the labels are on different drives. Train on each drive's labels alone."
        ) from error

    def below(part: Labels, path: str) -> str:
        """How a path of the part is called below the common root."""
        return path if one_root else os.path.relpath(os.path.join(part.root, path), root).replace(os.sep, "/")

    of_file: dict[str, str] = {}
    for part, file in zip(parts, files, strict=True):
        for path in part.paths:
            if not one_root:
                photo_file(part.root, path)  # an error if it leads out of the part's own root
            name = below(part, path)
            if of_file.setdefault(name, file) != file:
                raise InputError(
                    f"the photo {one_line(name, 200)} is in {of_file[name]} and in {file}. Leave one of them out."
                )
    meta = {key: value for key, value in first.meta.items() if all(_equal(value, part.meta.get(key)) for part in parts)}
    meta |= {"skipped": [[below(part, path), why] for part in parts for path, why in part.meta.get("skipped") or []]}
    meta |= {"corrections": {below(part, path): of for part in parts for path, of in corrections_of(part).items()}}
    content = [part.meta.get("content") for part in parts]
    meta |= {"content": torch.cat(content) if all(isinstance(hashes, Tensor) for hashes in content) else None}
    meta = {key: value for key, value in meta.items() if value is not None and not (key == "corrections" and not value)}
    return Labels(list(of_file), first.classes, torch.cat([part.scores for part in parts]), root, meta)


def _check_same_kind(first: Labels, other: Labels, first_file: str, file: str) -> None:
    """InputError if the tables were not made in the same way."""
    pairs = {"classes": (first.classes, other.classes)}
    teachers = [part.meta.get("clip") or {} for part in (first, other)]
    pairs |= {f"teacher's {key}": tuple(teacher.get(key) for teacher in teachers) for key in TEACHER}
    pairs |= {key: (first.meta.get(key), other.meta.get(key)) for key in SAME}
    pairs |= {"thresholds": (first.thresholds, other.thresholds)}
    pairs |= {"fitted values": (first.meta.get("fitted"), other.meta.get("fitted"))}
    differ = [name for name, (one, two) in pairs.items() if not _equal(one, two)]
    if differ:
        raise InputError(
            f"{file} and {first_file} are of different kinds: their {shorten(differ)} differ. Label all parts with "
            "`mlclip pseudolabel --like` and one file."
        )


def _equal(one: Any, two: Any) -> bool:
    """Whether two plain values are the same. In a .json, tensors and tuples are lists."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return one.keys() == two.keys() and all(_equal(value, two[key]) for key, value in one.items())
    if isinstance(one, Tensor) or isinstance(two, Tensor):
        known = one is not None and two is not None
        return known and torch.equal(torch.as_tensor(one), torch.as_tensor(two))
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(_equal, one, two))
    return one == two
