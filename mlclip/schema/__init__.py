"""What each file of mlclip must hold: one schema for each kind, checked where the file is read.

A schema names the fields of a file with a rule for each, and then compares fields with each other. A wrong file gives one
InputError with the name of the field, its value, and what it must be. Letters: N photos, C classes, V views, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..config import LARGEST_SIZE, InputError
from .agreement import index_mismatch, labels_mismatch, model_mismatch, resume_mismatch, shard_mismatch, update_mismatch
from .values import (
    LARGEST_INTEGER,
    are_corrections,
    are_grids,
    are_hashes,
    are_weights,
    is_calibration,
    is_clip,
    is_dict,
    is_dict_of,
    is_embeddings,
    is_hierarchy,
    is_list_of,
    is_needed_clip,
    is_none_or,
    is_optimizer,
    is_photo,
    is_scores,
    is_table,
    is_text,
    is_thresholds,
    is_update,
    is_whole,
)

SMALLEST_SIZE = 32  # pixels, side of a student's input


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


NAMES = Rule(lambda v: is_list_of(is_text)(v) and all(v) and len(set(v)) == len(v), "a list of different names")
TABLE = Rule(is_table, "a float32 table of numbers from 0 to 1, or NaN")
WEIGHTS = Rule(are_weights, "a dict of named tensors")
DICT = Rule(is_dict, "a dict")
_TEXTS = Rule(is_list_of(is_text), "a list of text", optional=True)
_HIERARCHY = Rule(
    is_hierarchy, "the parents of classes, without a circle, and groups of different classes", optional=True
)


# The known parts of a labels file's `meta`. Other parts are only shown, as text.
_META = {
    "meta.clip": Rule(is_clip, "a dict with the CLIP's name, sha256 and logit_scale", optional=True),
    "meta.settings": Rule(is_dict, "a dict", optional=True),
    "meta.hierarchy": _HIERARCHY,
    "meta.prompts": _TEXTS,
    "meta.contrast": _TEXTS,
    "meta.templates": _TEXTS,
    "meta.corrections": Rule(are_corrections, "the corrections: path -> class -> 1 or 0", optional=True),
}

_SHARD = Schema(
    {
        "content": Rule(are_hashes, "a uint8 tensor with a hash of each photo"),
        "bytes": Rule(is_list_of(is_whole), "a list of whole numbers, 0 or more"),
        "embeddings": Rule(is_embeddings, "a float16 tensor with three axes: photos, views, dimensions"),
    },
    shard_mismatch,
)
_SIZES = f"a whole number from {SMALLEST_SIZE} to {LARGEST_SIZE}"

SCHEMAS: dict[str, Schema] = {
    "model": Schema(
        {
            "arch": Rule(is_text, "the name of a network"),
            "classes": Rule(lambda v: NAMES.holds(v) and len(v) > 0, "a list of different names, at least one"),
            "size": Rule(lambda v: is_whole(v, SMALLEST_SIZE, LARGEST_SIZE), _SIZES),
            "thresholds": Rule(is_thresholds, "a tensor with a number from 0 to 1 for each class"),
            "weights": WEIGHTS,
            "meta": DICT,
            "meta.hierarchy": _HIERARCHY,
            "meta.calibration": Rule(is_calibration, "the facts of a calibration", optional=True),
            "clip": Rule(is_needed_clip, "the name, sha256, activation and precision of a CLIP", optional=True),
            "grids": Rule(are_grids, "a list of different numbers from 1 to 16", optional=True),
        },
        model_mismatch,
    ),
    "labels": Schema(
        {
            "paths": Rule(is_list_of(is_text), "a list of file names"),
            "classes": Rule(is_list_of(is_text), "a list of names"),
            "scores": Rule(is_scores, "a float32 table of numbers from 0 to 1, or NaN"),
            "root": Rule(is_text, "text"),
            "meta": DICT,
        }
        | _META,
        labels_mismatch,
    ),
    "resume": Schema(
        {
            "run": DICT,
            "run.settings": DICT,
            "run.labels": Rule(is_text, "text"),
            "epochs": Rule(lambda v: is_whole(v, 0, 10**9), "a whole number, 0 or more"),
            "weights": WEIGHTS,
            "optimizer": Rule(is_optimizer, "the state of an optimizer"),
            "given": TABLE,
            "latent": Rule(is_none_or(is_scores), "a float32 table, or None"),
            "update": Rule(is_update, "the facts of a label update"),
            "average": Rule(is_none_or(WEIGHTS.holds), f"{WEIGHTS.wanted}, or None", optional=True),
            "precision": Rule(lambda v: v in ("fp32", "bf16", "fp16"), "fp32, bf16 or fp16", optional=True),
            "skipped": Rule(is_dict_of(is_text, is_text), "a dict of paths with reasons"),
            "log": Rule(
                is_list_of(is_dict_of(is_text, lambda v: type(v) in (int, float))), "a list with numbers of each epoch"
            ),
        },
        resume_mismatch,
    ),
    "embeddings": _SHARD,
    "cells": _SHARD,
    "features": _SHARD,
    "photos": Schema(
        {
            "photos": Rule(is_list_of(is_photo), "a list of path, size and time of each photo"),
            "content": Rule(are_hashes, "a uint8 tensor with a hash of each photo"),
        },
        index_mismatch,
    ),
    "update": Schema(
        {
            "run": Rule(is_text, "text"),
            "rows": Rule(is_list_of(is_whole), "a list of whole numbers, 0 or more"),
            "known": Rule(is_scores, "a float32 table of the scores of each photo"),
        },
        update_mismatch,
    ),
}
