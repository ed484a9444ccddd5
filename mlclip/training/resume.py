"""The file with the state of a training between two epochs: how it is written, checked and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config import InputError, TrainConfig
from ..files import beside, load_plain, save_plain
from ..images import Photo
from .state import TrainingState


def resume_file(output: str | Path) -> Path:
    """The file with the state of an unfinished training that writes `output`: `model.pt` -> `model.resume.pt`."""
    return beside(output, ".resume.pt")


def save_state(state: TrainingState, file: Path) -> None:
    """Save the training after its last finished epoch, atomically."""
    content: dict[str, Any] = {"format": "mlclip.resume", "version": 1, "run": state.identity, "epochs": state.epochs}
    content |= {"weights": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}
    content |= {"given": state.labels, "latent": state.latent, "update": state.update}
    content |= {"average": state.average.state_dict() if state.average else None, "precision": state.precision}
    content |= {"photos": [photo.path for photo in state.photos]}
    save_plain(content | {"skipped": state.skipped, "log": state.log}, file)


def read_state(file: Path, identity: dict) -> dict:
    """The content of a file that `save_state` wrote. InputError if its settings (other than `epochs`) or labels differ."""
    saved = load_plain(file, kind="resume", made_by="mlclip train --overwrite")
    older = {
        "average": 0.0,
        "precision": "auto",
        "head_init": "labels",
        "augment": "flip",
        "correction_weight": TrainConfig.correction_weight,
    }  # files without these settings
    settings = {**older, **saved["run"]["settings"]}
    changed = [
        f"`{name}` was {settings.get(name)}, is {value}"
        for name, value in identity["settings"].items()
        if name not in ("epochs", "preset") and settings.get(name) != value
    ]
    if saved["run"]["labels"] != identity["labels"]:
        changed.append("the labels have changed")
    if changed:
        raise InputError(
            f"{file} cannot be continued: {', '.join(changed)}. `resume=True` needs the same settings and labels; "
            "`overwrite=True` starts again."
        )
    return saved


def restore(state: TrainingState, saved: dict) -> None:
    """Set a new training to the state that `save_state` wrote."""
    if saved["given"].shape != state.labels.shape:
        raise ValueError(f"'given' has shape {tuple(saved['given'].shape)}, not {tuple(state.labels.shape)}")
    if (saved["latent"] is None) != (state.latent is None):
        raise ValueError("'latent' is of another method")
    state.model.load_state_dict(saved["weights"])
    groups = state.optimizer.state_dict()["param_groups"]  # equal to the saved ones, as the settings are
    state.optimizer.load_state_dict({"state": saved["optimizer"]["state"], "param_groups": groups})
    for parameter, moments in state.optimizer.state.items():
        shapes = {name: tuple(moment.shape) for name, moment in moments.items()}
        if shapes != {"step": (), "exp_avg": tuple(parameter.shape), "exp_avg_sq": tuple(parameter.shape)}:
            raise ValueError("'optimizer' has other tensors than Adam's")
    if state.average:
        state.average.load_state_dict(saved["average"])
        if state.average.n_averaged < 0:
            raise ValueError("'average' has a negative number of steps")
    state.labels, state.latent, state.update = saved["given"], saved["latent"], saved["update"]
    state.epochs, state.log = int(saved["epochs"]), saved["log"]
    state.skipped |= saved["skipped"]
    precision = saved.get("precision", state.precision if state.distributed.device.type == "cuda" else "fp32")
    if precision != "fp16" or state.distributed.device.type == "cuda":  # which a GPU may have saved
        state.precision = precision


def check_photos(photos: list[Photo], saved: object, file: Path | None) -> None:
    """InputError unless the photos are those of the saved training; files from before photos were saved have none."""
    paths = [photo.path for photo in photos]
    if saved is None or saved == paths:
        return
    before = set(saved) if isinstance(saved, list) else set()
    lost, new = sorted(before - set(paths)), sorted(set(paths) - before)
    what = (
        f"photos missing now: {len(lost)}, such as {lost[0]}"
        if lost
        else f"photos missing then: {len(new)}, such as {new[0]}"
    )
    raise InputError(
        f"{file} cannot be continued: {what}. Put the photos back as they were, or pass `overwrite=True` to start again."
    )
