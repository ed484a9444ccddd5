"""Heat maps: class activation maps drawn over the photo, as in CDUL's Figure 5. They show where the student saw a class.

Letters: n photos of a batch, K classes shown of one photo, h w cells of a map, S the student's input size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..distributed import choose_device
from ..files import atomic
from ..images import Photo, PhotoViews, Unreadable, open_image, photo_batches
from ..images.names import output_names
from ..images.overlay import lay_over
from ..progress import SILENT, Progress
from .checkpoint import Checkpoint
from .clip_head import refuse_clip_head
from .predict import class_maps, fast_layout

SIDE = 360  # longer side of one picture of the strip, pixels
CAPTION = 22  # height of the line of text above it, pixels
GAP = 6  # between two pictures, pixels


def write_heatmaps(
    photos: Sequence[Photo],
    chosen: Sequence[Sequence[tuple[int, float]]],
    checkpoint: Checkpoint,
    folder: str | Path,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 16,
    num_workers: int = 2,
    progress: Progress = SILENT,
) -> int:
    """Write one JPEG per photo, `folder`/PATH.heatmap.jpg: the photo, then the map of each chosen class over the photo.

    `chosen` has the (column, score) of the classes of each photo.
    Where PATH is no name that can be written, `output_names` says what the file is called. Colours go from the lowest cell of each
    map (blue) to its highest cell (red): they compare places of a photo, not classes. Returns the number of files; photos that cannot
    be read are skipped.
    """
    refuse_clip_head(checkpoint.model, "draw heat maps")
    folder, device, model = Path(folder), choose_device(device or "auto"), checkpoint.model
    fast_layout(model, device).eval()
    written, names = 0, output_names([photo.path for photo in photos], ".heatmap.jpg")
    views = PhotoViews(photos, model.size)
    batches = photo_batches(views, batch_size=batch_size, num_workers=num_workers, device=device)
    with progress.bar("heat maps", len(photos), "photos") as bar:
        for indices, pixels, unreadable in batches:  # pixels (n, 1, 3, S, S)
            maps = class_maps(model, pixels[:, 0], device) if pixels is not None else ()  # (n, C, h, w)
            for index, cams in zip(indices.tolist(), maps, strict=True):
                try:
                    image = open_image(photos[index].file, smallest=(SIDE, SIDE))
                except Unreadable:
                    continue
                columns = [column for column, _ in chosen[index]]
                captions = [f"{model.classes[column]} {score:.2f}" for column, score in chosen[index]]
                file = folder / names[index]
                with atomic(file) as temporary:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    heatmap_strip(image, cams[columns], captions).save(temporary, "JPEG", quality=88)
                written += 1
            bar.update(len(indices) + len(unreadable))
    return written


def heatmap_strip(image: Image.Image, maps: Tensor, captions: Sequence[str]) -> Image.Image:
    """An RGB photo and its class activation maps (K, h, w), each drawn over the photo, side by side with K captions."""
    scale = SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    photo = image.resize((width, height), Image.Resampling.BICUBIC)
    strip = Image.new("RGB", ((width + GAP) * (len(maps) + 1) - GAP, height + CAPTION), "white")
    draw = ImageDraw.Draw(strip)
    for place, caption in enumerate(["photo", *captions]):
        picture = photo if place == 0 else lay_over(photo, maps[place - 1])
        strip.paste(picture, (place * (width + GAP), CAPTION))
        draw.text((place * (width + GAP) + 2, 2), caption, fill="black", font=ImageFont.load_default(15))
    return strip
