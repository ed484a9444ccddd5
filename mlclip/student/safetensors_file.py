"""A student as a `.safetensors` file, to hand over: the weights, and JSON texts in the header that say what they are.

The texts are: "format", "version", "arch", "size", "classes", "thresholds", "calibration", "hierarchy" of the classes, "teacher"
(which CLIP made the labels, with its licence), "labels" (how), "training" (its settings), and "measured", numbers of the
training. Only what is recorded is there. Names of photos and folders of the machine that trained are left out.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..clip.weights import read_safetensors
from ..config import InputError
from ..files import atomic, parse_json
from ..plain import check_fields, is_list_of, is_number

FORMAT, VERSION = "mlclip.model", 1
SUFFIX = ".safetensors"
MADE_BY = "mlclip export -o model.safetensors"
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.float64: "F64", torch.int64: "I64"}
FIELDS = ("arch", "size", "classes", "thresholds", "clip", "grids")  # of a model.pt, as they are
PRIVATE = ("root", "skipped")  # of `meta`: names of folders and photos


def is_safetensors(path: object) -> bool:
    """Whether a file is a .safetensors file, by its name, or else by its first bytes."""
    if not isinstance(path, str | os.PathLike):
        return False
    if os.fspath(path).lower().endswith((SUFFIX, ".pt")):
        return os.fspath(path).lower().endswith(SUFFIX)
    try:
        with open(path, "rb") as file:
            head = file.read(9)
        return head[8:] == b"{" and 0 < int.from_bytes(head[:8], "little") < os.path.getsize(path)
    except (OSError, ValueError):
        return False


def facts_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a model's `meta` that a file to hand over has, as plain JSON.

    >>> facts_of({"settings": {"lr": 0.1}, "root": "/home", "labels_meta": {"method": "cdul", "clip": {"name": "RN50"}}})
    {'calibration': None, 'teacher': {'name': 'RN50'}, 'labels': {'method': 'cdul'}, 'training': {'settings': {'lr': 0.1}}, 'measured': {}}
    """
    plain = _plain(meta)
    labels = plain.pop("labels_meta", None)
    labels = labels if isinstance(labels, dict) else {}
    calibration, measured = plain.pop("calibration", None), plain.pop("measured", {})
    teacher, hierarchy = labels.pop("clip", None), plain.pop("hierarchy", None)
    return {
        "calibration": calibration,
        "teacher": teacher,
        "labels": labels,
        "training": plain,
        "measured": measured,
        **({"hierarchy": hierarchy} if hierarchy else {}),
    }


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


def _meta_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The `meta` of a model, from the parts of `facts_of`."""
    training = facts["training"] if isinstance(facts["training"], dict) else {}
    labels = facts["labels"] if isinstance(facts["labels"], dict) else {}
    teacher = {"clip": facts["teacher"]} if facts["teacher"] else {}
    hierarchy = {"hierarchy": facts["hierarchy"]} if facts.get("hierarchy") else {}
    return {
        **training,
        **hierarchy,
        "labels_meta": labels | teacher,
        "calibration": facts["calibration"],
        "measured": facts["measured"],
    }


def save_safetensors(content: Mapping[str, Any], path: str | Path) -> None:
    """Write the content of a `model.pt` as .safetensors, atomically. The same content gives the same bytes."""
    fields = {name: content[name] for name in FIELDS if name in content}
    fields |= {"thresholds": content["thresholds"].tolist(), **facts_of(content["meta"])}
    texts = {name: json.dumps(value) for name, value in fields.items()}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "version": str(VERSION), **texts}}
    end = 0
    for name, weight in content["weights"].items():
        start, end = end, end + weight.numel() * weight.element_size()
        header[name] = {"dtype": DTYPES[weight.dtype], "shape": list(weight.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8 bytes
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for weight in content["weights"].values():
            file.write(weight.contiguous().numpy().tobytes())


def load_safetensors(path: str | Path) -> dict[str, Any]:
    """The content of a `model.pt` from a file of `save_safetensors`, checked as `plain.FIELDS["model"]` says.

    InputError if the file is missing, damaged, or not a student.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} not found. `{MADE_BY}` creates it.")
    weights, texts = read_safetensors(path)
    if texts.get("format") != FORMAT:
        raise InputError(f"{path} is not a model of mlclip. `{MADE_BY}` creates one.")
    if texts.get("version") != str(VERSION):
        version = str(texts.get("version"))[:20]
        raise InputError(f"{path} has version {version} of the format. This mlclip reads version {VERSION}.")
    facts = {name: _value(texts[name], path, name) for name in texts if name not in ("format", "version")}
    thresholds = facts.get("thresholds")
    if not is_list_of(is_number)(thresholds):
        raise InputError(f"{path}: 'thresholds' are not a list of numbers. Create the file again with `{MADE_BY}`.")
    content = {name: facts[name] for name in FIELDS if name in facts}
    content |= {"weights": weights, "thresholds": torch.tensor(thresholds, dtype=torch.float32)}
    content["meta"] = _meta_of(
        {name: facts.get(name) for name in ("calibration", "teacher", "labels", "training", "measured", "hierarchy")}
    )
    check_fields("model", content, path, MADE_BY)
    return content


def _value(text: str, path: Path, name: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"{path}: '{name[:40]}' is not JSON. Create the file again with `{MADE_BY}`.") from error
