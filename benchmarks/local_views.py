"""CCD's label update from different local views: how good the updated labels are, from one and the same student.

    python benchmarks/local_views.py --seeds 0

The demo's student learns CCD's labels for the two epochs of the warm-up. Then the labels of the 1,200 training scenes are updated once from
each choice of local views, by the package's own functions. `benchmarks/ablation.py ccd-world` trains the students to the end, which takes
many times as long. True labels and boxes are used only to report.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from ablation import label_quality, shown_well
from demo_scenes import demo_scenes, scene_boxes

import mlclip
from mlclip.cli.demo import STUDENT
from mlclip.clip import load_clip
from mlclip.distributed import Runtime
from mlclip.images import find_images
from mlclip.labels.table import read_labels
from mlclip.methods import ccd
from mlclip.progress import SILENT
from mlclip.teacher.scoring import Teacher
from mlclip.teacher.where import CellMaps, cell_levels
from mlclip.training.local_views import choose_local_views, crop_scorer_for, local_labels

CHOICES = ("cam", "cells")
COLUMNS = ("labels", "refined", "true_moved", "false_moved", "shown_well")
SETTINGS = {name[2:].replace("-", "_"): value for name, value in zip(STUDENT[::2], STUDENT[1::2], strict=True)}


def updates(out: Path, seed: int) -> dict[str, list[float]]:
    """Per choice of local views: the numbers of COLUMNS."""
    world, teacher = demo_scenes(out, seed), Teacher(load_clip("tiny"))
    running = {"num_workers": 0, "progress": SILENT}
    labels = mlclip.pseudolabel([world / "train"], clip="tiny", method="ccd", view_size=64, **running)
    student = {name: int(value) if value.isdigit() else value for name, value in SETTINGS.items()}
    student |= {"epochs": 2, "lr": float(student["lr"]), "init": "clip", "seed": seed, "local_views": "none"}
    model = out / f"warm-{seed}.pt"
    if not model.exists():
        mlclip.train(labels, model, method="ccd", stopping=False, overwrite=True, **student, **running)
    checkpoint, photos = mlclip.load_model(model, device="cpu"), find_images([world / "train"]).photos
    scores = mlclip.predict([world / "train"], checkpoint, **running).scores
    scorer, truth = crop_scorer_for(labels, teacher), read_labels(world / "truth_train.csv")
    cells = CellMaps(teacher, scorer.text, scorer.logit_scale, cell_levels(photos, teacher, scorer.text, 0))
    annotated = scene_boxes(world)
    runtime, found = Runtime(num_workers=0), {}
    for choice in CHOICES:
        maps, threshold = cells if choice == "cells" else None, ccd.calibrate_threshold(scores)
        views = choose_local_views(checkpoint.model, photos, scores, threshold, runtime, maps)
        local = local_labels(scorer, photos, views.boxes, runtime)
        updated = replace(labels, scores=ccd.merge_local(labels.scores, local), meta={"update": {"boxes": views.boxes}})
        facts = label_quality(labels, updated, truth, None) | {"shown_well": 100 * shown_well(updated, annotated)}
        found[choice] = [facts[column] for column in COLUMNS]
        print(seed, choice, [round(value, 3) for value in found[choice]], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/out/local_views"), help="folder of scenes and models"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    worlds = [updates(args.out, seed) for seed in args.seeds]
    print("\n| local views | labels before | after | change of true labels | of false labels | objects shown well, % |")
    print("|---|---|---|---|---|---|")
    for choice in CHOICES:
        before, after, true, false, well = np.mean([world[choice] for world in worlds], axis=0)
        print(f"| {choice} | {before:.1f} | {after:.1f} | {true:+.3f} | {false:+.3f} | {well:.1f} |")


if __name__ == "__main__":
    main()
