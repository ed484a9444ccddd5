"""The pictures of the page: thumbnails, photos that look alike, CCD's biases and label update, and where CLIP sees the labels.

Letters: N photos, C classes, K local views or classes shown of one photo, h w cells of a map.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import InputError
from ..files import beside
from ..images import Unreadable, open_image
from ..images.names import photo_file
from ..images.overlay import BOX_COLOURS, draw_boxes, lay_over
from ..labels.table import Labels
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
MAP_SIDE = 200  # longer side of one picture, pixels
SHOWN_UPDATES = 24  # photos with a drawn label update
MOST_MAPS = 6  # class maps shown per photo
MOST_CHANGES = 6  # labels shown per photo: those that changed most
NO_PHOTO = '<span class="none">no photo</span>'


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


# -- sections with class maps


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Inside it, an error about the content of `Labels.meta` becomes an InputError. `what` is read from there."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the labels are damaged: {what} cannot be shown ({error}). Make the labels again.") from error


def bias_section(labels: Labels) -> str:
    """CCD's Figure 2(d): the bias of each class, and the number of confident photos behind it; "" without biases."""
    bias, photos = labels.meta.get("bias"), labels.meta.get("bias_photos")
    if bias is None:
        return ""
    with reading("the bias of each class"):
        rows = sorted(zip(labels.classes, map(float, bias), map(int, photos), strict=True), key=lambda row: -row[1])
    lines = "".join(
        f'<tr><td>{page.text(name)}</td><td class="number">{page.number(value, 3)}</td><td>{page.bar(value)}</td>'
        f'<td class="number">{count or "none; mean of the other classes"}</td></tr>'
        for name, value, count in rows
    )
    head = '<th>class</th><th class="number">bias</th><th></th><th class="number">confident photos</th>'
    words = "The mean of CLIP's top-1 score over the photos where CLIP is sure of the class. Labels are divided by it."
    return f'<h2>Bias of each class</h2><p>{words}</p><div class="wide"><table><tr>{head}</tr>{lines}</table></div>'


def update_section(labels: Labels) -> str:
    """CCD's label update: boxes, class maps and changed labels of at most SHOWN_UPDATES photos; "" without an update."""
    update = labels.meta.get("update")
    if not update:
        return ""
    with reading("the label update"):
        rows = sorted(int(row) for row in update["maps"]) or list(range(len(labels)))
        before = torch.tensor(update["before"], dtype=torch.float32).reshape(labels.scores.shape)  # (N, C)
        cards = [_update_card(labels, update, before, row) for row in rows[:SHOWN_UPDATES]]
        words = (
            f"Local views: {page.text(update['views'])}. The student points to a class with a score of "
            f"{update['threshold']:.3f} or more. Each box is a region that CLIP scored again; the map next to it shows where the "
            "student sees that class. Labels: before → after."
        )
    return f'<h2>The label update</h2><p>{words}</p><div class="updates">{"".join(cards)}</div>'


def _update_card(labels: Labels, update: dict, before: Tensor, row: int) -> str:
    """One photo, its K boxes with their maps, and the labels that changed most."""
    photo, boxes, classes = small_photo(labels, row), update["boxes"][row], update["classes"][row]
    maps = update["maps"].get(row, update["maps"].get(str(row), []))[:MOST_MAPS]
    figures = [NO_PHOTO] if photo is None else [page.figure(draw_boxes(photo, boxes), "local views")]
    for place, (cam, column) in enumerate(zip(maps, classes, strict=False) if photo else ()):
        picture = draw_boxes(lay_over(photo, torch.tensor(cam)), [boxes[place]], first=place)
        figures.append(page.figure(picture, labels.classes[column], BOX_COLOURS[place % len(BOX_COLOURS)]))
    changes = (labels.scores[row] - before[row]).abs().nan_to_num(-1)  # (C,)
    words = []
    for column in changes.topk(min(MOST_CHANGES, len(changes))).indices.tolist():
        old, new = float(before[row, column]), float(labels.scores[row, column])
        if not math.isnan(new):
            words.append(f"{page.text(labels.classes[column])} {old:.2f} → <b>{new:.2f}</b>")
    return _card(labels.paths[row], figures, f"<small>{' · '.join(words)}</small>")


def where_section(labels: Labels) -> str:
    """The photos and class maps in `meta["where"]` (see `teacher.where.maps_of_labels`); "" without them."""
    where = labels.meta.get("where")
    if not where:
        return ""
    with reading("CLIP's class maps"):
        cards = [_where_card(labels, int(row), where["classes"][row], maps) for row, maps in where["maps"].items()]
    words = (
        "Each map is drawn from the cells of CLIP's last feature map, at twice its input size. Colours go from the lowest cell of "
        "a map (blue) to its highest (red), so they compare places and not classes. No student is involved."
    )
    return f'<h2>Where CLIP sees the labels</h2><p>{words}</p><div class="updates">{"".join(cards)}</div>'


def _where_card(labels: Labels, row: int, classes: list[int], maps: list) -> str:
    """One photo and its K maps (h, w), given as lists."""
    photo, figures = small_photo(labels, row), [NO_PHOTO]
    if photo is not None:
        drawn = [lay_over(photo, torch.tensor(cam)) for cam in maps]
        captions = [f"{labels.classes[column]} {labels.scores[row, column]:.2f}" for column in classes]
        pairs = zip([photo, *drawn], ["photo", *captions], strict=True)
        figures = [page.figure(picture, words) for picture, words in pairs]
    return _card(labels.paths[row], figures, "")


def small_photo(labels: Labels, row: int) -> Image.Image | None:
    """A photo of the labels, at most MAP_SIDE pixels wide and high; None if it cannot be opened."""
    photo = photo_of(labels.root, labels.paths[row], (MAP_SIDE, MAP_SIDE))
    if photo is not None:
        photo.thumbnail((MAP_SIDE, MAP_SIDE))
    return photo


def _card(path: str, figures: list[str], words: str) -> str:
    strip = f'<div class="strip">{"".join(figures)}</div>'
    return f'<div class="card"><div class="words"><div class="file">{page.text(path)}</div>{strip}{words}</div></div>'
