"""Files that are never half-written, and tensors read from disk without running anything."""

from __future__ import annotations

import errno
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from .config import InputError

OUTPUT_SUFFIXES = (".pt", ".csv", ".json", ".jsonl", ".html", ".onnx", ".safetensors")


def cache_folder() -> Path:
    """The folder of downloaded weights and view embeddings: $MLCLIP_CACHE, else ~/.cache/mlclip. "~" is expanded."""
    return Path(os.environ.get("MLCLIP_CACHE") or "~/.cache/mlclip").expanduser()


def beside(output: str | Path, ending: str) -> Path:
    """A companion file of an output: `model.pt` and ".log.csv" -> `model.log.csv`; `lr1.5` -> `lr1.5.log.csv`.

    Only a suffix of mlclip's own outputs is replaced, so that `lr1.5` and `lr1.6` have different companions.
    """
    path = Path(output)
    stem = path.stem if path.suffix.lower() in OUTPUT_SUFFIXES else path.name
    return path.with_name(stem + ending)


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
        with open(temporary, "r+b") as file:  # Windows syncs only files open for writing
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
def file_lock(path: str | Path, *, if_held: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path` in this process; the operating system frees it even after a kill.

    Where another process holds the lock, `if_held` is called: it raises, or it returns and this process waits. The file is
    removed at the end. On systems and file systems without locks (Windows, some network drives) nothing is held.
    Raises OSError where the file cannot be created.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if told else fcntl.LOCK_NB))
            except BlockingIOError:
                if_held()
                told = True
                continue
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                    raise
            if path.exists() and os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                continue  # the process that held it has removed the file since
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink()
            return


@contextmanager
def locked(path: str | Path, what: str) -> Iterator[None]:
    """`file_lock` for a command that must not wait: InputError if another process holds it. `what` is what the lock protects."""

    def refuse() -> None:
        raise InputError(f"another mlclip process is writing {what}; wait until it ends, or choose another output")

    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path, if_held=refuse))
        except OSError as error:
            raise InputError(f"cannot write {what}: {error.strerror}; choose another place") from error
        yield


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
