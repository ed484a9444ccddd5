"""Which rows and classes two tables share, what is said about it, and when it is too little.

Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import InputError
from ..spelling import shorten
from .labels import Labels
from .sheet import PHOTO

SHOWN_NAMES = 3  # photos or classes without a match that a summary names
ENOUGH = 0.5  # share of the smaller table that must match
_ABSOLUTE = re.compile(r"^(/|[a-z]:/|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)
Pairs = list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Match:
    """What two tables share: `rows` (row in the first, row in the second) and `classes`; and what only one of them has.

    `classes` has the names in the first table, `columns` their places in both, `notes` a line for each looser rule.
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
        """A line for each table, of these names: how many photos and classes matched, and which did not; then the notes.

        >>> Match([(0, 0)], ["cat"], ["b.jpg"], [], [], ["cow"]).summary()[0]
        'labels: 1 of 2 photos and 1 of 1 classes matched (photos not matched: b.jpg)'
        """
        lines = []
        for table, paths, classes in (
            (first, self.paths_only_first, self.classes_only_first),
            (second, self.paths_only_second, self.classes_only_second),
        ):
            counts, missing = [], []
            for kind, found, names in (("photos", self.rows, paths), ("classes", self.classes, classes)):
                counts.append(f"{len(found)} of {len(found) + len(names)} {kind}")
                missing += [f"{kind} not matched: {shorten(names, SHOWN_NAMES)}"] if names else []
            lines.append(f"{table}: {' and '.join(counts)} matched" + (f" ({'; '.join(missing)})" if missing else ""))
        return lines + self.notes


def match_tables(labels: Labels, truth: Labels) -> Match:
    """Match rows and classes; see `match_paths` and `match_classes`. InputError if no photo or no class is in both tables."""
    rows, row_notes = match_paths(labels.paths, truth.paths)
    columns, column_notes = match_classes(labels.classes, truth.classes)
    if not rows:
        example = f"{labels.paths[0]!r} and {truth.paths[0]!r}" if len(labels) and len(truth) else "one is empty"
        raise InputError(f"no photo is in both tables (paths such as {example}). Give the true labels of these photos.")
    if not columns:
        both = f"{shorten(labels.classes, 20)} | {shorten(truth.classes, 20)}"
        raise InputError(f"no class is in both tables ({both}). Use the same class names in both.")
    sides = ((labels.paths, rows, 0), (truth.paths, rows, 1), (labels.classes, columns, 0), (truth.classes, columns, 1))
    rest = []
    for names, pairs, side in sides:
        found = {pair[side] for pair in pairs}
        rest.append([name for n, name in enumerate(names) if n not in found])
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


def enough_match(labels: Labels, truth: Labels, first: str, second: str, *, partial: bool = False) -> Match:
    """`match_tables`; InputError if fewer than half of the photos or of the classes of the smaller table matched, unless `partial`.

    So true labels of 900 out of 3,682 predicted photos are ordinary if all 900 match. `first` and `second` name the tables.
    """
    match = match_tables(labels, truth)
    photos = (match.rows, match.paths_only_first, match.paths_only_second, "photos")
    classes = (match.classes, match.classes_only_first, match.classes_only_second, "classes")
    for found, only_first, only_second, kind in () if partial else (photos, classes):
        smaller, other = (first, second) if len(only_first) <= len(only_second) else (second, first)
        left, right = sorted((only_first, only_second), key=len)
        if len(found) < ENOUGH * (len(found) + len(left)):
            such = f" (it has {kind} such as {right[0]!r})" if right else ""
            few = f"only {len(found)} of {len(found) + len(left)} {kind} of {smaller} are in {other}{such}"
            remedy = "Correct the names, or judge what matches with `partial=True`."
            raise InputError(f"{few}; not there: {shorten(left, SHOWN_NAMES)}. {remedy}")
    return match


# -- equal names first, then looser rules where only one pair fits


class Rule(NamedTuple):
    """Names match if their keys are equal, or if one ends with the other (`ends`), and if `accept` allows the pair."""

    words: str
    key: Callable[[str], str]
    ends: bool = False
    accept: Callable[[str, str], bool] = lambda one, two: True
    only_alone: bool = False  # only for tables without any match so far


