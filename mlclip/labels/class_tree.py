"""Entries such as `animal > dog = a small dog` -> classes: their prompt names, which is a kind of which, which exclude each other.

`animal > dog` makes dog a child of animal, to any depth; `\\>` and `\\=` are the characters themselves. The line
`exclusive: day, night` of a class file says that a photo has at most one of these classes. No torch here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..config import InputError
from ..spelling import did_you_mean, shorten

_DROPPED = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))  # zero-width: space, word joiner, byte-order mark
_CAMEL = re.compile(r"(?<=[a-z]{2})[A-Z](?=[a-z])")
_ID = re.compile(r"n\d{8}|/[mg]/\w+")  # of WordNet, of Open Images
_ENDS = "\u200c\u200d\u200e\u200f"  # joiners and direction marks; inside a name they have a meaning


@dataclass(frozen=True)
class ClassTree:
    """`parents`: child -> parent. `groups`: classes of which a photo has at most one. Names may be missing in a table.

    >>> tree = ClassTree({"dog": "pet", "pet": "animal"}, [["day", "night"]])
    >>> tree.parent_columns(["animal", "dog", "day", "night"]), tree.group_columns(["animal", "dog", "day", "night"])
    ([-1, 0, -1, -1], [[2, 3]])
    """

    parents: dict[str, str] = field(default_factory=dict)
    groups: list[list[str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.parents or self.groups)

    @staticmethod
    def of(meta: Mapping[str, Any]) -> ClassTree:
        """The tree in the `meta` of labels or of a model; without one, the empty tree."""
        plain = meta.get("hierarchy") or {}
        return ClassTree(dict(plain.get("parents", {})), [list(group) for group in plain.get("groups", [])])

    def plain(self) -> dict[str, Any]:
        """For `meta["hierarchy"]`."""
        return {"parents": dict(self.parents), "groups": [list(group) for group in self.groups]}

    def parent_columns(self, classes: Sequence[str]) -> list[int]:
        """For each class, the column of its parent, or of its nearest ancestor in `classes`; -1 = none."""
        column = {name: c for c, name in enumerate(classes)}
        above = (ancestors(name, self.parents) for name in classes)
        return [next((column[name] for name in names if name in column), -1) for names in above]

    def group_columns(self, classes: Sequence[str]) -> list[list[int]]:
        """The columns of each group that has two classes or more in `classes`."""
        column = {name: c for c, name in enumerate(classes)}
        groups = [[column[name] for name in group if name in column] for group in self.groups]
        return [group for group in groups if len(group) > 1]


class ClassList(dict[str, str]):
    """{label: prompt name} in order, the `tree` of the classes, and `notes`: sentences about how a class file was read."""

    def __init__(self, classes: Mapping[str, str], tree: ClassTree | None = None, notes: Iterable[str] = ()):
        super().__init__(classes)
        self.tree, self.notes = tree or ClassTree(), list(notes)


def ancestors(name: str, parents: Mapping[str, str]) -> list[str]:
    """The classes above a class, nearest first. The parents must not form a circle."""
    found = []
    while (name := parents.get(name)) is not None:
        found.append(name)
    return found


def named_classes(
    entries: Iterable[str],
    source: str,
    groups: Iterable[Sequence[str]] = (),
    notes: Iterable[str] = (),
    lines: Iterable[int] = (),
) -> ClassList:
    """Entries `label` or `label = prompt name` -> the classes, checked. A parent without an entry is put before its child.

    A label without a prompt name is read as `spoken` says, and a note tells it. `lines` are the entries' lines in the file.
    """
    labels: dict[str, str] = {}
    own, parents, lines, entries = [], {}, list(lines), list(entries)
    for entry in entries:
        text, *prompts = re.split(r"(?<!\\)=", entry, maxsplit=1)
        names = [*re.split(r"(?<!\\)>", text), *prompts]
        names = [re.sub(r"\\([\\=>])", r"\1", clean_name(name)) for name in names]
        path = names[: len(names) - len(prompts)]
        for above, child in pairwise(path):
            if parents.get(child, above) != above:
                raise InputError(
                    f"{source} puts {child!r:.99} below {parents[child]!r:.99} and {above!r:.99}. Keep one."
                )
            if child == above or child in ancestors(above, parents):
                raise InputError(f"{source} puts {child!r:.200} below itself ({' > '.join(path):.200}). Remove a line.")
            parents[child] = above
        for above in path[:-1]:
            labels.setdefault(above, spoken(above))
        own.append(path[-1])
        labels[path[-1]] = names[-1] if prompts else spoken(names[-1])
    where = [f"line {line}" for line in lines] or [f"entry {number}" for number in range(1, len(own) + 1)]
    given = {*own}
    places = [*((name, "") for name in labels if name not in given), *zip(own, where, strict=True)]
    check_classes(labels, source, places)
    ids = [label for label, prompt in labels.items() if prompt == label and _ID.fullmatch(label)]
    if ids:
        remedy = f"Write `{ids[0]} = dog` with the words of each id; ImageNet's are in LOC_synset_mapping.txt."
        raise InputError(f"{source} has {len(ids)} ids without words, such as {ids[0]!r}; CLIP reads words. {remedy}")
    changed = [f"{label} as '{prompt}'" for label, prompt in labels.items() if prompt == spoken(label) != label]
    if changed:
        notes = [*notes, f"CLIP reads {shorten(changed, 3)}; `name = prompt` decides otherwise"]
    return ClassList(labels, ClassTree(parents, _checked_groups(groups, labels, parents, source)), notes)


def check_classes(classes: Mapping[str, str], source: str, places: Iterable[tuple[str, str]] | None = None) -> None:
    """InputError for {label: prompt name} if there is none, one is blank, or some are the same; all of these are named.

    `places` are all labels with where they stand, a label twice among them.
    """
    if not classes:
        raise InputError(f"{source} contains no class name. Give at least one.")
    for label, prompt in classes.items():
        if not label.strip() or not prompt.strip():
            raise InputError(f"{source} has a blank class name ({label!r:.200}: {prompt!r:.200}). Name every class.")
    places = [(label, "") for label in classes] if places is None else list(places)
    for key in (name_key, lambda label: name_key(classes[label])):
        same: dict[str, list[str]] = {}
        for label, where in places:
            text = label if classes[label] == label else f"{label} = {classes[label]}"
            same.setdefault(key(label), []).append(f"{text!r:.99}{where and f' ({where})'}")
        twice = [" and ".join(labels) for labels in same.values() if len(labels) > 1]
        if twice:
            raise InputError(f"{source} names the same class twice: {shorten(twice, 50)}. Keep one of each.")


def clean_name(text: str) -> str:
    """A name in Unicode's composed form (NFC), with ordinary spaces, and without invisible characters around it.

    >>> clean_name(" cafe\\u0301\\u00a0noir\\u200b ") == "caf\\u00e9 noir"
    True
    """
    text = unicodedata.normalize("NFC", text).translate(_DROPPED)
    text = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)
    return text.strip().strip(_ENDS).strip()


def spoken(name: str) -> str:
    """A name as a prompt has it: `_` and camelCase become blanks.

    >>> spoken("traffic_light"), spoken("pottedPlant"), spoken("hot-dog"), spoken("iPhone")
    ('traffic light', 'potted plant', 'hot-dog', 'iPhone')
    """
    words = " ".join(name.replace("_", " ").split()) if "_" in name else name
    return words if " " in words else _CAMEL.sub(lambda letter: " " + letter[0].lower(), words) or name


def name_key(name: str) -> str:
    """The name in lower case with single spaces, composed letters: equal for two spellings of the same name."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def _checked_groups(
    groups: Iterable[Sequence[str]], classes: Mapping[str, str], parents: Mapping[str, str], source: str
) -> list[list[str]]:
    """The groups, after checks. InputError for an unknown class, a class in two groups, or a class with its own ancestor."""
    taken, found = set(), []
    for group in map(list, groups):
        line, members = f"{source}: `exclusive: {', '.join(group):.100}`", set(group)
        for name in group:
            if name not in classes:
                hint = did_you_mean(name, classes) or " Give it a line of its own."
                raise InputError(f"{line} names {name!r:.60}, which is no class.{hint}")
            if name in taken:
                raise InputError(f"{line} names {name!r:.60} twice, or another group has it. Name it in one group.")
            if not members.isdisjoint(ancestors(name, parents)):
                raise InputError(f"{line}: {name!r:.60} and a class above it cannot exclude each other. Correct it.")
            taken.add(name)
        if len(group) < 2:
            raise InputError(f"{line} needs two classes or more, with commas between them.")
        found.append(group)
    return found
