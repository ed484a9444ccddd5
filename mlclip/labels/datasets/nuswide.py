"""NUS-WIDE: lists of photos, and one file of marks for each concept -> true labels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from ...config import InputError
from ..class_names import CLASS_PRESETS
from ..table import Labels
from .source import check_cells, labels_of, photo_path, read_data, read_lines

_CONCEPT = re.compile(r"[\w][\w .-]*")


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
    concepts = _concepts([folder, truth, lists, _inside(folder, "ConceptsList")])
    if split == "all" or (split is None and _inside(truth, "AllLabels") != truth):
        parts = [(_inside(lists, "Imagelist.txt", "AllImagelist.txt"), _inside(truth, "AllLabels"), "")]
    else:
        ends = [split.title()] if split else ["Train", "Test"]
        parts = [(_inside(lists, f"{end}Imagelist.txt"), _inside(truth, "TrainTestLabels"), f"_{end}") for end in ends]
    tables = [_part(*part, concepts) for part in parts]
    paths, notes = _without_drive([path for names, _ in tables for path in names])
    scores = torch.cat([scores for _, scores in tables])  # (N, C)
    photos = next((home for name in ("Flickr", "images") if (home := _inside(folder, name)) != folder), folder)
    return labels_of(paths, concepts, scores, parts[0][0], photos, notes)


def is_nuswide(folder: Path) -> bool:
    return _inside(folder, "Groundtruth") != folder or any(folder.glob("Labels_*.txt"))


def _inside(folder: Path, *names: str) -> Path:
    """The entry of `folder` with one of these names in upper or lower case. Without one: the missing file, or `folder`."""
    entries = {entry.lower(): entry for entry in sorted(os.listdir(folder))} if os.path.isdir(folder) else {}
    found = next((entries[name.lower()] for name in names if name.lower() in entries), None)
    if found is None:
        return folder / names[0] if names[0].endswith(".txt") else folder
    return folder / found


def _concepts(folders: Iterable[Path]) -> list[str]:
    file = next((file for folder in folders if os.path.isfile(file := _inside(folder, "Concepts81.txt"))), None)
    if file is None:
        return list(CLASS_PRESETS["nuswide"])
    names = read_lines(file)
    wrong = next((name for name in names if not _CONCEPT.fullmatch(name)), None)
    if wrong is not None or not names:
        raise InputError(f"{file}: {wrong or ''!r:.40} is not a concept. Unpack NUS-WIDE's list of concepts again.")
    return names


def _part(image_list: Path, folder: Path, end: str, concepts: list[str]) -> tuple[list[str], torch.Tensor]:
    """The paths of one list and their scores (N, C). The file of each concept in `folder` ends in `end`."""
    lines = read_lines(image_list)
    check_cells(
        len(lines), len(concepts), len(lines) * len(concepts), image_list
    )  # every concept has a byte for each photo
    columns = []
    for concept in concepts:
        file = folder / f"Labels_{concept}{end}.txt"
        marks = np.array(read_data(file).split(), dtype="S2")
        if not ((marks == b"0") | (marks == b"1")).all():
            raise InputError(f"{file} has lines other than 0 and 1. Unpack NUS-WIDE's Groundtruth again.")
        if len(marks) != len(lines):
            raise InputError(f"{file} has {len(marks)} lines, {image_list} has {len(lines)} photos. Unpack both again.")
        columns.append(torch.from_numpy(marks == b"1"))
    return lines, torch.stack(columns, dim=1).float()


def _without_drive(lines: list[str]) -> tuple[list[str], list[str]]:
    """Paths with forward slashes, from the folder Flickr on where all have it, and what was done."""
    paths = [photo_path(line) for line in lines]
    cut = [path.partition("Flickr/") for path in paths]
    if not paths or not all(found for _, found, _ in cut):
        return paths, []
    return [end for _, _, end in cut], [f"paths such as {paths[0]!r} are taken from the folder Flickr on"]
