"""The classifier on disk: `model.pt`, everything that prediction needs, never half-written.

`model.pt` is {"format": "mlclip.model", "version": 1, "arch", "classes", "size", "thresholds", "weights", "meta"} of
plain containers and tensors. What training needs besides to go on after a kill is a file of its own, see `train.py`.
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
    """A student and what must travel with it: `thresholds` (C,) in [0, 1], and where it came from."""

    model: Classifier
    thresholds: Tensor
    meta: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write `model.pt` atomically; weights are stored in float32 on the CPU."""
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
    """The student of a `model.pt`, in eval mode on `device`. InputError where the file is missing or damaged."""
    content = load_plain(path, kind="model", made_by="mlclip train --labels labels.pt")
    try:
        model = classifier_of(content["arch"], content["classes"], content["size"], content["weights"])
        thresholds, meta = content["thresholds"], content["meta"]
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} does not fit its own description ({content.get('arch')}, {len(content.get('classes') or ())} classes; "
            f"{str(error).splitlines()[0]}); train again"
        ) from error
    broken = next((n for n, w in content["weights"].items() if w.is_floating_point() and not w.isfinite().all()), None)
    if broken:
        raise InputError(f"{path} holds NaN or infinite weights ({broken}); train again")
    if tuple(thresholds.shape) != (len(model.classes),):
        raise InputError(f"{path} holds {len(thresholds)} thresholds for {len(model.classes)} classes; train again")
    if not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise InputError(f"{path} holds thresholds that are no numbers from 0 to 1; train again")
    return Checkpoint(model.to(device).eval(), thresholds, meta)
