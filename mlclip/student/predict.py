"""Prediction: model + photos -> Labels. It needs only the student; CLIP runs only where the student is a head on it.

Letters: N photos, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import CLIP_HEAD, MODEL_FILE, InputError, OptionError
from ..distributed import choose_device, describe_device
from ..images import Images, Photo, PhotoViews, find_images, photo_batches
from ..images.loader import Batch
from ..images.views import notes, separate_unreadable
from ..labels.table import Labels
from ..machine import default_workers
from ..methods.calibration import match_expected_positives
from ..progress import SILENT, LineProgress, Progress
from .checkpoint import Checkpoint, load_checkpoint, make_consistent, thresholds_of
from .clip_head import ClipHead
from .model import Classifier, fold_batch_norm
from .onnx_model import OnnxModel, is_onnx, load_onnx, predict_onnx

CPU_SLICE = 16  # photos per forward pass on a CPU; the feature maps of more leave its cache


def fast_layout(model: Classifier, device: torch.device) -> Classifier:
    """The model on `device` in channels-last memory order, the fastest one for convolutions."""
    return model.to(device, memory_format=torch.channels_last)


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision where the device supports it: bfloat16 on newer GPUs, float16 on older ones, off on a CPU."""
    enabled = device.type == "cuda"
    kind = torch.bfloat16 if enabled and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.autocast(device.type, kind if enabled else torch.bfloat16, enabled=enabled)


@torch.inference_mode()
def class_maps(model: Classifier, pixels: Tensor, device: torch.device) -> Tensor:
    """Class activation maps (n, C, h, w), float32 on the CPU, of uint8 pixels (n, 3, H, W). The model must be in eval mode."""
    with autocast(device):
        return model.maps(pixels.to(device, memory_format=torch.channels_last)).float().cpu()


