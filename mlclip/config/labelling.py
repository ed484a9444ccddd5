"""The settings of labelling."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .fields import check_values, refuse_unused, require, setting

NAMED_KINDS = ("views", "cells")  # of views, for dense labels; any other kind is a number
LARGEST_KIND = 8  # the largest multiple of CLIP's input size

_CDUL, _CCD, _CENTRED, _DENSE = ("cdul",), ("ccd",), ("centred", "dense"), ("dense",)  # methods of labelling


@dataclass(frozen=True)
class TeacherConfig:
    """How a CLIP computes, and what its weight file does not say about itself."""

    PRECISIONS = ("auto", "fp32", "bf16", "fp16")
    ACTIVATIONS = ("quick_gelu", "gelu")

    precision: str = setting(
        "auto",
        "Number format of CLIP's image encoder; auto takes 16 bits where the device is faster with them.",
        choices=PRECISIONS,
        rare=True,
    )
    clip_activation: str | None = setting(
        None,
        "For a weight FILE: the activation that it was trained with, quick_gelu for OpenAI's, gelu for most of LAION's.",
        choices=ACTIVATIONS,
        if_none="what the json in DIR says; quick_gelu for a FILE",
        rare=True,
    )
    clip_pixels: str | None = setting(
        None,
        "For a weight FILE: how its images were normalised, openai, half, or MEAN/STD such as "
        '"0.48,0.46,0.41/0.27,0.26,0.28".',
        if_none="what the json in DIR says; openai for a FILE",
        rare=True,
    )

    def __post_init__(self):
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
    part: str = setting(
        "final", "The final labels, or one of the two parts they combine.", methods=_CDUL, choices=PARTS, rare=True
    )
    snippets: int = setting(3, "n of the n×n grid of snippets.", methods=_CDUL, rare=True)
    zeta: float = setting(
        0.5,
        "Threshold ζ: a class whose highest snippet score reaches it takes that maximum, any other class its minimum. "
        "0 always takes the maximum.",
        methods=_CDUL,
        rare=True,
    )
    disagreement: float = setting(
        0.0, "λ: weight of |global − aggregate| in the final labels (the paper's supplement).", methods=_CDUL, rare=True
    )
    view_size: int | None = setting(
        None,
        "Side of the photo after resizing, in pixels.",
        methods=_CCD,
        if_none="10/7 of CLIP's input size",  # 448 -> 640
        rare=True,
    )
    max_entropy: float = setting(2.0, "A photo is confident up to this entropy, in nats.", methods=_CCD, rare=True)
    floor: float = setting(0.05, "Scores below this value are raised to it before debiasing.", methods=_CCD, rare=True)
    debias: bool = setting(True, "Divide the scores by the bias of each class.", methods=_CCD, rare=True)
    grids: tuple[int, ...] = setting(
        (1, 2, 3), "The views: an n×n grid for each n; 1 is the whole photo.", methods=_CENTRED, rare=True
    )
    rank_scale: float = setting(
        0.4, "Scale of the softmax within a view, as a multiple of CLIP's logit scale.", methods=_CENTRED, rare=True
    )
    prior_photos: float = setting(
        30.0,
        "Weight of the other classes when the scores of one class are fitted, as a number of photos.",
        methods=_CENTRED,
        rare=True,
    )
    profiles: bool = setting(
        True,
        "Also compare each view with the profile of each class, learned from the views that clearly show it. With dense: each "
        "cell, too.",
        methods=_CENTRED,
        rare=True,
    )
    kinds: tuple[str, ...] = setting(
        ("views", "cells", "2"),
        "What is averaged: views (the centred labels), cells (those of the same views, without a further pass), and numbers: the "
        "cells of the whole photo at that multiple of CLIP's input size, each with a further pass.",
        methods=_DENSE,
        rare=True,
    )
    attention: str = setting(
        "key",
        "With a transformer: which patches its last block mixes for the cells. identity: none. query, key: those with similar "
        "queries or keys.",
        methods=_DENSE,
        choices=("identity", "query", "key"),
        rare=True,
    )
    compound: bool = setting(
        False,
        'Also encode a prompt such as "cat and dog" for every pair of names, and give a class what its pairs have in common. '
        "For up to 400 names; it costs nothing per photo.",
    )
    temperature: float | None = setting(
        None, "Softmax temperature τ.", if_none="CLIP's own; 0.01 for OpenAI's weights", rare=True
    )

    def __post_init__(self):
        if self.method is None:
            dense = any(s.metadata["methods"] == _DENSE and getattr(self, s.name) != s.default for s in fields(self))
            object.__setattr__(self, "method", "dense" if dense else "centred")
        check_values(self)
        require(1 <= self.snippets <= 16, "snippets", self.snippets, "from 1 to 16")
        require(0 <= self.zeta <= 1, "zeta", self.zeta, "from 0 (always the maximum) to 1")
        require(self.temperature is None or self.temperature > 0, "temperature", self.temperature, "above 0")
        require(0 <= self.disagreement <= 1, "disagreement", self.disagreement, "from 0 to 1")
        require(self.view_size is None or self.view_size >= 32, "view_size", self.view_size, "at least 32 pixels")
        require(self.max_entropy > 0, "max_entropy", self.max_entropy, "above 0 nats")
        require(self.rank_scale > 0, "rank_scale", self.rank_scale, "above 0")
        require(self.prior_photos > 0, "prior_photos", self.prior_photos, "above 0")
        require(0 <= self.floor < 1, "floor", self.floor, "0 or more, and below 1")
        object.__setattr__(self, "grids", tuple(sorted(self.grids)))
        holds = self.grids and all(1 <= n <= 16 for n in self.grids) and len({*self.grids}) == len(self.grids)
        require(holds, "grids", ",".join(map(str, self.grids)), "different numbers from 1 to 16, such as 1,2,3")
        self._require_kinds()
        refuse_unused(self)

    def _require_kinds(self) -> None:
        object.__setattr__(self, "kinds", tuple(map(str, self.kinds)))
        named = [kind for kind in self.kinds if kind in NAMED_KINDS]
        try:
            sizes = [float(kind) for kind in self.kinds if kind not in NAMED_KINDS]
        except ValueError:
            sizes = [0.0]
        holds = self.kinds and len({*named, *sizes}) == len(self.kinds)
        wanted = (
            f"different ones of {', '.join(NAMED_KINDS)} and numbers from 0.5 to {LARGEST_KIND}, such as views,cells,2"
        )
        require(holds and all(0.5 <= n <= LARGEST_KIND for n in sizes), "kinds", ",".join(self.kinds), wanted)
