"""Features of photos: the trunk's last feature map, averaged over its cells, of each photo and its mirror image.

They are computed once and kept in a store in the cache, as embeddings are. So a second probe of the same trunk, with other
labels or classes, does not need the photos. A head on these features has the same logits as a 1×1 convolution before the pool.

Letters: N photos, K trunk channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..config import InputError
from ..distributed import Distributed
from ..images import Photo, PhotoViews, Skip, photo_batches
from ..progress import SILENT, Progress
from ..teacher.embed import ShardWriter
from ..teacher.embedding_store import Store, default_store
from ..teacher.shared_store import fill_store
from .model import Classifier
from .predict import autocast

BATCH = 32  # photos per pass through the trunk


@dataclass(frozen=True)
class FeatureKey:
    """What features depend on besides the photo."""

    kind: ClassVar[str] = "features"
    elsewhere: ClassVar[str] = "Choose another folder for the cache with MLCLIP_CACHE."

    sha256: str  # of the trunk's weights
    arch: str
    size: int  # pixels; side of the square input
    dtype: str  # in which the trunk computes

    def as_plain(self) -> dict:
        """The key as JSON holds it."""
        return asdict(self)


def feature_key(model: Classifier, device: torch.device) -> FeatureKey:
    """The key of the store for the trunk of `model` on `device`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.trunk.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    dtype = autocast(device).fast_dtype if device.type == "cuda" else torch.float32
    return FeatureKey(digest.hexdigest(), model.arch, model.size, str(dtype).removeprefix("torch."))


@torch.inference_mode()
def pooled_features(model: Classifier, pixels: Tensor, device: torch.device) -> Tensor:
    """Features (n, 2, K), float32 on the CPU, of uint8 pixels (n, 3, H, W) and of their mirror images. The model must be in eval mode."""
    pixels = pixels.to(device, memory_format=torch.channels_last, non_blocking=True)
    with autocast(device):
        views = [model.trunk(model.normalise(view)).float().mean(dim=(2, 3)) for view in (pixels, pixels.flip(-1))]
    return torch.stack(views, dim=1).cpu()


def photo_features(
    model: Classifier,
    photos: Sequence[Photo],
    root: str,
    *,
    num_workers: int = 2,
    distributed: Distributed | None = None,
    progress: Progress = SILENT,
) -> tuple[Tensor | None, dict[str, str]]:
    """Features (N, 2, K) in half precision of all photos and their mirror images, and path -> reason of unreadable photos.

    The trunk is in eval mode: its batch norms use their running means. The rows of unreadable photos are NaN. Photos that are
    already in the store in the cache are read from there. Where the store cannot be used (a full disk, a cache that cannot be
    written), all features are computed and only held in memory, with a message. With several ranks, each computes its share,
    and the main rank gets the complete result; the others get None and the unreadable photos. `root` is the folder of the
    photos.
    """
    distributed = distributed or Distributed()
    key = feature_key(model, distributed.device)

    def compute(store: Store | _InMemory, missing: list[Photo]) -> list[Skip]:
        return _compute(store, missing, model, num_workers, distributed, progress)

    try:
        folder = default_store(key, root)
        progress.detail(f"store of features: {folder}")
        store, skipped = fill_store(folder, key, photos, compute, distributed)
        features = _read(store, photos, model.head.in_channels) if distributed.is_main else None
    except InputError as error:  # of every rank
        progress.log(f"the features are not kept: {str(error).rstrip('.')}. They are computed again for every probe")
        memory = _InMemory()
        own = compute(memory, distributed.shard(list(photos)))
        gathered = distributed.all_gather((own, memory.features if not distributed.is_main else {}))
        skipped = [skip for part, _ in gathered for skip in part]
        every = memory.features | {path: vectors for _, part in gathered for path, vectors in part.items()}
        missing = torch.full((2, model.head.in_channels), torch.nan, dtype=torch.float16)
        features = torch.stack([every.get(photo.path, missing) for photo in photos]) if distributed.is_main else None
    return features, {skip.path: skip.reason for skip in skipped}


class _InMemory:
    """Takes features like a store, and holds them: path -> (2, K)."""

    def __init__(self):
        self.features: dict[str, Tensor] = {}

    def write_shard(self, photos: Sequence[Photo], features: Tensor, rank: int) -> None:
        self.features |= dict(zip([photo.path for photo in photos], features, strict=True))


def _compute(
    store: Store | _InMemory,
    missing: list[Photo],
    model: Classifier,
    num_workers: int,
    distributed: Distributed,
    progress: Progress,
) -> list[Skip]:
    """Put the features of the `missing` photos of this rank into the store. Returns the photos that cannot be read."""
    if not missing:
        return []
    model.eval()
    skipped: list[Skip] = []
    shard = ShardWriter(store, distributed.rank)
    batches = photo_batches(
        PhotoViews(missing, model.size),
        batch_size=BATCH,
        num_workers=num_workers,
        device=distributed.device,
    )
    with (progress if distributed.is_main else SILENT).bar("computing features", len(missing), "photos") as bar:
        for indices, pixels, unreadable in batches:  # pixels (n, 1, 3, H, W)
            distributed.check()
            skipped += [Skip(missing[index].path, reason) for index, reason in unreadable]
            if pixels is not None:
                features = pooled_features(model, pixels[:, 0], distributed.device).half()
                shard.add([missing[index] for index in indices.tolist()], features)
            bar.update(len(indices) + len(unreadable))
    shard.flush()
    return skipped


def _read(store: Store, photos: Sequence[Photo], channels: int) -> Tensor:
    """The stored features (N, 2, K) of `photos`; NaN where the store has none."""
    features = torch.full((len(photos), 2, channels), torch.nan, dtype=torch.float16)
    stored = [row for row, photo in enumerate(photos) if photo in store]
    for shard, pairs in store.rows_by_shard([photos[row] for row in stored]).items():
        rows, places = zip(*pairs, strict=True)
        features[[stored[row] for row in rows]] = store.read_shard(shard)[list(places)]
    return features
