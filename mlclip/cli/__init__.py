"""The command line: options, one library call, output. No command imports torch before it runs."""

from __future__ import annotations

import os
import signal
import sys

import click

from .. import __version__
from ..config import InputError, OptionError
from ..machine import keep_freed_memory, limit_threads
from ..spelling import did_you_mean
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
from .streams import drop_stdout, explain, is_closed_pipe, prepare_streams
from .train import train

FAILED, USAGE, INTERRUPTED = 1, 2, 130
KEPT = {  # what an interrupted command leaves, and how to continue
    "train": "finished epochs are kept: add --resume to continue",
    "pseudolabel": "finished embeddings are kept: run the same command again to continue",
}


def print_version(ctx: click.Context) -> None:
    """Print the versions that a bug report needs. torch is not imported: that takes seconds."""
    import platform
    from importlib import metadata  # here, because every command would wait for it

    torch = " ".join(f"torch {d.version}" for d in metadata.distributions(name="torch")) or "no torch"
    click.echo(f"mlclip {__version__}, {torch}, Python {platform.python_version()}")
    ctx.exit()


class Commands(click.Group):
    """The commands, listed in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if "did you mean" not in error.format_message().lower():  # click says it from 8.4 on
                error.message += did_you_mean(args[0], self.commands)
            raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=lambda ctx, param, value: value and print_version(ctx),
    help="Show the versions of mlclip, torch and Python, and exit.",
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


# From click 8.2 on, `mlclip` alone is this error. Its message is the help, of many lines.
NO_COMMAND = getattr(click.exceptions, "NoArgsIsHelpError", ())

for command in (pseudolabel, train, predict, evaluate, calibrate, report, review, export, models, cache, demo):
    cli.add_command(command)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def main(args: list[str] | None = None) -> None:
    """Run one command and exit with its status."""
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        prepare_streams()
        keep_freed_memory()
        limit_threads()
        status = _status(args)
        if status == options.SKIPPED and "TORCHELASTIC_RUN_ID" in os.environ:
            status = 0  # torchrun takes every other status for a failure, and stops the other ranks
    except KeyboardInterrupt:  # before the command started, or while it was ending
        status = INTERRUPTED
    sys.exit(status)


def _running(args: list[str] | None) -> click.Command | None:
    """The command that the arguments name."""
    return next((cli.commands[name] for name in args or sys.argv[1:] if name in cli.commands), None)


def _status(args: list[str] | None) -> int:
    """Run one command; errors become one line on stderr and an exit status."""
    try:
        status = cli.main(args, prog_name="mlclip", standalone_mode=False) or 0
        sys.stdout.flush()  # here, so that a full disk is noticed
        return status
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        if not isinstance(error, NO_COMMAND):
            error.message = printable(error.message)  # it can contain file names, from a shell pattern
        error.show()
        return USAGE if isinstance(error, click.UsageError) else FAILED
    except InputError as error:
        click.echo(f"mlclip: {printable(in_options(str(error), _running(args)))}", err=True)
        return USAGE if isinstance(error, OptionError) else FAILED
    except (KeyboardInterrupt, click.Abort) as stop:  # click has ended the current line
        click.echo(f"mlclip: {interrupted(_running(args), stop)}", err=True)
        return INTERRUPTED
    except (OSError, MemoryError, RuntimeError) as error:
        if is_closed_pipe(error):  # `mlclip ... | head`: the reader is gone, which is not an error
            drop_stdout()
            return 0
        line = explain(error, _running(args))
        if line is None:
            raise
        if isinstance(error, OSError) and not error.filename:
            drop_stdout()
        click.echo(f"mlclip: {printable(line)}", err=True)
        return FAILED
    finally:
        # Not imported here: an interrupt may have stopped the import of torch, which cannot be repeated.
        stop_distributed = getattr(sys.modules.get("mlclip.distributed"), "stop_distributed", None)
        if stop_distributed:
            stop_distributed()


def interrupted(command: click.Command | None, stop: BaseException | None = None) -> str:
    """The message after Ctrl-C. A command can say itself what is kept, in the KeyboardInterrupt that it raises."""
    said = getattr(stop, "__cause__", None) or stop
    kept = " ".join(map(str, said.args)) if said else ""
    kept = kept or KEPT.get(command.name if command else None)
    return f"interrupted; {kept}" if kept else "interrupted"
