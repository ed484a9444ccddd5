"""Thumbnails of many photos: inside the page as data URIs, or as files in a folder beside it. And photos that look alike.

Letters: N photos.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image

from ..config import InputError
from ..files import beside
from ..images import Unreadable, open_image
from ..images.names import photo_file
from ..machine import default_workers
from ..progress import Progress
from . import html as page

SIDE = 240  # longer side of a thumbnail, pixels
FEW, LARGE_SIDE = 400, 480  # up to FEW photos, thumbnails are larger: they stand for an original that is not there
QUALITY = 72  # of the JPEG
EMBED_LIMIT = 40 << 20  # bytes of data URIs in one page
HASH_SIDE = 8  # a hash has HASH_SIDE² bits
MOST_BITS = 5  # photos with at most this many different bits look alike
LEAST_CONTRAST = 12  # grey levels; flat pictures have no hash
CHUNK = 2048  # photos compared with all others at a time


class Thumbnail(NamedTuple):
    """A JPEG and the hash of its picture, HASH_SIDE² numbers of 1 and −1; the hash is None for a flat picture."""

    jpeg: bytes
    bits: np.ndarray | None


@dataclass(frozen=True)
class Thumbnails:
    """`sources`: what an <img> of each photo shows, None for a photo that cannot be opened; `alike`: see `alike_groups`."""

    sources: list[str | None]
    alike: list[int]
    folder: Path | None  # of the files; None if all are in the page

    @property
    def failed(self) -> int:
        return self.sources.count(None)


def make_thumbnails(root: str, paths: Sequence[str], output: str | Path, place: str, progress: Progress) -> Thumbnails:
    """Thumbnails of the photos `paths` in `root`, for the page `output`.

    `place`: "embed" puts them into the page, "folder" into `report_files` beside `report.html`, and "auto" into the page up to
    EMBED_LIMIT bytes, else into the folder. A folder of an earlier page is emptied of its thumbnails first. Raises InputError
    if the folder cannot be written.
    """
    folder, names = beside(output, "_files"), quote(beside(output, "_files").name)
    sources: list[str | None] = []
    hashes: list[np.ndarray | None] = []
    held, embedded = 0, place != "folder"
    files: list[tuple[int, bytes]] = []  # thumbnails in the page that may have to move to the folder
    try:
        if folder.is_dir():
            for file in folder.iterdir():
                if re.fullmatch(r"\d+\.jpg", file.name):
                    file.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()  # only succeeds if the folder is empty
        with progress.bar("thumbnails", len(paths), "photos") as bar:
            for row, made in enumerate(_thumbnails(root, paths)):
                hashes.append(made and made.bits)
                sources.append(made and (page.data_uri(made.jpeg) if embedded else f"{names}/{row}.jpg"))
                held += len(sources[-1] or "") if embedded else 0
                if made and place != "embed":
                    files.append((row, made.jpeg))
                if embedded and place == "auto" and held > EMBED_LIMIT:
                    embedded = False
                if not embedded and files:
                    folder.mkdir(exist_ok=True)
                    for earlier, jpeg in files:
                        (folder / f"{earlier}.jpg").write_bytes(jpeg)
                        sources[earlier] = f"{names}/{earlier}.jpg"
                    files.clear()
                bar.update(1)
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}. Choose another output.") from error
    return Thumbnails(sources, alike_groups(hashes), None if embedded else folder)


def photo_of(root: str, path: str, smallest: tuple[int, int]) -> Image.Image | None:
    """A photo of a table, not smaller than `smallest` = (width, height) pixels; None if it cannot be opened."""
    try:
        return open_image(photo_file(root, path), smallest=smallest)
    except (Unreadable, ValueError):  # ValueError: not a valid file name
        return None


def _thumbnails(root: str, paths: Sequence[str]) -> Iterator[Thumbnail | None]:
    side = LARGE_SIDE if len(paths) <= FEW else SIDE

    def made(path: str) -> Thumbnail | None:
        image = photo_of(root, path, (side // 2, side // 2))
        if image is None:
            return None
        image.thumbnail((side, side))
        return Thumbnail(page.jpeg(image, QUALITY), difference_hash(image))

    with ThreadPoolExecutor(default_workers()) as pool:
        for first in range(0, len(paths), 256):  # so that only a few wait in memory
            yield from pool.map(made, paths[first : first + 256])


def difference_hash(image: Image.Image) -> np.ndarray | None:
    """1 where a small grey copy of the picture gets brighter to the right, else −1, (HASH_SIDE²,) int8; None if it is flat."""
    grey = np.asarray(image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE)), dtype=np.int16)
    if int(grey.max()) - int(grey.min()) < LEAST_CONTRAST:
        return None
    return np.where(grey[:, 1:] > grey[:, :-1], 1, -1).astype(np.int8).ravel()


def alike_groups(hashes: Sequence[np.ndarray | None]) -> list[int]:
    """A number for each photo that looks like another one, the same for those that look alike; −1 for all others.

    A photo belongs to the group of the first photo whose hash differs in at most MOST_BITS bits.

    >>> bits = np.ones(64, dtype=np.int8)
    >>> alike_groups([bits, -bits, None, bits])
    [0, -1, -1, 0]
    """
    rows = [row for row, bits in enumerate(hashes) if bits is not None]
    if not rows:
        return [-1] * len(hashes)
    table = torch.from_numpy(np.stack([hashes[row] for row in rows])).float()  # (n, bits)
    close = table.shape[1] - 2 * MOST_BITS  # the products of 1 and −1 add up to this for MOST_BITS different bits
    leaders = torch.cat([(part @ table.T >= close).int().argmax(1) for part in table.split(CHUNK)]).tolist()
    for row, leader in enumerate(leaders):
        leaders[row] = leaders[leader]  # the leader's own leader is known: it comes first
    sizes = np.bincount(leaders, minlength=len(rows))
    groups = [-1] * len(hashes)
    for row, leader in zip(rows, leaders, strict=True):
        groups[row] = leader if sizes[leader] > 1 else -1
    return groups
