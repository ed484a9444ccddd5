"""The command line: options, one library call, output. No command imports torch before it runs."""

from __future__ import annotations

import os
import signal
import sys

import click

from .. import __version__
from ..config import InputError, OptionError
from .calibrate import calibrate
from .demo import demo
from .evaluate import evaluate
from .export import export
from .messages import in_options
from .models import models
from .predict import predict
from .pseudolabel import pseudolabel
from .report import report
from .train import train

FAILED, USAGE, INTERRUPTED = 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mlclip")
def cli():
    """A folder of photos and a list of class names in, a small multi-label classifier out.

    Three commands, one after the other, each finding what the one before left:

    \b
      mlclip pseudolabel imgs/           CLIP labels the photos      -> labels.pt
      mlclip train --labels labels.pt    a small network learns them -> model.pt
      mlclip predict img.jpg             the small network alone     -> a table

    `mlclip demo` shows all of it in three minutes, with nothing downloaded. Exit status: 0 done, 1 failed,
    2 wrong usage, 3 done but some photos were skipped, 130 interrupted (progress is kept).
    """


for command in (pseudolabel, train, predict, evaluate, calibrate, report, export, models, demo):
    cli.add_command(command)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def main(args: list[str] | None = None) -> None:
    """Run one command and leave with its exit status."""
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        status = _status(args)
    except KeyboardInterrupt:  # before the command began, or while it was ending
        status = INTERRUPTED
    sys.exit(status)


def _running(args: list[str] | None) -> click.Command | None:
    """The command that the arguments name."""
    return next((cli.commands[name] for name in args or sys.argv[1:] if name in cli.commands), None)


def _status(args: list[str] | None) -> int:
    try:
        return cli.main(args, prog_name="mlclip", standalone_mode=False) or 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return USAGE if isinstance(error, click.UsageError) else FAILED
    except InputError as error:
        click.echo(f"mlclip: {in_options(str(error), _running(args))}", err=True)
        return USAGE if isinstance(error, OptionError) else FAILED
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nmlclip: interrupted; what was finished is kept, the same command goes on from there", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # `mlclip ... | head`: the reader has gone, and that is fine
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        click.echo("mlclip: the GPU's memory is full; lower --batch-size or --size, or use --device cpu", err=True)
        return FAILED
    finally:
        # Not by an import: an interrupt may have come in the middle of torch's, which cannot be made twice.
        stop_distributed = getattr(sys.modules.get("mlclip.distributed"), "stop_distributed", None)
        if stop_distributed:
            stop_distributed()
