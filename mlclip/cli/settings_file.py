"""Settings in a TOML file: --config reads them, --print-config writes them.

The keys are the names of options without the dashes at the front. They stand in the sections [pseudolabel], [train] and
[predict], or above all sections, where they hold for every command that reads the file.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from ..config import InputError
from ..spelling import did_you_mean
from .completion import files
from .messages import printable

SECTIONS = ("pseudolabel", "train", "predict")
LARGEST = 1_000_000  # bytes
LARGEST_INTEGER = 2**63 - 1  # as TOML asks for
_NOT_SETTINGS = ("config", "print_config", "verbose", "quiet", "help")  # options that no file can set


def read_settings(file: str, command: click.Command, ctx: click.Context) -> dict[str, Any]:
    """{name of a parameter: value} for `command`, checked and converted. InputError that names the file and the key."""
    content = _parse(file)
    for name, value in content.items():
        if isinstance(value, dict) and name not in SECTIONS:
            shown, near = printable(name[:60]), did_you_mean(name, SECTIONS)
            raise InputError(f"{file}: there is no section [{shown}].{near} The sections are {', '.join(SECTIONS)}.")
    section = content.get(command.name, {})
    if not isinstance(section, dict):
        raise InputError(f"{file}: `{command.name}` is a section. Write [{command.name}] on a line of its own.")
    common = {name: value for name, value in content.items() if name not in SECTIONS}
    options = _options(command)
    found = {}
    for key, value in [*common.items(), *section.items()]:
        option = options.get(key.replace("_", "-"))
        if option is None:
            raise InputError(f"{file}: {printable(_unknown(key, command, ctx))}")
        found[option.name] = _value(value, option, f"{file}: `{key}`", ctx)
    return found


def _parse(file: str) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError as error:
        raise InputError(
            f"--config needs Python 3.11 or newer; this is {sys.version_info[0]}.{sys.version_info[1]}. Pass the options on "
            "the command line."
        ) from error
    try:
        if os.path.getsize(file) > LARGEST:
            raise InputError(f"{file} is too large for a file of settings. `mlclip train --print-config` prints one.")
        with open(file, "rb") as stream:
            return tomllib.load(stream)
    except (OSError, ValueError, RecursionError) as error:  # tomllib's errors are ValueErrors, and so are NUL bytes
        reason = getattr(error, "strerror", None) or printable(str(error))
        raise InputError(f"{file} cannot be read as settings in TOML ({reason}). Correct it.") from error


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options that a file can set, by each of their long names without the dashes."""
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in _NOT_SETTINGS]
    return {name[2:]: option for option in options for name in option.opts if name.startswith("--")}


def _unknown(key: str, command: click.Command, ctx: click.Context) -> str:
    """What is wrong with a key that is no option of the command."""
    group = ctx.parent.command if ctx.parent else None
    commands = getattr(group, "commands", {})
    others = [name for name in SECTIONS if name in commands and key.replace("_", "-") in _options(commands[name])]
    if others:
        return f"`{key}` is not an option of `mlclip {command.name}`. Write it below [{others[0]}]."
    if key in [p.name for p in command.params if isinstance(p, click.Argument)]:
        return f"`{key}` cannot be set here. Name the photos on the command line."
    known = [name.replace("-", "_") if "_" in key else name for name in _options(command)]
    return f"`{key:.60}` is not an option of `mlclip {command.name}`.{did_you_mean(key, known)}"


def _value(value: Any, option: click.Option, where: str, ctx: click.Context) -> Any:
    """The value of one key, as the option takes it."""
    items = value if isinstance(value, list) else [value]
    if any(type(item) is int and abs(item) > LARGEST_INTEGER for item in items):
        raise InputError(f"{where} is an integer with too many digits. Correct it.")
    if option.is_flag != isinstance(value, bool):
        raise InputError(f"{where} must be {'true or false' if option.is_flag else 'a value'}, not {_shown(value)}.")
    joined = option.type.name in ("numbers", "words")  # by commas
    plain = not any(isinstance(item, dict | list) for item in items)
    if isinstance(value, list) and (option.multiple or joined) and plain:
        value = value if option.multiple else ",".join(map(str, value))
    elif option.multiple:
        raise InputError(f'{where} must be a list such as ["..."], not {_shown(value)}.')
    elif not isinstance(value, bool | int | float | str):
        raise InputError(f"{where} must be one value, not {_shown(value)}.")
    try:
        return option.type_cast_value(ctx, str(value) if joined else value)
    except click.BadParameter as error:
        raise InputError(f"{where}: {printable(error.message)}") from error
    except (ValueError, OverflowError) as error:  # an infinite number of epochs, a folder with a NUL in its name
        raise InputError(f"{where} is {_shown(value)}, which it cannot be ({error}). Correct it.") from error


def _shown(value: Any) -> str:
    kinds = {dict: "a table", list: "a list"}
    return kinds.get(type(value)) or printable(json.dumps(value, default=str, ensure_ascii=False))[:40]


def settings_text(command: click.Command, values: Mapping[str, Any]) -> str:
    """The values of a command's options as a section of TOML, in the order of the options. What is None is left out."""
    lines = [f"[{command.name}]"]
    for name, option in _options(command).items():
        value = values.get(option.name)
        if name == max(option.opts, key=len)[2:] and value is not None:
            lines.append(f"{name} = {_toml(value, name)}")
    return "\n".join(lines)


def _toml(value: Any, name: str) -> str:
    """A value in TOML.

    >>> _toml((1, 2), "grids"), _toml(1e-05, "lr"), _toml(False, "cache"), _toml("a\\n", "root")
    ('[1, 2]', '1e-05', 'false', '"a\\\\n"')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item, name) for item in value)}]"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"`{name}` is not valid text, which TOML cannot hold. Rename that file or folder.") from error
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read_config(ctx: click.Context, _: click.Parameter, file: str | None) -> None:
    """Settings of the file become the defaults of this call, so that the command line comes first."""
    if file and not ctx.resilient_parsing:
        ctx.default_map = {**(ctx.default_map or {}), **read_settings(file, ctx.command, ctx)}


def print_settings(resolved: Mapping[str, Any]) -> None:
    """Print the options of the running command as TOML. `resolved` replaces the values of some; None leaves one out."""
    context = click.get_current_context()
    click.echo(settings_text(context.command, {**context.params, **resolved}))


config_file = click.option(
    "--config",
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    shell_complete=files,
    help="Read options from a TOML file, `name = value` or in a section of the command. The command line comes first.",
)
print_config = click.option(
    "--print-config",
    is_flag=True,
    is_eager=True,
    help="Print the options of this run as TOML, for --config, and do nothing else.",
)
