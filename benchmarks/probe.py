"""Linear probe, fine-tuning, and fine-tuning that starts from the probe: students of real photos and of the demo scenes.

    python benchmarks/probe.py --data ../shared/voc12 --seeds 0 1 2
    python benchmarks/probe.py --worlds voc12 --sizes 160 --rows probe      # some of the rows

All rows of one world and size have the same cost, except the probe alone, which is cheaper. The probe sees each photo and its
mirror image once, without gradients: two forward passes. An epoch is a forward and a backward pass, about three forward passes.
So the probe costs 2/3 of an epoch. It is counted as a whole one: a training that starts from it has one epoch less.

The penalty of the probe is chosen by cross-validation against the labels. True labels are used only to report, and to train the
students of the rows "truth". The ordinary commands do the work. Results are appended to OUT/results.jsonl as soon as they are
there, and a run that is already in the file is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import averaging
import numpy as np
import voc12
from demo_scenes import demo_scenes

from mlclip.cli.demo import STUDENT as DEMO_STUDENT
from mlclip.labels.table import Labels, write_labels

ROWS = {  # options of `mlclip train`; whether one epoch is left out for the probe
    "probe": (["--method", "probe"], False),
    "from the labels' mean": (["--method", "fixed"], False),
    "from the probe": (["--method", "fixed", "--head-init", "probe"], True),
    "from the labels' mean, crops": (["--method", "fixed", "--augment", "crop"], False),
    "from the probe, crops": (["--method", "fixed", "--head-init", "probe", "--augment", "crop"], True),
}
VOC_LABELS = ["cdul ζ=0", "centred", "truth"]
DEMO_LABELS = ["CDUL's", "centred", "true"]
SIZES = {"voc12": [160, 224], "demo": [96]}


class World:
    """Labels of the training photos, and what the commands need to train and evaluate a student."""

    def __init__(self, name: str, args: argparse.Namespace):
        self.name, self.args = name, args

    def labels(self, seed: int) -> dict[str, Labels]:
        if self.name == "demo":
            return averaging.make_labels(self.args.out.absolute(), seed)
        return {name: table for name, table in voc12.make_labels(self.args.data).items() if name in VOC_LABELS}

    def student(self, size: int) -> dict[str, str]:
        """The options of the student; those of weight steps too, which a probe does not take."""
        if self.name == "demo":
            return {**_pairs(DEMO_STUDENT), "--init": "clip"}
        weights = self.args.data.resolve() / "mobilenet_v2_imagenet.pth"
        return {**_pairs(voc12.STUDENT), "--size": str(size), "--init": str(weights)}

    def evaluation(self, seed: int) -> list[str]:
        if self.name == "demo":
            folder = demo_scenes(self.args.out.absolute(), seed)
            return [str(folder / "test"), "--truth", str(folder / "truth_test.csv")]
        data = self.args.data.resolve()
        only = ["--only", ",".join(voc12.EVALUATED)]
        return [str(data / "photos" / "test"), "--truth", str(data / "truth_test.csv"), *only]


def _pairs(options: list[str]) -> dict[str, str]:
    return dict(zip(options[::2], options[1::2], strict=True))


def train_options(row: str, student: dict[str, str]) -> list[str]:
    """The options of `mlclip train` for one row."""
    chosen, one_less = ROWS[row]
    if row == "probe":
        student = {name: value for name, value in student.items() if name in ("--arch", "--size", "--init")}
    if one_less:
        student = student | {"--epochs": str(int(student["--epochs"]) - 1)}
    return [*chosen, *(part for pair in student.items() for part in pair)]


def run(world: World, size: int, name: str, labels: Labels, row: str, seed: int) -> dict:
    """Train and evaluate one student with the ordinary commands: its mAP in percent, and the seconds of its training."""
    out, command = world.args.out, [sys.executable, "-m", "mlclip"]
    file, model = out / "labels.pt", out / "model.pt"
    write_labels(labels, file, overwrite=True)
    options = [*train_options(row, world.student(size)), "--seed", str(seed), *world.args.extra]
    cache = {**os.environ, "MLCLIP_CACHE": str((out / "cache").absolute())}  # features are computed once for all rows
    started = time.monotonic()
    subprocess.run([*command, "train", "--labels", file, *options, "-o", model, "--overwrite"], check=True, env=cache)
    seconds = time.monotonic() - started
    evaluation = ["evaluate", "--model", model, *world.evaluation(seed), "--format", "json"]
    result = json.loads(subprocess.run([*command, *evaluation], check=True, stdout=subprocess.PIPE).stdout)
    key = {"world": world.name, "size": size, "labels": name, "row": row, "seed": seed}
    return key | {"mAP": 100 * result["mAP"], "seconds": seconds}


def show(results: list[dict], seeds: list[int]) -> None:
    """Print a table of the mean mAP (range) over the seeds: one line per world, size and labels, one column per row."""
    print(f"\n| world | size | labels | {' | '.join(ROWS)} | seeds |\n|{'---|' * (len(ROWS) + 4)}")
    for world, size, labels in dict.fromkeys((r["world"], r["size"], r["labels"]) for r in results):
        cells, count = [], 0
        for row in ROWS:
            key = {"world": world, "size": size, "labels": labels, "row": row}
            scores = [r["mAP"] for r in results if key.items() <= r.items() and r["seed"] in seeds]
            cells.append(f"{np.mean(scores):.1f} ({min(scores):.1f}-{max(scores):.1f})" if scores else "")
            count = max(count, len(scores))
        print(f"| {world} | {size} | {labels} | {' | '.join(cells)} | {count} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/voc12"), help="folder of the real photos and scores"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/probe"), help="folder of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--worlds", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--sizes", type=int, nargs="+", help="some of the sizes of voc12")
    parser.add_argument("--labels", nargs="+", default=[*VOC_LABELS, *DEMO_LABELS], help="names of the label tables")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("extra", nargs="*", help="further options of `mlclip train`, after --")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in args.seeds:
        for world in (World(name, args) for name in args.worlds):
            tables = world.labels(seed)
            sizes = args.sizes if args.sizes and world.name == "voc12" else SIZES[world.name]
            for size in sizes:
                for name, row in ((name, row) for name in tables if name in args.labels for row in args.rows):
                    key = {"world": world.name, "size": size, "labels": name, "row": row, "seed": seed}
                    if any(key.items() <= result.items() for result in done):
                        continue
                    done.append(run(world, size, name, tables[name], row, seed))
                    with file.open("a") as out:
                        out.write(json.dumps(done[-1]) + "\n")
    show(done, args.seeds)


if __name__ == "__main__":
    main()
