"""Features of photos: the trunk's last feature map, averaged over its cells, of each photo and its mirror image.

They are computed once and kept in a store in the cache, as embeddings are. So a second probe of the same trunk, with other
labels or classes, does not need the photos. A head on these features has the same logits as a 1×1 convolution before the pool.

Letters: N photos, K trunk channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import InputError
from ..distributed import Runtime
from ..images import Photo, PhotoViews, photo_batches
from ..teacher.fill import filled_stores
from ..teacher.store import Key, Store, default_store
from .model import Classifier
from .predict import autocast

BATCH = 32  # photos per pass through the trunk


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


def photo_features(
    model: Classifier, photos: Sequence[Photo], root: str, runtime: Runtime
) -> tuple[Tensor | None, dict[str, str]]:
    """Features (N, 2, K) in half precision of all photos and their mirror images, and path -> reason of unreadable photos.

    The trunk is in eval mode: its batch norms use their running means. The rows of unreadable photos are NaN. Photos that are
    already in the store in the cache are read from there. Where the store cannot be used (a full disk, a cache that cannot be
    written), all features are computed and only held in memory, with a message. With several ranks, each computes its share,
    and the main rank gets the complete result; the others get None and the unreadable photos. `root` is the folder of the
    photos.
    """
    model.eval()
    key, channels = feature_key(model, runtime.device), model.head.in_channels

    def encode(pixels: Tensor, _: list[Key]) -> list[Tensor]:  # (n, 1, 3, S, S)
        return [pooled_features(model, pixels[:, 0], runtime.device).half()]

    try:
        wanted = [(default_store(key, root), key)]
        with filled_stores(wanted, photos, encode, BATCH * model.size**2, channels, runtime) as ([store], skipped):
            features = _read(store, photos, channels) if runtime.distributed.is_main else None
            return features, {skip.path: skip.reason for skip in skipped}
    except InputError as error:  # on every rank
        runtime.progress.log(f"the features are not kept: {str(error).rstrip('.')}. The next probe computes them again")
        return _features_in_memory(model, photos, runtime)


def _features_in_memory(
    model: Classifier, photos: Sequence[Photo], runtime: Runtime
) -> tuple[Tensor | None, dict[str, str]]:
    """`photo_features` without a store."""
    distributed = runtime.distributed
    rows = distributed.shard(list(range(len(photos))))
    features = torch.full((len(photos), 2, model.head.in_channels), torch.nan, dtype=torch.float16)
    skipped: dict[str, str] = {}
    batches = photo_batches(
        PhotoViews([photos[row] for row in rows], model.size),
        batch_size=BATCH,
        num_workers=runtime.num_workers,
        device=runtime.device,
    )
    with runtime.bars.bar("encoding photos", len(rows), "photos") as bar:
        for indices, pixels, unreadable in batches:  # (n,), (n, 1, 3, S, S)
            skipped |= {photos[rows[index]].path: reason for index, reason in unreadable}
            if pixels is not None:
                features[[rows[index] for index in indices]] = pooled_features(
                    model, pixels[:, 0], runtime.device
                ).half()
            bar.update(len(indices) + len(unreadable))
    for part, rank_features, rank_skipped in distributed.all_gather((rows, features[rows], skipped)):
        features[part] = rank_features
        skipped |= rank_skipped
    return (features if distributed.is_main else None), skipped


def _read(store: Store, photos: Sequence[Photo], channels: int) -> Tensor:
    """The stored features (N, 2, K) of `photos`; NaN where the store has none."""
    features = torch.full((len(photos), 2, channels), torch.nan, dtype=torch.float16)
    stored = [row for row, photo in enumerate(photos) if photo in store]
    for shard, pairs in store.rows_by_shard([photos[row] for row in stored]).items():
        rows, places = zip(*pairs, strict=True)
        features[[stored[row] for row in rows]] = store.read_shard(shard)[list(places)]
    return features
