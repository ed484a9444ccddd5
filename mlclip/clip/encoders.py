"""The layers of CLIP: the transformer of both encoders, the two families of image encoders, and their cells.

Parameters have the same names as in OpenAI's checkpoints, so these files load without renaming.

Letters: N images or texts, H W pixels or grid cells, L tokens, E width of the residual stream, D the joint embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import InputError

HEAD_WIDTH = 64  # channels per attention head, which cannot be read from the shapes: 64 in all of OpenAI's models ...
WIDE_HEADS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}  # ... but not in the image encoders of LAION's H, g, bigG and e


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x). OpenAI's weights were trained with it; most of LAION's need nn.GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def fold_quick_gelu(encoder: nn.Module) -> None:
    """Replace each QuickGELU by SiLU, one pass instead of three: x · sigmoid(1.702 x) = SiLU(1.702 x) / 1.702.

    New weights of the two layers around it hold the factors, so `state_dict` no longer has those of the file.
    """
    for block in encoder.modules():
        if isinstance(block, ResidualAttentionBlock) and isinstance(block.mlp.gelu, QuickGELU):
            first, last = block.mlp.c_fc, block.mlp.c_proj
            first.weight, first.bias = (nn.Parameter(part.detach() * 1.702) for part in (first.weight, first.bias))
            last.weight = nn.Parameter(last.weight.detach() / 1.702)
            block.mlp.gelu = nn.SiLU()


class ResidualAttentionBlock(nn.Module):
    def __init__(self, width: int, hidden: int, head_width: int, activation: str):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // head_width, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, hidden))
        self.mlp.add_module("gelu", QuickGELU() if activation == "quick_gelu" else nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(hidden, width))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (N, L, E), (L, L)
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))

    def first_token(self, x: Tensor) -> Tensor:
        """The first token of `forward(x, None)`, without the others: (N, L, E) -> (N, E)."""
        h = self.ln_1(x)
        first = x[:, :1] + self.attn(h[:, :1], h, h, need_weights=False)[0]  # (N, 1, E)
        return (first + self.mlp(self.ln_2(first)))[:, 0]


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, hidden: int, head_width: int, activation: str):
        super().__init__()
        blocks = (ResidualAttentionBlock(width, hidden, head_width, activation) for _ in range(layers))
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x

    def first_token(self, x: Tensor) -> Tensor:
        """The first token of `forward(x)`: (N, L, E) -> (N, E). Only this one goes through most of the last block."""
        for block in self.resblocks[:-1]:
            x = block(x, None)
        return self.resblocks[-1].first_token(x)


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize position embeddings (1 + n·n, E) bilinearly to (1 + h·w, E). The first one (class or mean token) stays.

    Positions without such a token, (n·n, E), become (h·w, E).
    """
    side = math.isqrt(len(positions))
    first = len(positions) - side**2  # 1, or 0
    if grid == (side, side):
        return positions
    cells = positions[first:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, E, n, n)
    cells = F.interpolate(cells.float(), size=grid, mode="bilinear", align_corners=False).to(positions.dtype)
    return torch.cat([positions[:first], cells.flatten(2)[0].T])  # (1 + h·w, E)


class VisionTransformer(nn.Module):
    def __init__(
        self, side: int, patch: int, size: tuple[int, int, int], embed_dim: int, activation: str, head_width: int = 0
    ):
        super().__init__()
        width, layers, hidden = size
        head_width = head_width or WIDE_HEADS.get(width, HEAD_WIDTH)
        self.stride = patch  # pixels
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(side**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, hidden, head_width, activation)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, embed_dim))

    def tokens(self, pixels: Tensor) -> Tensor:
        """The input of the first block: pixels (N, 3, H, W) -> (N, 1 + h·w, E), the class token first."""
        x = self.conv1(pixels)  # (N, E, h, w)
        positions = resize_positions(self.positional_embedding, tuple(x.shape[2:]))
        x = x.flatten(2).transpose(1, 2)  # (N, h·w, E)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)  # (N, 1 + h·w, E)
        return self.ln_pre(x + positions)

    def forward(self, pixels: Tensor) -> Tensor:  # (N, 3, H, W)
        x = self.transformer.first_token(self.tokens(pixels))  # (N, E)
        return self.ln_post(x) @ self.proj  # (N, D)


class Bottleneck(nn.Module):
    """A ResNet bottleneck in which every stride is an average pool, as in CLIP."""

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample = None
        if stride > 1 or inputs != 4 * planes:
            self.downsample = nn.Sequential()
            self.downsample.add_module("-1", nn.AvgPool2d(stride) if stride > 1 else nn.Identity())
            self.downsample.add_module("0", nn.Conv2d(inputs, 4 * planes, 1, bias=False))
            self.downsample.add_module("1", nn.BatchNorm2d(4 * planes))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        h = F.relu(self.bn2(self.conv2(h)), inplace=True)
        h = self.bn3(self.conv3(self.avgpool(h)))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)), inplace=True)


