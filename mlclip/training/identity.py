"""What a training depends on. All ranks must share it, and so must a training that is continued."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

from ..config import InputError, TrainConfig
from ..distributed import Distributed
from ..labels.corrections import corrected_cells, corrections_of
from ..labels.table import Labels


def identity_of(labels: Labels, config: TrainConfig) -> dict:
    """What a training depends on: its settings and its labels. A resumed training must have the same.

    The cache of its photos changes nothing, and a training may be continued with or without it.
    """
    settings = {name: value for name, value in asdict(config).items() if name != "cache"}
    return {"settings": settings, "labels": fingerprint(labels)}


def fingerprint(labels: Labels) -> str:
    """A hash of the parts of the labels that a training depends on: classes, paths, scores and corrections."""
    digest = hashlib.sha256(repr((labels.classes, labels.paths)).encode("utf-8", "surrogateescape"))
    digest.update(labels.scores.numpy().tobytes())
    if corrections_of(labels):
        digest.update(corrected_cells(labels, labels.paths).numpy().tobytes())
    return digest.hexdigest()


def check_same_training(identity: dict, distributed: Distributed) -> None:
    """InputError on every rank, unless all ranks have the same labels and settings."""
    every = distributed.all_gather(identity)
    for rank, other in enumerate(every):
        settings = zip(other["settings"].items(), every[0]["settings"].values(), strict=True)
        differ = [f"`{name}`" for (name, value), main in settings if value != main]
        differ += ["the labels"] if other["labels"] != every[0]["labels"] else []
        if differ:
            raise InputError(
                f"rank {rank} and rank 0 differ in {', '.join(differ)}. Every rank needs the same labels and settings."
            )


def model_meta(identity: dict, labels: Labels, skipped: dict[str, str]) -> dict:
    """The `meta` of a trained model. `skipped`: path -> reason."""
    hierarchy = {name: labels.meta[name] for name in ("hierarchy",) if name in labels.meta}
    meta = {name: value for name, value in labels.meta.items() if name != "content"}  # a hash of each photo
    facts = {"root": labels.root, "labels_meta": meta, "skipped": sorted(map(list, skipped.items()))}
    return {**identity, **hierarchy, **facts}
