"""Labels alone: every choice in centred labels, view sets of dense labels, few class names, similar names.

    python benchmarks/labels.py centred --seeds 0,1,2
    python benchmarks/labels.py dense --seeds 3,4,5
    python benchmarks/labels.py view-sets --seeds 3,4,5
    python benchmarks/labels.py guard --seeds 3,4,5
    python benchmarks/labels.py vit --clip vit.pt
    python benchmarks/labels.py few-names --photos real
    python benchmarks/labels.py same-names --seeds 0,1,2

No student is trained. True labels are used only to report; those of the demo scenes decided the choices in centred labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import bench
import click
import numpy as np
import torch
import torch.nn.functional as F
import voc12
from torch import Tensor
from train_tiny_clip import with_pool

import mlclip
from mlclip.clip import encoders
from mlclip.demo import KINDS
from mlclip.images import find_images, open_image, view_pixels
from mlclip.labels.class_names import TEMPLATES
from mlclip.methods import centred, profiles
from mlclip.methods import dense as dense_labels
from mlclip.teacher import pseudolabel
from mlclip.teacher.scoring import Teacher, class_embeddings

GRIDS = (1, 2, 3, 4)
SIZES = [n * n for n in GRIDS]
BIAS = 0.115  # spread of an added bias of the cosines, so that the levels spread as much as those of the real RN50x64


@click.group(help=__doc__)
def main() -> None:
    pass


# Centred labels, choice by choice


@dataclass
class Scenes:
    """Embeddings of all views of the training scenes, plain and mirrored (N, 30, D); texts (C, D); true labels (N, C)."""

    plain: Tensor
    mirrored: Tensor
    text: Tensor
    ensemble: Tensor
    truth: Tensor
    scale: float

    def views(self, embeddings: Tensor, grids: tuple[int, ...], text: Tensor | None = None) -> Tensor:
        """Cosines (N, V, C) of the views of these `grids`."""
        kept = torch.cat([part for n, part in zip(GRIDS, embeddings.split(SIZES, 1), strict=True) if n in grids], 1)
        return kept @ (self.text if text is None else text).T

    def part(self, rows: Tensor) -> Scenes:
        return replace(self, plain=self.plain[rows], mirrored=self.mirrored[rows], truth=self.truth[rows])


def read_scenes(out: Path, seed: int, count: int | None, teacher: Teacher) -> Scenes:
    """Views of all sizes are encoded once per seed and kept in `out`."""
    world, kept = bench.demo_world(out, seed, count), out / f"embedded-{seed}-{count}.pt"
    if not kept.exists():
        plain, mirrored = [], []
        for photo in find_images([world.train]).photos:
            pixels = view_pixels(open_image(photo.file), teacher.input_size, GRIDS)
            plain.append(teacher.embed_views(pixels))
            mirrored.append(teacher.embed_views(pixels.flip(-1)))
        torch.save([torch.stack(plain), torch.stack(mirrored)], kept)
    text, ensemble = (class_embeddings(teacher, KINDS, TEMPLATES[name]) for name in ("paper-cdul", "ensemble"))
    return Scenes(*torch.load(kept), text, ensemble, world.truth_train.scores, teacher.logit_scale)


@dataclass
class Steps:
    """The results of all steps from cosines (N, V, C) to labels."""

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
    return voc12.level_of(cosines.mean(1), absent)


def all_steps(
    cosines: Tensor, scale: float, *, grids: tuple[int, ...] = (1, 2, 3), rank: float = 0.4, how: str = "absent",
    pool: str = "odds", copies: int = 1,
) -> Steps:  # fmt: skip
    """All steps of centred labels; every grid has `copies` sets of views, one after the other."""
    sizes = [copies * n * n for n in grids]
    labels = torch.zeros(len(cosines), cosines.shape[-1])
    for _ in range(voc12.LEVEL_ROUNDS if how == "absent" else 1):
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


def rankings(scenes: Scenes, seed: int) -> dict[str, Tensor]:
    """Scores (N, C) whose order is measured. Where the name says nothing else, they use only the class's own cosine."""
    default = scenes.views(scenes.plain, (1, 2, 3))
    base = all_steps(default, scenes.scale)
    biased = default + BIAS * torch.randn(len(KINDS), generator=torch.Generator().manual_seed(100 + seed))
    both = [torch.cat([scenes.views(e, (n,)) for e in (scenes.plain, scenes.mirrored)], 1) for n in (1, 2, 3)]
    doubled, mean = torch.cat(both, 1), F.normalize((scenes.plain + scenes.mirrored) / 2, dim=-1)
    softmax = (base.excess * 0.4 * scenes.scale).softmax(-1)

    def cosine_only(cosines: Tensor = default, **options) -> Tensor:
        return all_steps(cosines, scenes.scale, **options).logits

    sure = profiles.sure_views(base.views, base.first)
    return {
        "default": base.merged,
        "own cosine only, no profiles": base.logits,
        "profiles only": base.second,
        "level: mean of all photos": cosine_only(how="mean"),
        "level: median": cosine_only(how="median"),
        "level: none": cosine_only(how="none"),
        "level: none, with a bias like RN50x64's added": cosine_only(biased, how="none"),
        "default, with a bias like RN50x64's added": all_steps(biased, scenes.scale).merged,
        **{f"scale {rank}": cosine_only(rank=rank) for rank in (0.25, 0.7, 1.0, 2.0)},
        **{
            "views: " + " + ".join(f"{n}×{n}" for n in grids): cosine_only(
                scenes.views(scenes.plain, grids), grids=grids
            )
            for grids in ((1, 2), (1, 3), (1, 2, 3, 4))
        },
        **{
            f"pooled by {how}": cosine_only(pool=how)
            for how in ("maximum", "noisy-or", "the mean of the best two", "maximum per grid, then mean")
        },
        "mirrored views added (twice the encoding)": cosine_only(doubled, copies=2),
        "mirrored views added, with profiles": all_steps(doubled, scenes.scale, copies=2).merged,
        "each embedding averaged with its mirrored view's": cosine_only(scenes.views(mean, (1, 2, 3))),
        "prompt ensemble": cosine_only(scenes.views(scenes.plain, (1, 2, 3), scenes.ensemble)),
        **{
            f"{share:.0%} weight on the ten nearest views' cosines": cosine_only(
                with_neighbours(scenes, default, share)
            )
            for share in (0.3, 0.5)
        },
        "Gaussians in embedding space, best views of confident photos": on_embeddings(scenes, base, sure),
        "Gaussians in embedding space, views with a softmax score from 0.9": on_embeddings(
            scenes, base, torch.where(softmax >= 0.9, softmax, 0.0)
        ),
    }


