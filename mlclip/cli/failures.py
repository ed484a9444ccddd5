"""Failures of the system, not of the program: a closed pipe, a full disk, too little memory. They become one line."""

from __future__ import annotations

import errno
import os
import sys

import click

# What a write to stdout can fail with. Such an error has no file name.
_CANNOT_WRITE = (errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC))


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
        return f"{place}: {error.strerror}"
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU is out of memory. {_remedy(command)}, or use --device cpu."
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"this machine is out of memory. {_remedy(command)}."
    return None


def _remedy(command: click.Command | None) -> str:
    """Which options of the command to lower."""
    names = {name for param in (command.params if command else []) for name in param.opts}
    found = [name for name in ("--batch-size", "--size", "--workers") if name in names]
    return f"Lower {' or '.join(found)}" if found else "Use fewer photos"