class AttentionPool(nn.Module):
    """Attention pooling: the mean of all cells is the query, the cells are keys and values."""

    def __init__(self, side: int, width: int, embed_dim: int, head_width: int = 0):
        super().__init__()
        self.heads = width // (head_width or HEAD_WIDTH)
        self.positional_embedding = nn.Parameter(torch.zeros(side**2 + 1, width))
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)

    def forward(self, x: Tensor) -> Tensor:  # (N, E, h, w)
        tokens = self.tokens(x)
        return self.pool(tokens, self.v_proj(tokens))  # (N, D)

    def tokens(self, x: Tensor) -> Tensor:
        """The feature map (N, E, h, w) as tokens (N, 1 + h·w, E) with their positions, the mean of all cells first."""
        positions = resize_positions(self.positional_embedding, tuple(x.shape[2:]))
        x = x.flatten(2).transpose(1, 2)  # (N, h·w, E)
        return torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + positions  # (N, 1 + h·w, E)

    def pool(self, tokens: Tensor, values: Tensor) -> Tensor:
        """Tokens and their values (N, 1 + h·w, E) -> pooled embeddings (N, D)."""

        def split(t: Tensor) -> Tensor:
            return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, L, 64)

        query, key, value = split(self.q_proj(tokens[:, :1])), split(self.k_proj(tokens)), split(values)
        pooled = F.scaled_dot_product_attention(query, key, value)  # (N, heads, 1, 64)
        return self.c_proj(pooled.transpose(1, 2).flatten(1))  # (N, D)


class ModifiedResNet(nn.Module):
    """CLIP's ResNet: a stem of three convolutions, average pools instead of strides, and attention pooling at the end."""

    def __init__(
        self, resolution: int, width: int, layers: tuple[int, int, int, int], embed_dim: int, head_width: int = 0
    ):
        super().__init__()
        self.stride = 32  # pixels
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        inputs = width
        for number, blocks in enumerate(layers, start=1):
            planes = width * 2 ** (number - 1)
            strides = [1 if number == 1 else 2] + [1] * (blocks - 1)
            stage = nn.Sequential()
            for stride in strides:
                stage.append(Bottleneck(inputs, planes, stride))
                inputs = 4 * planes
            self.add_module(f"layer{number}", stage)
        self.attnpool = AttentionPool(resolution // 32, inputs, embed_dim, head_width)

    def forward(self, pixels: Tensor) -> Tensor:  # (N, 3, H, W)
        return self.attnpool(self.feature_map(pixels))  # (N, D)

    def feature_map(self, x: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) -> the last feature map (N, E, H/32, W/32)."""
        for number in (1, 2, 3):
            x = F.relu(self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x)), inplace=True)
        x = self.avgpool(x)  # (N, E, H/4, W/4)
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{number}")(x)
        return x


# Cells: each position of the last feature map, brought into the joint embedding, so that it has a cosine with every text.
#
# - ResNet: the value path of the attention pool. A cell's value is projected alone, without attention over the other cells.
# - Transformer: the last block runs a second time for the patches, as attention only (no residual, no MLP), with weights that
#   look at similar patches instead of CLIP's own. CLIP's own weights serve the class token and mix the patches.

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
        pool = visual.attnpool
        tokens = pool.tokens(visual.feature_map(pixels))  # (N, 1 + h·w, E)
        values = pool.v_proj(tokens)
        embeddings, cells = pool.pool(tokens, values), pool.c_proj(values[:, 1:])  # (N, D), (N, h·w, D)
    elif isinstance(visual, VisionTransformer):
        *blocks, last = visual.transformer.resblocks
        x = visual.tokens(pixels)  # (N, 1 + h·w, E)
        for block in blocks:
            x = block(x, None)
        embeddings = visual.ln_post(last.first_token(x)) @ visual.proj  # (N, D)
        cells = visual.ln_post(_attention_only(last, x[:, 1:], ATTENTIONS[attention])) @ visual.proj  # (N, h·w, D)
    else:
        what = f"the cells of this CLIP's image encoder ({type(visual).__name__}) are not known"
        raise InputError(f"{what}. Use another CLIP, or centred labels, which need no cells.")
    height, width = (side // visual.stride for side in pixels.shape[2:])
    return embeddings, cells.unflatten(1, (height, width))  # (N, h, w, D)


def _attention_only(block: ResidualAttentionBlock, patches: Tensor, attend: Attention) -> Tensor:
    """The attention output of a block for patches (N, L, E), with other attention weights: no residual, no MLP."""
    attn = block.attn
    parts = F.linear(block.ln_1(patches), attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)  # 3 × (N, L, E)
    query, key, value = (part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in parts)  # (N, heads, L, d)
    return attn.out_proj(attend(query, key, value).transpose(1, 2).flatten(2))  # (N, L, E)
