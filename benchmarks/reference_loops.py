"""Plain loops that `benchmarks/speed.py` compares mlclip with: what one would write with open_clip and torchvision alone.

    python benchmarks/reference_loops.py encode PHOTOS --clip WEIGHTS.pt --model ViT-B-32-quickgelu
    python benchmarks/reference_loops.py train PHOTOS --labels labels.pt --arch mobilenet_v2 --size 160 --epochs 3
    python benchmarks/reference_loops.py predict PHOTOS --arch mobilenet_v2 --size 224

All use a DataLoader with as many workers as cores, float32, and batches of the same size as mlclip. `encode --expert bf16` is the loop
as an expert writes it: channels-last, and bf16 autocast where the CPU has instructions for it (else `--expert fp32`).
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2 as transforms

NORMALISE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FLOATS = [transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True), NORMALISE]


class Photos(Dataset):
    """Photos as float tensors, (index, pixels)."""

    def __init__(self, files: list[Path], transform):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        return index, self.transform(Image.open(self.files[index]).convert("RGB"))


def loader(files: list[Path], transform, batch_size: int, shuffle: bool = False) -> DataLoader:
    return DataLoader(Photos(files, transform), batch_size=batch_size, shuffle=shuffle, num_workers=os.cpu_count() or 1)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("photos", type=Path)
@click.option("--clip")
@click.option("--model")
@click.option("--expert", type=click.Choice(["fp32", "bf16"]))
@torch.inference_mode()
def encode(photos: Path, clip: str, model: str, expert: str | None) -> None:
    """14 views of each photo through open_clip's image encoder: whole, 2×2 and 3×3."""
    import open_clip

    network, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=None)
    network.load_state_dict(torch.load(clip, weights_only=True), strict=False)
    network.eval().to(memory_format=torch.channels_last if expert else torch.preserve_format)
    size = network.visual.image_size
    side = size if isinstance(size, int) else size[0]

    def views(image: Image.Image) -> torch.Tensor:
        found = []
        for n in (1, 2, 3):
            w, h = image.width / n, image.height / n
            for row, column in ((row, column) for row in range(n) for column in range(n)):
                box = (int(column * w), int(row * h), int((column + 1) * w), int((row + 1) * h))
                found.append(preprocess(image.crop(box).resize((side, side))))
        return torch.stack(found)

    batches = loader(sorted(photos.rglob("*.jpg")), views, max(1, 64 // 14))
    found = []
    for _, pixels in batches:
        pixels = pixels.flatten(0, 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=expert == "bf16"):
            found.append(network.encode_image(pixels.to(memory_format=torch.channels_last) if expert else pixels))
    nn.functional.normalize(torch.cat(found).float(), dim=-1).half()


@main.command()
@click.argument("photos", type=Path)
@click.option("--labels")
@click.option("--arch")
@click.option("--size", type=int)
@click.option("--epochs", type=int)
def train(photos: Path, labels: str, arch: str, size: int, epochs: int) -> None:
    """Binary cross-entropy with soft labels, flips, Adam: the ordinary torchvision fine-tuning loop."""
    table = torch.load(labels, weights_only=True)
    targets = table["scores"].nan_to_num(0)
    files = [photos / path for path in table["paths"]]
    steps = [transforms.Resize((size, size), antialias=True), transforms.RandomHorizontalFlip(), *FLOATS]
    model = torchvision.models.get_model(arch, weights=None, num_classes=targets.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    batches = loader(files, transforms.Compose(steps), 32, shuffle=True)
    for _ in range(epochs):
        model.train()
        for rows, pixels in batches:
            loss = nn.functional.binary_cross_entropy_with_logits(model(pixels), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@main.command()
@click.argument("photos", type=Path)
@click.option("--arch")
@click.option("--size", type=int)
@torch.inference_mode()
def predict(photos: Path, arch: str, size: int) -> None:
    """Scores of every photo by a torchvision network."""
    steps = [transforms.Resize((size, size), antialias=True), *FLOATS]
    model = torchvision.models.get_model(arch, weights=None, num_classes=20).eval()
    batches = loader(sorted(photos.rglob("*.jpg")), transforms.Compose(steps), 64)
    torch.cat([model(pixels).sigmoid() for _, pixels in batches])


if __name__ == "__main__":
    main()
