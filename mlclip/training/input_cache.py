"""The photos of a training, decoded and resized once: a temporary file of uint8 pixels that is mapped into memory.

Without it every epoch decodes every photo again. The file loses its name as soon as every rank of the machine has opened it.
So the system frees its space when the training ends, also after a kill; no other process can change it; and several
trainings of the same photos do not meet. A training that is continued decodes its photos again.

Letters: N photos, B of them in a batch, S side of the input in pixels.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import InputError
from ..distributed import Runtime
from ..files import cache_folder, reason_of, refused
from ..images import Photo
from ..images.views import read_batches

NAME = (".u8", "mlclip-inputs-")  # end and start of the file's name
SPARE_BYTES = 256 * 2**20  # that must stay free on the disk
PHOTOS_AT_ONCE = 16  # are decoded and then written together


class InputCache(NamedTuple):
    """The pixels of N photos (N, 3, S, S), read from the mapped file, and the reasons of those that cannot be read."""

    pixels: np.ndarray
    unreadable: dict[int, str]

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


def open_input_cache(photos: Sequence[Photo], size: int, runtime: Runtime) -> InputCache | None:
    """Decode `photos` at side `size`, with `num_workers` threads. The ranks of one machine share the file and the work.

    None, with a message, where the disk is full or cannot be written: the training then decodes the photos in every epoch.
    All ranks get a cache, or none does.
    """
    distributed = runtime.distributed
    hosts = distributed.all_gather(socket.gethostname())
    mine = [rank for rank, host in enumerate(hosts) if host == hosts[distributed.rank]]  # the ranks of this machine
    place, length, own = mine.index(distributed.rank), len(photos) * 3 * size * size, None
    try:
        try:
            with distributed.together():
                own = _create(length) if place == 0 else None
            name = distributed.all_gather(own)[mine[0]]
            with distributed.together(), refused(f"{name} cannot be opened", "", OSError):
                # Its bytes take no space yet. Windows deletes it when no process has it open any more.
                flags = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_TEMPORARY", 0)
                file = os.fdopen(os.open(name, flags), "r+b")
                file.truncate(length)
        finally:
            if own:  # every rank has opened the file, or none will
                with suppress(OSError):
                    os.unlink(own)
        runtime.progress.log(f"input cache: {len(photos):,} photos, {length / 1e6:,.0f} MB in {os.path.dirname(name)}")
        with file:
            with distributed.together():
                unreadable = _fill(file, photos, range(len(photos))[place :: len(mine)], size, runtime)
            found = distributed.all_gather(unreadable)
            pixels = np.memmap(file, np.uint8, "r", shape=(len(photos), 3, size, size))
    except InputError as error:  # on every rank
        runtime.progress.log(f"no input cache: {reason_of(error)}. Every epoch decodes the photos again.")
        return None
    return InputCache(pixels, {row: reason for rank in mine for row, reason in found[rank].items()})


def _create(length: int) -> str:
    """The name of a new file in the cache, or in $TMPDIR if the cache cannot be written, on a disk with room for `length` bytes."""
    try:
        folder = cache_folder() / "inputs"
        folder.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(*NAME, folder)
    except (OSError, InputError):
        with refused("neither the cache nor $TMPDIR can be written", "", OSError):
            number, name = tempfile.mkstemp(*NAME)
    os.close(number)
    free = shutil.disk_usage(os.path.dirname(name)).free
    if length + SPARE_BYTES > free:
        os.unlink(name)
        raise InputError(f"{os.path.dirname(name)} needs {length / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free")
    return name


def _fill(file: BinaryIO, photos: Sequence[Photo], rows: Sequence[int], size: int, runtime: Runtime) -> dict[int, str]:
    """Decode the photos of `rows` into the file. Returns row -> reason of those that cannot be read.

    Threads decode: unlike processes they start at once. Pixels are written, not assigned to a map: on a full disk that
    would end the process.
    """
    unreadable, chosen = {}, [photos[row] for row in rows]
    threads, log = runtime.num_workers, runtime.progress.log
    batches = read_batches(chosen, size, batch_size=PHOTOS_AT_ONCE, num_threads=threads, log=log)
    bars = runtime.bars.bar("decoding photos", len(rows), "photos")
    with refused("the decoded photos cannot be written", "", OSError), bars as bar:
        for batch in batches:
            for index, pixels in zip(batch.rows, batch.pixels, strict=True):
                file.seek(rows[index] * pixels.nbytes)
                file.write(pixels.tobytes())
            unreadable |= {rows[index]: reason for index, reason in batch.unreadable}
            bar.update(len(batch.rows) + len(batch.unreadable))
        file.flush()
    return unreadable
