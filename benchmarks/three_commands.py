"""The three commands of the README, with their defaults, on 1,000 real photos: seconds of each, and of all.

    python benchmarks/three_commands.py --data ../shared/voc12

The only options are the files that would otherwise be downloaded: the CLIP (`--clip`, ViT-B/32 with random weights, because speed does
not depend on their values) and the student's ImageNet weights (`--init`). The cache is empty at the start. Nothing else should run
on the machine. The labels mean nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from pathlib import Path

import torch
from speed import MLCLIP, random_clip, subset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/voc12"), help="folder of the real photos and weights"
    )
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/three_commands"))
    args = parser.parse_args()
    out = args.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    photos, clip = (
        subset(args.data.resolve() / "photos" / "train", args.photos, out),
        random_clip("ViT-B-32-quickgelu", out),
    )
    init = args.data.resolve() / "mobilenet_v2_imagenet.pth"
    commands = [
        ["pseudolabel", str(photos), "--classes", "voc", "--clip", str(clip)],
        ["train", "--init", str(init)],
        ["predict", str(photos)],
    ]
    environment = {**os.environ, "MLCLIP_CACHE": str(out / "cache")}
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n")
    print("| command | photos | seconds |\n|---|---|---|")
    total = 0.0
    for command in commands:
        with open(out / f"{command[0]}.out", "w") as stdout, open(out / f"{command[0]}.err", "w") as stderr:
            started = time.perf_counter()
            subprocess.run([*MLCLIP, *command], check=True, cwd=out, env=environment, stdout=stdout, stderr=stderr)
            seconds = time.perf_counter() - started
        total += seconds
        print(f"| {command[0]} | {args.photos} | {seconds:.0f} |", flush=True)
    print(f"| all three | {args.photos} | {total:.0f} |")


if __name__ == "__main__":
    main()
