"""Why centred labels are as they are: every choice beside its alternatives, on the drawn world.

    python benchmarks/centred.py --seeds 0 1 2

Views of all sizes are encoded once for each seed and kept in OUT; the rest takes a minute. True labels of the drawn world judge here,
and chose; the real photos' did not.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from drawn import drawn_world
from torch import Tensor

from mlclip.clip import load_clip
from mlclip.demo import KINDS
from mlclip.images import find_images, open_image, view_pixels
from mlclip.labels.class_names import TEMPLATES
from mlclip.labels.metrics import average_precision
from mlclip.labels.table import read_labels
from mlclip.methods import centred, profiles
from mlclip.teacher.label_from_store import LEVEL_ROUNDS
from mlclip.teacher.scoring import Teacher, class_embeddings

GRIDS = (1, 2, 3, 4)
SIZES = [n * n for n in GRIDS]
BIAS = 0.115  # spread of a bias of the cosines that brings the levels' spread to that of the real RN50x64's


@dataclass
class World:
    """Embeddings of all views of the training scenes, plain and mirrored (N, 30, D); texts (C, D); truth (N, C)."""

    plain: Tensor
    mirrored: Tensor
    text: Tensor
    ensemble: Tensor
    truth: Tensor
    scale: float
    bias: Tensor  # (C,) added to the cosines

    def views(self, embeddings: Tensor, grids: tuple[int, ...], text: Tensor | None = None) -> Tensor:
        """Cosines (N, V, C) of the views of these grids."""
        kept = torch.cat([part for n, part in zip(GRIDS, embeddings.split(SIZES, 1), strict=True) if n in grids], 1)
        return kept @ (self.text if text is None else text).T + self.bias

    def part(self, rows: Tensor) -> World:
        return replace(self, plain=self.plain[rows], mirrored=self.mirrored[rows], truth=self.truth[rows])


def read_world(out: Path, seed: int, teacher: Teacher) -> World:
    folder, kept = drawn_world(out, seed), out / f"embedded-{seed}.pt"
    if not kept.exists():
        plain, mirrored = [], []
        for photo in find_images([folder / "train"]).photos:
            pixels = view_pixels(open_image(photo.file), teacher.input_size, GRIDS)
            plain.append(teacher.embed_views(pixels))
            mirrored.append(teacher.embed_views(pixels.flip(-1)))
        torch.save([torch.stack(plain), torch.stack(mirrored)], kept)
    text, ensemble = (class_embeddings(teacher, KINDS, TEMPLATES[name]) for name in ("paper-cdul", "ensemble"))
    truth = read_labels(folder / "truth_train.csv").scores
    return World(*torch.load(kept), text, ensemble, truth, teacher.logit_scale, torch.zeros(len(KINDS)))


@dataclass
class Opinions:
    """What the program makes of cosines (N, V, C): log-odds of views and photos, labels, what profiles add."""

    excess: Tensor  # (N, V, C)
    views: Tensor  # (N, V, C) log-odds
    logits: Tensor  # (N, C) log-odds
    first: Tensor  # (N, C) labels by the own cosine
    second: Tensor  # (N, C) log-odds by the profiles
    merged: Tensor  # (N, C) labels


def level(cosines: Tensor, absent: Tensor, how: str) -> Tensor:
    """The level of each class (C,) in the views (N, V, C) of one grid, from photos that it is `absent` (N, C) from."""
    if how == "none":
        return torch.zeros(cosines.shape[-1])
    if how == "median":
        return cosines.flatten(0, 1).median(0).values
    means, count = cosines.mean(1), absent.sum(0)
    mean = (absent * means).sum(0) / count
    return centred.shrunk_levels(mean, (absent * (means - mean).square()).sum(0) / (count - 1).clamp(min=1), count)


def opinions(
    cosines: Tensor, scale: float, *, grids: tuple[int, ...] = (1, 2, 3), rank: float = 0.4, how: str = "absent",
    pool: str = "odds", copies: int = 1,
) -> Opinions:  # fmt: skip
    """The whole of centred labels; `copies` of every grid's views follow each other."""
    sizes = [copies * n * n for n in grids]
    labels = torch.zeros(len(cosines), cosines.shape[-1])
    for _ in range(LEVEL_ROUNDS if how == "absent" else 1):
        own = [level(part, 1 - labels, how) for part in cosines.split(sizes, 1)]
        levels = torch.cat([one.expand(size, -1) for one, size in zip(own, sizes, strict=True)])  # (V, C)
        views = centred.centred_logits(cosines, levels, rank * scale)
        logits = pooled(views, sizes, pool, len(grids) * copies)
        labels = centred.presence(logits)
    excess = centred.excess(cosines, levels)
    fitted = profiles.fit_profiles(profiles.statistics(excess, profiles.sure_views(views, labels)))
    second = centred.pool_views(profiles.profile_logits(fitted, excess, rank), len(grids) * copies)
    return Opinions(excess, views, logits, labels, second, profiles.rerank_by_profiles(labels, second, fitted.shown))


