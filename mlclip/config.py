"""The settings of labelling and training, and the one error that a user can cause. No torch here.

Each setting is one dataclass field: its default, its help text, its choices and the methods that use it. The command line
builds its options from these fields.
"""

from __future__ import annotations

import codecs
import math
import os
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

LABELS_FILE = "labels.pt"  # default output of `mlclip pseudolabel`, default input of `mlclip train` and `mlclip report`
MODEL_FILE = "model.pt"  # default output of `mlclip train`, default input of `predict`, `calibrate` and `export`
ARCHS = (  # of torchvision, for the student
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "convnext_tiny",
)
CLIP_ARCH = "clip-resnet"  # the image ResNet of a CLIP; widths and depths come from its weights
CLIP_HEAD = "clip-head"  # the `arch` that is a head on CLIP's embeddings
LARGEST_SIZE = 4096  # pixels, side of the student's input
LARGEST_SEED = 2**32 - 1
NAMED_KINDS = ("views", "cells")  # of views, for dense labels; any other kind is a number
LARGEST_KIND = 8  # the largest multiple of CLIP's input size


def default_workers() -> int:
    """Dataloader workers, or threads that decode photos, where the user does not say: one per core, at most 8."""
    return min(8, os.cpu_count() or 1)


class InputError(Exception):
    """An input cannot be used. The message is one line: which file or value, what is wrong, what to do."""


class OptionError(InputError):
    """A setting has a value that can never work, whatever the files contain: wrong usage."""


def _setting(default: Any, help: str, *, methods: tuple[str, ...] = (), **more: Any) -> Any:
    """A field with its help text. `methods`: the methods that use it; empty for all of them.

    Further metadata: `choices`, the allowed values, `known`, names that are allowed besides files, `if_none`, what happens where
    the value is None, and `unused_by`, the few methods that do not use a setting of all others.
    """
    return field(default=default, metadata={"help": help, "methods": methods, **more})


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise OptionError(f"`{name}` is {value}: it must be {wanted}")


def _require_finite(config: Any) -> None:
    for setting in fields(config):
        value = getattr(config, setting.name)
        _require(not isinstance(value, float) or math.isfinite(value), setting.name, value, "a finite number")


def _require_choices(config: Any) -> None:
    for setting in fields(config):
        value, choices = getattr(config, setting.name), setting.metadata.get("choices")
        _require(choices is None or value in choices, setting.name, value, f"one of {', '.join(choices or ())}")


def _methods_of(setting: Field, config: Any) -> tuple[str, ...]:
    """The methods that use a setting."""
    unused_by = setting.metadata.get("unused_by", ())
    return setting.metadata["methods"] or tuple(method for method in config.METHODS if method not in unused_by)


def used_settings(config: Any) -> dict[str, Any]:
    """The settings that the method of `config` uses, by name, in the order of the fields."""
    used = [setting.name for setting in fields(config) if config.method in _methods_of(setting, config)]
    return {name: getattr(config, name) for name in used}


def _refuse_unused(config: Any) -> None:
    """OptionError for a changed setting that belongs to another method and would be ignored silently."""
    for setting in fields(config):
        name, methods = setting.name, _methods_of(setting, config)
        if config.method not in methods and getattr(config, name) != setting.default:
            use = " or ".join(f'`method="{method}"`' for method in methods)
            raise OptionError(
                f'`{name}` has no effect with `method="{config.method}"`. Use {use}, or do not set `{name}`.'
            )


_CDUL, _CCD, _CENTRED, _DENSE = ("cdul",), ("ccd",), ("centred", "dense"), ("dense",)  # methods of labelling


