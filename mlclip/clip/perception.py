"""PE-Core's image encoder (Perception Encoder, arXiv 2504.13181): a transformer with rotary positions and attention pooling.

Parameters have the same names as in Meta's checkpoints (`PE-Core-*.pt`), so these files load without renaming. The text
encoder is OpenAI's.

Letters: N images, H W pixels, h w cells of the grid, L tokens, E width, D the joint embedding, A channels of one head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encoders import HEAD_WIDTH, resize_positions
from .pixels import HALF, Pixels

PE_PIXELS = Pixels(HALF, HALF, "bilinear", "squash")  # of all published PE-Core models
WIDE_HEADS = {1536: 96}  # channels per head of PE-Core-G; 64 in the others
POOL_HEADS = 8
THETA = 10_000.0  # the longest wavelength of the rotary positions is 2π · THETA cells


def rotary_angles(
    grid: tuple[int, int], channels: int, class_token: bool, device: torch.device | None = None
) -> Tensor:
    """The angle of every pair of channels of a head, (L, A/2): the first half turns with x, the second half with y.

    With a class token, which comes first and does not turn, cells are counted from 1, else from 0.

    >>> rotary_angles((1, 2), 8, True)[:, 0]  # class token, two cells in a row
    tensor([0., 1., 2.])
    """
    pairs = channels // 4
    frequencies = THETA ** -(torch.arange(pairs, device=device) / pairs)  # (A/4,)
    height, width = grid
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    places = torch.stack([x, y], dim=-1).flatten(0, 1).float() + class_token  # (h·w, 2)
    angles = (places[..., None] * frequencies).flatten(1)  # (h·w, A/2)
    return F.pad(angles, (0, 0, 1, 0)) if class_token else angles


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of x (..., L, A) by its angle (L, A/2). Computed in float32.

    >>> rotate(torch.tensor([[1.0, 0.0]]), torch.tensor([[torch.pi / 2]])).round()
    tensor([[-0., 1.]])
    """
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (..., L, A/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2).to(x.dtype)


def _mlp(width: int, hidden: int) -> nn.Sequential:
    mlp = nn.Sequential()
    mlp.add_module("c_fc", nn.Linear(width, hidden))
    mlp.add_module("gelu", nn.GELU())
    mlp.add_module("c_proj", nn.Linear(hidden, width))
    return mlp


class RotaryAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:  # (N, L, E), (L, A/2)
        parts = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (N, heads, L, A)
        x = F.scaled_dot_product_attention(rotate(query, angles), rotate(key, angles), value)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class RotaryBlock(nn.Module):
    def __init__(self, width: int, hidden: int, heads: int):
        super().__init__()
        self.attn = RotaryAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = _mlp(width, hidden)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x), angles)
        return x + self.mlp(self.ln_2(x))


class ProbePool(nn.Module):
    """Attention pooling: a learned query looks at all tokens, then an MLP."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attn = nn.MultiheadAttention(width, POOL_HEADS, batch_first=True)
        self.layernorm = nn.LayerNorm(width)
        self.mlp = _mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:  # (N, L, E)
        pooled = self.attn(self.probe.expand(len(x), -1, -1), x, x, need_weights=False)[0][:, 0]  # (N, E)
        return pooled + self.mlp(self.layernorm(pooled))


class PerceptionEncoder(nn.Module):
    """PE-Core's image encoder. `size` is (E, layers, hidden width); `side` is the side of the grid of its position embeddings."""

    def __init__(
        self, side: int, patch: int, size: tuple[int, int, int], embed_dim: int, class_token: bool, pool_hidden: int
    ):
        super().__init__()
        width, layers, hidden = size
        heads = width // WIDE_HEADS.get(width, HEAD_WIDTH)
        self.stride, self.head_width = patch, width // heads  # pixels, channels
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width)) if class_token else None
        self.positional_embedding = nn.Parameter(torch.zeros(side**2 + class_token, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(RotaryBlock(width, hidden, heads) for _ in range(layers))
        self.ln_post = nn.LayerNorm(width)
        self.attn_pool = ProbePool(width, pool_hidden)
        self.proj = nn.Parameter(torch.zeros(width, embed_dim))

    def forward(self, pixels: Tensor) -> Tensor:  # (N, 3, H, W)
        x = self.conv1(pixels)  # (N, E, h, w)
        grid, class_token = tuple(x.shape[2:]), self.class_embedding is not None
        angles = rotary_angles(grid, self.head_width, class_token, x.device)
        x = x.flatten(2).transpose(1, 2)  # (N, h·w, E)
        if class_token:
            x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)  # (N, 1 + h·w, E)
        x = self.ln_pre(x + resize_positions(self.positional_embedding, grid))
        for block in self.transformer.resblocks:
            x = block(x, angles)
        return self.attn_pool(self.ln_post(x)) @ self.proj  # (N, D)
