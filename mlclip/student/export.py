"""Export of the student to ONNX in float32 or int8. The result is compared with PyTorch. Needs the extra `onnx`.

Letters: N photos, C classes, H W pixels.
"""

from __future__ import annotations

import _thread
import json
import logging
import os
import signal
import tempfile
import threading
import timeit
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config import InputError, OptionError
from ..files import atomic
from ..images.find import Found
from ..images.views import read_batches, separate_unreadable
from .checkpoint import Checkpoint
from .clip_head import refuse_clip_head
from .onnx_model import FORMAT, SLICE, VERSION, load_onnx

PREPROCESS = (  # the steps of `images.views.view_array`
    "RGB, turned by the EXIF orientation, resized to size × size (aspect ratio not kept) by antialiased bicubic interpolation "
    "as Pillow's, uint8, channels first"
)
# The largest accepted difference from PyTorch's scores: of one score, and on average. In int8 a single score may be far off.
TOLERANCE = {"fp32": (1e-3, 1e-4), "int8": (1.0, 0.03)}
CALIBRATION_PHOTOS = 128  # of the given ones, evenly spaced
REPEAT_SECONDS = 0.1


@dataclass(frozen=True)
class Difference:
    """How far the scores of the ONNX file are from PyTorch's, on `photos` photos; 0 photos: on two random images."""

    largest: float
    mean: float
    photos: int
    time: float | None = None  # of int8 on this machine, as a multiple of float32's

    def __str__(self) -> str:
        where = f"{self.photos} photos" if self.photos else "random images"
        text = f"on {where}, its scores differ from PyTorch's by {self.mean:.1e} on average, {self.largest:.1e} at most"
        if self.time is None:
            return text
        slow = "; slower, so use it only for its size, or `variant=fp32`" if self.time > 1 else ""
        return f"{text}; on this machine it takes {self.time:.2f} times as long as fp32{slow}"


def export_onnx(
    checkpoint: Checkpoint, path: str | Path, *, variant: str = "fp32", photos: Found | None = None
) -> Difference:
    """Write the student to `path`. Returns the difference of its scores from PyTorch's.

    Input "pixels": uint8 RGB (N, 3, size, size), any N. Output "scores": float32 (N, C) in [0, 1]. The metadata of the file
    has "classes", "thresholds" and "size" as JSON, "preprocess" in words, and "format", "version" and "variant".

    `variant`: "fp32", or "int8", a quarter of the size, for CPUs. int8 is static quantisation; it needs `photos` like those that
    will be predicted. With `photos`, the difference is measured on them, otherwise on random images. InputError if it is too large.
    """
    refuse_clip_head(checkpoint.model, "be exported to ONNX")
    try:
        names = ("onnx", "onnxruntime", "onnxscript")  # torch's exporter imports onnxscript
        onnx, *_ = [import_module(name) for name in names]
    except ImportError as error:
        raise InputError(f"{error.name} is not installed. Run: pip install onnx onnxscript onnxruntime") from error
    if variant not in TOLERANCE:
        raise OptionError(f'`variant="{variant}"` is not known. Use one of {", ".join(TOLERANCE)}.')
    if variant == "int8" and photos is None:
        raise OptionError('`variant="int8"` needs `photos` like those that will be predicted. 100 are enough.')
    model = checkpoint.model.cpu().eval()
    pixels = random_pixels(model.size) if photos is None else photo_pixels(photos, model.size)
    proto, time = _graph(model, pixels[:2] if len(pixels) > 1 else random_pixels(model.size)), None
    if variant == "int8":
        single, proto = proto, _as_int8(proto, pixels)
        time = _seconds(proto, pixels) / _seconds(single, pixels)
    values = {"classes": model.classes, "thresholds": checkpoint.thresholds.tolist(), "size": model.size}
    entries = {"format": FORMAT, "version": str(VERSION), "variant": variant, "preprocess": PREPROCESS}
    entries |= {name: json.dumps(value) for name, value in values.items()}
    with atomic(path) as temporary:
        for name, value in entries.items():
            proto.metadata_props.add(key=name, value=value)
        onnx.save(proto, os.fspath(temporary))
        with torch.inference_mode():
            parts = [model(part).sigmoid() for part in torch.from_numpy(pixels).split(SLICE)]
        scores = load_onnx(temporary).scores(pixels)  # as `mlclip predict` loads it, with all checks
        differences = np.abs(scores - torch.cat(parts).numpy())
        count = 0 if photos is None else len(pixels)
        found = Difference(float(differences.max()), float(differences.mean()), count, time)
        if not (found.largest <= TOLERANCE[variant][0] and found.mean <= TOLERANCE[variant][1]):
            raise InputError(f"the {variant} model is not good enough: {found}. {path} was not written.")
    return found


