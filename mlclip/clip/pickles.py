"""Read a pickle of plain values, tensors and TorchScript modules. Nothing that the pickle names is imported or called.

This is a small interpreter of pickle instructions. A tensor becomes a record of what the pickle says about it. Every
instruction that such files do not need is refused. Memory is bounded by a small multiple of the length of the pickle.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
FREE_CONTAINERS = 10_000  # a pickle of n bytes may hold this many containers and n / 4 more
LARGEST_INTEGER = 16  # bytes; longer integers are refused, because some operations on them take very long
LONGEST_NAME = 1000  # of a class or function, characters
KEYS = (str, int, float, bool, type(None))  # types of dict keys; the hash of nested tuples can take forever


class RefusedError(Exception):
    """The file is damaged, or is not safe to read. The message completes a sentence that starts with the file name."""

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else "?" for c in message[:300]))  # it may quote the file


class StorageRecord(NamedTuple):
    key: str
    dtype: torch.dtype
    length: int  # in elements, not bytes


class TensorRecord(NamedTuple):
    """What a pickle says about a tensor, not checked yet. Size, stride and offset count elements."""

    storage: StorageRecord
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Call(Enum):
    """A name in a pickle, and what this reader does in its place."""

    MODULE = auto()  # a TorchScript class: a plain namespace
    DICT = auto()  # OrderedDict
    TENSOR = auto()
    FIRST = auto()  # the first argument


_CALLS = {
    ("collections", "OrderedDict"): _Call.DICT,
    ("torch._utils", "_rebuild_tensor_v2"): _Call.TENSOR,
    ("torch._utils", "_rebuild_tensor"): _Call.TENSOR,  # before 2018
    ("torch._utils", "_rebuild_parameter"): _Call.FIRST,
    ("torch.nn.parameter", "Parameter"): _Call.FIRST,  # before 2018
}
_MARK = object()


def _call_of(module: str, name: str) -> _Call | torch.dtype:
    if module.split(".")[0] == "__torch__":
        return _Call.MODULE
    if module == "torch" and name in DTYPES:
        return DTYPES[name]
    if module == "torch.jit._pickle":  # states the element type of a list
        return _Call.FIRST
    if (module, name) not in _CALLS:
        raise RefusedError(f"would execute {module}.{name}. Nothing was executed")
    return _CALLS[module, name]


class PickleReader:
    """Reads pickles from `data`, bytes or a memory map, one after the other. `at` is the position after the last one.

    `storages` has the record of every tensor storage so far, by its key. Raises RefusedError.
    """

    def __init__(self, data: Any):
        self.data, self.at = data, 0
        self.storages: dict[str, StorageRecord] = {}
        self._room = FREE_CONTAINERS + len(data) // 4

    def load(self) -> Any:
        """The content of the next pickle."""
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        data, end = self.data, len(self.data)
        try:
            while self.at < end:
                code = data[self.at]
                self.at += 1
                if code == _STOP:
                    return self._stack.pop()
                step = _STEPS.get(code)
                if step is None:
                    raise RefusedError(f"holds a damaged pickle, or one of more than tensors (instruction {code})")
                step(self)
        except RefusedError:
            raise
        except Exception as error:  # a damaged pickle may raise anything
            raise RefusedError(f"holds a damaged pickle ({type(error).__name__})") from error
        raise RefusedError("holds a pickle that is truncated or damaged")

    # Arguments of instructions

    def _number(self, layout: str) -> Any:
        size = struct.calcsize(layout)
        (value,) = struct.unpack(layout, self._take(size))
        return value

    def _take(self, size: int) -> bytes:
        start, self.at = self.at, self.at + size
        if size < 0 or self.at > len(self.data):
            raise RefusedError("holds a pickle that is truncated or damaged")
        return self.data[start : self.at]

    def _line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + LONGEST_NAME)
        line = self._take(end - self.at)
        self.at += 1
        return line.decode("ascii", "replace")

    # Instructions

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _push_container(self, value: Any) -> None:
        self._room -= 1
        if self._room < 0:
            raise RefusedError("holds a pickle that would need many times its own size in memory")
        self._stack.append(value)

    def _push_text(self, layout: str, encoding: str = "utf-8", errors: str = "surrogatepass") -> None:
        self._stack.append(self._take(self._number(layout)).decode(encoding, errors))

    def _push_integer(self) -> None:
        size = self._number("<B")
        if size > LARGEST_INTEGER:
            raise RefusedError("holds a pickle with an impossibly large integer")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _since_mark(self) -> list[Any]:
        stack = self._stack
        position = len(stack) - 1
        while stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise RefusedError("holds a damaged pickle (no mark)")
        values = stack[position + 1 :]
        del stack[position:]
        return values

    def _tuple(self, count: int) -> None:
        values = tuple(self._stack[-count:])
        if len(values) != count:
            raise RefusedError("holds a damaged pickle (short stack)")
        del self._stack[-count:]
        self._push_container(values)

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise RefusedError("holds a damaged pickle (not a list)")
        target.extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise RefusedError("holds a damaged pickle (not a dict)")
        self._fill(target, zip(values[::2], values[1::2], strict=True))

    def _fill(self, target: dict, pairs: Any) -> None:
        for key, value in pairs:
            if type(key) not in KEYS:
                raise RefusedError(f"holds a dict with a key of type {type(key).__name__}")
            target[key] = value

    def _set_one(self) -> None:
        values = self._stack[-2:]
        del self._stack[-2:]
        self._set(values)

    def _global(self) -> None:
        module, name = self._line(), self._line()
        self._stack.append(_call_of(module, name))

    def _global_of_stack(self) -> None:
        name, module = str(self._stack.pop()), str(self._stack.pop())
        self._stack.append(_call_of(module, name))

    def _reduce(self) -> None:
        arguments, call = self._stack.pop(), self._stack.pop()
        if type(arguments) is not tuple or not isinstance(call, _Call):
            raise RefusedError("holds a damaged pickle (not a call)")
        if call is _Call.DICT:
            self._push_container(OrderedDict())
            self._fill(self._stack[-1], arguments[0] if arguments else ())
        elif call is _Call.TENSOR:
            storage, offset, size, stride = arguments[:4]
            self._push_container(TensorRecord(storage, offset, size, stride))
        elif call is _Call.MODULE:
            self._push_container(SimpleNamespace())
        else:
            self._stack.append(arguments[0])

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, SimpleNamespace) and isinstance(state, dict) and all(type(key) is str for key in state):
            vars(target).update(state)
        elif not isinstance(target, OrderedDict):  # of a state dict: its `_metadata`
            raise RefusedError("holds a damaged pickle (not a module)")

    def _storage(self) -> None:
        kind, dtype, key, _device, length, *views = self._stack.pop()
        plain = kind == "storage" and isinstance(dtype, torch.dtype) and type(key) is str and type(length) is int
        if not plain or length < 0 or any(view is not None for view in views):
            raise RefusedError("holds data of an unknown kind")
        record = StorageRecord(key, dtype, length)
        if self.storages.setdefault(key, record) != record:
            raise RefusedError(f"describes the data {key} twice, in different ways")
        self._push_container(record)


def _remember(at: Callable[[PickleReader], int]) -> Callable[[PickleReader], None]:
    def step(reader: PickleReader) -> None:
        reader._memo[at(reader)] = reader._stack[-1]

    return step


_STOP = ord(".")
_STEPS: dict[int, Callable[[PickleReader], None]] = {
    0x80: lambda r: r._take(1),  # protocol
    0x95: lambda r: r._take(8),  # frame
    ord("N"): lambda r: r._push(None),
    0x88: lambda r: r._push(True),
    0x89: lambda r: r._push(False),
    ord("K"): lambda r: r._push(r._number("<B")),
    ord("M"): lambda r: r._push(r._number("<H")),
    ord("J"): lambda r: r._push(r._number("<i")),
    0x8A: PickleReader._push_integer,
    ord("G"): lambda r: r._push(r._number(">d")),
    ord("X"): lambda r: r._push_text("<I"),
    0x8C: lambda r: r._push_text("<B"),
    0x8D: lambda r: r._push_text("<Q"),
    ord("U"): lambda r: r._push_text("<B", "latin-1"),  # text of Python 2
    ord("T"): lambda r: r._push_text("<i", "latin-1"),
    ord("B"): lambda r: r._push(r._take(r._number("<I"))),  # bytes
    ord("C"): lambda r: r._push(r._take(r._number("<B"))),
    ord("("): lambda r: r._push(_MARK),
    ord(")"): lambda r: r._push(()),
    ord("}"): lambda r: r._push_container({}),
    ord("]"): lambda r: r._push_container([]),
    ord("t"): lambda r: r._push_container(tuple(r._since_mark())),
    0x85: lambda r: r._tuple(1),
    0x86: lambda r: r._tuple(2),
    0x87: lambda r: r._tuple(3),
    ord("a"): lambda r: r._append([r._stack.pop()]),
    ord("e"): lambda r: r._append(r._since_mark()),
    ord("s"): PickleReader._set_one,
    ord("u"): lambda r: r._set(r._since_mark()),
    ord("q"): _remember(lambda r: r._number("<B")),
    ord("r"): _remember(lambda r: r._number("<I")),
    0x94: _remember(lambda r: len(r._memo)),
    ord("h"): lambda r: r._push(r._memo[r._number("<B")]),
    ord("j"): lambda r: r._push(r._memo[r._number("<I")]),
    ord("0"): lambda r: r._stack.pop(),
    ord("c"): PickleReader._global,
    0x93: PickleReader._global_of_stack,
    ord("R"): PickleReader._reduce,
    0x81: PickleReader._reduce,  # an object without calling its __init__
    ord("b"): PickleReader._build,
    ord("Q"): PickleReader._storage,
}
