"""Library messages in the words of the command line: Python parameters become options.

The library writes parameters in backticks, such as `overwrite=True` or `batch_size`. A person at a terminal knows them as
--overwrite and --batch-size. Only parameters of the running command are translated; other text in backticks stays.
"""

from __future__ import annotations

import re

import click

_PARAMETER = re.compile(r"`([a-z]\w*)(?:=([^`]*))?`")


def in_options(message: str, command: click.Command | None) -> str:
    """The message with every backticked parameter of `command` written as its option.

    `overwrite=True` -> --overwrite, `stopping=False` -> --no-stopping, `size=224` -> --size 224, `lr` -> --lr.
    """
    options = {p.name: p for p in (command.params if command else []) if isinstance(p, click.Option)}

    def replace(found: re.Match) -> str:
        option, value = options.get(found[1]), found[2]
        if option is None:
            return found[0]
        name = max(option.opts, key=len)
        if value is None or value == "True":
            return name
        if value == "False":
            return max(option.secondary_opts, key=len) if option.secondary_opts else found[0]
        return f"{name} {value.strip(chr(34))}"

    return _PARAMETER.sub(replace, message)
