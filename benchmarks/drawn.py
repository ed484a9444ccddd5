"""The drawn world that the benchmarks share: the demo's, of any seed, drawn once."""

from __future__ import annotations

from pathlib import Path

from mlclip.cli.demo import TEST_SCENES, TRAIN_SCENES
from mlclip.demo import write_scenes


def drawn_world(out: Path, seed: int) -> Path:
    """The folder of this seed's world below `out`; one that was cut off while it was drawn is drawn again."""
    folder = out / f"world-{seed}"
    if not (folder / "ready").exists():
        write_scenes(folder, train=TRAIN_SCENES, test=TEST_SCENES, seed=seed)
        (folder / "ready").touch()
    return folder
