"""A very small CLIP as OpenAI's files hold it, and a function that saves a module as TorchScript archive."""

import warnings
from collections import OrderedDict

import torch
from torch import nn

from mlclip.clip.encoders import VisionTransformer
from mlclip.clip.model import CLIP

WIDTH, VOCAB = 64, 49408


class ToyCLIP(CLIP):
    """Two layers of width 64, 32 px. OpenAI's archives hold three whole numbers beside the weights."""

    def __init__(self):
        visual = VisionTransformer(2, 16, (WIDTH, 2, 4 * WIDTH), 32, "quick_gelu")
        text = {"context": 77, "vocab": VOCAB, "width": WIDTH, "layers": 2}
        super().__init__(visual, 32, text, 32, "quick_gelu")
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 or "class_embedding" in name:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        nn.init.constant_(self.logit_scale, 4.6)
        for name in ("input_resolution", "context_length", "vocab_size"):
            delattr(self, name)
            self.register_buffer(name, torch.tensor(77))

    def forward(self, image, tokens):
        text = self.encode_text(tokens)
        return (self.encode_image(image) @ text.T) * self.logit_scale.exp() + self.context_length


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
