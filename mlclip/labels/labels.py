"""The table of photos × classes. Pseudo labels, predictions and ground truth are all `Labels`.

Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import InputError
from ..images import Unreadable, open_image
from ..images.names import photo_file
from ..spelling import shorten

if TYPE_CHECKING:
    import pandas

DEFAULT_THRESHOLD = 0.5
# of a notebook: classes and photos shown; the longer side of a photo in pixels
IN_A_CELL, CARDS, THUMBNAIL = 20, 6, 140


@dataclass(eq=False, repr=False)
class Labels:
    """Scores in [0, 1] of N photos for C classes; NaN = unknown. True labels are 1, 0 or NaN.

    `paths` are relative to the folder `root`, with forward slashes. `scores` is float32 (N, C). `meta` tells how the scores
    were made, in plain containers. Raises InputError for a wrong shape, a duplicate name, or a score out of range.

    >>> labels = Labels(["a.jpg", "b.jpg"], ["cat", "dog"], torch.tensor([[0.6, 0.9], [0.2, 0.1]]))
    >>> labels.above_threshold()
    [['dog', 'cat'], []]
    """

    paths: list[str]
    classes: list[str]
    scores: Tensor
    root: str = "."
    meta: dict = field(default_factory=dict)

    def __post_init__(self):
        self.paths, self.classes = list(self.paths), list(self.classes)
        self.scores = torch.as_tensor(self.scores, dtype=torch.float32, device="cpu").detach()
        for kind, names in (("path", self.paths), ("class", self.classes)):
            if not all(isinstance(name, str) and name for name in names):
                raise InputError(f"a {kind} of the labels is blank or not text. Give every {kind} a name.")
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise InputError(f"the {kind} {twice[0]!r} is in the labels twice ({len(twice)} duplicates). Keep one.")
        if any("\0" in name for name in self.paths):
            raise InputError("a path of the labels contains a NUL character. No file has such a name; remove the row.")
        shape, wanted = tuple(self.scores.shape), (len(self.paths), len(self.classes))
        if shape != wanted:
            raise InputError(f"scores have shape {shape}, but there are {wanted[0]} paths and {wanted[1]} classes.")
        wrong = ~((self.scores >= 0) & (self.scores <= 1) | self.scores.isnan())
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            where = f"{self.paths[row]!r}, class {self.classes[column]!r}"
            raise InputError(f"the score of {where} is {self.scores[row, column]:g}. Scores must be from 0 to 1.")

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        per_photo = int((self.scores >= self.thresholds).sum()) / max(len(self), 1)
        return f"<Labels: {len(self)} photos × {len(self.classes)} classes, {per_photo:.2f} labels per photo>"

    def _repr_html_(self) -> str:
        """For a notebook: the line of `repr`, the number of photos of each class, and the first photos with their classes."""
        counts = (self.scores >= self.thresholds).sum(0).tolist()
        rows = sorted(zip(self.classes, counts, strict=True), key=lambda row: -row[1])[:IN_A_CELL]
        cells = "".join(f"<tr><td>{escape(name)}</td><td>{count}</td></tr>" for name, count in rows)
        table = f"<table><tr><th>class</th><th>photos</th></tr>{cells}</table>"
        return f"<p>{escape(repr(self))}</p>{self._cards(CARDS, table)}"

    def show(self, count: int = IN_A_CELL) -> None:
        """Show the first `count` photos with their classes in a notebook. Raises InputError where there is none."""
        try:
            from IPython.display import HTML, display
        except ImportError as error:
            raise InputError("`show` needs a notebook. `mlclip report` writes a page of all photos.") from error
        display(HTML(self._cards(count)))

    def _cards(self, count: int, first: str = "") -> str:
        """The first `count` photos side by side as HTML, after `first`."""
        cards = "".join(map(self._card, self.paths[:count], self.above_threshold()[:count]))
        return f"<div style='display:flex;gap:12px;flex-wrap:wrap'>{first}{cards}</div>"

    def _card(self, path: str, names: list[str]) -> str:
        """One photo as HTML, with its classes; without the picture where it cannot be opened."""
        words = f"{escape(path)}<br><b>{escape(', '.join(names))}</b>"
        try:
            image, file = open_image(photo_file(self.root, path), smallest=(THUMBNAIL, THUMBNAIL)), io.BytesIO()
        except (Unreadable, ValueError):
            return f"<div>{words}</div>"
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        image.save(file, "JPEG", quality=70)
        source = base64.b64encode(file.getvalue()).decode()
        return f"<div><img alt='' src='data:image/jpeg;base64,{source}'><br>{words}</div>"

    def __getitem__(self, name: str) -> Tensor:
        """The scores (N,) of one class. Raises InputError for a name that the table does not have."""
        return self.aligned(self.paths, [name]).scores[:, 0]

    def head(self, count: int = CARDS) -> Labels:
        """The table of the first `count` photos."""
        return self.aligned(self.paths[:count], self.classes)

    def aligned(self, paths: Sequence[str], classes: Sequence[str]) -> Labels:
        """The table with only these rows and columns, in this order. Raises InputError for names that it does not have."""
        places = []
        for kind, have, want in (("paths", self.paths, paths), ("classes", self.classes, classes)):
            position = {name: i for i, name in enumerate(have)}
            missing = [name for name in want if name not in position]
            if missing:
                raise InputError(f"the labels do not have these {kind}: {shorten(missing)}. They have {shorten(have)}.")
            places.append([position[name] for name in want])
        rows, columns = places
        scores = self.scores[rows][:, columns]  # (len(paths), len(classes))
        meta, thresholds = dict(self.meta), self.meta.get("thresholds")
        if isinstance(thresholds, list) and len(thresholds) == len(self.classes):
            meta["thresholds"] = [thresholds[column] for column in columns]
        if isinstance(meta.get("content"), Tensor):
            meta["content"] = meta["content"][rows]
        return Labels(list(paths), list(classes), scores, self.root, meta)

    @property
    def thresholds(self) -> Tensor:
        """`meta["thresholds"]`, or ½, of each class (C,): a photo has the class if its score is at least this."""
        numbers = self.meta.get("thresholds", DEFAULT_THRESHOLD)
        if isinstance(numbers, dict):
            numbers = [numbers.get(name, DEFAULT_THRESHOLD) for name in self.classes]
        wrong = f"the thresholds of the labels are not {len(self.classes)} numbers from 0 to 1. Make the labels again."
        try:
            thresholds = torch.as_tensor(numbers, dtype=torch.float32).expand(len(self.classes))
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(wrong) from error
        if not ((thresholds >= 0) & (thresholds <= 1)).all():
            raise InputError(wrong)
        return thresholds

    def above_threshold(self) -> list[list[str]]:
        """The names of the classes that reach their threshold, for each photo, best score first."""
        return list(map(list, self.chosen()))

    def chosen(self) -> list[dict[str, float]]:
        """The same with their scores, as text files hold them: {class: score} of each photo."""
        order = self.scores.nan_to_num(-1).argsort(dim=1, descending=True, stable=True).tolist()
        rows = zip(order, self.scores.tolist(), (self.scores >= self.thresholds).tolist(), strict=True)
        return [{self.classes[c]: short(scores[c]) for c in best if reached[c]} for best, scores, reached in rows]

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame of the scores: index "path", one column per class, NaN = unknown. Raises InputError without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise InputError("pandas is not installed. Install it with `pip install pandas`.") from error
        index = pandas.Index(self.paths, name="path", dtype=object)  # pyarrow refuses names that are not UTF-8
        return pandas.DataFrame(self.scores.numpy(), index=index, columns=self.classes, copy=True)


def short(score: float) -> float:
    """A float32 score with seven digits, as text files hold it.

    >>> short(0.8999999761581421)
    0.9
    """
    return float(f"{score:.7g}")
