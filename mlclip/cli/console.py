"""What a person sees: progress and lines on stderr, tables on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from ..progress import Bar, Progress
from .messages import in_options

REDRAW_SECONDS = 0.1  # on a terminal
REPORT_SECONDS = 30.0  # in a log file, where every redraw is a line
BAR_WIDTH = 24


class Console(Progress):
    """The library's progress, on stderr; `quiet` keeps only warnings."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet

    def log(self, line: str) -> None:
        if not self.quiet or line.startswith("warning"):
            context = click.get_current_context(silent=True)
            click.echo(in_options(line, context.command if context else None), err=True)

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "", done: int = 0) -> Iterator[Bar]:
        if self.quiet:
            yield Bar()
            return
        bar = _StderrBar(label, total, unit, done)
        try:
            yield bar
        finally:
            bar.finish()


class _StderrBar(Bar):
    def __init__(self, label: str, total: int, unit: str, done: int):
        self.label, self.total, self.unit = label, total, unit
        self.done, self.first, self.note = done, done, ""
        self.started = self.drawn = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def update(self, done: int, note: str = "") -> None:
        self.done, self.note = self.done + done, note
        now = time.monotonic()
        if now - self.drawn >= (REDRAW_SECONDS if self.terminal else REPORT_SECONDS):
            self.drawn = now
            self._draw(end="" if self.terminal else "\n")

    def finish(self) -> None:
        self._draw(end="\n")

    def _draw(self, end: str) -> None:
        seconds = max(time.monotonic() - self.started, 1e-9)
        speed = (self.done - self.first) / seconds
        text = f"{self.label}: {_amount(self.done, self.unit)} of {_amount(self.total, self.unit)} {self.unit}"
        text += f", {_amount(speed, self.unit)}/s" + (f", {self.note}" if self.note else "")
        if self.terminal:
            filled = round(BAR_WIDTH * min(1.0, self.done / max(1, self.total)))
            left = (self.total - self.done) / speed if speed > 0 and self.done < self.total else 0
            clock = f" {int(left) // 60}:{int(left) % 60:02d} left" if left else ""
            text = f"\r\x1b[K[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {text}{clock}"
        click.echo(text, nl=False, err=True)
        click.echo(end, nl=False, err=True)


def _amount(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e6:.1f} M"
    return f"{value:.1f}" if isinstance(value, float) and value < 10 else f"{value:.0f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of text as aligned columns; the columns numbered in `right` are flush right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])