def labellings(scenes: Scenes) -> dict[str, Tensor]:
    """Several ways from log-odds to labels (N, C)."""
    cosines = scenes.views(scenes.plain, (1, 2, 3))
    made = all_steps(cosines, scenes.scale)
    return {
        "mixture and profiles (default)": made.merged,
        "mixture only": made.first,
        "mixture only, levels of all photos": all_steps(cosines, scenes.scale, how="mean").first,
        "mixture, each class by itself": centred.presence(made.logits, prior_photos=1e-3),
        "plain odds, no mixture": made.logits.sigmoid(),
    }


def folders(truth: Tensor, seed: int) -> dict[str, Tensor]:
    """Rows of the scenes of unusual folders."""
    mixed = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))
    commonest = truth[:, truth.sum(0).argmax()]
    shown, absent = (commonest == 1).nonzero().flatten(), (commonest == 0).nonzero().flatten()
    return {
        "all": mixed,
        **{f"{n} photos": mixed[:n] for n in (10, 30, 100)},
        "one class in 95 %": torch.cat([shown, absent[: len(shown) // 19]]),
        "one class in no photo": absent,
    }


def class_map(scores: Tensor, truth: Tensor) -> float:
    """mAP in percent of scores (N, C)."""
    return 100 * float(np.nanmean([mlclip.average_precision(*pair) for pair in zip(scores.T, truth.T, strict=True)]))


def level_spread(cosines: Tensor) -> float:
    """The spread of the classes' mean cosines (N, C), as a share of the spread of one class's cosine between photos."""
    cosines = cosines - cosines.mean(1, keepdim=True)
    return float(cosines.mean(0).std() / cosines.std(0).mean())


@main.command("centred")
@bench.seeds
@bench.data
@bench.count
@bench.out("centred")
def centred_choices(seeds: list[int], data: Path, count: int | None, out: Path) -> None:
    """Every choice in the method of centred labels, compared with its alternatives on the demo scenes."""
    teacher = Teacher(mlclip.load_clip("tiny"))
    every = {seed: read_scenes(out, seed, count, teacher) for seed in seeds}
    spread = np.mean([level_spread(scenes.views(scenes.plain, (1,))[:, 0]) for scenes in every.values()])
    real = level_spread(voc12.cosines_of(voc12.stored_scores(data)["global_"]))
    print(
        f"spread of the levels of whole photos: {spread:.2f} on the demo scenes, {real:.2f} for the real RN50x64's scores"
    )
    ranked: dict[str, list[float]] = {}
    rows: dict[tuple[str, str], list[list[float]]] = {}
    for seed, scenes in every.items():
        for name, scores in rankings(scenes, seed).items():
            ranked.setdefault(name, []).append(class_map(scores, scenes.truth))
        for folder, part in folders(scenes.truth, seed).items():
            true = scenes.truth[part]
            for name, labels in labellings(scenes.part(part)).items():
                found = labels >= 0.5
                means = [float(x.float().sum(1).mean()) for x in (found, true)]
                rows.setdefault((folder, name), []).append(
                    [*means, bench.macro_f1(found, true), class_map(labels, true)]
                )
    bench.table("ranking", f"mAP, {len(seeds)} seeds")
    for name, found in ranked.items():
        bench.row(name, bench.spread(found))
    bench.table("folder", "labels", "labels per photo at 0.5 or more", "true labels per photo", "macro-F1", "mAP")
    for key, values in rows.items():
        predicted, true, f1, ranks = np.mean(values, axis=0)
        bench.row(*key, f"{predicted:.2f}", f"{true:.2f}", f"{f1:.1f}", f"{ranks:.1f}")


# Dense labels, by the package's own function


def scene_labels(*world, only: Sequence[str] | None = None, **settings) -> tuple[Tensor, Tensor]:
    """The scores of `scene_table` and the true labels, (N, C) each. `only`: the classes that are returned."""
    labels, truth = scene_table(*world, **settings)
    labels = labels.aligned(labels.paths, only) if only else labels
    return labels.scores, truth.aligned(labels.paths, labels.classes).scores


def scene_table(
    out: Path, seed: int, count: int | None, part: str = "test", **settings
) -> tuple[mlclip.Labels, mlclip.Labels]:
    """Labels of the scenes of one world, and their true labels. Embeddings are stored once per world and method."""
    world = bench.demo_world(out, seed, count)
    photos, truth = (world.test, world.truth_test) if part == "test" else (world.train, world.truth_train)
    views = settings["method"].replace("dense", "centred")  # dense labels extend the store of centred ones
    asked = {"clip": "tiny", "store": out / f"{part}-{seed}-{count}-{views}", "progress": mlclip.SILENT, **settings}
    return mlclip.pseudolabel([photos], **asked), truth


WHOLE = (
    "1",
    "1.5",
    "2",
    "2.5",
    "3",
    "4",
)  # the patch features of the whole photo at these multiples of CLIP's input size
FREE = ("views", "cells")  # no further pass
DENSE: dict[str, dict] = {
    "centred": {"method": "centred"},
    **{f"{kind} alone": {"views": (kind,)} for kind in ("cells", *WHOLE)},
    **{f"{kind} alone, no second opinion": {"views": (kind,), "profiles": False} for kind in ("cells", *WHOLE)},
    "views + cells (no further pass)": {"views": FREE},
    "views + cells, no second opinion": {"views": FREE, "profiles": False},
    "views + 2": {"views": ("views", "2")},
    "views + cells + 1.5": {"views": (*FREE, "1.5")},
    "views + cells + 2": {"views": (*FREE, "2")},
    "views + cells + 2, no second opinion": {"views": (*FREE, "2"), "profiles": False},
    "views + cells + 1.5 + 2": {"views": (*FREE, "1.5", "2")},
    "views + cells + 1.5 + 2 + 2.5 + 3 + 4": {"views": (*FREE, *WHOLE[1:])},
}


@main.command("dense")
@bench.seeds
@bench.count
@bench.out("dense")
@bench.option("--clip", default="tiny", help="The teacher: a name, or a weight file.")
def dense(seeds: list[int], count: int | None, out: Path, clip: str) -> None:
    """Dense labels of the test scenes: each view set alone, and together with others."""
    bench.table("labels", f"mAP, worlds {' '.join(map(str, seeds))}", "mean", "macro-F1 at ½")
    for name, settings in DENSE.items():
        asked = {"method": "dense", "clip": clip} | settings
        worlds = [scene_labels(out, seed, count, **asked) for seed in seeds]
        maps = [class_map(*world) for world in worlds]
        f1 = np.mean([bench.macro_f1(labels >= 0.5, truth) for labels, truth in worlds])
        bench.row(name, " ".join(f"{x:.1f}" for x in maps), f"{np.mean(maps):.1f}", f"{f1:.1f}")


@main.command("view-sets")
@bench.seeds
@bench.count
@bench.out("dense")
def view_sets(seeds: list[int], count: int | None, out: Path) -> None:
    """Quality over cost: dense labels of the test scenes from lists of view sets."""
    columns = (f"mAP, worlds {' '.join(map(str, seeds))}", "mean", "macro-F1 at ½", "labels per photo")
    bench.table("views", "views' worth of encoding", *columns)
    for sets in bench.VIEW_LISTS:
        worlds = [scene_labels(out, seed, count, method="dense", views=sets) for seed in seeds]
        maps = [class_map(*world) for world in worlds]
        f1 = np.mean([bench.macro_f1(labels >= 0.5, truth) for labels, truth in worlds])
        shown = np.mean([float((labels >= 0.5).float().sum(1).mean()) for labels, _ in worlds])
        cost, each = bench.views_worth(sets, 64, 32), " ".join(f"{x:.1f}" for x in maps)
        bench.row(",".join(sets), f"{cost:.4g}", each, f"{np.mean(maps):.1f}", f"{f1:.1f}", f"{shown:.2f}")


AGREEING = ("mean", "macro-F1 at ½", "agreements of the first world", "least agreement")


def agreeing_row(name: str, tables: Sequence[tuple[mlclip.Labels, mlclip.Labels]]) -> None:
    """Print how good the labels of several worlds are, and what the view sets of the first world agree."""
    worlds = [(labels.scores, truth.aligned(labels.paths, labels.classes).scores) for labels, truth in tables]
    maps = [class_map(*world) for world in worlds]
    f1 = np.mean([bench.macro_f1(labels >= 0.5, truth) for labels, truth in worlds])
    facts = tables[0][0].meta
    agrees = [
        f"{name} {' '.join(f'{a:.2f}' for a in part['agreements'])}"
        for name, part in facts.get("view_sets", {}).items()
    ]
    least = f"{facts['least_agreement']:.2f}" if agrees else ""
    bench.row(name, " ".join(f"{x:.1f}" for x in maps), f"{np.mean(maps):.1f}", f"{f1:.1f}", "; ".join(agrees), least)


def every_set_counts():
    """Inside it, no view set of dense labels is left out."""
    return mock.patch.object(dense_labels, "least_agreement", lambda *_: 0.0)


class Changed:
    """Stored patch features that are changed when they are read."""

    def __init__(self, stored, change: Callable[[Tensor], Tensor]):
        self.grids, self.sizes, self.stored, self.change = stored.grids, stored.sizes, stored, change

    def __len__(self) -> int:
        return len(self.stored)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((rows, self.change(vectors)) for rows, vectors in self.stored)


@main.command("guard")
@bench.seeds
@bench.count
@bench.out("dense")
def guard(seeds: list[int], count: int | None, out: Path) -> None:
    """Dense labels of the test scenes when patch features mean nothing, with and without the guard. The views stay as they are."""
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    changes = {
        "as they are": lambda vectors: vectors,
        "channels in another order": lambda vectors: vectors[..., order],
        "those of another photo": lambda vectors: vectors.roll(1, 0),
    }
    bench.table("labels", f"mAP, worlds {' '.join(map(str, seeds))}", *AGREEING)
    agreeing_row("centred", [scene_table(out, seed, count, method="centred") for seed in seeds])
    label = pseudolabel.label_by_view_sets
    for views in (("views", "cells", "2"), ("1.5", "2")):
        for what, change in changes.items():

            def changed(sets, *more, change=change):
                return label({k: v if k == "views" else Changed(v, change) for k, v in sets.items()}, *more)

            for rule, inside in (("every set counts", every_set_counts), ("guard", nullcontext)):
                with inside(), mock.patch.object(pseudolabel, "label_by_view_sets", changed):
                    tables = [scene_table(out, seed, count, method="dense", views=views) for seed in seeds]
                agreeing_row(f"{','.join(views)}; patch features: {what}; {rule}", tables)


@main.command("vit")
@bench.option("--seeds", default="3,4", callback=bench.numbers, help="Seeds of scenes.")
@bench.count
@bench.out("vit")
@bench.option(
    "--clip", type=click.Path(path_type=Path), required=True, help="What `train_tiny_clip.py --vision vit` wrote."
)
@bench.option("--pool", type=click.Choice(["class", "mean"]), default="class", help="As it was trained.")
def vit(seeds: list[int], count: int | None, out: Path, clip: Path, pool: str) -> None:
    """Dense labels of a vision transformer, with each attention of its patches, with and without the guard.

    "block": the patches after the whole last block, which the mean pool averages.
    """
    bench.table("labels", f"mAP, worlds {' '.join(map(str, seeds))}", *AGREEING)
    loaded, whole = mlclip.load_clip, lambda block, patches, _: block(patches, None)
    rows = [("centred", {"method": "centred"}, nullcontext)]
    for attention in (*encoders.ATTENTIONS, "block"):
        more = {} if attention == "block" else {"attention": attention}
        rows.append((f"cells alone, {attention}; every set counts", {"views": ("cells",), **more}, every_set_counts))
        rows.append((f"views,cells,2, {attention}; every set counts", more, every_set_counts))
        rows.append((f"views,cells,2, {attention}; guard", more, nullcontext))
    for name, settings, inside in rows:
        block, asked = "block" in name, {"method": "dense", "clip": str(clip)} | settings
        stores = [out / f"{'block' if block else 'test'}-{clip.stem}-{seed}" for seed in seeds]
        patched = mock.patch.object(encoders, "_attention_only", whole) if block else nullcontext()
        pooled = mock.patch.object(pseudolabel, "load_clip", lambda *a, **k: with_pool(loaded(*a, **k), pool))
        with inside(), patched, pooled:
            worlds = zip(seeds, stores, strict=True)
            agreeing_row(name, [scene_table(out, seed, count, store=store, **asked) for seed, store in worlds])


# Few class names


def sample(names: int, count: int, seed: int) -> Tensor:
    """`count` different random indices below `names`."""
    return torch.randperm(names, generator=torch.Generator().manual_seed(seed))[:count]


def quality(labels: Tensor, truth: Tensor) -> list[float]:
    """Labels (N, C) and truth (N, C) -> share of photos that show none, micro-F1, mAP, labels and true labels per photo."""
    found = labels >= 0.5
    none = float((truth.sum(1) == 0).float().mean())
    means = [float(x.float().sum(1).mean()) for x in (found, truth)]
    return [none, bench.micro_f1(found, truth), class_map(labels, truth), *means]


def real_rows(data: Path) -> dict[tuple[int, str], list[list[float]]]:
    """Labels of the real photos from stored scores: ten sets of names for each number of names."""
    stored, rows = voc12.stored_scores(data), {}
    truth = torch.from_numpy(stored["truth"]).float()  # (N, 20)
    for count in (3, 5, 10, 15):
        for method, make in (("centred", voc12.centred_labels), ("CDUL ζ=0", voc12.cdul_labels)):
            whole = make(stored)
            for number in range(10):
                names = sample(truth.shape[1], count, number)
                alone = make({kind: stored[kind][:, names.numpy()] for kind in ("global_", "alpha", "beta")})
                for kind, labels in ((method, alone), (f"{method}, contrast: the others", whole[:, names])):
                    rows.setdefault((count, kind), []).append(quality(labels, truth[:, names]))
    return rows


def demo_rows(out: Path, seeds: list[int], photos: int | None) -> dict[tuple[int, str], list[list[float]]]:
    """Centred labels of the demo scenes: five sets of names for each number of names and each seed."""
    rows: dict[tuple[int, str], list[list[float]]] = {}
    for count in (2, 3, 5, 8, 12):
        for seed in seeds:
            for number in range(5):
                names = [KINDS[i] for i in sample(len(KINDS), count, number).tolist()]
                others = [name for name in KINDS if name not in names]
                for kind, contrast in (("", None), (", contrast: the others", others), (", contrast: coco", "coco")):
                    asked = {"classes": names, "contrast": contrast, "method": "centred"}
                    found = quality(*scene_labels(out, seed, photos, "train", **asked))
                    rows.setdefault((count, f"centred{kind}"), []).append(found)
    return rows


@main.command("few-names")
@bench.option("--photos", type=click.Choice(["real", "demo"]), default="real", help="Real photos or demo scenes.")
@bench.seeds
@bench.data
@bench.count
@bench.out("few_names")
def few_names(photos: str, seeds: list[int], data: Path, count: int | None, out: Path) -> None:
    """Labels of a folder where many photos show none of the class names: a few names alone, and with contrast names."""
    rows = real_rows(data) if photos == "real" else demo_rows(out, seeds, count)
    columns = ("micro-F1", "mAP", "labels per photo", "true labels per photo")
    bench.table("names", "photos that show none", "labels", *columns)
    for (names, kind), numbers in rows.items():
        none, f1, ranking, predicted, true = np.mean(numbers, axis=0)
        bench.row(names, f"{none:.0%}", kind, f"{f1:.1f}", f"{ranking:.1f}", f"{predicted:.2f}", f"{true:.2f}")


# Names that mean the same

# Names that are added to the 18 of the demo, and the class that they are near to.
ADDED = {
    "none": ([], "umbrella"),
    "plural and synonym": (["umbrellas", "parasol"], "umbrella"),
    "words that the tiny CLIP never saw": (["zebra", "trees", "truck"], "umbrella"),
    "plurals of every name": ([f"{name}s" for name in KINDS if name not in ("fish", "leaf")], "umbrella"),
    "the name with other words": (["big umbrella = a big umbrella", "tiny umbrella = a tiny umbrella"], "umbrella"),
    "a parent": (["round thing > ball", "round thing > wheel", "round thing > moon"], "ball"),
}


@contextmanager
def all_names_compete() -> Iterator[None]:
    """Inside it, every name competes with every other one, as without the rule."""
    with mock.patch.object(centred, "competition", lambda *_: None):
        yield


def doubled_scores(stored: Mapping[str, np.ndarray], noise: float, seed: int) -> dict[str, np.ndarray]:
    """Stored scores (N, C) with a second column for five of the classes: the first one with `noise` in its cosine.

    The noise is a share of the spread of the cosine between photos, and different for each view.
    """
    chance, found = np.random.default_rng(seed), {}
    columns = chance.permutation(stored["global_"].shape[1])[:5]
    for name in ("global_", "alpha"):
        cosines = voc12.cosines_of(stored[name]).numpy()
        copies = cosines[:, columns] + noise * cosines.std(0)[columns] * chance.standard_normal((len(cosines), 5))
        scores = np.exp(np.concatenate([cosines, copies], 1) / np.log(100))
        found[name] = scores / scores.sum(1, keepdims=True)
    return found


@main.command("same-names")
@bench.seeds
@bench.data
@bench.count
@bench.out("same_names")
def same_names(seeds: list[int], data: Path, count: int | None, out: Path) -> None:
    """Labels of the first 18 names of the demo when other names are added, and of real photos with columns that are there twice."""
    rules = {"all compete": all_names_compete, "the rule": nullcontext}
    bench.table("labels", "added names", "names", "mAP", "macro-F1", "photos with the class it concerns", "true")
    for method in ("centred", "dense"):
        for added, (names, near) in ADDED.items():
            column = list(KINDS).index(near)
            children = {name.rpartition("> ")[2] for name in names if ">" in name}
            asked = [*(kind for kind in KINDS if kind not in children), *names]
            for rule, inside in rules.items():
                rows = []
                for seed in seeds:
                    with inside():
                        scores, truth = scene_labels(out, seed, count, method=method, classes=asked, only=KINDS)
                    found = scores >= 0.5
                    rows.append([class_map(scores, truth), bench.macro_f1(found, truth)])
                    rows[-1] += [int(found[:, column].sum()), int(truth[:, column].sum())]
                means = [f"{value:.1f}" for value in np.mean(rows, axis=0)[:2]]
                bench.row(method, added, rule, *means, *(" ".join(str(row[n]) for row in rows) for n in (2, 3)))
    stored = voc12.stored_scores(data)
    truth = torch.from_numpy(stored["truth"]).float()
    bench.table("real photos: noise of the second columns", "names", "mAP", "macro-F1")
    for noise in (None, 0.0, 0.1, 0.3, 0.5, 1.0):
        for rule, inside in rules.items():
            rows = []
            for seed in seeds if noise is not None else (0,):
                with inside():
                    labels = voc12.centred_labels(stored if noise is None else doubled_scores(stored, noise, seed))
                rows.append([class_map(labels[:, : truth.shape[1]], truth)])
                rows[-1].append(bench.macro_f1(labels[:, : truth.shape[1]] >= 0.5, truth))
            means = [f"{value:.1f}" for value in np.mean(rows, axis=0)]
            bench.row("no second columns" if noise is None else noise, rule, *means)


if __name__ == "__main__":
    main()
