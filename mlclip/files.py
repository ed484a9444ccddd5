"""Safe files: outputs are written completely or not at all, and no code in a file is executed when it is read."""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from .config import InputError
from .spelling import one_line

try:  # POSIX
    import fcntl
except ImportError:
    fcntl = None
try:  # Windows
    import msvcrt
except ImportError:
    msvcrt = None

LOCK_SECONDS = 0.2  # between two attempts to get a lock that another process holds
REPLACE_SECONDS = (0.1, 0.3, 1.0)  # waits on Windows, where a virus scanner or another program may have the file open
FORMAT_VERSION = 2  # of the files that mlclip writes: labels, models, stores, unfinished trainings
OUTPUT_SUFFIXES = (".pt", ".csv", ".json", ".jsonl", ".html", ".onnx", ".safetensors", ".xml")


@contextmanager
def refused(what: str, remedy: str, *errors: type[Exception]) -> Iterator[None]:
    """In this block, an exception of these kinds becomes the InputError `what: reason. remedy`."""
    try:
        yield
    except errors as error:
        raise InputError(f"{what}: {reason_of(error)}. {remedy}".rstrip()) from error


def reason_of(error: Exception) -> str:
    """What an exception says, on one line. The first line of torch's errors of `load_state_dict` names only the class."""
    if isinstance(error, InputError):
        return str(error).rstrip(".")
    if isinstance(error, KeyError):
        return f"{one_line(error, 200)} is missing"
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines() or [type(error).__name__]
    line = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines[0]
    return one_line(line.strip(), 200).rstrip(".")


def cache_folder() -> Path:
    """The folder of downloaded weights and view embeddings: $MLCLIP_CACHE, or mlclip in $XDG_CACHE_HOME or ~/.cache. "~" is expanded.

    InputError if the user has no home folder and none of these variables is set, as in some containers.
    """
    folder = os.environ.get("MLCLIP_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mlclip")
    remedy = "Set the environment variable MLCLIP_CACHE to a folder that can be written."
    with refused("there is no folder for the cache", remedy, RuntimeError):
        return Path(folder).expanduser()


def beside(output: str | Path, ending: str) -> Path:
    """A companion file of an output: `model.pt` and ".log.csv" -> `model.log.csv`; `lr1.5` -> `lr1.5.log.csv`.

    Only the suffixes in OUTPUT_SUFFIXES are replaced. So `lr1.5` and `lr1.6` get different companion files.
    """
    path = Path(output)
    stem = path.stem if path.suffix.lower() in OUTPUT_SUFFIXES else path.name
    return path.with_name(stem + ending)


def refuse_nul(path: str | Path) -> None:
    """InputError if the name contains a NUL character. No system allows it in a file name."""
    if "\0" in str(path):
        raise InputError(f"{str(path)!r} is not a valid name: it contains a NUL character. Choose another name.")


def check_output(path: str | Path, *, overwrite: bool) -> Path:
    """The output path as a Path, after checks. InputError if it exists or if its folder cannot be written."""
    path = Path(path)
    refuse_nul(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder. The output must be a file name.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} already exists. Pass `overwrite=True` to replace it, or choose another output.")
    with refused(f"cannot write in {path.parent}", "Choose another output.", OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent).close()
    return path


def existing_file(path: str | Path, remedy: str) -> Path:
    """The path of a file that is there. InputError with the `remedy` if it is missing or a folder, or if it is no ordinary file."""
    if is_special(path):
        raise InputError(f"{path} is a named pipe or a device, not a file. Copy its content into a file first.")
    if not os.path.isfile(path):
        raise InputError(f"{path} {'is a folder' if os.path.isdir(path) else 'not found'}. {remedy}")
    return Path(path)


def is_special(path: str | Path) -> bool:
    """Whether this is a named pipe, a socket or a device. Reading it might never end."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def read_file(path: str | Path) -> bytes:
    """The content of a file. OSError if it cannot be read, or is no ordinary file."""
    if is_special(path):
        raise OSError(errno.EINVAL, "it is a named pipe or a device, not a file")
    return Path(path).read_bytes()


def load_text(path: str | Path) -> str:
    """The text of a file: UTF-8, or UTF-16 where its first bytes show it. Bytes that are not UTF-8 become surrogate escapes."""
    try:
        data = read_file(path)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode("utf-16")
        start = data[:4000]
        even, odd = start[::2].count(0), start[1::2].count(0)  # in UTF-16 of Latin text, every second byte is zero
        if max(even, odd) > len(start) // 4 and not min(even, odd):
            return data.decode("utf-16-le" if odd else "utf-16-be")
        return data.decode("utf-8-sig", "surrogateescape")
    except (OSError, ValueError) as error:  # ValueError: not text, or a NUL character in the name of the file
        reason = getattr(error, "strerror", None) or "it is neither UTF-8 nor UTF-16 text"
        raise InputError(f"{path} cannot be read ({reason}). Give a text file in UTF-8 that you can read.") from error


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`. It replaces `path` if the block succeeds, and is deleted if it fails.

    A full disk or a read-only folder raises an InputError that names `path`. The previous content then stays.
    """
    path = Path(path)
    temporary, lock = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp"), None
    try:
        with refused(f"cannot write {path}", "The previous content is unchanged.", OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_temporaries(path.parent)
            lock = _create_locked(temporary)
            yield temporary
            with open(temporary, "r+b") as file:  # Windows syncs only files open for writing
                os.fsync(file.fileno())
            _replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()
        if lock is not None:
            os.close(lock)


def _create_locked(temporary: Path) -> int | None:
    """Create a temporary file with a lock, so that no other process deletes it. None on Windows, where no process would."""
    if not fcntl:
        return None
    while True:
        file = os.open(temporary, os.O_CREAT | os.O_RDWR, 0o666)
        if _try_lock(file) and temporary.exists():
            return file
        os.close(file)  # another process took it for a left file before it was locked, and has deleted it


@lru_cache(maxsize=1000)  # once per process and folder: thousands of files may be written into one folder
def remove_temporaries(folder: Path) -> None:
    """Delete the temporary files that killed processes left in a folder: those that no process has locked.

    The lock decides, and neither process numbers nor times: the writer may run in another container or on another machine. Where the
    file system has no locks, nothing is deleted.
    """
    with suppress(OSError):  # the folder does not exist, or cannot be listed
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", entry.name)]
        for path in found if fcntl else ():
            with suppress(OSError), open(path, "r+b") as file:  # it is in use, or is gone
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)


