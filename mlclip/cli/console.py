"""What a person sees: messages and progress on stderr, and text tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from ..progress import Bar, CountingBar, LineProgress
from .messages import in_options, printable

REDRAW_SECONDS = 0.1  # between two drawings of the bar
BAR_WIDTH = 20
VERBOSE = "mlclip.verbose"  # key in the `meta` of click's context: whether to print details
CLEAR_LINE = "\r\x1b[K"


class Console(LineProgress):
    """The library's messages and progress on stderr: a bar on a terminal, else lines. `quiet` keeps only warnings.

    With --verbose, which the running command's context knows, details are printed too, with the seconds since the start.
    """

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        context = click.get_current_context(silent=True)
        self.verbose = bool(context and context.meta.get(VERBOSE)) and not quiet
        self._started = time.monotonic()
        self._drawn = False  # whether a progress bar is in the terminal's current line

    def log(self, line: str) -> None:
        """Print one line; options are named as on the command line, and control characters are escaped."""
        if not self.quiet or line.startswith("warning"):
            context = click.get_current_context(silent=True)
            start = CLEAR_LINE if self._drawn else ""
            click.echo(start + printable(in_options(line, context.command if context else None)), err=True)

    def detail(self, line: str) -> None:
        """Print one line with the seconds since the start, if --verbose is set."""
        if self.verbose:
            self.log(f"[{time.monotonic() - self._started:.1f} s] {line}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
        """Print a table; see `table`."""
        if not self.quiet:
            click.echo(table(header, rows, right), err=True)

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "", done: int = 0) -> Iterator[Bar]:
        self.detail(f"{label} ...")
        with self._bar(label, total, unit, done) as bar:
            yield bar
        self.detail(f"{label}: done")

    @contextmanager
    def _bar(self, label: str, total: int, unit: str, done: int) -> Iterator[Bar]:
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
                    bar.show()
                    yield bar
                    bar.show()
            finally:
                self._drawn = False


class _TerminalBar(CountingBar):
    """click's progress bar, redrawn every REDRAW_SECONDS; its text is ours, as click counts an earlier run's work as this one's."""

    every = REDRAW_SECONDS

    def __init__(self, label: str, total: int, unit: str, done: int):
        super().__init__(total, unit, done)
        self.drawing = click.progressbar(
            length=total,
            label=printable(label),
            file=sys.stderr,
            width=BAR_WIDTH,
            show_eta=False,
            item_show_func=lambda _: printable(self.text()),
        )

    def show(self) -> None:
        self.drawing.update(self.done - self.drawing.pos)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of text as aligned columns; the columns numbered in `right` are right-aligned. Control characters are escaped."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])
