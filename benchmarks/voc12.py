"""Labels of real photos from stored scores of the real CLIP RN50x64, by every method, and their mAP over all 20 classes.

    python benchmarks/voc12.py

The scores were stored as softmax(cosine / ln 100): the published run divided where it should have multiplied. The cosines can be
recovered up to a constant per row, and from them CLIP's own probabilities, softmax(100 · cosine). For the snippets' maximum and
minimum this gives the softmax of the best and worst cosine, which is close to the best and worst softmax.

`benchmarks/ablation.py` trains students on these labels. True labels are used only to report, and to train the students named "truth".
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from pathlib import Path

import bench
import click
import numpy as np
import torch
from torch import Tensor

import mlclip
from mlclip.methods import ccd, centred, profiles
from mlclip.methods.cdul import fuse

SETTINGS = mlclip.PseudolabelConfig(method="centred")
LOGIT_SCALE = 100.0  # 1/τ of OpenAI's CLIP
LEVEL_ROUNDS = 2  # as in the package: first the levels of all photos, then of the photos without the class


def stored_scores(data: Path) -> dict[str, np.ndarray]:
    """`global_`, `alpha` and `beta` (N, C): whole photo, best and worst snippet; `truth` (N, C), `ids` and `classes`."""
    return dict(np.load(data / "rn50x64_scores.npz"))


def cosines_of(stored: np.ndarray) -> Tensor:
    """softmax(cosine / ln 100) as stored (N, C) -> cosines up to a constant per row, float64 (N, C)."""
    return torch.from_numpy(log(100) * np.log(stored.astype(np.float64)))


def true_probabilities(stored: np.ndarray) -> Tensor:
    """CLIP's own softmax(100 · cosine), float32 (N, C)."""
    return (LOGIT_SCALE * cosines_of(stored)).softmax(-1).float()


def centred_labels(stored: Mapping[str, np.ndarray], rerank: bool = True) -> Tensor:
    """Centred labels (N, C) of all stored photos. Only the best cosine of the snippets is known; it is used as one view."""
    views = [cosines_of(stored[name]) for name in ("global_", "alpha")]
    cosines = torch.stack([view - view.mean(1, keepdim=True) for view in views], 1).float()  # (N, 2, C)
    scale, labels = LOGIT_SCALE * SETTINGS.rank_scale, torch.zeros(len(cosines), cosines.shape[-1])
    flat = cosines.double().flatten(0, 1)
    weights = centred.competition(len(flat), flat.sum(0), flat.T @ flat)
    for _ in range(LEVEL_ROUNDS):
        levels = torch.stack([level_of(view, 1 - labels) for view in cosines.unbind(1)])  # (2, C)
        logits = centred.centred_logits(cosines, levels, scale, weights)
        labels = centred.presence(centred.pool_views(logits, 2), SETTINGS.prior_photos)
    if not rerank:
        return labels
    excess = centred.excess(cosines, levels)
    fitted = profiles.fit_profiles(profiles.statistics(excess, profiles.sure_views(logits, labels)))
    by_profiles = centred.pool_views(profiles.profile_logits(fitted, excess, SETTINGS.rank_scale, weights), 2)
    return profiles.rerank_by_profiles(labels, by_profiles, fitted.shown, SETTINGS.prior_photos)


def level_of(cosines: Tensor, absent: Tensor) -> Tensor:
    """Each class's level in one view of all photos (N, C), from photos weighted by `absent` (N, C)."""
    count = absent.sum(0)
    mean = (absent * cosines).sum(0) / count
    return centred.shrunk_levels(mean, (absent * (cosines - mean).square()).sum(0) / (count - 1), count)


def cdul_labels(stored: Mapping[str, np.ndarray], zeta: float = 0.0) -> Tensor:
    """CDUL's final labels (N, C). Scores of single snippets are not stored, but their extremes are enough."""
    whole, highest, lowest = (true_probabilities(stored[name]) for name in ("global_", "alpha", "beta"))
    return fuse(whole, torch.where(highest >= zeta, highest, lowest))


def every_table(stored: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Labels (N, C) in [0, 1] of all photos with stored scores, by every method."""
    whole = true_probabilities(stored["global_"])
    bias = ccd.complete_bias(ccd.class_bias(whole))
    return {
        "global": whole,
        "cdul ζ=0.5": cdul_labels(stored, 0.5),
        "cdul ζ=0": cdul_labels(stored),
        "ccd": ccd.debias(whole, bias),  # CCD's own prompt and larger view would need the encoder
        "ccd, not debiased": ccd.debias(whole, torch.ones_like(bias)),
        "ccd, no floor": ccd.debias(whole, bias, floor=0.0),
        "centred, no profiles": centred_labels(stored, rerank=False),
        "centred": centred_labels(stored),
    }


def make_labels(data: Path, world: bench.World) -> dict[str, mlclip.Labels]:
    """Labels of the training photos by every method, and their true labels."""
    stored, truth = stored_scores(data), world.truth_train
    row_of = {identifier: row for row, identifier in enumerate(stored["ids"].tolist())}
    rows = [row_of[Path(path).stem] for path in truth.paths]
    tables = {name: scores[rows] for name, scores in every_table(stored).items()} | {"truth": truth.scores}
    # "centred" is fitted to all photos with stored scores, which include these
    tables["centred, of these photos alone"] = centred_labels({k: stored[k][rows] for k in ("global_", "alpha")})
    classes = stored["classes"].tolist()
    if classes != truth.classes:
        raise SystemExit(f"classes differ: {classes} and {truth.classes}")
    return {name: mlclip.Labels(truth.paths, classes, scores, str(world.train)) for name, scores in tables.items()}


@click.command(help=__doc__)
@bench.data
def main(data: Path) -> None:
    stored = stored_scores(data)
    ids, classes = stored["ids"].tolist(), stored["classes"].tolist()
    truth = mlclip.Labels(ids, classes, torch.from_numpy(stored["truth"]).float())
    top1 = true_probabilities(stored["global_"]).amax(-1).mean()
    print(f"mean top-1 probability of the whole photos: {top1:.3f} (0.85-0.9 means the logit scale is right)")
    bench.table(
        "labels of all photos", "mAP over 20 classes", "labels per photo: sum of scores", "scores of 0.5 or more"
    )
    for name, scores in {**every_table(stored), "truth": truth.scores}.items():
        quality = bench.mean_ap(mlclip.Labels(ids, classes, scores), truth)
        predicted = (scores >= 0.5).float().sum(1).mean()
        bench.row(name, f"{quality:.1f}", f"{scores.sum(1).mean():.2f}", f"{predicted:.2f}")


if __name__ == "__main__":
    main()
