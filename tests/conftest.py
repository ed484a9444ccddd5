"""Fixtures of many tests: shared real data, a small folder of generated photos, a small random CLIP on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def voc12() -> Path:
    """The folder of real photos and scores. Skips the test if it does not exist."""
    folder = SHARED / "voc12"
    if not folder.is_dir():
        pytest.skip(f"the real photos do not exist ({folder})")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """Give every test its own cache, so that tests do not share embeddings and do not use the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MLCLIP_CACHE", str(folder))
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of 12 small JPEGs from a fixed seed: red, green and blue noise in turn."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 90, (40 + number, 60, 3), dtype=np.uint8)
        pixels[..., number % 3] += 150
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg", quality=95)
    return folder


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory) -> Path:
    """A weight file of a random CLIP with a small ResNet: input 64 px, embedding 32."""
    from mlclip.clip import model

    torch.manual_seed(0)
    clip = model.CLIP(
        model.ModifiedResNet(64, 8, (1, 1, 1, 1), 32),
        64,
        {"context": 77, "vocab": 49408, "width": 64, "layers": 1},
        32,
        "quick_gelu",
    )
    for name, parameter in clip.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02 if "embedding" in name else parameter[0].numel() ** -0.5)
    torch.nn.init.constant_(clip.logit_scale, 4.6052)
    file = tmp_path_factory.mktemp("clip") / "small.pt"
    torch.save(clip.state_dict(), file)
    return file
