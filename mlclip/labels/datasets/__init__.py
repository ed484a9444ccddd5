"""True labels and boxes from the files of public data sets and annotation tools -> `Labels` (1, 0, NaN = not known).

They are for reporting only. Boxes are `box_xyxy` in pixels: floats x0, y0, x1, y1 from the top left corner of the photo; x1 and
y1 are exclusive. `meta["notes"]` of labels, and `notes` of boxes, say in sentences what was unusual in the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ...config import InputError, TableOptions
from ...progress import SILENT, Progress
from ..class_names import CLASS_PRESETS as CLASS_PRESETS
from ..table import READ_SUFFIXES, Labels, read_labels
from .coco import coco_files as coco_files
from .coco import read_coco as read_coco
from .coco import read_coco_boxes as read_coco_boxes
from .image_folder import is_image_folder
from .image_folder import read_image_folder as read_image_folder
from .labelme import is_labelme
from .labelme import read_labelme as read_labelme
from .labelme import read_labelme_boxes as read_labelme_boxes
from .nuswide import is_nuswide
from .nuswide import read_nuswide as read_nuswide
from .open_images import is_open_images
from .open_images import read_open_images as read_open_images
from .open_images import read_open_images_boxes as read_open_images_boxes
from .source import Boxes as Boxes
from .source import read_json, read_start
from .voc import is_voc
from .voc import read_voc as read_voc
from .voc import read_voc_boxes as read_voc_boxes
from .yolo import is_yolo
from .yolo import read_yolo as read_yolo
from .yolo import read_yolo_boxes as read_yolo_boxes

# By prefix: the reader, and whether it takes a split.
TRUTH: dict[str, tuple[Callable[..., Labels], bool]] = {
    "voc": (read_voc, True),
    "coco": (read_coco, True),
    "nuswide": (read_nuswide, True),
    "openimages": (read_open_images, True),
    "imagefolder": (read_image_folder, True),
    "labelme": (read_labelme, False),
    "yolo": (read_yolo, True),
}
BOXES: dict[str, tuple[Callable[..., Boxes], bool]] = {
    "voc": (read_voc_boxes, True),
    "coco": (read_coco_boxes, True),
    "openimages": (read_open_images_boxes, True),
    "labelme": (read_labelme_boxes, False),
    "yolo": (read_yolo_boxes, True),
}


def _of_tool(kind: str) -> Callable[..., Labels]:
    """The reader of an annotation tool's files. It is imported when it is used, as it imports from this package."""

    def read(place: str) -> Labels:
        from ..exchange import READERS

        return READERS[kind](place, truth=True)

    return read


TRUTH |= {kind: (_of_tool(kind), False) for kind in ("label-studio", "cvat", "fiftyone", "xmp")}
_LOOKS_LIKE: dict[str, Callable[[Path], bool]] = {
    "voc": is_voc,
    "coco": lambda folder: bool(coco_files(folder)),
    "nuswide": is_nuswide,
    "openimages": is_open_images,
    "labelme": is_labelme,
    "yolo": is_yolo,
}


def read_truth(
    spec: str,
    options: TableOptions | None = None,
    *,
    progress: Progress = SILENT,
    known_classes: Collection[str] = (),
) -> Labels:
    """True labels by a short name, or from a table.

    `voc:DIR`, `nuswide:DIR`, `openimages:DIR`, `imagefolder:DIR`, `yolo:DIR` and `coco:DIR` may be followed by a split, as in
    `voc:DIR:val`; `coco:FILE`, `labelme:DIR` and `openimages:FILE.csv` have none. A DIR, a .json or a .csv without a prefix is
    taken for what it looks like, if it can only be one of these; `meta["notes"]` says which. `label-studio:FILE`, `cvat:FILE`,
    `fiftyone:DIR` and `xmp:DIR` are those of `labels.exchange`. Other files are tables for `read_labels`, which gets `options` and
    `known_classes`. `progress` gets a line about everything unusual. Raises InputError for another name, or if the files are
    missing or damaged.
    """
    found = _read(str(spec), TRUTH)
    if found is None:
        return _read_table(str(spec), options, progress, known_classes)
    for note in found.meta["notes"]:
        progress.log(note)
    return found


