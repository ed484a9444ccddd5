"""What comes after the training: thresholds without true labels, calibration from few true labels, corrections of single labels.

    python benchmarks/after_training.py thresholds --model model.pt --labels labels.pt --test DIR --truth truth.csv
    python benchmarks/after_training.py calibration --model model.pt --labels labels.pt --test DIR --truth truth.csv --few-truth t.csv
    python benchmarks/after_training.py corrections --seeds 0,1,2

`--model` is a model that `mlclip train` wrote, and `--labels` are the labels it learned.
"""

from __future__ import annotations

import copy
from pathlib import Path

import bench
import click
import numpy as np
import torch
import voc12
from torch import Tensor

import mlclip
from mlclip.labels.matching import match_tables
from mlclip.labels.review import questions
from mlclip.methods import centred
from mlclip.methods.calibration import (
    best_expected_f1,
    expected_calibration_error,
    fit_calibration,
    logits_of,
    match_expected_positives,
)
from mlclip.student.calibrate import calibrate, undo_calibration

RUNNING = {"progress": mlclip.SILENT}


@click.group(help=__doc__)
def main() -> None:
    pass


def files(command):
    """The options that say which model is measured, and on which photos."""
    for name, text in (("truth", "True labels of the test photos."), ("test", "Folder of the test photos."),
                       ("labels", "The labels that the model learned."), ("model", "The student.")):  # fmt: skip
        command = click.option(f"--{name}", required=True, help=text)(command)
    return click.option("--only", help="Evaluate only these classes, separated by commas.")(command)


class Measured:
    """A student and its scores of the photos it learned and of the test photos."""

    def __init__(self, model: str, labels: str, test: str, truth: str, only: str | None):
        self.student, labels = undo_calibration(mlclip.load_model(model)), mlclip.read_labels(labels)
        self.learned = mlclip.predict([labels.root], self.student, **RUNNING)
        self.tested = mlclip.predict([test], self.student, **RUNNING)
        classes = self.tested.classes
        self.targets = labels.aligned(self.learned.paths, classes).scores  # (N, C)
        self.columns = [classes.index(name) for name in (only.split(",") if only else classes)]
        evaluated = [classes[column] for column in self.columns]
        self.truth = mlclip.read_truth(truth).aligned(self.tested.paths, evaluated).scores  # (M, evaluated)


# Thresholds


def two_component_mixture(scores: Tensor) -> Tensor:
    """Where the posterior of a mixture of two Gaussians, fitted to the log-odds of scores (N, C) per class, is ½."""
    upper = centred.presence(torch.logit(scores, eps=1e-6)) >= 0.5
    return torch.where(upper, scores, 1.0).amin(0)


def widest_gap(scores: Tensor) -> Tensor:
    """The middle of the widest gap between neighbouring log-odds of a class, in the upper half without the top 1 %."""
    ordered = torch.logit(scores, eps=1e-6).sort(0).values
    inside = ordered[len(ordered) // 2 : -max(2, len(ordered) // 100)]
    place = inside.diff(dim=0).argmax(0, keepdim=True)
    return ((inside.gather(0, place) + inside.gather(0, place + 1)) / 2)[0].sigmoid()


def oracle(scores: Tensor, truth: Tensor) -> Tensor:
    """For each class the threshold with the best F1 on these photos."""
    order = scores.argsort(0, descending=True)
    hits = truth.gather(0, order).cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(scores) + 1)[:, None] + truth.sum(0))
    return scores.gather(0, order).gather(0, f1.argmax(0, keepdim=True))[0]


