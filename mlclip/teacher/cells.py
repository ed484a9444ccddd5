"""Which cells each kind of views has, and how they are computed and stored.

The store of a kind keeps the cells averaged to a small map, in half precision: enough for labels with any other class names.

Letters: N views, h w cells of a feature map, s side of a pooled map, D the joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip.cells import embed_with_cells
from ..clip.pixels import OPENAI, Pixels
from ..methods.dense import CELLS, side_of_kind
from .scoring import Teacher

PHOTO_SIDE = 7  # the cells of a whole photo are averaged to at most 7×7 ...
VIEW_SIDE = 2  # ... and those of one of the 14 views to at most 2×2


@dataclass(frozen=True)
class CellKey:
    """What the cells of one kind depend on besides the photo.

    `grids` (1, 2, 3) means the cells of those views, `grids` (1,) those of the whole photo at `input_size`.
    """

    kind: ClassVar[str] = "cells"
    elsewhere: ClassVar[str] = "Choose another folder with `store`."

    sha256: str  # of the weight file
    activation: str
    input_size: int  # pixels; each view is resized to this square
    grids: tuple[int, ...]
    side: int  # s: a view has s × s cells
    attention: str  # of the second run of a transformer's last block, see `clip/cells.py`
    precision: str  # of the image encoder
    pixels: Pixels = OPENAI  # how the views are resized and normalised

    def as_plain(self) -> dict:
        """The key as JSON holds it. OpenAI's pixels are left out, as in the key of the views."""
        content = asdict(self) | {"grids": list(self.grids), "pixels": self.pixels.for_embeddings()}
        if self.pixels.same_as(OPENAI):
            del content["pixels"]
        return content

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of cells in each grid."""
        return tuple(n * n * self.side**2 for n in self.grids)

    def bytes_per_photo(self, channels: int) -> int:
        """The size in the store of one photo's cells with D = `channels`."""
        return 2 * sum(self.sizes) * channels


def cell_key(kind: str, teacher: Teacher, grids: Sequence[int], attention: str) -> CellKey:
    """The key of the store of a kind of cells: "cells" (those of the views in `grids`), or a multiple of CLIP's side."""
    of_views = kind == CELLS
    size = teacher.input_size if of_views else side_of_kind(kind, teacher.input_size, teacher.stride)
    side = min(VIEW_SIDE if of_views else PHOTO_SIDE, size // teacher.stride)
    grids = tuple(grids) if of_views else (1,)
    facts = (teacher.sha256, teacher.clip.activation, size, grids, side, attention, teacher.precision)
    return CellKey(*facts, teacher.pixels)


@torch.inference_mode()
def embed_views_and_cells(teacher: Teacher, pixels: Tensor, attention: str) -> tuple[Tensor, Tensor]:
    """uint8 views (N, 3, H, W) -> embeddings (N, D) and cells (N, h, w, D), L2-normalised, float32, on the teacher's device."""
    visual, dtype = teacher.clip.visual, teacher.clip.dtype
    parts = [
        embed_with_cells(visual, teacher.normalised(part).to(dtype), attention) for part in teacher.portions(pixels)
    ]
    embeddings, cells = (torch.cat(found).float() for found in zip(*parts, strict=True))
    return F.normalize(embeddings, dim=-1), F.normalize(cells, dim=-1)
