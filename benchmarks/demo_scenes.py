"""The demo scenes that the benchmarks share: the drawn scenes of `mlclip demo`, written once for each seed."""

from __future__ import annotations

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
