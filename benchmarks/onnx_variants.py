"""What the ONNX variants of a model cost: mAP, file size and photos per second of PyTorch and of ONNX fp32 and int8.

    python benchmarks/onnx_variants.py --model model.pt

The photos and their true labels are those of --test and --truth; the true labels are only used for the mAP. int8 is calibrated
on --photos, which must not be the test photos. Every row is the whole prediction: decoding, resizing and the network.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import mlclip
from mlclip.images import Found, find_images
from mlclip.student.checkpoint import load_checkpoint
from mlclip.student.export import TOLERANCE, export_onnx

VOC12 = Path("../shared/voc12")


def first(found: Found, count: int | None) -> Found:
    return Found(found.root, found.photos[:count], [], 0)


def timed(predict: Callable[[], mlclip.Labels], rounds: int) -> tuple[mlclip.Labels, float]:
    """The prediction, and the median seconds of `rounds` runs after the first one, which warms up."""
    labels, seconds = predict(), []
    for _ in range(rounds):
        started = time.perf_counter()
        labels = predict()
        seconds.append(time.perf_counter() - started)
    return labels, statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model.pt"))
    parser.add_argument("--test", default=str(VOC12 / "photos" / "test"))
    parser.add_argument("--truth", default=str(VOC12 / "truth_test.csv"))
    parser.add_argument("--photos", default=str(VOC12 / "photos" / "train"), help="for the calibration of int8")
    parser.add_argument("--only", help="evaluate only these classes, separated by commas")
    parser.add_argument("--count", type=int, help="use only the first COUNT test photos")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each row")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/onnx"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint, found = load_checkpoint(args.model), first(find_images(args.test), args.count)
    models: dict[str, tuple[object, Path, str]] = {"PyTorch": (checkpoint, args.model, "-")}
    for variant in TOLERANCE:
        file = args.out / f"{variant}.onnx"
        difference = export_onnx(checkpoint, file, variant=variant, photos=find_images(args.photos))
        models[f"ONNX {variant}"] = (str(file), file, f"{difference.mean:.1e} / {difference.largest:.1e}")
    print(f"{checkpoint.model.arch}, {checkpoint.model.size} px, {len(found.photos)} photos, {os.cpu_count()} cores\n")
    print("| model | mAP (%) | cost (points) | size (MB) | photos/s | score difference, mean / largest |")
    print("|---|---|---|---|---|---|", flush=True)
    base = None
    for name, (model, file, difference) in models.items():

        def predict(model=model) -> mlclip.Labels:
            return mlclip.predict(found, model, device="cpu", num_workers=args.workers, progress=mlclip.SILENT)

        labels, seconds = timed(predict, args.rounds)
        only = args.only.split(",") if args.only else None
        value = 100 * mlclip.evaluate(labels, args.truth, only=only).mean_average_precision
        base = value if base is None else base
        size, speed = file.stat().st_size / 1e6, len(found.photos) / seconds
        print(f"| {name} | {value:.2f} | {base - value:+.2f} | {size:.1f} | {speed:.1f} | {difference} |", flush=True)


if __name__ == "__main__":
    main()
