"""Random weights and pictures for tests that compare our encoders with reference implementations."""

import torch
import torch.nn.functional as F

TEXTS = ["a photo of a cat", "", "two dogs, and a very long leash!"]


def randomise(model):
    """Random weights, biases and running statistics, scaled so that the activations do not vanish."""
    noise = torch.randn(1_000_003, generator=torch.Generator().manual_seed(1))  # a prime, so that no two rows are equal
    model = model.to_empty(device="cpu")
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        values = noise.repeat(tensor.numel() // len(noise) + 1)[: tensor.numel()].view(tensor.shape)
        if name.endswith(("bias", "running_mean")):
            tensor.copy_(values / 10)
        elif tensor.ndim < 2:  # weights and variances of normalisation layers
            tensor.copy_(1 + values.clamp(-2, 2) / 5)
        else:
            tensor.copy_(values * (tensor[0].numel() / 2 if tensor.ndim == 4 else tensor.shape[-1]) ** -0.5)
    return model.eval()


def assert_close(ours, expected):
    """Equal within 1e-4 of the spread of the reference over the inputs. The spread itself must not be negligible."""
    assert ours.shape == expected.shape
    spread = (expected - expected.mean(dim=0)).norm()
    assert 0.01 * expected.norm() < spread
    assert (ours - expected).norm() <= 1e-4 * spread


def pictures(height, width, count=2):
    generator = torch.Generator().manual_seed(2)
    blobs = F.interpolate(2 * torch.randn(count, 3, 3, 3, generator=generator), (height, width), mode="bilinear")
    return blobs + torch.randn(count, 3, height, width, generator=generator) / 2
