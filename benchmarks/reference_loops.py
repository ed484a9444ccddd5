"""Plain loops that `benchmarks/speed.py` compares mlclip with: what one would write with open_clip and torchvision alone.

    python benchmarks/reference_loops.py encode PHOTOS --clip WEIGHTS.pt --model ViT-B-32-quickgelu
    python benchmarks/reference_loops.py train PHOTOS --labels labels.pt --arch mobilenet_v2 --size 160 --epochs 3
    python benchmarks/reference_loops.py predict PHOTOS --arch mobilenet_v2 --size 224

All use a DataLoader with as many workers as cores, float32, and batches of the same size as mlclip.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2 as transforms

NORMALISE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Photos(Dataset):
    """Photos as float tensors, (index, pixels)."""

    def __init__(self, files: list[Path], transform):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        return index, self.transform(Image.open(self.files[index]).convert("RGB"))


def jpegs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jpg"))


def loader(dataset: Dataset, batch_size: int, shuffle: bool = False) -> DataLoader:
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, num_workers=os.cpu_count() or 1)


@torch.inference_mode()
def encode(args: argparse.Namespace) -> None:
    """14 views of each photo through open_clip's image encoder: whole, 2×2 and 3×3."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(args.model, pretrained=None)
    model.load_state_dict(torch.load(args.clip, weights_only=True), strict=False)
    model.eval()

    size = model.visual.image_size
    side = size if isinstance(size, int) else size[0]

    def views(image: Image.Image) -> torch.Tensor:
        found = []
        for n in (1, 2, 3):
            for row in range(n):
                for column in range(n):
                    w, h = image.width / n, image.height / n
                    box = (int(column * w), int(row * h), int((column + 1) * w), int((row + 1) * h))
                    found.append(preprocess(image.crop(box).resize((side, side))))
        return torch.stack(found)

    features = []
    for _, pixels in loader(Photos(jpegs(args.photos), views), max(1, 64 // 14)):
        features.append(model.encode_image(pixels.flatten(0, 1), normalize=True))
    torch.cat(features).half()


def train(args: argparse.Namespace) -> None:
    """Binary cross-entropy with soft labels, flips, Adam: the ordinary torchvision fine-tuning loop."""
    table = torch.load(args.labels, weights_only=True)
    targets = table["scores"].nan_to_num(0)
    files = [Path(table["root"]) / path for path in table["paths"]]
    resize = transforms.Resize((args.size, args.size), antialias=True)
    steps = [
        resize,
        transforms.RandomHorizontalFlip(),
        transforms.ToImage(),
        transforms.ToDtype(torch.float32, scale=True),
    ]
    model = torchvision.models.get_model(args.arch, weights=None, num_classes=targets.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    batches = loader(Photos(files, transforms.Compose([*steps, NORMALISE])), 32, shuffle=True)
    for _ in range(args.epochs):
        model.train()
        for rows, pixels in batches:
            loss = nn.functional.binary_cross_entropy_with_logits(model(pixels), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.inference_mode()
def predict(args: argparse.Namespace) -> None:
    """Scores of every photo by a torchvision network."""
    resize = transforms.Resize((args.size, args.size), antialias=True)
    steps = [resize, transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True), NORMALISE]
    model = torchvision.models.get_model(args.arch, weights=None, num_classes=20).eval()
    scores = [
        model(pixels).sigmoid() for _, pixels in loader(Photos(jpegs(args.photos), transforms.Compose(steps)), 64)
    ]
    torch.cat(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["encode", "train", "predict"])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--model", default="ViT-B-32-quickgelu")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--arch", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    {"encode": encode, "train": train, "predict": predict}[args.task](args)


if __name__ == "__main__":
    main()
