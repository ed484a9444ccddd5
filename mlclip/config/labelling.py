"""The one error that a user can cause, what a setting is, and the settings of labelling, of tables, and of the page about labels.

Settings are dataclass fields with a help text, allowed values, and the methods that use them.
"""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from ..spelling import nearest

NAMED_SETS = ("views", "cells")  # view sets of dense labels; any other one is a multiple of CLIP's input size ...
LARGEST_MULTIPLE = 8  # ... up to this
VIEW_SETS = {"fast": ("1.5", "2"), "default": ("views", "cells", "2"), "best": ("views", "cells", "1.5", "2", "2.5")}

_CDUL, _CCD, _CENTRED, _DENSE = ("cdul",), ("ccd",), ("centred", "dense"), ("dense",)  # methods of labelling


class InputError(Exception):
    """An input cannot be used. The message is one line: which file or value, what is wrong, what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the line alone, which says what to do."""
        return [f"{type(self).__name__}: {self}"]


class OptionError(InputError):
    """A setting has a value that can never work, whatever the files contain: wrong usage."""


def setting(default: Any, help: str, *, methods: tuple[str, ...] = (), **more: Any) -> Any:
    """A field with its help text. `methods`: the methods that use it; empty for all of them.

    Further metadata: `choices`, the allowed values; `least`, `within` and `above`, the limits of a number; `if_none`, what happens
    where the value is None; and `unused_by`, the few methods that do not use a setting of all others.
    """
    return field(default=default, metadata={"help": help, "methods": methods, "rare": False, **more})


def rare(default: Any, help: str, **more: Any) -> Any:
    """A `setting` that has no option of its own: `--set` changes it."""
    return setting(default, help, rare=True, **more)


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """OptionError with the value of a setting, and what it must be, unless that `holds`."""
    if not holds:
        raise OptionError(f"`{name}` is {value}: it must be {wanted}")


def check_values(config: Any) -> None:
    """OptionError for a value that its setting does not allow, and for inf and NaN. None is allowed where it is the default."""
    for entry in fields(config):
        name, value, facts = entry.name, getattr(config, entry.name), entry.metadata
        if value is None and entry.default is None:
            continue
        if "choices" in facts:
            require(value in facts["choices"], name, value, f"one of {', '.join(facts['choices'])}")
        require(not isinstance(value, float) or math.isfinite(value), name, value, "a finite number")
        if "above" in facts:
            require(value > facts["above"], name, value, f"above {facts['above']}")
        if "least" in facts:
            require(value >= facts["least"], name, value, f"at least {facts['least']}")
        if "within" in facts:
            low, high = facts["within"]
            require(low <= value <= high, name, value, f"from {low} to {high}")


def _methods_of(entry: Field, config: Any) -> tuple[str, ...]:
    """The methods that use a setting."""
    unused_by = entry.metadata.get("unused_by", ())
    return entry.metadata["methods"] or tuple(method for method in config.METHODS if method not in unused_by)


def used_settings(config: Any) -> dict[str, Any]:
    """The settings that the method of `config` uses, by name, in the order of the fields."""
    used = [entry.name for entry in fields(config) if config.method in _methods_of(entry, config)]
    return {name: getattr(config, name) for name in used}


def refuse_unused(config: Any) -> None:
    """OptionError for a changed setting that belongs to another method and would be ignored silently."""
    for entry in fields(config):
        name, methods = entry.name, _methods_of(entry, config)
        if config.method not in methods and getattr(config, name) != entry.default:
            use = " or ".join(f'`method="{method}"`' for method in methods)
            raise OptionError(
                f'`{name}` has no effect with `method="{config.method}"`. Use {use}, or do not set `{name}`.'
            )


def config_of(config: type, settings: dict[str, Any]) -> Any:
    """A config from settings by name. OptionError for a name that it does not have, with the nearest one."""
    names = [entry.name for entry in fields(config)]
    for name in settings:
        if name not in names:
            near = nearest(name, names)
            hint = f"did you mean `{near}`?" if near else f"there are {', '.join(names)}"
            raise OptionError(f"there is no setting `{name}`; {hint}")
    return config(**settings)


