"""Read files of `torch.save` without running any code in them, and check the fields of mlclip's own files.

Letters: N photos, C classes, V views, D embedding.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .config import CLIP_HEAD, LARGEST_SIZE, InputError

SMALLEST_SIZE = 32  # pixels, side of a student's input
DEEPEST = 40  # nested containers
CONTAINERS = (dict, list, tuple)


class RefusedError(Exception):
    """The file is damaged, or is not safe to read. The message completes a sentence that starts with the file name."""

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else "?" for c in message[:300]))  # it may quote the file


def read_torch(path: str | Path, *, mmap: bool = False) -> Any:
    """The content of a `torch.save` file: containers, text, numbers, and tensors on the CPU. No code in the file is executed.

    `mmap=True` maps the tensors instead of reading them and does not compare checksums. RefusedError if the file is damaged or
    holds anything else.
    """
    mapped = mmap and os.fsencode(path) == str(path).encode("utf-8", "replace")  # torch maps no other names
    try:
        if not mapped and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch does not compare the checksums
            if damaged:
                raise RefusedError(f"is damaged at {damaged}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual files, which are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except RefusedError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"would execute {named[1]}" if named else "is damaged, or holds more than tensors"
        raise RefusedError(f"{what}. Nothing was executed") from error
    except Exception as error:  # a damaged file may raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise RefusedError(f"is truncated or damaged ({type(error).__name__}: {reason[:150]})") from error
    _refuse_unusual(content)
    return content


def _refuse_unusual(content: Any) -> None:
    """RefusedError for containers that are nested endlessly, and for tensors that are sparse, without data, or not of real numbers."""
    level = [content]
    for _ in range(DEEPEST):
        for value in level:
            if isinstance(value, Tensor) and (
                value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex()
            ):
                raise RefusedError("holds a tensor of an unusual kind")
        inner = [item for value in level if isinstance(value, CONTAINERS) for item in _items(value)]
        level = list({id(item): item for item in inner if isinstance(item, (*CONTAINERS, Tensor))}.values())
        if not level:
            return
    raise RefusedError("is endlessly nested")


def _items(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


# The fields of mlclip's own files


class Field(NamedTuple):
    """A test of a value, and what it asks for: words after "it must be". An `optional` field may be missing."""

    holds: Callable[[Any], bool]
    wanted: str
    optional: bool = False


def _is_text(value: Any) -> bool:
    """Whether the value is text."""
    return type(value) is str


def _is_number(value: Any) -> bool:
    """Whether the value is a finite number. True and False are not numbers."""
    return type(value) in (int, float) and abs(value) < 2**63 and math.isfinite(value)


def _is_list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A test: whether the value is a list of items that pass `test`."""
    return lambda value: isinstance(value, list) and all(map(test, value))


