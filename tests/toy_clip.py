"""A very small module with the same layout as OpenAI's public CLIP, and a function that saves it as TorchScript archive."""

import warnings
from collections import OrderedDict

import torch
from torch import nn

WIDTH, VOCAB = 64, 49408


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(WIDTH, 4 * WIDTH), gelu=nn.GELU(), c_proj=nn.Linear(4 * WIDTH, WIDTH))
        )
        self.attn_mask = torch.zeros(2, 2)

    def forward(self, x):
        h = self.ln_1(x)
        return x + self.mlp(self.ln_2(x + self.attn(h, h, h, need_weights=False)[0]))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.resblocks = nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.resblocks(x)


class Visual(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_resolution, self.training_note, self.nothing = 32, True, None
        self.conv1 = nn.Conv2d(3, WIDTH, 16, stride=16, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(5, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer()
        self.proj = nn.Parameter(torch.randn(WIDTH, 32))

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2) + self.positional_embedding[1:] + self.class_embedding
        return self.ln_post(self.transformer(self.ln_pre(x)))[:, 0] @ self.proj


class ToyCLIP(nn.Module):
    """The same layout as OpenAI's public model, as small as possible."""

    def __init__(self):
        super().__init__()
        self.visual, self.transformer = Visual(), Transformer()
        self.token_embedding = nn.Embedding(VOCAB, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(77, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, 32))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(77))

    def forward(self, image, tokens):
        x = self.transformer(self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]])
        text = self.ln_final(x)[:, -1] @ self.text_projection
        return (self.visual(image) @ text.T) * self.logit_scale.exp() + self.context_length


class Downsample(nn.Module):
    """The parts of a CLIP ResNet that a transformer does not have: batch norms, and children named -1, 0, 1."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.downsample = nn.Sequential(
            OrderedDict({"-1": nn.AvgPool2d(2), "0": nn.Conv2d(4, 8, 1), "1": nn.BatchNorm2d(8)})
        )

    def forward(self, x):
        return self.downsample(self.bn1(self.conv1(x)))


def trace(module, *inputs, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but OpenAI's files are its archives
        torch.jit.trace(module.eval(), inputs).save(str(path))
