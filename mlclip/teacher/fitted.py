"""What labels were fitted to: kept in `meta["fitted"]`, so that new photos can be labelled by the same values (`like`).

The values are dicts of tensors: CCD's bias; for each view set of centred and dense labels its levels, mixtures, profiles or Gaussians.
"seen" has the mean cosines of the photos, with which new ones are compared.

Letters: N photos, n photos of one batch, V views per photo, C classes, K names, D the joint embedding, G grids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import InputError, OptionError, PseudolabelConfig, config_of
from ..labels.class_tree import ClassList, ClassTree
from ..labels.table import Labels, read_labels
from ..spelling import shorten
from .encode import StoredViews
from .passes import level_sums

FALSE_WARNINGS = 0.001  # share of folders with photos of the same kind that get a warning
FEWEST_PHOTOS = 30  # of both folders together, without a class, from which its means are compared


def seen_in(views: StoredViews, text: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What the photos without each class look like: their number, mean cosine and variance, (C,) each.

    `text` (C, D) has the classes, `labels` (N, C) how probable they are. A photo's cosine is the mean of its finest grid.
    """
    count, mean, variance = level_sums(views, text, 1 - labels)
    return {"photos": count[-1].float(), "mean": mean[-1].float(), "variance": variance[-1].float()}


def other_kind(now: Mapping[str, Tensor], then: Mapping[str, Tensor], classes: list[str]) -> str | None:
    """A sentence if new photos are of another kind than those of the fit, by what `seen_in` says of both; else None.

    Two means of m and n photos of the same kind differ by about the standard error √(variance · (1/m + 1/n)), with the common variance
    of both. A class differs if its means are further apart than a normal distribution allows in FALSE_WARNINGS of all folders, where
    each class may differ by chance. The true labels are not needed. A class with fewer than FEWEST_PHOTOS in both is not compared.
    """
    m, n = now["photos"].clamp(min=1e-9), then["photos"].clamp(min=1e-9)
    error = ((m * now["variance"] + n * then["variance"]) / (m + n) * (1 / m + 1 / n)).sqrt()  # (C,)
    compared = (m + n >= FEWEST_PHOTOS) & (error > 0)
    apart = torch.where(compared, (now["mean"] - then["mean"]).abs() / error, 0.0)
    differ = int((apart > NormalDist().inv_cdf(1 - FALSE_WARNINGS / 2 / len(apart))).sum())
    if not differ:
        return None
    most = int(apart.argmax())
    return (
        f"warning: these photos are of another kind than those that the labels were fitted to: {differ} of {len(apart)} classes "
        f"have another mean cosine than chance allows (most: {classes[most]}, {now['mean'][most]:.3f} instead of "
        f"{then['mean'][most]:.3f}, {apart[most]:.1f} standard errors). If the labels look wrong, label without `like`."
    )


class Like(NamedTuple):
    """Labels whose fitted values are used again, and how they were made. In their `meta`, the fitted values are tensors."""

    labels: Labels
    config: PseudolabelConfig
    classes: ClassList
    contrast: dict[str, str] | None
    templates: list[str]
    thresholds: list[float]


def read_like(like: str | Path | Labels, given: Mapping[str, Any]) -> Like:
    """The labels, or those in a file. `given` are the settings that a user has chosen.

    OptionError for a setting that would change what is fitted, InputError without fitted values.
    """
    labels, name = (like, "like") if isinstance(like, Labels) else (read_labels(like), str(like))
    meta = labels.meta
    if not isinstance(meta.get("fitted"), Mapping):
        raise InputError(
            f"{name}: made by an older version or by another program: it has no fitted values; label the folder again, into a .pt file."
        )
    try:
        config, fitted = config_of(PseudolabelConfig, meta["settings"]), _as_tensors(meta["fitted"])
        classes = ClassList(zip(labels.classes, meta["prompts"], strict=True), ClassTree.of(meta))
        contrast, thresholds = {prompt: prompt for prompt in meta["contrast"]} or None, labels.thresholds.tolist()
        if not (len(fitted["seen"]["mean"]) == len(classes) and meta["templates"] and meta["clip"]["name"]):
            raise ValueError("other classes")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: its fitted values are damaged or of other classes ({str(error)[:80]}); label the folder again."
        ) from error
    before = asdict(config)
    wrong = [key for key, value in given.items() if value not in (None, (), []) and value != before.get(key)]
    if wrong:
        raise OptionError(
            f"`like` takes names, prompts, method and settings from {name}. Remove {shorten([f'`{key}`' for key in wrong])}, or label "
            "without `like`"
        )
    labels = replace(labels, meta=meta | {"fitted": fitted})
    return Like(labels, config, classes, contrast, meta["templates"], thresholds)


def _as_tensors(value: Any) -> Any:
    """Fitted values from a .json, where tensors are lists."""
    if isinstance(value, Mapping):
        return {key: _as_tensors(item) for key, item in value.items()}
    return torch.tensor(value) if isinstance(value, list) else value
