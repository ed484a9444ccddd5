"""Cells: each position of CLIP's last feature map, brought into the joint embedding, so that it has a cosine with every text.

- ResNet: the value path of the attention pool. A cell's value is projected alone, without attention over the other cells.
- Transformer: the last block runs a second time for the patches, as attention only (no residual, no MLP), with weights that
  look at similar patches instead of CLIP's own. CLIP's own weights serve the class token and mix the patches.

Letters: N images, H W pixels, h w cells, L = h·w tokens, E width, d width of a head, D the joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import InputError
from .encoders import ModifiedResNet, ResidualAttentionBlock, VisionTransformer

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def identity_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Each patch attends to itself only (MaskCLIP): three tensors (N, heads, L, d) -> (N, heads, L, d)."""
    return value


def query_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q·qᵀ/√d) · v (ClearCLIP): three tensors (N, heads, L, d) -> (N, heads, L, d)."""
    return F.scaled_dot_product_attention(query, query, value)


def key_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(k·kᵀ/√d) · v (as NACLIP, without its window): three tensors (N, heads, L, d) -> (N, heads, L, d)."""
    return F.scaled_dot_product_attention(key, key, value)


ATTENTIONS: dict[str, Attention] = {"identity": identity_attention, "query": query_attention, "key": key_attention}


def embed_with_cells(visual: nn.Module, pixels: Tensor, attention: str = "key") -> tuple[Tensor, Tensor]:
    """Pixels (N, 3, H, W), normalised, each side whole strides -> embeddings (N, D) and cells (N, h, w, D), from one pass.

    The embeddings are those of `visual(pixels)`. Neither is L2-normalised. `attention`, one of ATTENTIONS, is the second run of
    a transformer's last block; a ResNet does not use it. InputError for an image encoder of another kind.
    """
    if isinstance(visual, ModifiedResNet):
        embeddings, cells = _resnet(visual, pixels)
    elif isinstance(visual, VisionTransformer):
        embeddings, cells = _transformer(visual, pixels, ATTENTIONS[attention])
    else:
        raise InputError(
            f"the cells of this CLIP's image encoder ({type(visual).__name__}) are not known. Use another CLIP, or "
            '`method="centred"`.'
        )
    height, width = (side // visual.stride for side in pixels.shape[2:])
    return embeddings, cells.unflatten(1, (height, width))  # (N, h, w, D)


def _resnet(visual: ModifiedResNet, pixels: Tensor) -> tuple[Tensor, Tensor]:
    pool = visual.attnpool
    tokens = pool.tokens(visual.feature_map(pixels))  # (N, 1 + h·w, E)
    values = pool.v_proj(tokens)
    return pool.pool(tokens, values), pool.c_proj(values[:, 1:])  # (N, D), (N, h·w, D)


def _transformer(visual: VisionTransformer, pixels: Tensor, attend: Attention) -> tuple[Tensor, Tensor]:
    *blocks, last = visual.transformer.resblocks
    x = visual.tokens(pixels)  # (N, 1 + h·w, E)
    for block in blocks:
        x = block(x, None)
    embeddings = visual.ln_post(last.first_token(x)) @ visual.proj  # (N, D)
    return embeddings, visual.ln_post(_attention_only(last, x[:, 1:], attend)) @ visual.proj  # (N, h·w, D)


def _attention_only(block: ResidualAttentionBlock, patches: Tensor, attend: Attention) -> Tensor:
    """The attention output of a block for patches (N, L, E), with other attention weights: no residual, no MLP."""
    attn = block.attn
    parts = F.linear(block.ln_1(patches), attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)  # 3 × (N, L, E)
    query, key, value = (part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in parts)  # (N, heads, L, d)
    return attn.out_proj(attend(query, key, value).transpose(1, 2).flatten(2))  # (N, L, E)
