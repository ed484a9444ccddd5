"""Compound prompts on the demo scenes: labels of the 500 test scenes of each world with and without them.

    python benchmarks/compound.py --seeds 0 1 2

The tiny CLIP has learned captions with one object only, and "and" is in none of them. So this shows what compound prompts do to a
teacher that does not know them, and not what they do for a CLIP trained on captions from the web.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from demo_scenes import demo_scenes

import mlclip
from mlclip.demo import KINDS
from mlclip.labels.metrics import mean_average_precision
from mlclip.labels.table import read_labels
from mlclip.progress import SILENT

METHODS = ("cdul", "ccd", "centred", "dense")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/dense"), help="folder of scenes and stores")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="worlds")
    args = parser.parse_args()
    print("| labels | single names, mAP | with the pairs, mAP | difference, per world |\n|---|---|---|---|")
    for method in METHODS:
        found = np.array(
            [[quality(args.out, seed, method, compound) for compound in (False, True)] for seed in args.seeds]
        )
        gains = " ".join(f"{gain:+.1f}" for gain in found[:, 1] - found[:, 0])
        print(f"| {method} | {found[:, 0].mean():.1f} | {found[:, 1].mean():.1f} | {gains} |", flush=True)


def quality(out: Path, seed: int, method: str, compound: bool) -> float:
    """mAP in percent of the labels of one world's test scenes."""
    world = demo_scenes(out, seed)
    running = {"clip": "tiny", "store": out / f"compound-{seed}-{method}", "num_workers": 0, "progress": SILENT}
    labels = mlclip.pseudolabel([world / "test"], list(KINDS), method=method, compound=compound, **running)
    return 100 * mean_average_precision(labels, read_labels(world / "truth_test.csv"))[0]


if __name__ == "__main__":
    main()
