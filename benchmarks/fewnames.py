"""Labels of a folder where many photos show none of the class names: a few names alone, and with contrast names.

    python benchmarks/fewnames.py real --data ../shared/voc12   # real CLIP RN50x64 scores, some of VOC's twenty names
    python benchmarks/fewnames.py world --seeds 0 1 2           # demo scenes, some of their eighteen names

For each number of names, sets of names are drawn at random. Contrast names compete and are then dropped, as with
`mlclip pseudolabel --contrast`. "The others": the names that were not drawn. "coco": the names of that preset; the tiny CLIP does
not know most of them, and the demo scenes show none of their objects. The measure is micro-F1 of labels at ½ over all photos and
the drawn names, by the true labels. No student is trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from demo_scenes import demo_scenes
from thresholds import f1_scores
from torch import Tensor
from voc12 import centred_labels, true_probabilities

from mlclip.clip import load_clip
from mlclip.images import find_images
from mlclip.labels.class_names import CLASS_PRESETS, parse_classes, without_classes
from mlclip.labels.metrics import mean_average_precision
from mlclip.labels.table import Labels, read_labels
from mlclip.methods.cdul import fuse
from mlclip.teacher.pseudolabel import label_photos
from mlclip.teacher.scoring import Teacher

SETS = 10  # sets of names for each number of names, real photos
DEMO_SETS = 5  # the same for each seed of the demo scenes


def cdul_labels(stored: dict[str, np.ndarray]) -> Tensor:
    """CDUL's final labels (N, C) at ζ = 0."""
    return fuse(*(true_probabilities(stored[name]) for name in ("global_", "alpha")))


def sample(names: int, count: int, seed: int) -> Tensor:
    """`count` different random indices below `names`."""
    return torch.randperm(names, generator=torch.Generator().manual_seed(seed))[:count]


def quality(labels: Tensor, truth: Tensor) -> list[float]:
    """Labels (N, C) and truth (N, C) in {1, 0} -> share of photos that show none, labels per photo, true labels per photo, micro-F1
    and mAP in percent."""
    predicted, rows = labels >= 0.5, [str(n) for n in range(len(labels))]
    f1 = f1_scores(predicted, truth)[1]
    names = [str(n) for n in range(labels.shape[1])]
    ranking = 100 * mean_average_precision(Labels(rows, names, labels), Labels(rows, names, truth))[0]
    none = float((truth.sum(1) == 0).float().mean())
    return [none, float(predicted.sum(1).float().mean()), float(truth.sum(1).mean()), f1, ranking]


def show(count: int, kind: str, numbers: list[list[float]]) -> None:
    none, predicted, true, f1, ranking = np.mean(numbers, axis=0)
    print(f"| {count} | {none:.0%} | {kind} | {f1:.1f} | {ranking:.1f} | {predicted:.2f} | {true:.2f} |", flush=True)


def measure_real(data: Path) -> None:
    """Centred labels and CDUL's labels of the real photos: a few names alone, and with the others as contrast."""
    file = np.load(data / "rn50x64_scores.npz")
    stored = {name: file[name] for name in ("global_", "alpha")}
    truth = torch.from_numpy(file["truth"]).float()  # (N, 20)
    whole = {"centred": centred_labels(stored), "CDUL ζ=0": cdul_labels(stored)}
    for count in (3, 5, 10, 15):
        sets = [sample(truth.shape[1], count, seed) for seed in range(SETS)]
        for method, make in (("centred", centred_labels), ("CDUL ζ=0", cdul_labels)):
            alone = [make({kind: table[:, names.numpy()] for kind, table in stored.items()}) for names in sets]
            show(count, method, [quality(labels, truth[:, names]) for labels, names in zip(alone, sets, strict=True)])
            show(
                count,
                f"{method}, contrast: the others",
                [quality(whole[method][:, names], truth[:, names]) for names in sets],
            )


def measure_demo(out: Path, seeds: list[int]) -> None:
    """Centred labels of the demo scenes: a few names alone, with the others and with coco's names as contrast."""
    teacher = Teacher(load_clip("tiny"), torch.device("cpu"))
    for count in (2, 3, 5, 8, 12):
        rows: dict[str, list] = {"centred": [], "centred, contrast: the others": [], "centred, contrast: coco": []}
        for seed in seeds:
            folder = demo_scenes(out, seed)
            every, truth = list(parse_classes(folder / "classes.txt")), read_labels(folder / "truth_train.csv")
            for number in range(DEMO_SETS):
                names = {every[i]: every[i] for i in sample(len(every), count, number).tolist()}
                contrasts = ({}, {n: n for n in every if n not in names}, without_classes(CLASS_PRESETS["coco"], names))
                for kind, contrast in zip(rows, contrasts, strict=True):
                    labels = label_photos(
                        find_images([str(folder / "train")]), names, teacher, contrast=contrast,
                        store=out / f"embeddings-{seed}", num_workers=0,
                    )  # fmt: skip
                    rows[kind].append(quality(labels.scores, truth.aligned(labels.paths, labels.classes).scores))
        for kind, numbers in rows.items():
            show(count, kind, numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["real", "world"], help="real: real photos, world: demo scenes")
    parser.add_argument("--data", type=Path, default=Path("../shared/voc12"), help="folder of the real photos' scores")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/fewnames"), help="folder of the demo scenes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the demo scenes")
    args = parser.parse_args()
    print(
        "| names | photos that show none | labels | micro-F1 | mAP | labels per photo | true labels per photo |\n|"
        + "---|" * 7
    )
    if args.part == "world":
        measure_demo(args.out, args.seeds)
    else:
        measure_real(args.data)


if __name__ == "__main__":
    main()
