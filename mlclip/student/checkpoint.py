"""The classifier on disk: `model.pt` holds everything that prediction needs. It is written completely or not at all.

`model.pt` is {"format": "mlclip.model", "version": 1, "arch", "classes", "size", "thresholds", "weights", "meta"} of
plain containers and tensors. The state of an unfinished training is a separate file, see `training/state.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import InputError
from ..files import load_plain, save_plain
from .model import Classifier, classifier_of


@dataclass
class Checkpoint:
    """A student with its `thresholds` (C,) in [0, 1], and `meta`: how it was made."""

    model: Classifier
    thresholds: Tensor
    meta: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write `model.pt` atomically. Weights are stored in float32 on the CPU."""
    model = checkpoint.model
    content = {
        "format": "mlclip.model",
        "version": 1,
        "arch": model.arch,
        "classes": list(model.classes),
        "size": model.size,
        "thresholds": checkpoint.thresholds.float().cpu(),
        "weights": {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()},
        "meta": checkpoint.meta,
    }
    save_plain(content, path)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read the student of a `model.pt`, in eval mode on `device`. InputError if the file is missing or damaged."""
    content = load_plain(path, kind="model", made_by="mlclip train --labels labels.pt")
    try:
        model = classifier_of(content["arch"], content["classes"], content["size"], content["weights"])
        thresholds, meta = content["thresholds"], content["meta"]
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged: its weights do not fit {content.get('arch')} with {len(content.get('classes') or ())} classes "
            f"({str(error).splitlines()[0]}). Train again."
        ) from error
    broken = next((n for n, w in content["weights"].items() if w.is_floating_point() and not w.isfinite().all()), None)
    if broken:
        raise InputError(f"{path} has NaN or infinite weights ({broken}). Train again.")
    if tuple(thresholds.shape) != (len(model.classes),):
        raise InputError(f"{path} has {len(thresholds)} thresholds for {len(model.classes)} classes. Train again.")
    if not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise InputError(f"{path} has thresholds that are not numbers from 0 to 1. Train again.")
    return Checkpoint(model.to(device).eval(), thresholds, meta)
