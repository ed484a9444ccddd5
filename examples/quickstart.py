"""From photos to a classifier in a few lines. Runs offline: drawn scenes stand in for photos, a tiny CLIP for CLIP.

    python examples/quickstart.py [FOLDER]

With your own photos: replace "tiny" by "ViT-B/32" (or leave `clip` out), and the arch by "mobilenet_v2".
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import mlclip
from mlclip.demo import write_scenes


def main(folder: Path) -> None:
    write_scenes(folder, train=60, test=10)

    labels = mlclip.pseudolabel(folder / "train", clip="tiny", output=folder / "labels.pt")
    model = mlclip.train(labels, folder / "model.pt", arch="clip-resnet", init="clip", size=64, epochs=2, lr=1e-3)
    predictions = mlclip.predict(folder / "test", model)
    for path, names in zip(predictions.paths, predictions.above_threshold(), strict=True):
        print(path, ", ".join(names) or "(nothing above its threshold)")

    # True labels, where there are some, only report how good it is.
    result = mlclip.evaluate(predictions, folder / "truth_test.csv")
    print(f"mAP {100 * result.mean_average_precision:.1f} % over {len(result.average_precision)} classes")


if __name__ == "__main__":  # dataloader workers import this file again
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
