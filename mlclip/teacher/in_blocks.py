"""Labels of any number of photos in bounded memory: fitted to at most FIT_PHOTOS of them, and made in blocks of photos.

What a method fits (levels, mixtures, profiles, Gaussians, rankings, agreements, biases) are estimates from many photos; more photos than
FIT_PHOTOS would hardly change them. With more, a sample is drawn by the hashes of the photos' contents. It depends on no order, no name
and no rank. Then all photos are labelled by the fitted values, block by block, as with `like`.

Letters: N photos, C classes, K names (classes and contrast names), D the joint embedding.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import InputError, PseudolabelConfig
from ..images import Photo
from ..methods.dense import encoded_sets
from ..methods.hierarchy import related
from ..progress import Progress
from .encode import MEMORY_LIMIT, StoredViews
from .fitted import seen_in
from .label import centred_labels, label_by_ccd, label_by_cdul, label_by_view_sets
from .store import Store, identity

FIT_PHOTOS = 50_000  # to which labels are fitted; with fewer in all, everything happens at once
BLOCK_PHOTOS = 20_000  # labelled together by fitted values


def label_stored(
    stores: Sequence[Store],
    photos: Sequence[Photo],
    text: Tensor,
    parents: Sequence[int],
    logit_scale: float,
    config: PseudolabelConfig,
    fitted: Mapping | None,
    progress: Progress,
) -> tuple[Tensor, dict[str, Any]]:
    """The labels (N, C) and their summary. `stores` has one store, for dense labels those of all `encoded_sets`.

    `text` (K, D) has the classes, then the contrast names. `parents` (C,) has the column of each class's parent, or -1. `fitted` values
    are used, if there are any, else found. The summary has "seen", the means of these photos, and in "fitted" those of the photos that
    the values come from. With more than FIT_PHOTOS photos, it is that of the sample.
    """

    def label(some: Sequence[Photo], values: Mapping | None) -> tuple[Tensor, dict[str, Any]]:
        limit = MEMORY_LIMIT // len(stores)
        views = [StoredViews(store, some, text.device, limit, len(text)) for store in stores]
        try:
            return _scores(views, text, parents, logit_scale, config, values)
        except (KeyError, TypeError, RuntimeError) as error:
            if fitted is None or isinstance(error, torch.OutOfMemoryError):
                raise
            raise InputError(
                f"the fitted values of `like` are damaged ({str(error)[:80]}); label the folder again."
            ) from error

    if len(photos) <= FIT_PHOTOS:
        return label(photos, fitted)
    _, summary = label(sample_of(photos, stores[0]), fitted)
    if fitted is None:
        progress.log(f"fitted to {FIT_PHOTOS} of {len(photos)} photos, drawn by their contents")
    numbers: dict[Any, int] = {}  # of shards: a block has the photos of few of them
    shards = (numbers.setdefault(stores[0].shard_of(photo), len(numbers)) for photo in photos)
    order = torch.tensor(list(shards), dtype=torch.int32).argsort(stable=True)  # (N,)
    scores = torch.empty(len(photos), len(parents))
    with progress.bar("labels", len(photos), "photos") as bar:
        for rows in order.split(BLOCK_PHOTOS):
            scores[rows], _ = label([photos[row] for row in rows.tolist()], summary["fitted"])
            bar.update(len(rows))
    return scores, summary


def sample_of(photos: Sequence[Photo], store: Store) -> list[Photo]:
    """The FIT_PHOTOS photos with the lowest hashes of their contents, in the order of `photos`."""
    rows = heapq.nsmallest(FIT_PHOTOS, range(len(photos)), key=lambda row: store.contents[identity(photos[row])])
    return [photos[row] for row in sorted(rows)]


def _scores(
    views: Sequence[StoredViews],
    text: Tensor,
    parents: Sequence[int],
    logit_scale: float,
    config: PseudolabelConfig,
    fitted: Mapping | None,
) -> tuple[Tensor, dict[str, Any]]:
    """What `label_stored` returns, for the photos of `views`."""
    running = (text, len(parents), logit_scale, config)
    if config.method in ("cdul", "ccd"):
        label_by = label_by_cdul if config.method == "cdul" else label_by_ccd
        scores, summary = label_by(views[0], *running, fitted=fitted)
    elif config.method == "dense":
        sets = dict(zip(encoded_sets(config.views), views, strict=True))
        scores, summary = label_by_view_sets(sets, *running, related(parents), fitted)
    else:
        _, labels, summary = centred_labels(views[0], *running, related(parents), fitted)
        scores = labels[:, : len(parents)].contiguous()
    seen = seen_in(views[0], text[: len(parents)], scores)
    fitted = {**summary["fitted"], "seen": fitted["seen"] if fitted else seen}
    return scores, summary | {"fitted": fitted, "seen": seen}
