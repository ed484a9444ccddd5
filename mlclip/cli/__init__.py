"""The command line: options, one library call, output. No command imports torch before it runs.

Failures of the system, such as a closed pipe, a full disk or too little memory, become one line, as wrong inputs do.
"""

from __future__ import annotations

import errno
import io
import os
import platform
import signal
import sys

import click

from .. import __version__
from ..config import InputError, OptionError
from ..machine import keep_freed_memory, limit_threads
from . import options
from .cache import cache
from .calibrate import calibrate
from .console import in_options, printable
from .demo import demo
from .evaluate import evaluate
from .export import export
from .models import models
from .predict import predict
from .pseudolabel import pseudolabel
from .report import report
from .review import review
from .train import train

FAILED, USAGE, INTERRUPTED = 1, 2, 130
KEPT = {  # what an interrupted command leaves, and how to continue
    "train": "finished work is kept: add --resume to continue",
    "pseudolabel": "finished embeddings are kept: run the same command again to continue",
}
# What a write to stdout can fail with. Such an error has no file name.
CANNOT_WRITE = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF, getattr(errno, "EDQUOT", errno.ENOSPC))


class Commands(click.Group):
    """The commands, listed in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    """Print the versions that a bug report needs. torch is not imported: that takes seconds."""
    if asked:
        from importlib import metadata  # here, because every command would wait for it

        click.echo(f"mlclip {__version__}, torch {metadata.version('torch')}, Python {platform.python_version()}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the versions."
)
def cli():
    """Turn a folder of photos and a list of class names into a small multi-label classifier. No labels are needed.

    Three commands, one after the other. Each reads what the one before wrote:

    \b
      mlclip pseudolabel imgs/           CLIP labels the photos             -> labels.pt
      mlclip train --labels labels.pt    a small network learns the labels  -> model.pt
      mlclip predict img.jpg             the small network alone            -> a table

    `mlclip demo` runs all of this in three minutes, without a download. `mlclip COMMAND --help` explains a command.

    Results go to stdout, messages and progress to stderr. Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but some
    photos were skipped, 130 interrupted.
    """


for command in (pseudolabel, train, predict, evaluate, calibrate, report, review, export, models, cache, demo):
    cli.add_command(command)


def main(args: list[str] | None = None) -> None:
    """Run one command and exit with its status."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        prepare_streams()
        keep_freed_memory()
        limit_threads()
        status = _status(args)
        if status == options.SKIPPED and "TORCHELASTIC_RUN_ID" in os.environ:
            status = 0  # torchrun takes every other status for a failure, and stops the other ranks
    except KeyboardInterrupt:  # before the command started, or while it was ending
        status = INTERRUPTED
    sys.exit(status)


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


def _status(args: list[str] | None) -> int:
    """Run one command; errors become one line on stderr and an exit status."""
    command = next((cli.commands[name] for name in args or sys.argv[1:] if name in cli.commands), None)
    try:
        status = cli.main(args, prog_name="mlclip", standalone_mode=False) or 0
        sys.stdout.flush()  # here, so that a full disk is noticed
        return status
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # its message is the help, of many lines
            error.message = printable(error.message)  # it can contain file names, from a shell pattern
        error.show()
        return USAGE if isinstance(error, click.UsageError) else FAILED
    except InputError as error:
        return _fail(in_options(str(error), command), USAGE if isinstance(error, OptionError) else FAILED)
    except (KeyboardInterrupt, click.Abort):  # click has ended the current line
        kept = KEPT.get(command.name if command else None)
        return _fail(f"interrupted; {kept}" if kept else "interrupted", INTERRUPTED)
    except (OSError, MemoryError, RuntimeError) as error:
        if is_closed_pipe(error):  # `mlclip ... | head`: the reader is gone, which is not an error
            _drop_stdout()
            return 0
        line = explain(error, command)
        if line is None:
            raise
        if isinstance(error, OSError) and not error.filename:
            _drop_stdout()
        return _fail(line, FAILED)
    finally:
        # Not imported here: an interrupt may have stopped the import of torch, which cannot be repeated.
        stop_distributed = getattr(sys.modules.get("mlclip.distributed"), "stop_distributed", None)
        if stop_distributed:
            stop_distributed()


def _fail(line: str, status: int) -> int:
    click.echo(f"mlclip: {printable(line)}", err=True)
    return status


def is_closed_pipe(error: Exception) -> bool:
    """Whether nobody reads stdout any more. Windows calls that an invalid argument."""
    on_windows = sys.platform == "win32" and isinstance(error, OSError) and error.errno == errno.EINVAL
    return isinstance(error, BrokenPipeError) or (on_windows and not error.filename)


def _drop_stdout() -> None:
    """Lose what is left in the buffer of stdout, so that Python does not try to write it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain(error: Exception, command: click.Command | None) -> str | None:
    """The line for the user about a failure of the system while `command` was running; None for other errors."""
    if isinstance(error, OSError):
        if error.filename:
            return f"{os.fsdecode(error.filename)}: {error.strerror}"
        if error.errno not in CANNOT_WRITE:
            return None
        reason = "stdout is closed" if error.errno == errno.EBADF else error.strerror
        return f"the output cannot be written: {reason}"
    params = command.params if command else []
    names = {name for param in params for name in (*param.opts, *getattr(param, "fields", ()))}
    words = {"batch_size": "batch_size (--set batch_size=16)"}
    lower = [words.get(name, name) for name in ("--batch-size", "batch_size", "--size", "--workers") if name in names]
    remedy = f"Lower {' or '.join(lower)}" if lower else "Use fewer photos"
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU is out of memory. {remedy}, or use --device cpu."
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"this machine is out of memory. {remedy}."
    return None
