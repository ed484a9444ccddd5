"""The photos of a training, decoded and resized once: a file of uint8 pixels that is mapped into memory.

Without it every epoch decodes every photo again. It is a folder in the cache while the training runs, and is deleted when
the training has finished: it is large, and decoding once more costs no more than one epoch without it. After a kill it stays
for `resume=True`. Every photo has a checksum over its pixels and the identity of its file. So the next process finds the
photos that were not written completely, and those that have changed.

Letters: N photos, B of them in a batch, S side of the input in pixels.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from .. import __version__
from ..config import InputError
from ..distributed import Distributed
from ..files import atomic, cache_folder
from ..images import Photo
from ..images.batches import read_batches
from ..progress import SILENT, Progress

MANIFEST, PIXELS, CHECKS = "mlclip-inputs.json", "pixels.u8", "checks.u4"
SPARE_BYTES = 256 * 2**20  # that must stay free on the disk
PHOTOS_AT_ONCE = 16  # are decoded and then written together


class InputCache:
    """The pixels of N photos (N, 3, S, S), read from the mapped file, and the reasons of those that cannot be read."""

    def __init__(self, folder: Path, pixels: np.ndarray, unreadable: dict[int, str]):
        self.folder, self.pixels, self.unreadable = folder, pixels, unreadable

    def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[Tensor, Tensor | None, list[tuple[int, str]]]]:
        """The photos of `rows` in batches of `size`, in the form of `images.photo_batches`.

        So a batch is the rows of its readable photos (B,), their pixels (B, 1, 3, S, S) or None, and (row, reason) of the
        others. The pixels are a copy.
        """
        for first in range(0, len(rows), size):
            batch = rows[first : first + size]
            readable = [row for row in batch if row not in self.unreadable]
            pixels = torch.from_numpy(self.pixels[readable])[:, None] if readable else None
            unreadable = [(row, self.unreadable[row]) for row in batch if row in self.unreadable]
            yield torch.tensor(readable, dtype=torch.int64), pixels, unreadable


def open_input_cache(
    photos: Sequence[Photo], size: int, num_workers: int, distributed: Distributed, progress: Progress
) -> InputCache | None:
    """The cache of `photos` with side `size`, after decoding the photos that it lacks. `num_workers` threads decode.

    The ranks of one machine share one cache and the work. None, with a message, where the disk is full or cannot be written:
    the training then decodes the photos in every epoch. All ranks get a cache, or none does.
    """
    hosts = distributed.all_gather((socket.gethostname(), str(inputs_folder())))
    here = hosts[distributed.rank]
    mine = [rank for rank, host in enumerate(hosts) if host == here]  # ranks of this machine and cache
    place = mine.index(distributed.rank)
    folder = inputs_folder() / _name(photos, size, machine=list(dict.fromkeys(hosts)).index(here))
    problem, missing = _prepare(folder, photos, size) if place == 0 else (None, [])
    prepared = distributed.all_gather((problem, missing))
    if _has_problem([problem for problem, _ in prepared], progress):
        return None
    missing = prepared[mine[0]][1]
    total = f"{len(photos):,} photos, {len(photos) * 3 * size * size / 1e6:,.0f} MB in {folder}"
    progress.log(f"input cache: {total}" + ("" if len(missing) == len(photos) else f", {len(missing):,} to decode"))
    shown = progress if distributed.is_main else SILENT
    problem, pixels, unreadable = _fill(folder, photos, missing[place :: len(mine)], size, num_workers, shown)
    filled = distributed.all_gather((problem, unreadable))
    cache = InputCache(folder, pixels, {})
    if _has_problem([problem for problem, _ in filled], progress):
        remove_input_cache(cache)
        return None
    for rank in mine:
        cache.unreadable |= filled[rank][1]
    return cache


def inputs_folder() -> Path:
    """The folder in the cache that holds the inputs of unfinished trainings."""
    return cache_folder() / "inputs"


def _name(photos: Sequence[Photo], size: int, machine: int) -> str:
    """The folder name for these files and this size. Machines with a common network folder have different names."""
    digest = hashlib.sha256(repr((size, [photo.file for photo in photos])).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:20] + (f"-{machine}" if machine else "")


def _has_problem(problems: Sequence[str | None], progress: Progress) -> bool:
    found = next(filter(None, problems), None)
    if found:
        progress.log(f"no input cache: {found}. Every epoch decodes the photos again.")
    return found is not None


def _prepare(folder: Path, photos: Sequence[Photo], size: int) -> tuple[str | None, list[int]]:
    """Create the files that are missing. Returns a problem or None, and the rows whose pixels must be decoded."""
    stride = 3 * size * size
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": "mlclip.inputs", "version": 1, "photos": len(photos), "size": size}
        with atomic(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(content) + "\n")
        for name, length in ((PIXELS, len(photos) * stride), (CHECKS, len(photos) * 4)):
            with open(folder / name, "ab") as file:
                file.truncate(length)  # the new part is a hole: it takes no space yet, and it is 0
        missing = [row for row, valid in enumerate(_valid(folder, photos, stride)) if not valid]
        needed, free = len(missing) * stride, shutil.disk_usage(folder).free
    except (OSError, InputError) as error:
        return f"{folder} cannot be written ({getattr(error, 'strerror', None) or error})", []
    if needed + SPARE_BYTES > free:
        _delete(folder)
        return f"{folder} needs {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free", []
    return None, missing


def _valid(folder: Path, photos: Sequence[Photo], stride: int) -> Iterator[bool]:
    """For every photo: whether its pixels in the file are complete and are those of the file as it is now."""
    checks = np.fromfile(folder / CHECKS, np.uint32)
    with open(folder / PIXELS, "rb") as file:
        for row, photo in enumerate(photos):
            if checks[row]:
                file.seek(row * stride)
            yield bool(checks[row]) and int(checks[row]) == _check(photo, file.read(stride))


def _check(photo: Photo, pixels: bytes) -> int:
    """The checksum of a photo's pixels and of all that they depend on. It is never 0, which stands for a missing photo."""
    identity = repr((photo.file, photo.size, photo.mtime_ns, __version__, PIL.__version__))
    return zlib.crc32(pixels, zlib.crc32(identity.encode("utf-8", "surrogateescape"))) or 1


