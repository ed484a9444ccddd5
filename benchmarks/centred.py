"""Every choice in the method of centred labels, compared with its alternatives on the demo scenes.

    python benchmarks/centred.py --seeds 0 1 2

Views of all sizes are encoded once per seed and stored in OUT; the rest takes a minute. True labels of the demo scenes are the
measure here, and they decided the choices. True labels of real photos did not.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from demo_scenes import demo_scenes
from torch import Tensor

from mlclip.clip import load_clip
from mlclip.demo import KINDS
from mlclip.images import find_images, open_image, view_pixels
from mlclip.labels.class_names import TEMPLATES
from mlclip.labels.metrics import average_precision
from mlclip.labels.table import read_labels
from mlclip.methods import centred, profiles
from mlclip.teacher.label import LEVEL_ROUNDS
from mlclip.teacher.scoring import Teacher, class_embeddings

GRIDS = (1, 2, 3, 4)
SIZES = [n * n for n in GRIDS]
BIAS = 0.115  # spread of an added bias of the cosines, so that the levels spread as much as those of the real RN50x64


@dataclass
class Scenes:
    """Embeddings of all views of the training scenes, plain and mirrored (N, 30, D); texts (C, D); true labels (N, C)."""

    plain: Tensor
    mirrored: Tensor
    text: Tensor
    ensemble: Tensor
    truth: Tensor
    scale: float
    bias: Tensor  # (C,) added to the cosines

    def views(self, embeddings: Tensor, grids: tuple[int, ...], text: Tensor | None = None) -> Tensor:
        """Cosines (N, V, C) of the views of these `grids`."""
        kept = torch.cat([part for n, part in zip(GRIDS, embeddings.split(SIZES, 1), strict=True) if n in grids], 1)
        return kept @ (self.text if text is None else text).T + self.bias

    def part(self, rows: Tensor) -> Scenes:
        return replace(self, plain=self.plain[rows], mirrored=self.mirrored[rows], truth=self.truth[rows])


def read_scenes(out: Path, seed: int, teacher: Teacher) -> Scenes:
    folder, kept = demo_scenes(out, seed), out / f"embedded-{seed}.pt"
    if not kept.exists():
        plain, mirrored = [], []
        for photo in find_images([folder / "train"]).photos:
            pixels = view_pixels(open_image(photo.file), teacher.input_size, GRIDS)
            plain.append(teacher.embed_views(pixels))
            mirrored.append(teacher.embed_views(pixels.flip(-1)))
        torch.save([torch.stack(plain), torch.stack(mirrored)], kept)
    text, ensemble = (class_embeddings(teacher, KINDS, TEMPLATES[name]) for name in ("paper-cdul", "ensemble"))
    truth = read_labels(folder / "truth_train.csv").scores
    return Scenes(*torch.load(kept), text, ensemble, truth, teacher.logit_scale, torch.zeros(len(KINDS)))


@dataclass
class Steps:
    """The results of all steps from cosines (N, V, C) to labels: log-odds of views and photos, labels, profiles."""

    excess: Tensor  # (N, V, C)
    views: Tensor  # (N, V, C) log-odds
    logits: Tensor  # (N, C) log-odds
    first: Tensor  # (N, C) labels by the class's own cosine
    second: Tensor  # (N, C) log-odds by the profiles
    merged: Tensor  # (N, C) labels, re-ranked by the profiles


def level(cosines: Tensor, absent: Tensor, how: str) -> Tensor:
    """The level (C,) of each class in the views (N, V, C) of one grid, from photos weighted by `absent` (N, C)."""
    if how == "none":
        return torch.zeros(cosines.shape[-1])
    if how == "median":
        return cosines.flatten(0, 1).median(0).values
    means, count = cosines.mean(1), absent.sum(0)
    mean = (absent * means).sum(0) / count
    return centred.shrunk_levels(mean, (absent * (means - mean).square()).sum(0) / (count - 1).clamp(min=1), count)


def all_steps(
    cosines: Tensor, scale: float, *, grids: tuple[int, ...] = (1, 2, 3), rank: float = 0.4, how: str = "absent",
    pool: str = "odds", copies: int = 1,
) -> Steps:  # fmt: skip
    """All steps of centred labels; every grid has `copies` sets of views, one after the other."""
    sizes = [copies * n * n for n in grids]
    labels = torch.zeros(len(cosines), cosines.shape[-1])
    for _ in range(LEVEL_ROUNDS if how == "absent" else 1):
        per_grid = [level(part, 1 - labels, how) for part in cosines.split(sizes, 1)]
        levels = torch.cat([one.expand(size, -1) for one, size in zip(per_grid, sizes, strict=True)])  # (V, C)
        views = centred.centred_logits(cosines, levels, rank * scale)
        logits = pooled(views, sizes, pool, len(grids) * copies)
        labels = centred.presence(logits)
    excess = centred.excess(cosines, levels)
    fitted = profiles.fit_profiles(profiles.statistics(excess, profiles.sure_views(views, labels)))
    second = centred.pool_views(profiles.profile_logits(fitted, excess, rank), len(grids) * copies)
    return Steps(excess, views, logits, labels, second, profiles.rerank_by_profiles(labels, second, fitted.shown))


def pooled(views: Tensor, sizes: list[int], how: str, grids: int) -> Tensor:
    """One score (N, C) per photo and class, from log-odds of views (N, V, C)."""
    if how == "maximum":
        return views.amax(1)
    if how == "the mean of the best two":
        return views.sigmoid().topk(min(2, views.shape[1]), dim=1).values.mean(1).logit(1e-6)
    if how == "noisy-or":
        return -(1 - views.sigmoid()).clamp(min=1e-9).log().sum(1)
    if how == "maximum per grid, then mean":
        return torch.stack([part.sigmoid().amax(1) for part in views.split(sizes, 1)]).mean(0)
    return centred.pool_views(views, grids)


def with_neighbours(scenes: Scenes, cosines: Tensor, share: float) -> Tensor:
    """Cosines (N, V, C) of 1×1 + 2×2 + 3×3, mixed with the mean over each view's ten nearest views."""
    every = F.normalize(scenes.plain[:, :14].flatten(0, 1), dim=-1)
    flat, near = cosines.flatten(0, 1), []
    for part in every.split(2000):
        nearest = (part @ every.T).topk(11, dim=1).indices[:, 1:]
        near.append(flat[nearest].mean(1))
    return ((1 - share) * flat + share * torch.cat(near)).unflatten(0, cosines.shape[:2])


