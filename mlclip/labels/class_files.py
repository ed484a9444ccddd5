"""Class files as other tools write them -> one entry `label` or `label = prompt name` per class. No torch here.

Numbers, bullets, quotes and ids are only taken off where every line has them. What was taken off is said in a note.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..config import InputError
from ..files import parse_json
from .simple_yaml import unquoted, yaml_names

_DROPPED = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))  # zero-width: space, word joiner, byte-order mark
_ENDS = "\u200c\u200d\u200e\u200f"  # joiners and direction marks; inside a name they have a meaning
_LONGEST_LINE = 1000  # characters; a longer line is no name with a number or an id, and the patterns would take long
_COMMENT = re.compile(r"(?<!\s)\s+#\s.*$")
_MARKED = re.compile(r"\(?(\d{1,6})\s*[.):]\s*(\S.*)")  # `1. cat`, `(1) cat`, `0: cat`
_NUMBERED = re.compile(r"(\d{1,6})[\s,;]\s*(\S.*)")  # `0 cat`, `0,cat`
_NUMBER_LAST = re.compile(r"(.*\S)\s*[\t:,;]\s*(\d{1,6})")  # `cat,0`
_BULLET = re.compile(r"[-*•]\s+(\S.*)")
_QUOTED = re.compile(r"""(["'])(.*)\1\s*,?""")
_SYNSET = re.compile(r"(n\d{8})[\s,:]+(\S.*)")
_SYNSET_LAST = re.compile(r"(.*\S)[\s,:]+(n\d{8})")
_MID = re.compile(r"(/[mgt]/\w+)[\s,]+(\S.*)")
_GROUP = re.compile(r"exclusive\s*:(.*)", re.IGNORECASE)


class ClassFile(NamedTuple):
    """`entries` are `label` or `label = prompt name`, `groups` the names in lines `exclusive: a, b`; `notes` are sentences."""

    entries: list[str]
    groups: list[list[str]]
    notes: list[str]


def read_class_text(text: str, source: str) -> ClassFile:
    """The classes in the text of a class file: JSON, YAML with `names:`, or one name per line.

    `source` is the file's name, for messages and for its suffix. Raises InputError where the text can be read in two ways.

    >>> read_class_text("1. cat\\n2. dog\\n", "c.txt")
    ClassFile(entries=['cat', 'dog'], groups=[], notes=['the lines are numbered: the numbers are left out'])
    >>> read_class_text("3 wheeler\\n4 wheeler\\n", "c.txt").entries
    ['3 wheeler', '4 wheeler']
    """
    suffix = source.lower().rpartition(".")[2]
    text = text.strip().lstrip("\ufeff")
    if text[:1] in ("[", "{") or suffix == "json":
        try:
            return _from_json(parse_json(text), source)
        except ValueError as error:
            if suffix == "json":
                raise InputError(f"{source} is not JSON ({str(error)[:80]}). Write a list of names.") from error
    names = yaml_names(text, source)
    if names is not None:
        return ClassFile([escaped(name) for _, name in sorted(names.items())], [], ["the classes are its `names:`"])
    return _from_lines(text, source, suffix in ("yaml", "yml"))


def clean_name(text: str) -> str:
    """A name in Unicode's composed form (NFC), with ordinary spaces, and without invisible characters around it.

    >>> clean_name(" cafe\\u0301\\u00a0noir\\u200b ") == "caf\\u00e9 noir"
    True
    """
    text = unicodedata.normalize("NFC", text).translate(_DROPPED)
    text = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)
    return text.strip().strip(_ENDS).strip()


def escaped(name: str) -> str:
    r"""A literal name as an entry: `=`, `>` and `\` get a backslash."""
    return re.sub(r"([\\=>])", r"\\\1", name)


# -- JSON


def _from_json(content: Any, source: str) -> ClassFile:
    if isinstance(content, dict):
        content = next(
            (content[key] for key in ("names", "categories", "classes") if _is_names(content.get(key))), content
        )
    if isinstance(content, list):
        items = [item.get("name") if isinstance(item, dict) else item for item in content]
        return ClassFile(_texts(items, source), [], ["the classes are a list in JSON"])
    if not isinstance(content, dict):
        raise InputError(f'{source} contains no class names. Write a list such as ["cat", "dog"].')
    keys, values = list(content), list(content.values())
    if keys and all(re.fullmatch(r"\d{1,9}", key) for key in keys):
        pairs = sorted(content.items(), key=lambda pair: int(pair[0]))
        items = [
            value[-1] if isinstance(value, list) and value else value for _, value in pairs
        ]  # ["n02123045", "tabby"]
        return ClassFile(_texts(items, source), [], ["the classes are the values of an object with numbers as keys"])
    if values and all(type(value) is int for value in values):
        names = sorted(keys, key=content.__getitem__)
        return ClassFile(
            _texts(names, source), [], ["the classes are the keys of an object, in the order of its numbers"]
        )
    prompts = _texts(values, source)
    entries = [f"{label} = {prompt}" for label, prompt in zip(_texts(keys, source), prompts, strict=True)]
    return ClassFile(entries, [], ["the object gives a prompt name for each class"])


