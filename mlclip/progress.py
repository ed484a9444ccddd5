"""What the library tells while it works: lines and progress. Silent unless the caller passes something louder.

The command line passes an implementation that writes to stderr; a notebook can pass its own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


class Bar:
    """One running progress display; `update` is called as work is done."""

    def update(self, done: int, note: str = "") -> None:
        """Count `done` further units as finished; `note` is a short text such as a loss."""


class Progress:
    """Says nothing; subclass and override to hear the library."""

    def log(self, line: str) -> None:
        """One line that a person at a terminal should read."""

    def bar(self, label: str, total: int, unit: str = "", done: int = 0) -> AbstractContextManager[Bar]:
        """A progress display for `total` units (bytes where `unit` is "B"), `done` of them finished already."""
        return nullcontext(Bar())


SILENT = Progress()
