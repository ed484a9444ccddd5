"""Threshold rules that need no true labels, compared by F1 with one half and with the best thresholds by the true labels.

    python benchmarks/thresholds.py --model model.pt --labels labels.pt --test DIR --truth truth.csv [--only a,b,c]

`--labels` are the labels that the model learned. The oracle uses the true labels of the test photos, for reference only.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from mlclip.images import find_images
from mlclip.labels.table import read_labels, read_truth
from mlclip.methods import centred
from mlclip.methods.thresholds import best_expected_f1, match_expected_positives
from mlclip.student.checkpoint import load_checkpoint
from mlclip.student.predict import predict


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
    best = []
    for column, true in zip(scores.T, truth.T, strict=True):
        order = column.argsort(descending=True)
        hits = true[order].cumsum(0)
        f1 = 2 * hits / (torch.arange(1, len(column) + 1) + true.sum())
        best.append(column[order][f1.argmax()])
    return torch.stack(best)


def f1_scores(predicted: Tensor, truth: Tensor) -> tuple[float, float]:
    """Macro- and micro-F1 in percent of predicted (N, C) bool against truth in {1, 0}."""
    hits, both = (predicted & (truth == 1)).sum(0), predicted.sum(0) + truth.sum(0)
    return 100 * float((2 * hits / both.clamp(min=1)).mean()), 100 * float(2 * hits.sum() / both.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--only", help="evaluate only these classes, separated by commas")
    args = parser.parse_args()
    checkpoint, labels = load_checkpoint(args.model), read_labels(args.labels)
    learned = predict(find_images([labels.root]), checkpoint)
    labels = labels.aligned(learned.paths, checkpoint.model.classes)
    tested = predict(find_images([args.test]), checkpoint)
    evaluated = args.only.split(",") if args.only else tested.classes
    columns = [tested.classes.index(name) for name in evaluated]
    truth = read_truth(args.truth).aligned(tested.paths, evaluated).scores
    scores = tested.scores[:, columns]
    rules = {
        "one half": torch.full((len(tested.classes),), 0.5),
        "expected number of positives": match_expected_positives(learned.scores, labels.scores),
        "best expected F1": best_expected_f1(learned.scores),
        "two-component mixture": two_component_mixture(learned.scores),
        "widest gap": widest_gap(learned.scores),
    }
    print(
        f"\n| threshold | macro-F1 | micro-F1 | labels per photo (true labels: {truth.sum(1).mean():.2f}) |\n|---|---|---|---|"
    )
    for name, found in [*((n, t[columns]) for n, t in rules.items()), ("oracle, for reference", oracle(scores, truth))]:
        predicted = scores >= found
        macro, micro = f1_scores(predicted, truth)
        print(f"| {name} | {macro:.1f} | {micro:.1f} | {predicted.sum(1).float().mean():.2f} |")


if __name__ == "__main__":
    main()
