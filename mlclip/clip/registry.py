"""The published CLIP weights that have a name: their files in the cache, and how they are downloaded. No torch.

A download is resumable, checked, and never incomplete at its final path.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ..config import InputError
from ..files import cache_folder, file_lock
from ..progress import SILENT, Progress
from ..spelling import did_you_mean

TINY = "tiny"  # a toy model that is part of the package, for trying mlclip
TINY_FILE = Path(__file__).with_name("tiny.pt")
BUILT_IN, HUB, FOLDER = "open_clip:", "hf-hub:", "local-dir:"  # how the names start that open_clip loads
PART_SUFFIX = ".part"  # of an unfinished download
CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without data
FAILURES = 4  # attempts in a row without new data
PAUSE = 1.0  # seconds before the second attempt, twice as long before the third ...


@dataclass(frozen=True)
class Entry:
    """One published weight file."""

    name: str
    url: str
    sha256: str
    approx_mb: int  # approximate size in 10⁶ bytes, only for display
    resolution: int  # side in pixels of the square training images

    @property
    def path(self) -> Path:
        """The path of the file in the cache. The file may not exist."""
        return cache_folder() / self.url.rsplit("/", 1)[-1]


def _openai(name: str, sha256: str, approx_mb: int, resolution: int) -> Entry:
    file = name.replace("/", "-").replace("@", "-") + ".pt"
    return Entry(name, f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}", sha256, approx_mb, resolution)


_ENTRIES = (
    _openai("RN50", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762", 256, 224),
    _openai("RN101", "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599", 292, 224),
    _openai("RN50x4", "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd", 422, 288),
    _openai("RN50x16", "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa", 661, 384),
    _openai("RN50x64", "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c", 1354, 448),
    _openai("ViT-B/32", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", 354, 224),
    _openai("ViT-B/16", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", 351, 224),
    _openai("ViT-L/14", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", 933, 224),
    _openai("ViT-L/14@336px", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02", 934, 336),
)
MODELS: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def available_models() -> list[str]:
    """The names that `load_clip` knows: the toy model `tiny`, then OpenAI's nine models."""
    return [TINY, *MODELS]


def find_name(name: str) -> str | None:
    """The registered spelling of a name in upper or lower case, with "-" for "/" ("vit-b-32" -> "ViT-B/32"), or None."""
    keys = {known.lower().replace("/", "-").replace("@", "-"): known for known in available_models()}
    return keys.get(name.lower().replace("/", "-").replace("@", "-"))


def is_open_clip_name(name: str) -> bool:
    """Whether a name asks for open_clip: "open_clip:NAME/TAG", "hf-hub:OWNER/NAME" or "local-dir:DIR"."""
    return name.startswith((BUILT_IN, HUB, FOLDER))


def model_path(name: str) -> Path:
    """The path of the weight file of a registered name; the file may not exist. InputError for any other name."""
    known = find_name(name)
    if known is None:
        hint = did_you_mean(name, available_models())
        raise InputError(f"{name} is not a known CLIP.{hint} Choose one of {', '.join(available_models())}.")
    return TINY_FILE if known == TINY else MODELS[known].path


def is_cached(name: str) -> bool:
    """Whether the weight file of a registered name exists. Its content is not checked."""
    return model_path(name).is_file()


@dataclass(frozen=True)
class CachedWeights:
    """A downloaded weight file in the cache, or the part of one that an interrupted download left."""

    name: str
    path: Path
    size: int  # bytes
    complete: bool


def cached_weights() -> list[CachedWeights]:
    """The downloaded weight files in the cache, in the order of `available_models()`. Their content is not checked.

    The toy model `tiny` is not in the cache: it is part of the package.
    """
    files = [(entry, suffix) for entry in MODELS.values() for suffix in ("", PART_SUFFIX)]
    paths = [(entry.name, entry.path.with_name(entry.path.name + suffix), not suffix) for entry, suffix in files]
    return [CachedWeights(name, path, path.stat().st_size, whole) for name, path, whole in paths if path.is_file()]


# Downloading


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
    start = _size(part)
    headers = {"User-Agent": "mlclip"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(entry.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the server has no more bytes than we have
            if hash_file(part) == entry.sha256:
                return
            part.unlink()
            raise _BrokenError("the partial file did not match; starting over") from error
        if error.code >= 500 or error.code in (408, 429):
            raise _BrokenError(f"HTTP status {error.code}") from error
        raise InputError(
            f"{entry.url} returned HTTP status {error.code}. Copy the file to {entry.path} by hand."
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(getattr(error, "reason", None) or error or type(error).__name__) from error
    with response:
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise _BrokenError("the server sent a different part than requested")
        start = start if response.status == 206 else 0
        total = start + int(response.headers.get("Content-Length") or 0)
        bar = progress.bar(f"downloading {entry.name}", total, unit="B", done=start)
        with bar as progress, open(part, "ab" if start else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                progress.update(len(chunk))
    if _size(part) < total:
        raise _BrokenError(f"the connection ended after {_size(part)} of {total} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next bytes; errors of the network, unlike those of the disk, are a _BrokenError."""
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(error or type(error).__name__) from error
