"""Demo scenes as a folder of photos with true labels, laid out like a user's own data."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from ..files import atomic
from ..progress import SILENT, Progress
from .scenes import draw_scene
from .things import KINDS

JPEG_QUALITY = 92
_PARTS = ("train", "test")  # a scene's random numbers depend only on the seed, the part and the scene's number


def write_scenes(folder: str | Path, *, train: int, test: int, seed: int = 0, progress: Progress = SILENT) -> None:
    """Draw `train` and `test` scenes into folder/train/ and folder/test/ as JPEGs.

    Also writes classes.txt with one name per line, and truth_train.csv and truth_test.csv with a `path` column (relative to the
    part's folder) and one 0/1 column per class. The same seed gives the same scenes, whatever their number.
    """
    folder = Path(folder)
    with progress.bar("drawing scenes", train + test, "scenes") as bar:
        for part, count in zip(_PARTS, (train, test), strict=True):
            os.makedirs(folder / part, exist_ok=True)
            rows = []
            for number in range(count):
                picture, present = draw_scene(np.random.default_rng([seed, _PARTS.index(part), number]))
                name = f"{number:05d}.jpg"
                picture.save(folder / part / name, quality=JPEG_QUALITY)
                rows.append([name, *(int(kind in present) for kind in KINDS)])
                bar.update(1)
            with atomic(folder / f"truth_{part}.csv") as temporary, open(temporary, "w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([["path", *KINDS], *rows])
    with atomic(folder / "classes.txt") as temporary:
        temporary.write_text("\n".join(KINDS) + "\n")
