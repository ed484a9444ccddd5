"""CDUL, CCD and centred labels taken apart: what each of their parts and settings is worth.

    python benchmarks/ablation.py cdul-world --seeds 0 1 2                         # the drawn world: every setting
    python benchmarks/ablation.py cdul-voc12 --data ../shared/voc12 --seeds 0 1 2  # real photos: what needs no encoder
    python benchmarks/ablation.py labels-world --seeds 0 1 2                       # labellings compared, by their students
    python benchmarks/ablation.py ccd-world --seeds 0 1 2 3 4
    python benchmarks/ablation.py ccd-voc12 --data ../shared/voc12 --seeds 0 1 2

Every case is run by the ordinary commands and compared with the first of its list. True labels serve the report and nothing
else: no case is chosen, stopped or kept by them. Results are appended to OUT/PART.jsonl as they come, and a case found there is
not repeated; `--jobs 2` runs two cases at a time, each on its share of the cores.
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from voc12 import JUDGED, STUDENT, make_labels

from mlclip.cli.demonstration import STUDENT as WORLD_STUDENT
from mlclip.cli.demonstration import TEST_SCENES, TRAIN_SCENES
from mlclip.labels import Labels, mean_average_precision, read_labels, write_labels
from mlclip.world import write_world


@dataclass(frozen=True)
class Case:
    """One row of the table: options of `mlclip pseudolabel` (or the name of a table of labels) and of `mlclip train`."""

    name: str
    labels: tuple[str, ...] = ()
    train: tuple[str, ...] = ()


def ccd(*options: str) -> tuple[str, ...]:
    return ("--method", "ccd", *options)


def cdul(*options: str) -> tuple[str, ...]:
    return ("--method", "cdul", *options)


BY_CDUL = ("--method", "cdul")
CDUL_WORLD = [
    Case("labels fixed (3×3, ζ = 0.5)", BY_CDUL),
    Case("label step (η = 1, σ = 1, warm-up 2, k = 1)", BY_CDUL, cdul()),
    *(Case(f"label step, η = {rate}", BY_CDUL, cdul("--label-rate", rate)) for rate in ("0.25", "0.1")),
    *(Case(f"label step, σ = {sigma}", BY_CDUL, cdul("--sigma", sigma)) for sigma in ("0.1", "0.25", "0.5", "2")),
    *(Case(f"label step, warm-up {n}", BY_CDUL, cdul("--warmup", n)) for n in ("0", "4")),
    Case("label step, k = 2", BY_CDUL, cdul("--label-every", "2")),
    *(Case(f"ζ = {zeta}", (*BY_CDUL, "--zeta", zeta)) for zeta in ("0", "0.25", "0.75", "1")),
    *(Case(f"snippets {n}×{n}", (*BY_CDUL, "--snippets", str(n))) for n in (1, 2, 4, 5)),
    Case("snippets 2×2, label step, η = 0.25", (*BY_CDUL, "--snippets", "2"), cdul("--label-rate", "0.25")),
]
CDUL_VOC12 = [
    Case("labels fixed (ζ = 0)", ("cdul ζ=0",)),
    Case("label step (η = 1, σ = 1, warm-up 1, k = 1)", ("cdul ζ=0",), cdul("--warmup", "1")),
    Case("label step, η = 0.25", ("cdul ζ=0",), cdul("--warmup", "1", "--label-rate", "0.25")),
    Case("label step, η = 0.25, warm-up 0", ("cdul ζ=0",), cdul("--warmup", "0", "--label-rate", "0.25")),
    Case("label step, σ = 0.5", ("cdul ζ=0",), cdul("--warmup", "1", "--sigma", "0.5")),
    Case("labels fixed (ζ = 0.5)", ("cdul ζ=0.5",)),
    Case("label step, ζ = 0.5", ("cdul ζ=0.5",), cdul("--warmup", "1")),
]
CCD_WORLD = [
    Case("CCD", ccd(), ccd()),
    Case("no debiasing", ccd("--no-debias"), ccd()),
    Case("no floor", ccd("--floor", "0"), ccd()),
    Case("no CAM boost", ccd(), ccd("--cam-boost", "1")),
    Case("no label update", ccd(), ccd("--local-views", "none")),
    Case("update from a grid", ccd(), ccd("--local-views", "grid")),
    Case("update from random boxes", ccd(), ccd("--local-views", "random")),
    Case("update from annotated boxes", ccd(), ccd("--local-views", "boxes")),
    Case("no consistency", ccd(), ccd("--consistency", "0")),
    Case("no stopping", ccd(), ccd("--no-stopping")),
    Case("its labels, fixed", ccd()),
    Case("CDUL's labels, fixed", BY_CDUL),
]
ONLY = ("--local-views", "none", "--warmup", "1")  # no encoder, so no label update; four epochs in all
CCD_VOC12 = [
    Case("CCD without its label update", ("ccd",), ccd(*ONLY)),
    Case("no debiasing", ("ccd, not debiased",), ccd(*ONLY)),
    Case("no floor", ("ccd, no floor",), ccd(*ONLY)),
    Case("no CAM boost", ("ccd",), ccd(*ONLY, "--cam-boost", "1")),
    Case("no consistency", ("ccd",), ccd(*ONLY, "--consistency", "0")),
    Case("no stopping", ("ccd",), ccd(*ONLY, "--no-stopping")),
    Case("labels fixed (ζ = 0)", ("cdul ζ=0",)),
]
CENTRED = ("--method", "centred")
LABELS_WORLD = [
    Case("CDUL (3×3, ζ = 0.5)", BY_CDUL),
    Case("centred", CENTRED),
    Case("centred, whole and 3×3 alone", (*CENTRED, "--grids", "1,3")),
    Case("centred, rank scale 1", (*CENTRED, "--rank-scale", "1")),
    Case("CCD", ccd()),
    Case("CDUL, ζ = 0", (*BY_CDUL, "--zeta", "0")),
    Case("centred, then CDUL's label step, η = 0.25", CENTRED, cdul("--label-rate", "0.25")),
]
PARTS = {
    "labels-world": LABELS_WORLD,
    "cdul-world": CDUL_WORLD,
    "cdul-voc12": CDUL_VOC12,
    "ccd-world": CCD_WORLD,
    "ccd-voc12": CCD_VOC12,
}


class Bench:
    """A part of the ablation: where its photos and truths are, which student, and what has been measured so far."""

    def __init__(self, part: str, out: Path, data: Path, threads: int):
        self.part, self.world, self.out, self.data = part, part.endswith("world"), out, data
        self.env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MLCLIP_CACHE": str(out / "cache")}
        self.file, self.lock, self.labelling = out / f"{part}.jsonl", threading.Lock(), threading.Lock()
        out.mkdir(parents=True, exist_ok=True)
        self.done = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        self.tables = {} if self.world else make_labels(data)
        if not self.world:
            self.take_over(out.parent / "voc12" / "results.jsonl")

    def take_over(self, file: Path) -> None:
        """Students of fixed labels that `benchmarks/voc12.py` has trained already, by the same commands."""
        truth = read_labels(self.data / "truth_train.csv")
        names = {case.labels[0]: case.name for case in PARTS[self.part] if not case.train}
        for row in map(json.loads, file.read_text().splitlines() if file.exists() else ()):
            if row["labels"] in names:
                labels = self.tables[row["labels"]]
                judged = judged_labels(labels, labels, truth, JUDGED)
                self.done.append({"case": names[row["labels"]], "seed": row["seed"], "student": row["mAP"], **judged})

    def mlclip(self, *args: object) -> str:
        command = [sys.executable, "-m", "mlclip", *map(str, args)]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        return done.stdout

    def prepare(self, seed: int) -> None:
        """The world of this seed."""
        folder = self.out / f"world-{seed}"
        if self.world and not (folder / "ready").exists():
            write_world(folder, train=TRAIN_SCENES, test=TEST_SCENES, seed=seed)
            (folder / "ready").touch()

    def places(self, seed: int) -> tuple[Path, Path, Path, list[str]]:
        """Truth of the training photos, the test photos and their truth, and what judges them."""
        if self.world:
            folder = self.out / f"world-{seed}"
            return folder / "truth_train.csv", folder / "test", folder / "truth_test.csv", []
        judged = ["--only", ",".join(JUDGED)]
        return self.data / "truth_train.csv", self.data / "photos" / "test", self.data / "truth_test.csv", judged

    def student(self) -> list[object]:
        if self.world:
            return [*WORLD_STUDENT, "--init", "clip"]
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

    def run(self, case: Case, seed: int) -> None:
        """One case, judged; a row more in the file."""
        truth_train, test, truth_test, judged = self.places(seed)
        tag = "".join(c if c.isalnum() else "-" for c in case.name) + f"-{seed}"
        labels, model, refined = (self.out / f"{self.part}-{tag}.{end}.pt" for end in ("labels", "model", "refined"))
        boxes = ["--boxes", f"coco:{self.out}/world-{seed}/boxes_train.json"] if "boxes" in case.train else []
        self.labels(case, seed, labels)
        started = time.monotonic()
        save = ["--save-labels", refined] if case.train and "none" not in case.train else []
        self.mlclip("train", "--labels", labels, *self.student(), *case.train, *boxes, *save, "--seed", seed, "-o", model,
                    "--overwrite", "--workers", 0)  # fmt: skip
        seconds = time.monotonic() - started
        judge = ["evaluate", "--model", model, test, "--truth", truth_test, *judged, "--format", "json", "--workers", 0]
        row = {"case": case.name, "seed": seed, "student": 100 * json.loads(self.mlclip(*judge))["mAP"]}
        after = read_labels(refined if save else labels)
        row |= judged_labels(read_labels(labels), after, read_labels(truth_train), JUDGED if judged else None)
        with model.with_suffix(".log.csv").open() as log:
            row["epochs"] = len(log.readlines()) - 1
        with self.lock, self.file.open("a") as file:
            file.write(json.dumps(row | {"seconds": seconds}) + "\n")
            self.done.append(row)
        print(row, file=sys.stderr, flush=True)

    def table(self, cases: list[Case], seeds: list[int]) -> None:
        """Mean and spread of every case, and of its difference from the first one seed by seed."""
        of = {(row["case"], row["seed"]): row for row in self.done}
        print("\n| case | labels on train | after training | true labels moved | false moved | student on test | "
              "against the first, seed by seed | seeds |\n|" + "---|" * 8)  # fmt: skip
        for case in cases:
            ran = [seed for seed in seeds if (case.name, seed) in of]
            rows = [of[case.name, seed] for seed in ran]
            if not rows:
                continue
            column = {key: [row[key] for row in rows] for key in rows[0] if key != "case"}
            first = {seed: of[cases[0].name, seed]["student"] for seed in ran if (cases[0].name, seed) in of}
            gains = [row["student"] - first[row["seed"]] for row in rows if row["seed"] in first]
            cells = [spread(column["labels"])]
            cells += [spread(column["refined"]), f"{np.mean(column['true_moved']):+.3f}",
                      f"{np.mean(column['false_moved']):+.3f}"] if case.train else ["", "", ""]  # fmt: skip
            against = f"{np.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})" if gains else "–"
            print(f"| {case.name} | " + " | ".join([*cells, spread(column["student"]), against, str(len(ran))]) + " |")


def judged_labels(before: Labels, after: Labels, truth: Labels, only: list[str] | None) -> dict[str, float]:
    """mAP in percent of labels before and after the label steps; how far labels of true and of false classes moved."""
    truth = truth.aligned(before.paths, only or before.classes)
    before, after = (table.aligned(truth.paths, truth.classes) for table in (before, after))
    moved = after.scores - before.scores  # (N, C) in probability
    return {
        "labels": 100 * mean_average_precision(before, truth)[0],
        "refined": 100 * mean_average_precision(after, truth)[0],
        "true_moved": float(moved[truth.scores == 1].mean()),
        "false_moved": float(moved[truth.scores == 0].mean()),
    }


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--data", type=Path, default=Path("../shared/voc12"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/ablation"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", help="only these, by name")
    parser.add_argument("--jobs", type=int, default=1)
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
