"""`mlclip demo`: the ordinary commands on drawn scenes, then a table of the results."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from pathlib import Path

import click

from ..config import LARGEST_SEED, InputError
from . import options
from .console import table

TRAIN_SCENES, TEST_SCENES = 1200, 500
CDUL = ("--method", "cdul")
LABELS = [  # name, file, options of `mlclip pseudolabel`
    ("CDUL's global", "labels_global.pt", (*CDUL, "--set", "part=global")),
    ("CDUL's aggregate", "labels_aggregate.pt", (*CDUL, "--set", "part=aggregate")),
    ("CDUL's final", "labels_cdul.pt", CDUL),
    ("centred", "labels.pt", ("--method", "centred")),
]
STUDENTS = [  # name, labels, model
    ("CDUL's final", "labels_cdul.pt", "model_cdul.pt"),
    ("the centred", "labels.pt", "model.pt"),
    ("the true", "truth_train.csv", "model_truth.pt"),
]
DRAWN = ("train", "test", "classes.txt", "truth_train.csv", "truth_test.csv", "clip.pt")
PAGE = "report.html"
FILES = (*DRAWN, PAGE, "report_files", "embeddings", "embeddings_centred")
FILES += (*(file for _, file, _ in LABELS), *(file for *_, file in STUDENTS))
STUDENT = ["--arch", "clip-resnet", "--size", "96", "--epochs", "8", "--batch-size", "32", "--lr", "1e-3"]


@click.command()
@options.place("--dir", "folder", default="mlclip-demo", metavar="DIR", help="Folder for all files of the demo.")
@click.option(
    "--seed", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True, help="Seed of scenes and training."
)
@options.overwrite
@options.device
@options.quiet
def demo(folder, seed, overwrite, device, progress):
    """Run all steps in three minutes, on drawn scenes.

    Each scene shows one large object and several small ones. The tiny CLIP has only been trained on single objects. It
    labels the scenes, and a student learns these labels. The true labels are used only for the table at the end, and for
    the last student, which learns them for comparison. The page of the labels is made, too.

    Each step is an ordinary command and is printed before it runs. stdout gets the table. The demo needs no network.
    """
    from ..clip.registry import TINY_FILE
    from ..demo import write_scenes
    from ..labels.table import read_labels
    from ..student.predict import predict

    started, folder = time.monotonic(), Path(folder)
    _empty(folder, overwrite)
    try:
        write_scenes(folder, train=TRAIN_SCENES, test=TEST_SCENES, seed=seed, progress=progress)
        shutil.copyfile(TINY_FILE, folder / "clip.pt")
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}. Choose another --dir.") from error
    common = ["--device", device, *(["--quiet"] if progress.quiet else [])]
    main = click.get_current_context().find_root().command

    def step(*args: str) -> None:
        progress.log("")
        progress.log("$ " + shlex.join(["mlclip", *args]))
        main.main([*args, *common], prog_name="mlclip", standalone_mode=False)

    place = {name: str(folder / name) for name in FILES}
    rows = []
    for name, output, extra in LABELS:
        store = ["--store", place["embeddings_centred" if name == "centred" else "embeddings"]]
        step("pseudolabel", place["train"], "--clip", place["clip.pt"], *store, *extra, "-o", place[output])
        rows.append([f"{name} labels", "train", _mean_ap(read_labels(place[output]), place["truth_train.csv"])])
    for name, labels, model in STUDENTS:
        start = ["--init", place["clip.pt"], "--seed", str(seed)]
        step("train", "--labels", place[labels], "--root", place["train"], *STUDENT, *start, "-o", place[model])
        scores = predict([place["test"]], place[model], device=device, progress=progress)
        rows.append([f"student of {name} labels", "test", _mean_ap(scores, place["truth_test.csv"])])
    for name in ("labels_global.pt", "labels_aggregate.pt"):  # only needed for the table
        os.unlink(place[name])
    main.main(["report", "--labels", place["labels.pt"], "-o", place[PAGE], "--quiet"], standalone_mode=False)
    click.echo(table(["what", "scenes", "mAP (%)"], rows, right=[2]))
    progress.log(f"{time.monotonic() - started:.0f} s; all files are in {folder}/. Open {place[PAGE]} in a browser")
    progress.log('now with your photos: mlclip pseudolabel PHOTOS --classes "cat,dog,car"')


def _empty(folder: Path, overwrite: bool) -> None:
    """Create the folder, and remove an earlier demo from it. InputError if it holds anything else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(path.name for path in folder.iterdir())
    except OSError as error:  # a file has this name
        raise InputError(f"{folder} cannot be used as a folder: {error.strerror}. Choose another --dir.") from error
    if found and not overwrite:
        raise InputError(f"{folder} is not empty. Add --overwrite to replace the demo there, or choose another --dir.")
    ends = (".skipped.csv", ".resume.pt", ".log.csv")
    known = {*FILES, *(f".{name}.lock" for name in FILES), *(Path(name).stem + end for name in FILES for end in ends)}
    for name in found:
        if name not in known:
            raise InputError(f"{folder} holds {name}, which is not a file of the demo. Choose another --dir.")
    if found:
        shutil.rmtree(folder)


def _mean_ap(scores, truth: str) -> str:
    """mAP in percent, computed as `mlclip evaluate` does."""
    from ..labels.metrics import mean_average_precision
    from ..labels.table import read_truth

    return f"{100 * mean_average_precision(scores, read_truth(truth))[0]:.1f}"
