"""Linear probes: only the head is fitted to the labels, and nothing below it changes. A training method, and a start for others.

The features are those of the frozen trunk, which sees each photo and its mirror image once. They are kept in a store in the
cache, so a second probe of the same trunk does not need the photos. A head on them has the same logits as a 1×1 convolution
before the pool. With `arch="clip-head"` they are CLIP's own: for a ResNet the patch features of the whole photo at twice CLIP's
input size, from one pass, as dense labels have them; else the embeddings of views, as centred labels have them: a transformer's
patch features may mean nothing. No photo is encoded again if the labels' store has them. The head is fitted by L-BFGS, with a
penalty that is chosen by cross-validation against the labels (`methods/linear_head.py`). So is the pool of a CLIP head.

Letters: N photos, C classes, K trunk channels, V views or patch features per photo, D the joint embedding.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import CLIP_HEAD, InputError, TrainConfig
from ..distributed import Runtime
from ..files import beside, reason_of
from ..images import Photo
from ..labels.table import Labels
from ..methods.linear_head import FOLDS, LOG_MEAN_EXP, MEAN, POOLS, choose_l2, fit_head, fit_pooled_head
from ..student.checkpoint import Checkpoint
from ..student.clip_head import ENLARGED, ClipHead, clip_of
from ..student.model import Classifier
from ..student.predict import autocast, fitted_thresholds
from ..teacher.encode import StoredViews, encoded_views
from ..teacher.fill import Filled, filled_stores
from ..teacher.scoring import Teacher, check_same_teacher
from ..teacher.store import Key, Store, default_store
from .schedule import report_line, true_facts, write_rows
from .start import new_model, training_photos
from .state import TrainingState, corrected_photos, identity_of, label_weights, model_meta

BATCH = 32  # photos per pass through the trunk
GRIDS = (1, 2, 3)  # the views of a CLIP head: those of centred labels


class Problem(NamedTuple):
    """What a head is fitted to: the labels (N, C) of photos in the folder `root`, and their factors (None is 1 for all)."""

    photos: list[Photo]
    labels: Tensor
    weights: Tensor | None
    root: str
    seed: int


@dataclass(frozen=True)
class FittedHead:
    """A head with weight (C, K) and bias (C,), and how it was chosen."""

    weight: Tensor
    bias: Tensor
    l2: float
    tried: list[tuple[float, float]]  # (l2, loss on held-out photos), from strong to weak
    held_out: Tensor  # (N, C) logits of every photo, by a head fitted without it; NaN for unreadable photos
    pool: str = MEAN  # of a CLIP head

    @property
    def loss(self) -> float:
        """The loss on held-out photos."""
        return dict(self.tried)[self.l2]


def train_probe(
    labels: Labels,
    output: str | Path,
    config: TrainConfig,
    runtime: Runtime,
    *,
    teacher: Teacher | None,
    truth: Labels | None,
    offline: bool,
) -> Checkpoint:
    """Fit the head of a new student to the labels. Every rank returns the same student.

    The thresholds come from held-out predictions, which the head has not been fitted to. `model.log.csv` beside `output` lists
    the penalties that were tried. `truth` only adds mAPs of labels and held-out predictions to it. `teacher`, for
    `arch="clip-head"`, is the CLIP that made the labels; `config.other_teacher` allows another one.
    """
    distributed = runtime.distributed
    if config.arch == CLIP_HEAD:
        with distributed.together():
            if labels.meta.get("clip") and not config.other_teacher:
                check_same_teacher(labels.meta["clip"], teacher)
    photos, scores, skipped = training_photos(labels, config, runtime)
    weights = label_weights(corrected_photos(labels, photos), config)
    problem = Problem(photos, scores, weights, labels.root, config.seed)
    if config.arch == CLIP_HEAD:
        asked = {"root": labels.root, "runtime": runtime, **_encoded_for(labels, teacher)}
        with encoded_views(photos, teacher, **asked) as filled:
            fitted, unreadable = _fit_stored(fit_pooled, filled, problem, runtime)
        model = clip_head_for(filled.stores[0].key, labels.classes, fitted, teacher)
        runtime.progress.log(f"prediction with this model will run {model.cost()}; pool: {model.pool}")
    else:
        model = new_model(labels, scores, config, runtime, offline)
        fitted, unreadable = _fit_on_trunk(model, problem, runtime)
        _set_head(model, fitted)
    rows: list[dict] = [{"l2": l2, "held_out_loss": loss, "chosen": int(l2 == fitted.l2)} for l2, loss in fitted.tried]
    if truth:
        facts = true_facts({"labels": scores, "predictions": fitted.held_out.sigmoid()}, photos, labels.classes, truth)
        rows = [row | facts if row["chosen"] else row for row in rows]
        runtime.progress.log(report_line(facts))
    if distributed.is_main:
        write_rows(beside(output, ".log.csv"), rows)
    meta = model_meta(identity_of(labels, config), labels, skipped | unreadable)
    thresholds = fitted_thresholds(fitted.held_out.sigmoid(), scores, labels.classes, meta)
    return Checkpoint(model.to(distributed.device).eval(), thresholds, meta)


def _encoded_for(labels: Labels, teacher: Teacher) -> dict[str, Any]:
    """What `encoded_views` encodes for a CLIP head, and where: in the store of the labels, if it was not in the cache and is still there.

    For a ResNet it is the patch features of the enlarged photo, else views, as `GRIDS`.
    """
    store, made = labels.meta.get("store"), labels.meta.get("clip") or {}
    place = {"store": store if store and made.get("sha256") == teacher.sha256 and os.path.isdir(store) else None}
    if not teacher.is_resnet:
        return {"grids": GRIDS, **place}
    attention = (labels.meta.get("settings") or {}).get("attention", "key")
    return {"view_sets": [str(ENLARGED)], "attention": attention, **place}


def start_from_probe(state: TrainingState, root: str) -> None:
    """Give a new training the head of a probe, fitted to its labels. `root` is the folder of the photos.

    With boosted class maps (`cam_boost`) the first predictions are higher than the probe's.
    """
    problem = Problem(state.photos, state.labels, state.weights, root, state.config.seed)
    fitted, unreadable = _fit_on_trunk(state.model, problem, state.runtime)
    state.skipped |= unreadable
    _set_head(state.model, fitted)


def _fit_on_trunk(model: Classifier, problem: Problem, runtime: Runtime) -> tuple[FittedHead, dict[str, str]]:
    """The head for the features of the trunk, and path -> reason of unreadable photos."""
    with trunk_features(model, problem.photos, problem.root, runtime) as filled:
        return _fit_stored(fit_views, filled, problem, runtime)


def _fit_stored(
    fit: Callable[..., FittedHead], filled: Filled, problem: Problem, runtime: Runtime
) -> tuple[FittedHead, dict[str, str]]:
    """The head that `fit` gives on the main rank, for all. InputError if fewer than 2 of the photos can be read."""
    photos, labels, weights, _, seed = problem
    [store], skipped = filled
    readable = len(photos) - len(skipped)
    if readable < 2:
        raise InputError(f"only {readable} of the {len(photos)} labelled photos can be read. A probe needs at least 2.")
    device = runtime.device if runtime.device.type == "cuda" else torch.device("cpu")
    fitted = runtime.distributed.on_main(lambda: fit(*stored_views(store, photos, device), labels, weights, seed))
    how = f"the best of {len(fitted.tried)} in {FOLDS}-fold cross-validation against the labels"
    runtime.progress.log(f"head: L2 penalty {fitted.l2:.3g}, {how} (loss {fitted.loss:.4f})")
    return fitted, {skip.path: skip.reason for skip in skipped}


# Features of the trunk: its last feature map, averaged over its cells, of each photo and its mirror image


def feature_key(model: Classifier, device: torch.device) -> Key:
    """The key of the store for the trunk of `model` on `device`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.trunk.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    dtype = autocast(device).fast_dtype if device.type == "cuda" else torch.float32
    return Key("features", digest.hexdigest(), model.arch, model.size, precision=str(dtype).removeprefix("torch."))


