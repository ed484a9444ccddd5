"""The papers' data sets from photos to the mAP of a student, beside the published numbers, for those who have the data.

    python benchmarks/papers.py voc07 VOCdevkit/VOC2007 --clip RN50x64      # trainval -> test
    python benchmarks/papers.py voc12 VOCdevkit/VOC2012 --clip RN50x64      # train -> val
    python benchmarks/papers.py coco COCO --clip RN50x64                    # train2014 -> val2014
    python benchmarks/papers.py nuswide NUS-WIDE --clip RN50x64             # the official train and test lists

For each method: labels of the training photos, a student of these labels, and its mAP on the test photos. CDUL's and CCD's labels teach
by the training of their paper, centred and dense labels by `--method fixed`. The teacher's own labels of the test photos are judged,
too: methods that train nothing (TagCLIP) publish that number. Every training photo is used, also those that show no class, because nobody
has looked at the labels. True labels are used only to report.

A number is worth little without its list of photos, so the protocol is printed with every table. Photos that are in a list and not on the
disk are counted. `--test-list FILE` takes only the test photos that it names, one per line. Where only difficult objects of a class
are in a photo (VOC), the photo counts neither as positive nor as negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
import click

import mlclip
from mlclip.images import Found

METHODS = {"cdul": "cdul", "ccd": "ccd", "centred": "fixed", "dense": "fixed"}  # of labels -> of the training


@dataclass(frozen=True)
class Protocol:
    """One data set. The numbers of photos are those of the complete lists; the published mAPs are in percent."""

    classes: str  # preset
    train: tuple[str, int]  # source of true labels, {} is the folder; photos
    test: tuple[str, int]
    words: str
    published: dict[str, float]


PROTOCOLS = {
    "voc07": Protocol(
        "voc", ("voc:{}:trainval", 5011), ("voc:{}:test", 4952),
        "VOC 2007: trains on trainval, tests on test. A class of which a photo has only difficult objects is ignored in that photo.",
        {"CDUL": 89.0, "CCD": 91.0, "BAC-GCN": 93.0, "PIAA": 92.5, "TagCLIP": 92.8},
    ),
    "voc12": Protocol(
        "voc", ("voc:{}:train", 5717), ("voc:{}:val", 5823),
        "VOC 2012: trains on train, tests on val (the labels of the test server's photos are not public; some papers use them). A class of "
        "which a photo has only difficult objects is ignored in that photo.",
        {"CDUL": 88.6, "CCD": 90.1, "BAC-GCN": 93.2, "PIAA": 92.2},
    ),
    "coco": Protocol(
        "coco", ("coco:{}/annotations/instances_train2014.json", 82783), ("coco:{}/annotations/instances_val2014.json", 40504),
        "COCO 2014: trains on train, tests on val. Papers test on all 40,504 photos or on the 40,137 that show one of the 80 classes.",
        {"CDUL": 69.2, "CCD": 70.3, "BAC-GCN": 72.2, "PIAA": 74.6, "TagCLIP": 68.8},
    ),
    "nuswide": Protocol(
        "nuswide", ("nuswide:{}:train", 161789), ("nuswide:{}:test", 107859),
        "NUS-WIDE, 81 concepts: trains and tests on the official lists, as far as the photos are on the disk. Papers test on the 107,859 "
        "photos of the official list or on a list of 60,260 (`--test-list`).",
        {"CDUL": 44.0, "CCD": 44.5, "BAC-GCN": 48.8, "PIAA": 50.6, "TagCLIP": 35.0},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """The photos of one list that are on the disk, and their true labels."""

    photos: Found
    truth: mlclip.Labels
    words: str

    @property
    def showing(self) -> mlclip.Labels:
        """The true labels of the photos that show a class; a difficult object is not enough."""
        rows = (self.truth.scores == 1).any(1).nonzero().flatten().tolist()
        return self.truth.aligned([self.truth.paths[row] for row in rows], self.truth.classes)


def read_part(source: tuple[str, int], folder: Path, only: Path | None = None) -> Part:
    spec, complete = source
    truth = mlclip.read_truth(spec.format(folder))
    if only is not None:
        named = {line.strip().replace("\\", "/") for line in only.read_text().splitlines()}
        truth = truth.aligned([path for path in truth.paths if path in named], truth.classes)
    kept = [path for path in truth.paths if (Path(truth.root) / path).is_file()]
    photos = mlclip.find_images([Path(truth.root) / path for path in kept])
    words = f"{len(kept):,} photos on the disk of {len(truth):,} in the list; the complete list has {complete:,}"
    return Part(photos, truth.aligned(kept, truth.classes), words)


def run(name: str, folder: Path, clip: str, out: Path, *, only: Path | None = None, **student: Any) -> list[str]:
    """The lines of the table of one data set. `student`: further settings of the training."""
    protocol = PROTOCOLS[name]
    train, test = read_part(protocol.train, folder), read_part(protocol.test, folder, only)
    lines = [
        protocol.words,
        f"- training: {train.words}",
        f"- test: {test.words}; {len(test.showing):,} show a class",
        "",
    ]
    lines += [
        f"| {name}, CLIP {clip} | labels on train | labels on test | student on test | on test photos that show a class |",
        "|---|---|---|---|---|",
    ]
    out.mkdir(parents=True, exist_ok=True)
    for method, training in METHODS.items():
        settings = {"classes": protocol.classes, "clip": clip, "method": method}
        labels = mlclip.pseudolabel(train.photos, output=out / f"{name}-{method}.labels.pt", overwrite=True, **settings)
        on_test = mlclip.pseudolabel(test.photos, **settings)
        model = out / f"{name}-{method}.pt"
        mlclip.train(
            labels, model, method=training, clip=clip if training == "ccd" else None, overwrite=True, **student
        )
        predicted = mlclip.predict(test.photos, model)
        pairs = ((labels, train.truth), (on_test, test.truth), (predicted, test.truth), (predicted, test.showing))
        lines.append(f"| {method} | {' | '.join(f'{bench.mean_ap(scores, truth):.1f}' for scores, truth in pairs)} |")
        print(lines[-1], flush=True)
    return lines + [f"| {paper}, published | – | – | {mAP:.1f} | – |" for paper, mAP in protocol.published.items()]


@click.command(help=__doc__)
@click.argument("name", type=click.Choice(list(PROTOCOLS)))
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@bench.option("--clip", default="RN50x64", help="The teacher: a name, or a weight file.")
@click.option("--test-list", type=click.Path(path_type=Path), help="Take only the test photos that this file names.")
@bench.out("papers")
@click.option("--preset", help="As for `mlclip train`, like the four below.")
@click.option("--arch")
@click.option("--init")
@click.option("--size", type=int)
@click.option("--epochs", type=int)
def main(name: str, folder: Path, clip: str, test_list: Path | None, out: Path, **student: Any) -> None:
    chosen = {setting: value for setting, value in student.items() if value is not None}
    print("\n".join(run(name, folder, clip, out, only=test_list, **chosen)))


if __name__ == "__main__":
    main()