def _fill(
    folder: Path, photos: Sequence[Photo], rows: Sequence[int], size: int, num_threads: int, progress: Progress
) -> tuple[str | None, np.ndarray | None, dict[int, str]]:
    """Decode the photos of `rows` into the files: a problem or None, the mapped pixels of all photos, row -> reason.

    Pixels are written, not assigned to the map: on a full disk that would end the process.
    """
    stride, unreadable = 3 * size * size, {}
    progress = progress if rows else SILENT
    try:
        with (
            open(folder / PIXELS, "r+b") as pixels,
            open(folder / CHECKS, "r+b") as checks,
            progress.bar("decoding photos", len(rows), "photos") as bar,
        ):
            for row, content in _decoded(photos, rows, size, num_threads):
                if isinstance(content, str):
                    unreadable[row] = content
                else:
                    pixels.seek(row * stride)
                    pixels.write(content)
                    checks.seek(4 * row)
                    checks.write(np.uint32(_check(photos[row], content)).tobytes())
                bar.update(1)
            pixels.flush()
            return None, np.memmap(pixels, np.uint8, "r", shape=(len(photos), 3, size, size)), unreadable
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror or error})", None, {}


def _decoded(
    photos: Sequence[Photo], rows: Sequence[int], size: int, num_threads: int
) -> Iterator[tuple[int, bytes | str]]:
    """(row, pixels or the reason why there are none) for each of `rows`. Threads decode: unlike processes they start at once."""
    chosen = [photos[row] for row in rows]
    for batch in read_batches(chosen, size, batch_size=PHOTOS_AT_ONCE, num_threads=num_threads):
        yield from ((rows[index], pixels.tobytes()) for index, pixels in zip(batch.rows, batch.pixels, strict=True))
        yield from ((rows[index], reason) for index, reason in batch.unreadable)


def remove_input_cache(cache: InputCache) -> None:
    """Delete the files of a cache that is not needed any more. `cache` cannot be read after that."""
    cache.pixels = None  # Windows cannot delete a mapped file
    _delete(cache.folder)


def _delete(folder: Path) -> int:
    """Delete the files that mlclip wrote to `folder`, and the folder if it is then empty. Returns the bytes freed."""
    freed = 0
    for name in (PIXELS, CHECKS, MANIFEST):
        with suppress(OSError):
            size = (folder / name).stat().st_size
            (folder / name).unlink()
            freed += size
    with suppress(OSError):
        folder.rmdir()
    return freed


@dataclass(frozen=True)
class InputCacheInfo:
    """One input cache on disk, of a training that runs or was interrupted."""

    path: Path
    size: int  # bytes, also of the photos that are not decoded yet
    photos: int  # decoded so far
    side: int  # pixels
    used: float  # time of the last change, in seconds since 1970


def list_input_caches() -> list[InputCacheInfo]:
    """All input caches, in the order of their folder names. A damaged one has 0 photos."""
    root = inputs_folder()
    return (
        [_describe(folder) for folder in sorted(root.iterdir()) if (folder / MANIFEST).is_file()]
        if root.is_dir()
        else []
    )


def clear_input_caches(caches: Iterable[InputCacheInfo]) -> int:
    """Delete input caches and return the bytes that were freed. A running training keeps what it has mapped."""
    return sum(_delete(cache.path) for cache in caches)


def _describe(folder: Path) -> InputCacheInfo:
    photos, side = 0, 0
    with suppress(OSError, ValueError, KeyError, TypeError):
        side = int(json.loads((folder / MANIFEST).read_text())["size"])
        photos = int(np.count_nonzero(np.fromfile(folder / CHECKS, np.uint32)))
    files = [file for name in (PIXELS, CHECKS, MANIFEST) if (file := folder / name).is_file()]
    size = sum(file.stat().st_size for file in files)
    return InputCacheInfo(folder, size, photos, side, max(file.stat().st_mtime for file in files))
