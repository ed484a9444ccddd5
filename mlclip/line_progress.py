"""Progress as plain lines on stderr: what a script, a notebook or a log file shows."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .progress import Bar, Progress

REPORT_SECONDS = 30.0  # between two lines of one running step


class LineProgress(Progress):
    """Messages as lines; a running step prints a line every REPORT_SECONDS and one at its end."""

    def log(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "", done: int = 0) -> Iterator[Bar]:
        bar = _LineBar(self, label, total, unit, done)
        try:
            yield bar
        finally:
            self.log(bar.text())


class _LineBar(Bar):
    def __init__(self, progress: LineProgress, label: str, total: int, unit: str, done: int):
        self.progress, self.label, self.total, self.unit = progress, label, total, unit
        self.done, self.first, self.note = done, done, ""
        self.started = self.reported = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        self.done, self.note = self.done + done, note
        now = time.monotonic()
        if now - self.reported >= REPORT_SECONDS:
            self.reported = now
            self.progress.log(self.text())

    def text(self) -> str:
        """What is done, how fast, and how much time is left: `encoding photos: 40 of 100 photos, 12/s, 0:05 left`."""
        speed = (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)
        text = f"{self.label}: {_amount(self.done, self.unit)} of {_amount(self.total, self.unit)} {self.unit}".rstrip()
        text += f", {_amount(speed, self.unit)}/s"
        if self.done < self.total and speed > 0:
            left = int((self.total - self.done) / speed)
            text += f", {left // 60}:{left % 60:02d} left"
        return text + (f", {self.note}" if self.note else "")


def _amount(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e6:.1f} M"
    return f"{value:.1f}" if isinstance(value, float) and value < 10 else f"{value:.0f}"
