"""Over which share of the training a student's weights should be averaged: the demo's student on the demo scenes.

    python benchmarks/averaging.py --seeds 0 1 2

One training serves all shares: the averages do not change it. "Decay" is a learning rate that falls to 0 over the training, the
usual alternative. True labels are used to report, and to train the students of the rows "true". Results are appended to
OUT/averaging.jsonl as soon as they are there, and a training that is already in the file is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from demo_scenes import demo_scenes
from torch import nn

from mlclip.config import TrainConfig
from mlclip.distributed import Runtime
from mlclip.images import find_images
from mlclip.labels.metrics import mean_average_precision
from mlclip.labels.table import Labels, read_labels
from mlclip.student.checkpoint import Checkpoint
from mlclip.student.model import Classifier
from mlclip.student.predict import predict
from mlclip.training.start import start_training
from mlclip.training.state import TrainingState
from mlclip.training.weight_step import WeightAverage, weight_epoch

SHARES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
TRAININGS = [  # labels, epochs, whether the learning rate decays
    ("centred", 8, False),
    ("centred", 8, True),
    ("centred", 4, False),
    ("centred", 16, False),
    ("CDUL's", 8, False),
    ("CDUL's", 8, True),
    ("true", 8, False),
    ("true", 8, True),
]


class AveragePerShare:
    """Replaces a training's average: keeps one average per share and, with `decay`, lowers the learning rate at every step."""

    def __init__(self, run: TrainingState, decay: bool):
        self.averages = [WeightAverage(run.model, share) for share in SHARES]
        self.groups = run.optimizer.param_groups if decay else []
        self.rates = [group["lr"] for group in self.groups]
        self.left = self.steps = run.config.epochs * math.ceil(len(run.photos) / run.config.batch_size)

    def update_parameters(self, model: nn.Module) -> None:
        for average in self.averages:
            average.update_parameters(model)
        self.left -= 1
        for group, rate in zip(self.groups, self.rates, strict=True):
            group["lr"] = rate * self.left / self.steps


def make_labels(out: Path, seed: int) -> dict[str, Labels]:
    """Labels of one seed's training scenes from the ordinary command with the tiny CLIP, and the true labels."""
    folder, made = demo_scenes(out, seed), {}
    for name, method in (("centred", "centred"), ("CDUL's", "cdul")):
        file = out / f"{method}-{seed}.labels.pt"
        command = [
            sys.executable,
            "-m",
            "mlclip",
            "pseudolabel",
            folder / "train",
            "--clip",
            "tiny",
            "--method",
            method,
        ]
        cache = {**os.environ, "MLCLIP_CACHE": str(out / "cache")}
        subprocess.run([*command, "-o", file, "--overwrite", "--quiet"], check=True, env=cache)
        made[name] = read_labels(file)
    true = read_labels(folder / "truth_train.csv")
    return made | {"true": replace(true, root=made["centred"].root, meta=made["centred"].meta)}


def test_map(model: Classifier, folder: Path) -> float:
    """mAP in percent on the test scenes."""
    checkpoint = Checkpoint(model.eval(), torch.full((len(model.classes),), 0.5))
    scores = predict(find_images([str(folder / "test")]), checkpoint)
    return 100 * mean_average_precision(scores, read_labels(folder / "truth_test.csv"))[0]


def train_and_evaluate(labels: Labels, epochs: int, decay: bool, seed: int, folder: Path) -> list[float]:
    """Train one student; its mAP in percent on the test scenes, for every share."""
    config = TrainConfig(
        arch="clip-resnet", init="clip", size=96, epochs=epochs, batch_size=32, lr=1e-3, average=0.0, seed=seed
    )  # the demo's
    run = start_training(labels, config, Runtime(), offline=True)
    run.average = averages = AveragePerShare(run, decay)
    while run.epochs < epochs:
        weight_epoch(run, run.labels)
        run.epochs += 1
    return [test_map(average.module, folder) for average in averages.averages]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/averaging"), help="folder of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "averaging.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in args.seeds:
        todo = [t for t in TRAININGS if not any(row["seed"] == seed and tuple(row["training"]) == t for row in done)]
        tables = make_labels(args.out.absolute(), seed) if todo else {}
        for training in todo:
            labels, epochs, decay = training
            scores = train_and_evaluate(tables[labels], epochs, decay, seed, args.out / f"world-{seed}")
            done.append({"seed": seed, "training": training, "scores": scores})
            with file.open("a") as out:
                out.write(json.dumps(done[-1]) + "\n")
    print(
        "\n| labels | epochs | "
        + " | ".join(f"{share:g}" for share in SHARES)
        + " | seeds |\n|"
        + "---|" * (len(SHARES) + 3)
    )
    for labels, epochs, decay in TRAININGS:
        rows = [
            r["scores"] for r in done if tuple(r["training"]) == (labels, epochs, decay) and r["seed"] in args.seeds
        ]
        if rows:
            cells = " | ".join(f"{mean:.1f}" for mean in np.mean(rows, axis=0))
            print(f"| {labels} | {epochs}{', decay' * decay} | {cells} | {len(rows)} |")


if __name__ == "__main__":
    main()
