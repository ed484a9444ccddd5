"""Cells of CLIP's feature maps: equal to slow, obvious references, and free of side effects on the ordinary embedding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mlclip.clip import encoders
from mlclip.clip.encoders import ATTENTIONS, embed_with_cells
from mlclip.config import InputError

SIZES = [(64, 64), (128, 128), (96, 160)]  # height and width in pixels; CLIP's own side is 64


def randomised(visual):
    generator = torch.Generator().manual_seed(0)
    for name, tensor in visual.state_dict().items():
        if name.endswith("running_var"):
            tensor.fill_(1.0)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * max(1, tensor[:1].numel()) ** -0.5)
    return visual.eval()


@pytest.fixture(scope="module")
def vit():
    return randomised(encoders.VisionTransformer(4, 16, (128, 3, 256), 32, "quick_gelu"))


@pytest.fixture(scope="module")
def resnet():
    return randomised(encoders.ModifiedResNet(64, 8, (1, 1, 1, 1), 32))


def pictures(height, width):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def layer_4(visual, pixels):
    found = []
    hook = visual.layer4.register_forward_hook(lambda module, inputs, output: found.append(output))
    visual(pixels)
    hook.remove()
    return found[0]


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
def test_a_cell_of_a_resnet_is_its_projected_value(resnet, size):
    pixels, pool = pictures(*size), resnet.attnpool
    embeddings, cells = embed_with_cells(resnet, pixels)
    features = layer_4(resnet, pixels)
    height, width = size[0] // 32, size[1] // 32
    assert cells.shape == (2, height, width, 32)
    positions = pool.positional_embedding[1:].T.reshape(1, -1, 2, 2)
    positions = F.interpolate(positions, size=(height, width), mode="bilinear", align_corners=False)[0]
    for row in range(height):
        for column in range(width):
            cell = features[:, :, row, column] + positions[:, row, column]
            value = cell @ pool.v_proj.weight.T + pool.v_proj.bias
            expected = value @ pool.c_proj.weight.T + pool.c_proj.bias
            torch.testing.assert_close(cells[:, row, column], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(embeddings, resnet(pixels))


def weights_of(attention, query, key):
    """Attention weights (L, L) of one head."""
    if attention == "identity":
        return torch.eye(len(query))
    both = {"query": query, "key": key}[attention]
    return (both @ both.T / both.shape[1] ** 0.5).softmax(dim=1)


@torch.inference_mode()
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_a_cell_of_a_transformer_is_the_attention_output_of_the_last_block(vit, attention, size):
    pixels = pictures(*size)
    embeddings, cells = embed_with_cells(vit, pixels, attention)
    last = vit.transformer.resblocks[-1]
    inputs = []
    hook = last.ln_1.register_forward_hook(lambda module, given, output: inputs.append(output))
    expected = vit(pixels)
    hook.remove()
    assert cells.shape == (2, size[0] // 16, size[1] // 16, 32)
    patches = inputs[0][:, 1:]  # (N, L, E) without the class token
    parts = [w @ patches[..., None] for w in last.attn.in_proj_weight.split(128)]  # 3 × (N, L, E, 1)
    biases = last.attn.in_proj_bias.split(128)
    query, key, value = (part[..., 0] + bias for part, bias in zip(parts, biases, strict=True))
    for image in range(2):
        heads = []
        for head in range(2):
            part = slice(64 * head, 64 * head + 64)
            heads.append(weights_of(attention, query[image, :, part], key[image, :, part]) @ value[image, :, part])
        output = torch.cat(heads, dim=1) @ last.attn.out_proj.weight.T + last.attn.out_proj.bias
        slow = F.layer_norm(output, (128,), vit.ln_post.weight, vit.ln_post.bias) @ vit.proj
        torch.testing.assert_close(cells[image].flatten(0, 1), slow, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(embeddings, expected)


@torch.inference_mode()
def test_the_three_attentions_differ(vit):
    first, second, third = (embed_with_cells(vit, pictures(64, 64), name)[1] for name in ATTENTIONS)
    assert min((first - second).norm(), (first - third).norm(), (second - third).norm()) > 0.01 * first.norm()


def test_an_image_encoder_of_another_kind_is_refused():
    with pytest.raises(InputError, match=r"\(Conv2d\) are not known"):
        embed_with_cells(torch.nn.Conv2d(3, 4, 1), pictures(64, 64))
