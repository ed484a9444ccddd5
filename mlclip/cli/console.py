"""What a person sees: messages and progress on stderr, and text tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from ..line_progress import LineProgress
from ..progress import Bar
from .messages import in_options, printable

REDRAW_SECONDS = 0.1  # between two drawings of the bar
BAR_WIDTH = 20
CLEAR_LINE = "\r\x1b[K"


class Console(LineProgress):
    """The library's messages and progress on stderr: a bar on a terminal, else lines. `quiet` keeps only warnings."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        self._drawn = False  # whether a progress bar is in the terminal's current line

    def log(self, line: str) -> None:
        """Print one line; options are named as on the command line, and control characters are escaped."""
        if not self.quiet or line.startswith("warning"):
            context = click.get_current_context(silent=True)
            start = CLEAR_LINE if self._drawn else ""
            click.echo(start + printable(in_options(line, context.command if context else None)), err=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
        """Print a table; see `table`."""
        if not self.quiet:
            click.echo(table(header, rows, right), err=True)

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "", done: int = 0) -> Iterator[Bar]:
        if self.quiet:
            yield Bar()
        elif not sys.stderr.isatty():
            with super().bar(label, total, unit, done) as lines:
                yield lines
        else:
            bar = _TerminalBar(label, total, unit, done)
            self._drawn = True
            try:
                with bar.drawing:
                    bar.draw()
                    yield bar
                    bar.draw()
            finally:
                self._drawn = False


class _TerminalBar(Bar):
    """click's progress bar, redrawn every REDRAW_SECONDS."""

    def __init__(self, label: str, total: int, unit: str, done: int):
        self.total, self.done, self.first, self.note = total, done, done, ""
        self.scale, self.unit = (1e6, "MB") if unit == "B" else (1, unit)
        self.started = self.drawn = time.monotonic()
        self.drawing = click.progressbar(
            length=total, label=printable(label), file=sys.stderr, width=BAR_WIDTH, show_eta=False,
            item_show_func=lambda _: printable(self.text()),
        )  # fmt: skip

    def update(self, done: int, note: str = "") -> None:
        self.done, self.note = self.done + done, note
        if time.monotonic() - self.drawn >= REDRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        self.drawn = time.monotonic()
        self.drawing.update(self.done - self.drawing.pos)

    def text(self) -> str:
        """Count, rate, note and time left: `40 of 100 photos, 12/s, loss 0.31, 0:05 left`.

        click's own time left would count the work of an earlier run, `first`, as done in this one.
        """
        rate = (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)
        left = int((self.total - self.done) / rate) if rate > 0 else 0
        parts = [
            f"{self._amount(self.done)} of {self._amount(self.total)} {self.unit}".rstrip(),
            f"{self._amount(rate)}{' MB' if self.unit == 'MB' else ''}/s",
            self.note,
            f"{left // 60}:{left % 60:02d} left" if left > 0 else "",
        ]
        return ", ".join(part for part in parts if part)

    def _amount(self, value: float) -> str:
        value /= self.scale
        return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of text as aligned columns; the columns numbered in `right` are right-aligned. Control characters are escaped."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])
