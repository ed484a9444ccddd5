"""What the json files of a folder say about the CLIP in it, in one form for all kinds of folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config import InputError
from .encoders import HEAD_WIDTH, WIDE_HEADS, ModifiedResNet
from .model import CLIP, HeadWidths
from .perception import PerceptionEncoder
from .pixels import Pixels


@dataclass(frozen=True)
class ClipFacts:
    """The facts about a CLIP that its tensors do not show, and `sizes`, which its tensors must agree with.

    `pixels` is None if no file says how images are normalised.
    """

    activation: str
    heads: HeadWidths
    pixels: Pixels | None
    sizes: Mapping[str, int] = field(default_factory=dict)  # by the names of `sizes_of`


def sizes_of(model: CLIP) -> dict[str, int]:
    """The sizes of a model by name, as far as json files give them."""
    sizes = {"image size": model.input_resolution, "embedding size": model.embed_dim}
    sizes |= {"context length": model.context_length, "vocabulary": model.vocab_size}
    sizes |= {"text width": model.ln_final.weight.numel(), "text layers": len(model.transformer.resblocks)}
    if hasattr(model.visual, "transformer"):
        sizes |= {"patch size": model.visual.stride, "image layers": len(model.visual.transformer.resblocks)}
        sizes["image width"] = model.visual.conv1.weight.shape[0]
    return sizes


def check_sizes(model: CLIP, facts: ClipFacts) -> None:
    """InputError if the tensors have other sizes than the json file says."""
    found = sizes_of(model)
    for name, size in facts.sizes.items():
        if found.get(name, size) != size:
            raise InputError(
                f"the json says {name} {size}, but the tensors have {found[name]}: json and weights are of two models. "
                "Download both from the same place."
            )


def has_usual_heads(model: CLIP) -> bool:
    """Whether the attention heads of a model are those that its shapes alone would give."""
    text, visual = model.transformer.resblocks[0].attn, model.visual
    if isinstance(visual, PerceptionEncoder):
        image = True
    elif isinstance(visual, ModifiedResNet):
        image = visual.attnpool.heads * HEAD_WIDTH == visual.attnpool.q_proj.in_features
    else:
        attention = visual.transformer.resblocks[0].attn
        image = attention.head_dim == WIDE_HEADS.get(attention.embed_dim, HEAD_WIDTH)
    return image and text.head_dim == HEAD_WIDTH
