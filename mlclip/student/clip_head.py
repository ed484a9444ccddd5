"""A student that is a head on CLIP's own embeddings: nothing but the head is trained, and prediction runs CLIP.

The file `model.pt` holds the head and says which CLIP it needs. That CLIP is loaded when the first photo is predicted.

Letters: N photos, V views or patch features per photo, D the joint embedding, C classes, S the side of a view in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..clip.pixels import pixels_of
from ..clip.registry import find_name, is_open_clip_name
from ..config import CLIP_HEAD, InputError
from ..files import refused
from ..methods.dense import pool_cells
from ..methods.linear_head import pooled_logits
from ..progress import SILENT, Progress
from .model import Classifier, filled

if TYPE_CHECKING:  # a model that needs no CLIP does not import it
    from ..clip.model import CLIP
    from ..teacher.scoring import Teacher

ENLARGED = 2  # the side of a whole photo whose patch features the head takes, as a multiple of CLIP's input size


def clip_of(teacher: Teacher) -> dict[str, Any]:
    """What identifies the CLIP of a teacher, as in `model.pt`. The path of a weight file or folder is made absolute."""
    own = teacher.name if is_open_clip_name(teacher.name) else os.path.abspath(teacher.name)
    return {
        "name": find_name(teacher.name) or own,
        "sha256": teacher.sha256,
        "activation": teacher.clip.activation,
        "precision": teacher.precision,  # of the image encoder: "fp32", "bf16" or "fp16"
        "pixels": teacher.pixels.as_plain(),
    }


class ClipHead(nn.Module):
    """CLIP's image encoder, a linear layer on each of its vectors, and a pool over them: photos -> logits.

    `grids` (1, 2, 3) are the views: the whole photo, its 2×2 and its 3×3 snippets. Each is resized to a square of `size` pixels.
    The vectors are the patch features of the views, averaged to at most `side` × `side` of a view, or, where `side` is 0, the
    embeddings of the views. `pool` is one of `methods.linear_head.POOLS`. The module has only the parameters of the head, of
    `channels` inputs, and the calibration `scale` and `offset` (C,), as `Classifier` has. CLIP is `needed` but is not a part of the
    state dict; it is loaded by `load_encoder`.
    """

    arch = CLIP_HEAD

    def __init__(
        self, classes: Sequence[str], size: int, grids: Sequence[int], side: int, pool: str, channels: int, needed: dict
    ):
        super().__init__()
        self.classes, self.size, self.needed = list(classes), size, needed
        self.grids, self.side, self.pool = tuple(grids), side, pool
        self.head = nn.Linear(channels, len(self.classes))
        self.register_buffer("scale", torch.ones(len(self.classes)))
        self.register_buffer("offset", torch.zeros(len(self.classes)))
        self._clip: list[CLIP] = []  # a list, so that torch does not count it as a part of this module
        self._teacher: Teacher | None = None

    @property
    def work(self) -> int:
        """What CLIP encodes for each photo, as a number of views of CLIP's own size."""
        return ENLARGED**2 if self.side else sum(n * n for n in self.grids)

    def cost(self) -> str:
        """What prediction needs, in words."""
        what = f"once, {self.size} px" if self.side else f"{self.work} views"
        return f"CLIP {self.needed['name']} for every photo ({what})"

    def use(self, teacher: Teacher) -> ClipHead:
        """Take the CLIP of a teacher, which has the right weights. Returns the model itself."""
        self._clip, self._teacher = [teacher.clip], teacher
        return self

    def load_encoder(
        self, clip: str | Path | None = None, *, offline: bool = False, progress: Progress = SILENT
    ) -> None:
        """Load the CLIP that the head needs, unless it is loaded: by its name or path, or from the file `clip`.

        A name is downloaded once, unless `offline=True`.
        """
        from ..clip import load_clip

        if self._clip:
            return
        needed, asked = self.needed, str(clip or self.needed["name"])
        wanted = f"CLIP {needed['name']} (sha256 {needed['sha256'][:12]}...)"
        if not (os.path.exists(asked) or find_name(asked) or is_open_clip_name(asked)):
            remedy = "Put the weight file there, or name its new place with `mlclip.load_model(FILE, clip=...)`."
            raise InputError(f"this model needs {wanted}, and {asked} is not a file. {remedy}")
        with refused(f"this model needs {wanted}", "", InputError):
            facts = {"activation": needed["activation"], "pixels": pixels_of(needed.get("pixels"))}
            loaded = load_clip(asked, **facts, offline=offline, progress=progress)
        if loaded.sha256 != needed["sha256"]:
            raise InputError(f"this model needs {wanted}, and {asked} is another one (sha256 {loaded.sha256[:12]}...).")
        self._clip = [loaded]

    def encoder_on(self, device: torch.device) -> Teacher:
        """The CLIP on a device. fp16 becomes fp32 on a CPU. InputError if it cannot be loaded."""
        from ..teacher.scoring import Teacher

        self.load_encoder()
        if self._teacher is None or self._teacher.device != device:
            precision = self.needed["precision"]
            cpu_fp16 = device.type == "cpu" and precision == "fp16"
            self._teacher = Teacher(self._clip[0], device, "fp32" if cpu_fp16 else precision)
        return self._teacher

    @torch.no_grad()
    def vectors(self, pixels: Tensor, batch_size: int) -> Tensor:
        """uint8 views (N, V, 3, S, S) -> what the head takes (N, V, D), float32. About `batch_size` views of CLIP's size at a time."""
        from ..teacher.encode import embed_views_and_cells

        teacher, flat = self.encoder_on(self.scale.device), pixels.flatten(0, 1)
        if not self.side:
            return teacher.embed_photos(pixels, batch_size)
        parts = flat.split(max(1, batch_size // self.work))
        cells = [pool_cells(embed_views_and_cells(teacher, part, "key")[1], self.side) for part in parts]
        return torch.cat(cells).unflatten(0, pixels.shape[:2]).flatten(1, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 views (N, V, 3, S, S) -> calibrated logits (N, C)."""
        return self.logits(self.vectors(pixels, len(pixels) * self.work))

    def logits(self, vectors: Tensor) -> Tensor:
        """What the head takes (N, V, D), float32 -> calibrated logits (N, C)."""
        return self.scale * pooled_logits(vectors, self.head.weight, self.head.bias, self.pool) + self.offset

    calibrate = Classifier.calibrate  # from now on each logit becomes slope · logit + offset


def refuse_clip_head(model: nn.Module, action: str) -> None:
    """InputError for a ClipHead, which cannot do what `action` says."""
    if isinstance(model, ClipHead):
        what = f"this model cannot {action}: it is a head on the embeddings of CLIP {model.needed['name']}"
        raise InputError(f"{what}. Train a student with another `arch`, such as mobilenet_v2.")


def clip_head_of(content: Mapping[str, Any]) -> ClipHead:
    """The model in the content of a `model.pt`, which `plain.FIELDS["model"]` has checked. InputError if it does not fit."""
    facts, weights = [content[name] for name in ("classes", "size", "grids", "side", "pool")], content["weights"]
    channels = weights["head.weight"].shape[1]
    what = f"the weights are not those of {CLIP_HEAD}"
    return filled(lambda: ClipHead(*facts, channels, content["clip"]), weights, what)
