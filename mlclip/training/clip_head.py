"""Training of a head on CLIP's own embeddings (`arch="clip-head"`). No photo is encoded again if the labels' store still exists.

The views are those that the labels were made from. Only the head is fitted, by L-BFGS, with a penalty that is chosen by
cross-validation against the labels (`methods/linear_head.py`).

Letters: N photos, V views per photo, D the joint embedding, C classes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..config import InputError, PseudolabelConfig, TrainConfig
from ..distributed import Distributed, Runtime
from ..images import Photo
from ..labels.table import Labels
from ..methods.linear_head import FOLDS, choose_pooled_l2, fit_pooled_head
from ..progress import Progress
from ..student.checkpoint import Checkpoint
from ..student.clip_head import ClipHead, clip_of
from ..student.predict import fitted_thresholds
from ..teacher.encode import encoded_views
from ..teacher.scoring import Teacher, check_same_teacher
from ..teacher.store import Store, StoredViews, is_store
from .identity import identity_of, model_meta
from .probe import FittedHead, report_fit
from .start import training_photos
from .state import corrected_photos, label_weights

GRIDS = (1, 2, 3)  # the views for labels that do not come from CLIP


def train_clip_head(
    labels: Labels,
    output: str | Path,
    config: TrainConfig,
    teacher: Teacher | None,
    *,
    other_teacher: bool,
    truth: Labels | None,
    num_workers: int,
    distributed: Distributed,
    progress: Progress,
) -> Checkpoint:
    """Fit a head on the embeddings of `teacher`, the CLIP that made the labels; `other_teacher` allows another one.

    Photos that the store in the cache does not have are encoded. The thresholds come from held-out predictions, which the head
    has not been fitted to. `model.log.csv` beside `output` lists the penalties that were
    tried. `truth` only adds mAPs of labels and held-out predictions to it. InputError if the CLIP is missing or another one, or
    if fewer than 2 photos can be read.
    """
    with distributed.together():
        teacher = _checked(labels, teacher, other_teacher)
        grids, size = views_of(labels, teacher)
    photos, scores, skipped = training_photos(labels, config, num_workers, distributed, progress)
    device = distributed.device if distributed.device.type == "cuda" else torch.device("cpu")
    weights = label_weights(corrected_photos(labels, photos), config)
    runtime = Runtime(distributed, num_workers, progress)
    with encoded_views(
        photos, teacher, root=labels.root, grids=grids, size=size, store=_store_of(labels, teacher), runtime=runtime
    ) as ([store], unreadable):
        readable = len(photos) - len(unreadable)
        if readable < 2:
            raise InputError(
                f"only {readable} of the {len(photos)} labelled photos can be read. A head needs at least 2."
            )
        fitted = distributed.on_main(lambda: _fit(store, photos, scores, weights, config.seed, device))
    model = ClipHead(labels.classes, size, grids, fitted.weight.shape[1], clip_of(teacher)).use(teacher)
    with torch.no_grad():
        model.head.weight.copy_(fitted.weight)
        model.head.bias.copy_(fitted.bias)
    progress.log(
        f"head: L2 penalty {fitted.l2:.3g}, the best of {len(fitted.tried)} in {FOLDS}-fold cross-validation against the labels "
        f"(loss {dict(fitted.tried)[fitted.l2]:.4f})"
    )
    progress.log(f"prediction with this model will run {model.cost()}")
    report_fit(fitted, photos, scores, labels.classes, truth, output, distributed, progress)
    meta = model_meta(identity_of(labels, config), labels, skipped | {skip.path: skip.reason for skip in unreadable})
    thresholds = fitted_thresholds(fitted.held_out.sigmoid(), scores, labels.classes, meta)
    return Checkpoint(model.to(distributed.device).eval(), thresholds, meta)


def _store_of(labels: Labels, teacher: Teacher) -> Path | None:
    """The folder of the embeddings that the labels were made from, if it was not in the cache and is still there."""
    folder, made = labels.meta.get("store"), labels.meta.get("clip") or {}
    if not isinstance(folder, str) or made.get("sha256") != teacher.sha256 or not is_store(Path(folder)):
        return None
    return Path(folder)


def _checked(labels: Labels, teacher: Teacher | None, other_teacher: bool) -> Teacher:
    made = labels.meta.get("clip")
    if teacher is None:
        raise InputError('`arch="clip-head"` needs the CLIP that made the labels as `teacher`.')
    if made and not other_teacher:
        check_same_teacher(made, teacher)
    return teacher


def views_of(labels: Labels, teacher: Teacher) -> tuple[tuple[int, ...], int]:
    """The grids and the size in pixels of the views that the labels were made from; GRIDS at CLIP's input size if unknown."""
    meta = labels.meta
    made, settings, method = meta.get("clip") or {}, meta.get("settings") or {}, meta.get("method")
    size = made.get("view_size") if made.get("sha256") == teacher.sha256 else None
    try:
        if method in ("centred", "dense"):
            grids = PseudolabelConfig(grids=tuple(settings["grids"])).grids
        else:
            known = {
                "cdul": lambda: (1, PseudolabelConfig("cdul", snippets=settings["snippets"]).snippets),
                "ccd": lambda: (1,),
            }
            grids = known.get(method, lambda: GRIDS)()
    except (KeyError, TypeError) as error:
        raise InputError(
            f"the labels do not say which views they were made from ({error}). Make them again."
        ) from error
    return grids, size or teacher.input_size


def _fit(
    store: Store, photos: list[Photo], labels: Tensor, weights: Tensor | None, seed: int, device: torch.device
) -> FittedHead:
    """The head for the photos in the store, their labels (N, C) and the factors of these. The held-out logits of other photos are NaN."""
    rows = [row for row, photo in enumerate(photos) if photo in store]
    batches = StoredViews(store, [photos[row] for row in rows], device, memory_limit=0)
    views = torch.empty(0)
    for indices, embeddings in batches:  # (n,), (n, V, D)
        views = embeddings.new_empty(len(rows), *embeddings.shape[1:]) if not len(views) else views
        views[indices.to(device)] = embeddings
    if not views.isfinite().all():
        raise InputError("the embeddings in the store are not finite. The weights of this CLIP may be damaged.")
    targets = labels[rows].float().to(device)
    factors = torch.ones_like(targets) if weights is None else weights[rows].to(targets)
    choice = choose_pooled_l2(views, targets, seed, factors)
    weight, bias = fit_pooled_head(views, targets, choice.l2, factors)
    held_out = torch.full(labels.shape, torch.nan)
    held_out[rows] = choice.held_out.cpu()
    return FittedHead(weight.cpu(), bias.cpu(), choice.l2, choice.tried, held_out)
