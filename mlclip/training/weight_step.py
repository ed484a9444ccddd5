"""Weight steps: one pass of the student over the photos, with fixed labels; their number format, and the average of the weights.

Letters: N photos, C classes, B photos of one weight step on this rank, H W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ..config import InputError, TrainConfig
from ..distributed import Distributed, Runtime
from ..images import Photo, PhotoViews, photo_batches
from ..methods import ccd
from ..methods.cdul import bernoulli_kl_with_logits
from ..student.model import CLIP_ARCH
from ..teacher.scoring import DTYPES, cpu_bf16_is_faster
from .augment import crop_boxes, crops, jitter_colours, jitter_table
from .input_cache import InputCache
from .schedule import FORECAST_STEPS, forecast_line, steps_per_epoch, strong_views_due
from .state import TrainingState

# A weight step in bf16 on a CPU with AVX-512 bf16 takes 0.46 (resnet50), 0.56 (resnet18), 0.64 (convnext_tiny) and 0.54
# (mobilenet_v2) of the time in float32; but 1.0 (efficientnet_b0, mobilenet_v3_large) and 1.2 (mobilenet_v3_small).
FASTER_IN_BF16 = ("resnet", "convnext", "mobilenet_v2", CLIP_ARCH)
CHECKED_EVERY = 50  # steps between two checks of the loss where a check costs time: on a GPU, and with several ranks


def weight_epoch(state: TrainingState, targets: Tensor) -> tuple[float, float]:
    """One pass of weight steps over the photos, with targets (N, C): the mean loss, and photos per second.

    The loss stays on the device between two checks, so that a GPU is not interrupted.
    """
    config, epoch, steps, distributed = state.config, state.epochs + 1, steps_per_epoch(state), state.distributed
    device, photos, jitter = distributed.device, len(state.photos), None
    if strong_views_due(config, epoch):
        jitter = jitter_table(photos, torch.Generator().manual_seed(_epoch_seed(config, epoch)))  # (N, 8)
    weights, progress = state.weights, state.runtime.progress  # (N, C) or None
    free = device.type == "cpu" and distributed.world_size == 1  # a check of the loss costs no time
    precise = torch.float32 if device.type == "mps" else torch.float64
    sums = torch.zeros(2, dtype=precise, device=device)  # losses, photos
    mean, seen, note, timed = 0.0, 0.0, "", min(FORECAST_STEPS, steps)
    started = after_first_step = time.monotonic()
    batches = epoch_batches(state.photos, epoch, config, state.runtime, state.cache)
    shown = progress.bar(f"epoch {epoch}/{config.epochs}", photos, "photos")
    with fast_convolutions(state.model, device, state.precision), shown as bar:
        for step, (rows, pixels, unreadable) in enumerate(batches, 1):
            state.skipped |= unreadable
            strong, factors = (None if table is None else table[rows] for table in (jitter, weights))
            loss, count = weight_step(
                state.network, state.optimizer, pixels, targets[rows], distributed, state.precision, strong,
                config.consistency, factors,
            )  # fmt: skip
            sums[0] += loss * count
            sums[1] += len(rows)
            if state.average:
                state.average.update_parameters(state.model)
            forecast = not state.forecast and step in (1, timed)
            if step == steps or free or step % CHECKED_EVERY == 0 or forecast:
                total, seen = distributed.all_reduce(sums.clone()).tolist()  # waits for the device
                mean = total / max(1.0, seen)
                note = f"loss {mean:.4f}"
                if not math.isfinite(mean):
                    raise InputError(_not_finite(config, epoch))
                if step == 1:  # it is not timed: it also sets up the device
                    after_first_step = time.monotonic()
                elif forecast:
                    state.forecast = forecast_line(state, (time.monotonic() - after_first_step) / (step - 1), step)
                    progress.log(state.forecast)
            bar.update(min(config.batch_size, photos - (step - 1) * config.batch_size), note)
    if not seen:
        raise InputError(f"none of the {photos} labelled photos can be read. `mlclip predict` lists the reasons.")
    return mean, int(seen) / (time.monotonic() - started)


def _not_finite(config: TrainConfig, epoch: int) -> str:
    line = f"the loss is not finite in epoch {epoch}. Use a lower `lr` (now {config.lr:g})"
    if epoch == 1:
        return f"{line}. No epoch was saved."
    saved = f"Epoch {epoch - 1} is saved: `resume=True` with `epochs={epoch - 1}` writes it as a model."
    return f"{line} and `overwrite=True` to start again. {saved}"


def _epoch_seed(config: TrainConfig, epoch: int) -> int:
    return config.seed * 100_003 + epoch - 1


def weight_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pixels: Tensor,
    targets: Tensor,
    distributed: Distributed,
    precision: str = "fp32",
    jitter: Tensor | None = None,
    consistency: float = 1.0,
    weights: Tensor | None = None,
) -> tuple[Tensor | float, Tensor | int]:
    """One step on uint8 pixels (B, 3, H, W) towards targets (B, C) in [0, 1] or NaN.

    The loss is the Bernoulli KL divergence, which is binary cross-entropy minus a constant. With `jitter` (B, 8), rows of
    `augment.jitter_table`, CCD's consistency loss between the photo and its strong view is added, times `consistency`.
    `weights` (B, C) are factors of single labels; None is 1 for all.

    `model` is a Classifier, or torch's DistributedDataParallel around one. Loss and gradient are those of the mean over the
    photos of all ranks, so they do not depend on the number of ranks. Returns this rank's share of the mean loss, and the
    number of photos on all ranks; both may be on the device, so that the step does not wait for it. A step in which no rank
    has a photo changes nothing.
    """
    device = distributed.device
    count = len(pixels)
    if distributed.world_size > 1:
        count = distributed.all_reduce(torch.tensor(count, device=device))  # it stays on the device
    if not len(pixels) and not int(count):
        return 0.0, 0
    pixels = pixels.to(device, memory_format=torch.channels_last, non_blocking=True)
    views = pixels if jitter is None else torch.cat([pixels, jitter_colours(pixels, jitter)])  # (B or 2·B, 3, H, W)
    targets = targets.to(device, non_blocking=True)
    known = ~targets.isnan()
    model.train()
    with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
        logits = model(views.contiguous(memory_format=torch.channels_last))  # (B or 2·B, C)
    weak, strong = logits[: len(pixels)].float(), logits[len(pixels) :].float()
    known_logits = torch.where(known, weak, 0.0)
    weights = None if weights is None else weights.to(device, non_blocking=True)
    losses = bernoulli_kl_with_logits(torch.where(known, targets, 0.5), known_logits, weights)  # (B,); unknown adds 0
    if jitter is not None:
        losses = losses + consistency * ccd.consistency_loss(weak, strong)
    loss = losses.sum() / count
    optimizer.zero_grad(set_to_none=True)
    if isinstance(model, DistributedDataParallel):
        (loss * distributed.world_size).backward()  # it takes the mean of the ranks' gradients, not their sum
    else:
        loss.backward()
        distributed.all_reduce_gradients(model.parameters())
    optimizer.step()
    return loss.detach(), count


def epoch_batches(
    photos: list[Photo], epoch: int, config: TrainConfig, runtime: Runtime, cache: InputCache | None = None
) -> Iterator[tuple[Tensor, Tensor, dict[str, str]]]:
    """This rank's part of every weight step of an epoch: rows (B,), uint8 pixels (B, 3, H, W), path -> reason of unreadable photos.

    Order, flips and crops depend only on the seed and the epoch, not on batch size, dataloader workers, world size or `cache`. Every
    rank gets the same number of steps; a part may be empty.
    """
    distributed, generator = runtime.distributed, torch.Generator().manual_seed(_epoch_seed(config, epoch))
    torch.manual_seed(_epoch_seed(config, epoch))  # for trunks with stochastic depth
    order = distributed.shard(torch.randperm(len(photos), generator=generator).tolist())
    flipped = torch.rand(len(photos), generator=generator) < 0.5
    boxes = crop_boxes(len(photos), generator) if config.augment == "crop" else None  # (N, 4)
    per_rank, steps = config.batch_size // distributed.world_size, math.ceil(len(photos) / config.batch_size)
    if cache:
        batches = cache.batches(order, per_rank)
    else:
        loading = {"batch_size": per_rank, "num_workers": runtime.num_workers, "device": runtime.device}
        batches = iter(photo_batches(PhotoViews(photos, config.size), order=order, **loading))
    for _ in range(steps):
        rows, pixels, skipped = next(batches, (torch.empty(0, dtype=torch.long), None, []))
        unreadable = {photos[index].path: reason for index, reason in skipped}
        if pixels is None:
            yield rows, torch.empty(0, 3, config.size, config.size, dtype=torch.uint8), unreadable
            continue
        pixels = pixels[:, 0]  # (B, 3, H, W)
        flip = flipped[rows]
        pixels[flip] = pixels[flip].flip(-1)
        yield rows, pixels if boxes is None else crops(pixels, boxes[rows]), unreadable


def choose_training_precision(name: str, arch: str, device: torch.device) -> str:
    """The precision that `name` ("auto", "fp32" or "bf16") means for weight steps of `arch` on `device`: "fp32" or "bf16".

    "auto": bf16 on GPUs that have it, and on a CPU with instructions for it, for the architectures that gain from it; else
    fp32. In fp16, small gradients become zero.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    gains = device.type == "cpu" and arch.startswith(FASTER_IN_BF16)
    return "bf16" if gains and cpu_bf16_is_faster() else "fp32"