@main.command("thresholds")
@files
def thresholds(**of) -> None:
    """Rules that need no true labels, compared by F1 with one half and with the best thresholds by the true labels."""
    at = Measured(**of)
    learned, scores = at.learned.scores, at.tested.scores[:, at.columns]
    rules = {
        "one half": torch.full((len(at.tested.classes),), 0.5)[at.columns],
        "expected number of positives": match_expected_positives(learned, at.targets)[at.columns],
        "best expected F1": best_expected_f1(learned)[at.columns],
        "two-component mixture": two_component_mixture(learned)[at.columns],
        "widest gap": widest_gap(learned)[at.columns],
        "oracle, for reference": oracle(scores, at.truth),
    }
    bench.table("threshold", "macro-F1", "micro-F1", f"labels per photo (true: {at.truth.sum(1).mean():.2f})")
    for name, found in rules.items():
        predicted = scores >= found
        f1 = (bench.macro_f1(predicted, at.truth), bench.micro_f1(predicted, at.truth))
        bench.row(name, *(f"{value:.1f}" for value in f1), f"{predicted.sum(1).float().mean():.2f}")


# Calibration


@main.command("calibration")
@files
@click.option("--few-truth", help="True labels of photos in --few: 20, 50 and 100 of them calibrate the model.")
@click.option("--few", help="Folder of the photos of --few-truth; by default the training photos.")
@bench.option("--draws", default=5, help="Random draws of the few photos; the mean is printed.")
def calibration(few_truth: str | None, few: str | None, draws: int, **of) -> None:
    """Calibration error and F1 of the test photos: as trained, by pseudo labels, and by a few true labels as `mlclip calibrate`."""
    at = Measured(**of)
    slope, offset = fit_calibration(logits_of(at.learned.scores), at.targets)
    learned, tested = ((slope * logits_of(t.scores) + offset).sigmoid().float() for t in (at.learned, at.tested))
    cases = {
        "as trained": [(at.tested.scores, at.student.thresholds)],
        "by pseudo labels": [(tested, match_expected_positives(learned, at.targets))],
    }
    if few_truth:
        known = mlclip.read_truth(few_truth)
        photos = mlclip.predict([few], at.student, **RUNNING) if few else at.learned
        paths = [known.paths[row] for _, row in match_tables(photos, known).rows]
        for count in (20, 50, 100):
            chosen = [known.aligned(sample(paths, count, seed), known.classes) for seed in range(draws)]
            cases[f"by {count} true labels"] = [by_few(at, photos, truth) for truth in chosen]
    whole = torch.full_like(at.tested.scores, torch.nan)
    whole[:, at.columns] = at.truth
    slope, offset = fit_calibration(logits_of(at.tested.scores), whole)
    fitted = (slope * logits_of(at.tested.scores) + offset).sigmoid().float()
    cases["by the test photos' true labels, for reference"] = [(fitted, best_expected_f1(fitted))]
    bench.table("calibrated", "ECE (%)", "macro-F1")
    for name, made in cases.items():
        numbers = [
            (
                100 * expected_calibration_error(scores[:, at.columns], at.truth),
                bench.macro_f1(scores[:, at.columns] >= limits[at.columns], at.truth),
            )
            for scores, limits in made
        ]
        bench.row(name, *(f"{value:.1f}" for value in np.mean(numbers, axis=0)))


def sample(paths: list[str], count: int, seed: int) -> list[str]:
    rows = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))[:count]
    return [paths[row] for row in rows.tolist()]


def by_few(at: Measured, photos: mlclip.Labels, truth: mlclip.Labels) -> tuple[Tensor, Tensor]:
    """Scores of the test photos, and thresholds, after a calibration with the true labels of some of `photos`."""
    found = calibrate(copy.deepcopy(at.student), photos, truth).checkpoint  # before it, scale is 1 and offset 0
    scores = (found.model.scale * logits_of(at.tested.scores) + found.model.offset).sigmoid().float()
    return scores, found.thresholds


# Corrections

COUNTS = (20, 50, 100, 200)


