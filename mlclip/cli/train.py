"""`mlclip train`: labels and photos to a student."""

from __future__ import annotations

import os

import click

from ..config import AVERAGED, LABELS_FILE, MODEL_FILE, PAPER_SCHEDULES, OptionError, TrainConfig
from . import options
from .console import Console


def _papers(place: int) -> str:
    """The papers' values of one part of the schedule, for the help."""
    shared, ccd = PAPER_SCHEDULES["cdul"][place], PAPER_SCHEDULES["ccd"][place]
    return f"the papers': {shared}, for consistent and ccd {ccd}"


@click.command()
@click.option(
    "--labels",
    "labels_file",
    default=LABELS_FILE,
    show_default=True,
    help="What `mlclip pseudolabel` wrote, or a table of true labels.",
)
@click.option("--root", help="The photos' folder, if it is not where the labels say.")
@options.setting(
    TrainConfig,
    "method",
    "--method",
    type=click.Choice(TrainConfig.METHODS),
    help="fixed: the labels stay. consistent: and two views of a photo must agree. cdul: labels and weights learn in turns. "
    "ccd: as consistent, and the teacher looks again where the student points.",
)
@options.setting(TrainConfig, "arch", "--arch", help="The student's network.")
@options.setting(
    TrainConfig,
    "init",
    "--init",
    help="What it starts from: imagenet (torchvision's weights), none, or a FILE of such weights.",
)
@options.setting(TrainConfig, "size", "--size", type=int, help="Its square input, in pixels.")
@options.setting(TrainConfig, "epochs", "--epochs", type=int, help=f"Passes over the photos.  [default: {_papers(0)}]")
@options.setting(
    TrainConfig,
    "batch_size",
    "--batch-size",
    type=int,
    help=f"Photos to a step, over all processes together.  [default: {_papers(1)}]",
)
@options.setting(TrainConfig, "lr", "--lr", type=float, help="Adam's learning rate.")
@options.setting(
    TrainConfig, "head_lr_factor", "--head-lr-factor", type=float, help="How much faster the new last layer learns."
)
@options.setting(
    TrainConfig,
    "average",
    "--average",
    type=float,
    help="The weights are averaged over this share of the training so far; 0 takes the last step's.  [default: "
    f"{AVERAGED['fixed']:g}, for cdul and ccd {AVERAGED['cdul']:g}, as in the papers]",
)
@options.setting(TrainConfig, "label_rate", "--label-rate", type=float, help="cdul: η, the label step's rate.")
@options.setting(TrainConfig, "sigma", "--sigma", type=float, help="cdul: σ, how wide around ½ labels move.")
@options.setting(
    TrainConfig, "label_every", "--label-every", type=int, help="cdul: a label step at the end of every k-th epoch."
)
@options.setting(
    TrainConfig,
    "warmup",
    "--warmup",
    type=int,
    help="consistent, cdul, ccd: epochs of labels as they are and one view alone.",
)
@options.setting(
    TrainConfig,
    "cam_boost",
    "--cam-boost",
    type=float,
    help="consistent, ccd: factor of the class maps' positive cells.",
)
@options.setting(
    TrainConfig,
    "local_views",
    "--local-views",
    type=click.Choice(TrainConfig.LOCAL_VIEWS),
    help="ccd: where the label update looks again; around is boxes with a margin; none leaves the update out.",
)
@options.setting(
    TrainConfig, "update_keep", "--update-keep", type=float, help="ccd: r, how much of the old label the update keeps."
)
@options.setting(
    TrainConfig,
    "consistency",
    "--consistency",
    type=float,
    help="consistent, ccd: weight of the loss between weak and strong view.",
)
@options.setting(
    TrainConfig, "stopping", "--stopping/--no-stopping", help="ccd: end where the label-free measure accelerates."
)
@click.option("--clip", help="ccd: where the labels' CLIP is, a name or a FILE.  [default: as when they were made]")
@click.option("--other-teacher", is_flag=True, help="ccd: allow another CLIP than the one that made the labels.")
@click.option(
    "--boxes",
    help="ccd, --local-views boxes or around: voc:DIR[:split] or coco:FILE, whose annotated boxes are looked at.",
)
@options.setting(TrainConfig, "seed", "--seed", type=int, help="Fixes every random choice.")
@click.option("--save-labels", help="cdul, ccd: where the refined labels go: .pt, .csv, .json or .jsonl.")
@click.option(
    "--truth", help="True labels to report mAPs of every epoch by, as for `mlclip evaluate`; nothing else uses them."
)
@click.option("-o", "--output", default=MODEL_FILE, show_default=True, help="Where the model goes.")
@click.option("--resume", is_flag=True, help="Go on after the last finished epoch of a run that was stopped.")
@options.overwrite
@options.offline
@options.running
def train(
    labels_file, root, clip, other_teacher, boxes, save_labels, truth, output, resume, overwrite, offline, device, num_workers,
    quiet, **settings,
):  # fmt: skip
    """Train a small network on labels.pt and the photos it names, and write it to model.pt.

    Every epoch is kept as it ends, so a run that was stopped goes on with --resume; its facts are in model.log.csv. Other
    defaults than the papers' suit a CPU better: for example --arch mobilenet_v2 --size 224 --lr 1e-4 --batch-size 32 --epochs 4.
    Several GPUs or machines: torchrun --nproc-per-node 2 -m mlclip train, with the same options.
    """
    from contextlib import nullcontext
    from dataclasses import replace

    from ..distributed import start_distributed
    from ..files import locked
    from ..labels.datasets import read_truth
    from ..labels.table import read_labels
    from ..training.loop import train as train_student

    config = TrainConfig(**settings)
    labels = read_labels(labels_file)
    if save_labels and os.path.exists(save_labels) and os.path.samefile(save_labels, labels_file):
        raise OptionError(f"--save-labels {save_labels} would replace the labels being read; choose another name")
    known = read_truth(truth) if truth else None
    if root:
        labels = replace(labels, root=root)
    distributed = start_distributed(device)
    progress = Console(quiet=quiet or not distributed.is_main)
    lock = os.path.join(os.path.dirname(output), f".{os.path.basename(output)}.lock")
    with locked(lock, output) if distributed.is_main else nullcontext():
        checkpoint = train_student(
            labels, output, config=config, teacher=_teacher(config, labels, clip, offline, distributed, progress),
            other_teacher=other_teacher, annotated=_annotated(config, boxes), truth=known, save_labels=save_labels,
            resume=resume, overwrite=overwrite, offline=offline, num_workers=num_workers, distributed=distributed, progress=progress,
        )  # fmt: skip
    if not distributed.is_main:
        return 0
    progress.log(f"{output}: {checkpoint.model.arch}, {len(labels.classes)} classes, {config.size} px")
    if save_labels:
        progress.log(f"{save_labels}: the refined labels")
    progress.log("next: mlclip predict PHOTO" + ("" if output == MODEL_FILE else f" --model {output}"))
    return options.report_skipped(checkpoint.meta["skipped"], output)


def _teacher(config: TrainConfig, labels, clip, offline, distributed, progress):
    """The CLIP that CCD's label update asks: the labels' own unless another is named; None where none is needed."""
    made = labels.meta.get("clip")
    if not config.updates_labels:
        if clip:
            raise OptionError(
                "--clip has no part in this training: only --method ccd with local views asks the teacher"
            )
        return None
    if not (clip or made):
        return None
    from ..clip import load_clip
    from ..teacher.scoring import Teacher

    activation = made.get("activation", "quick_gelu") if made else "quick_gelu"
    return Teacher(
        load_clip(clip or made["name"], activation=activation, offline=offline, progress=progress), distributed.device
    )


def _annotated(config: TrainConfig, boxes: str | None):
    if (config.local_views in config.ANNOTATED_VIEWS) != (boxes is not None):
        raise OptionError("--local-views boxes or around and --boxes go together: give both, or neither")
    if boxes is None:
        return None
    from ..labels.datasets import read_boxes

    return read_boxes(boxes)
