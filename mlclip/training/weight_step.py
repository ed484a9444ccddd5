"""Weight steps: one pass of the student over the photos while the labels stand still.

Letters: N photos, C classes, B photos of one weight step, H W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from ..config import InputError, TrainConfig
from ..distributed import Distributed
from ..images import Photo, PhotoViews, photo_batches
from ..methods import ccd
from ..methods.cdul import bernoulli_kl_with_logits
from ..progress import Progress
from ..student.model import Classifier
from ..student.predict import autocast
from .augment import jitter_colours, jitter_table
from .schedule import strong_views_due
from .state import TrainingState


def weight_epoch(state: TrainingState, targets: Tensor, num_workers: int, progress: Progress) -> tuple[float, float]:
    """One pass of weight steps over the photos towards targets (N, C): the mean loss, and photos a second."""
    config, epoch = state.config, state.epochs
    shakes = None
    if strong_views_due(config, epoch):
        shakes = jitter_table(len(state.photos), torch.Generator().manual_seed(config.seed * 100_003 + epoch))  # (N, 8)
    started, seen, total = time.monotonic(), 0, 0.0
    with progress.bar(f"epoch {epoch + 1}/{config.epochs}", len(state.photos), "photos") as bar:
        for rows, pixels, bad in epoch_batches(state.photos, epoch, config, num_workers, state.distributed):
            state.skipped |= bad
            strong = () if shakes is None else (shakes[rows], config.consistency)
            loss, count = weight_step(state.model, state.optimizer, pixels, targets[rows], state.distributed, *strong)
            if not math.isfinite(loss):
                kept = f"epoch {epoch} is kept, --resume --epochs {epoch} writes it as a model"
                raise InputError(
                    f"the loss is not finite in epoch {epoch + 1}: lower --lr (now {config.lr:g}); "
                    + (kept if epoch else "nothing was kept")
                )
            if state.average:
                state.average.update_parameters(state.model)
            seen, total = seen + count, total + loss * count
            bar.update(count, f"loss {total / max(1, seen):.4f}")
    if not seen:
        raise InputError(f"not one of {len(state.photos)} labelled photos can be read; see which with `mlclip predict`")
    return total / seen, seen / (time.monotonic() - started)


def weight_step(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    pixels: Tensor,
    targets: Tensor,
    distributed: Distributed,
    shakes: Tensor | None = None,
    consistency: float = 1.0,
) -> tuple[float, int]:
    """One step on uint8 pixels (B, 3, H, W) towards targets (B, C) in [0, 1] or NaN: the mean loss, and B.

    The loss is the Bernoulli KL divergence, binary cross-entropy but for a constant. With `shakes` (B, 8), rows of
    `augment.jitter_table`, CCD's consistency between the photo and its strong view is added, times `consistency`. B counts
    the photos of all processes and the loss is their common mean: how many share a step changes neither it nor the gradient.
    """
    device = distributed.device
    count = int(distributed.all_reduce(torch.tensor(len(pixels), device=device)))
    if not count:
        return 0.0, 0
    pixels = pixels.to(device, memory_format=torch.channels_last, non_blocking=True)
    views = pixels if shakes is None else torch.cat([pixels, jitter_colours(pixels, shakes)])  # (B or 2·B, 3, H, W)
    targets = targets.to(device)
    known = ~targets.isnan()
    model.train()
    with autocast(device):
        logits = model(views)  # (B or 2·B, C)
    weak, strong = logits[: len(pixels)].float(), logits[len(pixels) :].float()
    seen = torch.where(known, weak, 0.0)
    losses = bernoulli_kl_with_logits(torch.where(known, targets, 0.5), seen)  # (B,); an unknown label adds 0
    if shakes is not None:
        losses = losses + consistency * ccd.consistency_loss(weak, strong)
    loss = losses.sum() / count
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    distributed.all_reduce_gradients(model.parameters())
    optimizer.step()
    return float(distributed.all_reduce(loss.detach())), count


def epoch_batches(
    photos: list[Photo], epoch: int, config: TrainConfig, num_workers: int, distributed: Distributed
) -> Iterator[tuple[Tensor, Tensor, dict[str, str]]]:
    """This process's part of every weight step of an epoch: rows (B,), uint8 pixels (B, 3, H, W), unreadable photos.

    Order and flips depend on the seed and the epoch alone, not on batch size, loader processes, or process count.
    Every process gets the same number of steps; a part may be empty.
    """
    chance = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
    torch.manual_seed(config.seed * 100_003 + epoch)  # for trunks with stochastic depth
    order = torch.randperm(len(photos), generator=chance).tolist()
    flipped = torch.rand(len(photos), generator=chance) < 0.5
    dataset = PhotoViews(photos, config.size)
    local = config.batch_size // distributed.world_size
    batches = iter(photo_batches(dataset, batch_size=local, num_workers=num_workers, order=distributed.shard(order)))
    for _ in range(math.ceil(len(photos) / config.batch_size)):
        rows, pixels, unreadable = next(batches, (torch.empty(0, dtype=torch.long), None, []))
        bad = {photos[index].path: reason for index, reason in unreadable}
        if pixels is None:
            yield rows, torch.empty(0, 3, config.size, config.size, dtype=torch.uint8), bad
            continue
        pixels = pixels[:, 0]  # (B, 3, H, W)
        flip = flipped[rows]
        pixels[flip] = pixels[flip].flip(-1)
        yield rows, pixels, bad
