"""Prediction without torch: of photos in memory, with any model; and with a student that `mlclip export` wrote as ONNX.

Letters: N photos, n of them at once, C classes, V views (1 but for a clip-head), S their side in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..config import InputError
from ..files import existing_file, parse_json, refused
from ..images.decode import Unreadable, decode_image, open_image, upright_rgb
from ..images.find import Found
from ..images.views import read_batches, separate_unreadable, view_array
from ..progress import SILENT, Progress

FORMAT, VERSION = "mlclip.onnx", 1
SLICE = 16  # photos per run on a CPU; larger ones leave its cache
MADE_BY = "mlclip export -o model.onnx"
INSTALL = "pip install onnxruntime"

AT_ONCE = 16  # photos of a list per pass of the network
WANTED = "a path, bytes of an image file, a Pillow image, a uint8 array (H, W, 3), a uint8 tensor (3, H, W), or several of these"


class Prediction(NamedTuple):
    """`labels`: the classes that reach their thresholds, highest score first. `scores`: the score in [0, 1] of every class."""

    labels: list[str]
    scores: dict[str, float]


class InMemory:
    """What a loaded model does with photos that are in no folder: silent, and safe from several threads at once.

    Subclasses have `_input()`: the side S of a view, the grids of the views, and the interpolation (see `view_array`);
    `_classes_and_limits()`: the names of the classes and their thresholds; and `_scores(views)`: uint8 (n, V, 3, S, S) -> (n, C).
    """

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


# ONNX


@dataclass(frozen=True)
class OnnxModel(InMemory):
    """A student in onnxruntime. `thresholds` has one number in [0, 1] per class. `size` is the side of the input in pixels."""

    classes: list[str]
    thresholds: list[float]
    size: int
    session: Any  # onnxruntime.InferenceSession

    def _input(self) -> tuple[int, Sequence[int], str]:
        return self.size, (1,), "bicubic"

    def _classes_and_limits(self) -> tuple[Sequence[str], Sequence[float]]:
        return self.classes, self.thresholds

    def _scores(self, views: np.ndarray) -> np.ndarray:
        return self.scores(views[:, 0])

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 pixels (n, 3, size, size) -> scores float32 (n, C) in [0, 1]. InputError if the network cannot compute them."""
        with refused("the ONNX model cannot be run", f"Run `{MADE_BY}` again.", Exception):  # onnxruntime has its own
            parts = [self.session.run(None, {"pixels": pixels[i : i + SLICE]})[0] for i in range(0, len(pixels), SLICE)]
        scores = np.concatenate([np.empty((0, len(self.classes)), np.float32), *parts])
        if scores.shape != (len(pixels), len(self.classes)) or not ((scores >= 0) & (scores <= 1)).all():
            raise InputError(f"the scores of the ONNX model are not numbers from 0 to 1. Run `{MADE_BY}` again.")
        return scores


@dataclass(frozen=True)
class Predictions:
    """The rows of `mlclip.Labels` without torch: `scores` is a float32 array (N, C)."""

    paths: list[str]
    classes: list[str]
    scores: np.ndarray
    root: str = "."
    meta: dict = field(default_factory=dict)


def is_onnx(path: object) -> bool:
    """Whether this is the name of an ONNX file."""
    return str(path).lower().endswith(".onnx")


def load_onnx(path: str | Path, device: str = "auto") -> OnnxModel:
    """Read a model of `mlclip export`. `device` "cuda" needs onnxruntime-gpu; "auto" is the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"onnxruntime is not installed. An ONNX model needs it: {INSTALL}") from error
    name, providers = str(device).strip().lower(), ["CPUExecutionProvider"]
    if name == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers = ["CUDAExecutionProvider", *providers]
    elif name not in ("auto", "cpu"):
        hint = "install onnxruntime-gpu, or " if name == "cuda" else ""
        raise InputError(f'`device="{name}"` is not available for ONNX models: {hint}use cpu or auto.')
    path, options = existing_file(path, f"`{MADE_BY}` creates it."), onnxruntime.SessionOptions()
    options.log_severity_level = 4  # only fatal errors; others are raised
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the decoding threads need the cores
    fallback = int(providers != ["CPUExecutionProvider"])  # with it, onnxruntime prints its errors to stdout
    with refused(f"{path} is not a readable ONNX file", f"Create it again with `{MADE_BY}`.", Exception):
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=providers, enable_fallback=fallback)
        entries = session.get_modelmeta().custom_metadata_map
    return _checked(path, session, entries)


def _checked(path: Path, session: Any, entries: dict[str, str]) -> OnnxModel:
    """The model, if the metadata `entries`, the input and the output fit each other."""
    if (entries.get("format"), entries.get("version")) != (FORMAT, str(VERSION)):
        raise InputError(f"{path} is not a model of this version of mlclip. `{MADE_BY}` creates one.")
    try:
        classes, limits, size = (parse_json(entries.get(name, "")) for name in ("classes", "thresholds", "size"))
        inputs = [(each.name, each.type, each.shape[1:]) for each in session.get_inputs()]
        outputs = [(each.type, each.shape[1:]) for each in session.get_outputs()]
        fit = all(isinstance(name, str) and name for name in classes) and 0 < len(set(classes)) == len(classes)
        fit = fit and all(0 <= limit <= 1 for limit in limits) and len(limits) == len(classes)
        fit = fit and inputs == [("pixels", "tensor(uint8)", [3, size, size])]
        fit = fit and outputs == [("tensor(float)", [len(classes)])]
    except (TypeError, ValueError):
        fit = False
    if not fit:
        what = "its classes, thresholds and size do not fit its network"
        raise InputError(f"{path} is damaged: {what}. Create it again with `{MADE_BY}`.")
    return OnnxModel(classes, [float(limit) for limit in limits], size, session)


def predict_onnx(
    found: Found, model: OnnxModel, *, batch_size: int = 64, num_workers: int = 2, progress: Progress = SILENT
) -> Predictions:
    """Scores in [0, 1] of every class for the photos that `find_images` found, as `student.predict.predict` returns them.

    `num_workers` threads decode the photos. Photos that cannot be read have no row; `meta["skipped"]` lists them.
    """
    found.say_left_out(progress)
    scores = np.full((len(found.photos), len(model.classes)), np.nan, np.float32)
    unreadable: list[tuple[int, str]] = []
    batches = read_batches(found.photos, model.size, batch_size=batch_size, num_threads=num_workers, log=progress.log)
    with progress.bar("predicting", len(found.photos), "photos") as bar:
        for batch in batches:
            scores[batch.rows] = model.scores(batch.pixels)
            unreadable += batch.unreadable
            bar.update(len(batch.rows) + len(batch.unreadable))
    rows, skipped = separate_unreadable(found, unreadable)
    meta = {"thresholds": model.thresholds, "skipped": [[s.path, s.reason] for s in skipped]}
    return Predictions([found.photos[row].path for row in rows], model.classes, scores[rows], found.root, meta)
