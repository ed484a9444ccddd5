"""The student's networks equal torchvision's: weights from the same seed, outputs, and everything training changes."""

from __future__ import annotations

import pytest
import torch
import torchvision

from mlclip.config import ARCHS
from mlclip.student.model import build_trunk


def torchvision_trunk(arch: str) -> torch.nn.Module:
    network = torchvision.models.get_model(arch, weights=None)
    if arch.startswith("resnet"):
        return torch.nn.Sequential(*(part for name, part in network.named_children() if name not in ("avgpool", "fc")))
    parts = [network.features] + ([network.classifier[0]] if arch.startswith("convnext") else [])
    return torch.nn.Sequential(*parts)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_network_has_the_weights_outputs_and_gradients_of_torchvision(arch):
    torch.manual_seed(0)
    expected = torchvision_trunk(arch)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    trunk = build_trunk(arch)
    assert torch.equal(torch.get_rng_state(), after)
    names = [name.partition(".")[2] for name in trunk.state_dict()]
    assert names == [name.partition(".")[2] for name in expected.state_dict()]
    assert all(map(torch.equal, trunk.state_dict().values(), expected.state_dict().values()))
    pixels = torch.randn(2, 3, 64, 64)
    for network in (trunk, expected):  # in training: batch norm and stochastic depth draw and change what they keep
        torch.manual_seed(1)
        network.train()(pixels).square().mean().backward()
        network.eval()
    assert all(map(torch.equal, trunk.state_dict().values(), expected.state_dict().values()))
    ours, theirs = ([p.grad for p in network.parameters()] for network in (trunk, expected))
    assert all(map(torch.equal, ours, theirs))
    assert torch.equal(trunk(pixels), expected(pixels))
