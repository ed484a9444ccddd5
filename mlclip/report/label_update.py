"""The sections of a report about CCD: the bias of each class, and what the label update saw and changed in each photo.

Letters: N photos, C classes, K local views of one photo.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator

import torch
from PIL import Image

from ..config import InputError
from ..images import Unreadable, open_image
from ..images.names import photo_file
from ..images.overlay import BOX_COLOURS, draw_boxes, lay_over
from ..labels.table import Labels
from . import html as page

SIDE = 200  # longer side of one picture, pixels
MOST_MAPS = 6  # class maps shown per photo
MOST_CHANGES = 6  # labels shown per photo: those that changed most


def bias_section(labels: Labels) -> str:
    """CCD's Figure 2(d): the bias of each class, and the number of confident photos behind it; "" without biases."""
    bias, photos = labels.meta.get("bias"), labels.meta.get("bias_photos")
    if bias is None:
        return ""
    try:
        rows = sorted(zip(labels.classes, map(float, bias), map(int, photos), strict=True), key=lambda row: -row[1])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the biases in the labels do not fit the classes ({error}). Make the labels again."
        ) from error
    lines = "".join(
        f'<tr><td>{page.text(name)}</td><td class="number">{page.number(value, 3)}</td><td>{page.bar(value)}</td>'
        f'<td class="number">{count or "none; mean of the other classes"}</td></tr>'
        for name, value, count in rows
    )
    head = '<th>class</th><th class="number">bias</th><th></th><th class="number">confident photos</th>'
    words = (
        "The mean of CLIP's top-1 score over the photos where CLIP is confident of the class. Labels are divided by it."
    )
    return f'<h2>Bias of each class</h2><p>{words}</p><div class="wide"><table><tr>{head}</tr>{lines}</table></div>'


def update_section(labels: Labels, limit: int) -> str:
    """CCD's label update: boxes, class maps and changed labels of at most `limit` photos; "" without an update."""
    update = labels.meta.get("update")
    if not update:
        return ""
    try:
        rows = sorted(int(row) for row in update["maps"]) or list(range(min(limit, len(labels))))
        before = torch.tensor(update["before"], dtype=torch.float32).reshape(labels.scores.shape)  # (N, C)
        cards = [_card(labels, update, before, row) for row in rows[:limit]]
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            f"the label update in the labels is damaged ({error}). Train again with `save_labels`."
        ) from error
    views = page.text(update["views"])
    words = (
        f"Local views: {views}. The student points to a class with a score of {update['threshold']:.3f} or more. Each box is a "
        "region that CLIP scored again; the map next to it shows where the student sees that class. Labels: before → after."
    )
    return f'<h2>The label update</h2><p>{words}</p><div class="updates">{"".join(cards)}</div>'


def _card(labels: Labels, update: dict, before: torch.Tensor, row: int) -> str:
    boxes, classes = update["boxes"][row], update["classes"][row]
    path = labels.paths[row]
    pictures = "".join(_pictures(labels, update, row, boxes, classes))
    changes = (labels.scores[row] - before[row]).abs().nan_to_num(-1)  # (C,)
    words = []
    for column in changes.topk(min(MOST_CHANGES, len(changes))).indices.tolist():
        old, new = float(before[row, column]), float(labels.scores[row, column])
        if not math.isnan(new):
            words.append(f"{page.text(labels.classes[column])} {old:.2f} → <b>{new:.2f}</b>")
    return (
        f'<div class="card"><div class="words"><div class="file">{page.text(path)}</div><div class="strip">{pictures}</div>'
        f"<small>{' · '.join(words)}</small></div></div>"
    )


def _pictures(labels: Labels, update: dict, row: int, boxes: list, classes: list) -> Iterator[str]:
    photo = small_photo(labels, labels.paths[row])
    if photo is None:
        yield '<span class="none">no photo</span>'
        return
    yield figure(draw_boxes(photo, boxes), "local views")
    maps = update["maps"].get(row, update["maps"].get(str(row), []))
    for place, (cam, column) in enumerate(zip(maps, classes, strict=False)):
        if place == MOST_MAPS:
            break
        picture = draw_boxes(lay_over(photo, torch.tensor(cam)), [boxes[place]], first=place)
        yield figure(picture, labels.classes[column], BOX_COLOURS[place % len(BOX_COLOURS)])


def small_photo(labels: Labels, path: str) -> Image.Image | None:
    """A photo of the labels, at most SIDE pixels wide and high; None if it cannot be opened."""
    try:
        photo = open_image(photo_file(labels.root, path), smallest=(SIDE, SIDE))
    except (Unreadable, ValueError):  # ValueError: not a valid file name
        return None
    photo.thumbnail((SIDE, SIDE))
    return photo


def figure(picture: Image.Image, caption: str, colour: str = "") -> str:
    """A picture with a caption, as HTML that loads nothing; a `colour` marks it."""
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=75)
    code = base64.b64encode(data.getvalue()).decode()
    mark = f'<i class="mark" style="background:{colour}"></i>' if colour else ""
    words = page.text(caption)
    return (
        f'<figure><img src="data:image/jpeg;base64,{code}" alt="{words}" width="{picture.width}" height="{picture.height}">'
        f"<figcaption>{mark}{words}</figcaption></figure>"
    )
