"""A folder where many photos show none of the names: real CLIP RN50x64 scores, labelled with some of VOC's twenty names alone.

    python benchmarks/fewnames.py --data ../shared/voc12

For each number of names, sets are drawn by seed. "With contrast": the other names take part and are then dropped, as
`mlclip pseudolabel --contrast` does. Truth judges: micro-F1 over all 3,682 photos and the drawn names. No student is trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from voc12 import centred_labels, true_probabilities

from mlclip.cdul import fuse

SETS = 10  # drawn for each number of names


def cdul_labels(stored: dict[str, np.ndarray]) -> Tensor:
    """CDUL's final labels (N, C) at ζ = 0."""
    return fuse(*(true_probabilities(stored[name]) for name in ("global_", "alpha")))


def judged(labels: Tensor, truth: Tensor) -> tuple[float, float]:
    """Micro-F1 in percent of labels (N, C) at ½ against truth (N, C) of 1 and 0, and labels a photo."""
    said = labels >= 0.5
    hits = float((said & (truth == 1)).sum())
    return 100 * 2 * hits / float(said.sum() + truth.sum()), float(said.sum(1).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/voc12"))
    parser.add_argument("--names", type=int, nargs="+", default=[3, 5, 10, 15, 20])
    args = parser.parse_args()
    file = np.load(args.data / "rn50x64_scores.npz")
    stored = {name: file[name] for name in ("global_", "alpha")}
    truth = torch.from_numpy(file["truth"]).float()
    whole = {"centred": centred_labels(stored), "CDUL ζ=0": cdul_labels(stored)}
    print(
        "| names | photos that show none | labels | micro-F1 | labels a photo | truth | with contrast, micro-F1 | labels a photo |"
    )
    print("|" + "---|" * 8)
    for count in args.names:
        sets = [
            torch.randperm(truth.shape[1], generator=torch.Generator().manual_seed(seed))[:count]
            for seed in range(SETS)
        ]
        sets = sets[:1] if count == truth.shape[1] else sets
        none = np.mean([float((truth[:, names].sum(1) == 0).float().mean()) for names in sets])
        expected = np.mean([float(truth[:, names].sum(1).mean()) for names in sets])
        for method, make in (("centred", centred_labels), ("CDUL ζ=0", cdul_labels)):
            alone = [
                judged(make({k: v[:, names.numpy()] for k, v in stored.items()}), truth[:, names]) for names in sets
            ]
            contrast = [judged(whole[method][:, names], truth[:, names]) for names in sets]
            (f1, said), (f1_with, said_with) = np.mean(alone, axis=0), np.mean(contrast, axis=0)
            print(
                f"| {count} | {none:.0%} | {method} | {f1:.1f} | {said:.2f} | {expected:.2f} | {f1_with:.1f} | {said_with:.2f} |"
            )


if __name__ == "__main__":
    main()