@contextmanager
def fast_convolutions(model: nn.Module, device: torch.device, precision: str) -> Iterator[None]:
    """Inside it, bf16 on a CPU leaves the depthwise convolutions with a stride in float32.

    Their backward pass is then 3 times as fast (mobilenet_v2).
    """

    def in_float32(conv: nn.Conv2d, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return nn.Conv2d.forward(conv, features.float()).to(features.dtype)

    chosen = []
    if device.type == "cpu" and precision == "bf16":
        convolutions = [module for module in model.modules() if type(module) is nn.Conv2d]
        chosen = [conv for conv in convolutions if conv.groups > 1 and conv.stride[0] > 1]
    for conv in chosen:
        conv.forward = partial(in_float32, conv)
    try:
        yield
    finally:
        for conv in chosen:
            del conv.forward  # that of its class again


class WeightAverage(AveragedModel):
    """A copy of `model` with the average of its weights and batch-norm statistics over the last part of the training.

    The last weights depend on the last few batches; the average is more stable (Polyak & Juditsky 1992), most of all where labels
    are noisy. The averaged part is a share of the training so far, not a number of steps (polynomial-decay averaging, Shamir &
    Zhang 2013). So one setting works for 4 epochs and for 40, and a training can be continued with more epochs.

    The weights of step n have the factor 1 / (1 + share · (n - 1)); the average before them has the rest. Share 1 is the mean
    of all steps, 0 is the weights of the last step. In between, the mean age of the averaged weights is share / (1 + share) of
    the training so far. The number of averaged steps stays on the CPU, so an update never waits for a GPU.
    """

    def __init__(self, model: nn.Module, share: float):
        super().__init__(model, use_buffers=True)
        self.share = share

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add the weights and buffers of `model` to the average, in one call. Counters, such as those of batch norm, are copied."""
        ours, theirs = ([*network.parameters(), *network.buffers()] for network in (self.module, model))
        averaged, pairs = int(self.n_averaged), list(zip(ours, theirs, strict=True))
        learned = [pair for pair in pairs if averaged and pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not (averaged and pair[0].is_floating_point())]
        if learned:
            torch._foreach_lerp_(*map(list, zip(*learned, strict=True)), 1 / (1 + self.share * averaged))
        if copied:
            torch._foreach_copy_(*map(list, zip(*copied, strict=True)))
        self.n_averaged += 1