@torch.inference_mode()
def score_photos(
    model: Classifier | ClipHead,
    photos: Sequence[Photo],
    rows: Sequence[int] | None = None,
    *,
    device: torch.device,
    batch_size: int = 64,
    num_workers: int = 2,
    progress: Progress = SILENT,
    label: str = "predicting",
    batches: Iterable[Batch] | None = None,
) -> tuple[Tensor, list[tuple[int, str]]]:
    """Sigmoid scores (N, C) of photos, float32 on the CPU, and (row, reason) of the photos that cannot be read.

    Each photo is resized to the student's square input (aspect ratio not kept), without augmentation. Unreadable photos and those
    that are not in `rows` have NaN. `batches` are the photos where they have been read already, as `photo_batches` returns them. A
    ClipHead takes none: it runs CLIP, on about `batch_size` views of its input size at a time.
    """
    rows = range(len(photos)) if rows is None else rows
    if isinstance(model, ClipHead):
        model.load_encoder(progress=progress)
        interpolation = model.to(device).eval().encoder_on(device).pixels.interpolation
        progress.log(f"this model runs {model.cost()}")
        views = PhotoViews(photos, model.size, model.grids, interpolation)
        photos_at_once = max(1, batch_size // model.work)
    else:
        fast_layout(model, device).eval()
        views, photos_at_once = PhotoViews(photos, model.size), batch_size
    if batches is None:
        loading = {"batch_size": photos_at_once, "num_workers": num_workers, "device": device}
        batches = photo_batches(views, order=rows, **loading)
    scores, skipped = torch.full((len(photos), len(model.classes)), torch.nan), []
    with progress.bar(label, len(rows), "photos") as bar, _scorer(model, device, batch_size) as score:
        for indices, pixels, unreadable in batches:  # pixels (n, V, 3, H, W), V = 1 without CLIP
            skipped += unreadable
            if pixels is not None:
                scores[indices] = score(pixels)
            bar.update(len(indices) + len(unreadable))
    for note in notes(photos, views.noted.tolist()):
        progress.log(note)
    return scores, skipped


@contextmanager
def _scorer(
    model: Classifier | ClipHead, device: torch.device, batch_size: int
) -> Iterator[Callable[[Tensor], Tensor]]:
    """A function: uint8 views (n, V, 3, H, W) -> sigmoid scores (n, C), float32 on the CPU.

    On a CPU, each thread runs whole slices of a batch. If all threads shared every layer, they would wait for each other after it,
    and for the threads that decode photos. `benchmarks/speed.py` measures it.
    """
    if isinstance(model, ClipHead):
        yield lambda views: model.logits(model.vectors(views, batch_size)).sigmoid().cpu()
        return
    on_cpu, threads, pool = device.type == "cpu", torch.get_num_threads(), None
    network = fold_batch_norm(model) if on_cpu else model

    def score(views: Tensor) -> Tensor:
        shared = pool and len(views) > 1  # of one photo, there is nothing to share out but the layers
        most = CPU_SLICE if on_cpu else len(views)
        parts = views[:, 0].split(min(most, math.ceil(len(views) / threads)) if shared else most)
        return torch.cat(list((pool.map if shared else map)(_scores, repeat(network), parts, repeat(device))))

    with ExitStack() as at_end:
        if on_cpu and threads > 1:
            starting = {"initializer": torch.set_num_threads, "initargs": (1,)}
            pool = at_end.enter_context(ThreadPoolExecutor(threads, "forward", **starting))
            at_end.callback(torch.set_num_threads, threads)  # the threads of the pool have changed it for the process
        yield score


@torch.inference_mode()
def _scores(network: nn.Module, pixels: Tensor, device: torch.device) -> Tensor:
    with autocast(device):
        logits = network(pixels.to(device, memory_format=torch.channels_last, non_blocking=True))
    return logits.float().sigmoid().cpu()


def load_model(
    path: str | Path = MODEL_FILE, *, device: str = "auto", clip: str | None = None, offline: bool = False
) -> Checkpoint | OnnxModel:
    """The student in a `model.pt`, `.safetensors` or `.onnx`: `model.predict(photo)` predicts photos in memory.

    For a model of `arch="clip-head"` its CLIP is loaded too: from the file `clip`, else by the name or path in the model. It is
    downloaded if it is missing, unless `offline`.
    """
    if is_onnx(path):
        return load_onnx(path, device)
    checkpoint = load_checkpoint(path, choose_device(device))
    if checkpoint.model.arch == CLIP_HEAD:
        checkpoint.model.load_encoder(clip, offline=offline)
    elif clip:
        raise OptionError(f"{path} does not run CLIP; remove `clip`")
    return checkpoint


def predict(
    images: Images,
    model: Checkpoint | OnnxModel | str | Path = MODEL_FILE,
    *,
    batch_size: int = 64,
    device: torch.device | str = "auto",
    num_workers: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Labels:
    """Scores in [0, 1] of photos, as `mlclip predict` computes them; CLIP is only needed for a model of `arch="clip-head"`.

    `images`: a folder, a file, a pattern, "@list.txt", several of these, or the result of `find_images`. `model` is a file (.pt, or
    .safetensors or .onnx of `mlclip export`) or what `load_model` or `train` returned. Photos that cannot be read have no row;
    `meta["skipped"]` lists them. `meta["thresholds"]` are the model's, per class. If the classes of the model have a hierarchy or
    exclusive groups, scores and thresholds agree with them (see `methods.hierarchy`). Raises InputError.
    """
    progress = progress or LineProgress()
    running = {"batch_size": batch_size, "num_workers": default_workers() if num_workers is None else num_workers}
    if is_onnx(model) or isinstance(model, OnnxModel):
        student = model if isinstance(model, OnnxModel) else load_onnx(model, str(device))
        table = predict_onnx(find_images(images), student, progress=progress, **running)
        return Labels(table.paths, table.classes, table.scores, table.root, table.meta)
    checkpoint = model if isinstance(model, Checkpoint) else load_checkpoint(model)
    network, found, device = checkpoint.model, find_images(images), choose_device(device or "auto")
    if isinstance(network, ClipHead):
        network.load_encoder(offline=offline, progress=progress)
    found.say_left_out(progress)
    progress.detail(f"{len(found.photos)} photos in {found.root}; {network.arch}; {describe_device(device)}")
    scores, unreadable = score_photos(network, found.photos, device=device, progress=progress, **running)
    readable, skipped = separate_unreadable(found, unreadable)
    if not scores[readable].isfinite().all():
        raise InputError("the scores of the model are not finite. Train it again.")
    meta = {"thresholds": thresholds_of(checkpoint).tolist(), "skipped": [[s.path, s.reason] for s in skipped]}
    if "hierarchy" in checkpoint.meta and checkpoint.consistent:
        scores = make_consistent(scores, network.classes, checkpoint.meta)
        meta["hierarchy"] = checkpoint.meta["hierarchy"]
    paths = [found.photos[row].path for row in readable]
    return Labels(paths, network.classes, scores[readable], root=found.root, meta=meta)


def fitted_thresholds(scores: Tensor, labels: Tensor, classes: Sequence[str], meta: Mapping[str, Any]) -> Tensor:
    """The thresholds (C,) with which the consistent scores (N, C) give each class as many photos as the labels expect."""
    return match_expected_positives(make_consistent(scores, classes, meta), labels)