def pooled(views: Tensor, sizes: list[int], how: str, grids: int) -> Tensor:
    """One score for each photo and class, (N, C), of log-odds of views (N, V, C)."""
    if how == "maximum":
        return views.amax(1)
    if how == "best two":
        return views.sigmoid().topk(min(2, views.shape[1]), dim=1).values.mean(1).logit(1e-6)
    if how == "noisy or":
        return -(1 - views.sigmoid()).clamp(min=1e-9).log().sum(1)
    if how == "mean over grids":
        return torch.stack([part.sigmoid().amax(1) for part in views.split(sizes, 1)]).mean(0)
    return centred.pool_views(views, grids)


def with_neighbours(world: World, cosines: Tensor, share: float) -> Tensor:
    """Cosines (N, V, C) of 1×1 + 2×2 + 3×3, mixed with the mean of each view's ten nearest views."""
    every = F.normalize(world.plain[:, :14].flatten(0, 1), dim=-1)
    flat, near = cosines.flatten(0, 1), []
    for part in every.split(2000):
        nearest = (part @ every.T).topk(11, dim=1).indices[:, 1:]
        near.append(flat[nearest].mean(1))
    return ((1 - share) * flat + share * torch.cat(near)).unflatten(0, cosines.shape[:2])


def on_embeddings(world: World, base: Opinions, given: Tensor) -> Tensor:
    """Log-odds (N, C) as `profiles` makes them, but by Gaussians in CLIP's embedding space and not of the cosines."""
    x, w = world.plain[:, :14].flatten(0, 1).double(), given.flatten(0, 1).double()
    shown = torch.cat([w.sum(0), (1 - w.sum(1)).sum()[None]])
    totals = torch.cat([w.T @ x, (x.sum(0) - (w.T @ x).sum(0))[None]])
    means = totals / shown.clamp(min=1e-9)[:, None] - x.mean(0)
    within = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x) - (means.T * shown) @ means / len(x)
    within = 0.9 * within + 0.1 * within.diagonal().mean() * torch.eye(len(within), dtype=within.dtype)
    weights = torch.linalg.solve(within, means.T)
    scores = ((x - x.mean(0)) @ weights - 0.5 * (means.T * weights).sum(0)) * 0.4
    logits = torch.logit(scores.softmax(-1)[:, :-1], eps=1e-6).float().unflatten(0, base.views.shape[:2])
    return centred.pool_views(logits, 3)


def mean_ap(scores: Tensor, truth: Tensor) -> float:
    found = [average_precision(scores[:, c], truth[:, c]) for c in range(truth.shape[1])]
    return 100 * float(np.nanmean(found))


def f1(said: Tensor, truth: Tensor) -> float:
    """Macro-F1 in percent of labels that are said, (N, C) bool."""
    hits = (said & (truth == 1)).sum(0)
    return 100 * float((2 * hits / (said.sum(0) + truth.sum(0)).clamp(min=1)).mean())


