"""Checks of an ONNX file before onnxruntime opens it: no other file is read, and no tensor is larger than the file.

An ONNX file is a protobuf message. This module walks through its fields without the package `onnx`, which a prediction does not
need. A field has a number and a value: a whole number, or bytes, which may hold another message.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

from ..config import InputError

MOST_FIELDS = 2_000_000  # of all messages that are looked into; the largest student has fewer than 50,000
MOST_DIMS = 16
# Operations that make tensors of any size from a few numbers, or run other graphs. The students have none of them.
REFUSED = (
    "ConstantOfShape", "Range", "Tile", "Expand", "EyeLike", "OneHot", "Resize", "Upsample", "ConvTranspose", "MaxUnpool",
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "If", "Loop", "Scan", "SequenceMap",
)  # fmt: skip
# Field numbers in onnx.proto
_GRAPH, _FUNCTIONS, _TRAINING = 7, 25, 20  # of a model
_NODE, _TENSOR, _SPARSE = 1, 5, 15  # of a graph
_OPERATION, _ATTRIBUTE = 4, 5  # of a node
_VALUE, _VALUES, _GRAPHS = 5, 10, (6, 11, 22, 23)  # of an attribute: a tensor, tensors; graphs and sparse tensors
_DIMS, _EXTERNAL, _LOCATION = 1, 13, 14  # of a tensor


class _Refused(Exception):  # noqa: N818 (the message is the reason)
    """The file is not used. The message completes "the file ..."."""


def check_onnx(path: Path, made_by: str) -> None:
    """InputError if the file is not a protobuf message, names another file, or declares or makes too large tensors.

    Every size in the file is compared with the bytes that are there. `made_by` is the command that writes a right file.
    """
    try:
        with open(path, "rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        _check_model(data, iter(range(MOST_FIELDS)))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Give a file that you can read.") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise InputError(
            f"{path} is not a readable ONNX file (it is empty). Create it again with `{made_by}`."
        ) from error
    except _Refused as error:
        raise InputError(
            f"{path} is not a readable ONNX file (it {error}). Create it again with `{made_by}`."
        ) from error


def _check_model(data: memoryview, room: Iterator[int]) -> None:
    for number, value in _fields(data, room):
        if number in (_FUNCTIONS, _TRAINING):
            raise _Refused("has functions or training steps, which mlclip does not write")
        if number == _GRAPH:
            _check_graph(_message(value), room)


def _check_graph(data: memoryview, room: Iterator[int]) -> None:
    for number, value in _fields(data, room):
        if number == _SPARSE:
            raise _Refused("has sparse tensors, which mlclip does not write")
        if number == _TENSOR:
            _check_tensor(_message(value), room)
        if number == _NODE:
            _check_node(_message(value), room)


def _check_node(data: memoryview, room: Iterator[int]) -> None:
    for number, value in _fields(data, room):
        if number == _OPERATION and (name := bytes(_message(value)[:40]).decode("ascii", "replace")) in REFUSED:
            raise _Refused(f"has the operation {name}, which mlclip does not write")
        if number == _ATTRIBUTE:
            for kind, item in _fields(_message(value), room):
                if kind in _GRAPHS:
                    raise _Refused("has graphs or sparse tensors inside its operations, which mlclip does not write")
                if kind in (_VALUE, _VALUES):
                    _check_tensor(_message(item), room)


def _check_tensor(data: memoryview, room: Iterator[int]) -> None:
    dims: list[int] = []
    for number, value in _fields(data, room):
        if number == _EXTERNAL or (number == _LOCATION and value != 0):
            raise _Refused("keeps weights in another file, which is not read")
        if number == _DIMS:
            dims += [value] if isinstance(value, int) else _numbers(value, room)
    if (
        len(dims) > MOST_DIMS or math.prod(max(side, 1) for side in dims) > 2 * len(data) + 1
    ):  # a byte holds two numbers at most
        raise _Refused("declares tensors that are larger than their data")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Refused("is damaged")
    return value


def _fields(data: memoryview, room: Iterator[int]) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message. `room` bounds the number of fields."""
    at = 0
    while at < len(data):
        if next(room, None) is None:
            raise _Refused("has too many parts")
        key, at = _number(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _number(data, at)
        elif kind in (1, 2, 5):
            length, at = _number(data, at) if kind == 2 else (8 if kind == 1 else 4, at)
            value, at = data[at : at + length], at + length
        else:
            raise _Refused("is damaged, or not an ONNX file")
        if at > len(data):
            raise _Refused("is damaged, or cut short")
        yield key >> 3, value


def _numbers(data: memoryview, room: Iterator[int]) -> Iterator[int]:
    at = 0
    while at < len(data) and next(room, None) is not None:
        value, at = _number(data, at)
        yield value


def _number(data: memoryview, at: int) -> tuple[int, int]:
    """A whole number of variable length at a place, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
    raise _Refused("is damaged, or cut short")
