"""Prediction: model + photos -> Labels. It needs only the student, not CLIP.

Letters: N photos, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import InputError
from ..distributed import choose_device
from ..images import Found, Photo, PhotoViews, Skip, photo_batches
from ..labels.table import Labels
from ..progress import SILENT, Progress
from .checkpoint import Checkpoint
from .model import Classifier


def fast_layout(model: Classifier, device: torch.device) -> Classifier:
    """The model on `device` in channels-last memory order, the fastest one for convolutions."""
    return model.to(device, memory_format=torch.channels_last)


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision where the device supports it: bfloat16 on newer GPUs, float16 on older ones, off on a CPU."""
    enabled = device.type == "cuda"
    kind = torch.bfloat16 if enabled and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.autocast(device.type, kind if enabled else torch.bfloat16, enabled=enabled)


@torch.inference_mode()
def class_maps(model: Classifier, pixels: Tensor, device: torch.device) -> Tensor:
    """Class activation maps (n, C, h, w), float32 on the CPU, of uint8 pixels (n, 3, H, W). The model must be in eval mode."""
    with autocast(device):
        return model.maps(pixels.to(device, memory_format=torch.channels_last)).float().cpu()


@torch.inference_mode()
def score_photos(
    model: Classifier,
    photos: Sequence[Photo],
    *,
    device: torch.device | str | None = None,
    batch_size: int = 64,
    num_workers: int = 2,
    progress: Progress = SILENT,
    label: str = "predicting",
) -> tuple[Tensor, list[tuple[int, str]]]:
    """Sigmoid scores (N, C) of photos, float32 on the CPU, and (index, reason) of the photos that cannot be read.

    Each photo is resized to the student's square input (aspect ratio not kept), without augmentation. Rows of unreadable
    photos are NaN. `device`: None uses a GPU where there is one.
    """
    device = choose_device(device or "auto")
    fast_layout(model, device).eval()
    scores = torch.full((len(photos), len(model.classes)), float("nan"))
    skipped: list[tuple[int, str]] = []
    batches = photo_batches(PhotoViews(photos, model.size), batch_size=batch_size, num_workers=num_workers)
    with progress.bar(label, len(photos), "photos") as bar:
        for indices, pixels, unreadable in batches:  # pixels (n, 1, 3, H, W)
            skipped += unreadable
            if pixels is not None:
                batch = pixels[:, 0].to(device, memory_format=torch.channels_last, non_blocking=True)
                with autocast(device):
                    logits = model(batch)
                scores[indices] = logits.float().sigmoid().cpu()
            bar.update(len(indices) + len(unreadable))
    return scores, skipped


def predict(
    found: Found,
    checkpoint: Checkpoint,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 64,
    num_workers: int = 2,
    progress: Progress = SILENT,
) -> Labels:
    """Scores in [0, 1] of every class for the photos that `find_images` found.

    Photos that cannot be read have no row; `meta["skipped"]` lists them. `meta["thresholds"]` are the model's, per class.
    `device`: None uses a GPU where there is one. Raises InputError if no photo can be read.
    """
    model = checkpoint.model
    scores, unreadable = score_photos(
        model, found.photos, device=device, batch_size=batch_size, num_workers=num_workers, progress=progress
    )
    bad = {index for index, _ in unreadable}
    readable = [index for index in range(len(found.photos)) if index not in bad]
    reasons = [Skip(found.photos[index].path, reason) for index, reason in unreadable]
    skipped = sorted([*found.skipped, *reasons], key=lambda skip: skip.path)
    if not readable:
        raise InputError(
            f"none of the {len(skipped)} photos in {found.root} can be read (first: {skipped[0].path}: {skipped[0].reason})"
        )
    if not scores[readable].isfinite().all():
        raise InputError("the scores of the model are not finite. Train it again.")
    meta = {"thresholds": checkpoint.thresholds.tolist(), "skipped": [[s.path, s.reason] for s in skipped]}
    return Labels([found.photos[i].path for i in readable], model.classes, scores[readable], root=found.root, meta=meta)
