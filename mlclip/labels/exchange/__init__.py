"""Tables of labels in the formats of annotation tools and photo managers, out and in.

What is written of a photo are the classes that reach their thresholds. Photos are never written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...config import ExportConfig, InputError
from ...files import beside, check_output
from ..table import Labels
from .chosen import with_photos
from .coco import read_coco_scores, write_coco
from .csv_forms import write_csv
from .cvat import LABELS, read_cvat, write_cvat
from .fiftyone import read_fiftyone, write_fiftyone
from .label_studio import CONFIG, read_label_studio, write_label_studio
from .xmp import read_xmp, write_xmp
from .yolo import write_yolo


@dataclass(frozen=True)
class Written:
    """What an export has written: files or one folder, and the number of photos. `skipped`: (path, reason) of what was not."""

    files: list[str]
    photos: int
    skipped: list[tuple[str, str]]


# By prefix, for --labels and --truth: true labels are 1, 0 or NaN, and scores are kept in other tables.
READERS: dict[str, Callable[..., Labels]] = {
    "label-studio": read_label_studio,
    "cvat": read_cvat,
    "fiftyone": read_fiftyone,
    "xmp": read_xmp,
}
_FILES = {
    "label-studio": lambda labels, file, config: write_label_studio(labels, file, config.url_prefix),
    "cvat": lambda labels, file, config: write_cvat(labels, file),
    "coco": lambda labels, file, config: write_coco(labels, file),
    "csv": lambda labels, file, config: write_csv(labels, file, config.csv_form),
}
_SECOND = {"label-studio": CONFIG, "cvat": LABELS}  # endings of the files that are written beside the first
_FOLDERS = {
    "fiftyone": lambda labels, folder, config: write_fiftyone(labels, folder),
    "yolo-cls": lambda labels, folder, config: write_yolo(labels, folder, copy_photos=config.copy_photos),
}


def export_labels(labels: Labels, output: str | Path, config: ExportConfig, *, overwrite: bool = False) -> Written:
    """Write the table for another tool. `config.to` says which; `labels.thresholds` say which classes a photo has.

    `output` is a file, or a folder for fiftyone, yolo-cls and xmp; with `config.beside_photos` it is not used. Files are replaced only
    with `overwrite`; sidecars of xmp are always merged. fiftyone, yolo-cls and sidecars beside the photos skip photos that do not
    exist. InputError if something cannot be written.
    """
    path, missing = Path(output), []
    if not len(labels):
        raise InputError("the labels have no photos, so there is nothing to write.")
    if config.to in _FOLDERS or config.beside_photos:
        labels, missing = with_photos(labels)
    if config.to == "xmp":
        folder = None if config.beside_photos else path
        written, skipped = write_xmp(labels, folder, config.sidecar_name)
        return Written([str(labels.root if folder is None else folder)], written, missing + skipped)
    if config.to in _FOLDERS:
        _check_folder(path, overwrite=overwrite)
        _FOLDERS[config.to](labels, path, config)
        return Written([str(path)], len(labels), missing)
    for file in (path, beside(path, _SECOND[config.to]) if config.to in _SECOND else path):
        check_output(file, overwrite=overwrite)
    return Written(list(map(str, _FILES[config.to](labels, path, config))), len(labels), [])


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    if folder.is_dir() and os.listdir(folder) and not overwrite:
        raise InputError(f"{folder} is not empty. Pass `overwrite=True` to write there, or choose another folder.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file. Choose a folder.")
    check_output(folder / "labels.json", overwrite=True)


def read_scores(spec: str | Path) -> Labels | None:
    """The table that "label-studio:FILE", "cvat:FILE", "coco:FILE", "fiftyone:DIR" or "xmp:DIR" names; None for another name.

    Scores are kept where the format holds them. Raises InputError for files that are missing or damaged.
    """
    kind, colon, place = str(spec).partition(":")
    reader = {**READERS, "coco": read_coco_scores}.get(kind)
    return reader(place) if colon and reader else None
