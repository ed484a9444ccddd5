"""Text on its way to a terminal: Python parameters become options, and control characters are escaped.

The library names parameters in backticks, such as `overwrite=True` or `batch_size`. On the command line these are
--overwrite and --batch-size. Only parameters of the running command are translated; other text in backticks stays.
"""

from __future__ import annotations

import re

import click

_OPTION_FOR = {"teacher": "clip"}  # the library takes an object, the command its name
_PARAMETER = re.compile(r"`([a-z]\w*)(?:=([^`]*))?`")
# C0 and C1 control characters, line separators, characters that change the writing direction, undecodable bytes
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def in_options(message: str, command: click.Command | None) -> str:
    """The message with every backticked parameter of `command` written as its option.

    `overwrite=True` -> --overwrite, `size=224` -> --size 224, `lr` -> --lr, `stopping=False` -> --set stopping=False,
    `stopping` -> stopping.
    """
    options = {p.name: p for p in (command.params if command else []) if isinstance(p, click.Option)}
    rare = options["changed"].fields if "changed" in options else ()

    def replace(found: re.Match) -> str:
        option, value = options.get(_OPTION_FOR.get(found[1], found[1])), found[2]
        if found[1] in rare:
            return found[1] if value is None else f"--set {found[1]}={value.strip(chr(34))}"
        if option is None:
            return found[0]
        name = max(option.opts, key=len)
        if value is None or value == "True":
            return name
        if value == "False":
            return max(option.secondary_opts, key=len) if option.secondary_opts else found[0]
        return f"{name} {value.strip(chr(34))}"

    return _PARAMETER.sub(replace, message)


def printable(text: str) -> str:
    r"""The text on one line and safe to print: control characters and undecodable bytes are escaped.

    >>> printable("a\x1b[2J\n.jpg")
    'a\\x1b[2J\\x0a.jpg'
    """
    return _UNSAFE.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