def _replace(temporary: Path, path: Path) -> None:
    for wait in REPLACE_SECONDS if msvcrt else ():
        try:
            return os.replace(temporary, path)
        except PermissionError:
            time.sleep(wait)
    return os.replace(temporary, path)


@contextmanager
def file_lock(path: str | Path, *, if_held: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path` in this process. The operating system releases the lock even if the process is killed.

    If another process holds the lock, `if_held` is called. It either raises, or returns; then this process waits. The file
    is removed at the end. File systems without locks (some network drives) do not lock anything.
    """
    path = Path(path)
    refuse_nul(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = False
    while True:
        with open(path, "w") as file:
            ours = False
            if not _try_lock(file.fileno()):
                if not asked:
                    if_held()
                asked = True
                time.sleep(LOCK_SECONDS)
                continue
            with suppress(FileNotFoundError):
                ours = os.path.samestat(os.fstat(file.fileno()), path.stat())
            if not ours:
                continue  # the previous holder has removed this file in the meantime
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink()  # before others can lock it; Windows refuses that for an open file
        if msvcrt:
            with suppress(OSError):  # another process has opened it
                path.unlink()
        return


def _try_lock(file: int) -> bool:
    """Lock an open file; False if another process holds it. True also where the file system has no locks."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except OSError as error:  # each file system says with another error number that it has no locks
        return error.errno not in ((errno.EAGAIN, errno.EWOULDBLOCK) if fcntl else (errno.EACCES, errno.EDEADLK))
    return True


@contextmanager
def shared_lock(path: str | Path) -> Iterator[None]:
    """Let nobody else get the `file_lock` of `path` while this process, and perhaps others, read what it protects.

    Nothing is locked where the file cannot be created, where somebody else holds the lock alone, and on Windows.
    """
    if not fcntl:
        yield
        return
    with ExitStack() as stack:
        file = None
        with suppress(OSError):
            file = stack.enter_context(open(path, "a"))
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        try:
            yield
        finally:
            with suppress(OSError):
                if file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while others read
                    os.unlink(path)


@contextmanager
def locked(path: str | Path, what: str) -> Iterator[None]:
    """`file_lock` without waiting: InputError if another process holds the lock. `what` names the protected thing."""

    def refuse() -> None:
        raise InputError(f"another mlclip process is writing {what}. Wait until it ends, or choose another output.")

    with ExitStack() as stack:
        with refused(f"cannot write {what}", "Choose another place.", OSError):
            stack.enter_context(file_lock(path, if_held=refuse))
        yield


def save_plain(content: Any, path: str | Path) -> None:
    """torch.save of plain containers and tensors, atomically."""
    import torch

    with atomic(path) as temporary:
        try:
            with open(temporary, "wb") as file:
                torch.save(content, file)
        except RuntimeError as error:  # torch's zip writer raises it after an OSError of the file
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load_plain(path: str | Path, *, kind: str, made_by: str, mmap: bool = False) -> dict:
    """Read a dict of plain containers and tensors that `save_plain` wrote, with `"format": "mlclip.{kind}"`.

    No code in the file is executed, and its fields are those of `plain.FIELDS[kind]`. `mmap=True` maps the tensors instead of
    reading them, for callers that do not need their data. `made_by` is the command that creates such a file.
    """
    from .plain import RefusedError, check_fields, read_torch

    path = existing_file(path, f"`{made_by}` creates it.")
    try:
        content = read_torch(path, mmap=mmap)
    except RefusedError as error:
        remedy = f"Create it again with `{made_by}`."
        raise InputError(f"{path} is not a readable {kind} file: it {error}. {remedy}") from error
    if not isinstance(content, dict) or content.get("format") != f"mlclip.{kind}":
        raise InputError(f"{path} is not an mlclip {kind} file. `{made_by}` creates one.")
    if content.get("version") != FORMAT_VERSION:
        what = f"{path} has another version of the {kind} format. This mlclip reads version {FORMAT_VERSION}"
        raise InputError(f"{what}. Create the file again with `{made_by}`.")
    check_fields(kind, content, path, made_by)
    return content


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. ValueError if it is not JSON, is nested too deeply, or has a number with too many digits."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