@dataclass(frozen=True)
class PseudolabelConfig:
    """How view embeddings become pseudo labels. The defaults of a paper's method are the paper's."""

    METHODS = ("cdul", "ccd", "centred", "dense")
    PARTS = ("final", "global", "aggregate")

    method: str | None = _setting(
        None,
        "centred: views of several sizes; the mean level of each class is subtracted first. cdul: the whole photo and its "
        "snippets (crops on a grid), fused. ccd: the whole photo at a larger size, debiased. dense: as centred, and also every "
        "cell of CLIP's feature maps.",
        choices=METHODS,
        if_none="dense for a CLIP with a ResNet, else centred",
    )
    part: str = _setting(
        "final", "The final labels, or one of the two parts they combine.", methods=_CDUL, choices=PARTS
    )
    snippets: int = _setting(3, "n of the n×n grid of snippets.", methods=_CDUL)
    zeta: float = _setting(
        0.5,
        "Threshold ζ: a class whose highest snippet score reaches it takes that maximum, any other class its minimum. "
        "0 always takes the maximum.",
        methods=_CDUL,
    )
    disagreement: float = _setting(
        0.0, "λ: weight of |global − aggregate| in the final labels (the paper's supplement).", methods=_CDUL
    )
    view_size: int | None = _setting(
        None,
        "Side of the photo after resizing, in pixels.",
        methods=_CCD,
        if_none="10/7 of CLIP's input size",  # 448 -> 640
    )
    max_entropy: float = _setting(2.0, "A photo is confident up to this entropy, in nats.", methods=_CCD)
    floor: float = _setting(0.05, "Scores below this value are raised to it before debiasing.", methods=_CCD)
    debias: bool = _setting(True, "Divide the scores by the bias of each class.", methods=_CCD)
    grids: tuple[int, ...] = _setting(
        (1, 2, 3), "The views: an n×n grid for each n; 1 is the whole photo.", methods=_CENTRED
    )
    rank_scale: float = _setting(
        0.4, "Scale of the softmax within a view, as a multiple of CLIP's logit scale.", methods=_CENTRED
    )
    prior_photos: float = _setting(
        30.0,
        "Weight of the other classes when the scores of one class are fitted, as a number of photos.",
        methods=_CENTRED,
    )
    profiles: bool = _setting(
        True,
        "Also compare each view with the profile of each class, learned from the views that clearly show it. With dense: each "
        "cell, too.",
        methods=_CENTRED,
    )
    kinds: tuple[str, ...] = _setting(
        ("views", "cells", "2"),
        "What is averaged: views (the centred labels), cells (those of the same views, without a further pass), and numbers: the "
        "cells of the whole photo at that multiple of CLIP's input size, each with a further pass.",
        methods=_DENSE,
    )
    attention: str = _setting(
        "key",
        "With a transformer: which patches its last block mixes for the cells. identity: none. query, key: those with similar "
        "queries or keys.",
        methods=_DENSE,
        choices=("identity", "query", "key"),
    )
    compound: bool = _setting(
        False,
        'Also encode a prompt such as "cat and dog" for every pair of names, and give a class what its pairs have in common. '
        "For up to 400 names; it costs nothing per photo.",
    )
    temperature: float | None = _setting(
        None, "Softmax temperature τ.", if_none="CLIP's own; 0.01 for OpenAI's weights"
    )

    def __post_init__(self):
        if self.method is None:
            dense = any(s.metadata["methods"] == _DENSE and getattr(self, s.name) != s.default for s in fields(self))
            object.__setattr__(self, "method", "dense" if dense else "centred")
        _require_choices(self)
        _require(1 <= self.snippets <= 16, "snippets", self.snippets, "from 1 to 16")
        _require(0 <= self.zeta <= 1, "zeta", self.zeta, "from 0 (always the maximum) to 1")
        _require(self.temperature is None or self.temperature > 0, "temperature", self.temperature, "above 0")
        _require(0 <= self.disagreement <= 1, "disagreement", self.disagreement, "from 0 to 1")
        _require(self.view_size is None or self.view_size >= 32, "view_size", self.view_size, "at least 32 pixels")
        _require(self.max_entropy > 0, "max_entropy", self.max_entropy, "above 0 nats")
        _require(self.rank_scale > 0, "rank_scale", self.rank_scale, "above 0")
        _require(self.prior_photos > 0, "prior_photos", self.prior_photos, "above 0")
        text, in_range = ",".join(map(str, self.grids)), all(1 <= n <= 16 for n in self.grids)
        wanted = "different numbers from 1 to 16, such as 1,2,3"
        _require(bool(self.grids) and in_range and len(set(self.grids)) == len(self.grids), "grids", text, wanted)
        object.__setattr__(self, "grids", tuple(sorted(self.grids)))
        self._require_kinds()
        _require(0 <= self.floor < 1, "floor", self.floor, "0 or more, and below 1")
        _require_finite(self)
        _refuse_unused(self)

    def _require_kinds(self) -> None:
        object.__setattr__(self, "kinds", tuple(map(str, self.kinds)))
        different = {kind if kind in NAMED_KINDS else _number(kind) for kind in self.kinds}
        holds = bool(self.kinds) and len(different) == len(self.kinds)
        holds = holds and all(kind in NAMED_KINDS or 0.5 <= kind <= LARGEST_KIND for kind in different)
        wanted = (
            f"different ones of {', '.join(NAMED_KINDS)} and numbers from 0.5 to {LARGEST_KIND}, such as views,cells,2"
        )
        _require(holds, "kinds", ",".join(map(str, self.kinds)), wanted)