def _is_dict_of(key: Callable[[Any], bool], item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A test: whether the value is a dict whose keys pass `key` and whose values pass `item`."""
    return lambda value: isinstance(value, dict) and all(key(k) and item(v) for k, v in value.items())


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _tensor(dtype: torch.dtype, axes: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Tensor) and value.dtype == dtype and value.dim() == axes


def _are_names(value: Any) -> bool:
    return _is_list_of(_is_text)(value) and all(value) and 0 < len(set(value)) == len(value)


def _are_weights(value: Any) -> bool:
    return _is_dict_of(_is_text, lambda item: isinstance(item, Tensor) and bool(item.isfinite().all()))(value)


def _is_head(value: Any) -> bool:
    return _are_weights(value) and "head.weight" in value and value["head.weight"].dim() in (2, 4)


def _are_thresholds(value: Any) -> bool:
    return _tensor(torch.float32, 1)(value) and bool(((value >= 0) & (value <= 1)).all())


def _is_photo(value: Any) -> bool:
    return isinstance(value, list | tuple) and list(map(type, value)) == [str, int, int]


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _made_by_clip(value: Any) -> bool:
    """Whether the value is None, or the facts about the CLIP that made some labels."""
    if value is None:
        return True
    return (
        _is_dict(value)
        and _is_number(value.get("logit_scale"))
        and all(_is_text(value.get(k)) for k in ("name", "sha256"))
    )


def _is_calibration(value: Any) -> bool:
    """Whether the value is None or the facts of a calibration; one by true labels can be undone from its "before"."""
    if not _is_dict(value):
        return value is None
    before = value.get("before")
    numbers = ("scale", "offset", "thresholds")
    undone = _is_dict(before) and all(_is_list_of(_is_number)(before.get(name)) for name in numbers)
    return undone or value.get("source") != "true labels"


def _needs_clip(value: Any) -> bool:
    known = ("name", "sha256", "activation", "precision")
    return _is_dict(value) and {*known} <= value.keys() <= {*known, "pixels"} and all(_is_text(value[k]) for k in known)


def _is_tree(value: Any) -> bool:
    """Whether the value has the fields of a `ClassTree`, and no class is above itself."""
    if not _is_dict(value) or value.keys() != {"parents", "groups"}:
        return False
    parents, groups = value["parents"], value["groups"]
    if not _is_dict_of(_is_text, _is_text)(parents) or not _is_list_of(_is_list_of(_is_text))(groups):
        return False
    try:
        TopologicalSorter({name: [above] for name, above in parents.items()}).prepare()
    except CycleError:
        return False
    return True


_DICT, _TEXT = Field(_is_dict, "a dict"), Field(_is_text, "text")
_TEXTS = Field(_is_list_of(_is_text), "a list of text")
_TABLE = Field(_tensor(torch.float32, 2), "a float32 table")
_WEIGHTS = Field(_are_weights, "a dict of named tensors without NaN or infinite numbers")
_HIERARCHY = Field(_is_tree, "parents and groups of classes, without a circle", optional=True)
_PHOTOS = Field(_is_list_of(_is_photo), "a list of path, size and time of each photo")
_HASHES = Field(_tensor(torch.uint8, 2), "a uint8 tensor with a hash of each photo")
_SHARD = {
    "content": _HASHES,
    "bytes": Field(_is_list_of(lambda v: type(v) is int and v >= 0), "a list of whole numbers, 0 or more"),
    "embeddings": Field(_tensor(torch.float16, 3), "a float16 tensor of photos × views × dimensions"),
}
FIELDS: dict[str, dict[str, Field]] = {
    "model": {
        "arch": _TEXT,
        "classes": Field(_are_names, "a list of different names, at least one"),
        "size": Field(
            lambda v: type(v) is int and SMALLEST_SIZE <= v <= LARGEST_SIZE,
            f"a whole number from {SMALLEST_SIZE} to {LARGEST_SIZE}",
        ),
        "thresholds": Field(_are_thresholds, "a float32 tensor with a number from 0 to 1 for each class"),
        "weights": Field(_is_head, f"{_WEIGHTS.wanted}, one of them head.weight"),
        "meta": _DICT,
        "meta.hierarchy": _HIERARCHY,
        "meta.calibration": Field(_is_calibration, "the facts of a calibration", optional=True),
        "clip": Field(_needs_clip, "the name, sha256, activation and precision of a CLIP", optional=True),
        "grids": Field(
            lambda v: _is_list_of(_is_whole)(v) and min(v, default=0) > 0, "a list of whole numbers", optional=True
        ),
    },
    "labels": {
        "paths": _TEXTS,
        "classes": _TEXTS,
        "scores": _TABLE,
        "root": _TEXT,
        "meta": _DICT,
        "meta.clip": Field(_made_by_clip, "a dict with the CLIP's name, sha256 and logit_scale", optional=True),
        "meta.settings": _DICT._replace(optional=True),
        "meta.hierarchy": _HIERARCHY,
        "meta.prompts": _TEXTS._replace(optional=True),
        "meta.contrast": _TEXTS._replace(optional=True),
        "meta.templates": _TEXTS._replace(optional=True),
        "meta.corrections": Field(
            _is_dict_of(_is_text, _is_dict_of(_is_text, _is_whole)),
            "the corrections: path -> class -> 1 or 0",
            optional=True,
        ),
    },
    "resume": {
        "run": Field(
            lambda v: _is_dict(v) and _is_dict(v.get("settings")) and "labels" in v, "a dict with settings and labels"
        ),
        "epochs": Field(_is_whole, "a whole number, 0 or more"),
        "weights": _WEIGHTS,
        "optimizer": Field(lambda v: _is_dict(v) and _is_dict(v.get("state")), "the state of an optimizer"),
        "given": _TABLE,
        "photos": Field(_is_list_of(_is_text), "a list of file names"),
        "update": _DICT,
        "skipped": Field(_is_dict_of(_is_text, _is_text), "a dict of paths with reasons"),
        "log": Field(_is_list_of(_is_dict_of(_is_text, _is_number)), "a list with numbers of each epoch"),
    },
    "embeddings": _SHARD,
    "cells": _SHARD,
    "features": _SHARD,
    "photos": {"photos": _PHOTOS, "content": _HASHES},
}
_SAME_LENGTH = {"model": ("thresholds", "classes"), "photos": ("content", "photos")}
_SAME_LENGTH |= dict.fromkeys(("embeddings", "cells", "features"), ("embeddings", "content", "bytes"))


def check_fields(kind: str, content: Mapping[str, Any], path: str | Path, made_by: str) -> None:
    """InputError that names the file and the field if a field of a file of this kind is missing or wrong.

    "a.b" is the field b of the dict a. `made_by` is the command that creates such a file.
    """
    for name, field in FIELDS[kind].items():
        first, _, inner = name.partition(".")
        holder, key = (content[first], inner) if inner else (content, first)
        if key not in holder and field.optional:
            continue
        if key not in holder or not field.holds(holder[key]):
            found = f"is {_shown(holder[key])}" if key in holder else "is missing"
            raise InputError(
                f"{path}: '{name}' {found}: it must be {field.wanted}. Create the file again with `{made_by}`."
            )
    if content.get("arch") == CLIP_HEAD and not {"clip", "grids"} <= content.keys():
        raise InputError(f"{path}: 'clip' or 'grids' is missing. Create the file again with `{made_by}`.")
    counts = {name: len(content[name]) for name in _SAME_LENGTH.get(kind, ())}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"'{name}' has {count}" for name, count in counts.items())
        raise InputError(f"{path}: the numbers of entries differ: {found}. Create the file again with `{made_by}`.")


def _shown(value: Any) -> str:
    """A value in a few words for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} with shape {tuple(value.shape)}"
    if isinstance(value, str):
        return repr(value[:40])
    small = value is None or isinstance(value, bool | float) or (type(value) is int and abs(value) < 2**63)
    return repr(value) if small else f"a {type(value).__name__}"
