"""model + photos -> Labels. The student works alone here; CLIP is not needed.

Letters: N photos, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import InputError
from ..images import Found, Photo, PhotoViews, Skip, photo_batches
from ..labels.table import Labels
from ..progress import SILENT, Progress
from .checkpoint import Checkpoint
from .model import Classifier


def fast_layout(model: Classifier, device: torch.device) -> Classifier:
    """The model on `device` in channels-last memory order, which convolutions are quickest in."""
    return model.to(device, memory_format=torch.channels_last)


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision where the device has it: bfloat16 on newer GPUs, float16 on older ones, nothing on a CPU."""
    on = device.type == "cuda"
    kind = torch.bfloat16 if on and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.autocast(device.type, kind if on else torch.bfloat16, enabled=on)


@torch.inference_mode()
def class_maps(model: Classifier, pixels: Tensor, device: torch.device) -> Tensor:
    """The class activation maps (n, C, h, w), float32 on the CPU, of uint8 pixels (n, 3, H, W); the model is in eval mode."""
    with autocast(device):
        return model.maps(pixels.to(device, memory_format=torch.channels_last)).float().cpu()


@torch.inference_mode()
def score_photos(
    model: Classifier,
    photos: Sequence[Photo],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    num_workers: int = 2,
    progress: Progress = SILENT,
    label: str = "predicting",
) -> tuple[Tensor, list[tuple[int, str]]]:
    """sigmoid scores (N, C) of photos, float32 on the CPU, and (index, reason) of those that could not be read.

    Each photo is squeezed to the student's square input, without augmentation. Rows of unreadable photos are NaN.
    """
    device = torch.device(device)
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
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    num_workers: int = 2,
    progress: Progress = SILENT,
) -> Labels:
    """Scores in [0, 1] of every class for the photos of `find_images`.

    Unreadable photos get no row and are listed in `meta["skipped"]`; `meta["thresholds"]` are the model's, per class.
    Raises InputError when no photo can be read.
    """
    model = checkpoint.model
    scores, unreadable = score_photos(
        model, found.photos, device=device, batch_size=batch_size, num_workers=num_workers, progress=progress
    )
    bad = {index for index, _ in unreadable}
    kept = [index for index in range(len(found.photos)) if index not in bad]
    reasons = [Skip(found.photos[index].path, reason) for index, reason in unreadable]
    skipped = sorted([*found.skipped, *reasons], key=lambda skip: skip.path)
    if not kept:
        raise InputError(
            f"0 of {len(skipped)} photos in {found.root} are readable (first: {skipped[0].path}: {skipped[0].reason})"
        )
    if not scores[kept].isfinite().all():
        raise InputError("the model gives scores that are not finite; train it again")
    meta = {"thresholds": checkpoint.thresholds.tolist(), "skipped": [[s.path, s.reason] for s in skipped]}
    return Labels([found.photos[i].path for i in kept], model.classes, scores[kept], root=found.root, meta=meta)