def _is_names(value: Any) -> bool:
    return isinstance(value, list | dict)


def _texts(names: Iterable[Any], source: str) -> list[str]:
    names = list(names)
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None or None in names:
        raise InputError(
            f"{source} contains {json.dumps(wrong)[:40]}, which is not a class name. Write every name as text."
        )
    return [escaped(name) for name in names]


# -- lines


def _from_lines(text: str, source: str, yaml: bool) -> ClassFile:
    lines, notes = [], []
    for line in text.splitlines():
        line = clean_name(line)
        short = _COMMENT.sub("", line)
        if short and not short.startswith("#"):
            lines.append(short)
            if short != line:
                notes = [f"text after ' # ' is a comment (first: {short})"]
    groups = [_members(match[1]) for line in lines if (match := _GROUP.fullmatch(line))]
    lines = [line for line in lines if not _GROUP.fullmatch(line)]
    if yaml and not (_all(_BULLET, lines) or _all(_MARKED, lines)):
        raise InputError(
            f"{source} has no `names:` with the names of the classes, and is not a list of names. Add `names:`."
        )
    for rule in (_without_bullets, _without_quotes, _without_numbers, _without_ids):
        lines, note = rule(lines, source)
        notes += [note] * bool(note)
    if len(lines) == 1 and "," in lines[0] and "=" not in lines[0] and not notes:
        lines = lines[0].split(",")
        notes.append("its only line is read as names with commas between them")
    tabbed = next((line for line in lines if "\t" in line), None)
    if tabbed is not None:
        raise InputError(
            f"{source} has a tab inside {tabbed!r:.60}. Write `label = prompt name` if both are names, or a space."
        )
    return ClassFile(lines, groups, notes)


def _members(text: str) -> list[str]:
    return [clean_name(name) for name in text.split(",")]


def _all(pattern: re.Pattern, lines: list[str]) -> list[re.Match] | None:
    """The matches if every line has one."""
    found = []
    for line in lines:
        match = pattern.fullmatch(line) if len(line) <= _LONGEST_LINE else None
        if match is None:
            return None
        found.append(match)
    return found or None


def _without_bullets(lines: list[str], source: str) -> tuple[list[str], str]:
    found = _all(_BULLET, lines)
    return ([match[1] for match in found], "the marks before the names are left out") if found else (lines, "")


def _without_quotes(lines: list[str], source: str) -> tuple[list[str], str]:
    found = _all(_QUOTED, lines)
    return ([match[2] for match in found], "the quotes around the names are left out") if found else (lines, "")


def _without_numbers(lines: list[str], source: str) -> tuple[list[str], str]:
    """The lines without their numbers, where these run from 0 or 1 over all lines."""
    if len(lines) < 2:
        return lines, ""
    for pattern, number, name in ((_MARKED, 1, 2), (_NUMBERED, 1, 2), (_NUMBER_LAST, 2, 1)):
        found = _all(pattern, lines)
        numbers = [int(match[number]) for match in found or ()]
        if found and numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
            return [clean_name(match[name]) for match in found], "the lines are numbered: the numbers are left out"
    if _all(_MARKED, lines):
        raise InputError(
            f"{source} has numbers before all names, but they do not run from 0 or 1 (first: {lines[0]!r:.40}). Remove them, or "
            "number all lines in order."
        )
    if _all(_NUMBERED, lines):
        return lines, "the numbers before the names do not run from 0 or 1: they are part of the names"
    return lines, ""


def _without_ids(lines: list[str], source: str) -> tuple[list[str], str]:
    """The lines without ids of WordNet or Open Images. Of several names of a synset, the first is taken."""
    lines = lines[1:] if lines and lines[0].replace(" ", "") == "LabelName,DisplayName" else lines
    for pattern, id, name, split in ((_SYNSET, 1, 2, ","), (_SYNSET_LAST, 2, 1, ","), (_MID, 1, 2, None)):
        found = _all(pattern, lines)
        if found:
            pairs = [(match[id], unquoted(match[name]) if split is None else match[name]) for match in found]
            return _distinct(pairs, _first_of if split else str), (
                "the ids beside the names are left out"
                + "; of several names of an id, the first is taken" * bool(split)
            )
    return lines, ""


def _first_of(names: str) -> str:
    return names.split(",")[0].strip()


def _distinct(pairs: list[tuple[str, str]], short: Callable[[str], str]) -> list[str]:
    """The short name of each (id, names); where several have the same, all names, and then the id in brackets."""
    counts = Counter(short(names).casefold() for _, names in pairs)
    names = [names if counts[short(names).casefold()] > 1 else short(names) for _, names in pairs]
    counts = Counter(name.casefold() for name in names)
    return [
        f"{name} ({id})" if counts[name.casefold()] > 1 else name for (id, _), name in zip(pairs, names, strict=True)
    ]