def _number(text: str) -> float:
    """The number in a text; NaN if there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclass(frozen=True)
class ExportConfig:
    """How a table of labels is written for another tool."""

    OUTPUTS = {  # noqa: RUF012 (not a field) tool -> default output
        "label-studio": "label-studio.json",
        "cvat": "cvat.xml",
        "fiftyone": "fiftyone",
        "coco": "coco.json",
        "yolo-cls": "yolo-cls",
        "csv": "export.csv",
        "xmp": "xmp",
    }

    to: str | None = _setting(
        None,
        "Write a table of labels for this tool or in this format, instead of a model.",
        choices=tuple(OUTPUTS),
        if_none="no table is written",
    )
    url_prefix: str = _setting(
        "/data/local-files/?d=",
        "What stands before the path of a photo in its URL. The default is for Label Studio's local files; an empty text gives "
        "relative paths.",
        methods=("label-studio",),
    )
    csv_form: str = _setting(
        "scores",
        "scores or binary (1 from the threshold on, else 0): a column per class. long: a line per photo and class.",
        methods=("csv",),
        choices=("scores", "binary", "long"),
    )
    copy_photos: bool = _setting(False, "Copy the photos instead of linking to them.", methods=("yolo-cls",))
    sidecar_name: str = _setting(
        "full",
        "The sidecar of photo.jpg: photo.jpg.xmp (full) or photo.xmp (stem).",
        methods=("xmp",),
        choices=("full", "stem"),
    )
    beside_photos: bool = _setting(
        False, "Write sidecars beside the photos. What others wrote there is kept.", methods=("xmp",)
    )

    def __post_init__(self):
        _require(self.to in self.OUTPUTS, "to", self.to, f"one of {', '.join(self.OUTPUTS)}")
        for setting in fields(self)[1:]:
            value, (tool,) = getattr(self, setting.name), setting.metadata["methods"]
            choices = setting.metadata.get("choices", (value,))
            _require(value in choices, setting.name, value, f"one of {', '.join(map(str, choices))}")
            if value != setting.default and tool != self.to:
                raise OptionError(f'`{setting.name}` has no effect with `to="{self.to}"`. Use `to="{tool}"`.')


# What the student is and how long it learns, where the user does not say. "paper": the papers' values for VOC. "laptop": a student
# that a CPU trains in minutes.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"arch": "resnet101", "size": 448, "lr": 1e-5},
    "laptop": {"arch": "mobilenet_v2", "size": 224, "lr": 1e-4, "epochs": 4, "batch_size": 32},
}
# Epochs and photos per weight step with the preset "paper": CDUL's and CCD's.
PAPER_SCHEDULES = {"fixed": (20, 8), "cdul": (20, 8), "ccd": (10, 16), "consistent": (10, 16)}
# The weights of the student are averaged over this share of the training so far. The papers do not average.
AVERAGED = {"fixed": 0.1, "consistent": 0.1, "cdul": 0.0, "ccd": 0.0}

_TWO_VIEWS = ("consistent", "ccd")  # methods of training
_PROBE = ("probe",)  # it has no weight steps


def _scheduled(place: int) -> str:
    """The default of one part of PAPER_SCHEDULES, in words."""
    name = ("epochs", "batch_size")[place]
    paper = f"{PAPER_SCHEDULES['cdul'][place]}, or {PAPER_SCHEDULES['ccd'][place]} with consistent and ccd"
    return f"{paper}; laptop: {PRESETS['laptop'][name]}"


def _preset(name: str) -> str:
    """The default that the presets give to one setting, in words."""
    return f"{PRESETS['paper'][name]}; laptop: {PRESETS['laptop'][name]}"


@dataclass(frozen=True)
class TrainConfig:
    """How the student learns. What is None takes the value of the preset, by default the papers' for VOC."""

    METHODS = ("fixed", "probe", "consistent", "cdul", "ccd")
    LOCAL_VIEWS = ("cam", "cells", "grid", "random", "boxes", "around", "none")
    ANNOTATED_VIEWS = ("boxes", "around")
    PRECISIONS = ("auto", "fp32", "bf16")

    method: str | None = _setting(
        None,
        "fixed: the labels do not change. probe: the same, and only the last layer learns, on features that are computed once. "
        "consistent: the labels do not change, and two augmented views of a photo must agree. "
        "cdul: weights and labels are updated in turn. ccd: as consistent, and CLIP looks again at the places that the "
        "student points to; this updates the labels once.",
        choices=METHODS,
        if_none=f"fixed; with --arch {CLIP_HEAD}: probe",
    )
    preset: str | None = _setting(
        None,
        "Size of the student and length of its training. paper: as in the papers, for a GPU. laptop: a small student that a CPU "
        "trains in minutes.",
        choices=tuple(PRESETS),
        if_none="paper on a GPU, laptop on a CPU",
    )
    arch: str | None = _setting(
        None,
        "Network of the student, such as resnet18, mobilenet_v2 or clip-resnet. clip-head: only a layer on CLIP's own embeddings "
        "is fitted, in seconds; prediction then needs that CLIP.",
        if_none=_preset("arch"),
        known=(*ARCHS, CLIP_ARCH, CLIP_HEAD),
    )
    init: str = _setting(
        "imagenet",
        "Initial weights: imagenet (torchvision's), none, clip (those of the labels' CLIP, for clip-resnet), or a FILE.",
        known=("imagenet", "none", "clip"),
    )
    size: int | None = _setting(None, "Side of the student's square input, in pixels.", if_none=_preset("size"))
    epochs: int | None = _setting(None, "Passes over the photos.", if_none=_scheduled(0), unused_by=_PROBE)
    batch_size: int | None = _setting(
        None, "Photos per training step, over all processes together.", if_none=_scheduled(1), unused_by=_PROBE
    )
    lr: float | None = _setting(None, "Learning rate of Adam.", if_none=_preset("lr"), unused_by=_PROBE)
    head_lr_factor: float = _setting(  # CCD's; CDUL gives none
        10.0, "Learning rate of the new last layer, as a multiple of the learning rate.", unused_by=_PROBE
    )
    head_init: str = _setting(
        "labels",
        "How the last layer starts. labels: random, with a bias that predicts the mean of each class's labels. probe: as "
        '`method="probe"` fits it.',
        unused_by=_PROBE,
        choices=("labels", "probe"),
    )
    augment: str = _setting(
        "flip",
        "Random changes of the photos. flip: half of them are mirrored. crop: also a random part of each, 50 to 100 % of its area.",
        unused_by=_PROBE,
        choices=("flip", "crop"),
    )
    average: float | None = _setting(
        None,
        "Average the weights over this share of the training so far; 0 takes those of the last step.",
        if_none=f"{AVERAGED['fixed']:g}, or {AVERAGED['cdul']:g} with cdul and ccd, as in the papers",
        unused_by=_PROBE,
    )
    correction_weight: float = _setting(
        4.0,  # a label that is wrong with probability e carries about (1 − 2e)² of the information of a certain one; e = ¼
        "A corrected label counts as much as this many others, see --corrections.",
    )
    seed: int = _setting(0, "Seed of every random choice.")
    precision: str = _setting(
        "auto",
        "Number format of the training steps. auto: a 16-bit format on a GPU, bf16 on a CPU that is faster with it, else fp32.",
        choices=PRECISIONS,
        unused_by=_PROBE,
    )
    cache: bool = _setting(
        True,
        "With more than one epoch, decode the photos once, into a file in the cache that is deleted at the end.",
        unused_by=_PROBE,
    )
    warmup: int = _setting(  # CDUL gives no number; this is CCD's
        2, "First epochs, with unchanged labels and one view of each photo.", methods=("consistent", "cdul", "ccd")
    )
    label_rate: float = _setting(1.0, "Step size η of the label step.", methods=_CDUL)
    sigma: float = _setting(1.0, "Width σ of the Gaussian gate ψ: which labels around ½ move.", methods=_CDUL)
    label_every: int = _setting(1, "A label step at the end of every k-th epoch after the warm-up.", methods=_CDUL)
    cam_boost: float = _setting(
        3.0, "Factor for positive cells of the class maps, before pooling; 1 is off.", methods=_TWO_VIEWS
    )
    local_views: str = _setting(
        "cam",
        "Where CLIP looks again: where the student sees a class (cam), where the cells of CLIP's own feature map show it (cells), "
        "on a grid, at random places, in annotated boxes, around them (boxes with a margin), or none: no label update.",
        methods=_CCD,
        choices=LOCAL_VIEWS,
    )
    update_keep: float = _setting(0.2, "Share r of the old label that the label update keeps.", methods=_CCD)
    consistency: float = _setting(
        1.0, "Weight of the loss between weak and strong view after the warm-up; 0 is off.", methods=_TWO_VIEWS
    )
    stopping: bool = _setting(True, "Stop early, when the label-free measure starts to rise faster.", methods=_CCD)

    def __post_init__(self):
        if self.preset is None:
            object.__setattr__(self, "preset", "paper")
        if self.method is None:
            object.__setattr__(self, "method", "probe" if self.arch == CLIP_HEAD else "fixed")
        _require_choices(self)
        if self.arch == CLIP_HEAD:
            self._require_clip_head()
        epochs, batch_size = PAPER_SCHEDULES.get(self.method, (None, None))
        schedule = {"epochs": epochs, "batch_size": batch_size, "average": AVERAGED.get(self.method)}
        used = used_settings(self)
        for name, value in {**schedule, **PRESETS[self.preset]}.items():
            if name in used and getattr(self, name) is None and not (name == "size" and self.arch == CLIP_HEAD):
                object.__setattr__(self, name, value)
        if self.arch != CLIP_HEAD:
            _require(64 <= self.size <= LARGEST_SIZE, "size", self.size, f"from 64 to {LARGEST_SIZE} pixels")
        _require(0 <= self.seed <= LARGEST_SEED, "seed", self.seed, f"from 0 to {LARGEST_SEED}")
        if self.method != "probe":
            self._require_schedule()
        _require(self.correction_weight > 0, "correction_weight", self.correction_weight, "above 0")
        _require(self.warmup >= 0, "warmup", self.warmup, "0 or more")
        _require(self.label_rate >= 0, "label_rate", self.label_rate, "0 (labels do not change) or more")
        _require(self.sigma > 0, "sigma", self.sigma, "above 0")
        _require(self.label_every >= 1, "label_every", self.label_every, "at least 1")
        _require(self.cam_boost >= 1, "cam_boost", self.cam_boost, "1 (off) or more")
        if self.updates_labels:
            wanted = "at least 1: the label update needs a student that has learned something"
            _require(self.warmup >= 1, "warmup", self.warmup, wanted)
        _require(0 <= self.update_keep <= 1, "update_keep", self.update_keep, "from 0 to 1")
        _require(self.consistency >= 0, "consistency", self.consistency, "0 (off) or more")
        _require_finite(self)
        _refuse_unused(self)

    def _require_clip_head(self) -> None:
        """CLIP's weights, view size and embeddings are fixed; only the head is fitted."""
        if self.method != "probe":
            raise OptionError(
                f'`arch="{CLIP_HEAD}"` works only with `method="probe"`, not with `method="{self.method}"`: CLIP itself is not '
                "trained. Remove `method`, or use another `arch`."
            )
        for name, default in (("size", None), ("init", "imagenet")):
            if getattr(self, name) != default:
                raise OptionError(f'`{name}` has no effect with `arch="{CLIP_HEAD}"`. Do not set `{name}`.')

    def _require_schedule(self) -> None:
        _require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require(self.lr > 0, "lr", self.lr, "above 0")
        _require(self.head_lr_factor > 0, "head_lr_factor", self.head_lr_factor, "above 0")
        wanted = "from 0 (the weights of the last step) to 1 (the mean of all steps)"
        _require(0 <= self.average <= 1, "average", self.average, wanted)

    @property
    def updates_labels(self) -> bool:
        """Whether CCD's label update runs: the teacher scores the places that the student points to."""
        return self.method == "ccd" and self.local_views != "none"

    @property
    def two_views(self) -> bool:
        """Whether the student is CCD's: boosted class maps, and a strong view that must agree with the weak one."""
        return self.method in _TWO_VIEWS


