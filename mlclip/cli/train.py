"""`mlclip train`: labels and photos to a student."""

from __future__ import annotations

import click

from ..config import MODEL_FILE, TableOptions, TrainConfig
from . import options
from .settings import config_file, settings


@click.command()
@options.labels(
    help="The labels that `mlclip pseudolabel` wrote, or a table of true labels; 'labels-*.pt' for several files."
)
@options.root
@options.output(default=MODEL_FILE, help="Where the model is written.")
@settings(TrainConfig, tables=TableOptions)
@options.place(
    "--corrections",
    help="Labels that a person corrected, lines `path,class,value`, as the page of `mlclip report` writes them. They do not "
    "change, and count as much as four others.",
)
@click.option("--resume", is_flag=True, help="Continue after the last finished epoch of an interrupted training.")
@options.overwrite
@options.place(
    "--truth", help="True labels, as for `mlclip evaluate`, to report the mAP of every epoch. Training ignores them."
)
@options.running
@options.verbose
@options.offline
@config_file
@options.place(
    "--save-labels", help="With cdul and ccd: where the updated labels are written, .pt, .csv, .json or .jsonl."
)
@click.option(
    "--clip",
    help="With ccd, and with --arch clip-head: the CLIP that made the labels, as for `mlclip pseudolabel`.  "
    "[default: as recorded in the labels]",
)
def train(labels, output, save_labels, device, progress, **more):
    """Train a small network on labels and their photos.

    It reads labels.pt and writes model.pt. Every finished epoch is saved, so an interrupted training continues with
    --resume. model.log.csv lists the numbers of each epoch.

    On a GPU the defaults are those of the papers (--preset paper). On a CPU they are a small student and a short training
    (--preset laptop). For several GPUs, run: torchrun --nproc-per-node 2 -m mlclip train, with the same options.
    """
    from ..distributed import start_distributed
    from ..training.train import train as train_and_write

    distributed = start_distributed(device)
    progress.quiet |= not distributed.is_main
    files = {"output": output, "save_labels": save_labels}
    checkpoint = train_and_write(labels, **files, distributed=distributed, progress=progress, **more)
    if not distributed.is_main:
        return 0
    model = checkpoint.model
    progress.log(f"{output}: {model.arch}, {len(model.classes)} classes, {model.size} px")
    if save_labels:
        progress.log(f"{save_labels}: the updated labels")
    progress.log("next: mlclip predict PHOTO" + ("" if output == MODEL_FILE else f" --model {output}"))
    return options.report_skipped(checkpoint.meta["skipped"], output)
