"""The simple YAML that YOLO's tools write: what is below `names:`. No YAML library, and no torch here."""

from __future__ import annotations

import json
import re

from ..config import InputError

_NAMES = re.compile(r"""(?:names|"names"|'names')\s*:(.*)""")


def yaml_names(text: str, source: str) -> dict[int, str] | None:
    """{number: name} of `names:` in the simple YAML that YOLO's tools write: a list or numbers with names, in either form.

    None if there is no `names:`. Raises InputError for a value that is neither.

    >>> yaml_names("nc: 2\\nnames: ['cat', \\"dog\\"]  # two", "data.yaml")
    {0: 'cat', 1: 'dog'}
    >>> yaml_names("names:\\n  0: cat\\n  5: dog\\nnc: 2", "data.yaml")
    {0: 'cat', 5: 'dog'}
    """
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if _NAMES.fullmatch(line.rstrip())), None)
    if start is None:
        return None
    value = _without_comment(_NAMES.fullmatch(lines[start].rstrip())[1])
    if value[:1] in ("[", "{"):
        rest = [_without_comment(line) for line in lines[start + 1 :]]
        items = _flow_items(" ".join([value, *rest]), source)
    elif value:
        raise InputError(f"{source}: `names:` is neither a list nor numbers with names. Correct it.")
    else:
        items = _block_items(lines[start + 1 :])
    return _numbered_items(items, source)


def _without_comment(line: str) -> str:
    """A line of YAML without the comment at its end; a `#` in quotes stays."""
    quote = ""
    for at, c in enumerate(line):
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'" and (at == 0 or line[at - 1] in " ,[{:-"):
            quote = c
        elif c == "#" and (at == 0 or line[at - 1].isspace()):
            return line[:at].strip()
    return line.strip()


def _flow_items(text: str, source: str) -> list[str]:
    """The items of `[a, 'b, c']` or `{0: a}`, up to the closing bracket."""
    end, items, item, quote = {"[": "]", "{": "}"}[text[0]], [], "", ""
    last = ""  # the last character of the item that is not a space
    for c in text[1:]:
        if not quote and c in (end, ","):
            items.append(item.strip())
            item = last = ""
            if c == end:
                return [item for item in items if item]
            continue
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'" and last in ("", ":"):
            quote = c
        item += c
        last = last if c.isspace() else c
    raise InputError(f"{source}: the list of `names:` has no closing {end}. Correct it.")


def _block_items(lines: list[str]) -> list[str]:
    """The lines below `names:` that belong to it: `- cat`, or `0: cat` with spaces in front."""
    items = []
    for line in lines:
        text = _without_comment(line)
        if not text:
            continue
        if not line[0].isspace() and not line.startswith("-"):
            break
        items.append(text[1:].strip() if text.startswith("-") else text)
    return items


def _numbered_items(items: list[str], source: str) -> dict[int, str]:
    keyed = [re.fullmatch(r"""["']?(\d{1,9})["']?\s*:\s*(.*)""", item) for item in items]
    pairs = list(enumerate(map(unquoted, items)))
    if items and all(keyed):
        pairs = [(int(match[1]), unquoted(match[2])) for match in keyed]
    if len(dict(pairs)) < len(pairs) or not all(name for _, name in pairs):
        raise InputError(f"{source}: `names:` has a number twice or a blank name. Correct it.")
    return dict(pairs)


def unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            return text[1:-1]
    return text