def on_embeddings(scenes: Scenes, base: Steps, weights: Tensor) -> Tensor:
    """Log-odds (N, C) as in `profiles`, but from Gaussians in CLIP's embedding space instead of Gaussians of the cosines."""
    x, w = scenes.plain[:, :14].flatten(0, 1).double(), weights.flatten(0, 1).double()
    shown = torch.cat([w.sum(0), (1 - w.sum(1)).sum()[None]])
    totals = torch.cat([w.T @ x, (x.sum(0) - (w.T @ x).sum(0))[None]])
    means = totals / shown.clamp(min=1e-9)[:, None] - x.mean(0)
    within = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x) - (means.T * shown) @ means / len(x)
    within = 0.9 * within + 0.1 * within.diagonal().mean() * torch.eye(len(within), dtype=within.dtype)
    linear = torch.linalg.solve(within, means.T)
    scores = ((x - x.mean(0)) @ linear - 0.5 * (means.T * linear).sum(0)) * 0.4
    logits = torch.logit(scores.softmax(-1)[:, :-1], eps=1e-6).float().unflatten(0, base.views.shape[:2])
    return centred.pool_views(logits, 3)


def mean_ap(scores: Tensor, truth: Tensor) -> float:
    found = [average_precision(scores[:, c], truth[:, c]) for c in range(truth.shape[1])]
    return 100 * float(np.nanmean(found))


def f1(predicted: Tensor, truth: Tensor) -> float:
    """Macro-F1 in percent of predicted labels, (N, C) bool."""
    hits = (predicted & (truth == 1)).sum(0)
    return 100 * float((2 * hits / (predicted.sum(0) + truth.sum(0)).clamp(min=1)).mean())


def rankings(scenes: Scenes, seed: int) -> dict[str, Tensor]:
    """Scores (N, C) whose order is measured. By default they use only the class's own cosine, without profiles."""
    default = scenes.views(scenes.plain, (1, 2, 3))
    base = all_steps(default, scenes.scale)
    biased = BIAS * torch.randn(len(KINDS), generator=torch.Generator().manual_seed(100 + seed))
    doubled = torch.cat(
        [torch.cat([scenes.views(e, (n,)) for e in (scenes.plain, scenes.mirrored)], 1) for n in (1, 2, 3)], 1
    )
    both = (scenes.plain + scenes.mirrored) / 2
    softmax = (base.excess * 0.4 * scenes.scale).softmax(-1)

    def cosine_only(cosines: Tensor = default, **options) -> Tensor:
        return all_steps(cosines, scenes.scale, **options).logits

    found = {"default": base.merged, "own cosine only, no profiles": base.logits, "profiles only": base.second}
    found |= {
        f"level: {n}": cosine_only(how=h)
        for n, h in (("mean of all photos", "mean"), ("median", "median"), ("none", "none"))
    }
    found["level: none, with a bias like RN50x64's added"] = cosine_only(default + biased, how="none")
    found["default, with a bias like RN50x64's added"] = all_steps(default + biased, scenes.scale).merged
    found |= {f"scale {r}": cosine_only(rank=r) for r in (0.25, 0.7, 1.0, 2.0)}
    for grids in ((1, 2), (1, 3), (1, 2, 3, 4)):
        name = " + ".join(f"{n}×{n}" for n in grids)
        found[f"views: {name}"] = cosine_only(scenes.views(scenes.plain, grids), grids=grids)
    pools = ("maximum", "noisy-or", "the mean of the best two", "maximum per grid, then mean")
    found |= {f"pooled by {how}": cosine_only(pool=how) for how in pools}
    found["mirrored views added (twice the encoding)"] = cosine_only(doubled, copies=2)
    found["mirrored views added, with profiles"] = all_steps(doubled, scenes.scale, copies=2).merged
    averaged = scenes.views(F.normalize(both, dim=-1), (1, 2, 3))
    found["each embedding averaged with its mirrored view's"] = cosine_only(averaged)
    found["prompt ensemble"] = cosine_only(scenes.views(scenes.plain, (1, 2, 3), scenes.ensemble))
    found |= {
        f"{s:.0%} weight on the ten nearest views' cosines": cosine_only(with_neighbours(scenes, default, s))
        for s in (0.3, 0.5)
    }
    sure = profiles.sure_views(base.views, base.first)
    found["Gaussians in embedding space, best views of confident photos"] = on_embeddings(scenes, base, sure)
    confident = torch.where(softmax >= 0.9, softmax, 0.0)
    found["Gaussians in embedding space, views with a softmax score from 0.9"] = on_embeddings(scenes, base, confident)
    return found


