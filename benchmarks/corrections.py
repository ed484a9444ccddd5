"""What corrections of single labels are worth: a probe trained with 0 to 200 corrected labels, chosen by `mlclip review` or at random.

    python benchmarks/corrections.py --data ../shared/voc12 --seeds 0 1 2

The person is simulated: the true labels of the training photos answer the questions. "review" asks as `mlclip review --model`
does, about the probe of the labels as they are. "random" asks about any photo and class, "random yes" about labels that have the
class. mAP and macro-F1 are those of the test photos. Results are appended to OUT/results.jsonl as soon as they are there, and a
run that is already in the file is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import voc12
from demo_scenes import demo_scenes

from mlclip.config import TrainConfig
from mlclip.distributed import Runtime
from mlclip.images import find_images
from mlclip.labels.corrections import Corrections, correct
from mlclip.labels.metrics import mean_average_precision
from mlclip.labels.review import questions
from mlclip.labels.table import Labels, read_labels
from mlclip.methods.thresholds import f1_of_classes
from mlclip.student.checkpoint import Checkpoint
from mlclip.student.features import photo_features
from mlclip.training.loop import train_student

COUNTS = (20, 50, 100, 200)
CHOICES = ("review", "random", "random yes")


class World(NamedTuple):
    """Labels of training photos, the answers, the test photos with their truth, and the student."""

    labels: Labels
    answers: Labels
    test: Path
    truth: Labels
    student: dict


def make_world(name: str, args: argparse.Namespace, seed: int) -> World:
    if name == "voc12":
        tables, data = voc12.make_labels(args.data), args.data.resolve()
        truth = read_labels(data / "truth_test.csv")
        student = {"arch": "mobilenet_v2", "size": 160, "init": str(data / "mobilenet_v2_imagenet.pth")}
        truth = truth.aligned(truth.paths, voc12.EVALUATED)
        return World(tables["centred"], tables["truth"], data / "photos" / "test", truth, student)
    folder = demo_scenes(args.out.absolute(), seed)
    truth = read_labels(folder / "truth_test.csv")
    student = {"arch": "clip-resnet", "size": 96, "init": "clip"}
    return World(
        demo_labels(folder, args.out, seed), read_labels(folder / "truth_train.csv"), folder / "test", truth, student
    )


def demo_labels(folder: Path, out: Path, seed: int) -> Labels:
    """The labels of the drawn training scenes, made once by the ordinary command."""
    file = out / f"{seed}.labels.pt"
    if not file.exists():
        command = [sys.executable, "-m", "mlclip", "pseudolabel", folder / "train", "--clip", "tiny", "-o", file]
        subprocess.run([*command, "--quiet"], check=True)
    return read_labels(file)


def chosen_cells(choice: str, world: World, base: Checkpoint, seed: int) -> list[tuple[str, str]]:
    """The labels that the person is asked about, in order."""
    labels, count = world.labels, max(COUNTS)
    if choice == "review":
        model = predict(base, labels.root, labels.paths)
        return [(question.path, question.name) for question in questions(labels, model, count)]
    usable = torch.ones_like(labels.scores, dtype=torch.bool)
    if choice == "random yes":
        usable = labels.scores >= labels.thresholds
    cells = usable.nonzero()
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:count]
    return [(labels.paths[row], labels.classes[column]) for row, column in cells[order].tolist()]


def predict(checkpoint: Checkpoint, root: str | Path, paths: list[str]) -> Labels:
    """The student's scores of photos, from features that are computed once and kept in the cache."""
    model = checkpoint.model
    place = {photo.path: photo for photo in find_images([str(root)]).photos}
    photos = [place[path] for path in paths]
    features, _ = photo_features(model, photos, str(root), Runtime())  # (N, 2, K)
    logits = features[:, 0].float() @ model.head.weight.flatten(1).T + model.head.bias
    scores = (model.scale * logits + model.offset).sigmoid().detach()
    meta = {"thresholds": checkpoint.thresholds.tolist()}
    return Labels(paths, model.classes, scores, root=str(root), meta=meta)


