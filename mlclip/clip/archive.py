"""Read PyTorch's files (TorchScript archives and `torch.save`, new and old format) without executing anything in them.

A new file is a zip of `<folder>/data.pkl`, a pickle that names tensors, and `<folder>/data/<key>`, their raw bytes. An old
file is a row of pickles, then the raw bytes. `pickles.py` reads the pickles. Every size that a file declares is compared
with the number of bytes in the file before memory is allocated.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .pickles import PickleReader, RefusedError, StorageRecord, TensorRecord

LARGEST_PICKLE = 64 << 20  # bytes, of weights; the pickle of the largest CLIP has less than 1 MiB
LARGEST_DIRECTORY = 16 << 20  # bytes of the zip's table of contents, for about 200,000 tensors
LARGEST_GROWTH = 4  # the unpacked data may be this many times the file size; weights hardly compress
SMALLEST_LIMIT = 1 << 20  # bytes; a limit that depends on the file size is at least this
MOST_AXES = 8  # per tensor
MOST_MODULES = 20_000  # in a module tree; the largest CLIP has about 1,000
DEEPEST = 50  # nested containers
CHUNK = 4 << 20  # bytes read at once
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # first two pickles of the old format
SCALARS = (str, int, float, bool, type(None))


class _Source(NamedTuple):
    """Where the bytes of tensors are: a zip file, or a memory map of an old file with the place of each storage."""

    sizes: dict[str, int]  # bytes of each storage, by key
    read: Any  # key -> writable buffer of that many bytes


def read_archive(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive or a `torch.save` file, by dotted name. RefusedError if it is neither."""
    return _guarded(_read_weights, path)


def read_plain(path: Path, *, mapped: bool = False) -> Any:
    """The content of a `torch.save` zip: dicts, lists, tuples, text, numbers, None and dense tensors, and nothing else.

    Nothing in the zip may be compressed, so no more bytes are unpacked than the file has. `mapped=True` maps the tensors
    instead of reading them, and does not check their CRC. RefusedError for any other content.
    """
    return _guarded(_read_plain, path, mapped)


def _guarded(read: Any, path: Path, *more: Any) -> Any:
    try:
        return read(path, *more)
    except RefusedError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise RefusedError(f"is truncated or damaged ({type(error).__name__}: {error})") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    size = os.path.getsize(path)
    most = max(LARGEST_GROWTH * size, SMALLEST_LIMIT)
    with open(path, "rb") as file:
        is_zip = file.read(2) == b"PK"
    if not is_zip:
        content, source = _read_old(path)
        records = named_tensors(content, TensorRecord)
        _check(records, source.sizes, most)
        return _load(records, source)
    with _opened(path) as archive:
        folder = _folder(archive)
        data = _read(archive, f"{folder}/data.pkl", min(LARGEST_PICKLE, most))
        records = named_tensors(PickleReader(data).load(), TensorRecord)
        source = _zip_source(archive, folder)
        _check(records, source.sizes, LARGEST_GROWTH * size)
        return _load(records, source)


def _read_plain(path: Path, mapped: bool) -> Any:
    size = os.path.getsize(path)
    with _opened(path) as archive:
        if any(info.compress_type or info.file_size != info.compress_size for info in archive.infolist()):
            raise RefusedError("is compressed, which mlclip's files are not")
        folder = _folder(archive)
        data = _read(archive, f"{folder}/data.pkl", size)
        content = PickleReader(data).load()
        records: dict[str, TensorRecord] = {}
        _find_records(content, "", 0, records, [10_000 + 4 * len(data)])
        source = _mapped_source(archive, folder, path) if mapped else _zip_source(archive, folder)
        _check(records, source.sizes, size)
        tensors = _load(records, source)
    return _with_tensors(content, {id(record): tensors[name] for name, record in records.items()})


# Containers: zip files and old files


