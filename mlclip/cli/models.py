"""`mlclip models`: the teachers that --clip takes by name."""

from __future__ import annotations

import click

from .console import table


@click.command()
def models():
    """List the teachers that --clip takes by name: size, input resolution, and whether they are here."""
    from ..clip.registry import MODELS, is_cached, model_path

    rows = []
    for name, entry in MODELS.items():
        here = str(model_path(name)) if is_cached(name) else "not here yet; downloaded on first use"
        rows.append([name, f"{entry.approx_mb} MB", f"{entry.resolution} px", here])
    rows.append(["tiny", "shipped", "64 px", "knows the drawn world of `mlclip demo` and nothing else"])
    click.echo(table(["name", "size", "input", "weights"], rows, right=[1, 2]))
    return 0
