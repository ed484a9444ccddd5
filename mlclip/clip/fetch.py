"""Download a published weight file to the cache: resumable, checked, and never incomplete at its final path."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from ..config import InputError
from ..files import file_lock
from ..progress import SILENT, Progress
from .registry import PART_SUFFIX, Entry

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without data
FAILURES = 4  # attempts in a row without new data
PAUSE = 1.0  # seconds before the second attempt, twice as long before the third ...


class _BrokenError(Exception):
    """The connection ended before the file was complete. Another attempt may help."""


def hash_file(path: Path) -> str:
    """The sha256 of a file as 64 hexadecimal digits. The file is read in chunks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(entry: Entry, *, progress: Progress = SILENT, offline: bool = False) -> Path:
    """The path of the entry's file in the cache. Downloads it if it is missing, and always checks its sha256.

    A broken download leaves `<file>.part` and continues from there the next time. With several processes, one downloads
    and the others wait (they do not wait if the system or the file system has no locks). `offline=True` never uses the
    network. Raises InputError for a wrong hash, no network, a cache that is not writable, or a missing file while offline.
    """
    path = entry.path
    if path.is_file():
        return _checked(path, entry)
    if offline:
        raise InputError(
            f"CLIP {entry.name} is not in the cache, and `offline=True` forbids downloads. Download {entry.url} to {path}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"another process is downloading {path}: waiting for it"
        with file_lock(path.with_name(path.name + ".lock"), if_held=lambda: progress.log(waiting)):
            if path.is_file():  # another process was faster
                return _checked(path, entry)
            _fetch(entry, path.with_name(path.name + PART_SUFFIX), progress)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Free some space, or set MLCLIP_CACHE to another folder."
        ) from error
    return path


def _checked(path: Path, entry: Entry) -> Path:
    try:
        found = hash_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Check its permissions.") from error
    if found != entry.sha256:
        raise InputError(
            f"{path} is truncated or not the file of CLIP {entry.name}: its sha256 is {found}, "
            f"expected {entry.sha256}. Delete it, and mlclip downloads it again."
        )
    return path


def _fetch(entry: Entry, part: Path, progress: Progress) -> None:
    """Download to `part`, check it, and move it to its final path. Gives up after FAILURES attempts without new data."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(entry, part, progress)
            break
        except _BrokenError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures == FAILURES:
                raise InputError(
                    f"cannot download {entry.url} ({error}). Try again later to continue from {_size(part)} bytes, "
                    f"or copy the file to {entry.path} by hand."
                ) from error
            progress.log(f"the download of {entry.name} was interrupted ({error}): trying again")
        time.sleep(PAUSE * failures)
    found = hash_file(part)
    if found != entry.sha256:
        part.unlink()
        raise InputError(
            f"{entry.url} has the sha256 {found}, expected {entry.sha256}. The download was deleted. "
            f"Try again, or copy the right file to {entry.path} by hand."
        )
    os.replace(part, entry.path)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _transfer(entry: Entry, part: Path, progress: Progress) -> None:
    """One attempt: request the missing bytes of `part` and append them, or write the complete file if the server sends it."""
    response = _open(entry, part)
    if response is None:
        return
    with response:
        start = _size(part) if response.status == 206 else 0
        total = start + int(response.headers.get("Content-Length") or 0)
        bar = progress.bar(f"downloading {entry.name}", total, unit="B", done=start)
        with bar as progress, open(part, "ab" if start else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                progress.update(len(chunk))
    if _size(part) < total:
        raise _BrokenError(f"the connection ended after {_size(part)} of {total} bytes")


def _open(entry: Entry, part: Path) -> http.client.HTTPResponse | None:
    """The server's response, or None if `part` is already complete."""
    start = _size(part)
    headers = {"User-Agent": "mlclip"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(entry.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        return _refusal(error, entry, part)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(getattr(error, "reason", None) or error or type(error).__name__) from error
    range_sent = response.headers.get("Content-Range", "")
    if response.status == 206 and not range_sent.startswith(f"bytes {start}-"):
        response.close()
        part.unlink()
        raise _BrokenError("the server sent a different part than requested")
    return response


def _refusal(error: urllib.error.HTTPError, entry: Entry, part: Path) -> None:
    error.close()
    if error.code == 416 and part.exists():  # the server has no more bytes than we have
        if hash_file(part) == entry.sha256:
            return
        part.unlink()
        raise _BrokenError("the partial file did not match; starting over")
    if error.code >= 500 or error.code in (408, 429):
        raise _BrokenError(f"HTTP status {error.code}")
    raise InputError(f"{entry.url} returned HTTP status {error.code}. Copy the file to {entry.path} by hand.")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenError(error or type(error).__name__) from error
        if not chunk:
            return
        yield chunk