def labellings(scenes: Scenes) -> dict[str, Tensor]:
    """Several ways from log-odds to labels (N, C)."""
    cosines = scenes.views(scenes.plain, (1, 2, 3))
    made = all_steps(cosines, scenes.scale)
    cut = torch.tensor([centred._least_variance_split(column.double()) for column in made.logits.T])
    return {
        "mixture and profiles (default)": made.merged,
        "mixture only": made.first,
        "mixture only, levels of all photos": all_steps(cosines, scenes.scale, how="mean").first,
        "mixture, each class by itself": centred.presence(made.logits, prior_photos=1e-3),
        "plain odds, no mixture": made.logits.sigmoid(),
        "least-variance cut (Otsu)": (made.logits > cut).float(),
    }


def subsets(truth: Tensor, seed: int) -> dict[str, Tensor]:
    """Rows of the scenes of unusual folders."""
    mixed = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))
    commonest = truth[:, truth.sum(0).argmax()]
    shown, absent = (commonest == 1).nonzero().flatten(), (commonest == 0).nonzero().flatten()
    most = torch.cat([shown, absent[: len(shown) // 19]])
    return {
        "all": mixed,
        "10 photos": mixed[:10],
        "30 photos": mixed[:30],
        "100 photos": mixed[:100],
        "one class in 95 %": most,
        "one class in no photo": absent,
    }


def level_spread(cosines: Tensor) -> float:
    """The spread of the classes' mean cosines (N, C), as a share of the spread of one class's cosine between photos."""
    cosines = cosines - cosines.mean(1, keepdim=True)
    return float(cosines.mean(0).std() / cosines.std(0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/centred"), help="folder of the embeddings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared/voc12"),
        help="folder of the real photos' scores; used for one number",
    )
    args = parser.parse_args()
    teacher = Teacher(load_clip("tiny"))
    every = [read_scenes(args.out, seed, teacher) for seed in args.seeds]
    spread = [level_spread(scenes.views(scenes.plain, (1,))[:, 0]) for scenes in every]
    print(f"spread of the levels of whole photos: {np.mean(spread):.2f} on the demo scenes")
    if (args.data / "rn50x64_scores.npz").exists():
        stored = np.load(args.data / "rn50x64_scores.npz")["global_"].astype(np.float64)
        real = level_spread(torch.from_numpy(np.log(stored)))
        print(f"and {real:.2f} for the real RN50x64's scores (true labels are not used)")
    ranked: dict[str, list[float]] = {}
    for seed, scenes in zip(args.seeds, every, strict=True):
        for name, scores in rankings(scenes, seed).items():
            ranked.setdefault(name, []).append(mean_ap(scores, scenes.truth))
    print(f"\n| ranking | mAP, {len(every)} seeds |\n|---|---|")
    for name, found in ranked.items():
        print(f"| {name} | {np.mean(found):.1f} ({min(found):.1f}-{max(found):.1f}) |")
    print(
        "\n| folder | labels | labels per photo at 0.5 or more | true labels per photo | macro-F1 | mAP |\n|"
        + "---|" * 6
    )
    rows: dict[tuple[str, str], list[list[float]]] = {}
    for seed, scenes in zip(args.seeds, every, strict=True):
        for folder, part in subsets(scenes.truth, seed).items():
            true = scenes.truth[part]
            for name, labels in labellings(scenes.part(part)).items():
                predicted = labels >= 0.5
                counts = [float(x.float().sum(1).mean()) for x in (predicted, true)]
                rows.setdefault((folder, name), []).append([*counts, f1(predicted, true), mean_ap(labels, true)])
    for (folder, name), values in rows.items():
        predicted, true, score, ranks = np.mean(values, axis=0)
        print(f"| {folder} | {name} | {predicted:.2f} | {true:.2f} | {score:.1f} | {ranks:.1f} |")


if __name__ == "__main__":
    main()
