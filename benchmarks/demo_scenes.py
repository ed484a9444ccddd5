"""The demo scenes that the benchmarks share: the drawn scenes of `mlclip demo`, written once for each seed."""

from __future__ import annotations

import json
from pathlib import Path

from mlclip.cli.demo import TEST_SCENES, TRAIN_SCENES
from mlclip.demo import write_scenes


def demo_scenes(out: Path, seed: int) -> Path:
    """The folder below `out` with this seed's scenes. Scenes whose writing was interrupted are written again."""
    folder = out / f"world-{seed}"
    if not (folder / "ready").exists():
        write_scenes(folder, train=TRAIN_SCENES, test=TEST_SCENES, seed=seed)
        (folder / "ready").touch()
    return folder


def scene_boxes(folder: Path) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """The drawn things of the training scenes: {file name: [(kind, box_xyxy in pixels)]}."""
    content = json.loads((folder / "boxes_train.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    kinds = {category["id"]: category["name"] for category in content["categories"]}
    found = {name: [] for name in names.values()}
    for item in content["annotations"]:
        x, y, width, height = item["bbox"]
        found[names[item["image_id"]]].append((kinds[item["category_id"]], (x, y, x + width, y + height)))
    return found
