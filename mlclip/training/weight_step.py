"""Weight steps: one pass of the student over the photos, with fixed labels.

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
    """One pass of weight steps over the photos, with targets (N, C): the mean loss, and photos per second."""
    config, epoch = state.config, state.epochs + 1
    jitter = None
    if strong_views_due(config, epoch):
        jitter = jitter_table(len(state.photos), torch.Generator().manual_seed(_epoch_seed(config, epoch)))  # (N, 8)
    started, seen, total = time.monotonic(), 0, 0.0
    with progress.bar(f"epoch {epoch}/{config.epochs}", len(state.photos), "photos") as bar:
        for rows, pixels, unreadable in epoch_batches(state.photos, epoch, config, num_workers, state.distributed):
            state.skipped |= unreadable
            strong = () if jitter is None else (jitter[rows], config.consistency)
            loss, count = weight_step(state.model, state.optimizer, pixels, targets[rows], state.distributed, *strong)
            if not math.isfinite(loss):
                raise InputError(_not_finite(config, epoch))
            if state.average:
                state.average.update_parameters(state.model)
            seen, total = seen + count, total + loss * count
            bar.update(count, f"loss {total / max(1, seen):.4f}")
    if not seen:
        raise InputError(
            f"none of the {len(state.photos)} labelled photos can be read. `mlclip predict` lists the reasons."
        )
    return total / seen, seen / (time.monotonic() - started)


def _epoch_seed(config: TrainConfig, epoch: int) -> int:
    return config.seed * 100_003 + epoch - 1


def _not_finite(config: TrainConfig, epoch: int) -> str:
    message = f"the loss is not finite in epoch {epoch}. Use a lower `lr` (now {config.lr:g})"
    if epoch == 1:
        return f"{message}. No epoch was saved."
    last = epoch - 1
    return (
        f"{message} and `overwrite=True` to start again. Epoch {last} is saved: "
        f"`resume=True` with `epochs={last}` writes it as a model."
    )


def weight_step(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    pixels: Tensor,
    targets: Tensor,
    distributed: Distributed,
    jitter: Tensor | None = None,
    consistency: float = 1.0,
) -> tuple[float, int]:
    """One step on uint8 pixels (B, 3, H, W) towards targets (B, C) in [0, 1] or NaN: the mean loss, and B.

    The loss is the Bernoulli KL divergence, which is binary cross-entropy minus a constant. With `jitter` (B, 8), rows of
    `augment.jitter_table`, CCD's consistency loss between the photo and its strong view is added, times `consistency`. The
    returned B is the number of photos on all ranks, and the loss is their mean. So loss and gradient do not depend on the
    number of ranks.
    """
    device = distributed.device
    count = int(distributed.all_reduce(torch.tensor(len(pixels), device=device)))
    if not count:
        return 0.0, 0
    pixels = pixels.to(device, memory_format=torch.channels_last, non_blocking=True)
    views = pixels if jitter is None else torch.cat([pixels, jitter_colours(pixels, jitter)])  # (B or 2·B, 3, H, W)
    targets = targets.to(device)
    known = ~targets.isnan()
    model.train()
    with autocast(device):
        logits = model(views)  # (B or 2·B, C)
    weak, strong = logits[: len(pixels)].float(), logits[len(pixels) :].float()
    known_logits = torch.where(known, weak, 0.0)
    losses = bernoulli_kl_with_logits(torch.where(known, targets, 0.5), known_logits)  # (B,); an unknown label adds 0
    if jitter is not None:
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
    """This rank's part of every weight step of an epoch: rows (B,), uint8 pixels (B, 3, H, W), path -> reason of unreadable photos.

    Order and flips depend only on the seed and the epoch, not on batch size, dataloader workers or world size. Every rank gets
    the same number of steps; a part may be empty.
    """
    generator = torch.Generator().manual_seed(_epoch_seed(config, epoch))
    torch.manual_seed(_epoch_seed(config, epoch))  # for trunks with stochastic depth
    order = torch.randperm(len(photos), generator=generator).tolist()
    flipped = torch.rand(len(photos), generator=generator) < 0.5
    dataset = PhotoViews(photos, config.size)
    per_rank = config.batch_size // distributed.world_size
    batches = iter(photo_batches(dataset, batch_size=per_rank, num_workers=num_workers, order=distributed.shard(order)))
    for _ in range(math.ceil(len(photos) / config.batch_size)):
        rows, pixels, skipped = next(batches, (torch.empty(0, dtype=torch.long), None, []))
        unreadable = {photos[index].path: reason for index, reason in skipped}
        if pixels is None:
            yield rows, torch.empty(0, 3, config.size, config.size, dtype=torch.uint8), unreadable
            continue
        pixels = pixels[:, 0]  # (B, 3, H, W)
        flip = flipped[rows]
        pixels[flip] = pixels[flip].flip(-1)
        yield rows, pixels, unreadable
