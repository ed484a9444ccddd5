"""Draws images of single things (the training data of the tiny CLIP) and scenes (the photos of `mlclip demo`) with true labels.

The package stores no images: everything is drawn from random numbers. Scenes are difficult in the same way as photos. One thing is
large and several are small. At CLIP's input size, the whole scene shows the large thing and loses the small ones. The kinds have
different frequencies, and these differ from the frequencies of the single things, as a user's photos differ from those of the web.
Some scenes are empty.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from ..labels.sheet import save_csv, save_text
from ..progress import SILENT, Progress
from .things import KINDS as KINDS
from .things import arc, draw_thing, random_colour

SCENE_SIZE = 160  # side in pixels
EMPTY_SHARE = 0.06  # share of scenes without any thing
LARGE = (0.5, 0.72)  # side of the large thing's tile, as a share of the scene's side
SMALL = (0.25, 0.36)  # the same for a small thing
MOST_SMALL = 4  # small things in a scene: 1 to this many
SINGLE = (0.4, 1.05)  # side of a single thing's tile, as a share of its image's side
JPEG_QUALITY = 92
_PARTS = ("train", "test")  # a scene's random numbers depend only on the seed, the part and the scene's number
_STEEPNESS = 2.5  # the most frequent kind is e^2.5 = 12 times as frequent as the rarest


def _skewed(order: np.ndarray) -> np.ndarray:
    weights = np.exp(-_STEEPNESS * order / (len(order) - 1))
    return weights / weights.sum()


# Frequency of each of KINDS, (C,) with sum 1, among single things and in scenes. The orders differ.
SINGLE_FREQUENCY = _skewed((np.arange(len(KINDS)) * 7 + 3) % len(KINDS))
SCENE_FREQUENCY = _skewed((np.arange(len(KINDS)) * 5 + 1) % len(KINDS))


def draw_background(size: int, rng: Generator) -> Image.Image:
    """RGB, size × size pixels: a soft gradient under random strokes, blobs, corners and arcs, which belong to no thing."""
    low = np.array([random_colour(rng, saturation=(0.05, 0.7), value=(0.25, 0.95)) for _ in range(9)], dtype=np.uint8)
    picture = Image.fromarray(low.reshape(3, 3, 3)).resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(6, 18))):
        _scribble(draw, size, rng)
    return picture


def _scribble(draw: ImageDraw.ImageDraw, size: int, rng: Generator) -> None:
    colour = random_colour(rng, saturation=(0.0, 0.9), value=(0.1, 1.0))
    x, y = rng.uniform(0, size, 2)
    reach = rng.uniform(0.04, 0.22) * size
    shape = rng.integers(4)
    if shape == 0:
        draw.line([(x, y), tuple(rng.normal((x, y), 2 * reach))], fill=colour, width=int(rng.integers(1, 5)))
    elif shape == 1:
        draw.polygon([tuple(p) for p in rng.normal((x, y), reach / 1.5, (3, 2))], fill=colour)
    elif shape == 2:
        draw.ellipse((x - reach / 2, y - reach / 3, x + reach / 2, y + reach / 3), fill=colour)
    else:
        start = rng.uniform(0, 2)
        draw.line(arc(x, y, reach, start, start + rng.uniform(0.3, 1.2)), fill=colour, width=int(rng.integers(1, 5)))


def _camera(picture: Image.Image, rng: Generator) -> Image.Image:
    """Add sensor noise and a random exposure, as in a photo."""
    pixels = np.asarray(picture, dtype=np.float32) * rng.uniform(0.75, 1.15)
    pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(2, 12)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _place(picture: Image.Image, kind: str, side: int, centre: tuple[float, float], rng: Generator) -> None:
    """Paste a thing. The edge of the picture may cut it."""
    thing = draw_thing(kind, side, rng)
    picture.paste(thing, tuple(round(c - side / 2) for c in centre), thing)


def draw_single(kind: str, rng: Generator, size: int = 64) -> Image.Image:
    """One thing of `kind` at a random place on a cluttered background: RGB, size × size pixels. The edge may cut it."""
    picture = draw_background(size, rng)
    side = max(8, round(size * rng.uniform(*SINGLE)))
    play = max(0.0, (size - side) / 2) + 0.08 * size
    _place(picture, kind, side, tuple(size / 2 + rng.uniform(-play, play, 2)), rng)
    return _camera(picture, rng)


def draw_scene(rng: Generator, size: int = SCENE_SIZE) -> tuple[Image.Image, list[str]]:
    """A scene (RGB, size × size pixels) and the kinds in it, each once, in the order of KINDS."""
    picture = draw_background(size, rng)
    if rng.random() < EMPTY_SHARE:
        return _camera(picture, rng), []
    count = 1 + int(rng.integers(1, MOST_SMALL + 1))
    chosen = rng.choice(len(KINDS), size=count, replace=False, p=SCENE_FREQUENCY)
    middle = size / 2 + rng.uniform(-0.2, 0.2, 2) * size
    large = rng.uniform(*LARGE) * size
    _place(picture, KINDS[chosen[0]], round(large), tuple(middle), rng)
    for number, centre in zip(chosen[1:], _corners(middle, large, size, count - 1, rng), strict=True):
        _place(picture, KINDS[number], round(rng.uniform(*SMALL) * size), centre, rng)
    return _camera(picture, rng), [KINDS[number] for number in sorted(chosen)]


def _corners(middle: np.ndarray, large: float, size: int, count: int, rng: Generator) -> list[tuple[float, float]]:
    """Centres for the small things, away from each other and from the middle of the large thing."""
    margin, centres = SMALL[1] * size / 2, []
    clearance = 1.0
    while len(centres) < count:
        point = rng.uniform(margin, size - margin, 2)
        apart = all(np.hypot(*(point - other)) > clearance * SMALL[1] * size for other in centres)
        if apart and np.hypot(*(point - middle)) > clearance * 0.5 * (large + SMALL[0] * size):
            centres.append(point)
        clearance *= 0.985  # in a crowded scene the things finally overlap, as in photos
    return [tuple(point) for point in centres]


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
            save_csv([["path", *KINDS], *rows], folder / f"truth_{part}.csv")
    save_text("\n".join(KINDS) + "\n", folder / "classes.txt")
