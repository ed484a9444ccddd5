"""What the shell can complete: files, and names that an option knows. Nothing here imports torch.

bash shows files only where no other proposal is given; zsh and fish show both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def names_or_files(known: Callable[[], Iterable[str]]) -> Complete:
    """Completes the known names that begin with the text, in upper or lower case, and files."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        start = incomplete.casefold()
        names = [name for name in known() if name.casefold().startswith(start)]
        return [*files(ctx, param, incomplete), *map(CompletionItem, names)]

    return complete


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leaves the completion of files to the shell."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leaves the completion of folders to the shell."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def class_presets() -> list[str]:
    """The presets of --classes."""
    from ..labels.class_names import CLASS_PRESETS

    return list(CLASS_PRESETS)


def clip_models() -> list[str]:
    """The names of --clip."""
    from ..clip.registry import available_models

    return available_models()


def template_sets() -> list[str]:
    """The sets of prompts of --template."""
    from ..labels.class_names import TEMPLATES

    return list(TEMPLATES)


def devices() -> list[str]:
    """The names of --device."""
    return ["auto", "cpu", "cuda", "mps"]
