"""Predictions for the photos that a user names: what `predict`, `evaluate`, `calibrate` and `demo` share."""

from __future__ import annotations

from .console import Console


def predict_with(model: str, images, batch_size: int, device: str, num_workers: int, quiet: bool):
    """The Labels that the model file `model` predicts for the photos a user named."""
    from ..student.checkpoint import load_checkpoint

    return predict_photos(load_checkpoint(model), images, batch_size, device, num_workers, quiet)


def predict_photos(checkpoint, images, batch_size: int, device: str, num_workers: int, quiet: bool):
    """The Labels that an opened model predicts for the photos a user named."""
    from ..distributed import choose_device
    from ..images import find_images
    from ..student.predict import predict

    progress, chosen = Console(quiet=quiet), choose_device(device)
    return predict(
        find_images(images),
        checkpoint,
        device=chosen,
        batch_size=batch_size,
        num_workers=num_workers,
        progress=progress,
    )
