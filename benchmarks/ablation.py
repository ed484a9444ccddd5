"""Students of different labels and trainings: what each part and setting of the methods is worth.

    python benchmarks/ablation.py together-world --seeds 0,1,2
    python benchmarks/ablation.py labels-voc12 --seeds 0,1,2

Parts that end in "world" use the demo scenes and the tiny CLIP, parts that end in "voc12" real photos and the labels of
`benchmarks/voc12.py`. Every case labels, trains and predicts with the functions of `import mlclip` and their defaults, and is compared
with the first case of its part. True labels are used only to report, and to train the students named "truth". Results are appended to
OUT/PART.jsonl as soon as they are there, and a case that is already in the file is not repeated.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import bench
import click
import numpy as np
import torch
import voc12

import mlclip
from mlclip.clip import load_clip
from mlclip.methods.linear_head import POOLS
from mlclip.teacher.encode import encoded_views
from mlclip.teacher.scoring import Teacher
from mlclip.training.probe import clip_head_for, fit_pooled, stored_views
from mlclip.training.start import labelled_photos

Settings = dict[str, Any]


@dataclass
class Case:
    """One row of a table: how the labels are made (settings, or the name of a table of voc12.py, or "truth"), and the training."""

    name: str
    labels: Settings | str
    train: Settings = field(default_factory=dict)
    sharpness: float = 1.0  # factor of the labels' log-odds
    head: tuple[str, str] | None = None  # of a CLIP head: "views" or the size of the whole photo, and the pool

    @property
    def moves_labels(self) -> bool:
        return self.train.get("method") in ("cdul", "ccd") and self.train.get("local_views") != "none"


def cdul(**settings: Any) -> Settings:
    return {"method": "cdul", **settings}


def ccd(**settings: Any) -> Settings:
    return {"method": "ccd", **settings}


def consistent(**settings: Any) -> Settings:
    return {"method": "consistent", **settings}


LAST = {"average": 0.0}  # the weights of the last step, to compare with a paper's training
AVERAGED = {"average": 0.1}  # the default for fixed labels, added to a paper's training
CENTRED, DENSE = {"method": "centred"}, {"method": "dense"}
OWN = ccd(view_size=64)  # the tiny CLIP's own input size: it fails on enlarged objects
GENTLE = cdul(label_rate=0.25)
# On real photos there is no encoder, so no label update; four epochs are too few for the stopping.
ONLY = ccd(local_views="none", stopping=False, warmup=1)
PROBE = {"method": "probe", "epochs": None, "batch_size": None, "lr": None}  # it has no weight steps
ZERO = "cdul ζ=0"

PARTS = {
    "together-world": [
        Case("CDUL's labels, fixed", cdul()),
        Case("CDUL's labels, CDUL's label step", cdul(), cdul()),
        Case("CDUL's labels, CDUL's label step, averaged", cdul(), cdul(**AVERAGED)),
        Case("CCD's labels, fixed", OWN),
        Case("CCD's labels, CCD's training", OWN, ccd()),
        Case("CCD's labels, CCD's training, averaged", OWN, ccd(**AVERAGED)),
        Case("centred labels, fixed", CENTRED),
        Case("centred labels, fixed, not averaged", CENTRED, LAST),
        Case("centred labels, CDUL's label step", CENTRED, cdul()),
        Case("centred labels, CDUL's label step, η = 0.25", CENTRED, GENTLE),
        Case("centred labels, CDUL's label step, η = 0.25, averaged", CENTRED, GENTLE | AVERAGED),
        Case("centred labels, CCD's training", CENTRED, ccd()),
        Case("centred labels, CCD's training, averaged", CENTRED, ccd(**AVERAGED)),
        Case("centred labels, CCD's training, r = 0.6", CENTRED, ccd(update_keep=0.6)),
        Case("centred labels, CCD's training without its update", CENTRED, ccd(local_views="none")),
        Case("centred labels, consistent", CENTRED, consistent()),
        Case("the same, five epochs: the cost of eight of one view", CENTRED, consistent(epochs=5)),
        Case("the same, five epochs, no boost", CENTRED, consistent(epochs=5, cam_boost=1.0)),
        Case("the same, eight epochs, no consistency", CENTRED, consistent(consistency=0.0)),
        Case("centred labels without profiles, fixed", CENTRED | {"profiles": False}),
    ],
    "together-voc12": [
        Case("CDUL's labels (ζ = 0), fixed", ZERO),
        Case("CDUL's labels (ζ = 0), its label step", ZERO, cdul(warmup=1)),
        Case("CDUL's labels (ζ = 0), its label step, averaged", ZERO, cdul(warmup=1, **AVERAGED)),
        Case("CCD's labels, CCD's training without its update", "ccd", ONLY),
        Case("centred labels, fixed", "centred"),
        Case("centred labels, fixed, not averaged", "centred", LAST),
        Case("centred labels, CDUL's label step", "centred", cdul(warmup=1)),
        Case("centred labels, CDUL's label step, η = 0.25", "centred", GENTLE | {"warmup": 1}),
        Case("centred labels, CDUL's label step, η = 0.25, averaged", "centred", GENTLE | AVERAGED | {"warmup": 1}),
        Case("centred labels, consistent", "centred", consistent()),
        Case("the same, no consistency", "centred", consistent(consistency=0.0)),
    ],
    "labels-world": [
        Case("centred", CENTRED),
        Case("dense, no further pass", DENSE | {"views": ("views", "cells")}),
        Case("dense, one further pass", DENSE | {"views": ("views", "cells", "2")}),
        Case("truth", "truth"),
    ],
    "labels-voc12": [
        Case("global", "global"),
        Case("cdul ζ=0.5", "cdul ζ=0.5"),
        Case("cdul ζ=0", ZERO),
        Case("centred", "centred"),
        Case("centred, of these photos alone", "centred, of these photos alone"),
        Case("centred, --method consistent", "centred", consistent()),
        Case("truth", "truth"),
    ],
    **{f"clip-head-{labels['method']}-world": [
        Case(f"{vectors}, {pool}", labels, head=(kind, pool))
        for kind, vectors in (("views", "14 views"), ("2", "16 patch features, photo at 2×"), ("1.5", "9 patch features, photo at 1.5×"))
        for pool in POOLS
    ] for labels in (CENTRED, DENSE)},
    "cdul-world": [
        Case("labels fixed (3×3, ζ = 0.5)", cdul(), LAST),
        Case("label step (η = 1, σ = 1, warm-up 2, k = 1)", cdul(), cdul()),
        *(Case(f"label step, η = {rate}", cdul(), cdul(label_rate=rate)) for rate in (0.25, 0.1)),
        *(Case(f"label step, σ = {sigma}", cdul(), cdul(sigma=sigma)) for sigma in (0.1, 0.25, 0.5, 2.0)),
        *(Case(f"label step, warm-up {n}", cdul(), cdul(warmup=n)) for n in (0, 4)),
        Case("label step, k = 2", cdul(), cdul(label_every=2)),
        *(Case(f"ζ = {zeta}", cdul(zeta=zeta), LAST) for zeta in (0.0, 0.25, 0.75, 1.0)),
        *(Case(f"snippets {n}×{n}", cdul(snippets=n), LAST) for n in (1, 2, 4, 5)),
        Case("snippets 2×2, label step, η = 0.25", cdul(snippets=2), GENTLE),
    ],
    "cdul-voc12": [
        Case("labels fixed (ζ = 0)", ZERO, LAST),
        Case("label step (η = 1, σ = 1, warm-up 1, k = 1)", ZERO, cdul(warmup=1)),
        Case("label step, η = 0.25", ZERO, GENTLE | {"warmup": 1}),
        Case("label step, η = 0.25, warm-up 0", ZERO, GENTLE | {"warmup": 0}),
        Case("label step, σ = 0.5", ZERO, cdul(warmup=1, sigma=0.5)),
        Case("labels fixed (ζ = 0.5)", "cdul ζ=0.5", LAST),
        Case("label step, ζ = 0.5", "cdul ζ=0.5", cdul(warmup=1)),
    ],
    "ccd-world": [
        Case("CCD, CLIP at its own size", OWN, ccd()),
        Case("no debiasing", OWN | {"debias": False}, ccd()),
        Case("no floor", OWN | {"floor": 0.0}, ccd()),
        Case("no CAM boost", OWN, ccd(cam_boost=1.0)),
        Case("no label update", OWN, ccd(local_views="none")),
        Case("update from cells", OWN, ccd(local_views="cells")),
        Case("no consistency", OWN, ccd(consistency=0.0)),
        Case("no stopping", OWN, ccd(stopping=False)),
        Case("its labels, fixed", OWN, LAST),
        Case("CDUL's labels, fixed", cdul(), LAST),
        Case("CCD, CLIP at 10/7 of its size", ccd(), ccd()),
    ],
    "ccd-voc12": [
        Case("CCD without its label update", "ccd", ONLY),
        Case("no debiasing", "ccd, not debiased", ONLY),
        Case("no floor", "ccd, no floor", ONLY),
        Case("no CAM boost", "ccd", ONLY | {"cam_boost": 1.0}),
        Case("no consistency", "ccd", ONLY | {"consistency": 0.0}),
        Case("labels fixed (ζ = 0)", ZERO, LAST),
    ],
    "sharpness-world": [
        Case("centred labels", CENTRED, LAST),
        *(Case(f"their log-odds times {factor}", CENTRED, LAST, sharpness=factor) for factor in (0.25, 0.5, 2.0)),
    ],
    "average-world": [
        Case(f"{name}, {epochs} epochs, averaged over {share:g}", labels, {"epochs": epochs, "average": share})
        for name, labels, epochs in (
            ("centred", CENTRED, 8), ("centred", CENTRED, 4), ("centred", CENTRED, 16), ("CDUL's", cdul(), 8), ("truth", "truth", 8))
        for share in (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
    ],
    "views-world": [  # one epoch after the update: only the labels are judged
        Case(f"update from {views}", OWN, ccd(local_views=views, epochs=3)) for views in ("cam", "cells")
    ],
    **{f"probe-{world}": [
        Case(f"from the labels' mean{at}", labels, size),
        Case(f"probe{at}", labels, PROBE | size),
        # The probe costs less than an epoch, so a training that starts from it has one epoch less.
        Case(f"from the probe{at}", labels, {"head_init": "probe", "epochs": epochs - 1} | size),
        Case(f"from the labels' mean, crops{at}", labels, {"augment": "crop"} | size),
        Case(f"from the probe, crops{at}", labels, {"head_init": "probe", "augment": "crop", "epochs": epochs - 1} | size),
    ] for world, labels, epochs, at, size in (
        ("world", CENTRED, 8, "", {}), ("voc12", "centred", 4, "", {}), ("224-voc12", "centred", 4, ", 224 px", {"size": 224}))},
}  # fmt: skip


class Part:
    """The photos, labels and students of one part of the ablation."""

    def __init__(self, name: str, data: Path, out: Path, count: int | None):
        self.drawn, self.out, self.count, self.data = name.endswith("world"), out, count, data
        self.real = None if self.drawn else bench.real_world(data, count=count)
        self.tables = voc12.make_labels(data, self.real) if self.real else {}

    def labels(self, case: Case, world: bench.World, seed: int) -> mlclip.Labels:
        """The labels of the training photos; demo scenes of one seed share their embeddings in the cache."""
        if isinstance(case.labels, str) and self.real:
            labels = self.tables[case.labels]
        else:
            settings = CENTRED if case.labels == "truth" else case.labels
            labels = mlclip.pseudolabel([world.train], clip="tiny", progress=mlclip.SILENT, **settings)
            if case.labels == "truth":
                labels = bench.fixed_as(world.truth_train, labels)
        if case.sharpness != 1:
            labels = replace(labels, scores=(case.sharpness * torch.logit(labels.scores, eps=1e-6)).sigmoid())
        return labels

    def run(self, case: Case, seed: int) -> dict[str, float]:
        """The numbers of one row: label quality before and after the training, mAP of the student, epochs and seconds."""
        world = self.real or bench.demo_world(self.out, seed, self.count)
        labels, refined = self.labels(case, world, seed), self.out / "refined.pt"
        if case.head:
            return {"labels": bench.mean_ap(labels, world.truth_train), **clip_head(labels, *case.head, world, seed)}
        settings = {name: value for name, value in {**world.student, **case.train}.items() if value is not None}
        started = time.monotonic()
        model = mlclip.train(
            labels,
            self.out / "model.pt",
            save_labels=refined if case.moves_labels else None,
            overwrite=True,
            progress=mlclip.SILENT,
            seed=seed,
            **settings,
        )
        seconds = time.monotonic() - started
        after = mlclip.read_labels(refined) if case.moves_labels else labels
        quality = label_quality(labels, after, world.truth_train, world.only)
        return {**quality, "student": world.test_map(model), "seconds": seconds}


def clip_head(labels: mlclip.Labels, kind: str, pool: str, world: bench.World, seed: int) -> dict[str, float]:
    """The loss on held-out pseudo labels and the test mAP of a head on the tiny CLIP, and the seconds to predict the test photos."""
    photos, teacher = [photo for _, photo in labelled_photos(labels)[0]], Teacher(load_clip("tiny"))
    with encoded_views(photos, teacher, root=labels.root, grids=(1, 2, 3), view_sets=[kind]) as ([store], _):
        fitted = fit_pooled(*stored_views(store, photos), labels.scores, seed=seed, pools=[pool])
        model = clip_head_for(store.key, labels.classes, fitted, teacher)
    checkpoint, started = mlclip.Checkpoint(model, torch.full((len(labels.classes),), 0.5)), time.monotonic()
    return {"student": world.test_map(checkpoint), "held_out": fitted.loss, "seconds": time.monotonic() - started}


def label_quality(before: mlclip.Labels, after: mlclip.Labels, truth: mlclip.Labels, only: list[str] | None) -> dict:
    """mAP in percent of the labels before and after the training, and the mean change of true and of false labels."""
    truth = truth.aligned(before.paths, only or before.classes)
    before, after = (table.aligned(truth.paths, truth.classes) for table in (before, after))
    moved = after.scores - before.scores  # (N, C) in probability
    return {
        "labels": bench.mean_ap(before, truth),
        "refined": bench.mean_ap(after, truth),
        "true_moved": float(moved[truth.scores == 1].mean()),
        "false_moved": float(moved[truth.scores == 0].mean()),
    }


def show(cases: list[Case], results: bench.Results, seeds: list[int]) -> None:
    """Print the mean and range of every case, and of its difference from the first case per seed."""
    held_out = ["loss on held-out labels"] if any("held_out" in row for row in results.rows) else []
    bench.table(
        "case", "labels on train", "after training", "change of true labels", "change of false labels", "student on test",
        "difference from the first row, per seed", *held_out, "seeds",
    )  # fmt: skip
    first = {row["seed"]: row["student"] for row in results.of(case=cases[0].name)}
    for case in cases:
        rows = [row for row in results.of(case=case.name) if row["seed"] in seeds]
        if not rows:
            continue
        column = {key: [row[key] for row in rows] for key in rows[0]}
        moved = ["", "", ""]
        if case.moves_labels:
            moved = [
                bench.spread(column["refined"]),
                *(f"{np.mean(column[k]):+.3f}" for k in ("true_moved", "false_moved")),
            ]
        gains = [row["student"] - first[row["seed"]] for row in rows if row["seed"] in first]
        against = f"{np.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})" if gains else "–"
        loss = [f"{np.mean(column['held_out']):.3f}"] if held_out else []
        labels, student = bench.spread(column["labels"]), bench.spread(column["student"])
        bench.row(case.name, labels, *moved, student, against, *loss, len(rows))


@click.command(help=__doc__)
@click.argument("part", type=click.Choice(list(PARTS)))
@bench.seeds
@click.option("--cases", help="Run only the cases whose names contain this text.")
@bench.data
@bench.count
@bench.out("ablation")
def main(part: str, seeds: list[int], cases: str | None, data: Path, count: int | None, out: Path) -> None:
    os.environ["MLCLIP_CACHE"] = str(out.absolute() / "cache")  # embeddings and features are computed once
    results, made = bench.Results(out / f"{part}.jsonl"), Part(part, data, out, count)
    for seed in seeds:
        for case in PARTS[part]:
            if (cases is None or cases in case.name) and not results.of(case=case.name, seed=seed):
                results.add(case=case.name, seed=seed, **made.run(case, seed))
    show(PARTS[part], results, seeds)


if __name__ == "__main__":
    main()
