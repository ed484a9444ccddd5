"""The classifier on disk: one file holds everything that prediction needs. It is written completely or not at all.

`model.pt` is {"format": "mlclip.model", "version": 2, "arch", "classes", "size", "thresholds", "weights", "meta"} of
plain containers and tensors. With the arch clip-head, "clip", "grids", "side" and "pool" say which CLIP the head needs and what it
takes; CLIP's weights are not in the file. The state of an unfinished training is a separate file, see `training/`.

`model.safetensors` has the same content, to hand over: the weights, and JSON texts in the header. `meta` is split into
"calibration", "hierarchy" of the classes, "teacher" (which CLIP made the labels, with its licence), "labels" (how), "training"
(its settings), and "measured", numbers of the training. Names of photos and folders of the machine that trained are left out. Its
card, one page of Markdown beside it, says only what is recorded in the model.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..clip.weights import read_safetensors
from ..config import CLIP_HEAD, InputError
from ..files import (
    FORMAT_VERSION,
    atomic,
    beside,
    check_output,
    existing_file,
    load_plain,
    parse_json,
    refused,
    save_plain,
)
from ..labels.class_tree import ClassTree
from ..methods.hierarchy import consistent_scores, consistent_thresholds
from ..plain import check_fields
from .clip_head import ClipHead, clip_head_of
from .model import Classifier, classifier_of, fold_batch_norm
from .onnx_model import InMemory

FORMAT, VERSION = "mlclip.model", FORMAT_VERSION
MADE_BY = "mlclip train --labels labels.pt"
EXPORTED_BY = "mlclip export -o model.safetensors"
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.float64: "F64", torch.int64: "I64"}
FIELDS = ("arch", "size", "classes", "thresholds", "clip", "grids", "side", "pool")  # of a model.pt, as they are
NOT_RECORDED = "not recorded"
PRIVATE = ("root", "skipped")  # of `meta`: names of folders and photos


@dataclass(repr=False)
class Checkpoint(InMemory):
    """A student with its `thresholds` (C,) in [0, 1], and `meta`: how it was made.

    If `consistent`, predictions agree with the hierarchy and groups in `meta["hierarchy"]`; else they are the network's own.
    """

    model: Classifier | ClipHead
    thresholds: Tensor
    meta: dict[str, Any] = field(default_factory=dict)
    consistent: bool = True

    def __repr__(self) -> str:
        model = self.model
        return f"<Checkpoint: {model.arch}, {len(model.classes)} classes, {model.size} px>"

    def _input(self) -> tuple[int, Sequence[int], str]:
        model = self.model
        if not isinstance(model, ClipHead):
            return model.size, (1,), "bicubic"
        return model.size, model.grids, model.encoder_on(model.scale.device).pixels.interpolation

    def _classes_and_limits(self) -> tuple[Sequence[str], Sequence[float]]:
        return self.model.classes, thresholds_of(self).tolist()

    @cached_property
    def _network(self) -> nn.Module:
        """The model as it predicts photos in memory; a change of `model` after the first prediction is not seen."""
        device = next(self.model.parameters()).device
        network = self.model if isinstance(self.model, ClipHead) else fold_batch_norm(self.model)
        return network.to(device, memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def _scores(self, views: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(views).to(next(self._network.parameters()).device)
        pixels = pixels if isinstance(self.model, ClipHead) else pixels[:, 0].to(memory_format=torch.channels_last)
        scores = self._network(pixels).float().sigmoid().cpu()
        if "hierarchy" in self.meta and self.consistent:
            scores = make_consistent(scores, self.model.classes, self.meta)
        return scores.numpy()


def make_consistent(scores: Tensor, classes: Sequence[str], meta: Mapping[str, Any]) -> Tensor:
    """Scores (N, C) that agree with the tree in `meta`; without one, the same scores."""
    tree = ClassTree.of(meta)
    return consistent_scores(scores, tree.parent_columns(classes), tree.group_columns(classes)) if tree else scores


def thresholds_of(checkpoint: Checkpoint) -> Tensor:
    """The model's thresholds (C,), so that no child is chosen without its parent, and at most one class of a group."""
    tree, classes = ClassTree.of(checkpoint.meta), checkpoint.model.classes
    if not tree or not checkpoint.consistent:
        return checkpoint.thresholds
    return consistent_thresholds(checkpoint.thresholds, tree.parent_columns(classes), tree.group_columns(classes))


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write `model.pt`, or a .safetensors file if `path` is named so, atomically. Weights are stored in float32 on the CPU."""
    model = checkpoint.model
    content = {
        "format": FORMAT,
        "version": VERSION,
        "arch": model.arch,
        "classes": list(model.classes),
        "size": model.size,
        "thresholds": checkpoint.thresholds.float().cpu(),
        "weights": {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()},
        "meta": checkpoint.meta,
    }
    if isinstance(model, ClipHead):
        content |= {"clip": model.needed, "grids": list(model.grids), "side": model.side, "pool": model.pool}
    if _is_safetensors(path):
        _save_safetensors(content, path)
    else:
        save_plain(content, path)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read the student of a `model.pt` or `model.safetensors`, in eval mode on `device`.

    `plain.FIELDS["model"]` says what it must hold. InputError if the file is missing or damaged.
    """
    content = _load_safetensors(path) if _is_safetensors(path) else load_plain(path, kind="model", made_by=MADE_BY)
    with refused(str(path), f"Create the file again with `{MADE_BY}`.", InputError):
        if content["arch"] == CLIP_HEAD:
            model = clip_head_of(content)
        else:
            model = classifier_of(content["arch"], content["classes"], content["size"], content["weights"])
    return Checkpoint(model.to(device).eval(), content["thresholds"].float(), content["meta"])