@torch.inference_mode()
def pooled_features(model: Classifier, pixels: Tensor, device: torch.device) -> Tensor:
    """Features (n, 2, K), float32 on the CPU, of uint8 pixels (n, 3, H, W) and of their mirror images. The model must be in eval mode."""
    pixels = pixels.to(device, memory_format=torch.channels_last, non_blocking=True)
    with autocast(device):
        views = [model.trunk(model.normalise(view)).float().mean(dim=(2, 3)) for view in (pixels, pixels.flip(-1))]
    return torch.stack(views, dim=1).cpu()


@contextmanager
def trunk_features(model: Classifier, photos: Sequence[Photo], root: str, runtime: Runtime) -> Iterator[Filled]:
    """The store with the features (2, K) of all photos and their mirror images, and the photos that cannot be read.

    The trunk is in eval mode: its batch norms use their running means. Photos that are already in the store in the cache are not
    computed again. Where that store cannot be used (a full disk, a cache that cannot be written), a message says so, and a temporary
    one lasts until the block ends. With several ranks, each computes its share. `root` is the folder of the photos.
    """
    model.eval()
    key, channels = feature_key(model, runtime.device), model.head.in_channels

    def encode(pixels: Tensor, _: list[Key]) -> list[Tensor]:  # (n, 1, 3, S, S)
        return [pooled_features(model, pixels[:, 0], runtime.device).half()]

    with ExitStack() as at_end:
        facts = (photos, encode, BATCH * model.size**2, channels, runtime)
        try:
            filled = at_end.enter_context(filled_stores([(default_store(key, root), key)], *facts))
        except InputError as error:  # on every rank
            unusable, reason = error, reason_of(error)

            def temporary() -> str:
                try:
                    # A file that cannot be deleted, as on some network drives, must not end a training.
                    return at_end.enter_context(
                        TemporaryDirectory(prefix="mlclip-features-", ignore_cleanup_errors=True)
                    )
                except OSError:
                    raise unusable from None

            runtime.progress.log(f"the features are not kept: {reason}. The next probe computes them again")
            folder = runtime.distributed.on_main(temporary)
            filled = at_end.enter_context(filled_stores([(Path(folder), key)], *facts))
        yield filled


