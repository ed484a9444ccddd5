"""Names in messages: a suggestion for one that was not spelled right, and the start of a long list."""

from __future__ import annotations

from collections.abc import Collection, Iterable

LONGEST = 200  # characters of a name in a message; a longer text is not a name with a typing error


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, in upper or lower case; None if none is similar, or if `name` is very long.

    >>> nearest("Persn", ["person", "dog"]), nearest("xyz", ["person", "dog"])
    ('person', None)
    """
    from difflib import get_close_matches  # here, because most commands need no suggestion

    if len(name) > LONGEST:
        return None
    by_key: dict[str, str] = {}
    for each in known:
        by_key.setdefault(each.casefold(), each)
    found = get_close_matches(name.casefold(), list(by_key), 1)
    return by_key[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question to put at the end of a message, with a space before it; empty if no known name is similar.

    >>> did_you_mean("dgo", ["cat", "dog"])
    " Did you mean 'dog'?"
    """
    found = nearest(name, known)
    return f" Did you mean {found!r}?" if found else ""


def one_line(value: object, most: int = 40) -> str:
    r"""The start of a value for a message: control characters and undecodable bytes are escaped.

    >>> one_line("a\nb")
    'a\\nb'
    """
    return repr(str(value)[:most])[1:-1]


def shorten(names: Collection[str], most: int = 8) -> str:
    """The first names of a list for a one-line message: `cat, dog, ... (20 in total)`. Very long names are cut."""
    shown = [name if name.isprintable() else one_line(name, LONGEST + 1) for name in list(names)[:most]]
    text = ", ".join(name if len(name) <= LONGEST else f"{name[:LONGEST]}..." for name in shown)
    return f"{text}, ... ({len(names)} in total)" if len(names) > most else text
