"""Which rows and classes two tables share, what is said about it, and when it is too little. `name_rules` has the rules.

Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..config import InputError
from .class_names import shorten
from .name_rules import Pairs
from .name_rules import match_classes as match_classes
from .name_rules import match_paths as match_paths
from .table import Labels

SHOWN_NAMES = 3  # photos or classes without a match that a summary names
ENOUGH = 0.5  # share of the smaller table that must match


@dataclass(frozen=True, eq=False)
class Match:
    """What two tables share: `rows` (row in the first, row in the second) and `classes`; and what only one of them has.

    `classes` has the names in the first table, `columns` their places in both, `notes` a line for each looser rule that was
    needed.
    """

    rows: Pairs
    classes: list[str]
    paths_only_first: list[str]
    paths_only_second: list[str]
    classes_only_first: list[str]
    classes_only_second: list[str]
    columns: Pairs = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self, first: str = "labels", second: str = "truth") -> list[str]:
        """One line per table: how many of its photos and classes matched, and the first few that did not; then the notes.

        `first` and `second` are the names of the tables in these lines.

        >>> Match([(0, 0)], ["cat"], ["b.jpg"], [], [], ["cow"]).summary()[0]
        'labels: 1 of 2 photos and 1 of 1 classes matched (photos not matched: b.jpg)'
        """
        return [
            self._line(first, self.paths_only_first, self.classes_only_first),
            self._line(second, self.paths_only_second, self.classes_only_second),
            *self.notes,
        ]

    def _line(self, table: str, paths: list[str], classes: list[str]) -> str:
        photos, columns = len(self.rows), len(self.classes)
        counts = f"{photos} of {photos + len(paths)} photos and {columns} of {columns + len(classes)} classes matched"
        kinds = (("photos", paths), ("classes", classes))
        missing = [f"{kind} not matched: {_first_few(names)}" for kind, names in kinds if names]
        return f"{table}: {counts}" + (f" ({'; '.join(missing)})" if missing else "")


def _first_few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES] + ["..."] * (len(names) > SHOWN_NAMES))


def match_tables(labels: Labels, truth: Labels) -> Match:
    """Match rows by path and classes by name: equal names first, then by looser rules; see `match_paths`, `match_classes`.

    Raises InputError if no photo or no class is in both tables.
    """
    rows, row_notes = match_paths(labels.paths, truth.paths)
    columns, column_notes = match_classes(labels.classes, truth.classes)
    if not rows:
        example = f"{labels.paths[0]!r} and {truth.paths[0]!r}" if len(labels) and len(truth) else "one is empty"
        raise InputError(f"no photo is in both tables (paths such as {example}). Give the true labels of these photos.")
    if not columns:
        both = f"{shorten(labels.classes, 20)} | {shorten(truth.classes, 20)}"
        raise InputError(f"no class is in both tables ({both}). Use the same class names in both.")
    rest = [_unmatched(names, pairs, side) for names, pairs, side in _sides(labels, truth, rows, columns)]
    return Match(rows, [labels.classes[i] for i, _ in columns], *rest, columns, row_notes + column_notes)


def placed(values: Tensor, match: Match, shape: tuple[int, int]) -> Tensor:
    """The cells `values` of the second table in the rows and columns of the first, which has `shape` (N, C); NaN where it has none.

    >>> placed(torch.tensor([[0.2, 0.7]]), Match([(1, 0)], ["cat"], [], [], [], [], [(0, 1)]), (2, 1))
    tensor([[   nan],
            [0.7000]])
    """
    found = torch.full(shape, torch.nan)
    (rows, other_rows), (columns, other_columns) = (torch.tensor(pairs).T for pairs in (match.rows, match.columns))
    found[rows[:, None], columns] = values[other_rows][:, other_columns]
    return found


def _sides(labels: Labels, truth: Labels, rows: Pairs, columns: Pairs) -> list[tuple[list[str], Pairs, int]]:
    return [
        (labels.paths, rows, 0),
        (truth.paths, rows, 1),
        (labels.classes, columns, 0),
        (truth.classes, columns, 1),
    ]


def _unmatched(names: list[str], pairs: Pairs, side: int) -> list[str]:
    found = {pair[side] for pair in pairs}
    return [name for n, name in enumerate(names) if n not in found]


def refuse_small_match(match: Match, first: str, second: str, *, partial: bool = False) -> None:
    """InputError if fewer than half of the photos or of the classes of the smaller table matched, unless `partial`.

    The smaller table counts: true labels of 900 out of 3,682 predicted photos are ordinary if all 900 match. `first` and
    `second` are the names of the tables.
    """
    photos = (match.rows, match.paths_only_first, match.paths_only_second, "photos")
    classes = (match.classes, match.classes_only_first, match.classes_only_second, "classes")
    for found, only_first, only_second, kind in () if partial else (photos, classes):
        smaller, other = (first, second) if len(only_first) <= len(only_second) else (second, first)
        left, right = sorted((only_first, only_second), key=len)
        if len(found) < ENOUGH * (len(found) + len(left)):
            such = f" (it has {kind} such as {right[0]!r})" if right else ""
            raise InputError(
                f"only {len(found)} of {len(found) + len(left)} {kind} of {smaller} are in {other}{such}; not there: "
                f"{_first_few(left)}. Correct the names, or judge what matches with `partial=True`."
            )
