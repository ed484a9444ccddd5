"""Build a CLIP from the shapes of a state dict.

No configuration is needed: widths, depths, patch size, input resolution and vocabulary follow from the tensors.

Letters: N images or texts, H W pixels, L tokens, E width of the text stream, D the joint embedding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import InputError
from ..files import refused
from .encoders import HEAD_WIDTH, ModifiedResNet, Transformer, VisionTransformer
from .pixels import OPENAI
from .tokenizer import tokenize

ACTIVATIONS = ("quick_gelu", "gelu")
NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}  # other entries of checkpoints


class HeadWidths(NamedTuple):
    """Channels per attention head of both encoders, which no tensor shows. 0: as in OpenAI's and LAION's models."""

    image: int = 0
    text: int = 0


class CLIP(nn.Module):
    """An image encoder and a text encoder with a joint embedding.

    The parameter `logit_scale` comes from the checkpoint and is a LOGARITHM. All code outside this class uses
    `exp(logit_scale)` (100 for OpenAI's models).
    """

    name = sha256 = ""  # of the weight file; `load_clip` sets these five
    pixels = OPENAI  # what the images must be normalised to
    licence = ""  # of the weights; "" if it is not known
    logit_bias: float | None = None  # of a CLIP that was trained with a sigmoid loss

    def __init__(self, visual: nn.Module, resolution: int, text: Mapping[str, int], embed_dim: int, activation: str):
        """`text` holds "context" and "vocab" in tokens, "width", "layers", and maybe "hidden" (4 × "width") and "head_width" (64)."""
        super().__init__()
        width, head_width = text["width"], text.get("head_width") or HEAD_WIDTH
        self.visual = visual
        self.input_resolution = resolution
        self.context_length, self.vocab_size, self.embed_dim = text["context"], text["vocab"], embed_dim
        self.activation = activation
        self.transformer = Transformer(width, text["layers"], text.get("hidden", 4 * width), head_width, activation)
        # The weight is passed because torch would draw random numbers, and on the device meta load its compiler for that.
        self.token_embedding = nn.Embedding(text["vocab"], width, _weight=torch.zeros(text["vocab"], width))
        self.positional_embedding = nn.Parameter(torch.zeros(text["context"], width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, embed_dim))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) of any size, normalised as `pixels` says -> embeddings (N, D), not normalised."""
        return self.visual(pixels.to(self.dtype))

    def tokenize(self, texts: list[str]) -> Tensor:
        """Texts -> token ids (N, L) for `encode_text`. InputError for a text that is too long."""
        return tokenize(texts, self.context_length)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (N, L) from `tokenize` -> embeddings (N, D) at the end-of-text token, not normalised."""
        ends = tokens.argmax(dim=-1)  # the end-of-text id is the largest in the vocabulary
        # No token sees a later one, so those after the last end change nothing.
        length = int(ends.max()) + 1 if len(ends) else 1
        x = self.token_embedding(tokens[:, :length]) + self.positional_embedding[:length]  # (N, L, E)
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu(1)  # causal
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x), device=x.device), ends] @ self.text_projection  # (N, D)


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({int(m[1]) for k in state if (m := re.match(re.escape(prefix) + r"(\d{1,4})\.", k))})


def _transformer_size(state: Mapping[str, Tensor], prefix: str) -> tuple[int, int, int]:
    hidden, width = state[f"{prefix}0.mlp.c_fc.weight"].shape
    return width, _count_blocks(state, prefix), hidden


def _build_empty(state: Mapping[str, Tensor], activation: str, heads: HeadWidths) -> CLIP:
    """The CLIP whose parameters have the shapes of `state`. KeyError and others if they are not those of a CLIP."""
    embed_dim = state["text_projection"].shape[1]
    if "visual.proj" in state:
        patch = state["visual.conv1.weight"].shape[3]
        side = math.isqrt(len(state["visual.positional_embedding"]))
        size = _transformer_size(state, "visual.transformer.resblocks.")
        visual, resolution = VisionTransformer(side, patch, size, embed_dim, activation, heads.image), side * patch
    else:
        width = state["visual.layer1.0.conv1.weight"].shape[0]
        side = round((len(state["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
        layers = tuple(_count_blocks(state, f"visual.layer{n}.") for n in (1, 2, 3, 4))
        visual, resolution = ModifiedResNet(side * 32, width, layers, embed_dim, heads.image), side * 32
    width, layers, hidden = _transformer_size(state, "transformer.resblocks.")
    text = {"width": width, "layers": layers, "hidden": hidden, "head_width": heads.text}
    text |= {"context": len(state["positional_embedding"]), "vocab": len(state["token_embedding.weight"])}
    return CLIP(visual, resolution, text, embed_dim, activation)


def build_clip(state: Mapping[str, Tensor], activation: str = "quick_gelu", heads: HeadWidths | None = None) -> CLIP:
    """Build a CLIP in float32 and eval mode from a state dict in OpenAI's layout. The shapes give the architecture.

    `activation` is "quick_gelu" (OpenAI's weights) or "gelu" (most of LAION's); it cannot be read from the shapes. Float32 tensors
    of `state` are used without a copy. The bias of a sigmoid loss becomes `logit_bias`. InputError if the tensors are not a CLIP.
    """
    if activation not in ACTIVATIONS:
        raise InputError(f"unknown CLIP activation {activation!r}. Choose one of {', '.join(ACTIVATIONS)}.")
    damaged = (LookupError, ValueError, TypeError, RuntimeError, ArithmeticError, AssertionError)
    remedy = "Use one of OpenAI's files, or a complete state dict with the same parameter names."
    # The device "meta" has shapes without memory: a small file cannot make us allocate more.
    with torch.device("meta"), refused("the tensors are not a CLIP checkpoint in OpenAI's layout", remedy, *damaged):
        model = _build_empty(state, activation, heads or HeadWidths())
    weights = {name: tensor for name, tensor in state.items() if name.rsplit(".", 1)[-1] not in NOT_WEIGHTS}
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    bias = weights.pop("logit_bias", None)
    if "logit_scale" in weights and weights["logit_scale"].numel() == 1:
        weights["logit_scale"] = weights["logit_scale"].reshape(())  # some files hold it as a list of one number
    with refused("the tensors of the CLIP checkpoint do not fit together", remedy, RuntimeError):
        model.load_state_dict(weights, assign=True)
    if bias is not None and bias.numel() == 1:
        model.logit_bias = float(bias)
    return model.eval()
