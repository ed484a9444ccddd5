"""Read tensors from PyTorch's zip files (TorchScript archives and `torch.save`) without executing anything in them.

Such a file is a zip of `<folder>/data.pkl`, a pickle that names tensors, and `<folder>/data/<key>`, their raw bytes.
The pickle is read into plain records. No class or function that it names is looked up. Every size that it declares is
compared with the number of bytes in the file before memory is allocated.
"""

from __future__ import annotations

import math
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

LARGEST_PICKLE = 64 << 20  # bytes; the pickle of the largest CLIP has less than 1 MiB
LARGEST_GROWTH = 4  # the unpacked data may be this many times the file size; weights hardly compress
MOST_AXES = 8  # per tensor
MOST_MODULES = 20_000  # in a module tree; the largest CLIP has about 1,000

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


class RefusedError(Exception):
    """The file is damaged, or is not safe to read. The message completes a sentence that starts with the file name."""


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


class _RecordReader(pickle.Unpickler):
    """Reads tensors and containers. A TorchScript module becomes a plain namespace. Everything else is refused."""

    def persistent_load(self, pid: Any) -> StorageRecord:
        kind, dtype, key, _device, length = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise RefusedError("holds data of an unknown kind")
        return StorageRecord(key, dtype, length)

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return SimpleNamespace
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._first,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch.jit._pickle":  # states the element type of a list
            return self._first
        raise RefusedError(f"would execute {module}.{name}, which weights do not need. Nothing was executed")

    def _tensor(self, storage: StorageRecord, offset: int, size: tuple, stride: tuple, *_: Any) -> TensorRecord:
        return TensorRecord(storage, offset, size, stride)

    def _first(self, value: Any, *_: Any) -> Any:
        return value


def read_archive(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive or a `torch.save` zip, by dotted name. RefusedError if it is neither."""
    try:
        with zipfile.ZipFile(path) as archive:
            folder = _folder(archive)
            records = _records(_read(archive, f"{folder}/data.pkl", LARGEST_PICKLE))
            _check(records, archive, folder, LARGEST_GROWTH * os.path.getsize(path))
            return _load(records, archive, folder)
    except RefusedError:
        raise
    except Exception as error:  # a damaged zip may raise anything
        raise RefusedError(f"is truncated or damaged ({error})") from error


def _folder(archive: zipfile.ZipFile) -> str:
    folders = [name.split("/")[0] for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise RefusedError("is a zip file, but not one of PyTorch weights")
    order = f"{folders[0]}/byteorder"
    if order in archive.namelist() and _read(archive, order, 16) != b"little":
        raise RefusedError("was written on a big-endian machine, which is not supported")
    return folders[0]


def _read(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    if archive.getinfo(name).file_size > most:
        raise RefusedError(f"declares {archive.getinfo(name).file_size} bytes for {name}, which is impossibly large")
    try:
        return archive.read(name)
    except Exception as error:  # of zlib, lzma or zipfile: the bytes do not decompress
        raise RefusedError(f"is damaged at {name} ({error})") from error


def _records(data: bytes) -> dict[str, TensorRecord]:
    try:
        _check_memo(data)
        return named_tensors(_RecordReader(BytesIO(data)).load(), TensorRecord)
    except RefusedError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise RefusedError(f"holds a pickle that cannot be read ({type(error).__name__})") from error


def _check_memo(data: bytes) -> None:
    """Refuse a pickle with object numbers above its own length: the reader allocates memory up to the number."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "LONG_BINPUT") and argument > len(data):
            raise RefusedError("holds a pickle that would need unlimited memory")


def named_tensors(content: Any, leaf: type) -> dict[str, Any]:
    """The values of type `leaf` by name, from a module tree, a state dict, or a checkpoint with a state dict.

    A checkpoint holds its state dict under "state_dict" or "model". A prefix "module." of all names is removed.
    """
    if isinstance(content, SimpleNamespace):
        return _walk(content, leaf)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise RefusedError(f"holds a {type(content).__name__}, not a dict of named tensors")
    named = {name: value for name, value in dict(content).items() if isinstance(name, str) and isinstance(value, leaf)}
    if named and all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): value for name, value in named.items()}
    return named


def _walk(root: SimpleNamespace, leaf: type) -> dict[str, Any]:
    named, waiting, visited = {}, [("", root)], 0
    while waiting:
        prefix, module = waiting.pop()
        visited += 1
        if visited > MOST_MODULES:
            raise RefusedError("holds endlessly nested modules")
        for name, value in vars(module).items():
            if isinstance(value, leaf):
                named[f"{prefix}{name}"] = value
            elif isinstance(value, SimpleNamespace):
                waiting.append((f"{prefix}{name}.", value))
    return named


def _check(records: Mapping[str, TensorRecord], archive: zipfile.ZipFile, folder: str, most: int) -> None:
    """Compare every declared size with the zip's directory, and their sum with the limit of `most` bytes."""
    entries, tensor_bytes = {}, 0
    for name, record in records.items():
        if not _is_plain(record):
            raise RefusedError(f"describes the tensor {name} in an unknown way")
        path = f"{folder}/data/{record.storage.key}"
        if path not in archive.NameToInfo:
            raise RefusedError(f"lacks the data of {name}")
        entries[path] = archive.getinfo(path).file_size
        if record.storage.length * record.storage.dtype.itemsize > entries[path]:
            raise RefusedError(f"declares {record.storage.length} elements for {name}, more than it holds")
        if math.prod(max(n, 1) for n in record.size) > most:
            raise RefusedError(f"declares an impossibly large size for {name}")
        count = math.prod(record.size)
        last = record.offset + sum((n - 1) * step for n, step in zip(record.size, record.stride, strict=True))
        if count and (last >= record.storage.length or count > record.storage.length):
            raise RefusedError(f"declares the shape {record.size} for {name}, but its data is shorter")
        tensor_bytes += count * record.storage.dtype.itemsize
    if max(sum(entries.values()), tensor_bytes) > most:
        raise RefusedError("would unpack to many times its own size, which weights do not")


def _is_plain(record: TensorRecord) -> bool:
    storage, offset, size, stride = record
    if not isinstance(storage, StorageRecord) or not isinstance(storage.key, str):
        return False
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or not len(size) == len(stride) <= MOST_AXES:
        return False
    return all(type(number) is int and number >= 0 for number in (storage.length, offset, *size, *stride))


def _load(records: Mapping[str, TensorRecord], archive: zipfile.ZipFile, folder: str) -> dict[str, Tensor]:
    """Load the tensors. Tensors that share a storage in the file share memory. The CRC of each storage is checked."""
    buffers: dict[str, bytearray] = {}
    tensors = {}
    for name, ((key, dtype, length), offset, size, stride) in records.items():
        if not math.prod(size):
            tensors[name] = torch.empty(size, dtype=dtype)
            continue
        if key not in buffers:
            path = f"{folder}/data/{key}"
            buffers[key] = bytearray(_read(archive, path, archive.getinfo(path).file_size))
        numbers = torch.frombuffer(buffers[key], dtype=dtype, count=length)
        tensors[name] = numbers.as_strided(size, stride, offset)
    return tensors
