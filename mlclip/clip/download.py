"""Downloads of weight files into the cache: resumable, checked, and never incomplete at the final path. No torch."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from ..config import InputError
from ..files import file_lock, refused
from ..progress import SILENT, Progress
from .registry import PART_SUFFIX, Entry, hash_file

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without data
FAILURES = 4  # attempts in a row without new data
PAUSE = 1.0  # seconds before the second attempt, twice as long before the third ...


class _BrokenError(Exception):
    """The connection ended before the file was complete. Another attempt may help."""


def download(entry: Entry, *, progress: Progress = SILENT, offline: bool = False) -> Path:
    """The path of the entry's file in the cache. Downloads it if it is missing, and always checks its sha256.

    A broken download leaves `<file>.part` and continues from there the next time. With several processes, one downloads and the
    others wait. `offline=True` never uses the network.
    """
    path, part = entry.path, entry.path.with_name(entry.path.name + PART_SUFFIX)
    if not path.is_file() and offline:
        what = f"CLIP {entry.name} is not in the cache, and nothing may be downloaded (`offline=True`)"
        raise InputError(f"{what}. Download {entry.url} to {path}.")
    if not path.is_file():
        waiting = f"another process is downloading {path}: waiting for it"
        with (
            refused(f"cannot write {path}", "Free some space, or set MLCLIP_CACHE to another folder.", OSError),
            file_lock(path.with_name(path.name + ".lock"), if_held=lambda: progress.log(waiting)),
        ):
            if not path.is_file():  # else another process was faster
                return _fetch(entry, part, progress)
    if (found := hash_file(path)) != entry.sha256:
        what = f"{path} is truncated or not the file of CLIP {entry.name}"
        raise InputError(f"{what}: its sha256 is {found}, expected {entry.sha256}. Delete it to download it again.")
    return path


def _fetch(entry: Entry, part: Path, progress: Progress) -> Path:
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
                remedy = f"Try again to continue from {_size(part)} bytes, or copy the file to {entry.path} by hand."
                raise InputError(f"cannot download {entry.url} ({error}). {remedy}") from error
            progress.log(f"the download of {entry.name} was interrupted ({error}): trying again")
        time.sleep(PAUSE * failures)
    found = hash_file(part)
    if found != entry.sha256:
        part.unlink()
        what = f"{entry.url} has the sha256 {found}, expected {entry.sha256}"
        raise InputError(f"{what}. It was deleted. Try again, or copy the right file to {entry.path} by hand.")
    os.replace(part, entry.path)
    return entry.path


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _transfer(entry: Entry, part: Path, progress: Progress) -> None:
    """One attempt: request the missing bytes of `part` and append them, or write the complete file if the server sends it."""
    start = _size(part)
    headers = {"User-Agent": "mlclip"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(entry.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the server has no more bytes than we have
            if hash_file(part) == entry.sha256:
                return
            part.unlink()
        elif error.code < 500 and error.code not in (408, 429):
            remedy = f"Copy the file to {entry.path} by hand."
            raise InputError(f"{entry.url}: HTTP status {error.code}. {remedy}") from error
        raise _BrokenError(f"HTTP status {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(getattr(error, "reason", None) or error or type(error).__name__) from error
    with response:
        start = start if response.status == 206 else 0
        total = start + int(response.headers.get("Content-Length") or 0)
        bar = progress.bar(f"downloading {entry.name}", total, unit="B", done=start)
        with bar as progress, open(part, "ab" if start else "wb") as file:
            while True:
                try:  # errors of the network, unlike those of the disk, may be over soon
                    chunk = response.read(CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    raise _BrokenError(error or type(error).__name__) from error
                if not chunk:
                    break
                file.write(chunk)
                progress.update(len(chunk))
    if _size(part) < total:
        raise _BrokenError(f"the connection ended after {_size(part)} of {total} bytes")
