"""Peak memory and time of the commands as the number of photos, classes and views grows, with the toy CLIP and drawn scenes.

    python benchmarks/scale.py

Each line is one whole process with an empty cache. "Peak" is the memory (resident set) of the largest process of the command.
The last lines fit a straight line to the times: seconds at the start, and seconds per photo. Memory must not grow with the photos:
the ratio of the largest to the smallest folder is printed. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mlclip.demo.scenes import KINDS, draw_scene

MLCLIP = [sys.executable, "-m", "mlclip"]
DRAWN = 500  # different scenes; larger folders hold copies of them


def small_photos(out: Path, count: int) -> Path:
    """A folder with `count` scenes of 96 × 96 pixels. Scenes are drawn once and then linked."""
    folder, drawn = out / f"photos-{count}", out / "drawn"
    if not (drawn / f"{DRAWN - 1}.jpg").exists():
        drawn.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for number in range(DRAWN):
            draw_scene(rng)[0].resize((96, 96), Image.Resampling.BICUBIC).save(drawn / f"{number}.jpg")
    if not folder.exists():
        folder.mkdir()
        for number in range(count):
            os.link(drawn / f"{number % DRAWN}.jpg", folder / f"{number:06d}.jpg")
    return folder


def measure(command: list[str], out: Path, keep_cache: bool = False) -> tuple[float, float]:
    """Seconds and peak memory in MB of one command."""
    cache = out / "cache"
    if not keep_cache:
        shutil.rmtree(cache, ignore_errors=True)
    environment = {**os.environ, "MLCLIP_CACHE": str(cache)}
    started = time.perf_counter()
    with open(out / "stderr.txt", "wb") as errors:
        process = subprocess.Popen([*MLCLIP, *command], stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((out / "stderr.txt").read_text())
    return time.perf_counter() - started, usage.ru_maxrss / 1024  # Linux counts in KiB


def row(what: str, photos: int, classes: int, views: int, seconds: float, peak: float) -> None:
    print(f"| {what} | {photos} | {classes} | {views} | {seconds:.1f} | {peak:.0f} |", flush=True)


def line(what: str, points: list[tuple[int, float]]) -> None:
    """The least-squares line through (number, seconds)."""
    slope, start = np.polyfit(*zip(*points, strict=True), 1)
    worst = max(abs(start + slope * x - y) / y for x, y in points)
    print(f"{what}: {start:.1f} s + {1000 * slope:.3f} ms each (largest deviation {100 * worst:.0f} %)", flush=True)


def resident() -> int:
    """The memory (resident set) of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def lists_per_photo(out: Path, count: int = 200_000) -> None:
    """Print the memory of the main rank for each photo: the list of photos, the store's index, and a table of 20 classes."""
    import torch

    from mlclip.images import Photo
    from mlclip.labels.table import Labels
    from mlclip.teacher.store import Key, Store

    shutil.rmtree(out / "index", ignore_errors=True)
    key = Key("embeddings", "0" * 64, "gelu", 224, (1,))
    start = resident()
    photos = [
        Photo(f"folder/{n:09d}.jpg", f"/data/photos/folder/{n:09d}.jpg", 100_000 + n, 10**18 + n) for n in range(count)
    ]
    listed = resident()
    (out / "index").mkdir(parents=True)
    store = Store(out / "index", key)
    for first in range(0, count, 20_000):
        contents = [n.to_bytes(16, "big") for n in range(first, first + 20_000)]
        store.write_shard(store.next_shard(), photos[first : first + 20_000], contents, torch.zeros(20_000, 1, 1))
    store.write_index(complete=True)
    del store
    before = resident()
    store = Store(out / "index", key)
    opened = resident()
    labels = Labels([photo.path for photo in photos], names(20).split(","), torch.rand(count, 20))
    table = resident()
    print(f"\nmain rank, bytes per photo: list {(listed - start) / count:.0f}, index of a store {(opened - before) / count:.0f}, "
          f"table of {len(labels.classes)} classes {(table - opened) / count:.0f} ({len(photos)} photos)")  # fmt: skip
    del store


def names(count: int) -> str:
    return ",".join([*KINDS, *(f"other thing {n}" for n in range(count))][:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/scale"))
    parser.add_argument("--photos", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 200, 1000])
    parser.add_argument("--grids", nargs="+", default=["1", "1,2", "1,2,3"])
    parser.add_argument("--lists", action="store_true", help="only the memory of the lists, per photo")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if args.lists:
        return lists_per_photo(out)
    labels, model = str(out / "labels.pt"), str(out / "model.pt")
    shared = ["--clip", "tiny", "--overwrite", "-q", "-o", labels, "--method", "centred"]
    print("| command | photos | classes | views | seconds | peak, MB |\n|---|---|---|---|---|---|")
    points: dict[str, list[tuple[int, float]]] = {}
    peaks: dict[str, list[float]] = {}

    def run(what: str, by: str, command: list[str], sizes: tuple[int, int, int], keep_cache: bool = False) -> None:
        seconds, peak = measure(command, out, keep_cache)
        row(what, *sizes, seconds, peak)
        points.setdefault(f"{what}, by {by}", []).append((sizes[("photos", "classes", "views").index(by)], seconds))
        if by == "photos":
            peaks.setdefault(what, []).append(peak)

    for count in args.photos:
        folder, classes = str(small_photos(out, count)), names(20)
        run("pseudolabel", "photos", ["pseudolabel", folder, "--classes", classes, *shared], (count, 20, 14))
        run(
            "pseudolabel again", "photos", ["pseudolabel", folder, "--classes", classes, *shared], (count, 20, 14), True
        )
        if count == args.photos[0]:
            train = [
                "train",
                "--labels",
                labels,
                "--arch",
                "mobilenet_v2",
                "--size",
                "64",
                "--init",
                "none",
                "--epochs",
                "1",
            ]
            measure([*train, "--method", "fixed", "--overwrite", "-q", "-o", model], out)
        run("predict", "photos", ["predict", folder, "--model", model, "--format", "csv", "-q"], (count, 20, 1))
    middle = args.photos[len(args.photos) // 2]
    folder = str(small_photos(out, middle))
    measure(["pseudolabel", folder, "--classes", names(20), *shared], out)
    for count in args.classes:
        run(
            "pseudolabel again",
            "classes",
            ["pseudolabel", folder, "--classes", names(count), *shared],
            (middle, count, 14),
            True,
        )
    for grids in args.grids:
        views = sum(int(n) ** 2 for n in grids.split(","))
        run(
            "pseudolabel",
            "views",
            ["pseudolabel", folder, "--classes", names(20), "--grids", grids, *shared],
            (middle, 20, views),
        )
    dense = ["pseudolabel", folder, "--classes", names(20), *shared[:-1], "dense"]
    row("pseudolabel, dense", middle, 20, 14, *measure(dense, out))
    row("pseudolabel, dense, again", middle, 20, 14, *measure(dense, out, keep_cache=True))
    print()
    for what, found in points.items():
        line(what, found)
    for what, found in peaks.items():
        print(f"peak of {what}, {args.photos[-1]} to {args.photos[0]} photos: {found[-1] / found[0]:.2f} times")


if __name__ == "__main__":
    main()
