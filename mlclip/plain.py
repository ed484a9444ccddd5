"""Read files of `torch.save` without running any code in them, and check the fields of mlclip's own files."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import CLIP_HEAD, LARGEST_SIZE, InputError
from .methods.linear_head import POOLS

SMALLEST_SIZE = 32  # pixels, side of a student's input
DEEPEST = 40  # nested containers


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

    level = [content]  # of nested containers; torch also reads sparse tensors and lists that contain themselves
    for _ in range(DEEPEST):
        tensors = [value for value in level if isinstance(value, Tensor)]
        if any(t.layout != torch.strided or t.is_meta or t.is_quantized or t.is_complex() for t in tensors):
            raise RefusedError("holds a tensor of an unusual kind")
        containers = [value for value in level if not isinstance(value, Tensor)]
        inner = [value.values() if isinstance(value, dict) else value for value in containers]
        kept = [item for items in inner for item in items if isinstance(item, dict | list | tuple | Tensor)]
        level = list({id(item): item for item in kept}.values())
        if not level:
            return content
    raise RefusedError("is endlessly nested")


# The fields of mlclip's own files. `[str]` is a list of text, `{str: int}` a dict from text to whole numbers, `(torch.uint8, 2)` a
# tensor with two axes. "a.b" is the field b of the dict a, and a field with "?" may be missing.

HIERARCHY = {"parents": {str: str}, "groups": [[str]]}
SHARD = {"content": (torch.uint8, 2), "bytes": [int], "embeddings": (torch.float16, 3)}
FIELDS: dict[str, dict[str, Any]] = {
    "model": {
        "arch": str,
        "classes": [str],
        "size": int,
        "thresholds": (torch.float32, 1),
        "weights": {str: Tensor},
        "weights.head.weight": Tensor,
        "meta": dict,
        "meta.hierarchy?": HIERARCHY,
        "meta.calibration?": dict,
        "clip?": {"name": str, "sha256": str, "activation": str, "precision": str},
        "grids?": [int],
        "side?": int,
        "pool?": str,
    },
    "labels": {
        "paths": [str],
        "classes": [str],
        "scores": (torch.float32, 2),
        "root": str,
        "meta": dict,
        "meta.clip?": {"name": str, "sha256": str, "logit_scale": float},
        "meta.settings?": dict,
        "meta.hierarchy?": HIERARCHY,
        "meta.prompts?": [str],
        "meta.contrast?": [str],
        "meta.templates?": [str],
        "meta.corrections?": {str: {str: int}},
    },
    "resume": {
        "run": {"settings": dict, "labels": str},
        "epochs": int,
        "weights": {str: Tensor},
        "optimizer": dict,
        "given": (torch.float32, 2),
        "photos": [str],
        "update": dict,
        "skipped": {str: str},
        "log": [{str: float}],
    },
    "embeddings": SHARD,
    "cells": SHARD,
    "features": SHARD,
    "photos": {"photos": [list], "content": (torch.uint8, 2)},
}


def check_fields(kind: str, content: Mapping[str, Any], path: str | Path, made_by: str) -> None:
    """InputError that names the file and the field if a field of a file of this kind is missing or wrong.

    `made_by` is the command that creates such a file.
    """
    wrong = next((name for name, holds in _fields(kind, content) if not holds), None)
    if wrong:
        remedy = f"Create the file again with `{made_by}`."
        raise InputError(f"{path} is not a valid {kind} file: its '{wrong}' is missing or wrong. {remedy}")


def _fields(kind: str, content: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The name of each field, and whether it can be right. The form of all fields comes first; the rest relies on it."""
    for field, form in FIELDS[kind].items():
        first, _, inner = field.removesuffix("?").partition(".")
        holder, key = (content[first], inner) if inner else (content, first)
        if not (field.endswith("?") and holder.get(key) is None):
            yield field.removesuffix("?"), key in holder and _fits(holder[key], form)
    if kind == "model":
        classes, thresholds, weights = content["classes"], content["thresholds"], content["weights"]
        grids, is_head = content.get("grids") or [], content["arch"] == CLIP_HEAD
        yield "classes", 0 < len({*classes} - {""}) == len(classes)
        yield "size", SMALLEST_SIZE <= content["size"] <= LARGEST_SIZE
        yield "thresholds", len(thresholds) == len(classes) and bool(((thresholds >= 0) & (thresholds <= 1)).all())
        yield "weights", all(bool(w.isfinite().all()) for w in weights.values())
        yield "weights.head.weight", weights["head.weight"].dim() == (2 if is_head else 4)
        yield "clip", not is_head or bool(content.get("clip"))
        yield "grids", not is_head or 0 < len({*grids} - {0}) == len(grids)
        yield "side", not is_head or content.get("side", -1) >= 0
        yield "pool", not is_head or content.get("pool") in POOLS
    if kind in ("model", "labels") and (hierarchy := content["meta"].get("hierarchy")):
        members = [name for group in hierarchy["groups"] for name in group]
        yield "meta.hierarchy", len(members) == len({*members}) and not _has_circle(hierarchy["parents"])
    if FIELDS[kind] is SHARD:
        yield "embeddings", len(content["content"]) == len(content["bytes"]) == len(content["embeddings"])


def _has_circle(parents: Mapping[str, str]) -> bool:
    """Whether a class is below itself."""
    try:
        TopologicalSorter({name: [above] for name, above in parents.items()}).prepare()
    except CycleError:
        return True
    return False


def _fits(value: Any, form: Any) -> bool:
    """Whether a value has the form that FIELDS gives it. True and False are not numbers."""
    if isinstance(form, list):
        return isinstance(value, list) and all(_fits(item, form[0]) for item in value)
    if isinstance(form, tuple):
        return isinstance(value, Tensor) and (value.dtype, value.dim()) == form
    if isinstance(form, dict) and str in form:
        return isinstance(value, dict) and all(type(k) is str and _fits(v, form[str]) for k, v in value.items())
    if isinstance(form, dict):
        return isinstance(value, dict) and all(name in value and _fits(value[name], form[name]) for name in form)
    if form is int:
        return type(value) is int and 0 <= value < 2**63
    return type(value) in (int, float) if form is float else isinstance(value, form)
