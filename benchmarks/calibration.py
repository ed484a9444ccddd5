"""How well a student's scores are calibrated on test photos: as trained, by pseudo labels, by a few true labels.

    python benchmarks/calibration.py --model model.pt --labels labels.pt --test DIR --truth truth.csv \\
        [--few-truth truth_train.csv] [--few DIR] [--only a,b,c]

`--model` is a model that `mlclip train` wrote, and `--labels` are the labels it learned. `--few-truth` has true labels of the training
photos, or of the photos in the folder `--few`. 20, 50 and 100 of them calibrate the model as `mlclip calibrate` does, the mean of
`--draws` random draws. The last row is fitted to the true labels of the test photos, for reference only. The order of the photos,
and so the average precision, is the same in every row.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor

from mlclip.images import find_images
from mlclip.labels.metrics import match_tables
from mlclip.labels.table import Labels, read_labels, read_truth
from mlclip.methods.calibration import expected_calibration_error, fit_calibration, logits_of
from mlclip.methods.thresholds import best_expected_f1, f1_of_classes, match_expected_positives
from mlclip.student.calibrate import calibrate, undo_calibration
from mlclip.student.checkpoint import Checkpoint, load_checkpoint
from mlclip.student.predict import predict

FEW = (20, 50, 100)


def sample(truth: Labels, paths: list[str], count: int, seed: int) -> Labels:
    """The true labels of `count` photos, drawn from `paths`."""
    rows = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    return truth.aligned([paths[row] for row in rows], truth.classes)


def by_few(checkpoint: Checkpoint, photos: Labels, tested: Labels, truth: Labels) -> tuple[Tensor, Tensor]:
    """Scores of the test photos, and thresholds, after a calibration with the true labels of some of `photos`."""
    fresh = copy.deepcopy(checkpoint)
    found = calibrate(fresh, photos, truth).checkpoint  # before it, scale is 1 and offset 0
    return (found.model.scale * logits_of(tested.scores) + found.model.offset).sigmoid().float(), found.thresholds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--labels", "--test", "--truth"):
        parser.add_argument(name, required=True)
    parser.add_argument("--few-truth", help="true labels of the training photos, or of the photos in --few")
    parser.add_argument("--few", help="folder of the photos of --few-truth; default: the training photos")
    parser.add_argument(
        "--draws", type=int, default=5, help="number of random draws of the few photos; the mean is printed"
    )
    parser.add_argument("--only", help="evaluate only these classes, separated by commas")
    args = parser.parse_args()
    checkpoint, labels = undo_calibration(load_checkpoint(args.model)), read_labels(args.labels)
    learned = predict(find_images([labels.root]), checkpoint)
    tested = predict(find_images([args.test]), checkpoint)
    evaluated = args.only.split(",") if args.only else tested.classes
    columns = [tested.classes.index(name) for name in evaluated]
    truth = read_truth(args.truth).aligned(tested.paths, evaluated).scores

    targets = labels.aligned(learned.paths, tested.classes).scores
    slope, offset = fit_calibration(logits_of(learned.scores), targets)
    learned_fitted, tested_fitted = (
        (slope * logits_of(t.scores) + offset).sigmoid().float() for t in (learned, tested)
    )
    cases: dict[str, list[tuple[Tensor, Tensor]]] = {
        "as trained": [(tested.scores, checkpoint.thresholds)],
        "by pseudo labels": [(tested_fitted, match_expected_positives(learned_fitted, targets))],
    }
    if args.few_truth:
        few = read_truth(args.few_truth)
        photos = predict(find_images([args.few]), checkpoint) if args.few else learned
        paths = [few.paths[row] for _, row in match_tables(photos, few).rows]
        for count in FEW:
            chosen = [sample(few, paths, count, seed) for seed in range(args.draws)]
            cases[f"by {count} true labels"] = [by_few(checkpoint, photos, tested, true) for true in chosen]
    whole = torch.full_like(tested.scores, torch.nan)
    whole[:, columns] = truth
    slope, offset = fit_calibration(logits_of(tested.scores), whole)
    fitted = (slope * logits_of(tested.scores) + offset).sigmoid().float()
    cases["by the test photos' true labels, for reference"] = [(fitted, best_expected_f1(fitted))]

    print("| calibrated | ECE (%) | macro-F1 | micro-F1 |\n|---|---|---|---|")
    for name, draws in cases.items():
        numbers = [quality(scores[:, columns], thresholds[columns], truth) for scores, thresholds in draws]
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in torch.tensor(numbers).mean(0).tolist()) + " |")


def quality(scores: Tensor, thresholds: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """ECE, macro-F1 and micro-F1 in percent."""
    predicted = scores >= thresholds
    known = ~truth.isnan()
    micro = f1_of_classes(predicted[known][:, None], truth[known][:, None])
    macro = f1_of_classes(predicted, truth).nanmean()
    return 100 * expected_calibration_error(scores, truth), 100 * float(macro), 100 * float(micro)


if __name__ == "__main__":
    main()