@dataclass(frozen=True)
class TableOptions:
    """How a .csv of another program is read, where its own content allows two readings. None: the table decides."""

    READINGS = ("absent", "unknown")
    SEPARATORS = ("comma", "semicolon", "tab", "pipe")
    LABEL_SEPARATORS = ("comma", "semicolon", "pipe", "space", "none")

    path_column: str | None = _setting(
        None, "The column with the photos.", if_none="path, filename, image and the like"
    )
    label_column: str | None = _setting(
        None, "The column with the names of each photo's classes.", if_none="labels, tags, class and the like"
    )
    label_separator: str | None = _setting(
        None,
        "What is between the names in one cell of that column; none: a cell is one name.",
        choices=LABEL_SEPARATORS,
        if_none="what the cells show",
    )
    split: str | None = _setting(
        None, "Read only the rows with this value in a column, as VALUE or COLUMN=VALUE.", if_none="all rows"
    )
    minus_one: str | None = _setting(
        None,
        "What -1 means. absent: 0 is then unknown, as in VOC's lists. unknown: 0 is then absent.",
        choices=READINGS,
        if_none="absent where the table also has 0, and less often",
    )
    empty_cells: str | None = _setting(
        None,
        "What an empty cell means.",
        choices=READINGS,
        if_none="unknown; absent in a column of names and in a table of x marks",
    )
    ignore_columns: str | None = _setting(
        None, "Columns that are not classes, separated by commas.", if_none="columns of other text, row numbers, boxes"
    )
    keep_columns: str | None = _setting(
        None, "Columns that are classes though their names suggest something else, separated by commas."
    )
    separator: str | None = _setting(
        None, "What is between the columns.", choices=SEPARATORS, if_none="what the first lines show"
    )
    encoding: str | None = _setting(
        None, "Encoding of the text, such as cp1252 for older Excel files.", if_none="UTF-8, or UTF-16"
    )

    @property
    def for_scores(self) -> TableOptions:
        """The same for a table of scores beside true labels: `split` and `empty_cells` are about the true labels."""
        return replace(self, split=None, empty_cells=None)

    def __post_init__(self):
        for setting in fields(self):
            value, choices = getattr(self, setting.name), setting.metadata.get("choices")
            _require(
                choices is None or value in (None, *choices), setting.name, value, f"one of {', '.join(choices or ())}"
            )
        if self.encoding is not None:
            try:
                known = codecs.lookup(self.encoding)._is_text_encoding
            except (LookupError, ValueError):
                known = False
            _require(known, "encoding", self.encoding, "the name of a text encoding, such as utf-8 or cp1252")
