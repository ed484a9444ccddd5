"""`mlclip cache`: what the cache holds, and how to clear it."""

from __future__ import annotations

import time
from contextlib import suppress

import click

from .console import Console, table


@click.command()
@click.option("--clear", is_flag=True, help="Delete the embeddings, cells and features in the cache, if you confirm.")
@click.option("--weights", "clear_weights", is_flag=True, help="With --clear: delete the downloaded weights, too.")
@click.option("--yes", is_flag=True, help="With --clear: do not ask for confirmation.")
def cache(clear, clear_weights, yes):
    """List or clear the cache: CLIP weights, embeddings, cells and features.

    The cache is the folder $MLCLIP_CACHE, or ~/.cache/mlclip. An embedding store keeps what CLIP computed for the photos
    of one folder. With it, the next `mlclip pseudolabel` on this folder takes seconds. A cell store keeps the same for
    the feature maps of `--method dense`, and a feature store for the network of `mlclip train --method probe`.

    It is safe to clear the cache: weights are downloaded again, and the rest is computed again, when they are needed.
    Stores made with --store DIR are not in the cache. They are not listed and not deleted.
    """
    from ..clip.registry import cached_weights
    from ..files import cache_folder
    from ..teacher.cache import clear_stores, list_stores

    if (clear_weights or yes) and not clear:
        raise click.UsageError("--weights and --yes have no effect without --clear.")
    weights, stores, progress = cached_weights(), list_stores(), Console()
    if not clear:
        if weights or stores:
            click.echo(table(["what", "size", "photos", "last use", "path"], _rows(weights, stores), right=[1, 2]))
        progress.log(f"{cache_folder()}: {_size(sum(item.size for item in [*weights, *stores]))} in total")
        return 0
    left = list((cache_folder() / "inputs").glob("mlclip-inputs-*.u8"))  # photos decoded by a killed training
    weights = weights if clear_weights else []
    what = f"{len(stores)} stores of embeddings, cells or features"
    what += f" and {len(weights)} weight files" if clear_weights else ""
    what += f" and {len(left)} files of decoded photos" if left else ""
    size = _size(sum(item.size for item in [*stores, *weights]) + sum(file.stat().st_size for file in left))
    if not (stores or weights or left):
        progress.log(f"{cache_folder()}: nothing to delete")
    elif yes or click.confirm(f"Delete {what} ({size})?", err=True):
        freed = clear_stores(stores)
        for file in [*left, *(item.path for item in weights)]:
            with suppress(FileNotFoundError):
                freed += file.stat().st_size
                file.unlink()
        progress.log(f"{cache_folder()}: {what} deleted, {_size(freed)} freed")
    return 0


def _rows(weights: list, stores: list) -> list[list[str]]:
    """One line per weight file and per store; stores in the order of their last use, latest first."""
    from ..teacher.store import MANIFEST

    lines = []
    for file in weights:
        what = f"CLIP {file.name}" + ("" if file.complete else " (unfinished)")
        lines.append([what, _size(file.size), "", "", str(file.path)])
    used = {store.path: (store.path / MANIFEST).stat().st_mtime for store in stores}  # every run writes the manifest
    for store in sorted(stores, key=lambda store: -used[store.path]):
        what = store.kind + ("" if store.complete else " (unfinished)")
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(used[store.path]))
        lines.append([what, _size(store.size), str(store.photos), day, str(store.path)])
    return lines


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
