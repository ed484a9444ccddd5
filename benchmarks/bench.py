"""What the benchmarks share: the two worlds with their students, results that are kept, and options.

A world is a folder of photos to label and train on, other photos to test on, their true labels, and the student that learns there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

import mlclip
from mlclip.demo import write_scenes
from mlclip.methods.dense import CELLS, VIEWS, encoded_sets, side_at

SHARED = Path(__file__).parents[2] / "shared" / "voc12"  # real photos, their true labels, and stored scores of a CLIP
TRAIN_SCENES, TEST_SCENES = 1200, 500  # those of `mlclip demo`
DEMO_STUDENT = {"arch": "clip-resnet", "init": "clip", "size": 96, "epochs": 8, "batch_size": 32, "lr": 1e-3}
# Lists of view sets for dense labels, cheapest first; "views" alone are centred labels.
VIEW_LISTS = [tuple(text.split(",")) for text in (
    "2", "1.5,2", "1,1.5,2", "2,2.5", "1.5,2,2.5", "views", "views,cells", "views,2", "views,cells,2", "views,1.5,2",
    "views,cells,1.5,2", "views,cells,1.5,2,2.5",
)]  # fmt: skip
# The classes of VOC 2012 with at least ten positive photos in both parts.
EVALUATED = ["bottle", "car", "cat", "chair", "cow", "dog", "horse", "person", "pottedplant", "sheep", "sofa", "tvmonitor"]  # fmt: skip


@dataclass
class World:
    """`student`: settings of `mlclip.train`. `only`: the classes that are evaluated, None for all."""

    train: Path
    test: Path
    truth_train: mlclip.Labels
    truth_test: mlclip.Labels
    student: dict[str, Any]
    only: list[str] | None = None

    def test_map(self, model: mlclip.Checkpoint) -> float:
        """mAP in percent of a student on the test photos."""
        predicted = mlclip.predict([self.test], model, progress=mlclip.SILENT)
        return mean_ap(predicted, self.truth_test, self.only)


def demo_world(out: Path, seed: int, count: int | None = None) -> World:
    """The drawn scenes of one seed, written once. With `count`, only so many of them, and half as many to test on."""
    train, test = (count, max(1, count // 2)) if count else (TRAIN_SCENES, TEST_SCENES)
    folder = out / (f"world-{seed}-{count}" if count else f"world-{seed}")
    if not (folder / "ready").exists():  # scenes whose writing was interrupted are written again
        write_scenes(folder, train=train, test=test, seed=seed)
        (folder / "ready").touch()
    truth = [mlclip.read_labels(folder / f"truth_{part}.csv") for part in ("train", "test")]
    return World(folder / "train", folder / "test", *truth, DEMO_STUDENT)


def real_world(data: Path, size: int = 160, count: int | None = None) -> World:
    """Photos of VOC 2012 and a MobileNetV2. With `count`, only the first photos are trained on."""
    truth = [mlclip.read_labels(data / f"truth_{part}.csv") for part in ("train", "test")]
    truth[0] = truth[0].aligned(truth[0].paths[:count], truth[0].classes)
    student = {"arch": "mobilenet_v2", "init": str(data / "mobilenet_v2_imagenet.pth"), "size": size}
    photos = data.resolve() / "photos"
    return World(
        photos / "train", photos / "test", *truth, {**student, "epochs": 4, "batch_size": 32, "lr": 1e-4}, EVALUATED
    )


def mean_ap(labels: mlclip.Labels, truth: mlclip.Labels, only: list[str] | None = None) -> float:
    """mAP in percent, of the classes in `only`."""
    return 100 * mlclip.mean_average_precision(labels, truth.aligned(truth.paths, only or truth.classes))[0]


def macro_f1(predicted, truth) -> float:
    """Macro-F1 in percent of predicted labels (N, C) bool against truth (N, C) in {1, 0}."""
    hits = (predicted & (truth == 1)).sum(0)
    return 100 * float((2 * hits / (predicted.sum(0) + truth.sum(0)).clamp(min=1)).mean())


def micro_f1(predicted, truth) -> float:
    """The F1 in percent of all labels together."""
    return 100 * float(2 * (predicted & (truth == 1)).sum() / (predicted.sum() + truth.sum()))


def views_worth(sets: tuple[str, ...], side: int, stride: int) -> float:
    """What the view sets cost to encode, in views of `side` pixels: the 14 views with their cells, and each size of the whole photo."""
    sizes = [size for size in encoded_sets(sets) if size not in (VIEWS, CELLS)]
    return 14 * (VIEWS in encoded_sets(sets)) + sum((side_at(size, side, stride) / side) ** 2 for size in sizes)


def spread(values: list[float]) -> str:
    """The mean, the lowest and the highest value."""
    return f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})" if values else ""


def table(*columns: str) -> None:
    """Print the head of a table in Markdown."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


class Results:
    """Results as lines of JSON, appended as soon as they are there. What is in the file is not computed again."""

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        self.rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def of(self, **key: Any) -> list[dict]:
        return [found for found in self.rows if key.items() <= found.items()]

    def add(self, **found: Any) -> None:
        self.rows.append(found)
        with self.file.open("a") as file:
            file.write(json.dumps(found) + "\n")


def fixed_as(truth: mlclip.Labels, labels: mlclip.Labels) -> mlclip.Labels:
    """True labels as a table to train on, with the photos and the teacher of `labels`."""
    return replace(truth, root=labels.root, meta=labels.meta)


def numbers(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise click.BadParameter("numbers such as 0,1,2") from None


option = partial(click.option, show_default=True)
seeds = option("--seeds", default="0,1,2", callback=numbers, help="Seeds of scenes and students, as 0,1,2.")
data = option("--data", type=click.Path(path_type=Path), default=SHARED, help="Folder of the real photos and scores.")
count = option("--count", type=int, help="Use only so many photos to label and train on, to try the script.")


def out(name: str):
    """The option for the folder of results, with its default for one script."""
    return option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/out") / name, help="Folder of results.")  # fmt: skip
