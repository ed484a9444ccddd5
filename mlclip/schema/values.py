"""Tests of single values in a file: each says whether the value is what a field needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..clip.pixels import pixels_of
from ..config import InputError
from ..images.content import HASH_BYTES

LARGEST_INTEGER = 2**63 - 1


def is_text(value: Any) -> bool:
    """Whether the value is text."""
    return type(value) is str


def is_number(value: Any) -> bool:
    """Whether the value is a finite number. True and False are not numbers."""
    return type(value) in (int, float) and abs(value) <= LARGEST_INTEGER and math.isfinite(value)


def is_list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A test: whether the value is a list of items that pass `test`."""
    return lambda value: isinstance(value, list) and all(map(test, value))


def is_dict_of(key: Callable[[Any], bool], item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A test: whether the value is a dict whose keys pass `key` and whose values pass `item`."""
    return lambda value: isinstance(value, dict) and all(key(k) and item(v) for k, v in value.items())


def is_whole(value: Any, low: int = 0, high: int = LARGEST_INTEGER) -> bool:
    """Whether the value is an integer from `low` to `high`. True and False are not integers."""
    return type(value) is int and low <= value <= high


def _in_unit_range(value: Tensor) -> bool:
    return bool(((value >= 0) & (value <= 1) | value.isnan()).all())


def is_table(value: Any) -> bool:
    """Whether the value is a float32 tensor with two axes and numbers in [0, 1] or NaN."""
    return isinstance(value, Tensor) and value.dtype == torch.float32 and value.dim() == 2 and _in_unit_range(value)


def is_dict(value: Any) -> bool:
    """Whether the value is a dict."""
    return isinstance(value, dict)


def is_none_or(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A test: whether the value is None or passes `test`."""
    return lambda value: value is None or test(value)


def is_thresholds(value: Any) -> bool:
    """Whether the value is a tensor of numbers with one axis."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 1


def are_weights(value: Any) -> bool:
    """Whether the value is a dict of tensors by name."""
    return is_dict_of(is_text, lambda item: isinstance(item, Tensor))(value)


def is_optimizer(value: Any) -> bool:
    """Whether the value has the structure of an optimizer's `state_dict()`."""
    return (
        isinstance(value, dict)
        and is_list_of(is_dict)(value.get("param_groups"))
        and is_dict_of(is_whole, is_dict_of(is_text, lambda item: isinstance(item, Tensor)))(value.get("state"))
    )


def is_photo(value: Any) -> bool:
    """Whether the value is path, size and time of a photo."""
    return isinstance(value, list | tuple) and list(map(type, value)) == [str, int, int]


def is_calibration(value: Any, deeper: int = 10) -> bool:
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
    return is_calibration(before.get("calibration"), deeper - 1)


def is_update(value: Any) -> bool:
    """Whether the value is empty, or the facts of CCD's label update."""
    kinds = {"boxes": list, "classes": list, "maps": dict, "before": Tensor}
    return isinstance(value, dict) and (not value or all(isinstance(value.get(k), kind) for k, kind in kinds.items()))


def is_clip(value: Any) -> bool:
    """Whether the value is None, or the facts about the CLIP that made some labels."""
    kinds = {"name": is_text, "sha256": is_text, "logit_scale": is_number}
    if not isinstance(value, dict):
        return value is None
    facts = all(test(value.get(name)) for name, test in kinds.items()) and is_whole(value.get("view_size") or 0)
    return facts and are_pixels(value.get("pixels")) and is_text(value.get("licence", ""))


def is_needed_clip(value: Any) -> bool:
    """Whether the value says which CLIP a head on its embeddings needs."""
    known = {"activation": ("quick_gelu", "gelu", "own"), "precision": ("fp32", "bf16", "fp16")}
    texts = {name: item for name, item in value.items() if name != "pixels"} if isinstance(value, dict) else None
    return (
        is_dict_of(is_text, is_text)(texts)
        and texts.keys() == {"name", "sha256", *known}
        and all(texts[name] in choices for name, choices in known.items())
        and texts["name"].isprintable()
        and are_pixels(value.get("pixels"))
    )


def are_pixels(value: Any) -> bool:
    """Whether the value is None, or how a CLIP's input is resized and normalised."""
    if not isinstance(value, dict):
        return value is None
    try:
        return value.keys() <= pixels_of(value).as_plain().keys()
    except InputError:
        return False


def is_hierarchy(value: Any) -> bool:
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


def are_grids(value: Any) -> bool:
    """Whether the value is a list of different numbers from 1 to 16."""
    whole = is_list_of(lambda n: is_whole(n, 1, 16))(value)
    return whole and 0 < len(value) == len(set(value))


def are_corrections(value: Any) -> bool:
    """Whether the value is a dict path -> class -> 1 or 0."""
    return is_dict_of(is_text, is_dict_of(is_text, lambda cell: is_whole(cell, 0, 1)))(value)


def is_embeddings(value: Any) -> bool:
    """Whether the value is a float16 tensor with three axes."""
    return isinstance(value, Tensor) and value.dtype == torch.float16 and value.dim() == 3


def are_hashes(value: Any) -> bool:
    """Whether the value is a uint8 tensor with a row of HASH_BYTES for each photo."""
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.shape[1:] == (HASH_BYTES,)


def is_scores(value: Any) -> bool:
    """Whether the value is a float32 tensor with two axes."""
    return isinstance(value, Tensor) and value.dtype == torch.float32 and value.dim() == 2