@main.command("corrections")
@bench.seeds
@bench.option("--worlds", default="real,demo", help="Real photos, demo scenes, or both.")
@bench.option("--choices", default="review,random", help="Of review, random and random-yes.")
@bench.data
@bench.count
@bench.out("corrections")
def corrections(seeds: list[int], worlds: str, choices: str, data: Path, count: int | None, out: Path) -> None:
    """A probe trained with 0 to 200 corrected labels, chosen by `mlclip review` or at random.

    The person is simulated: the true labels of the training photos answer. "review" asks about the probe of the labels as they are.
    "random" asks about any photo and class, "random-yes" about labels that have the class.
    """
    results = bench.Results(out / "results.jsonl")
    keys = [("none", 0), *((choice, number) for choice in choices.split(",") for number in COUNTS)]
    for name in worlds.split(","):
        for seed in seeds:
            todo = [key for key in keys if not results.of(world=name, seed=seed, choice=key[0], corrections=key[1])]
            if todo:
                correct_and_train(name, seed, todo, data, count, out, results)
    bench.table("world", "chosen", "corrections", "of them wrong", "mAP", "macro-F1", "seeds")
    for name in worlds.split(","):
        for choice, number in keys:
            rows = [r for r in results.of(world=name, choice=choice, corrections=number) if r["seed"] in seeds]
            cells = (bench.spread([row[key] for row in rows]) for key in ("wrong", "mAP", "F1"))
            bench.row(name, choice, number, *cells, len(rows))


def correct_and_train(
    name: str, seed: int, todo: list[tuple[str, int]], data: Path, count: int | None, out: Path, results: bench.Results
) -> None:
    """Label the photos of a world, answer questions, train probes and keep their quality on the test photos."""
    if name == "real":
        world = bench.real_world(data, count=count)
        labels = voc12.make_labels(data, world)["centred"]
    else:
        world = bench.demo_world(out, seed, count)
        labels = mlclip.pseudolabel([world.train], clip="tiny", **RUNNING)
    student = {name: world.student[name] for name in ("arch", "init", "size")}

    def probe(answers: dict) -> mlclip.Checkpoint:
        asked = {"method": "probe", "seed": seed, "overwrite": True, "corrections": answers or None}
        return mlclip.train(labels, out / "model.pt", **asked, **student, **RUNNING)

    base = probe({})
    for choice, number in todo:
        asked = chosen(choice, labels, base, seed)[:number]
        answers: dict[str, dict[str, int]] = {}
        for path, kind in asked:
            answers.setdefault(path, {})[kind] = int(cell(world.truth_train, path, kind))
        wrong = sum(
            bool(value) != is_set(labels, path, kind) for path, of in answers.items() for kind, value in of.items()
        )
        scores = mlclip.predict([world.test], probe(answers) if answers else base, **RUNNING)
        truth = world.truth_test.aligned(scores.paths, world.only or scores.classes)
        shown = scores.aligned(scores.paths, truth.classes)
        f1 = bench.macro_f1(shown.scores >= shown.thresholds, truth.scores)
        found = {"wrong": wrong, "mAP": bench.mean_ap(scores, world.truth_test, world.only), "F1": f1}
        results.add(world=name, seed=seed, choice=choice, corrections=number, **found)


def chosen(choice: str, labels: mlclip.Labels, base: mlclip.Checkpoint, seed: int) -> list[tuple[str, str]]:
    """The labels (path, class) that the person is asked about, in order."""
    if choice == "review":
        predicted = mlclip.predict([labels.root], base, **RUNNING)
        return [(question.path, question.name) for question in questions(labels, predicted, max(COUNTS))]
    usable = labels.scores >= labels.thresholds if choice == "random-yes" else torch.ones_like(labels.scores) > 0
    cells = usable.nonzero()
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[: max(COUNTS)]
    return [(labels.paths[row], labels.classes[column]) for row, column in cells[order].tolist()]


def cell(table: mlclip.Labels, path: str, kind: str) -> float:
    return float(table.scores[table.paths.index(path), table.classes.index(kind)])


def is_set(labels: mlclip.Labels, path: str, kind: str) -> bool:
    """Whether a label reaches the threshold of its class."""
    return cell(labels, path, kind) >= float(torch.as_tensor(labels.thresholds)[labels.classes.index(kind)])


if __name__ == "__main__":
    main()