def facts_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a model's `meta` that a file to hand over has, as plain JSON.

    >>> facts = facts_of({"lr": 0.1, "root": "/home", "labels_meta": {"method": "cdul", "clip": {"name": "RN50"}}})
    >>> facts["training"], facts["labels"], facts["teacher"], facts["calibration"]
    ({'lr': 0.1}, {'method': 'cdul'}, {'name': 'RN50'}, None)
    """
    plain = _plain(meta)
    labels = plain.pop("labels_meta", {})
    facts = {name: plain.pop(name, None) for name in ("calibration", "hierarchy")}
    facts |= {"teacher": labels.pop("clip", None), "labels": labels}
    return facts | {"measured": plain.pop("measured", {}), "training": plain}


def _plain(value: Any) -> Any:
    """A copy without tensors, private entries and what JSON cannot hold."""
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if isinstance(key, str) and key not in PRIVATE}
        return {key: _plain(item) for key, item in kept.items() if not isinstance(item, Tensor)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value if not isinstance(item, Tensor)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int) else None


def _save_safetensors(content: Mapping[str, Any], path: str | Path) -> None:
    """Write the content of a `model.pt` as .safetensors. The same content gives the same bytes, unlike with the library."""
    fields = {name: content[name] for name in FIELDS if name in content}
    fields |= {"thresholds": content["thresholds"].tolist(), **facts_of(content["meta"])}
    texts = {name: json.dumps(value) for name, value in fields.items()}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "version": str(VERSION), **texts}}
    end = 0
    for name, weight in content["weights"].items():
        start, end = end, end + weight.numel() * weight.element_size()
        header[name] = {"dtype": DTYPES[weight.dtype], "shape": list(weight.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the data begin at a multiple of 8 bytes
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for weight in content["weights"].values():
            file.write(weight.contiguous().numpy().tobytes())


def _is_safetensors(path: str | Path) -> bool:
    return os.fspath(path).lower().endswith(".safetensors")


def _load_safetensors(path: str | Path) -> dict[str, Any]:
    """The content of a `model.pt` from a file of `_save_safetensors`. InputError if it is missing, damaged, or not a student."""
    path = existing_file(path, f"`{EXPORTED_BY}` creates it.")
    weights, texts = read_safetensors(path)
    if (texts.pop("format", None), texts.pop("version", None)) != (FORMAT, str(VERSION)):
        raise InputError(f"{path} is not a model of this version of mlclip. `{EXPORTED_BY}` creates one.")
    remedy = f"Create it again with `{EXPORTED_BY}`."
    with refused(
        f"{path} is damaged: its header is not valid", remedy, TypeError, ValueError, RuntimeError, OverflowError
    ):
        facts = {name: parse_json(text) for name, text in texts.items()}
        thresholds = torch.tensor(facts.get("thresholds"), dtype=torch.float32)
        meta = {**(facts.get("training") or {}), "labels_meta": dict(facts.get("labels") or {})}
    if facts.get("teacher"):
        meta["labels_meta"]["clip"] = facts["teacher"]
    meta |= {"calibration": facts.get("calibration"), "measured": facts.get("measured")}
    if facts.get("hierarchy"):
        meta["hierarchy"] = facts["hierarchy"]
    content = {name: facts[name] for name in FIELDS if name in facts}
    content |= {"weights": weights, "thresholds": thresholds, "meta": meta}
    check_fields("model", content, path, EXPORTED_BY)
    return content


# Handing over


def hand_over(model_file: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Write the model in `model_file` to `output`, a .safetensors file, and its card to the same name with .md.

    The numbers of the last epoch come from the `.log.csv` beside `model_file`, if it exists. Returns the card. InputError if the
    model cannot be read, or if one of the files exists and `overwrite` is not set.
    """
    card = beside(output, ".md")
    for file in (output, card):
        check_output(file, overwrite=overwrite)
    checkpoint = load_checkpoint(model_file)
    measured = last_epoch(model_file) or checkpoint.meta.get("measured") or {}
    checkpoint = replace(checkpoint, meta={**checkpoint.meta, "measured": measured})
    text = model_card(checkpoint, output)
    save_checkpoint(checkpoint, output)
    with atomic(card) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return card