def read_boxes(spec: str) -> Boxes:
    """Boxes by a short name, as for `read_truth` -> {path: [(class, box_xyxy in pixels)]}.

    The kinds are `voc`, `coco`, `openimages`, `labelme` and `yolo`. Raises InputError.
    """
    found = _read(str(spec), BOXES)
    if found is None:
        raise InputError(f"{spec!r:.200} is not a source of boxes. Give {_forms(BOXES)}.")
    return found


def _read(spec: str, readers: dict[str, tuple[Callable[..., Any], bool]]) -> Any:
    """What the reader of the prefix, or of the kind that a path looks like, returns; None if it is neither."""
    kind, colon, rest = spec.partition(":")
    try:
        if colon and kind.lower() in readers:
            return _call(*readers[kind.lower()], rest, kind)
        return _read_unnamed(spec, readers)
    except OSError as error:  # a folder without permission, a broken disk
        raise InputError(f"{spec} cannot be read ({error.strerror}). Check the path and its permissions.") from error


def _call(reader: Callable[..., Any], splits_known: bool, place: str, kind: str) -> Any:
    folder, split = _split_off(place)
    if split and not splits_known:
        raise InputError(f"{place} is not a folder, and {kind} has no splits. Give {kind}:DIR.")
    return reader(folder, split) if splits_known else reader(folder)


def _read_unnamed(spec: str, readers: dict[str, tuple[Callable[..., Any], bool]]) -> Any:
    place, _ = _split_off(spec)
    kind = _kind_of(place, readers)
    if kind is None:
        return None
    found = _call(*readers[kind], spec, kind)
    notes = found.notes if isinstance(found, Boxes) else found.meta["notes"]
    notes.insert(0, f"{place} looks like {kind} and is read as {kind}:{place}")
    return found


def _kind_of(place: str, readers: dict[str, Any]) -> str | None:
    """The prefix of what a path without one looks like. InputError if a folder could be several kinds, or none."""
    if os.path.isdir(place):
        kinds = [kind for kind, looks in _LOOKS_LIKE.items() if kind in readers and looks(Path(place))]
        if not kinds and "imagefolder" in readers and is_image_folder(Path(place)):
            kinds = ["imagefolder"]
        if len(kinds) != 1:
            what = f"could be {' or '.join(kinds)}" if kinds else "looks like no data set that is known here"
            raise InputError(
                f"{place} {what}. Say how to read it: {_forms({k: readers[k] for k in kinds} or readers)}."
            )
        return kinds[0]
    if place.lower().endswith(".json") and os.path.isfile(place):
        return "coco" if b"mlclip." not in read_start(Path(place)) and _has_keys(place) else None
    if place.lower().endswith(".csv") and "openimages" in readers and is_open_images(Path(place)):
        return "openimages"
    return None


def _has_keys(place: str) -> bool:
    """Whether a .json file has the keys of COCO's."""
    content = read_json(Path(place))
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _read_table(spec: str, options: TableOptions | None, progress: Progress, known_classes: Collection[str]) -> Labels:
    if Path(spec).suffix.lower() in READ_SUFFIXES:
        if not os.path.isfile(spec):
            raise InputError(
                f"{spec} not found. A table of true labels has a path column, and 1, 0 or an empty cell for each class."
            )
        return read_labels(spec, options, progress=progress, known_classes=known_classes)
    raise InputError(f"{spec!r:.200} is not a source of true labels. Give {_forms(TRUTH)} or a .csv file.")


def _forms(readers: dict[str, tuple[Callable, bool]]) -> str:
    forms = {kind: f"{kind}:DIR" + "[:split]" * splits for kind, (_, splits) in readers.items()}
    return ", ".join(
        f"{kind}:FILE" if kind in ("coco", "label-studio", "cvat") else form for kind, form in forms.items()
    )


def _split_off(text: str) -> tuple[str, str | None]:
    """`DIR:val` -> DIR and "val"; a colon in the name of an existing file or folder stays."""
    folder, colon, split = text.rpartition(":")
    return (text, None) if not colon or os.path.exists(text) else (folder, split or None)
