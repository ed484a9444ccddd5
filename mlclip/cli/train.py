"""`mlclip train`: labels and photos to a student."""

from __future__ import annotations

from dataclasses import fields

import click

from ..config import CLIP_HEAD, LABELS_FILE, MODEL_FILE, TableOptions, TrainConfig, train_config, used_settings
from . import options, settings_file
from .console import Console


@click.command(cls=options.Command)
@click.option(
    "--labels",
    default=LABELS_FILE,
    show_default=True,
    type=click.Path(),
    help="The labels that `mlclip pseudolabel` wrote, or a table of true labels.",
)
@click.option(
    "--root",
    metavar="DIR",
    type=click.Path(),
    help="The folder of the photos, if the photos have moved or the labels are a .csv.",
)
@click.option(
    "-o", "--output", default=MODEL_FILE, show_default=True, type=click.Path(), help="Where the model is written."
)
@options.settings(TrainConfig, TableOptions)
@click.option(
    "--corrections",
    metavar="FILE",
    type=click.Path(),
    help="Labels that a person corrected, lines `path,class,value`, as the page of `mlclip report` writes them. They do not "
    "change, and count as much as four others.",
)
@click.option("--resume", is_flag=True, help="Continue after the last finished epoch of an interrupted training.")
@options.overwrite
@click.option(
    "--truth",
    type=click.Path(),
    help="True labels, as for `mlclip evaluate`: report the mAP of every epoch. They do not influence the training.",
)
@options.running
@options.verbose
@options.offline
@settings_file.config_file
@settings_file.print_config
@click.option(
    "--save-labels",
    metavar="FILE",
    type=click.Path(),
    cls=options.MethodOption,
    methods=("cdul", "ccd"),
    help="Where the updated labels are written: .pt, .csv, .json or .jsonl.",
)
@click.option(
    "--clip",
    cls=options.MethodOption,
    methods=("ccd", "probe"),
    help="For ccd, and for --arch clip-head: the CLIP that made the labels, as for `mlclip pseudolabel`.  "
    "[default: as recorded in the labels]",
)
@options.tables
def train(labels, output, save_labels, device, quiet, print_config, **settings):
    """Train a small network on labels and their photos.

    It reads labels.pt and writes model.pt. Every finished epoch is saved, so an interrupted training continues with
    --resume. model.log.csv lists the numbers of each epoch.

    On a GPU the defaults are those of the papers (--preset paper). On a CPU they are a small student and a short training
    (--preset laptop). For several GPUs, run: torchrun --nproc-per-node 2 -m mlclip train, with the same options.
    """
    from ..distributed import start_distributed
    from ..training.train import train as train_and_write

    if print_config:
        return settings_file.print_settings(_resolved(settings, device))
    distributed = start_distributed(device)
    progress = Console(quiet=quiet or not distributed.is_main)
    try:
        checkpoint = train_and_write(
            labels, output, save_labels=save_labels, distributed=distributed, progress=progress, **settings
        )
    except KeyboardInterrupt as stop:
        if settings["method"] != "probe" and settings["arch"] != CLIP_HEAD:
            raise
        raise KeyboardInterrupt("run the same command again to continue from what the cache holds") from stop
    if not distributed.is_main:
        return 0
    model = checkpoint.model
    progress.log(f"{output}: {model.arch}, {len(model.classes)} classes, {model.size} px")
    if save_labels:
        progress.log(f"{save_labels}: the updated labels")
    progress.log("next: mlclip predict PHOTO" + ("" if output == MODEL_FILE else f" --model {output}"))
    return options.report_skipped(checkpoint.meta["skipped"], output)


def _resolved(settings: dict, device: str) -> dict:
    """The settings of the training, with those of the preset for the device; None for a setting that the method does not use."""
    from ..distributed import choose_device

    names = [field.name for field in fields(TrainConfig)]
    config = train_config({name: settings[name] for name in names if name in settings}, choose_device(device).type)
    return dict.fromkeys(names) | used_settings(config)