@dataclass(frozen=True)
class TeacherConfig:
    """How a CLIP computes, and what its weight file does not say about itself."""

    precision: str = rare(
        "auto",
        "Number format of CLIP's image encoder; auto takes 16 bits where the device is faster with them.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    clip_activation: str | None = rare(
        None,
        "For a weight FILE: the activation that it was trained with, quick_gelu for OpenAI's, gelu for most of LAION's.",
        choices=("quick_gelu", "gelu"),
        if_none="what the json in DIR says; quick_gelu for a FILE",
    )
    clip_pixels: str | None = rare(
        None,
        "For a weight FILE: how its images were normalised, openai, half, or MEAN/STD such as "
        '"0.48,0.46,0.41/0.27,0.26,0.28".',
        if_none="what the json in DIR says; openai for a FILE",
    )

    def __post_init__(self):
        check_values(self)


@dataclass(frozen=True)
class EncodingConfig:
    """What changes how a CLIP computes, and no result."""

    batch_size: int = rare(64, "Views that CLIP encodes at once; fewer need less memory.", least=1)

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class PseudolabelConfig:
    """How view embeddings become pseudo labels. The defaults of a paper's method are the paper's."""

    METHODS = ("cdul", "ccd", "centred", "dense")
    PARTS = ("final", "global", "aggregate")

    method: str | None = setting(
        None,
        "centred: views of several sizes; the mean level of each class is subtracted first. cdul: the whole photo and its "
        "snippets (crops on a grid), fused. ccd: the whole photo at a larger size, debiased. dense: as centred, and also every "
        "cell of CLIP's feature maps.",
        choices=METHODS,
        if_none="dense for a CLIP with a ResNet, else centred",
    )
    part: str = rare("final", "The final labels, or one of the two parts they combine.", methods=_CDUL, choices=PARTS)
    snippets: int = rare(3, "n of the n×n grid of snippets.", methods=_CDUL, within=(1, 16))
    zeta: float = rare(
        0.5,
        "Threshold ζ: a class whose highest snippet score reaches it takes that maximum, any other class its minimum. "
        "0 always takes the maximum.",
        methods=_CDUL,
        within=(0, 1),
    )
    disagreement: float = rare(
        0.0,
        "λ: weight of |global − aggregate| in the final labels (the paper's supplement).",
        methods=_CDUL,
        within=(0, 1),
    )
    view_size: int | None = rare(
        None,
        "Side of the photo after resizing, in pixels.",
        methods=_CCD,
        if_none="10/7 of CLIP's input size",  # 448 -> 640
        least=32,
    )
    max_entropy: float = rare(2.0, "A photo is confident up to this entropy, in nats.", methods=_CCD, above=0)
    floor: float = rare(0.05, "Scores below this value are raised to it before debiasing.", methods=_CCD, within=(0, 1))
    debias: bool = rare(True, "Divide the scores by the bias of each class.", methods=_CCD)
    grids: tuple[int, ...] = rare(
        (1, 2, 3), "The views: an n×n grid for each n; 1 is the whole photo.", methods=_CENTRED
    )
    rank_scale: float = rare(
        0.4, "Scale of the softmax within a view, as a multiple of CLIP's logit scale.", methods=_CENTRED, above=0
    )
    prior_photos: float = rare(
        30.0,
        "Weight of the other classes when the scores of one class are fitted, as a number of photos.",
        methods=_CENTRED,
        above=0,
    )
    profiles: bool = rare(
        True,
        "Also compare each view with the profile of each class, learned from the views that clearly show it. With dense: each "
        "cell, too.",
        methods=_CENTRED,
    )
    views: tuple[str, ...] = setting(
        VIEW_SETS["default"],
        "What dense labels are the mean of: fast, default, best, or a list. fast (1.5,2; for a CLIP with a ResNet) encodes a third as "
        "much as default, best (views,cells,1.5,2,2.5) half as much again. In a list, views are the centred labels, cells those of the "
        "same views' feature maps, and a number is the whole photo at that multiple of CLIP's input size.",
        methods=_DENSE,
    )
    attention: str = rare(
        "key",
        "With a transformer: which patches its last block mixes for the cells. identity: none. query, key: those with similar "
        "queries or keys.",
        methods=_DENSE,
        choices=("identity", "query", "key"),
    )
    temperature: float | None = rare(
        None, "Softmax temperature τ.", if_none="CLIP's own; 0.01 for OpenAI's weights", above=0
    )

    def __post_init__(self):
        views = (self.views,) if isinstance(self.views, str) else tuple(map(str, self.views))
        object.__setattr__(self, "views", VIEW_SETS.get(views[0], views) if len(views) == 1 else views)
        if self.method is None:
            dense = any(s.metadata["methods"] == _DENSE and getattr(self, s.name) != s.default for s in fields(self))
            object.__setattr__(self, "method", "dense" if dense else "centred")
        check_values(self)
        object.__setattr__(self, "grids", tuple(sorted(self.grids)))
        holds = self.grids and all(1 <= n <= 16 for n in self.grids) and len({*self.grids}) == len(self.grids)
        require(holds, "grids", ",".join(map(str, self.grids)), "different numbers from 1 to 16, such as 1,2,3")
        named = [name for name in self.views if name in NAMED_SETS]
        try:
            sizes = [float(name) for name in self.views if name not in NAMED_SETS]
        except ValueError:
            sizes = [0.0]
        holds = self.views and len({*named, *sizes}) == len(self.views)
        wanted = f"{', '.join(VIEW_SETS)}, or different ones of {', '.join(NAMED_SETS)} and numbers from 0.5 to {LARGEST_MULTIPLE}"
        require(holds and all(0.5 <= n <= LARGEST_MULTIPLE for n in sizes), "views", ",".join(self.views), wanted)
        refuse_unused(self)