def match_paths(first: Sequence[str], second: Sequence[str]) -> tuple[Pairs, list[str]]:
    r"""Pairs of rows whose paths name the same photo, sorted, and a line for each looser rule.

    Equal paths first. Then each rule looks at what is left, and only takes pairs that are unique in both tables: other slashes
    or letter case, an absolute path that ends with the other, no file suffix (`2008_000008`). Only if nothing matched so far,
    as for tables that are relative to different folders: one path ends with the other.

    >>> match_paths(["a/1.jpg", "a/2.jpg"], ["a\\2.JPG", "a/1.jpg"])[0]
    [(0, 1), (1, 0)]
    """
    return _match(first, second, _PATH_RULES)


def match_classes(first: Sequence[str], second: Sequence[str]) -> tuple[Pairs, list[str]]:
    """Pairs of columns whose names are the same class, sorted, and a line if the names differ.

    Equal names first, then names that differ in letter case, blanks, hyphens and underscores; only where one pair fits.

    >>> match_classes(["potted plant", "Cat"], ["cat", "potted_plant"])[0]
    [(0, 1), (1, 0)]
    """
    return _match(first, second, _CLASS_RULES)


def _match(first: Sequence[str], second: Sequence[str], rules: Sequence[Rule]) -> tuple[Pairs, list[str]]:
    position = {name: j for j, name in enumerate(second)}
    pairs, notes = [(i, position[name]) for i, name in enumerate(first) if name in position], []
    for rule in rules:
        if len(pairs) == min(len(first), len(second)) or (rule.only_alone and pairs):
            continue
        taken = [{pair[side] for pair in pairs} for side in (0, 1)]
        found = [(i, j) for i, j in _pairs_of(rule, first, second) if i not in taken[0] and j not in taken[1]]
        if found:
            i, j = found[0]
            notes.append(f"{len(found)} matched {rule.words}, such as {first[i]} = {second[j]}")
        pairs = pairs + found
    return sorted(pairs), notes


def _pairs_of(rule: Rule, first: Sequence[str], second: Sequence[str]) -> Pairs:
    """The pairs that a rule finds, where neither name has another partner."""
    keys = [[rule.key(name) for name in names] for names in (first, second)]
    found: set[tuple[int, int]] = set()
    for side in (0, 1):
        owner: dict[str, int] = {}  # a key or the end of one -> its only place; -1 where there are several
        for place, key in enumerate(keys[side]):
            for start in [0, *(mark.end() for mark in re.finditer("/", key))] if rule.ends else [0]:
                owner[key[start:]] = -1 if key[start:] in owner else place
        for other, key in enumerate(keys[1 - side]):
            place = owner.get(key, -1)
            if place >= 0:
                found.add((place, other) if side == 0 else (other, place))
    counts = [Counter(pair[side] for pair in found) for side in (0, 1)]
    single = [(i, j) for i, j in sorted(found) if counts[0][i] == counts[1][j] == 1]
    return [(i, j) for i, j in single if rule.accept(first[i], second[j])]


def _path_key(path: str) -> str:
    r"""In lower case, with forward slashes, no "./" in front, no blanks around, and accents as single characters.

    >>> _path_key(".\\a\\B.jpg ")
    'a/b.jpg'
    """
    path = re.sub(r"(?<!:)/{2,}", "/", path.strip().replace("\\", "/"))
    return unicodedata.normalize("NFC", re.sub(r"^(\./)+", "", path)).casefold()


def _stem(path: str) -> str:
    return PHOTO.sub("", _path_key(path))


def _number(path: str) -> str:
    found = re.fullmatch(r"0*(\d+)(\.0+)?", _stem(path))
    return f"number {found[1]}" if found else _path_key(path)


def _one_absolute(one: str, two: str) -> bool:
    return bool(_ABSOLUTE.match(_path_key(one))) != bool(_ABSOLUTE.match(_path_key(two)))


def _one_without_suffix(one: str, two: str) -> bool:
    return bool(PHOTO.search(one.strip())) != bool(PHOTO.search(two.strip()))


def _class_key(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFKC", name).casefold())


_PATH_RULES = (
    Rule("with other slashes, accents or letter case", _path_key),
    Rule("by the end of an absolute path", _path_key, ends=True, accept=_one_absolute),
    Rule("without a file suffix", _stem, accept=_one_without_suffix),
    Rule("as numbers", _number, accept=_one_without_suffix),  # 1 or 1.0, and 00001.jpg
    # Among paths of which some match, 3.jpg and q/3.jpg are different photos.
    Rule("by the end of the path", _path_key, ends=True, only_alone=True),
    Rule("by the end of the path, without a file suffix", _stem, True, _one_without_suffix, only_alone=True),
)
_CLASS_RULES = (Rule("classes in another letter case, or with other blanks, hyphens or underscores", _class_key),)
