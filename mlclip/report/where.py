"""The section of a report with CLIP's own class maps: where it sees the labels that it gave.

Letters: K classes shown of one photo, h w cells of a map.
"""

from __future__ import annotations

import torch

from ..config import InputError
from ..images.overlay import lay_over
from ..labels.table import Labels
from . import html as page
from .label_update import figure, small_photo

WORDS = (
    "Each map is drawn from the cells of CLIP's last feature map, at twice its input size. Colours go from the lowest cell of a map "
    "(blue) to its highest (red), so they compare places and not classes. No student is involved."
)


def where_section(labels: Labels) -> str:
    """The photos and class maps in `meta["where"]` (see `teacher.where.maps_of_labels`); "" without them."""
    where = labels.meta.get("where")
    if not where:
        return ""
    try:
        cards = [_card(labels, int(row), where["classes"][row], maps) for row, maps in where["maps"].items()]
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(f"the class maps in the labels are damaged ({error}). Make the report again.") from error
    return f'<h2>Where CLIP sees the labels</h2><p>{WORDS}</p><div class="updates">{"".join(cards)}</div>'


def _card(labels: Labels, row: int, classes: list[int], maps: list) -> str:
    """One photo and its K maps (h, w), given as lists."""
    path, figures = labels.paths[row], ['<span class="none">no photo</span>']
    photo = small_photo(labels, path)
    if photo is not None:
        drawn = [lay_over(photo, torch.tensor(cam)) for cam in maps]
        captions = [f"{labels.classes[column]} {labels.scores[row, column]:.2f}" for column in classes]
        figures = [figure(picture, words) for picture, words in zip([photo, *drawn], ["photo", *captions], strict=True)]
    words = f'<div class="file">{page.text(path)}</div><div class="strip">{"".join(figures)}</div>'
    return f'<div class="card"><div class="words">{words}</div></div>'
