"""Predictions of photos in memory, for scripts, notebooks and servers: silent, and safe from several threads at once.

No torch here, so that a `model.onnx` works without it. Letters: n photos, C classes, V views (1 but for a clip-head), S their side.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..config import InputError
from ..images.decode import Unreadable, decode_image, open_image, upright_rgb
from ..images.views import view_array

AT_ONCE = 16  # photos of a list per pass of the network
WANTED = "a path, bytes of an image file, a Pillow image, a uint8 array (H, W, 3), a uint8 tensor (3, H, W), or several of these"


class Prediction(NamedTuple):
    """`labels`: the classes that reach their thresholds, highest score first. `scores`: the score in [0, 1] of every class."""

    labels: list[str]
    scores: dict[str, float]


class InMemory:
    """What a loaded model does with photos that are in no folder. Subclasses say what their network takes and computes."""

    def _input(self) -> tuple[int, Sequence[int], str]:
        """The side S of a view in pixels, the grids of the views, and the interpolation; see `view_array`."""
        raise NotImplementedError

    def _classes_and_limits(self) -> tuple[Sequence[str], Sequence[float]]:
        """The names of the classes and their thresholds."""
        raise NotImplementedError

    def _scores(self, views: np.ndarray) -> np.ndarray:
        """uint8 (n, V, 3, S, S) -> scores (n, C) in [0, 1]."""
        raise NotImplementedError

    def transform(self, photo: Any) -> np.ndarray:
        """One photo as the network takes it: uint8 (V, 3, S, S). `photo` is as for `predict`. InputError if it cannot be used."""
        size, grids, interpolation = self._input()
        side = size * max(grids)
        try:
            return view_array(_image(photo, (side, side)), size, grids, interpolation)
        except Unreadable as error:
            name = os.fspath(photo) if isinstance(photo, str | os.PathLike) else "the photo"
            raise InputError(f"{name} cannot be used: {error}.") from error

    def predict(self, photos: Any) -> Prediction | list[Prediction] | Iterator[Prediction]:
        """The prediction of one photo, the list of those of a list or tuple, or an iterator over those of any other iterable.

        A photo is a path, the bytes of an image file, a Pillow image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W), RGB. An
        iterable is read one photo at a time, when the next prediction is asked for. InputError for a photo that cannot be used.
        Nothing is printed. Several threads may call it at once.
        """
        if isinstance(photos, list | tuple):
            return list(self._predictions(photos, AT_ONCE))
        if _is_one(photos):
            return next(self._predictions([photos], 1))
        if isinstance(photos, Iterable):
            return self._predictions(photos, 1)
        raise InputError(f"`predict` cannot use {type(photos).__name__}. Pass {WANTED}.")

    def _predictions(self, photos: Iterable[Any], at_once: int) -> Iterator[Prediction]:
        classes, limits = self._classes_and_limits()
        waiting = iter(photos)
        while part := list(islice(waiting, at_once)):
            for scores in self._scores(np.stack([self.transform(photo) for photo in part])).tolist():
                named = sorted(zip(classes, scores, limits, strict=True), key=lambda item: -item[1])
                labels = [name for name, score, limit in named if score >= limit]
                yield Prediction(labels, dict(zip(classes, scores, strict=True)))


def _is_one(photo: Any) -> bool:
    return isinstance(photo, str | os.PathLike | bytes | Image.Image | np.ndarray) or hasattr(photo, "detach")


def _image(photo: Any, smallest: tuple[int, int]) -> Image.Image:
    """One photo as an upright RGB image. Raises Unreadable; InputError for something that is no photo."""
    if isinstance(photo, str | os.PathLike):
        return open_image(os.fspath(photo), smallest=smallest)
    if isinstance(photo, bytes):
        return decode_image(photo, smallest=smallest)
    if isinstance(photo, Image.Image):
        return upright_rgb(photo)
    if not _is_one(photo):
        raise InputError(f"`predict` cannot use {type(photo).__name__}. Pass {WANTED}.")
    pixels = photo.detach().cpu().numpy() if hasattr(photo, "detach") else photo
    pixels = pixels.transpose(1, 2, 0) if pixels is not photo and pixels.ndim == 3 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        found = f"{pixels.dtype} {tuple(photo.shape)}"
        raise InputError(f"an array must be uint8 (H, W, 3), a tensor uint8 (3, H, W), both RGB; this one is {found}.")
    return Image.fromarray(np.ascontiguousarray(pixels))
