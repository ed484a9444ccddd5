"""The standard streams, and failures of the system: a closed pipe, a full disk, too little memory. Failures become one line."""

from __future__ import annotations

import errno
import io
import os
import sys

import click

# What a write to stdout can fail with. Such an error has no file name.
_CANNOT_WRITE = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF, getattr(errno, "EDQUOT", errno.ENOSPC))


class _Messages(io.FileIO):
    """stderr: a message that cannot be written, as on a full disk, is lost, and the work goes on."""

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def prepare_streams() -> None:
    """Make stdout and stderr usable in every environment. Only a terminal keeps its own encoding; files and pipes get UTF-8.

    PYTHONUNBUFFERED would lose what does not fit into one write, and so would a pipe that does not block. A stream that the
    caller has closed is opened: stderr writes nowhere; a write to stdout fails, because its data would be lost.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, which is this one
    if os.name == "posix":
        os.set_blocking(1, True)
        coding = {"encoding": getattr(sys.stderr, "encoding", "utf-8"), "errors": "backslashreplace"}
        # Without a buffer: an interrupt inside a write would leave the text in it, and it would be written again.
        sys.stderr = io.TextIOWrapper(_Messages(2, "w", closefd=False), write_through=True, **coding)
    if sys.stdout and sys.stdout.isatty():
        sys.stdout.reconfigure(errors="backslashreplace")
    else:
        buffer = io.BufferedWriter(io.FileIO(1, "w", closefd=False))
        sys.stdout = io.TextIOWrapper(buffer, encoding="utf-8", errors="surrogateescape", newline="")


def is_closed_pipe(error: Exception) -> bool:
    """Whether nobody reads stdout any more. Windows calls that an invalid argument."""
    on_windows = sys.platform == "win32" and isinstance(error, OSError) and error.errno == errno.EINVAL
    return isinstance(error, BrokenPipeError) or (on_windows and not error.filename)


def drop_stdout() -> None:
    """Lose what is left in the buffer of stdout, so that Python does not try to write it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain(error: Exception, command: click.Command | None) -> str | None:
    """The line for the user about a failure of the system while `command` was running; None for other errors."""
    if isinstance(error, OSError):
        if error.filename is None and error.errno not in _CANNOT_WRITE:
            return None
        place = "the output cannot be written" if error.filename is None else os.fsdecode(error.filename)
        closed = error.filename is None and error.errno == errno.EBADF
        return f"{place}: {'stdout is closed' if closed else error.strerror}"
    names = {name for param in (command.params if command else []) for name in param.opts}
    lower = [name for name in ("--batch-size", "--size", "--workers") if name in names]
    remedy = f"Lower {' or '.join(lower)}" if lower else "Use fewer photos"
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU is out of memory. {remedy}, or use --device cpu."
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"this machine is out of memory. {remedy}."
    return None
