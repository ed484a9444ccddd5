"""`mlclip models` and `mlclip demo`: what there is, and how it works."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
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


@click.command()
@click.option("--dir", "folder", default="mlclip-demo", show_default=True, help="Where everything goes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which world is drawn.")
@options.overwrite
@options.running
def demo(folder, seed, overwrite, device, loaders, quiet):
    """See the whole path work in three minutes, offline: drawn scenes, a tiny CLIP, a student.

    Scenes hold one large thing and several small ones. A tiny CLIP that has only ever seen single things labels them,
    a student learns its labels, and all is judged by the truth, which nothing was chosen by. Each step is an ordinary
    command, shown as it runs.
    """
    from . import demonstration

    demonstration.run(Path(folder), seed=seed, overwrite=overwrite, device=device, loaders=loaders, quiet=quiet)
    return 0
