"""What a person sees: messages and progress on stderr, with the names of options for those of parameters; and text tables."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from ..progress import Bar, CountingBar, LineProgress

REDRAW_SECONDS = 0.1  # between two drawings of the bar
BAR_WIDTH = 20
VERBOSE = "mlclip.verbose"  # key in the `meta` of click's context: whether to print details
CLEAR_LINE = "\r\x1b[K"
_OPTION_FOR = {"teacher": "clip"}  # the library takes an object, the command its name
_PARAMETER = re.compile(r"`([a-z]\w*)(?:=([^`]*))?`")
# C0 and C1 control characters, line separators, characters that change the writing direction, undecodable bytes
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def in_options(message: str, command: click.Command | None) -> str:
    """The message with every backticked parameter of `command` written as its option. Other text in backticks stays.

    `overwrite=True` -> --overwrite, `size=224` -> --size 224, `lr` -> --lr, `stopping=False` -> --set stopping=False,
    `stopping` -> stopping.
    """
    options = {param.name: max(param.opts, key=len) for param in (command.params if command else [])}
    rare = next((param.fields for param in (command.params if command else []) if hasattr(param, "fields")), {})

    def replace(found: re.Match) -> str:
        name, value = _OPTION_FOR.get(found[1], found[1]), (found[2] or "").strip('"')
        if name in rare:
            return f"--set {name}={value}" if value else name
        if name not in options or value == "False":
            return found[0]
        return options[name] if value in ("", "True") else f"{options[name]} {value}"

    return _PARAMETER.sub(replace, message)


def printable(text: str) -> str:
    r"""The text on one line and safe to print: control characters and undecodable bytes are escaped.

    >>> printable("a\x1b[2J\n.jpg")
    'a\\x1b[2J\\x0a.jpg'
    """

    def escape(found: re.Match) -> str:
        code = ord(found[0])
        if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file name that is not UTF-8
            code -= 0xDC00
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return _UNSAFE.sub(escape, text)


class Console(LineProgress):
    """The library's messages and progress on stderr: a bar on a terminal, else lines. `quiet` keeps only warnings.

    With --verbose, which the running command's context knows, details are printed too, with the seconds since the start.
    """

    notebook = False  # a command writes to stderr

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
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
        context = click.get_current_context(silent=True)
        if context and context.meta.get(VERBOSE):
            self.log(f"[{time.monotonic() - self._started:.1f} s] {line}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
        """Print a table; see `table`."""
        if not self.quiet:
            click.echo(table(header, rows, right), err=True)

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "", done: int = 0) -> Iterator[Bar]:
        self.detail(f"{label} ...")
        if self.quiet:
            yield Bar()
        elif not sys.stderr.isatty():
            with super().bar(label, total, unit, done) as lines:
                yield lines
        else:
            # click counts an earlier run's work as this one's, so the text is ours.
            bar = CountingBar(total, unit, done, every=REDRAW_SECONDS)
            text = {"label": printable(label), "show_eta": False, "item_show_func": lambda _: printable(bar.text())}
            drawing = click.progressbar(length=total, file=sys.stderr, width=BAR_WIDTH, **text)
            bar.show = lambda: drawing.update(bar.done - drawing.pos)
            self._drawn = True
            try:
                with drawing:
                    bar.show()
                    yield bar
                    bar.show()
            finally:
                self._drawn = False
        self.detail(f"{label}: done")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of text as aligned columns; the columns numbered in `right` are right-aligned. Control characters are escaped."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])