@dataclass(frozen=True)
class TableOptions:
    """How a .csv of another program is read, where its own content allows two readings. None: the table decides."""

    path_column: str | None = rare(None, "The column with the photos.", if_none="path, filename, image and the like")
    split: str | None = rare(
        None, "Read only the rows with this value in a column, as VALUE or COLUMN=VALUE.", if_none="all rows"
    )
    minus_one: str | None = rare(
        None,
        "What -1 means. absent: 0 is then unknown, as in VOC's lists. unknown: 0 is then absent.",
        choices=("absent", "unknown"),
        if_none="absent, unless 0 is more frequent",
    )
    empty: str = rare(
        "unknown",
        "What an empty cell of a table means for the class, and for all classes a photo that nobody annotated.",
        choices=("unknown", "absent"),
    )
    partial: bool = rare(
        False,
        "Accept a table of which fewer than half of the photos or classes match the other (of the smaller table).",
    )

    @property
    def for_scores(self) -> TableOptions:
        """The same for a table of scores beside true labels: `split` is about the true labels."""
        return replace(self, split=None)

    def __post_init__(self):
        check_values(self)


@dataclass(frozen=True)
class ReportConfig:
    """What the page of `mlclip report` shows at first."""

    limit: int = rare(20_000, "Photos in the gallery: those most worth a look, or with sort=random any.", least=0)
    thumbnails: str = rare(
        "auto",
        "Where the thumbnails are: in the page (embed), in a folder beside it, or in the page up to 40 MB (auto).",
        choices=("auto", "embed", "folder"),
    )
    sort: str = rare(
        "review",
        "The order of the photos at first; review: as `mlclip review` names them.",
        choices=("review", "doubt", "contradicted", "duplicates", "random", "high", "low", "table"),
    )
    where: bool = rare(False, "Run CLIP again on a few photos, and show where in them it sees their labels.")

    def __post_init__(self):
        check_values(self)
