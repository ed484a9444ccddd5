"""A published weight file from the network to the cache: resumed where it broke, checked, never half there."""

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
from .registry import Entry

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte
FAILURES = 4  # attempts in a row that bring nothing new
PAUSE = 1.0  # seconds before the second attempt, twice that before the third ...


class _BrokenError(Exception):
    """The connection gave less than the file; another attempt may help."""


def hash_file(path: Path) -> str:
    """The sha256 of a file as 64 hexadecimal digits, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(entry: Entry, *, progress: Progress = SILENT, offline: bool = False) -> Path:
    """The path of the entry's file in the cache, fetched if it is not there; its sha256 is always checked.

    A broken download leaves `<file>.part` and goes on from there next time. Of several processes one downloads and
    the others wait (where the system or the file system has no locks, they do not wait). `offline` never touches the
    network. Raises InputError for a wrong hash, no network, an unwritable cache, or a file missing while offline.
    """
    path = entry.path
    if path.is_file():
        return _checked(path, entry)
    if offline:
        raise InputError(f"CLIP {entry.name} is not here and --offline forbids to fetch it; put {entry.url} at {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"another process is downloading {path}; waiting for it"
        with file_lock(path.with_name(path.name + ".lock"), if_held=lambda: progress.log(waiting)):
            if path.is_file():  # another process was faster
                return _checked(path, entry)
            _fetch(entry, path.with_name(path.name + ".part"), progress)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; make room there, or set MLCLIP_CACHE to another folder"
        ) from error
    return path


def _checked(path: Path, entry: Entry) -> Path:
    try:
        found = hash_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; see to its permissions") from error
    if found != entry.sha256:
        raise InputError(
            f"{path} is cut short or not the file of CLIP {entry.name}: its sha256 is {found}, "
            f"expected {entry.sha256}; delete it, and it is downloaded again"
        )
    return path


def _fetch(entry: Entry, part: Path, progress: Progress) -> None:
    """Fill `part`, in as many attempts as bring something new, check it, and move it to its place."""
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
                    f"cannot fetch {entry.url} ({error}); try again later and it goes on from {_size(part)} bytes, "
                    f"or put the file at {entry.path} by hand"
                ) from error
            progress.log(f"the download of {entry.name} broke ({error}); trying again")
        time.sleep(PAUSE * failures)
    found = hash_file(part)
    if found != entry.sha256:
        part.unlink()
        raise InputError(
            f"{entry.url} gave a file with sha256 {found}, expected {entry.sha256}; it was deleted: "
            f"try again, or put the right file at {entry.path} by hand"
        )
    os.replace(part, entry.path)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _transfer(entry: Entry, part: Path, progress: Progress) -> None:
    """One attempt: ask for what `part` lacks and append it, or write the whole where the server sends the whole."""
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
        raise _BrokenError(f"it ended after {_size(part)} of {total} bytes")


def _open(entry: Entry, part: Path) -> http.client.HTTPResponse | None:
    """The server's answer, or None where `part` turns out to be whole already."""
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
        raise _BrokenError("the server sent another part than was asked for")
    return response


def _refusal(error: urllib.error.HTTPError, entry: Entry, part: Path) -> None:
    error.close()
    if error.code == 416 and part.exists():  # there is nothing after what we have
        if hash_file(part) == entry.sha256:
            return
        part.unlink()
        raise _BrokenError("what was there did not fit; starting over")
    if error.code >= 500 or error.code in (408, 429):
        raise _BrokenError(f"HTTP status {error.code}")
    raise InputError(f"{entry.url} answered with HTTP status {error.code}; put the file at {entry.path} by hand")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenError(error or type(error).__name__) from error
        if not chunk:
            return
        yield chunk
