"""Files that are never half-written, and tensors read from disk without running anything."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .config import InputError


def check_output(path: str | Path, *, overwrite: bool) -> Path:
    """The output path, once it is known that it may be written; InputError if it exists or its folder is unusable."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name for the output")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; add --overwrite to replace it, or choose another name with -o")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write in {path.parent}: {error.strerror}; choose another place with -o") from error
    os.close(probe)
    os.unlink(name)
    return path


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well and vanishes when it does not.

    A full disk or a read-only folder becomes an InputError that names `path`; what stood there before stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; what was there before is untouched"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def locked(file: str | Path, what: str) -> Iterator[None]:
    """Hold the lock file `file` for this process, and remove it in the end; freed even by a kill.

    InputError at once if another process holds it; `what` says what it is about to write.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on Windows: two commands at once are then not told apart
        yield
        return
    file = Path(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held = open(file, "w")  # noqa: SIM115  closed below
    except OSError as error:
        raise InputError(f"cannot write {what}: {error.strerror}; choose another place") from error
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not file.exists() or os.fstat(held.fileno()).st_ino != file.stat().st_ino:
                raise BlockingIOError  # another process held it until just now, and has removed it
        except BlockingIOError as error:
            raise InputError(
                f"another mlclip is writing {what} right now; wait for it, or choose another place"
            ) from error
        try:
            yield
        finally:
            with suppress(OSError):
                file.unlink()


def save_plain(content: Any, path: str | Path) -> None:
    """torch.save of plain containers and tensors, atomically."""
    import torch

    with atomic(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # what torch's zip writer raises on a full disk
            raise InputError(
                f"cannot write {path}: {str(error).splitlines()[0]}; what was there before is untouched"
            ) from error


def load_plain(path: str | Path, *, kind: str, made_by: str) -> dict:
    """A dict of plain containers and tensors that `save_plain` wrote, checked to say `format: mlclip.{kind}`.

    Executes nothing that the file might hold. InputError where the file is missing, damaged, or something else;
    `made_by` is the command that makes such a file.
    """
    import pickle

    import torch

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} not found; `{made_by}` makes it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError,
            pickle.UnpicklingError) as error:  # whatever torch.load says of a damaged file  # fmt: skip
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(
            f"{path} cannot be read as a {kind} file ({reason}); make it again with `{made_by}`"
        ) from error
    if not isinstance(content, dict) or content.get("format") != f"mlclip.{kind}":
        raise InputError(f"{path} is not a {kind} file of mlclip; `{made_by}` makes one")
    if content.get("version") != 1:
        raise InputError(
            f"{path} has version {content.get('version')!r} of the {kind} format; this mlclip reads version 1"
        )
    return content
