"""Read the tensors of a weight file in any common format. No code in the file is executed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import InputError
from ..files import parse_json
from .archive import MOST_AXES, named_tensors, read_archive
from .pickles import RefusedError

GET_AGAIN = "Download the file again, or use another one."
LARGEST_HEADER = 16 << 20  # bytes of the header of a .safetensors file
ITEM_SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by dotted name, as stored. OpenAI's TorchScript archives, `torch.save`, `.safetensors`.

    A state dict under "state_dict" or "model" is found, and a prefix "module." is removed. No code in the file is
    executed. Raises InputError if the file cannot be read or holds no tensors.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {path}: {reason}. Pass a weight file.") from error
    try:
        _refuse_other_content(head)
        tensors = _reader(path, head)(path)
        if not all(name.isprintable() for name in tensors):  # messages may show them
            raise RefusedError("names a tensor with control characters")
    except RefusedError as error:
        raise InputError(f"{path} {error}. {GET_AGAIN}") from error
    if not tensors:
        raise InputError(f"{path} holds no tensors. {GET_AGAIN}")
    return tensors


def _refuse_other_content(head: bytes) -> None:
    if not head:
        raise RefusedError("is empty")
    if head.startswith(b"version https://git-lfs"):
        raise RefusedError("is a Git LFS pointer, not the weights. Run `git lfs pull`")
    if head.lstrip().startswith((b"<", b"{")):
        raise RefusedError("is a web page or other text, not weights")


def _reader(path: Path, head: bytes):
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors
    if head.startswith((b"PK", b"\x80")):  # a zip, or a bare pickle: torch.save before 2020
        return read_archive
    raise RefusedError("is not a weight file (neither PyTorch nor .safetensors)")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(f'{path} needs the safetensors package. Run: pip install "mlclip[safetensors]"') from error
    _check_safetensors(path)
    try:
        return named_tensors(load_file(path), Tensor)
    except Exception as error:  # safetensors has its own error type
        raise RefusedError(f"is truncated or damaged ({str(error).splitlines()[0][:120]})") from error


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, and the texts in its header (`__metadata__`). InputError if it is damaged."""
    path = Path(path)
    try:
        texts = _check_safetensors(path).get("__metadata__", {})
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise RefusedError("has metadata that are not text")
        return _read_safetensors(path), texts
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Check its permissions.") from error
    except RefusedError as error:
        raise InputError(f"{path} {error}. {GET_AGAIN}") from error


def _check_safetensors(path: Path) -> dict[str, Any]:
    """Compare every size in the header with the size of the file, before the file is loaded. Returns the header."""
    total = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(total - 8, LARGEST_HEADER):
            raise RefusedError(f"is truncated or damaged (its header declares {length} bytes)")
        text = file.read(length)
    try:
        header = parse_json(text)
    except ValueError as error:
        raise RefusedError("is truncated or damaged (its header is not JSON)") from error
    if not isinstance(header, dict):
        raise RefusedError("is truncated or damaged (its header is not an object)")
    data, used = total - 8 - length, 0
    for name, facts in header.items():
        if name != "__metadata__":
            used += _declared_bytes(name, facts, data)
    if used > data:
        raise RefusedError("declares more data than it holds")
    return header


def _declared_bytes(name: str, facts: Any, data: int) -> int:
    """The number of bytes of one tensor, which must lie inside the `data` bytes of the file."""
    facts = facts if isinstance(facts, dict) else {}
    shape, place, size = facts.get("shape"), facts.get("data_offsets"), ITEM_SIZES.get(str(facts.get("dtype")))
    numbers = [*shape, *place] if isinstance(shape, list) and isinstance(place, list) and len(place) == 2 else [None]
    if size is None or len(numbers) > MOST_AXES + 2 or not all(type(n) is int and 0 <= n <= data for n in numbers):
        raise RefusedError(f"describes the tensor {name} in an unknown way")
    if math.prod(shape) * size != place[1] - place[0]:
        raise RefusedError(f"declares the shape {tuple(shape)} for {name}, but its data has another size")
    return place[1] - place[0]
