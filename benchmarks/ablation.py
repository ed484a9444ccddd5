"""What each part and setting of CDUL, CCD and centred labels is worth.

    python benchmarks/ablation.py cdul-world --seeds 0 1 2                         # demo scenes: every setting
    python benchmarks/ablation.py cdul-voc12 --data ../shared/voc12 --seeds 0 1 2  # real photos: cases without an encoder
    python benchmarks/ablation.py ccd-world --seeds 0 1 2 3 4
    python benchmarks/ablation.py ccd-voc12 --data ../shared/voc12 --seeds 0 1 2
    python benchmarks/ablation.py together-world --seeds 0 1 2                     # combinations of labels and trainings
    python benchmarks/ablation.py together-voc12 --data ../shared/voc12 --seeds 0 1 2
    python benchmarks/ablation.py sharpness-world --seeds 0 1 2                    # how confident labels should be

Parts that end in "world" use the demo scenes, parts that end in "voc12" real photos. Every case runs the ordinary commands
and is compared with the first case of its part. True labels are used only to report: they choose, stop or keep no case.
Results are appended to OUT/PART.jsonl as soon as they are there, and a case that is already in the file is not repeated.
`--jobs 2` runs two cases at a time, each on its share of the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from demo_scenes import demo_scenes, scene_boxes
from voc12 import CONSISTENT as CONSISTENT_ROW
from voc12 import EVALUATED, FIXED, STUDENT, make_labels

from mlclip.cli.demo import STUDENT as DEMO_STUDENT
from mlclip.demo.scenes import SCENE_SIZE
from mlclip.labels.metrics import mean_average_precision
from mlclip.labels.table import Labels, read_labels, write_labels

COLUMNS = ("labels", "refined", "true_moved", "false_moved", "student")


@dataclass(frozen=True)
class Case:
    """One row of the table: options of `mlclip pseudolabel` (or the name of a label table) and of `mlclip train`."""

    name: str
    labels: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    sharpness: float = 1.0  # factor of the labels' log-odds

    @property
    def moves_labels(self) -> bool:
        return bool({"cdul", "ccd"} & {*self.train}) and "none" not in self.train


def ccd(*options: str) -> tuple[str, ...]:
    return ("--method", "ccd", *options)


def cdul(*options: str) -> tuple[str, ...]:
    return ("--method", "cdul", *options)


BY_CDUL = ("--method", "cdul")
PLAIN = (*FIXED, "--average", "0")  # to compare with a paper's training, which averages no weights
AVERAGED = ("--average", "0.1")  # the default for fixed labels, added to a paper's training
CDUL_WORLD = [
    Case("labels fixed (3×3, ζ = 0.5)", BY_CDUL, PLAIN),
    Case("label step (η = 1, σ = 1, warm-up 2, k = 1)", BY_CDUL, cdul()),
    *(Case(f"label step, η = {rate}", BY_CDUL, cdul("--label-rate", rate)) for rate in ("0.25", "0.1")),
    *(Case(f"label step, σ = {sigma}", BY_CDUL, cdul("--sigma", sigma)) for sigma in ("0.1", "0.25", "0.5", "2")),
    *(Case(f"label step, warm-up {n}", BY_CDUL, cdul("--warmup", n)) for n in ("0", "4")),
    Case("label step, k = 2", BY_CDUL, cdul("--label-every", "2")),
    *(Case(f"ζ = {zeta}", (*BY_CDUL, "--zeta", zeta), PLAIN) for zeta in ("0", "0.25", "0.75", "1")),
    *(Case(f"snippets {n}×{n}", (*BY_CDUL, "--snippets", str(n)), PLAIN) for n in (1, 2, 4, 5)),
    Case("snippets 2×2, label step, η = 0.25", (*BY_CDUL, "--snippets", "2"), cdul("--label-rate", "0.25")),
]
CDUL_VOC12 = [
    Case("labels fixed (ζ = 0)", ("cdul ζ=0",), PLAIN),
    Case("label step (η = 1, σ = 1, warm-up 1, k = 1)", ("cdul ζ=0",), cdul("--warmup", "1")),
    Case("label step, η = 0.25", ("cdul ζ=0",), cdul("--warmup", "1", "--label-rate", "0.25")),
    Case("label step, η = 0.25, warm-up 0", ("cdul ζ=0",), cdul("--warmup", "0", "--label-rate", "0.25")),
    Case("label step, σ = 0.5", ("cdul ζ=0",), cdul("--warmup", "1", "--sigma", "0.5")),
    Case("labels fixed (ζ = 0.5)", ("cdul ζ=0.5",), PLAIN),
    Case("label step, ζ = 0.5", ("cdul ζ=0.5",), cdul("--warmup", "1")),
]
OWN = ("--view-size", "64")  # the tiny CLIP's own input size: it fails on enlarged objects, see teacher_scale.py
CCD_WORLD = [
    Case("CCD, CLIP at its own size", ccd(*OWN), ccd()),
    Case("no debiasing", ccd(*OWN, "--no-debias"), ccd()),
    Case("no floor", ccd(*OWN, "--floor", "0"), ccd()),
    Case("no CAM boost", ccd(*OWN), ccd("--cam-boost", "1")),
    Case("no label update", ccd(*OWN), ccd("--local-views", "none")),
    Case("update from the teacher's cells", ccd(*OWN), ccd("--local-views", "cells")),
    Case("update from a grid", ccd(*OWN), ccd("--local-views", "grid")),
    Case("update from random boxes", ccd(*OWN), ccd("--local-views", "random")),
    Case("no consistency", ccd(*OWN), ccd("--consistency", "0")),
    Case("no stopping", ccd(*OWN), ccd("--no-stopping")),
    Case("its labels, fixed", ccd(*OWN), PLAIN),
    Case("CDUL's labels, fixed", BY_CDUL, PLAIN),
    Case("CCD, CLIP at 10/7 of its size", ccd(), ccd()),
    Case("CCD, student at 160 px", ccd(*OWN), ccd("--size", "160")),  # class maps have 5×5 cells instead of 3×3
    Case("student at 160 px, update from random boxes", ccd(*OWN), ccd("--size", "160", "--local-views", "random")),
]
# No encoder, so no label update. Four epochs are too few for the stopping: it needs three epochs after the warm-up.
ONLY = ("--local-views", "none", "--no-stopping", "--warmup", "1")
CCD_VOC12 = [
    Case("CCD without its label update", ("ccd",), ccd(*ONLY)),
    Case("no debiasing", ("ccd, not debiased",), ccd(*ONLY)),
    Case("no floor", ("ccd, no floor",), ccd(*ONLY)),
    Case("no CAM boost", ("ccd",), ccd(*ONLY, "--cam-boost", "1")),
    Case("no consistency", ("ccd",), ccd(*ONLY, "--consistency", "0")),
    Case("labels fixed (ζ = 0)", ("cdul ζ=0",), PLAIN),
]
CENTRED = ("--method", "centred")
CONSISTENT = ("--method", "consistent")
GENTLE = cdul("--label-rate", "0.25")
TOGETHER_WORLD = [
    Case("CDUL's labels, fixed", BY_CDUL),
    Case("CDUL's labels, CDUL's label step", BY_CDUL, cdul()),
    Case("CDUL's labels, CDUL's label step, averaged", BY_CDUL, cdul(*AVERAGED)),
    Case("CCD's labels, fixed", ccd(*OWN)),
    Case("CCD's labels, CCD's training", ccd(*OWN), ccd()),
    Case("CCD's labels, CCD's training, averaged", ccd(*OWN), ccd(*AVERAGED)),
    Case("centred labels, fixed", CENTRED),
    Case("centred labels, fixed, not averaged", CENTRED, PLAIN),
    Case("centred labels, CDUL's label step", CENTRED, cdul()),
    Case("centred labels, CDUL's label step, η = 0.25", CENTRED, GENTLE),
    Case("centred labels, CDUL's label step, η = 0.25, averaged", CENTRED, (*GENTLE, *AVERAGED)),
    Case("centred labels, CCD's training", CENTRED, ccd()),
    Case("centred labels, CCD's training, averaged", CENTRED, ccd(*AVERAGED)),
    Case("centred labels, CCD's training, r = 0.6", CENTRED, ccd("--update-keep", "0.6")),
    Case("centred labels, CCD's training without its update", CENTRED, ccd("--local-views", "none")),
    Case("centred labels, consistent", CENTRED, CONSISTENT),
    Case("the same, five epochs: the cost of eight of one view", CENTRED, (*CONSISTENT, "--epochs", "5")),
    Case("the same, five epochs, no boost", CENTRED, (*CONSISTENT, "--epochs", "5", "--cam-boost", "1")),
    Case("the same, eight epochs, no consistency", CENTRED, (*CONSISTENT, "--consistency", "0")),
    Case("centred labels without profiles, fixed", (*CENTRED, "--no-profiles")),
]
TOGETHER_VOC12 = [
    Case("CDUL's labels (ζ = 0), fixed", ("cdul ζ=0",)),
    Case("CDUL's labels (ζ = 0), its label step", ("cdul ζ=0",), cdul("--warmup", "1")),
    Case("CDUL's labels (ζ = 0), its label step, averaged", ("cdul ζ=0",), cdul("--warmup", "1", *AVERAGED)),
    Case("CCD's labels, CCD's training without its update", ("ccd",), ccd(*ONLY)),
    Case("centred labels, fixed", ("centred",)),
    Case("centred labels, fixed, not averaged", ("centred",), PLAIN),
    Case("centred labels, CDUL's label step", ("centred",), cdul("--warmup", "1")),
    Case("centred labels, CDUL's label step, η = 0.25", ("centred",), (*GENTLE, "--warmup", "1")),
    Case("centred labels, CDUL's label step, η = 0.25, averaged", ("centred",), (*GENTLE, "--warmup", "1", *AVERAGED)),
    Case("centred labels, consistent", ("centred",), CONSISTENT),
    Case("the same, no consistency", ("centred",), (*CONSISTENT, "--consistency", "0")),
]
SHARPNESS_WORLD = [
    Case("centred labels", CENTRED, PLAIN),
    *(Case(f"their log-odds times {factor}", CENTRED, PLAIN, sharpness=factor) for factor in (0.25, 0.5, 2.0)),
]
PARTS = {
    "sharpness-world": SHARPNESS_WORLD,
    "cdul-world": CDUL_WORLD,
    "cdul-voc12": CDUL_VOC12,
    "ccd-world": CCD_WORLD,
    "ccd-voc12": CCD_VOC12,
    "together-world": TOGETHER_WORLD,
    "together-voc12": TOGETHER_VOC12,
}


class Bench:
    """A part of the ablation: its photos and true labels, its student, and the results so far."""

    def __init__(self, part: str, out: Path, data: Path, threads: int):
        self.part, self.world, self.out, self.data = part, part.endswith("world"), out, data
        self.env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MLCLIP_CACHE": str(out / "cache")}
        self.file, self.lock, self.labelling = out / f"{part}.jsonl", threading.Lock(), threading.Lock()
        out.mkdir(parents=True, exist_ok=True)
        self.done = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        self.tables = {} if self.world else make_labels(data)
        for other in PARTS:
            if other != part and other.endswith("world") == self.world:
                self.take_over(other)
        if not self.world:
            self.take_over_students(out.parent / "voc12" / "results.jsonl")

    def take_over(self, other: str) -> None:
        """Take rows of another part's file that the same commands as a case of this part made."""
        file, had = self.out / f"{other}.jsonl", {(row["case"], row["seed"]) for row in self.done}
        same = {replace(case, name=""): case.name for case in PARTS[self.part]}
        names = {case.name: same.get(replace(case, name="")) for case in PARTS[other]}
        for row in map(json.loads, file.read_text().splitlines() if file.exists() else ()):
            name = names.get(row["case"])
            if name and (name, row["seed"]) not in had:
                self.done.append(row | {"case": name})

    def take_over_students(self, file: Path) -> None:
        """Take students of fixed labels that `benchmarks/voc12.py` has already trained with the same commands."""
        truth, had = read_labels(self.data / "truth_train.csv"), {(row["case"], row["seed"]) for row in self.done}
        names = {case.labels[0]: case.name for case in PARTS[self.part] if not case.train}
        names[CONSISTENT_ROW] = next((case.name for case in PARTS[self.part] if case.train == CONSISTENT), None)
        for row in map(json.loads, file.read_text().splitlines() if file.exists() else ()):
            name = names.get(row["labels"])
            if name and (name, row["seed"]) not in had:
                labels = self.tables[row["labels"]]
                quality = label_quality(labels, labels, truth, EVALUATED)
                self.done.append({"case": name, "seed": row["seed"], "student": row["mAP"], **quality})

    def mlclip(self, *args: object) -> str:
        command = [sys.executable, "-m", "mlclip", *map(str, args)]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        return done.stdout

    def prepare(self, seed: int) -> None:
        """Draw the demo scenes of this seed, if the part needs them."""
        if self.world:
            demo_scenes(self.out, seed)

    def places(self, seed: int) -> tuple[Path, Path, Path, list[str]]:
        """True labels of the training photos, the test photos, their true labels, and the options of `mlclip evaluate`."""
        if self.world:
            folder = self.out / f"world-{seed}"
            return folder / "truth_train.csv", folder / "test", folder / "truth_test.csv", []
        only = ["--only", ",".join(EVALUATED)]
        return self.data / "truth_train.csv", self.data / "photos" / "test", self.data / "truth_test.csv", only

    def student(self) -> list[object]:
        if self.world:
            return [*DEMO_STUDENT, "--init", "clip"]
        return [*STUDENT, "--init", self.data / "mobilenet_v2_imagenet.pth"]

    def labels(self, case: Case, seed: int, file: Path) -> None:
        if self.world:
            train = self.out / f"world-{seed}" / "train"
            with self.labelling:  # cases of one seed share the embeddings
                self.mlclip(
                    "pseudolabel", train, "--clip", "tiny", *case.labels, "-o", file, "--overwrite", "--workers", 0
                )
        else:
            write_labels(self.tables[case.labels[0]], file, overwrite=True)
        if case.sharpness != 1:
            labels = read_labels(file)
            scores = (case.sharpness * torch.logit(labels.scores, eps=1e-6)).sigmoid()
            write_labels(replace(labels, scores=scores), file, overwrite=True)

    def run(self, case: Case, seed: int) -> None:
        """Run and evaluate one case, and append its row to the file."""
        truth_train, test, truth_test, only = self.places(seed)
        tag = "".join(c if c.isalnum() else "-" for c in case.name) + f"-{seed}"
        labels, model, refined = (self.out / f"{self.part}-{tag}.{end}.pt" for end in ("labels", "model", "refined"))
        self.labels(case, seed, labels)
        started = time.monotonic()
        save = ["--save-labels", refined] if case.moves_labels else []
        training = [*self.student(), *(case.train or FIXED), *save]
        self.mlclip("train", "--labels", labels, *training, "--seed", seed, "-o", model,
                    "--overwrite", "--workers", 0)  # fmt: skip
        seconds = time.monotonic() - started
        evaluation = [
            "evaluate",
            "--model",
            model,
            test,
            "--truth",
            truth_test,
            *only,
            "--format",
            "json",
            "--workers",
            0,
        ]
        row = {"case": case.name, "seed": seed, "student": 100 * json.loads(self.mlclip(*evaluation))["mAP"]}
        after = read_labels(refined if save else labels)
        row |= label_quality(read_labels(labels), after, read_labels(truth_train), EVALUATED if only else None)
        if self.world and "update" in after.meta:
            row["shown_well"] = shown_well(after, scene_boxes(self.out / f"world-{seed}"))
        with model.with_suffix(".log.csv").open() as log:
            row["epochs"] = len(log.readlines()) - 1
        with self.lock, self.file.open("a") as file:
            file.write(json.dumps(row | {"seconds": seconds}) + "\n")
            self.done.append(row)
        print(row, file=sys.stderr, flush=True)

    def table(self, cases: list[Case], seeds: list[int]) -> None:
        """Print the mean and range of every case, and of its difference from the first case per seed."""
        of = {(row["case"], row["seed"]): row for row in self.done}
        print("\n| case | labels on train | after training | change of true labels | change of false labels | objects shown well, % | "
              "student on test | difference from the first row, per seed | seeds |\n|" + "---|" * 9)  # fmt: skip
        for case in cases:
            ran = [seed for seed in seeds if (case.name, seed) in of]
            rows = [of[case.name, seed] for seed in ran]
            if not rows:
                continue
            column = {key: [row[key] for row in rows] for key in COLUMNS}
            first = {seed: of[cases[0].name, seed]["student"] for seed in ran if (cases[0].name, seed) in of}
            gains = [row["student"] - first[row["seed"]] for row in rows if row["seed"] in first]
            cells = [spread(column["labels"])]
            cells += [spread(column["refined"]), f"{np.mean(column['true_moved']):+.3f}",
                      f"{np.mean(column['false_moved']):+.3f}"] if case.moves_labels else ["", "", ""]  # fmt: skip
            against = f"{np.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})" if gains else "–"
            shown = [100 * row["shown_well"] for row in rows if "shown_well" in row]
            cells.append(spread(shown) if shown else "")
            print(f"| {case.name} | " + " | ".join([*cells, spread(column["student"]), against, str(len(ran))]) + " |")


