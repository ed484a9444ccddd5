"""Fields of a file that must agree: each function says how they disagree, or None."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..config import CLIP_HEAD


def _not_finite(weights: Mapping[str, Tensor]) -> str | None:
    bad = next((name for name, w in weights.items() if w.is_floating_point() and not w.isfinite().all()), None)
    return bad and f"'weights' has NaN or infinite weights ({bad})"


def model_mismatch(content: Mapping[str, Any]) -> str | None:
    classes, weights, thresholds = content["classes"], content["weights"], content["thresholds"]
    head, on_clip = weights.get("head.weight"), content["arch"] == CLIP_HEAD
    if on_clip and not {"clip", "grids"} <= content.keys():
        return "'clip' or 'grids' is missing, which say what the head needs"
    if head is None or head.dim() != (2 if on_clip else 4):
        return "'weights' has no 'head.weight' of a student"
    if len(head) != len(classes):
        return f"'classes' has {len(classes)} names, but 'weights' has {len(head)} classes"
    if len(thresholds) != len(classes):
        return f"'thresholds' has {len(thresholds)} thresholds for {len(classes)} classes"
    if not ((thresholds >= 0) & (thresholds <= 1)).all():
        return "'thresholds' has values that are not numbers from 0 to 1"
    calibration = content["meta"].get("calibration")
    while calibration and calibration.get("before"):
        before = calibration["before"]
        if any(len(before[name]) != len(classes) for name in ("scale", "offset", "thresholds")):
            return f"'meta.calibration' is not for {len(classes)} classes"
        calibration = before["calibration"]
    return _not_finite(weights)


def labels_mismatch(content: Mapping[str, Any]) -> str | None:
    shape, wanted = tuple(content["scores"].shape), (len(content["paths"]), len(content["classes"]))
    return f"'scores' has shape {shape}, but there are {wanted[0]} paths and {wanted[1]} classes" * (shape != wanted)


def shard_mismatch(content: Mapping[str, Any]) -> str | None:
    photos, sizes, rows = len(content["content"]), len(content["bytes"]), len(content["embeddings"])
    return f"'embeddings' has {rows} rows for {photos} photos" if {photos, sizes} != {rows} else None


def index_mismatch(content: Mapping[str, Any]) -> str | None:
    photos, rows = len(content["photos"]), len(content["content"])
    return f"'content' has {rows} rows for {photos} photos" if photos != rows else None


def update_mismatch(content: Mapping[str, Any]) -> str | None:
    rows, known = len(content["rows"]), len(content["known"])
    return f"'known' has {known} rows for {rows} photos" if rows != known else None


def resume_mismatch(content: Mapping[str, Any]) -> str | None:
    given, latent = content["given"], content["latent"]
    if latent is not None and latent.shape != given.shape:
        return f"'latent' has shape {tuple(latent.shape)}, but 'given' has {tuple(given.shape)}"
    return _not_finite(content["weights"]) or _not_finite(content.get("average") or {})
