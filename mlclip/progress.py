"""How the library reports its work: messages and progress bars. It is silent unless the caller passes a `Progress`.

The command line passes an implementation that writes to stderr. A notebook can pass its own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


class Bar:
    """One progress bar. The library calls `update` as work is done."""

    def update(self, done: int, note: str = "") -> None:
        """Count `done` more units as finished. `note` is a short text such as a loss."""


class Progress:
    """Reports nothing. Subclass it and override its methods to see messages and progress."""

    def log(self, line: str) -> None:
        """Report one line that the user should read."""

    def detail(self, line: str) -> None:
        """Report one line that helps to understand what the program does, such as which file it reads."""

    def bar(self, label: str, total: int, unit: str = "", done: int = 0) -> AbstractContextManager[Bar]:
        """A progress bar for `total` units (bytes if `unit` is "B"), of which `done` are already finished."""
        return nullcontext(Bar())


SILENT = Progress()