def label_quality(before: Labels, after: Labels, truth: Labels, only: list[str] | None) -> dict[str, float]:
    """mAP in percent of the labels before and after the label steps, and the mean change of true and of false labels."""
    truth = truth.aligned(before.paths, only or before.classes)
    before, after = (table.aligned(truth.paths, truth.classes) for table in (before, after))
    moved = after.scores - before.scores  # (N, C) in probability
    return {
        "labels": 100 * mean_average_precision(before, truth)[0],
        "refined": 100 * mean_average_precision(after, truth)[0],
        "true_moved": float(moved[truth.scores == 1].mean()),
        "false_moved": float(moved[truth.scores == 0].mean()),
    }


def shown_well(updated: Labels, annotated: dict[str, list]) -> float:
    """The share of true objects that some local view shows well: it has at least 3/4 of the object and is at most 4 times as large."""
    well, objects = 0, 0
    for path, views in zip(updated.paths, updated.meta["update"]["boxes"], strict=True):
        for _, pixels in annotated.get(path, ()):
            box = [side / SCENE_SIZE for side in pixels]
            size = (box[2] - box[0]) * (box[3] - box[1])
            objects += 1
            for x0, y0, x1, y1 in views:
                width, height = min(x1, box[2]) - max(x0, box[0]), min(y1, box[3]) - max(y0, box[1])
                if min(width, height) > 0 and width * height >= 0.75 * size and (x1 - x0) * (y1 - y0) <= 4 * size:
                    well += 1
                    break
    return well / max(1, objects)


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS), help="which cases; ...-world: demo scenes, ...-voc12: real photos")
    parser.add_argument("--data", type=Path, default=Path("../shared/voc12"), help="folder of the real photos")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/ablation"), help="folder of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", help="run only these cases, by name")
    parser.add_argument("--jobs", type=int, default=1, help="cases that run at the same time")
    args = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    bench = Bench(args.part, args.out.absolute(), args.data.absolute(), threads)
    cases = [case for case in PARTS[args.part] if not args.cases or case.name in args.cases]
    ran = {(row["case"], row["seed"]) for row in bench.done}
    todo = [(case, seed) for seed in args.seeds for case in cases if (case.name, seed) not in ran]
    for seed in dict.fromkeys(seed for _, seed in todo):
        bench.prepare(seed)
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda job: bench.run(*job), todo))
    bench.table(PARTS[args.part], args.seeds)


if __name__ == "__main__":
    main()
