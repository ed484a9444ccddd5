"""The one error that a user can cause, and settings: dataclass fields with a help text, allowed values, and methods that use them."""

from __future__ import annotations

import math
from dataclasses import Field, field, fields
from typing import Any

from ..spelling import nearest


class InputError(Exception):
    """An input cannot be used. The message is one line: which file or value, what is wrong, what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the line alone, which says what to do."""
        return [f"{type(self).__name__}: {self}"]


class OptionError(InputError):
    """A setting has a value that can never work, whatever the files contain: wrong usage."""


def setting(default: Any, help: str, *, methods: tuple[str, ...] = (), **more: Any) -> Any:
    """A field with its help text. `methods`: the methods that use it; empty for all of them.

    Further metadata: `choices`, the allowed values; `least`, `within` and `above`, the limits of a number; `if_none`, what happens
    where the value is None; and `unused_by`, the few methods that do not use a setting of all others.
    """
    return field(default=default, metadata={"help": help, "methods": methods, "rare": False, **more})


def rare(default: Any, help: str, **more: Any) -> Any:
    """A `setting` that has no option of its own: `--set` changes it."""
    return setting(default, help, rare=True, **more)


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """OptionError with the value of a setting, and what it must be, unless that `holds`."""
    if not holds:
        raise OptionError(f"`{name}` is {value}: it must be {wanted}")


def check_values(config: Any) -> None:
    """OptionError for a value that its setting does not allow, and for inf and NaN. None is allowed where it is the default."""
    for entry in fields(config):
        name, value, facts = entry.name, getattr(config, entry.name), entry.metadata
        if value is None and entry.default is None:
            continue
        if "choices" in facts:
            require(value in facts["choices"], name, value, f"one of {', '.join(facts['choices'])}")
        require(not isinstance(value, float) or math.isfinite(value), name, value, "a finite number")
        if "above" in facts:
            require(value > facts["above"], name, value, f"above {facts['above']}")
        if "least" in facts:
            require(value >= facts["least"], name, value, f"at least {facts['least']}")
        if "within" in facts:
            low, high = facts["within"]
            require(low <= value <= high, name, value, f"from {low} to {high}")


def _methods_of(entry: Field, config: Any) -> tuple[str, ...]:
    """The methods that use a setting."""
    unused_by = entry.metadata.get("unused_by", ())
    return entry.metadata["methods"] or tuple(method for method in config.METHODS if method not in unused_by)


def used_settings(config: Any) -> dict[str, Any]:
    """The settings that the method of `config` uses, by name, in the order of the fields."""
    used = [entry.name for entry in fields(config) if config.method in _methods_of(entry, config)]
    return {name: getattr(config, name) for name in used}


def refuse_unused(config: Any) -> None:
    """OptionError for a changed setting that belongs to another method and would be ignored silently."""
    for entry in fields(config):
        name, methods = entry.name, _methods_of(entry, config)
        if config.method not in methods and getattr(config, name) != entry.default:
            use = " or ".join(f'`method="{method}"`' for method in methods)
            raise OptionError(
                f'`{name}` has no effect with `method="{config.method}"`. Use {use}, or do not set `{name}`.'
            )


def config_of(config: type, settings: dict[str, Any]) -> Any:
    """A config from settings by name. OptionError for a name that it does not have, with the nearest one."""
    names = [entry.name for entry in fields(config)]
    for name in settings:
        if name not in names:
            near = nearest(name, names)
            hint = f"did you mean `{near}`?" if near else f"there are {', '.join(names)}"
            raise OptionError(f"there is no setting `{name}`; {hint}")
    return config(**settings)
