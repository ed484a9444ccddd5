"""A folder where many photos show none of the names: labels by a few of the names alone, and with contrast names.

    python benchmarks/fewnames.py real --data ../shared/voc12   # real CLIP RN50x64 scores, some of VOC's twenty names
    python benchmarks/fewnames.py world --seeds 0 1 2           # the drawn world, some of its eighteen

For each number of names, sets are drawn by seed. "The others": the names that were not drawn take part and are then dropped, as
`mlclip pseudolabel --contrast` does; "coco": the names of that preset, nearly all unknown to the tiny CLIP and nowhere in its
world. Truth judges: micro-F1 over all photos and the drawn names, of labels at ½. No student is trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from drawn import drawn_world
from thresholds import f1_scores
from torch import Tensor
from voc12 import centred_labels, true_probabilities

from mlclip.clip import load_clip
from mlclip.images import find_images
from mlclip.labels.class_names import CLASS_PRESETS, parse_classes, without_classes
from mlclip.labels.metrics import mean_average_precision
from mlclip.labels.table import Labels, read_labels
from mlclip.methods.cdul import fuse
from mlclip.teacher.pseudolabel import pseudolabel
from mlclip.teacher.scoring import Teacher

SETS = 10  # of names, drawn for each number of them, on real photos ...
WORLD_SETS = 5  # ... and in each world


def cdul_labels(stored: dict[str, np.ndarray]) -> Tensor:
    """CDUL's final labels (N, C) at ζ = 0."""
    return fuse(*(true_probabilities(stored[name]) for name in ("global_", "alpha")))


def drawn(names: int, count: int, seed: int) -> Tensor:
    """So many of the numbers below `names`."""
    return torch.randperm(names, generator=torch.Generator().manual_seed(seed))[:count]


def judged(labels: Tensor, truth: Tensor) -> list[float]:
    """Of labels (N, C) and truth (N, C) of 1 and 0: photos that show none, labels a photo, true ones, micro-F1 and mAP in percent."""
    said, rows = labels >= 0.5, [str(n) for n in range(len(labels))]
    f1 = f1_scores(said, truth)[1]
    names = [str(n) for n in range(labels.shape[1])]
    quality = 100 * mean_average_precision(Labels(rows, names, labels), Labels(rows, names, truth))[0]
    none = float((truth.sum(1) == 0).float().mean())
    return [none, float(said.sum(1).float().mean()), float(truth.sum(1).mean()), f1, quality]


def show(count: int, kind: str, numbers: list[list[float]]) -> None:
    none, said, expected, f1, quality = np.mean(numbers, axis=0)
    print(f"| {count} | {none:.0%} | {kind} | {f1:.1f} | {quality:.1f} | {said:.2f} | {expected:.2f} |", flush=True)


def judge_real(data: Path) -> None:
    """Labels of the real photos by a few of the names alone and with the others as contrast, by centring and by CDUL."""
    file = np.load(data / "rn50x64_scores.npz")
    stored = {name: file[name] for name in ("global_", "alpha")}
    truth = torch.from_numpy(file["truth"]).float()  # (N, 20)
    whole = {"centred": centred_labels(stored), "CDUL ζ=0": cdul_labels(stored)}
    for count in (3, 5, 10, 15):
        sets = [drawn(truth.shape[1], count, seed) for seed in range(SETS)]
        for method, make in (("centred", centred_labels), ("CDUL ζ=0", cdul_labels)):
            alone = [make({kind: table[:, names.numpy()] for kind, table in stored.items()}) for names in sets]
            show(count, method, [judged(labels, truth[:, names]) for labels, names in zip(alone, sets, strict=True)])
            show(
                count,
                f"{method}, contrast: the others",
                [judged(whole[method][:, names], truth[:, names]) for names in sets],
            )


def judge_world(out: Path, seeds: list[int]) -> None:
    """Centred labels of the drawn scenes by a few of the world's names alone, with the others and with coco's as contrast."""
    teacher = Teacher(load_clip("tiny"), torch.device("cpu"))
    for count in (2, 3, 5, 8, 12):
        rows: dict[str, list] = {"centred": [], "centred, contrast: the others": [], "centred, contrast: coco": []}
        for seed in seeds:
            folder = drawn_world(out, seed)
            every, truth = list(parse_classes(folder / "classes.txt")), read_labels(folder / "truth_train.csv")
            for number in range(WORLD_SETS):
                names = {every[i]: every[i] for i in drawn(len(every), count, number).tolist()}
                contrasts = ({}, {n: n for n in every if n not in names}, without_classes(CLASS_PRESETS["coco"], names))
                for kind, contrast in zip(rows, contrasts, strict=True):
                    labels = pseudolabel(
                        find_images([str(folder / "train")]), names, teacher, contrast=contrast,
                        store=out / f"embeddings-{seed}", num_workers=0,
                    )  # fmt: skip
                    rows[kind].append(judged(labels.scores, truth.aligned(labels.paths, labels.classes).scores))
        for kind, numbers in rows.items():
            show(count, kind, numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["real", "world"])
    parser.add_argument("--data", type=Path, default=Path("../shared/voc12"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/fewnames"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the world")
    args = parser.parse_args()
    print("| names | photos that show none | labels | micro-F1 | mAP | labels a photo | truth |\n|" + "---|" * 7)
    if args.part == "world":
        judge_world(args.out, args.seeds)
    else:
        judge_real(args.data)


if __name__ == "__main__":
    main()
