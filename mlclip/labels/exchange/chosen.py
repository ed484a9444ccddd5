"""What is written of a table: the classes that reach their thresholds, with short scores, and paths that are safe to join."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from ...config import InputError
from ..table import Labels


def chosen(labels: Labels) -> Iterator[tuple[str, dict[str, float]]]:
    """(path, {class: score}) of each photo, with the classes that reach their thresholds, best first.

    Unknown classes are left out, as those below the threshold are.
    """
    column = {name: c for c, name in enumerate(labels.classes)}
    for path, names, scores in zip(labels.paths, labels.above_threshold(), labels.scores.tolist(), strict=True):
        yield path, {name: short(scores[column[name]]) for name in names}


def short(score: float) -> float:
    """A float32 score with seven digits, as text files hold it.

    >>> short(0.8999999761581421)
    0.9
    """
    return float(f"{score:.7g}")


def checked_paths(labels: Labels) -> list[str]:
    """The paths of the table. InputError if one is absolute or leads out of the folder."""
    for path in labels.paths:
        parts = path.replace("\\", "/").split("/")
        if posixpath.isabs(path) or os.path.isabs(path) or ".." in parts or ":" in parts[0][1:2]:
            raise InputError(
                f"the labels have the path {path[:80]!r}, which leads out of their folder. Remove the row."
            )
    return labels.paths


def photo_file(labels: Labels, path: str) -> Path:
    """The absolute file of a photo."""
    return Path(os.path.abspath(os.path.join(labels.root, path)))


def with_photos(labels: Labels) -> tuple[Labels, list[tuple[str, str]]]:
    """The rows whose photos exist, and (path, reason) of the others. InputError if there is none."""
    here = [path for path in checked_paths(labels) if photo_file(labels, path).is_file()]
    if not here:
        raise InputError(f"no photo of the labels is in {labels.root}. Pass the folder of the photos as `root`.")
    known = set(here)
    skipped = [(path, "the photo does not exist") for path in labels.paths if path not in known]
    return labels.aligned(here, labels.classes), skipped
