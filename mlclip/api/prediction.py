"""A student and photos to scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CLIP_HEAD, MODEL_FILE, OptionError
from ..distributed import choose_device, describe_device
from ..labels.table import Labels
from ..line_progress import LineProgress
from ..progress import Progress
from .inputs import Images, found_images, workers_or_default

if TYPE_CHECKING:
    from ..student.checkpoint import Checkpoint


def load_model(
    path: str | Path = MODEL_FILE, *, device: str = "auto", clip: str | None = None, offline: bool = False
) -> Checkpoint:
    """The student in a `model.pt` or `model.safetensors`, ready to predict. Raises InputError where the file is missing or damaged.

    For a model of `arch="clip-head"` its CLIP is loaded too: from the file `clip`, else by the name or path in the model. It is
    downloaded if it is missing, unless `offline`.
    """
    from ..student.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path, choose_device(device))
    if checkpoint.model.arch == CLIP_HEAD:
        checkpoint.model.load_encoder(clip, offline=offline)
    elif clip:
        raise OptionError(f"{path} does not run CLIP; remove `clip`")
    return checkpoint


def predict(
    images: Images,
    model: Checkpoint | str | Path = MODEL_FILE,
    *,
    batch_size: int = 64,
    device: str = "auto",
    num_workers: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Labels:
    """Scores in [0, 1] of photos, as `mlclip predict` computes them; CLIP is only needed for a model of `arch="clip-head"`.

    `images` as for `pseudolabel`; `model` is a file (.pt, or .safetensors or .onnx of `mlclip export`) or what `load_model` or `train`
    returned. Photos that cannot be read get no row; `meta["skipped"]` lists them. Raises InputError.
    """
    from ..student.checkpoint import Checkpoint, load_checkpoint
    from ..student.onnx_model import is_onnx
    from ..student.predict import predict as predict_photos

    if is_onnx(model):
        return _predict_onnx(images, model, batch_size, device, num_workers, progress)
    checkpoint = model if isinstance(model, Checkpoint) else load_checkpoint(model)
    progress = progress or LineProgress()
    if checkpoint.model.arch == CLIP_HEAD:
        checkpoint.model.load_encoder(offline=offline, progress=progress)
    found = found_images(images)
    chosen = choose_device(device)
    progress.detail(f"{len(found.photos)} photos in {found.root}; {checkpoint.model.arch}; {describe_device(chosen)}")
    return predict_photos(
        found,
        checkpoint,
        device=chosen,
        batch_size=batch_size,
        num_workers=workers_or_default(num_workers),
        progress=progress,
    )


def _predict_onnx(
    images: Images, file: Any, batch_size: int, device: str, num_workers: int | None, progress: Progress | None
) -> Labels:
    from ..student.onnx_model import load_onnx, predict_onnx

    model, found = load_onnx(file, device), found_images(images)
    table = predict_onnx(
        found,
        model,
        batch_size=batch_size,
        num_workers=workers_or_default(num_workers),
        progress=progress or LineProgress(),
    )
    return Labels(table.paths, table.classes, table.scores, table.root, table.meta)
