"""The sections of a report with class maps: CCD's biases and label update, and where CLIP itself sees the labels.

Letters: N photos, C classes, K local views or classes shown of one photo, h w cells of a map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor

from ..config import InputError
from ..images.overlay import BOX_COLOURS, draw_boxes, lay_over
from ..labels.table import Labels
from . import html as page
from .thumbnails import photo_of

SIDE = 200  # longer side of one picture, pixels
MOST_MAPS = 6  # class maps shown per photo
MOST_CHANGES = 6  # labels shown per photo: those that changed most
NO_PHOTO = '<span class="none">no photo</span>'


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


def update_section(labels: Labels, limit: int) -> str:
    """CCD's label update: boxes, class maps and changed labels of at most `limit` photos; "" without an update."""
    update = labels.meta.get("update")
    if not update:
        return ""
    with reading("the label update"):
        rows = sorted(int(row) for row in update["maps"]) or list(range(min(limit, len(labels))))
        before = torch.tensor(update["before"], dtype=torch.float32).reshape(labels.scores.shape)  # (N, C)
        cards = [_update_card(labels, update, before, row) for row in rows[:limit]]
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
    """A photo of the labels, at most SIDE pixels wide and high; None if it cannot be opened."""
    photo = photo_of(labels.root, labels.paths[row], (SIDE, SIDE))
    if photo is not None:
        photo.thumbnail((SIDE, SIDE))
    return photo


def _card(path: str, figures: list[str], words: str) -> str:
    strip = f'<div class="strip">{"".join(figures)}</div>'
    return f'<div class="card"><div class="words"><div class="file">{page.text(path)}</div>{strip}{words}</div></div>'
