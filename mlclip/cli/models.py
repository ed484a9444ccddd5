"""`mlclip models`: the CLIP models that --clip knows by name."""

from __future__ import annotations

import click

from .console import table


@click.command()
def models():
    """List the CLIP models that --clip knows by name.

    For each: the size of the download, the input size, and the place of the weights.
    """
    from ..clip.registry import MODELS, is_cached, model_path

    rows = []
    for name, entry in MODELS.items():
        weights = str(model_path(name)) if is_cached(name) else "not downloaded yet; downloaded at first use"
        rows.append([name, f"{entry.approx_mb} MB", f"{entry.resolution} px", weights])
    rows.append(["tiny", "included", "64 px", "a toy: it knows only the drawn scenes of `mlclip demo`"])
    click.echo(table(["name", "size", "input", "weights"], rows, right=[1, 2]))
    return 0
