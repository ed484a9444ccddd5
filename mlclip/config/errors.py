"""The one error that a user can cause."""

from __future__ import annotations


class InputError(Exception):
    """An input cannot be used. The message is one line: which file or value, what is wrong, what to do."""


class OptionError(InputError):
    """A setting has a value that can never work, whatever the files contain: wrong usage."""
