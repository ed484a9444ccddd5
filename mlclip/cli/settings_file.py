"""Settings in a TOML file: --config reads them, --print-config writes them.

The keys are the names of options without the dashes at the front, and of the settings of --set. They stand in the sections
[pseudolabel], [train] and [predict], or above all sections, where they hold for every command that reads the file.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..config import InputError
from ..spelling import did_you_mean
from .console import printable
from .options import SET_IN_FILE, RareSettings

SECTIONS = ("pseudolabel", "train", "predict")
_NOT_SETTINGS = ("config", "print_config", "changed", "verbose", "quiet", "help")  # options that no file can set


def _read_config(ctx: click.Context, _: click.Parameter, file: str | None) -> None:
    """Settings of the file become the defaults of this call, so that the command line comes first."""
    if not file or ctx.resilient_parsing:
        return
    options, rare = _options(ctx.command), _rare(ctx.command)
    ctx.default_map, ctx.meta[SET_IN_FILE] = {**(ctx.default_map or {})}, {}
    for key, value in _section(file, ctx.command.name).items():
        option, name = options.get(key.replace("_", "-")), key.replace("-", "_")
        try:
            if option:
                ctx.default_map[option.name] = _value(value, option, ctx)
            elif rare and name in rare.fields:
                ctx.meta[SET_IN_FILE][name] = rare.value_of(name, value, ctx)
            else:
                known = [*options, *(rare.fields if rare else ())]
                raise InputError(f"it is not an option of `mlclip {ctx.command.name}`.{did_you_mean(key, known)}")
        except (click.BadParameter, ValueError, OverflowError, TypeError, InputError) as error:
            reason = error.message if isinstance(error, click.BadParameter) else error
            raise InputError(f"{file}: `{printable(key[:60])}`: {printable(str(reason))}") from error


def _section(file: str, command: str) -> dict[str, Any]:
    """The keys of the file that are for one command: those above all sections, and those of its section."""
    try:
        import tomllib
    except ImportError as error:
        raise InputError(
            f"--config needs Python 3.11 or newer; this is {sys.version_info[0]}.{sys.version_info[1]}. Pass the options on "
            "the command line."
        ) from error
    try:
        if not Path(file).is_file():
            raise InputError(f"{file} is not a file. `mlclip train --print-config` prints one.")
        content = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # tomllib's errors are ValueErrors, and so are NUL bytes
        reason = getattr(error, "strerror", None) or printable(str(error))
        raise InputError(f"{file} cannot be read as settings in TOML ({reason}). Correct it.") from error
    for name, value in content.items():
        if isinstance(value, dict) and name not in SECTIONS:
            shown, near = printable(name[:60]), did_you_mean(name, SECTIONS)
            raise InputError(f"{file}: there is no section [{shown}].{near} The sections are {', '.join(SECTIONS)}.")
        if name in SECTIONS and not isinstance(value, dict):
            raise InputError(f"{file}: `{name}` is a section. Write [{name}] on a line of its own.")
    common = {name: value for name, value in content.items() if name not in SECTIONS}
    return common | content.get(command, {})


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options that a file can set, by each of their long names without the dashes."""
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in _NOT_SETTINGS]
    return {name[2:]: option for option in options for name in option.opts if name.startswith("--")}


def _rare(command: click.Command) -> RareSettings | None:
    """The option --set of a command, if it has one."""
    return next((param for param in command.params if isinstance(param, RareSettings)), None)


def _value(value: Any, option: click.Option, ctx: click.Context) -> Any:
    """The value of one key, as the option takes it."""
    if option.is_flag != isinstance(value, bool):
        raise ValueError(f"it must be {'true or false' if option.is_flag else 'a value'}")
    if option.multiple != isinstance(value, list) or isinstance(value, dict):
        raise ValueError('it must be a list such as ["..."]' if option.multiple else "it must be one value")
    return option.type_cast_value(ctx, value)


def settings_text(command: click.Command, values: Mapping[str, Any]) -> str:
    """The values of a command's options and settings as a section of TOML. What is None is left out."""
    names = {max(option.opts, key=len)[2:]: option.name for option in _options(command).values()}
    rare = _rare(command)
    names |= {name: name for name in (rare.fields if rare else ())}
    lines = [f"{shown} = {_toml(values[name], shown)}" for shown, name in names.items() if values.get(name) is not None]
    return "\n".join([f"[{command.name}]", *lines])


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
    type=click.Path(),
    help="Read options from a TOML file, `name = value` or in a section of the command. The command line comes first.",
)
print_config = click.option(
    "--print-config",
    is_flag=True,
    is_eager=True,
    help="Print the options of this run as TOML, for --config, and do nothing else.",
)
