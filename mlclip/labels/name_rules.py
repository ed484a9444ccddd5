"""Which names of two tables mean the same photo or the same class: equal ones first, then looser rules where only one pair fits."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from urllib.parse import unquote

_SUFFIX = re.compile(r"\.(jpe?g|png|gif|bmp|tiff?|webp|ppm|pgm|heic|avif|jfif)$", re.IGNORECASE)
_ABSOLUTE = re.compile(r"^(/|[a-z]:/|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio writes before the name of an uploaded file
Pairs = list[tuple[int, int]]
Key = Callable[[str], str | None]


# -- paths


def match_paths(first: Sequence[str], second: Sequence[str]) -> tuple[Pairs, list[str]]:
    r"""Pairs of rows whose paths name the same photo, sorted, and a line for each looser rule.

    Equal paths first. Then each rule looks at what is left, and only takes pairs that are unique in both tables: other slashes,
    other letter case, %20 for a blank, an absolute path that ends with the other, no file suffix (`2008_000008`), numbers without
    their leading zeros. Only if nothing matched so far: the end of the path, then the file name alone.

    >>> match_paths(["a/1.jpg", "a/2.jpg"], ["a\\2.JPG", "a/1.jpg"])[0]
    [(0, 1), (1, 0)]
    """
    pairs, notes = _equal(first, second), []
    for words, key, only_alone in _PATH_RULES:
        if len(pairs) == min(len(first), len(second)):
            break
        if not (only_alone and pairs):
            pairs = _more(pairs, notes, words, first, second, key)
    return sorted(pairs), notes


def _equal(first: Sequence[str], second: Sequence[str]) -> Pairs:
    position = {name: j for j, name in enumerate(second)}
    return [(i, position[name]) for i, name in enumerate(first) if name in position]


def _more(
    pairs: Pairs, notes: list[str], words: str, first: Sequence[str], second: Sequence[str], rule: Callable
) -> Pairs:
    """The pairs with those that a further rule adds. `notes` gets a line about them."""
    taken = [{pair[side] for pair in pairs} for side in (0, 1)]
    found = [(i, j) for i, j in rule(first, second) if i not in taken[0] and j not in taken[1]]
    if found:
        i, j = found[0]
        notes.append(f"{len(found)} matched {words}, such as {first[i]} = {second[j]}")
    return pairs + found


def _by_key(key: Key, accept: Callable[[str, str], bool] = lambda one, two: True) -> Callable:
    """A rule: pairs with the same key, where the key is unique in both tables. None as key never matches."""

    def rule(first: Sequence[str], second: Sequence[str]) -> Pairs:
        places = [_unique([key(name) for name in names]) for names in (first, second)]
        both = ((i, places[1][k]) for k, i in places[0].items() if k in places[1])
        return [(i, j) for i, j in both if accept(first[i], second[j])]

    return rule


def _unique(keys: Sequence[str | None]) -> dict[str, int]:
    counts = Counter(keys)
    return {key: n for n, key in enumerate(keys) if key is not None and counts[key] == 1}


def _slashes(path: str) -> str:
    r"""Forward slashes, no "./" in front, no blanks around, and accents as single characters.

    >>> _slashes(".\\a\\b.jpg ")
    'a/b.jpg'
    """
    path = re.sub(r"(?<!:)/{2,}", "/", path.strip().replace("\\", "/"))
    while path.startswith("./"):
        path = path[2:]
    return unicodedata.normalize("NFC", path)


def _folded(path: str) -> str:
    return _slashes(path).casefold()


def _decoded(path: str) -> str:
    """Without URL escapes, and without the address before `?d=` that Label Studio writes."""
    path = _folded(path)
    return _slashes(unquote(path.partition("?d=")[2] or path)) if "%" in path or "?d=" in path else path


def _name(path: str) -> str:
    return _decoded(path).rsplit("/", 1)[-1]


def _stem(path: str) -> str:
    return _SUFFIX.sub("", _decoded(path))


def _number(path: str) -> str | None:
    """The number that a file name without its suffix is, without leading zeros."""
    stem = _SUFFIX.sub("", _name(path))
    return (stem.lstrip("0") or "0") if stem.isascii() and stem.isdigit() else None


def _bare_number(path: str) -> str | None:
    """The same for a path without folders."""
    return None if "/" in _slashes(path) else _number(path)


def _without_upload(path: str) -> str:
    return _UPLOAD.sub("", _name(path))


def _by_end(key: Callable[[str], str], accept: Callable[[str, str], bool] = lambda one, two: True) -> Callable:
    """A rule: pairs of which one path ends with the other, in whole parts, where that is so for one pair only."""

    def rule(first: Sequence[str], second: Sequence[str]) -> Pairs:
        one, two = [key(path) for path in first], [key(path) for path in second]
        pairs = {*_ends(one, two), *((i, j) for j, i in _ends(two, one))}
        counts = [Counter(pair[side] for pair in pairs) for side in (0, 1)]
        found = ((i, j) for i, j in sorted(pairs) if counts[0][i] == counts[1][j] == 1)
        return [(i, j) for i, j in found if accept(first[i], second[j])]

    return rule


def _ends(long: Sequence[str], short: Sequence[str]) -> Pairs:
    """Pairs (place in `long`, place in `short`) of a path and the one path that ends with it."""
    owner: dict[str, int] = {}
    for i, path in enumerate(long):
        for start in [0, *(found.end() for found in re.finditer("/", path))]:
            owner[path[start:]] = -1 if path[start:] in owner else i
    return [(owner[path], j) for j, path in enumerate(short) if owner.get(path, -1) >= 0]


def _one_absolute(one: str, two: str) -> bool:
    return bool(_ABSOLUTE.match(_slashes(one))) != bool(_ABSOLUTE.match(_slashes(two)))


def _one_without_suffix(one: str, two: str) -> bool:
    return bool(_SUFFIX.search(one.strip())) != bool(_SUFFIX.search(two.strip()))


def _no_other_suffix(one: str, two: str) -> bool:
    """Whether both have the same file suffix, or one has none."""
    ends = [_SUFFIX.search(_folded(path)) for path in (one, two)]
    return None in ends or ends[0][0] == ends[1][0]


def _one_absolute_without_suffix(one: str, two: str) -> bool:
    return _one_absolute(one, two) and _one_without_suffix(one, two)


# Words, the rule, and whether it is only for tables without any match so far: they are relative to different folders. Among
# paths of which some match, 3.jpg and q/3.jpg are different photos.
_PATH_RULES: list[tuple[str, Callable, bool]] = [
    ("with other slashes or accents", _by_key(_slashes), False),
    ("in another letter case", _by_key(_folded), False),
    ("after URL decoding", _by_key(_decoded), False),
    ("by the end of an absolute path", _by_end(_decoded, _one_absolute), False),
    ("without a file suffix", _by_key(_stem, _one_without_suffix), False),
    ("by the end of an absolute path, without a file suffix", _by_end(_stem, _one_absolute_without_suffix), False),
    ("by number, without leading zeros", _by_key(_bare_number, _no_other_suffix), False),
    ("by the end of the path", _by_end(_decoded), True),
    ("by the end of the path, without a file suffix", _by_end(_stem, _one_without_suffix), True),
    ("by file name alone", _by_key(_name), True),
    ("by file name alone, without a suffix", _by_key(lambda path: _stem(_name(path)), _one_without_suffix), True),
    ("by file name, without the code of an upload", _by_key(_without_upload), True),
    ("by number alone, without leading zeros", _by_key(_number, _no_other_suffix), True),
]


# -- classes


def match_classes(first: Sequence[str], second: Sequence[str]) -> tuple[Pairs, list[str]]:
    """Pairs of columns whose names are the same class, sorted, and a line for each looser rule.

    Equal names first, then names that differ in letter case and accents, or in blanks, hyphens and underscores; only where one
    pair fits.

    >>> match_classes(["potted plant", "Cat"], ["cat", "potted_plant"])[0]
    [(0, 1), (1, 0)]
    """
    pairs, notes = _equal(first, second), []
    for words, rule in _CLASS_RULES:
        if len(pairs) < min(len(first), len(second)):
            pairs = _more(pairs, notes, words, first, second, rule)
    return sorted(pairs), notes


def _case_key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _letters_key(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", _case_key(name))


_CLASS_RULES: list[tuple[str, Callable]] = [
    ("classes in another letter case", _by_key(_case_key)),
    ("classes with other blanks, hyphens or underscores", _by_key(_letters_key)),
]
