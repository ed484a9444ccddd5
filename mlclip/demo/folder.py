"""Demo scenes as a folder of photos with true labels, laid out like a user's own data."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np

from ..files import atomic
from ..progress import SILENT, Progress
from .scenes import Box, draw_scene_with_boxes
from .things import KINDS

JPEG_QUALITY = 92
_PARTS = ("train", "test")  # a scene's random numbers depend only on the seed, the part and the scene's number


def write_scenes(folder: str | Path, *, train: int, test: int, seed: int = 0, progress: Progress = SILENT) -> None:
    """Draw `train` and `test` scenes into folder/train/ and folder/test/ as JPEGs.

    Also writes classes.txt with one name per line; truth_train.csv and truth_test.csv with a `path` column (relative to the
    part's folder) and one 0/1 column per class; and boxes_train.json and boxes_test.json with the boxes in COCO's format. The
    same seed gives the same scenes, whatever their number.
    """
    folder = Path(folder)
    with progress.bar("drawing scenes", train + test, "scenes") as bar:
        for part, count in zip(_PARTS, (train, test), strict=True):
            os.makedirs(folder / part, exist_ok=True)
            rows, boxes = [], {}
            for number in range(count):
                picture, present = draw_scene_with_boxes(np.random.default_rng([seed, _PARTS.index(part), number]))
                name = f"{number:05d}.jpg"
                picture.save(folder / part / name, quality=JPEG_QUALITY)
                boxes[name] = (picture.size, present)
                rows.append([name, *(int(kind in present) for kind in KINDS)])
                bar.update(1)
            _write_text(folder / f"truth_{part}.csv", _csv([["path", *KINDS], *rows]))
            _write_text(folder / f"boxes_{part}.json", json.dumps(_coco(boxes)) + "\n")
    _write_text(folder / "classes.txt", "\n".join(KINDS) + "\n")


def _coco(scenes: dict[str, tuple[tuple[int, int], dict[str, Box]]]) -> dict:
    """COCO's instances format for {file name: (size, {kind: box_xyxy})}."""
    images, annotations = [], []
    for number, (name, ((width, height), boxes)) in enumerate(scenes.items(), start=1):
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for kind, (x0, y0, x1, y1) in boxes.items():
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": KINDS.index(kind) + 1}
            annotations.append({**place, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0})
    categories = [{"id": number, "name": kind} for number, kind in enumerate(KINDS, start=1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _csv(rows: list[list]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)