def fit(world: World, cells: list[tuple[str, str]], args: argparse.Namespace, seed: int) -> tuple[Checkpoint, int]:
    """A probe of the labels with these cells corrected, and how many of these labels were wrong."""
    answers: Corrections = {}
    for path, name in cells:
        value = world.answers.scores[world.answers.paths.index(path), world.answers.classes.index(name)]
        answers.setdefault(path, {})[name] = int(value)
    found = correct(world.labels, answers)
    config = TrainConfig(method="probe", seed=seed, correction_weight=args.weight, **world.student)
    labels = found.labels if cells else world.labels
    model = train_student(labels, args.out / "model.pt", config=config, overwrite=True, num_workers=0, device="cpu")
    return model, found.changed


def quality(checkpoint: Checkpoint, world: World) -> tuple[float, float]:
    """mAP and macro-F1 on the test photos, in percent."""
    scores = predict(checkpoint, world.test, world.truth.paths)
    shown = scores.aligned(scores.paths, world.truth.classes)
    f1 = f1_of_classes(shown.scores >= shown.thresholds, world.truth.scores)
    return 100 * mean_average_precision(shown, world.truth)[0], 100 * float(f1.nanmean())


def run(name: str, seed: int, args: argparse.Namespace, done: list[dict], file: Path) -> None:
    """All rows of one world and seed that are not in `done`."""

    def missing(choice: str, count: int) -> bool:
        key = {"world": name, "seed": seed, "choice": choice, "count": count, "weight": args.weight}
        return not any(key.items() <= row.items() for row in done)

    def add(choice: str, count: int, made: tuple[Checkpoint, int]) -> None:
        mean, f1 = quality(made[0], world)
        row = {"world": name, "seed": seed, "choice": choice, "count": count, "weight": args.weight}
        done.append(row | {"mAP": mean, "F1": f1, "wrong": made[1]})
        with file.open("a") as out:
            out.write(json.dumps(done[-1]) + "\n")

    rows = [(choice, count) for choice in args.choices for count in COUNTS]
    if not any(missing(*row) for row in [("none", 0), *rows]):
        return
    world = make_world(name, args, seed)
    base = fit(world, [], args, seed)
    if missing("none", 0):
        add("none", 0, base)
    for choice in args.choices:
        cells = chosen_cells(choice, world, base[0], seed)
        for count in COUNTS:
            if missing(choice, count):
                add(choice, count, fit(world, cells[:count], args, seed))


def show(done: list[dict], args: argparse.Namespace) -> None:
    """Print mean and range over the seeds: a line per world, choice and number of corrections."""
    print("\n| world | chosen | corrections | of them wrong | mAP | macro-F1 | seeds |\n|---|---|---|---|---|---|---|")
    keys = [(world, "none", 0) for world in args.worlds]
    keys += [(world, choice, count) for world in args.worlds for choice in args.choices for count in COUNTS]
    for key in sorted(keys, key=lambda key: args.worlds.index(key[0])):
        rows = [
            row
            for row in done
            if (row["world"], row["choice"], row["count"]) == key
            and row["seed"] in args.seeds
            and row["weight"] == args.weight
        ]
        if rows:
            cells = [_mean(rows, name) for name in ("wrong", "mAP", "F1")]
            print(f"| {key[0]} | {key[1]} | {key[2]} | {' | '.join(cells)} | {len(rows)} |")


def _mean(rows: list[dict], name: str) -> str:
    values = [row[name] for row in rows]
    return f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/voc12"), help="folder of the real photos and scores"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/corrections"), help="folder of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--worlds", nargs="+", default=["voc12", "demo"], choices=["voc12", "demo"])
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=CHOICES)
    parser.add_argument("--weight", type=float, default=TrainConfig.correction_weight, help="of a corrected label")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ["MLCLIP_CACHE"] = str((args.out / "cache").absolute())  # features are computed once
    file = args.out / "results.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for name in args.worlds:
        for seed in args.seeds:
            run(name, seed, args, done, file)
    show(done, args)


if __name__ == "__main__":
    main()
