"""Features of photos: the trunk's last feature map, averaged over its cells, of each photo and its mirror image.

They are computed once and kept in a store in the cache, as embeddings are. So a second probe of the same trunk, with other
labels or classes, does not need the photos. A head on these features has the same logits as a 1×1 convolution before the pool.

Letters: N photos, K trunk channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ..config import InputError
from ..distributed import Runtime
from ..files import reason_of
from ..images import Photo
from ..teacher.fill import Filled, filled_stores
from ..teacher.store import Key, default_store
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
                    return at_end.enter_context(TemporaryDirectory(prefix="mlclip-features-"))
                except OSError:
                    raise unusable from None

            runtime.progress.log(f"the features are not kept: {reason}. The next probe computes them again")
            folder = runtime.distributed.on_main(temporary)
            filled = at_end.enter_context(filled_stores([(Path(folder), key)], *facts))
        yield filled
