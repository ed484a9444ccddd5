"""Loads photos in batches of uint8 views, with dataloader workers. A photo that cannot be read gives a reason instead.

Letters: n readable photos in a batch, V views of a photo, S side of a view in pixels.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .decode import Unreadable, open_image
from .find import Photo
from .views import REDUCING_GAP, RESAMPLING, Box, Parts, crop_size, in_threads, read_parts, view_array

Unreadables = list[tuple[int, str]]  # index and reason of the photos that cannot be read
Batch = tuple[Tensor, Tensor | None, Unreadables]  # the return value of `collate`


def view_pixels(image: Image.Image, size: int, grids: Sequence[int] = (1,)) -> Tensor:
    """CDUL 1: the views of an RGB image as a uint8 tensor (V, 3, S, S); see `view_array`."""
    return torch.from_numpy(view_array(image, size, grids))


class PhotoParts(Dataset):
    """Item i is (i, a list of uint8 (V, 3, S, S)), or (i, reason) if the photo cannot be read.

    The list has one element for each (size, grids) of `parts`; see `view_array`. The photo is decoded once for all of them.
    `noted` (N,) is in shared memory. It has the bits of NOTES of the photos read so far, by any worker.
    """

    def __init__(self, photos: Sequence[Photo], parts: Parts, interpolation: str = "bicubic"):
        self.photos, self.parts, self.interpolation = photos, list(parts), interpolation
        with torch.inference_mode(False):  # threads and workers set it, also if it is made inside inference mode
            self.noted = torch.zeros(len(photos), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[int, list[Tensor] | str]:
        try:
            parts, noted = read_parts(self.photos[index].file, self.parts, self.interpolation)
        except Unreadable as error:
            return index, str(error)
        self.noted[index] = noted
        return index, [torch.from_numpy(views) for views in parts]


class PhotoViews(PhotoParts):
    """Item i is (i, views of photo i as uint8 (V, 3, S, S)), or (i, reason) if the photo cannot be read."""

    def __init__(self, photos: Sequence[Photo], size: int, grids: Sequence[int] = (1,), interpolation: str = "bicubic"):
        super().__init__(photos, [(size, tuple(grids))], interpolation)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        index, parts = super().__getitem__(index)
        return index, parts if isinstance(parts, str) else parts[0]


@dataclass(eq=False)
class PhotoCrops(Dataset):
    """Item i is (i, crops of photo i as a list of uint8 (3, h, w)), or (i, reason) if the photo cannot be read.

    `boxes[i]` are the crops as (x0, y0, x1, y1), in fractions of the photo's width and height in [0, 1]. Each crop is
    resized with its aspect ratio: its longer side to `longest` pixels, its shorter side to a multiple of `stride` pixels.
    """

    photos: Sequence[Photo]
    boxes: Sequence[Sequence[Box]]
    longest: int
    stride: int
    interpolation: str = "bicubic"

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[int, list[Tensor] | str]:
        try:
            image = open_image(self.photos[index].file)
        except Unreadable as error:
            return index, str(error)
        crops = []
        for box in self.boxes[index]:
            x0, y0 = (min(int(fraction * side), side - 1) for fraction, side in zip(box[:2], image.size, strict=True))
            x1, y1 = (math.ceil(fraction * side) for fraction, side in zip(box[2:], image.size, strict=True))
            crop = image.crop((x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)))
            size = crop_size(*crop.size, self.longest, self.stride)
            pixels = np.asarray(crop.resize(size, RESAMPLING[self.interpolation], reducing_gap=REDUCING_GAP))
            crops.append(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        return index, crops


def collate(items: Sequence[tuple[int, Tensor | str]]) -> Batch:
    """Items of PhotoViews -> one batch, in the same order: as `collate_parts`, with uint8 (n, V, 3, S, S), or None if n = 0."""
    parts = [(index, views if isinstance(views, str) else [views]) for index, views in items]
    indices, stacked, unreadable = collate_parts(parts)
    return indices, stacked[0] if stacked else None, unreadable


def collate_parts(items: Sequence[tuple[int, list[Tensor] | str]]) -> tuple[Tensor, list[Tensor], Unreadables]:
    """Items of PhotoParts -> the indices of the readable photos (n,) int64, their parts, and (index, reason) of the others.

    The parts are uint8 (n, V, 3, S, S) each; the list is empty if n = 0.
    """
    readable = [(index, parts) for index, parts in items if not isinstance(parts, str)]
    unreadable = [(index, reason) for index, reason in items if isinstance(reason, str)]
    indices = torch.tensor([index for index, _ in readable], dtype=torch.int64)
    return indices, [torch.stack(views) for views in zip(*(parts for _, parts in readable), strict=True)], unreadable


def photo_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    num_workers: int = 0,
    order: Sequence[int] | None = None,
    collate_fn: Callable = collate,
    device: torch.device | None = None,
) -> Iterable:
    """Batches of the photos in `order` (indices; all photos in sequence by default).

    `collate_fn` makes a batch from items. `device` is where the network runs that uses the batches. For a CPU, `num_workers`
    threads of this process load batches in advance: they start at once and disturb the network least. The result is then for one
    epoch. For another device, or None, it is a DataLoader with `num_workers` workers, as Python runs one thread at a time. With 0
    the main process loads the batches. They are the same in all cases.
    Workers are not forked from this process, which has threads and may use a GPU: each imports the main script, which therefore
    needs `if __name__ == "__main__":` around its work. Torch's global random state does not change.
    """
    order = list(range(len(dataset)) if order is None else order)
    if device and device.type == "cpu":
        lists = in_threads(dataset.__getitem__, order, batch_size=batch_size, num_threads=num_workers)
        return map(collate_fn, lists)
    batches = math.ceil(len(order) / batch_size)
    num_workers = min(num_workers, batches) if batches > 1 else 0  # the main process would wait for a single batch
    context = None
    if num_workers:
        forkserver = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if forkserver else "spawn")
        if forkserver:
            context.set_forkserver_preload([__name__])  # torch is imported once, not in every worker
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=order,
        num_workers=num_workers,
        collate_fn=collate_fn,
        worker_init_fn=_start_worker,
        multiprocessing_context=context,
        generator=torch.Generator().manual_seed(0),  # without it, each epoch would draw from the global one
    )


def _start_worker(_: int) -> None:
    """One CPU core per worker. Ctrl-C is handled by the main process, which has results to save."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # not the error of the thread that sends batches, when the caller stops before it has fetched all of them
        if not issubclass(kind, EOFError | ConnectionError):
            sys.__excepthook__(kind, error, trace)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = report
    torch.set_num_threads(1)
