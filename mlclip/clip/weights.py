"""Load a CLIP by name or from a file in any common format. No code in a weight file is executed."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from ..config import InputError
from ..progress import SILENT, Progress
from .archive import RefusedError, named_tensors, read_archive
from .fetch import download, hash_file
from .model import CLIP, build_clip
from .registry import MODELS, TINY, TINY_FILE, available_models, find_name
from .tokenizer import VOCAB_SIZE

GET_AGAIN = "Download the file again, or use another one."


def load_clip(
    name_or_path: str | Path,
    *,
    activation: str | None = None,
    device: torch.device | str = "cpu",
    offline: bool = False,
    progress: Progress = SILENT,
) -> CLIP:
    """Load a CLIP in float32 and eval mode on `device`, by a name from `available_models()` or from a weight file.

    A name may be in upper or lower case, with "-" for "/". Its file is downloaded once, unless `offline=True`. A file may be
    OpenAI's TorchScript archive, a state dict from `torch.save`, or `.safetensors`, in OpenAI's layout. `activation` is
    "quick_gelu" (the default, OpenAI's) or "gelu" (LAION's). The model's `.name` and `.sha256` identify the file.
    Raises InputError for an unknown name, and for a file that is damaged, is not a CLIP, or holds NaN or infinite numbers.
    """
    path, name, sha256 = _locate(name_or_path, offline, progress)
    state = read_state_dict(path)
    try:
        model = build_clip(state, activation or "quick_gelu")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    _check_model(model, path)
    model.name, model.sha256 = name, sha256
    return model.to(device)


def _locate(name_or_path: str | Path, offline: bool, progress: Progress) -> tuple[Path, str, str]:
    """Path, name and sha256 of the weight file. The file is hashed only once."""
    name = find_name(str(name_or_path))
    if name in MODELS:
        return download(MODELS[name], progress=progress, offline=offline), name, MODELS[name].sha256
    path = TINY_FILE if name == TINY else Path(name_or_path)
    if name == TINY and not path.is_file():
        raise InputError(f"{path} is missing, so the CLIP `tiny` cannot be loaded. Install mlclip again.")
    if not path.is_file():
        raise InputError(
            f"{name_or_path} is neither a file nor a known CLIP. Known names: {', '.join(available_models())}."
        )
    try:
        return path, name or str(path), hash_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Check its permissions.") from error


def _check_model(model: CLIP, path: Path) -> None:
    if model.vocab_size != VOCAB_SIZE:
        raise InputError(
            f"{path} was trained with a vocabulary of {model.vocab_size} tokens, but CLIP's has {VOCAB_SIZE}. "
            "Use weights trained with CLIP's tokenizer."
        )
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise InputError(f"{path} holds NaN or infinite numbers in {name}. {GET_AGAIN}")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by dotted name, as stored. Reads the same formats as `load_clip`, of any model.

    A state dict under "state_dict" or "model" is found, and a prefix "module." is removed. No code in the file is
    executed. Raises InputError if the file cannot be read or holds no tensors.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Pass a weight file.") from error
    try:
        _refuse_other_content(head)
        tensors = _reader(path, head)(path)
        if not all(name.isprintable() for name in tensors):  # messages may show them
            raise RefusedError("names a tensor with control characters")
    except RefusedError as error:
        reason = "".join(
            letter if letter.isprintable() else "?" for letter in str(error)[:300]
        )  # it may quote the file
        raise InputError(f"{path} {reason}. {GET_AGAIN}") from error
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
    if head.startswith(b"PK"):
        return read_archive
    if head.startswith(b"\x80"):  # a bare pickle: torch.save before 2020
        return _read_legacy
    raise RefusedError("is not a weight file (neither PyTorch nor .safetensors)")


def _read_legacy(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        raise RefusedError(
            f"is damaged, or a pickle of more than tensors ({type(error).__name__}). Nothing was executed"
        ) from error
    return named_tensors(content, Tensor)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(f'{path} needs the safetensors package. Run: pip install "mlclip[safetensors]"') from error
    try:
        return named_tensors(load_file(path), Tensor)
    except Exception as error:  # safetensors has its own error type
        raise RefusedError(f"is truncated or damaged ({str(error).splitlines()[0][:120]})") from error