def orders(world: World, seed: int) -> dict[str, Tensor]:
    """Scores (N, C) whose order is judged. What is not said otherwise is by the own cosine alone, without profiles."""
    default = world.views(world.plain, (1, 2, 3))
    base = opinions(default, world.scale)
    biased = BIAS * torch.randn(len(KINDS), generator=torch.Generator().manual_seed(100 + seed))
    doubled = torch.cat(
        [torch.cat([world.views(e, (n,)) for e in (world.plain, world.mirrored)], 1) for n in (1, 2, 3)], 1
    )
    both = (world.plain + world.mirrored) / 2
    softmax = (base.excess * 0.4 * world.scale).softmax(-1)

    def alone(cosines: Tensor = default, **options) -> Tensor:
        return opinions(cosines, world.scale, **options).logits

    found = {"as it is": base.merged, "own cosine alone, no profiles": base.logits, "profiles alone": base.second}
    found |= {
        f"level: {n}": alone(how=h) for n, h in (("of all photos", "mean"), ("median", "median"), ("none", "none"))
    }
    found["level: none, and classes biased as RN50x64 is"] = alone(default + biased, how="none")
    found["as it is, and classes biased as RN50x64 is"] = opinions(default + biased, world.scale).merged
    found |= {f"scale {r}": alone(rank=r) for r in (0.25, 0.7, 1.0, 2.0)}
    for grids in ((1, 2), (1, 3), (1, 2, 3, 4)):
        name = " + ".join(f"{n}×{n}" for n in grids)
        found[f"views: {name}"] = alone(world.views(world.plain, grids), grids=grids)
    found |= {f"pooled by {how}": alone(pool=how) for how in ("maximum", "noisy or", "best two", "mean over grids")}
    found["mirrored views as well (twice the encoding)"] = alone(doubled, copies=2)
    found["mirrored views as well, and profiles"] = opinions(doubled, world.scale, copies=2).merged
    found["embeddings averaged with the mirrored view's"] = alone(world.views(F.normalize(both, dim=-1), (1, 2, 3)))
    found["prompt ensemble"] = alone(world.views(world.plain, (1, 2, 3), world.ensemble))
    found |= {
        f"{s:.0%} of the ten nearest views' cosines": alone(with_neighbours(world, default, s)) for s in (0.3, 0.5)
    }
    sure = profiles.sure_views(base.views, base.first)
    found["Gaussians on embeddings, sure photos' best views"] = on_embeddings(world, base, sure)
    confident = torch.where(softmax >= 0.9, softmax, 0.0)
    found["Gaussians on embeddings, views of a softmax from 0.9"] = on_embeddings(world, base, confident)
    return found


def numbers(world: World) -> dict[str, Tensor]:
    """Ways from log-odds to labels (N, C)."""
    cosines = world.views(world.plain, (1, 2, 3))
    made = opinions(cosines, world.scale)
    cut = torch.tensor([centred._least_variance_split(column.double()) for column in made.logits.T])
    return {
        "mixture and profiles, as it is": made.merged,
        "mixture alone": made.first,
        "mixture alone, levels of all photos": opinions(cosines, world.scale, how="mean").first,
        "mixture, classes apart": centred.presence(made.logits, prior_photos=1e-3),
        "the odds as they are": made.logits.sigmoid(),
        "cut of least variance": (made.logits > cut).float(),
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
        "30 photos": mixed[:30],
        "100 photos": mixed[:100],
        "a class in 95 %": most,
        "a class nowhere": absent,
    }


def level_spread(cosines: Tensor) -> float:
    """How much classes' mean cosines (N, C) differ, as a share of what a class's cosine differs between photos."""
    cosines = cosines - cosines.mean(1, keepdim=True)
    return float(cosines.mean(0).std() / cosines.std(0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/centred"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=Path("../shared/voc12"), help="for one number, where they are")
    args = parser.parse_args()
    teacher = Teacher(load_clip("tiny"))
    worlds = [read_world(args.out, seed, teacher) for seed in args.seeds]
    spread = [level_spread(world.views(world.plain, (1,))[:, 0]) for world in worlds]
    print(f"spread of the levels of whole photos: {np.mean(spread):.2f} here")
    if (args.data / "rn50x64_scores.npz").exists():
        stored = np.load(args.data / "rn50x64_scores.npz")["global_"].astype(np.float64)
        print(
            f"and {level_spread(torch.from_numpy(np.log(stored))):.2f} of the real RN50x64's scores, truth not looked at"
        )
    ranked: dict[str, list[float]] = {}
    for seed, world in zip(args.seeds, worlds, strict=True):
        for name, scores in orders(world, seed).items():
            ranked.setdefault(name, []).append(mean_ap(scores, world.truth))
    print(f"\n| order | mAP on {len(worlds)} worlds |\n|---|---|")
    for name, found in ranked.items():
        print(f"| {name} | {np.mean(found):.1f} ({min(found):.1f}-{max(found):.1f}) |")
    print("\n| folder | number | labels a photo at 0.5 or more | truth | macro-F1 | mAP |\n|---|---|---|---|---|---|")
    rows: dict[tuple[str, str], list[list[float]]] = {}
    for seed, world in zip(args.seeds, worlds, strict=True):
        for folder, part in subsets(world.truth, seed).items():
            true = world.truth[part]
            for name, labels in numbers(world.part(part)).items():
                said = labels >= 0.5
                counts = [float(x.float().sum(1).mean()) for x in (said, true)]
                rows.setdefault((folder, name), []).append([*counts, f1(said, true), mean_ap(labels, true)])
    for (folder, name), values in rows.items():
        said, true, score, ranks = np.mean(values, axis=0)
        print(f"| {folder} | {name} | {said:.2f} | {true:.2f} | {score:.1f} | {ranks:.1f} |")


if __name__ == "__main__":
    main()
