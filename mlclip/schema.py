"""What each file of mlclip must hold: one schema for each kind, checked where the file is read.

A schema names the fields of a file with a rule for each, and then compares fields with each other. A wrong file gives one
InputError with the name of the field, its value, and what it must be. Letters: N photos, C classes, V views, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .clip.pixels import pixels_of
from .config import CLIP_HEAD, LARGEST_SIZE, InputError

SMALLEST_SIZE = 32  # pixels, side of a student's input
LARGEST_INTEGER = 2**63 - 1


class Rule(NamedTuple):
    """A test of one value, and what it asks for: words after "it must be". An `optional` field may be missing."""

    holds: Callable[[Any], bool]
    wanted: str
    optional: bool = False


@dataclass(frozen=True)
class Schema:
    """The rules of a kind of file by field; "a.b" is the field b of the dict a. `mismatch` says how fields disagree, or None."""

    fields: Mapping[str, Rule]
    mismatch: Callable[[Mapping[str, Any]], str | None] = lambda content: None

    def check(self, content: Mapping[str, Any], source: str, remedy: str) -> None:
        """InputError with `source` (the file) and `remedy` (a sentence) if the content breaks a rule."""
        for name, rule in self.fields.items():
            holder, key = content, name
            while "." in key and isinstance(holder, Mapping):
                first, key = key.split(".", 1)
                holder = holder.get(first)
            if not isinstance(holder, Mapping) or key not in holder:
                if not rule.optional:
                    raise InputError(f"{source}: '{name}' is missing: it must be {rule.wanted}. {remedy}")
            elif not rule.holds(holder[key]):
                raise InputError(f"{source}: '{name}' is {shown(holder[key])}: it must be {rule.wanted}. {remedy}")
        problem = self.mismatch(content)
        if problem:
            raise InputError(f"{source}: {problem}. {remedy}")


def shown(value: Any) -> str:
    """A value in a few words for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} with shape {tuple(value.shape)}"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "...")
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if type(value) is int and abs(value) > LARGEST_INTEGER:
        return "a number with too many digits"
    if isinstance(value, int | float | complex) or value is None:
        return repr(value)
    return f"a {type(value).__name__}"


# Rules


def is_text(value: Any) -> bool:
    return type(value) is str


def is_number(value: Any) -> bool:
    """Whether the value is a finite number. True and False are not numbers."""
    return type(value) in (int, float) and abs(value) <= LARGEST_INTEGER and math.isfinite(value)


def is_list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


