"""Read the json files beside weights: bounded, and with every field checked where it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import InputError
from ..files import parse_json
from .pixels import Pixels

LARGEST_JSON = 16 << 20  # bytes; the index of a sharded model has less than 1 MiB
LARGEST_SIZE = 1 << 24  # of any width, length, image side or vocabulary
LARGEST_NUMBER = 1e30  # of any other field
GET_FOLDER_AGAIN = "Download the folder again, or pass another one."


class Section:
    """One object of a json file. Its fields are read by name, and a wrong one raises an InputError with its name.

    `content` maps names to values, `where` is the place of the object in the file ("" for the file itself).
    """

    def __init__(self, file: Path, content: Any, where: str = ""):
        self.file, self.where = file, where
        if not isinstance(content, Mapping):
            raise InputError(f"{file}: {where or 'its content'} is not an object. {GET_FOLDER_AGAIN}")
        self.content: Mapping[str, Any] = content

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a field, unchecked; `default` if it is missing or null."""
        value = self.content.get(key)
        return default if value is None else value

    def section(self, key: str, default: Any = None) -> Section:
        """The object in a field."""
        return Section(self.file, self.get(key, default), self._name(key))

    def whole(self, key: str, default: int | None = None) -> int | None:
        """A whole number from 1 to LARGEST_SIZE. None if it is missing and there is no default."""
        value = self.get(key, default)
        if value is None:
            return None
        return self._checked(key, value, type(value) is int and 1 <= value <= LARGEST_SIZE, "a whole number, 1 or more")

    def number(self, key: str, default: float) -> float:
        value = self.get(key, default)
        return self._checked(key, value, _is_number(value), "a number")

    def yes_or_no(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default)
        return self._checked(key, value, type(value) is bool, "true or false")

    def text(self, key: str, default: str = "") -> str:
        value = self.get(key, default)
        return self._checked(key, value, isinstance(value, str) and value.isprintable(), "text")

    def choice(self, key: str, default: str, choices: Mapping[str, Any]) -> Any:
        """The entry of `choices` that the text in a field names."""
        value = self.get(key, default)
        return choices[self._checked(key, value, value in list(choices), " or ".join(map(str, choices)))]

    def triple(self, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """Three numbers; one number counts three times."""
        value = self.get(key, default)
        values = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
        good = len(values) == 3 and all(map(_is_number, values))
        return self._checked(key, values, good, "three numbers")

    def wrong(self, key: str, value: Any, wanted: str) -> InputError:
        """The error that a field has a wrong value."""
        shown = str(value)[:60]
        return InputError(f"{self.file}: {self._name(key)} is {shown!r}: it must be {wanted}. {GET_FOLDER_AGAIN}")

    def pixels(self, mean: Any, std: Any, interpolation: str, resize: str) -> Pixels:
        """Pixels of these values. InputError that names the file if they cannot be."""
        try:
            return Pixels(mean, std, interpolation, resize)
        except InputError as error:
            raise InputError(f"{self.file}: {error}. {GET_FOLDER_AGAIN}") from error

    def _checked(self, key: str, value: Any, good: bool, wanted: str) -> Any:
        if not good:
            raise self.wrong(key, value, wanted)
        return value

    def _name(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -LARGEST_NUMBER < value < LARGEST_NUMBER  # a comparison fits any integer


def read_json(file: Path) -> Section:
    """The object in a json file. InputError if the file cannot be read, is too large, or is not such a file."""
    try:
        with open(file, "rb") as stream:
            data = stream.read(LARGEST_JSON + 1)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}. Check its permissions.") from error
    if len(data) > LARGEST_JSON:
        raise InputError(f"{file} has more than {LARGEST_JSON >> 20} MiB, too much for a json file. {GET_FOLDER_AGAIN}")
    if data.startswith(b"version https://git-lfs"):
        raise InputError(f"{file} is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder.")
    try:
        return Section(file, parse_json(data))
    except ValueError as error:
        raise InputError(f"{file} is not json ({str(error)[:80]}). {GET_FOLDER_AGAIN}") from error