def random_pixels(size: int) -> np.ndarray:
    """Two images of random pixels from a fixed seed, uint8 (2, 3, size, size)."""
    return np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8)


def photo_pixels(found: Found, size: int, most: int = CALIBRATION_PHOTOS) -> np.ndarray:
    """Pixels uint8 (n, 3, size, size) of at most `most` photos, evenly spaced. InputError if no photo can be read."""
    count = min(most, len(found.photos))
    chosen = Found(found.root, [found.photos[place * len(found.photos) // count] for place in range(count)], [], 0)
    (batch,) = read_batches(chosen.photos, size, batch_size=most)
    separate_unreadable(chosen, batch.unreadable)
    return batch.pixels


def _graph(model: nn.Module, pixels: np.ndarray) -> Any:
    """The float32 graph (an onnx.ModelProto) for any number of photos. InputError if torch's exporter cannot make it."""
    try:
        with _interruptible():
            program = torch.onnx.export(
                nn.Sequential(model, nn.Sigmoid()).eval(),  # normalisation and sigmoid are part of the graph
                (torch.from_numpy(pixels),),
                input_names=["pixels"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
                dynamo=True,
                verbose=False,
            )
            return program.model_proto
    except RuntimeError as error:  # as are torch's OnnxExporterError and onnxscript's SerdeError
        what = f"the ONNX exporter of torch {torch.__version__} failed ({type(error).__name__})"
        remedy = "Install versions of onnx, onnxscript and protobuf from the same time as torch, or a newer torch."
        raise InputError(f"{what}. {remedy}") from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Inside it, Ctrl-C is repeated until it ends the block: torch's exporter has callbacks that ignore an exception."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    ended, asked, before = threading.Event(), threading.Event(), signal.getsignal(signal.SIGINT)

    def repeat() -> None:
        while not ended.wait(REPEAT_SECONDS):
            _thread.interrupt_main()

    def interrupt(*_: object) -> None:
        if not asked.is_set():
            asked.set()
            threading.Thread(target=repeat, daemon=True).start()
        if not ended.is_set():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        ended.set()
        signal.signal(signal.SIGINT, before)


def _as_int8(proto: Any, pixels: np.ndarray) -> Any:
    """Static quantisation: int8 weights of 7 bits per channel, uint8 activations with the ranges that they have on `pixels`."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"pixels": pixels[i : i + 4]} for i in range(0, len(pixels), 4)])

        def get_next(self) -> dict | None:
            return next(self.batches, None)

    nodes = list(proto.graph.node)
    places = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    outside = [*nodes[: places[0]], *nodes[places[-1] + 1 :]]  # normalisation; pool, calibration and sigmoid
    with tempfile.TemporaryDirectory() as folder, ExitStack() as at_end:
        at_end.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)  # onnxruntime's tools log advice for their developers
        source, target = os.path.join(folder, "fp32.onnx"), os.path.join(folder, "int8.onnx")
        onnx.save(proto, source)
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # 7 bits: without VNNI instructions, sums of two products of 8 bits are cut off
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=[node.name for node in outside],
        )
        return onnx.load(target)


def _seconds(proto: Any, pixels: np.ndarray) -> float:
    """The shortest of three runs of a graph on the CPU, for up to SLICE photos."""
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return min(timeit.repeat(lambda: session.run(None, {"pixels": pixels[:SLICE]}), number=1, repeat=3))