def is_dict_of(key: Callable[[Any], bool], item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(key(k) and item(v) for k, v in value.items())


def is_whole(value: Any, low: int = 0, high: int = LARGEST_INTEGER) -> bool:
    return type(value) is int and low <= value <= high


def _in_unit_range(value: Tensor) -> bool:
    return bool(((value >= 0) & (value <= 1) | value.isnan()).all())


def is_table(value: Any) -> bool:
    """Whether the value is a float32 tensor with two axes and numbers in [0, 1] or NaN."""
    return isinstance(value, Tensor) and value.dtype == torch.float32 and value.dim() == 2 and _in_unit_range(value)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _is_none_or(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or test(value)


def _is_thresholds(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 1


def _are_weights(value: Any) -> bool:
    return is_dict_of(is_text, lambda item: isinstance(item, Tensor))(value)


def _is_optimizer(value: Any) -> bool:
    """Whether the value has the structure of an optimizer's `state_dict()`."""
    return (
        isinstance(value, dict)
        and is_list_of(_is_dict)(value.get("param_groups"))
        and is_dict_of(is_whole, is_dict_of(is_text, lambda item: isinstance(item, Tensor)))(value.get("state"))
    )


def _is_photo(value: Any) -> bool:
    return isinstance(value, list | tuple) and list(map(type, value)) == [str, int, int]


def _is_calibration(value: Any, deeper: int = 10) -> bool:
    """Whether the value is None or what a calibration writes: its source, and the values before it."""
    if value is None:
        return True
    if not isinstance(value, dict) or not deeper:
        return False
    before = value.get("before")
    if before is None:
        return value.get("source") != "true labels"
    numbers = is_list_of(is_number)
    lists = [before.get(name) for name in ("scale", "offset", "thresholds")] if isinstance(before, dict) else [None]
    if not all(map(numbers, lists)) or not all(0 <= number <= 1 for number in lists[2]):
        return False
    return _is_calibration(before.get("calibration"), deeper - 1)


def _is_update(value: Any) -> bool:
    """Whether the value is empty, or the facts of CCD's label update."""
    kinds = {"boxes": list, "classes": list, "maps": dict, "before": Tensor}
    return isinstance(value, dict) and (not value or all(isinstance(value.get(k), kind) for k, kind in kinds.items()))


def _is_clip(value: Any) -> bool:
    """Whether the value is None, or the facts about the CLIP that made some labels."""
    kinds = {"name": is_text, "sha256": is_text, "logit_scale": is_number}
    if not isinstance(value, dict):
        return value is None
    facts = all(test(value.get(name)) for name, test in kinds.items()) and is_whole(value.get("view_size") or 0)
    return facts and _are_pixels(value.get("pixels")) and is_text(value.get("licence", ""))


def _is_needed_clip(value: Any) -> bool:
    """Whether the value says which CLIP a head on its embeddings needs."""
    known = {"activation": ("quick_gelu", "gelu", "own"), "precision": ("fp32", "bf16", "fp16")}
    texts = {name: item for name, item in value.items() if name != "pixels"} if isinstance(value, dict) else None
    return (
        is_dict_of(is_text, is_text)(texts)
        and texts.keys() == {"name", "sha256", *known}
        and all(texts[name] in choices for name, choices in known.items())
        and texts["name"].isprintable()
        and _are_pixels(value.get("pixels"))
    )


def _are_pixels(value: Any) -> bool:
    """Whether the value is None, or how a CLIP's input is resized and normalised."""
    if not isinstance(value, dict):
        return value is None
    try:
        return value.keys() <= pixels_of(value).as_plain().keys()
    except InputError:
        return False


def _is_hierarchy(value: Any) -> bool:
    """Whether the value has the parents of classes without a circle, and groups of classes."""
    if not isinstance(value, dict) or value.keys() != {"parents", "groups"}:
        return False
    parents, ended = value["parents"], set()
    if not is_dict_of(is_text, is_text)(parents) or not is_list_of(is_list_of(is_text))(value["groups"]):
        return False
    if len(names := [name for group in value["groups"] for name in group]) != len(set(names)):
        return False
    for name in parents:
        path = set()
        while name in parents and name not in ended:
            if name in path:
                return False
            path.add(name)
            name = parents[name]
        ended |= path
    return True


def _are_grids(value: Any) -> bool:
    whole = is_list_of(lambda n: is_whole(n, 1, 16))(value)
    return whole and 0 < len(value) == len(set(value))


def _are_corrections(value: Any) -> bool:
    return is_dict_of(is_text, is_dict_of(is_text, lambda cell: is_whole(cell, 0, 1)))(value)


NAMES = Rule(lambda v: is_list_of(is_text)(v) and all(v) and len(set(v)) == len(v), "a list of different names")
TABLE = Rule(is_table, "a float32 table of numbers from 0 to 1, or NaN")
WEIGHTS = Rule(_are_weights, "a dict of named tensors")
DICT = Rule(_is_dict, "a dict")
_TEXTS = Rule(is_list_of(is_text), "a list of text", optional=True)
_HIERARCHY = Rule(
    _is_hierarchy, "the parents of classes, without a circle, and groups of different classes", optional=True
)

# The known parts of a labels file's `meta`. Other parts are only shown, as text.
_META = {
    "meta.clip": Rule(_is_clip, "a dict with the CLIP's name, sha256 and logit_scale", optional=True),
    "meta.settings": Rule(_is_dict, "a dict", optional=True),
    "meta.hierarchy": _HIERARCHY,
    "meta.prompts": _TEXTS,
    "meta.contrast": _TEXTS,
    "meta.templates": _TEXTS,
    "meta.corrections": Rule(_are_corrections, "the corrections: path -> class -> 1 or 0", optional=True),
}


# Fields that must agree


def _not_finite(weights: Mapping[str, Tensor]) -> str | None:
    bad = next((name for name, w in weights.items() if w.is_floating_point() and not w.isfinite().all()), None)
    return bad and f"'weights' has NaN or infinite weights ({bad})"


def _model_mismatch(content: Mapping[str, Any]) -> str | None:
    classes, weights, thresholds = content["classes"], content["weights"], content["thresholds"]
    head, on_clip = weights.get("head.weight"), content["arch"] == CLIP_HEAD
    if on_clip and not {"clip", "grids"} <= content.keys():
        return "'clip' or 'grids' is missing, which say what the head needs"
    if head is None or head.dim() != (2 if on_clip else 4):
        return "'weights' has no 'head.weight' of a student"
    if len(head) != len(classes):
        return f"'classes' has {len(classes)} names, but 'weights' has {len(head)} classes"
    if len(thresholds) != len(classes):
        return f"'thresholds' has {len(thresholds)} thresholds for {len(classes)} classes"
    if not ((thresholds >= 0) & (thresholds <= 1)).all():
        return "'thresholds' has values that are not numbers from 0 to 1"
    calibration = content["meta"].get("calibration")
    while calibration and calibration.get("before"):
        before = calibration["before"]
        if any(len(before[name]) != len(classes) for name in ("scale", "offset", "thresholds")):
            return f"'meta.calibration' is not for {len(classes)} classes"
        calibration = before["calibration"]
    return _not_finite(weights)


def _labels_mismatch(content: Mapping[str, Any]) -> str | None:
    shape, wanted = tuple(content["scores"].shape), (len(content["paths"]), len(content["classes"]))
    return f"'scores' has shape {shape}, but there are {wanted[0]} paths and {wanted[1]} classes" * (shape != wanted)


def _shard_mismatch(content: Mapping[str, Any]) -> str | None:
    photos, rows = len(content["photos"]), len(content["embeddings"])
    return f"'embeddings' has {rows} rows for {photos} photos" if photos != rows else None


def _update_mismatch(content: Mapping[str, Any]) -> str | None:
    rows, known = len(content["rows"]), len(content["known"])
    return f"'known' has {known} rows for {rows} photos" if rows != known else None


def _resume_mismatch(content: Mapping[str, Any]) -> str | None:
    given, latent = content["given"], content["latent"]
    if latent is not None and latent.shape != given.shape:
        return f"'latent' has shape {tuple(latent.shape)}, but 'given' has {tuple(given.shape)}"
    return _not_finite(content["weights"]) or _not_finite(content.get("average") or {})


def _is_embeddings(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float16 and value.dim() == 3


def _is_scores(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float32 and value.dim() == 2


_SHARD = Schema(
    {
        "photos": Rule(is_list_of(_is_photo), "a list of path, size and time of each photo"),
        "embeddings": Rule(_is_embeddings, "a float16 tensor with three axes: photos, views, dimensions"),
    },
    _shard_mismatch,
)
_SIZES = f"a whole number from {SMALLEST_SIZE} to {LARGEST_SIZE}"

SCHEMAS: dict[str, Schema] = {
    "model": Schema(
        {
            "arch": Rule(is_text, "the name of a network"),
            "classes": Rule(lambda v: NAMES.holds(v) and len(v) > 0, "a list of different names, at least one"),
            "size": Rule(lambda v: is_whole(v, SMALLEST_SIZE, LARGEST_SIZE), _SIZES),
            "thresholds": Rule(_is_thresholds, "a tensor with a number from 0 to 1 for each class"),
            "weights": WEIGHTS,
            "meta": DICT,
            "meta.hierarchy": _HIERARCHY,
            "meta.calibration": Rule(_is_calibration, "the facts of a calibration", optional=True),
            "clip": Rule(_is_needed_clip, "the name, sha256, activation and precision of a CLIP", optional=True),
            "grids": Rule(_are_grids, "a list of different numbers from 1 to 16", optional=True),
        },
        _model_mismatch,
    ),
    "labels": Schema(
        {
            "paths": Rule(is_list_of(is_text), "a list of file names"),
            "classes": Rule(is_list_of(is_text), "a list of names"),
            "scores": Rule(_is_scores, "a float32 table of numbers from 0 to 1, or NaN"),
            "root": Rule(is_text, "text"),
            "meta": DICT,
        }
        | _META,
        _labels_mismatch,
    ),
    "resume": Schema(
        {
            "run": DICT,
            "run.settings": DICT,
            "run.labels": Rule(is_text, "text"),
            "epochs": Rule(lambda v: is_whole(v, 0, 10**9), "a whole number, 0 or more"),
            "weights": WEIGHTS,
            "optimizer": Rule(_is_optimizer, "the state of an optimizer"),
            "given": TABLE,
            "latent": Rule(_is_none_or(_is_scores), "a float32 table, or None"),
            "update": Rule(_is_update, "the facts of a label update"),
            "average": Rule(_is_none_or(WEIGHTS.holds), f"{WEIGHTS.wanted}, or None", optional=True),
            "precision": Rule(lambda v: v in ("fp32", "bf16", "fp16"), "fp32, bf16 or fp16", optional=True),
            "skipped": Rule(is_dict_of(is_text, is_text), "a dict of paths with reasons"),
            "log": Rule(
                is_list_of(is_dict_of(is_text, lambda v: type(v) in (int, float))), "a list with numbers of each epoch"
            ),
        },
        _resume_mismatch,
    ),
    "embeddings": _SHARD,
    "cells": _SHARD,
    "features": _SHARD,
    "update": Schema(
        {
            "run": Rule(is_text, "text"),
            "rows": Rule(is_list_of(is_whole), "a list of whole numbers, 0 or more"),
            "known": Rule(_is_scores, "a float32 table of the scores of each photo"),
        },
        _update_mismatch,
    ),
}
