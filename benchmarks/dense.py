"""Dense labels on the demo scenes: each kind of views alone and together, the students of these labels, and the cost of cells.

    python benchmarks/dense.py labels --seeds 3 4 5      # labels of the 500 test scenes of each world
    python benchmarks/dense.py students --seeds 0 1 2    # students of the 1,200 training scenes, as in `mlclip demo`
    python benchmarks/dense.py cost                      # encoding the 14 views with and without their cells

Cells are computed and stored by the package's own functions, so the labels are those of `mlclip pseudolabel --method dense`.
The form of dense labels was fixed on worlds 0 to 2. True labels are used only to report, and to train the students named "true".
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from demo_scenes import demo_scenes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mlclip
from mlclip.clip import load_clip
from mlclip.clip.cells import ATTENTIONS
from mlclip.clip.encoders import ModifiedResNet, VisionTransformer
from mlclip.clip.model import CLIP
from mlclip.clip.registry import TINY_FILE
from mlclip.config import PseudolabelConfig
from mlclip.demo import KINDS
from mlclip.images import find_images
from mlclip.labels.class_names import TEMPLATES
from mlclip.labels.metrics import average_precision, mean_average_precision
from mlclip.labels.table import read_labels, read_truth
from mlclip.teacher.encode import embed_views_and_cells, encoded_views
from mlclip.teacher.label import label_by_centring, label_by_view_sets
from mlclip.teacher.scoring import Teacher, class_embeddings
from mlclip.teacher.store import StoredViews

SIZES = ("1", "1.5", "2", "2.5", "3", "4")
FREE = ("views", "cells")  # no further pass
ROWS: dict[str, dict] = {  # of the table of labels: settings of dense labels
    **{f"{kind} alone": {"kinds": (kind,)} for kind in ("cells", *SIZES)},
    **{f"{kind} alone, no second opinion": {"kinds": (kind,), "profiles": False} for kind in ("cells", *SIZES)},
    "views + cells": {"kinds": FREE},
    "views + cells, no second opinion": {"kinds": FREE, "profiles": False},
    "views + 2": {"kinds": ("views", "2")},
    "views + cells + 1.5": {"kinds": (*FREE, "1.5")},
    "views + cells + 2": {"kinds": (*FREE, "2")},
    "views + cells + 2, no second opinion": {"kinds": (*FREE, "2"), "profiles": False},
    "views + cells + 1.5 + 2": {"kinds": (*FREE, "1.5", "2")},
    "views + cells + 1.5 + 2 + 2.5 + 3 + 4": {"kinds": (*FREE, *SIZES[1:])},
}
STUDENT = {"arch": "clip-resnet", "size": 96, "epochs": 8, "batch_size": 32, "lr": 1e-3, "init": str(TINY_FILE)}
LABELLINGS = {
    "centred": {"method": "centred"},
    "dense, no further pass": {"method": "dense", "kinds": FREE},
    "dense, one further pass": {"method": "dense", "kinds": (*FREE, "2")},
}


def mean_ap(scores: Tensor, truth: Tensor) -> float:
    return 100 * float(np.nanmean([average_precision(scores[:, c], truth[:, c]) for c in range(truth.shape[1])]))


def macro_f1(labels: Tensor, truth: Tensor) -> float:
    """Macro-F1 in percent of the labels (N, C) at ½."""
    predicted = labels >= 0.5
    hits = (predicted & (truth == 1)).sum(0)
    return 100 * float((2 * hits / (predicted.sum(0) + truth.sum(0)).clamp(min=1)).mean())


def labels_of_world(out: Path, seed: int, teacher: Teacher, attention: str) -> dict[str, tuple[float, float]]:
    """mAP and macro-F1 of each row, for the test scenes of one world."""
    found = find_images([demo_scenes(out, seed) / "test"])
    truth = read_labels(demo_scenes(out, seed) / "truth_test.csv").scores
    settings = {"grids": (1, 2, 3), "kinds": (*FREE, *SIZES), "attention": attention}
    settings["store"] = out / f"store-{seed}{'' if teacher.name == 'tiny' else '-' + teacher.sha256[:8]}"
    with encoded_views(found.photos, teacher, root=found.root, **settings) as (stores, _):
        views, *cells = (StoredViews(store, found.photos) for store in stores)
    kinds = dict(zip([kind for kind in settings["kinds"] if kind != "views"], cells, strict=True))
    asked = (class_embeddings(teacher, KINDS, TEMPLATES["paper-cdul"]), len(KINDS), teacher.logit_scale)
    made = {"centred": label_by_centring(views, *asked, PseudolabelConfig("centred"))[0]}
    for name, changed in ROWS.items():
        made[name] = label_by_view_sets(kinds, views, *asked, PseudolabelConfig("dense", **changed))[0]
    return {name: (mean_ap(labels, truth), macro_f1(labels, truth)) for name, labels in made.items()}


def labels(args: argparse.Namespace) -> None:
    teacher = Teacher(load_clip(args.clip))
    worlds = [labels_of_world(args.out, seed, teacher, args.attention) for seed in args.seeds]
    print(f"| labels | mAP, worlds {' '.join(map(str, args.seeds))} | mean | macro-F1 at ½ |\n|---|---|---|---|")
    for name in worlds[0]:
        maps, f1 = zip(*(world[name] for world in worlds), strict=True)
        print(f"| {name} | {' '.join(f'{x:.1f}' for x in maps)} | {np.mean(maps):.1f} | {np.mean(f1):.1f} |")


def students(args: argparse.Namespace) -> None:
    """Results are appended to OUT/students.jsonl. A student that is already in the file is not trained again."""
    file = args.out / "students.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in args.seeds:
        for name in (*LABELLINGS, "true"):
            if not any(result["labels"] == name and result["seed"] == seed for result in done):
                done.append({"labels": name, "seed": seed, **labelled_student(name, seed, args.out)})
                with file.open("a") as lines:
                    lines.write(json.dumps(done[-1]) + "\n")
    print("| labels | labels, mAP | student, mAP by seed | mean |\n|---|---|---|---|")
    for name in (*LABELLINGS, "true"):
        results = [result for result in done if result["labels"] == name and result["seed"] in args.seeds]
        own, learned = ([result[key] for result in results] for key in ("own", "student"))
        print(f"| {name} | {np.mean(own):.1f} | {' '.join(f'{x:.1f}' for x in learned)} | {np.mean(learned):.1f} |")


def labelled_student(name: str, seed: int, out: Path) -> dict[str, float]:
    """mAP in percent of the labels of the training scenes, and of their student on the test scenes."""
    world = demo_scenes(out, seed)
    if name == "true":
        table = read_labels(world / "truth_train.csv")
    else:
        running = {"clip": "tiny", "store": out / f"store-train-{seed}", "num_workers": 0}
        table = mlclip.pseudolabel([world / "train"], **running, **LABELLINGS[name])
    own = _map(table, world / "truth_train.csv")
    return {"own": own, "student": student(table, world, seed, out)}


def student(table, world: Path, seed: int, out: Path) -> float:
    """mAP in percent, on the test scenes, of a student of these labels."""
    settings = {"method": "fixed", "seed": seed, "overwrite": True, "root": world / "train", "num_workers": 0}
    mlclip.train(table, out / "model.pt", **settings, **STUDENT)
    return _map(mlclip.predict([world / "test"], out / "model.pt"), world / "truth_test.csv")


def _map(table, truth: Path) -> float:
    return 100 * mean_average_precision(table, read_truth(str(truth)))[0]


def cost(args: argparse.Namespace) -> None:
    """Random weights, the 14 views of a photo, alternately with and without cells: CPU time (medians) and operations."""
    print(
        "| image encoder | 14 views of a photo, CPU s | with cells, CPU s | ratio of times | of operations |\n|"
        + "---|" * 5
    )
    text = {"context": 77, "vocab": 400, "width": 64, "layers": 1}
    towers = {
        "RN50": (ModifiedResNet(224, 64, (3, 4, 6, 3), 1024), 1024),
        "ViT-B/32": (VisionTransformer(7, 32, (768, 12, 3072), 512, "quick_gelu"), 512),
    }
    for name, (visual, channels) in towers.items():
        for parameter in visual.parameters():
            nn.init.normal_(parameter, std=0.02)
        teacher = Teacher(CLIP(visual, 224, text, channels, "quick_gelu").eval())
        pixels = torch.randint(0, 255, (14, 3, 224, 224), dtype=torch.uint8)
        for attention in ("value",) if name == "RN50" else ATTENTIONS:
            runs = ((teacher.embed_views, pixels), (embed_views_and_cells, teacher, pixels, attention))
            plain, dense = zip(*([_seconds(*run) for run in runs] for _ in range(args.repeat)), strict=True)
            medians = [statistics.median(times) for times in (plain, dense)]
            ratio = statistics.median(b / a for a, b in zip(plain, dense, strict=True))
            operations = _operations(*runs[1]) / _operations(*runs[0])
            print(f"| {name}, {attention} | {medians[0]:.2f} | {medians[1]:.2f} | {ratio:.3f} | {operations:.3f} |")


def _seconds(run: Callable, *args) -> float:
    started = time.process_time()
    run(*args)
    return time.process_time() - started


def _operations(run: Callable, *args) -> int:
    """Multiplications and additions of convolutions and matrix products."""
    torch.backends.mha.set_fastpath_enabled(False)  # a fused operation is not counted
    with FlopCounterMode(display=False) as counter:
        run(*args)
    torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["labels", "students", "cost"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/dense"), help="folder of scenes and stores")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="worlds")
    parser.add_argument("--clip", default="tiny", help="the teacher of the part labels: a name, or a weight file")
    parser.add_argument("--attention", choices=list(ATTENTIONS), default="key", help="of the cells of a transformer")
    parser.add_argument("--repeat", type=int, default=7, help="repetitions of the part cost")
    args = parser.parse_args()
    {"labels": labels, "students": students, "cost": cost}[args.part](args)


if __name__ == "__main__":
    main()
