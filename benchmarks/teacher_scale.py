"""How well the tiny CLIP names the objects of the demo scenes, by its input size and the margin around the object.

    python benchmarks/teacher_scale.py

CCD shows CLIP larger views than those it was trained on. The tiny CLIP was trained only at 64 pixels. This measures it also at 96
pixels, which is CCD's factor of 10/7, rounded to whole strides.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from demo_scenes import scene_boxes
from PIL import Image

from mlclip.clip import load_clip
from mlclip.demo import KINDS, write_scenes
from mlclip.images import open_image
from mlclip.teacher.scoring import Teacher, class_embeddings, class_scores

MARGINS = (0.0, 0.15, 0.3, 0.5)  # on each side, as a share of the object's longer side
LARGE_SHARE = 0.45  # an object wider than this share of the scene is large


def crop(image: Image.Image, box: tuple[float, ...], margin: float, size: int) -> torch.Tensor:
    """An object with a margin, squeezed to a square: uint8 (3, size, size)."""
    x0, y0, x1, y1 = box
    grown = margin * max(x1 - x0, y1 - y0)
    left, top = max(0, int(x0 - grown)), max(0, int(y0 - grown))
    right, bottom = min(image.width, int(x1 + grown)), min(image.height, int(y1 + grown))
    pixels = np.array(image.crop((left, top, right, bottom)).resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/teacher_scale"), help="folder of the scenes")
    parser.add_argument("--scenes", type=int, default=250, help="number of scenes")
    args = parser.parse_args()
    write_scenes(args.out, train=args.scenes, test=1, seed=0)
    teacher = Teacher(load_clip("tiny"))
    text = class_embeddings(teacher, KINDS, ["a photo of the {}"])
    objects = []
    for path, boxes in scene_boxes(args.out).items():
        image = open_image(args.out / "train" / path)
        objects += [(image, KINDS.index(kind), box, box[2] - box[0] > LARGE_SHARE * image.width) for kind, box in boxes]
    kinds, large = torch.tensor([kind for _, kind, _, _ in objects]), torch.tensor([big for *_, big in objects])
    print(
        f"{len(objects)} objects, named correctly (%)\n\n| input, pixels | margin | small | large |\n|---|---|---|---|"
    )
    for size in (teacher.input_size, teacher.larger_size()):
        for margin in MARGINS:
            pixels = torch.stack([crop(image, box, margin, size) for image, _, box, _ in objects])
            embeddings = torch.cat([teacher.embed_views(part) for part in pixels.split(64)])
            correct = (class_scores(embeddings, text, teacher.logit_scale).argmax(1) == kinds).float()
            print(f"| {size} | {margin} | {100 * correct[~large].mean():.1f} | {100 * correct[large].mean():.1f} |")


if __name__ == "__main__":
    main()
