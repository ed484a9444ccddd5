"""How the library reports its work: messages and progress bars. It is silent unless the caller passes a `Progress`.

The command line passes an implementation that writes to stderr. A notebook can pass its own. `LineProgress` writes plain lines to
stderr: what a script or a log file shows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

REPORT_SECONDS = 30.0  # between two lines of one running step
MOVING_SECONDS = 0.5  # the same where the line is replaced


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


class LineProgress(Progress):
    """Messages as lines; a running step prints a line every REPORT_SECONDS and one at its end.

    In a notebook, which shows stderr in red, all goes to stdout, and the line of a running step is replaced by its next one.
    """

    @property
    def notebook(self) -> bool:
        return "ipykernel" in sys.modules

    def log(self, line: str) -> None:
        self._write(line + "\n")

    def _write(self, text: str) -> None:
        stream = sys.stdout if self.notebook else sys.stderr
        stream.write(text)
        stream.flush()

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "", done: int = 0) -> Iterator[Bar]:
        bar = CountingBar(total, unit, done, MOVING_SECONDS if self.notebook else REPORT_SECONDS)
        if self.notebook:
            bar.show = lambda: self._write(f"\r{label}: {bar.text()}   ")
        else:
            bar.show = lambda: self.log(f"{label}: {bar.text()}")
        try:
            yield bar
        finally:
            bar.show()
            if self.notebook:
                self._write("\n")


class CountingBar(Bar):
    """Counts what is done and says it as text. Every `every` seconds it calls `show`, which the caller sets."""

    def __init__(self, total: int, unit: str, done: int, every: float = REPORT_SECONDS):
        self.total, self.done, self.first, self.note, self.every = total, done, done, "", every
        self.scale, self.unit = (1e6, "MB") if unit == "B" else (1, unit)
        self.started = self.shown = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        self.done, self.note = self.done + done, note
        if time.monotonic() - self.shown >= self.every:
            self.shown = time.monotonic()
            self.show()

    def text(self) -> str:
        """Count, rate, note and time left: `40 of 100 photos, 12/s, loss 0.31, 0:05 left`. The rate is that of this run."""
        rate = (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)
        left = int((self.total - self.done) / rate) if rate > 0 else 0
        parts = [
            f"{self._amount(self.done)} of {self._amount(self.total)} {self.unit}".rstrip(),
            f"{self._amount(rate)}{' MB' if self.unit == 'MB' else ''}/s",
            self.note,
            f"{clock(left)} left" if left > 0 else "",
        ]
        return ", ".join(part for part in parts if part)

    def _amount(self, value: float) -> str:
        value /= self.scale
        return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def clock(seconds: int) -> str:
    """Minutes and seconds, with hours where there are some.

    >>> clock(65), clock(7384)
    ('1:05', '2:03:04')
    """
    minutes, hours = seconds // 60 % 60, seconds // 3600
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"
