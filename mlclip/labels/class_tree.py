"""Which class is a kind of which other, and which classes exclude each other. No torch here.

In class names, `animal > dog` makes dog a child of animal, to any depth; `\\>` is the character itself. The line
`exclusive: day, night` of a class file says that a photo has at most one of these classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..config import InputError
from ..spelling import did_you_mean


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
        found = []
        for name in classes:
            above = self.parents.get(name)
            while above is not None and above not in column:
                above = self.parents.get(above)
            found.append(-1 if above is None else column[above])
        return found

    def group_columns(self, classes: Sequence[str]) -> list[list[int]]:
        """The columns of each group that has two classes or more in `classes`."""
        column = {name: c for c, name in enumerate(classes)}
        groups = [[column[name] for name in group if name in column] for group in self.groups]
        return [group for group in groups if len(group) > 1]


def ancestors(name: str, parents: Mapping[str, str]) -> list[str]:
    """The classes above a class, nearest first. The parents must not form a circle."""
    found = []
    while (name := parents.get(name)) is not None:
        found.append(name)
    return found


MOST_LEVELS = 100  # of a path in a class file


def add_path(parents: dict[str, str], path: Sequence[str], source: str) -> None:
    """Add `animal > pet > dog` to child -> parent. InputError for a second parent or a circle."""
    if len(path) > MOST_LEVELS:
        raise InputError(f"{source} has a line with {len(path)} levels ({path[0]} > ...). Use {MOST_LEVELS} at most.")
    for above, name in pairwise(path):
        if parents.get(name, above) != above:
            raise InputError(
                f"{source} puts {name!r:.200} below {parents[name]!r:.200} and below {above!r:.200}. "
                "A class has one parent; remove one line."
            )
        higher = ancestors(above, parents)
        if len(higher) > MOST_LEVELS:
            raise InputError(
                f"{source} puts {name!r:.200} below {len(higher)} others. Use {MOST_LEVELS} levels at most."
            )
        if name == above or name in higher:
            raise InputError(
                f"{source} puts {name!r:.200} below itself ({' > '.join(path):.200}). Remove one of the lines."
            )
        parents[name] = above


def checked_groups(
    groups: Iterable[Sequence[str]], classes: Iterable[str], parents: Mapping[str, str], source: str
) -> list[list[str]]:
    """The groups, after checks. InputError for an unknown class, a class in two groups, or a class with its own ancestor."""
    known, taken, found = dict.fromkeys(classes), set(), []
    for group in map(list, groups):
        members = set(group)
        for name in group:
            if name not in known:
                hint = did_you_mean(name, known) or " Give it a line of its own."
                line = ", ".join(group)
                raise InputError(f"{source}: `exclusive: {line:.100}` names {name!r:.60}, which is no class.{hint}")
            if name in taken:
                raise InputError(
                    f"{source} names {name!r:.200} twice in `exclusive:`. A class can be in one group only."
                )
            if not members.isdisjoint(ancestors(name, parents)):
                raise InputError(
                    f"{source}: {name!r:.200} and a class above it cannot exclude each other. Correct `exclusive:`."
                )
            taken.add(name)
        if len(group) < 2:
            raise InputError(f"{source}: `exclusive:` needs two classes or more, with commas between them.")
        found.append(group)
    return found
