"""CLIP built from the shapes of a state dict.

Nothing is configured: widths, depths, patch size, input resolution and vocabulary are read off the tensors.

Letters: N images or texts, H W pixels, L tokens, E width of the text stream, D the joint embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..config import InputError
from .encoders import HEAD_WIDTH, AttentionPool, ModifiedResNet, Transformer, VisionTransformer

__all__ = ["ACTIVATIONS", "CLIP", "IMAGE_MEAN", "IMAGE_STD", "AttentionPool", "ModifiedResNet", "build_clip"]

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB in [0, 1]; what OpenAI trained with
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
ACTIVATIONS = ("quick_gelu", "gelu")
NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}  # what checkpoints carry along


class CLIP(nn.Module):
    """Image and text encoder with a joint embedding.

    The parameter `logit_scale` is the checkpoint's own and holds a LOGARITHM; everything outside this
    class uses `exp(logit_scale)` (100 for OpenAI's models).
    """

    name = sha256 = ""  # of the weight file; `load_clip` fills them in

    def __init__(self, visual: nn.Module, resolution: int, text: Mapping[str, int], embed_dim: int, activation: str):
        """`text` holds "context" and "vocab" in tokens, "width", "layers" and, where it is not 4 widths, "hidden"."""
        super().__init__()
        width = text["width"]
        self.visual = visual
        self.input_resolution = resolution
        self.context_length, self.vocab_size, self.embed_dim = text["context"], text["vocab"], embed_dim
        self.activation = activation
        self.transformer = Transformer(width, text["layers"], text.get("hidden", 4 * width), HEAD_WIDTH, activation)
        self.token_embedding = nn.Embedding(text["vocab"], width)
        self.positional_embedding = nn.Parameter(torch.zeros(text["context"], width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, embed_dim))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) pixels normalised by IMAGE_MEAN and IMAGE_STD, any size -> (N, D), not normalised."""
        return self.visual(pixels.to(self.dtype))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(N, L) token ids as `tokenize` gives them -> (N, D), not normalised; read at the end-of-text token."""
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]  # (N, L, E)
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu(1)  # no look ahead
        x = self.ln_final(self.transformer(x, mask))
        ends = tokens.argmax(dim=-1)  # the end-of-text id is the largest of the vocabulary
        return x[torch.arange(len(x), device=x.device), ends] @ self.text_projection  # (N, D)


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {int(m[1]) for k in state if (m := re.match(re.escape(prefix) + r"(\d{1,4})\.", k))}
    return len(numbers)


def _transformer_size(state: Mapping[str, Tensor], prefix: str) -> tuple[int, int, int]:
    hidden, width = state[f"{prefix}0.mlp.c_fc.weight"].shape
    return width, _count_blocks(state, prefix), hidden


def _build_visual(state: Mapping[str, Tensor], embed_dim: int, activation: str) -> tuple[nn.Module, int]:
    if "visual.proj" in state:
        patch = state["visual.conv1.weight"].shape[3]
        side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        size = _transformer_size(state, "visual.transformer.resblocks.")
        return VisionTransformer(side, patch, size, embed_dim, activation), side * patch
    width = state["visual.layer1.0.conv1.weight"].shape[0]
    side = round((len(state["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
    layers = tuple(_count_blocks(state, f"visual.layer{n}.") for n in (1, 2, 3, 4))
    return ModifiedResNet(side * 32, width, layers, embed_dim), side * 32


def _build_empty(state: Mapping[str, Tensor], activation: str) -> CLIP:
    embed_dim = state["text_projection"].shape[1]
    visual, resolution = _build_visual(state, embed_dim, activation)
    width, layers, hidden = _transformer_size(state, "transformer.resblocks.")
    text = {"width": width, "layers": layers, "hidden": hidden}
    text |= {"context": len(state["positional_embedding"]), "vocab": len(state["token_embedding.weight"])}
    return CLIP(visual, resolution, text, embed_dim, activation)


def build_clip(state: Mapping[str, Tensor], activation: str = "quick_gelu") -> CLIP:
    """A CLIP in float32 and eval mode from an OpenAI-style state dict, its architecture read off the shapes.

    `activation` is "quick_gelu" (OpenAI's weights) or "gelu" (most of LAION's); no shape reveals it.
    Float32 tensors of `state` become the model's own, uncopied. InputError where the tensors are not a CLIP's.
    """
    if activation not in ACTIVATIONS:
        raise InputError(f"unknown CLIP activation {activation!r}: choose one of {', '.join(ACTIVATIONS)}")
    try:
        with torch.device("meta"):  # shapes without memory: a file cannot ask for more than it brings
            model = _build_empty(state, activation)
    except (KeyError, ValueError, IndexError, TypeError, RuntimeError, ArithmeticError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"these tensors are not a CLIP checkpoint in OpenAI's layout (looked for {reason}); "
            "give a file of OpenAI's, or a state dict with the same parameter names"
        ) from error
    weights = {name: tensor for name, tensor in state.items() if name.rsplit(".", 1)[-1] not in NOT_WEIGHTS}
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1:2] or [str(error)]
        raise InputError(
            f"the CLIP checkpoint's tensors do not fit together ({reason[0].strip()[:300]}); "
            "give a whole checkpoint in OpenAI's layout"
        ) from error
    return model.eval()