class _File(io.BufferedReader):
    """A file for `zipfile`, which reads the table of contents in one piece. `most` bounds that piece."""

    most: int | None = LARGEST_DIRECTORY

    def read(self, size: int | None = -1) -> bytes:
        if self.most is None:
            return super().read(size)
        whole = size is None or size < 0
        data = super().read(self.most + 1 if whole else min(size, self.most + 1))
        if len(data) > self.most:
            raise RefusedError("has an impossibly large table of contents")
        return data


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with _File(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
        file.most = None
        yield archive


def _folder(archive: zipfile.ZipFile) -> str:
    folders = [name.split("/")[0] for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise RefusedError("is a zip file, but not one of PyTorch")
    order = f"{folders[0]}/byteorder"
    if order in archive.namelist() and bytes(_read(archive, order, 16)) != b"little":
        raise RefusedError("was written on a big-endian machine, which is not supported")
    return folders[0]


def _read(archive: zipfile.ZipFile, name: str, most: int) -> bytearray:
    """The bytes of one entry. Not more are unpacked than its declared size, which may be at most `most`."""
    if name not in archive.NameToInfo:
        raise RefusedError(f"lacks {name}")
    info = archive.getinfo(name)
    if info.file_size > most:
        raise RefusedError(f"declares {info.file_size} bytes for {name}, which is impossibly large")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the other methods cannot be bounded
        raise RefusedError(f"is compressed in an unknown way at {name}")
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        raise RefusedError(f"is damaged at {name} (two different sizes)")
    buffer, at = bytearray(info.file_size), 0
    view = memoryview(buffer)
    try:
        with archive.open(info) as file:
            while count := file.readinto(view[at : at + CHUNK]):
                at += count
    except Exception as error:  # of zlib or zipfile: the bytes do not decompress, or their CRC is wrong
        raise RefusedError(f"is damaged at {name} ({error})") from error
    if at != len(buffer):
        raise RefusedError(f"is damaged at {name} (too short)")
    return buffer


def _zip_source(archive: zipfile.ZipFile, folder: str) -> _Source:
    start = f"{folder}/data/"
    sizes = {name[len(start) :]: info.file_size for name, info in archive.NameToInfo.items() if name.startswith(start)}
    return _Source(sizes, lambda key: _read(archive, start + key, sizes[key]))


def _mapped_source(archive: zipfile.ZipFile, folder: str, path: Path) -> _Source:
    sizes = _zip_source(archive, folder).sizes
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def read(key: str) -> memoryview:
        header = archive.getinfo(f"{folder}/data/{key}").header_offset
        names = content[header + 26 : header + 30]  # lengths of the name and of the extra field
        start = header + 30 + int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
        view = memoryview(content)[start : start + sizes[key]]
        if len(view) != sizes[key]:
            raise RefusedError(f"lacks the data of {key}")
        return view

    return _Source(sizes, read)


def _read_old(path: Path) -> tuple[Any, _Source]:
    """The content of a file from before 2020, and its storages. The order is: pickles, keys, then length and bytes of each."""
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = PickleReader(data)
    magic, protocol = reader.load(), None
    if magic == MAGIC:
        protocol = reader.load()
    if protocol != PROTOCOL:
        raise RefusedError("is damaged, or a pickle of something else than tensors")
    if not _is_little(reader.load()):
        raise RefusedError("was written on a big-endian machine, which is not supported")
    content, keys = reader.load(), reader.load()
    if type(keys) is not list or not all(type(key) is str and key in reader.storages for key in keys):
        raise RefusedError("is damaged: its list of tensors does not fit its content")
    places, at = {}, reader.at
    for key in keys:
        length, start = int.from_bytes(data[at : at + 8], "little"), at + 8
        at = start + length * reader.storages[key].dtype.itemsize
        if at > len(data):
            raise RefusedError("is truncated: tensors are missing at its end")
        places[key] = (start, at)
    sizes = {key: end - start for key, (start, end) in places.items()}
    return content, _Source(sizes, lambda key: bytearray(memoryview(data)[slice(*places[key])]))


def _is_little(machine: Any) -> bool:
    return isinstance(machine, dict) and machine.get("little_endian") is True


# Tensors in the content


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
        if visited > MOST_MODULES or prefix.count(".") > DEEPEST:
            raise RefusedError("holds endlessly nested modules")
        for name, value in vars(module).items():
            if isinstance(value, leaf):
                named[f"{prefix}{name}"] = value
            elif isinstance(value, SimpleNamespace):
                waiting.append((f"{prefix}{name}.", value))
    return named


def _find_records(value: Any, where: str, depth: int, found: dict[str, TensorRecord], room: list[int]) -> None:
    """Put the tensors in plain containers into `found`, by their place. `room` bounds the visited values."""
    if isinstance(value, TensorRecord):
        found[where] = value
        return
    if type(value) not in (dict, OrderedDict, list, tuple):
        if type(value) not in SCALARS:
            raise RefusedError(f"holds something that mlclip's files do not have ({type(value).__name__} at {where})")
        return
    room[0] -= len(value)
    if depth > DEEPEST or room[0] < 0:
        raise RefusedError("holds endlessly nested containers")
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if type(item) not in SCALARS:
            _find_records(item, f"{where}.{key}" if where else str(key), depth + 1, found, room)


def _with_tensors(value: Any, tensors: Mapping[int, Tensor]) -> Any:
    """The content with a tensor in place of each record. Dicts and lists are changed in place."""
    if isinstance(value, TensorRecord):
        return tensors[id(value)]
    if type(value) is tuple:
        return tuple(_with_tensors(item, tensors) for item in value)
    if isinstance(value, dict | list):
        for key, item in list(value.items()) if isinstance(value, dict) else enumerate(value):
            if type(item) not in SCALARS:
                value[key] = _with_tensors(item, tensors)
    return value


# Sizes


def _check(records: Mapping[str, TensorRecord], sizes: Mapping[str, int], most: int) -> None:
    """Compare every declared size with the bytes of its storage, and their sum with the limit of `most` bytes."""
    used: dict[str, int] = {}
    tensor_bytes = 0
    for name, record in records.items():
        if not _is_plain(record):
            raise RefusedError(f"describes the tensor {name} in an unknown way")
        key, dtype, length = record.storage
        if key not in sizes:
            raise RefusedError(f"lacks the data of {name}")
        used[key] = sizes[key]
        if length * dtype.itemsize > sizes[key]:
            raise RefusedError(f"declares {length} elements for {name}, more than it holds")
        if math.prod(max(n, 1) for n in record.size) > most:
            raise RefusedError(f"declares an impossibly large size for {name}")
        count = math.prod(record.size)
        last = record.offset + sum((n - 1) * step for n, step in zip(record.size, record.stride, strict=True))
        if count and (last >= length or count > length):
            raise RefusedError(f"declares the shape {record.size} for {name}, but its data is shorter")
        if count and not _is_dense(record):
            raise RefusedError(f"declares the shape {record.size} for {name}, but uses the same numbers several times")
        tensor_bytes += count * dtype.itemsize
    if max(sum(used.values()), tensor_bytes) > most:
        raise RefusedError("would unpack to many times its own size")


def _is_plain(record: TensorRecord) -> bool:
    storage, offset, size, stride = record
    if not isinstance(storage, StorageRecord) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        return False
    if not len(size) == len(stride) <= MOST_AXES:
        return False
    return all(type(number) is int and number >= 0 for number in (offset, *size, *stride))


def _is_dense(record: TensorRecord) -> bool:
    """Whether each element has its own place in the storage, in any order of the axes."""
    span = 1
    for step, n in sorted((step, n) for step, n in zip(record.stride, record.size, strict=True) if n > 1):
        if step < span:
            return False
        span += (n - 1) * step
    return True


def _load(records: Mapping[str, TensorRecord], source: _Source) -> dict[str, Tensor]:
    """Load the tensors. Tensors that share a storage in the file share memory."""
    buffers: dict[str, Any] = {}
    tensors = {}
    for name, ((key, dtype, length), offset, size, stride) in records.items():
        if not math.prod(size):
            tensors[name] = torch.empty(size, dtype=dtype)
            continue
        if key not in buffers:
            buffers[key] = source.read(key)
        numbers = torch.frombuffer(buffers[key], dtype=dtype, count=length)
        tensors[name] = numbers.as_strided(size, stride, offset)
    return tensors
