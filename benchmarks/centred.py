"""Why centred labels are as they are: every choice beside its alternatives, on the drawn world.

    python benchmarks/centred.py --seeds 0 1 2

Views of all sizes are encoded once for each seed and kept in OUT; the rest takes seconds. True labels of the drawn world judge here,
and chose; the real photos' did not.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mlclip import centred
from mlclip.cli.demonstration import TEST_SCENES, TRAIN_SCENES
from mlclip.clip import load_clip
from mlclip.embed import embed_images
from mlclip.images import find_images
from mlclip.labels import average_precision, read_labels
from mlclip.teacher import Teacher, class_embeddings
from mlclip.world import KINDS, write_world

Views = dict[int, Tensor]  # grid n -> cosines (N, n², C)


def read_world(out: Path, seed: int, teacher: Teacher) -> tuple[Views, Tensor]:
    """Cosines of all views of the training scenes, and their truth (N, C)."""
    folder = out / f"world-{seed}"
    if not (folder / "classes.txt").exists():
        write_world(folder, train=TRAIN_SCENES, test=TEST_SCENES, seed=seed)
    text = class_embeddings(teacher, KINDS, ["a photo of a {}"])
    found = find_images([folder / "train"])
    grids, views = (1, 2, 3, 4), torch.empty(len(found.photos), 30, len(KINDS))
    store, _ = embed_images(found.photos, teacher, root=found.root, grids=grids, store=out / f"views-{seed}", loaders=0)
    for rows, embeddings in store.read(found.photos):
        views[rows] = embeddings @ text.T
    truth = read_labels(folder / "truth_train.csv").scores
    return dict(zip(grids, views.split([n * n for n in grids], dim=1), strict=True)), truth


def level(cosines: Tensor, how: str) -> Tensor:
    """The level of each class (C,) in the views (N, V, C) of one grid."""
    if how == "none":
        return torch.zeros(cosines.shape[-1])
    if how == "median":
        return cosines.flatten(0, 1).median(0).values
    means = cosines.mean(1)
    return centred.shrunk_levels(means.mean(0), means.var(0), len(means))


def log_odds(
    views: Views, scale: float, *, grids: Iterable[int] = (1, 2, 3), how: str = "mean", pool: str = "odds"
) -> Tensor:
    """Log-odds, or another score with the same order, of each class in each photo: (N, C)."""
    parts = [centred.centred_logits(views[n], level(views[n], how), scale) for n in grids]
    every = torch.cat(parts, dim=1)  # (N, V, C)
    if pool == "odds":
        return centred.pool_views(every, len(parts))
    if pool == "maximum":
        return every.amax(1)
    if pool == "best two":
        return every.sigmoid().topk(min(2, every.shape[1]), dim=1).values.mean(1)
    if pool == "noisy or":
        return -(1 - every.sigmoid()).clamp(min=1e-9).log().sum(1)
    return torch.stack([part.sigmoid().amax(1) for part in parts]).mean(0)  # mean over grids of the maximum


def mean_ap(scores: Tensor, truth: Tensor) -> float:
    return 100 * float(np.mean([average_precision(scores[:, c], truth[:, c]) for c in range(truth.shape[1])]))


def f1(said: Tensor, truth: Tensor) -> float:
    """Macro-F1 in percent of labels that are said, (N, C) bool."""
    hits = (said & (truth == 1)).sum(0)
    return 100 * float((2 * hits / (said.sum(0) + truth.sum(0)).clamp(min=1)).mean())


ORDERS = {
    "as it is: mean level, 0.4 of CLIP's scale, 1×1 + 2×2 + 3×3, odds added": {},
    "level: none": {"how": "none"},
    "level: median": {"how": "median"},
    "scale 0.25": {"scale": 0.25},
    "scale 0.7": {"scale": 0.7},
    "scale 1, CLIP's own": {"scale": 1.0},
    "scale 2": {"scale": 2.0},
    "views: 1×1 + 2×2": {"grids": (1, 2)},
    "views: 1×1 + 3×3": {"grids": (1, 3)},
    "views: 1×1 + 2×2 + 3×3 + 4×4": {"grids": (1, 2, 3, 4)},
    "pooled by the maximum": {"pool": "maximum"},
    "pooled by noisy or": {"pool": "noisy or"},
    "pooled by the best two": {"pool": "best two"},
    "pooled by the mean over grids": {"pool": "grids"},
}


def numbers(logits: Tensor) -> dict[str, Tensor]:
    """Ways from log-odds to labels (N, C)."""
    cut = torch.tensor([centred._least_variance_split(column.double()) for column in logits.T])
    return {
        "mixture, as it is": centred.presence(logits),
        "mixture, classes apart": centred.presence(logits, prior_photos=1e-3),
        "the odds as they are": logits.sigmoid(),
        "odds, 2.5 times sharper": (2.5 * logits).sigmoid(),
        "cut of least variance": (logits > cut).float(),
    }


def subsets(truth: Tensor, seed: int) -> dict[str, Tensor]:
    """Rows of unusual folders."""
    mixed = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))
    commonest = truth[:, truth.sum(0).argmax()]
    shown, absent = (commonest == 1).nonzero().flatten(), (commonest == 0).nonzero().flatten()
    most = torch.cat([shown, absent[: len(shown) // 19]])
    return {
        "all": mixed,
        "10 photos": mixed[:10],
        "100 photos": mixed[:100],
        "a class in 95 %": most,
        "a class nowhere": absent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/centred"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    teacher = Teacher(load_clip("tiny"))
    worlds = [read_world(args.out, seed, teacher) for seed in args.seeds]
    print(f"\n| order | mAP on {len(worlds)} worlds |\n|---|---|")
    for name, options in ORDERS.items():
        options = {"scale": 0.4, **options}
        found = [
            mean_ap(log_odds(v, **{**options, "scale": options["scale"] * teacher.logit_scale}), t) for v, t in worlds
        ]
        print(f"| {name} | {np.mean(found):.1f} ({min(found):.1f}-{max(found):.1f}) |")
    print("\n| folder | number | labels a photo at 0.5 or more | truth | macro-F1 |\n|---|---|---|---|---|")
    rows: dict[tuple[str, str], list[list[float]]] = {}
    for seed, (views, truth) in zip(args.seeds, worlds, strict=True):
        for folder, part in subsets(truth, seed).items():
            true = truth[part]
            logits = log_odds({n: v[part] for n, v in views.items()}, 0.4 * teacher.logit_scale)
            for name, labels in numbers(logits).items():
                said = labels >= 0.5
                counts = [float(x.float().sum(1).mean()) for x in (said, true)]
                rows.setdefault((folder, name), []).append([*counts, f1(said, true)])
    for (folder, name), values in rows.items():
        said, true, score = np.mean(values, axis=0)
        print(f"| {folder} | {name} | {said:.2f} | {true:.2f} | {score:.1f} |")


if __name__ == "__main__":
    main()