def last_epoch(model_file: str | Path) -> dict[str, float]:
    """The numbers of the last epoch in the `.log.csv` beside a model file; empty where there is none.

    >>> last_epoch("no-such-model.pt")
    {}
    """
    file = beside(model_file, ".log.csv")
    if not file.is_file():
        return {}
    found, rows = {}, list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8", errors="replace"))))
    for name, text in (rows[-1] if rows else {}).items():
        try:
            found[str(name)] = float(text)
        except (TypeError, ValueError):
            continue
    return found


def model_card(checkpoint: Checkpoint, file: str | Path) -> str:
    """The card of a model, as Markdown. `file` is the name of the model's file."""
    model, facts, name = checkpoint.model, facts_of(checkpoint.meta), Path(file).name
    network = {"network": model.arch, "input": f"RGB, {model.size} × {model.size} pixels"}
    network["parameters"] = f"{sum(weight.numel() for weight in model.parameters()):,}"
    if model.arch == CLIP_HEAD:
        network["needs"] = "CLIP {name}, sha256 {sha256}".format(**model.needed)
    teacher = facts["teacher"]
    if isinstance(teacher, dict):
        teacher = {**teacher, "licence": teacher.get("licence") or NOT_RECORDED}
    lines = [f"| {_text(name)} | {t:.3f} |" for name, t in zip(model.classes, checkpoint.thresholds, strict=True)]
    parts = [
        f"# {_text(Path(file).stem)}",
        f"A multi-label image classifier for {len(model.classes)} classes, made with mlclip. `mlclip predict PHOTOS --model {name}` "
        "prints the classes of photos.",
        _section("Network", network, *network),
        _section("Teacher", teacher, "name", "sha256", "activation", "precision", "licence"),
        _section("Labels", facts["labels"], "method", "templates", "settings"),
        _section("Training", facts["training"], "settings"),
        _section("Calibration", facts["calibration"], "source", "photos", "positives"),
        _section("Measured in the last epoch of the training", facts, "measured"),
        "## Classes\n\nA photo has a class if its score is at least the threshold.",
        "\n".join(["| class | threshold |", "|---|---|", *lines]),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, facts: Any, *names: str) -> str:
    """A section with the texts and numbers under `names` of a dict; of a dict under a name, those in it."""
    pairs: list[tuple[str, Any]] = []
    for name in names if isinstance(facts, dict) else ():
        value = facts.get(name)
        prefix = "positive photos of " if name == "positives" else ""
        pairs += [(prefix + key, item) for key, item in value.items()] if isinstance(value, dict) else [(name, value)]
    lines = []
    for name, value in pairs:
        if value not in (None, "", [], {}):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append(f"- {_text(name)}: {_text(f'{value:g}' if isinstance(value, float) else text)}")
    return "\n".join([f"## {title}", "", *(lines or [NOT_RECORDED.capitalize() + "."])])


def _text(text: str) -> str:
    """Text on one line, with Markdown's special characters escaped."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", plain)
