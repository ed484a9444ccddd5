"""What `mlclip demo` does: the ordinary commands on a drawn world, then a table. Nothing is rigged."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from pathlib import Path

import click

from ..config import InputError
from .console import Console, table

TRAIN_SCENES, TEST_SCENES = 1200, 500
STUDENT = ["--arch", "clip-resnet", "--size", "96", "--epochs", "8", "--batch-size", "32", "--lr", "1e-3"]


def run(folder: Path, *, seed: int, overwrite: bool, device: str, loaders: int, quiet: bool) -> None:
    """Draw the world into `folder`, label, train and judge by the command line's own commands, and show a table."""
    from ..labels import read_labels
    from . import cli
    from .judging import predict_with

    started = time.monotonic()
    talk = Console(quiet=quiet)
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise InputError(
                f"{folder} is not empty; add --overwrite to draw the demo there anew, or choose another --dir"
            )
        _clear(folder)
    draw(folder, seed, talk)
    common = ["--device", device, "--workers", str(loaders), *(["--quiet"] if quiet else [])]

    def step(*args: str) -> None:
        talk.say("\n$ " + shlex.join(["mlclip", *args]))
        cli.main([*args, *common], prog_name="mlclip", standalone_mode=False)

    train, clip, store = str(folder / "train"), str(folder / "clip.pt"), str(folder / "embeddings")
    truth_train, truth_test = str(folder / "truth_train.csv"), str(folder / "truth_test.csv")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for part in ("global", "aggregate", "final"):
            output = str(folder / "labels.pt") if part == "final" else os.path.join(scratch, f"{part}.pt")
            step("pseudolabel", train, "--clip", clip, "--store", store, "--part", part, "-o", output)
            rows.append([f"{part} labels", "train", _mean_ap(read_labels(output), truth_train)])
    for name, labels, model in (
        ("student of the final labels", str(folder / "labels.pt"), str(folder / "model.pt")),
        ("student of the true labels", truth_train, str(folder / "model_truth.pt")),
    ):
        step("train", "--labels", labels, "--root", train, *STUDENT, "--init", clip, "--seed", str(seed), "-o", model)
        scores = predict_with(model, [str(folder / "test")], 64, device, loaders, quiet)
        rows.append([name, "test", _mean_ap(scores, truth_test)])
    click.echo(table(["what", "scenes", "mAP (%)"], rows, right=[2]))
    talk.say(f"{time.monotonic() - started:.0f} s; everything is in {folder}/, true labels served only to report")


def draw(folder: Path, seed: int, talk: Console) -> None:
    """The world's files: `train/`, `test/`, `classes.txt`, the two truth tables, and the tiny CLIP as `clip.pt`."""
    from ..clip.registry import TINY_FILE
    from ..world import write_world

    write_world(folder, train=TRAIN_SCENES, test=TEST_SCENES, seed=seed, talk=talk)
    shutil.copyfile(TINY_FILE, folder / "clip.pt")


def _clear(folder: Path) -> None:
    """Remove an earlier demo, and only that: a folder with anything else in it is refused."""
    ours = {"train", "test", "embeddings", "classes.txt", "truth_train.csv", "truth_test.csv", "clip.pt", "labels.pt",
            "labels.skipped.csv", "boxes_train.json", "boxes_test.json"}  # fmt: skip
    ours |= {model + end for model in ("model", "model_truth")
             for end in (".pt", ".resume.pt", ".log.csv", ".tensorboard")}  # fmt: skip
    others = sorted(p.name for p in folder.iterdir() if p.name not in ours)
    if others:
        raise InputError(f"{folder} holds {others[0]}, which the demo did not make; choose another --dir")
    shutil.rmtree(folder)


def _mean_ap(scores, truth: str) -> str:
    """mAP in percent, by the code of `mlclip evaluate`."""
    from ..datasets import read_truth
    from ..labels import mean_average_precision

    return f"{100 * mean_average_precision(scores, read_truth(truth))[0]:.1f}"
