"""The classifier on disk: one file holds everything that prediction needs. It is written completely or not at all.

`model.pt` is {"format": "mlclip.model", "version": 2, "arch", "classes", "size", "thresholds", "weights", "meta"} of
plain containers and tensors. With the arch clip-head, "clip", "grids", "side" and "pool" say which CLIP the head needs and what it
takes; CLIP's weights are not in the file. The state of an unfinished training is a separate file, see `training/`.

`model.safetensors` has the same content, to hand over: the weights, and JSON texts in the header. `meta` is split into
"calibration", "hierarchy" of the classes, "teacher" (which CLIP made the labels, with its licence), "labels" (how), "training"
(its settings), and "measured", numbers of the training. Names of photos and folders of the machine that trained are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..clip.weights import read_safetensors
from ..config import CLIP_HEAD, InputError
from ..files import FORMAT_VERSION, atomic, check_output, existing_file, load_plain, parse_json, refused, save_plain
from ..labels.class_tree import ClassTree
from ..methods.hierarchy import consistent_scores, consistent_thresholds
from ..plain import check_fields
from .clip_head import ClipHead, clip_head_of
from .model import Classifier, classifier_of, fold_batch_norm
from .onnx_model import InMemory, is_onnx

FORMAT, VERSION = "mlclip.model", FORMAT_VERSION
MADE_BY = "mlclip train --labels labels.pt"
EXPORTED_BY = "mlclip export -o model.safetensors"
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.float64: "F64", torch.int64: "I64"}
FIELDS = ("arch", "size", "classes", "thresholds", "clip", "grids", "side", "pool")  # of a model.pt, as they are
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


def check_model_output(path: str | Path, *, overwrite: bool) -> None:
    """As `check_output`. InputError for the name of an ONNX file too."""
    if is_onnx(path):
        raise InputError(f"{path} must end in .pt or .safetensors. `mlclip export` makes an .onnx file of it.")
    check_output(path, overwrite=overwrite)


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
    if str(path).lower().endswith(".safetensors"):
        _save_safetensors(content, path)
    else:
        save_plain(content, path)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read the student of a `model.pt` or `model.safetensors`, in eval mode on `device`."""
    safe = str(path).lower().endswith(".safetensors")
    content = _load_safetensors(path) if safe else load_plain(path, kind="model", made_by=MADE_BY)
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


def _load_safetensors(path: str | Path) -> dict[str, Any]:
    """The content of a `model.pt` from a file of `_save_safetensors`. InputError if it is missing, damaged, or not a student."""
    path = existing_file(path, f"`{EXPORTED_BY}` creates it.")
    weights, texts = read_safetensors(path)
    if (texts.pop("format", None), texts.pop("version", None)) != (FORMAT, str(VERSION)):
        raise InputError(f"{path} is not a model of this version of mlclip. `{EXPORTED_BY}` creates one.")
    remedy = f"Create it again with `{EXPORTED_BY}`."
    damaged = (TypeError, ValueError, RuntimeError, OverflowError)
    with refused(f"{path} is damaged: its header is not valid", remedy, *damaged):
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
