"""Dense labels: every patch feature, a position of CLIP's feature map, is one more view of the photo. This goes beyond both papers.

A view set has one set of vectors per photo: the views of centred labels, the patch features of those views, or those of the whole
photo at one size. Each view set gives separate labels, by the steps of centred labels (`methods/centred.py`) and with class
levels of this view set. Each set of patch features also gives the labels of a second classifier: Gaussians of the classes in
embedding space (`methods/profiles.py`), fitted to the centred labels of the views. The dense labels are the mean over the view
sets, where those that agree more with the centred labels have more weight.

Pure functions of tensors. Letters: N photos, C classes, D the joint embedding, h w positions of a feature map, s side of a pooled map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import NAMED_SETS

VIEWS, CELLS = NAMED_SETS  # both come from one pass; any other set is the whole photo at a multiple of CLIP's side
PRESENT = 0.5  # a photo shows a class, as far as agreement is concerned, if its label is at least this high
FULL_AGREEMENT = 0.9  # about that of patch features that mean the same as the views


def pool_cells(cells: Tensor, side: int) -> Tensor:
    """Feature maps (N, h, w, D) -> at most side × side patch features, averaged and L2-normalised, (N, s·s', D), row by row.

    Each one is the mean direction of those that it covers. A map with fewer positions stays as it is.

    >>> pool_cells(torch.tensor([[[[3.0, 0.0], [0.0, 4.0]]]]), 1)
    tensor([[[0.7071, 0.7071]]])
    """
    on_mps = cells.device.type == "mps"  # where adaptive pooling needs sides that are multiples
    maps = F.normalize((cells.cpu() if on_mps else cells).float(), dim=-1).permute(0, 3, 1, 2)  # (N, D, h, w)
    size = tuple(min(side, length) for length in maps.shape[2:])
    return F.normalize(F.adaptive_avg_pool2d(maps, size).flatten(2).transpose(1, 2), dim=-1).to(cells.device)


def agreement(logits: Tensor, labels: Tensor, threshold: float = PRESENT) -> float:
    """How well log-odds (N, C) rank the photos, in [0, 1]: the mean average precision against `labels` (N, C) at `threshold`.

    No true labels are needed. Classes that no photo has, or all photos have, do not count. Without any other class it is 0.

    >>> round(agreement(torch.tensor([[2.0], [1.0], [0.0]]), torch.tensor([[0.9], [0.1], [0.8]])), 4)
    0.8333
    """
    present = labels >= threshold  # (N, C)
    counted = present.any(0) & ~present.all(0)  # (C,)
    if not counted.any():
        return 0.0
    order = logits[:, counted].argsort(dim=0, descending=True, stable=True)
    hits = present[:, counted].gather(0, order).double()  # (N, C) best photo first
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1, dtype=torch.double)[:, None]
    return float(((precision * hits).sum(0) / hits.sum(0)).mean())


def least_agreement(labels: Tensor, threshold: float = PRESENT) -> float:
    """The agreement with `labels` (N, C) below which a view set does not count: halfway from chance to FULL_AGREEMENT.

    Chance is the mean average precision of a random order. With n of N photos it is (H + (N − H) · (n − 1) / (N − 1)) / N, where
    H = 1 + 1/2 + … + 1/N. Without any class that counts, the result is 0.

    >>> round(least_agreement(torch.tensor([[0.9], [0.1]])), 4)  # chance is ¾: the mean of 1 and ½
    0.825
    """
    present = labels >= threshold  # (N, C)
    shown = present[:, present.any(0) & ~present.all(0)].sum(0).double()  # (counted,)
    if not len(shown):
        return 0.0
    photos, harmonic = len(labels), float((1 / torch.arange(1, len(labels) + 1, dtype=torch.double)).sum())
    chance = (harmonic + (photos - harmonic) * (shown - 1) / (photos - 1)) / photos
    return (float(chance.mean()) + FULL_AGREEMENT) / 2


def average_labels(labels: Sequence[Tensor], agreements: Sequence[float]) -> Tensor:
    """The mean of several labels (N, C), weighted by the squares of their agreements.

    >>> average_labels([torch.tensor([[1.0]]), torch.tensor([[0.0]])], [1.0, 0.5])
    tensor([[0.8000]])
    """
    weights = torch.tensor([max(agreement, 1e-6) ** 2 for agreement in agreements])
    return torch.einsum("k,knc->nc", weights / weights.sum(), torch.stack(list(labels))).clamp(0, 1)  # rounding


def encoded_sets(chosen: Sequence[str]) -> list[str]:
    """The view sets that are encoded for the `chosen` ones. The views come first; they cost nothing beside their own cells.

    >>> encoded_sets(["cells", "2"]), encoded_sets(["1.5", "2"])
    (['views', 'cells', '2'], ['1.5', '2'])
    """
    patches = [name for name in chosen if name != VIEWS]
    return [VIEWS, *patches] if {VIEWS, CELLS} & {*chosen} else patches


def side_at(size: str, side: int, stride: int) -> int:
    """The side in pixels of the whole photo for a view set such as "1.5": that multiple of CLIP's `side`, in whole strides.

    >>> side_at("1.5", 224, 32), side_at("1.1", 224, 32)
    (352, 256)
    """
    return max(1, int(float(size) * side / stride + 0.5)) * stride
