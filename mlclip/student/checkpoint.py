"""The classifier on disk: `model.pt` holds everything that prediction needs. It is written completely or not at all.

A name that ends in .safetensors makes a file of that format, with the same content (see `safetensors_file.py`).

`model.pt` is {"format": "mlclip.model", "version": 1, "arch", "classes", "size", "thresholds", "weights", "meta"} of
plain containers and tensors. With the arch clip-head, "clip" and "grids" say which CLIP and which views the head needs; CLIP's
weights are not in the file. The state of an unfinished training is a separate file, see `training/resume.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import CLIP_HEAD, InputError
from ..files import load_plain, save_plain
from .clip_head import ClipHead, clip_head_of, plain_clip
from .model import Classifier, classifier_of
from .safetensors_file import is_safetensors, load_safetensors, save_safetensors

MADE_BY = "mlclip train --labels labels.pt"


@dataclass
class Checkpoint:
    """A student with its `thresholds` (C,) in [0, 1], and `meta`: how it was made.

    If `consistent`, predictions agree with the hierarchy and groups in `meta["hierarchy"]`; else they are the network's own.
    """

    model: Classifier | ClipHead
    thresholds: Tensor
    meta: dict[str, Any] = field(default_factory=dict)
    consistent: bool = True


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write `model.pt` or `model.safetensors` atomically. Weights are stored in float32 on the CPU."""
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
    content |= plain_clip(model) if isinstance(model, ClipHead) else {}
    (save_safetensors if is_safetensors(path) else save_plain)(content, path)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read the student of a `model.pt` or `model.safetensors`, in eval mode on `device`.

    `plain.FIELDS["model"]` says what it must hold. InputError if the file is missing or damaged.
    """
    content = load_safetensors(path) if is_safetensors(path) else load_plain(path, kind="model", made_by=MADE_BY)
    try:
        if content["arch"] == CLIP_HEAD:
            model = clip_head_of(content)
        else:
            model = classifier_of(content["arch"], content["classes"], content["size"], content["weights"])
    except InputError as error:
        raise InputError(f"{path}: {error}. Create the file again with `{MADE_BY}`.") from error
    return Checkpoint(model.to(device).eval(), content["thresholds"].float(), content["meta"])
