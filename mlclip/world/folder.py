"""The drawn world as a folder of photos with true labels, the way a user's own would lie there."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np

from ..files import atomic
from ..talk import SILENT, Talk
from .scenes import draw_scene
from .things import KINDS

JPEG_QUALITY = 92
_PARTS = ("train", "test")  # a scene's random numbers follow from the seed, the part and its own number, nothing else


def write_world(folder: str | Path, *, train: int, test: int, seed: int = 0, talk: Talk = SILENT) -> None:
    """Draw `train` and `test` scenes into folder/train/ and folder/test/ as JPEGs.

    Beside them go classes.txt, one name per line, and truth_train.csv and truth_test.csv: `path` within the part's
    folder, then one 0/1 column per class. The same seed draws the same scenes, however many are asked for.
    """
    folder = Path(folder)
    with talk.bar("drawing scenes", train + test, "scenes") as bar:
        for part, count in zip(_PARTS, (train, test), strict=True):
            os.makedirs(folder / part, exist_ok=True)
            rows = []
            for number in range(count):
                picture, present = draw_scene(np.random.default_rng([seed, _PARTS.index(part), number]))
                name = f"{number:05d}.jpg"
                picture.save(folder / part / name, quality=JPEG_QUALITY)
                rows.append([name, *(int(kind in present) for kind in KINDS)])
                bar.update(1)
            _write_text(folder / f"truth_{part}.csv", _csv([["path", *KINDS], *rows]))
    _write_text(folder / "classes.txt", "\n".join(KINDS) + "\n")


def _csv(rows: list[list]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)
