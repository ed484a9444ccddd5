"""Dense labels of real photos by a real teacher that is not a CLIP: an ImageNet classifier.

    python benchmarks/imagenet_teacher.py encode    # once; continues where it was interrupted
    python benchmarks/imagenet_teacher.py labels
    python benchmarks/imagenet_teacher.py view-sets

The teacher is MobileNetV2. Its 1,280 features after the mean pool are the image embedding. The rows of its 1,000-way head are the
"text" vectors of 1,000 names; a VOC name is the mean of the rows of its kinds (KINDS_OF). The pool is a plain mean, so the cells are
exact: the feature map itself.

- Rows: a softmax does not change if one vector is added to every row. So the mean of the 1,000 rows is subtracted first. Then, as with
  prompt templates, the rows of a name are L2-normalised, averaged and normalised again.
- Bias: it is left out. It is the same for every photo, and so is the level of a class, which centring subtracts.
- Logit scale: the head multiplies a cosine by the norms of the row and of the embedding. The scale is the product of their means.

The form and all constants are those of `mlclip pseudolabel --method dense`, fixed on the drawn scenes. Nothing was chosen on these
photos. Training and test photos are two folders, each labelled on its own. True labels are used only to report.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import bench
import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

import mlclip
from mlclip.config import PseudolabelConfig
from mlclip.files import save_plain
from mlclip.images.views import read_parts
from mlclip.methods import dense
from mlclip.teacher.encode import PHOTO_SIDE, VIEW_SIDE
from mlclip.teacher.label import centre, centred_labels, label_by_view_sets, labels_by_gaussians
from mlclip.teacher.scoring import class_scores

SIDE, STRIDE, GRIDS = 160, 32, (1, 2, 3)  # pixels of a view; of a cell
SIZES = ("1", "1.5", "2", "2.5")  # of the whole photo, as multiples of SIDE; "1" needs no further pass
CHUNK = 128  # photos in a file
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's weights
NAMES = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]


def _between(first: str, last: str) -> tuple[str, ...]:
    return tuple(NAMES[NAMES.index(first) : NAMES.index(last) + 1])


# The ImageNet names of each VOC class. No row shows any person (only a groom, a ballplayer and a scuba diver): that class is left out.
KINDS_OF: dict[str, tuple[str, ...]] = {
    "aeroplane": ("airliner", "warplane"),
    "bicycle": ("bicycle-built-for-two", "mountain bike"),
    "bird": _between("cock", "great grey owl") + _between("black grouse", "black swan")
    + _between("white stork", "albatross"),
    "boat": ("canoe", "catamaran", "container ship", "fireboat", "gondola", "lifeboat", "liner", "speedboat", "trimaran", "yawl"),
    "bottle": ("beer bottle", "pop bottle", "water bottle", "wine bottle"),
    "bus": ("minibus", "school bus", "trolleybus"),
    "car": ("beach wagon", "cab", "convertible", "jeep", "limousine", "minivan", "Model T", "racer", "sports car"),
    "cat": _between("tabby", "Egyptian cat"),
    "chair": ("barber chair", "folding chair", "rocking chair"),
    "cow": ("ox",),
    "diningtable": ("dining table",),
    "dog": _between("Chihuahua", "Mexican hairless"),
    "horse": ("sorrel",),
    "motorbike": ("moped", "motor scooter"),
    "pottedplant": ("pot",),
    "sheep": ("ram", "bighorn"),
    "sofa": ("studio couch",),
    "train": ("bullet train", "electric locomotive", "freight car", "passenger car", "steam locomotive"),
    "tvmonitor": ("monitor", "screen", "television"),
}  # fmt: skip
SHOWN = [name for name in bench.EVALUATED if name in KINDS_OF]  # at least 10 positives in both parts
SETS = ("cells", *SIZES)
BOTH = ("own", "gaussians")
ROWS: dict[str, dict] = {  # the view sets that are averaged, and which opinions of each set of cells
    **{f"{name} alone": {"sets": (name,)} for name in SETS},
    **{f"{name} alone, own levels only": {"sets": (name,), "opinions": ("own",)} for name in SETS},
    **{f"{name} alone, Gaussians only": {"sets": (name,), "opinions": ("gaussians",)} for name in SETS},
    "views + cells, own levels only": {"sets": ("views", "cells"), "opinions": ("own",)},
    "views + cells + 2, own levels only": {"sets": ("views", "cells", "2"), "opinions": ("own",)},
    "views + cells + 2, equal weights": {"sets": ("views", "cells", "2"), "equal": True},
    "views + cells + 1 + 1.5 + 2 + 2.5": {"sets": ("views", *SETS)},
    "views + cells + 1 + 1.5 + 2 + 2.5, equal weights": {"sets": ("views", *SETS), "equal": True},
}


class StoredViews:
    """Vectors (N, V, D) of one kind, in files of CHUNK photos: as `StoredViews` of the library."""

    def __init__(self, files: Sequence[Path], grids: Sequence[int], sizes: Sequence[int]):
        self.grids, self.sizes = tuple(grids), tuple(sizes)
        self._parts = [torch.load(file, mmap=True, weights_only=True) for file in files]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rows = torch.arange(len(self)).split([len(part) for part in self._parts])
        return ((index, part.float()) for index, part in zip(rows, self._parts, strict=True))


def load_teacher(data: Path) -> nn.Module:
    model = mobilenet_v2()
    state = torch.load(data / "mobilenet_v2_imagenet.pth", weights_only=True)
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    return model.eval()


def text_vectors(head: nn.Linear) -> Tensor:
    """The names of KINDS_OF as L2-normalised vectors (C, D)."""
    rows = F.normalize(head.weight - head.weight.mean(0), dim=-1)  # (1000, D)
    names = [rows[[NAMES.index(kind) for kind in kinds]].mean(0) for kinds in KINDS_OF.values()]
    return F.normalize(torch.stack(names), dim=-1).detach()


def names_and_scale(data: Path, out: Path) -> tuple[Tensor, float]:
    """The vectors of the names (C, D), and the logit scale."""
    head = load_teacher(data).classifier[1]
    norms = torch.cat([torch.load(file, weights_only=True) for file in files_of(out, "train", "norm")])
    return text_vectors(head), float(norms.float().mean() * (head.weight - head.weight.mean(0)).norm(dim=-1).mean())


def files_of(out: Path, part: str, kind: str) -> list[Path]:
    """The files of one kind, as far as all of the first kinds are there, too."""
    files = sorted(out.glob(f"{part}-{kind}-*.pt"))
    return [file for file in files if (out / file.name.replace(f"-{kind}-", "-2-")).exists()]


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@bench.data
@bench.out("imagenet_teacher")
@bench.count
@torch.inference_mode()
def encode(data: Path, out: Path, count: int | None) -> None:
    """Write the half-precision views and pooled cells of every photo, CHUNK photos a file."""
    out.mkdir(parents=True, exist_ok=True)
    network, started = fuse(load_teacher(data).features).to(memory_format=torch.channels_last), time.monotonic()
    first_sets = (("norm", "views", "cells", "1"), ("2",))  # of the default of `--views`
    for several in (first_sets, (("1.5",),), (("2.5",),)):
        for part in ("train", "test"):
            paths = [data / "photos" / part / path for path in mlclip.read_labels(data / f"truth_{part}.csv").paths][
                :count
            ]
            for first, sets in ((first, sets) for first in range(0, len(paths), CHUNK) for sets in several):
                files = [out / f"{part}-{name}-{first:04d}.pt" for name in sets]
                if all(file.exists() for file in files):
                    continue
                of_photos = [encode_photo(network, str(path), sets) for path in paths[first : first + CHUNK]]
                for file, vectors in zip(files, zip(*of_photos, strict=True), strict=True):
                    save_plain(torch.cat(vectors).half(), file)
            print(f"{part}, {' '.join(sum(several, ()))}: {time.monotonic() - started:.0f} s", flush=True)


def encode_photo(network: nn.Module, photo: str, sets: Sequence[str]) -> list[Tensor]:
    """The vectors (1, V, D) of one photo for each of `sets`: the norm of its embedding, views and cells, or one size."""
    if len(sets) == 1:
        side = dense.side_at(sets[0], SIDE, STRIDE)
        return [dense.pool_cells(feature_maps(network, photo, side, (1,)), PHOTO_SIDE)]  # (1, s·s, D)
    maps = feature_maps(network, photo, SIDE, GRIDS)  # (V, h, w, D)
    pooled = maps.mean((1, 2))  # (V, D)
    cells = dense.pool_cells(maps, VIEW_SIDE).flatten(0, 1)  # (V·4, D)
    return [
        pooled[:1].norm(dim=-1, keepdim=True)[None],
        F.normalize(pooled, dim=-1)[None],
        cells[None],
        dense.pool_cells(maps[:1], PHOTO_SIDE),
    ]


def feature_maps(network: nn.Module, photo: str, side: int, grids: Sequence[int]) -> Tensor:
    """The last feature map of every view, (V, h, w, D)."""
    pixels = torch.from_numpy(read_parts(photo, [(side, grids)])[0][0]).float() / 255
    x = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return network(x.to(memory_format=torch.channels_last)).permute(0, 2, 3, 1)


def views_of(out: Path, part: str, kind: str) -> StoredViews:
    per_view = {"views": 1, "cells": VIEW_SIDE**2}
    if kind in per_view:
        return StoredViews(files_of(out, part, kind), GRIDS, [n * n * per_view[kind] for n in GRIDS])
    side = min(PHOTO_SIDE, dense.side_at(kind, SIDE, STRIDE) // STRIDE)
    return StoredViews(files_of(out, part, kind), (1,), (side * side,))


def available(out: Path) -> list[str]:
    """The sets of cells that were encoded for all photos."""
    return [
        k for k in SETS if all(len(files_of(out, p, k)) == len(files_of(out, p, "views")) for p in ("train", "test"))
    ]


def opinions_of(out: Path, part: str, text: Tensor, scale: float) -> dict[tuple[str, str], tuple[Tensor, float]]:
    """Labels (N, C) and agreement of every opinion, each computed once, as `label_by_view_sets` does. Also reference labels."""
    config, classes = PseudolabelConfig("dense"), len(text)
    views, flat = views_of(out, part, "views"), scale * config.rank_scale
    by_levels, reference, _ = centred_labels(views, text, classes, scale, config)
    found = {("views", "own"): (reference, dense.agreement(by_levels.scores, reference))}
    found["centred, no profiles", ""] = (by_levels.labels, 0.0)
    found["softmax of the whole photo", ""] = (
        torch.cat([class_scores(vectors[:, 0], text, scale) for _, vectors in views]), 0.0)  # fmt: skip
    for kind in available(out):
        cells = views_of(out, part, kind)
        own = centre(cells, text, flat, config.prior_photos)
        found[kind, "own"] = (own.labels, dense.agreement(own.scores, reference))
        labels, scores, _ = labels_by_gaussians(cells, text, own, reference, flat, config)
        found[kind, "gaussians"] = (labels, dense.agreement(scores, reference))
    return found


def combined(found: dict, sets: Sequence[str], opinions: Sequence[str] = BOTH, equal: bool = False) -> Tensor:
    chosen = [found[kind, opinion] for kind in sets for opinion in opinions if (kind, opinion) in found]
    return dense.average_labels([labels for labels, _ in chosen], [1.0 if equal else agreed for _, agreed in chosen])


def quality(labels: Tensor, truth: Tensor) -> tuple[float, float]:
    """mAP and macro-F1 at ½, in percent, over the classes of SHOWN that some photo has."""
    columns = [list(KINDS_OF).index(name) for name in SHOWN]
    labels = labels[:, columns]
    predicted, positive = labels >= 0.5, truth == 1
    f1 = 2 * (predicted & positive).sum(0) / (predicted.sum(0) + positive.sum(0)).clamp(min=1)
    aps = [mlclip.average_precision(labels[:, c], truth[:, c]) for c in range(len(SHOWN))]
    return 100 * float(np.nanmean(aps)), 100 * float(f1[positive.any(0)].mean())


@main.command()
@bench.data
@bench.out("imagenet_teacher")
@torch.inference_mode()
def labels(data: Path, out: Path) -> None:
    """Labels by every combination of view sets, and what they agree with."""
    text, scale = names_and_scale(data, out)
    print(f"logit scale {scale:.1f}; {len(KINDS_OF)} names; reported classes: {' '.join(SHOWN)}\n")
    columns: dict[str, list[str]] = {}
    for part in ("train", "test"):
        truth = mlclip.read_labels(data / f"truth_{part}.csv")
        photos = len(views_of(out, part, "views"))
        print(f"{part}: {photos} of {len(truth)} photos", flush=True)
        truth = truth.aligned(truth.paths[:photos], SHOWN).scores
        found = opinions_of(out, part, text, scale)
        for kind, opinion in found:
            if kind in SETS:
                columns.setdefault(f"agreement of {kind}, {opinion}", []).append(f"{found[kind, opinion][1]:.2f}")
        for name, which in (
            ("softmax of the whole photo", None),
            ("centred, no profiles", None),
            ("centred", None),
            *((name, row) for name, row in ROWS.items() if {*row["sets"]} <= {"views", *available(out)}),
        ):
            made = combined(found, **which) if which else found.get((name, ""), found["views", "own"])[0]
            columns.setdefault(name, []).append("{:.1f} | {:.1f}".format(*quality(made, truth)))
    bench.table("labels", "train: mAP", "macro-F1 at ½", "test: mAP", "macro-F1 at ½")
    for name, cells in columns.items():
        if not name.startswith("agreement"):
            bench.row(name, *cells)
    bench.table("agreement with centred labels", "train", "test")
    for name, cells in columns.items():
        if name.startswith("agreement"):
            bench.row(name.removeprefix("agreement of "), *cells)


@main.command("view-sets")
@bench.data
@bench.out("imagenet_teacher")
@torch.inference_mode()
def view_sets(data: Path, out: Path) -> None:
    """Quality over cost: dense labels from lists of view sets, as `labels.py view-sets` on drawn scenes."""
    text, scale = names_and_scale(data, out)
    columns = ("train: mAP", "macro-F1 at ½", "test: mAP", "macro-F1 at ½", "mean mAP", "mean macro-F1", "left out")
    bench.table("views", "views' worth of encoding", *columns)
    for sets in (sets for sets in bench.VIEW_LISTS if {*sets} <= {"views", *available(out)}):
        cells, left_out = [], []
        for part in ("train", "test"):
            vectors = {name: views_of(out, part, name) for name in dense.encoded_sets(sets)}
            made, summary = label_by_view_sets(vectors, text, len(text), scale, PseudolabelConfig("dense", views=sets))
            truth = mlclip.read_labels(data / f"truth_{part}.csv")
            cells += quality(made, truth.aligned(truth.paths[: len(made)], SHOWN).scores)
            facts = summary["view_sets"].items()
            left_out += [f"{part} {n}" for n, f in facts if f["agreements"][0] < summary["least_agreement"]]
        cells += [(cells[0] + cells[2]) / 2, (cells[1] + cells[3]) / 2]
        cost = bench.views_worth(sets, SIDE, STRIDE)
        bench.row(",".join(sets), f"{cost:.4g}", *(f"{x:.1f}" for x in cells), " ".join(left_out))


if __name__ == "__main__":
    main()