# The fit


@torch.no_grad()
def _set_head(model: Classifier | ClipHead, fitted: FittedHead) -> None:
    model.head.weight.copy_(fitted.weight.view_as(model.head.weight))  # the trunk's head is a 1×1 convolution
    model.head.bias.copy_(fitted.bias)


def stored_views(store: Store, photos: Sequence[Photo], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The vectors (n, V, K) of the photos that are in the store, float32 on `device`, and the rows (n,) of these photos."""
    rows = [row for row, photo in enumerate(photos) if photo in store]
    views = torch.empty(0)
    for indices, vectors in StoredViews(store, [photos[row] for row in rows], device, memory_limit=0):  # (n, V, K)
        views = views if len(views) else vectors.new_empty(len(rows), *vectors.shape[1:])
        views[indices.to(device)] = vectors
    return views, torch.tensor(rows)


def fit_pooled(
    views: Tensor,
    rows: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    seed: int = 0,
    pools: Sequence[str] = POOLS,
) -> FittedHead:
    """The head for the views (n, V, K) of some `rows` of labels (N, C), with the pool that has the lower loss on held-out photos."""
    inputs = {LOG_MEAN_EXP: views, MEAN: views.mean(1, keepdim=True)}
    heads = [fit_views(inputs[pool], rows, labels, weights, seed, pool) for pool in pools]
    return min(heads, key=lambda head: head.loss)


def clip_head_for(key: Key, classes: Sequence[str], fitted: FittedHead, teacher: Teacher) -> ClipHead:
    """The student with a head that was fitted to the vectors of a store with this key."""
    side, channels = key.side if key.kind == "cells" else 0, fitted.weight.shape[1]
    model = ClipHead(classes, key.input_size, key.grids, side, fitted.pool, channels, clip_of(teacher))
    _set_head(model, fitted)
    return model.use(teacher)


def fit_views(
    views: Tensor, rows: Tensor, labels: Tensor, weights: Tensor | None, seed: int, pool: str = MEAN
) -> FittedHead:
    """The head for the views (n, V, K) of some `rows` of labels (N, C) and weights (N, C). InputError if views are not finite."""
    if not views.isfinite().all():
        raise InputError("the features of the photos are not finite. The weights of the network may be damaged.")
    targets = labels[rows].float().to(views.device)
    factors = torch.ones_like(targets) if weights is None else weights[rows].to(targets)
    choice = choose_l2(views, targets, seed, factors, pooled=pool == LOG_MEAN_EXP)
    if pool == LOG_MEAN_EXP:
        weight, bias = fit_pooled_head(views, targets, choice.l2, factors)
    else:
        flat = (part.repeat_interleave(views.shape[1], 0) for part in (targets, factors))  # (n·V, C)
        weight, bias = fit_head(views.flatten(0, 1), next(flat), choice.l2, next(flat))
    held_out = torch.full(labels.shape, torch.nan)
    held_out[rows] = choice.held_out.cpu()
    return FittedHead(weight.cpu(), bias.cpu(), choice.l2, choice.tried, held_out, pool)
