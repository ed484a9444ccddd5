"""Read the tensors of a weight file in any common format. No code in the file is executed.

A file of `torch.save` is read by `plain.read_torch`, `.safetensors` by their own package. OpenAI's files are TorchScript archives,
which `torch.load` refuses unless it may run code. Such an archive is a zip of `<folder>/data.pkl`, a pickle of a tree of modules that
names tensors, and `<folder>/data/<key>`, their bytes. Of that pickle only the tensors are read.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..config import InputError
from ..files import refused
from ..plain import RefusedError, read_torch

GET_AGAIN = "Download the file again, or use another one."
MASK = "attn_mask"  # in OpenAI's files, with -inf; not a weight
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


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by dotted name, as stored: OpenAI's TorchScript archives, `torch.save`, `.safetensors`.

    A state dict under "state_dict" or "model" is found, and a prefix "module." is removed. Raises InputError if the file cannot
    be read, holds no tensors, or holds NaN or infinite numbers.
    """
    path = Path(path)
    with refused(f"cannot read {path}", "Pass a weight file.", OSError, ValueError):  # ValueError: a NUL in the name
        try:
            with open(path, "rb") as file:
                head = file.read(512)
            tensors = _tensors(path, head)
            if not all(name.isprintable() for name in tensors):  # messages may show them
                raise RefusedError("names a tensor with control characters")
            for name, tensor in tensors.items():
                if not name.endswith(MASK) and not tensor.isfinite().all():
                    raise RefusedError(f"holds NaN or infinite numbers in {name}")
        except RefusedError as error:
            raise InputError(f"{path} {error}. {GET_AGAIN}") from error
    return tensors


def _tensors(path: Path, head: bytes) -> dict[str, Tensor]:
    """The tensors of a file that starts with the bytes `head`, by the reader of its format."""
    if head.startswith(b"version https://git-lfs"):
        raise RefusedError("is a Git LFS pointer, not the weights. Run `git lfs pull`")
    if head.lstrip().startswith((b"<", b"{")):
        raise RefusedError("is a web page or other text, not weights")
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path)[0]
    if not head.startswith((b"PK", b"\x80")):  # a zip, or a bare pickle: torch.save before 2020
        raise RefusedError("is not a weight file (neither PyTorch nor .safetensors)")
    tensors = _from_archive(path)
    if tensors is not None:
        return tensors
    content = read_torch(path)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    items = content.items() if isinstance(content, Mapping) else ()
    named = {k: value.detach() for k, value in items if isinstance(k, str) and isinstance(value, Tensor)}
    if not named:
        raise RefusedError("holds no tensors with names")
    if all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): value for name, value in named.items()}
    return named


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, and the texts in its header (`__metadata__`). InputError if it cannot be read."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise InputError(f"{path} needs the safetensors package. Run: pip install safetensors") from error
    damaged = (SafetensorError, OSError, ValueError, RuntimeError)
    with refused(f"{path} is truncated or damaged", GET_AGAIN, *damaged), safe_open(path, "pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


# OpenAI's archives


class _ArchiveUnpickler(pickle.Unpickler):
    """Reads the `data.pkl` of a TorchScript archive. Only the names below are known; all others are refused, none is imported."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return SimpleNamespace  # keeps what the pickle gives it
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":  # states the element type of a list
            return lambda value, *_: value
        raise RefusedError(f"would execute {module}.{name}. Nothing was executed")

    def persistent_load(self, found: Any) -> Tensor:
        """The numbers of one storage, (numel,). Tensors that share a storage share memory."""
        _, dtype, key, _, numel = found
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._folder}/data/{key}"))  # zipfile compares the checksum
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = torch.frombuffer(data, dtype=dtype, count=numel) if numel else empty
        return self._storages[key]


def _from_archive(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a TorchScript archive; None for any other file."""
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            folder = next((name.split("/")[0] for name in archive.namelist() if name.endswith("/constants.pkl")), None)
            return _named(_ArchiveUnpickler(archive, folder).load()) if folder else None
    except RefusedError:
        raise
    except Exception as error:  # a damaged file may raise anything; modules that contain themselves, a RecursionError
        raise RefusedError(f"is truncated or damaged ({type(error).__name__}: {error})") from error


def _named(module: SimpleNamespace, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a tree of modules by dotted name."""
    named = {}
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            named[f"{prefix}{name}"] = value
        elif isinstance(value, SimpleNamespace):
            named |= _named(value, f"{prefix}{name}.")
    return named
