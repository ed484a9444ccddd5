"""Peak memory and time of the commands as the number of photos, classes and views grows, with the tiny CLIP and drawn scenes.

    python benchmarks/scale.py
    python benchmarks/scale.py --lists
    python benchmarks/scale.py --photos 30 --classes 2000,10000,20000
    python benchmarks/scale.py --rows 50000,200000,1000000
    python benchmarks/scale.py --scenes 600
    python benchmarks/scale.py --jobs 8 40
    python benchmarks/scale.py --jobs 8 37

Each line is one whole process with an empty cache, "again" one whose embeddings are stored already. "Peak" is the memory (resident set) of
the largest process of the command. The last lines fit a straight line to the times: seconds at the start, and seconds per photo.
Memory must not grow with the photos: the ratio of the largest to the smallest folder is printed. Nothing else should run on the machine.

With --rows, stores of drawn embeddings (14 × 64 numbers a photo) are written, and centred labels are made of them, each in a process of
its own. "Rest" is the peak without the list of photos, the index of the store and the table. The times are of the processor. At the end,
the labels of the second store are compared with those of a fit to all its photos.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bench
import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import mlclip
from mlclip.demo import KINDS, draw_scene

DRAWN = 500  # different scenes; larger folders hold copies of them
STUDENT = ["--arch", "mobilenet_v2", "--size", "64", "--init", "none", "--epochs", "1"]


def small_photos(out: Path, count: int) -> str:
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
    return str(folder)


def names(count: int, out: Path) -> str:
    """A class file; in a list on the command line, 10,000 names would be too long."""
    file = out / f"names-{count}.txt"
    listed = [*KINDS, *(f"other thing {n}" for n in range(count))][:count]
    file.write_text("".join(f"{name} = {name}\n" for name in listed))
    return str(file)


def measure(command: list[str], out: Path, keep_cache: bool = False) -> tuple[float, float]:
    """Seconds and peak memory in MB of one command."""
    cache = out / "cache"
    if not keep_cache:
        shutil.rmtree(cache, ignore_errors=True)
    started = time.perf_counter()
    with open(out / "stderr.txt", "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlclip", *command],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "MLCLIP_CACHE": str(cache)},
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((out / "stderr.txt").read_text())
    return time.perf_counter() - started, usage.ru_maxrss / 1024  # Linux counts in KiB


def resident() -> int:
    """The memory (resident set) of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def lists_per_photo(out: Path, count: int = 200_000) -> None:
    """Print the memory of the main rank for each photo: the list of photos, the store's index, and a table of 20 classes."""
    from mlclip.images import Photo
    from mlclip.teacher.store import Key, Store

    shutil.rmtree(out / "index", ignore_errors=True)
    (out / "index").mkdir(parents=True)
    key, start = Key("embeddings", "0" * 64, "gelu", 224, (1,)), resident()
    photos = [Photo(f"folder/{n:09d}.jpg", f"/data/photos/{n:09d}.jpg", 100_000 + n, 10**18 + n) for n in range(count)]
    listed, store = resident(), Store(out / "index", key)
    for first in range(0, count, 20_000):
        contents = [n.to_bytes(16, "big") for n in range(first, first + 20_000)]
        store.write_shard(store.next_shard(), photos[first : first + 20_000], contents, torch.zeros(20_000, 1, 1))
    store.write_index(complete=True)
    del store
    before = resident()
    store = Store(out / "index", key)
    opened = resident()
    labels = mlclip.Labels([photo.path for photo in photos], names(20).split(","), torch.rand(count, 20))
    table = resident()
    each = [f"{size / count:.0f}" for size in (listed - start, opened - before, table - opened)]
    print(
        f"bytes per photo: list {each[0]}, index of a store {each[1]}, table of {len(labels.classes)} classes {each[2]}"
    )
    del store


ROW_VIEWS, ROW_WIDTH, ROW_NAMES, ROWS_AT_ONCE = (1, 2, 3), 64, 20, 1000


def row_photos(count: int) -> list:
    from mlclip.images import Photo

    return [Photo(f"{n:09d}.jpg", f"/none/{n:09d}.jpg", 1000, n) for n in range(count)]


def row_names() -> torch.Tensor:
    """Names (20, 64) that have a direction in common, as CLIP's have."""
    generator = torch.Generator().manual_seed(0)
    common, own = torch.randn(1, ROW_WIDTH, generator=generator), torch.randn(ROW_NAMES, ROW_WIDTH, generator=generator)
    return F.normalize(F.normalize(common, dim=-1) + 0.7 * F.normalize(own, dim=-1), dim=-1)


def write_rows(folder: Path, count: int) -> None:
    """A store of drawn photos: each shows a class with probability 0.1, in the whole photo, one quarter and one ninth of it."""
    from mlclip.teacher.store import Key, Store

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    store, photos, text = (
        Store(folder, Key("embeddings", "0" * 64, "gelu", 224, ROW_VIEWS)),
        row_photos(count),
        row_names(),
    )
    generator = torch.Generator().manual_seed(1)
    for first in range(0, count, ROWS_AT_ONCE):
        part = photos[first : first + ROWS_AT_ONCE]
        shown = (torch.rand(len(part), ROW_NAMES, generator=generator) < 0.1).float()
        seen = torch.zeros(len(part), 14, ROW_NAMES)
        for start, size in ((0, 1), (1, 4), (5, 9)):
            place = torch.randint(size, shown.shape, generator=generator)
            seen[:, start : start + size] = F.one_hot(place, size).transpose(1, 2) * shown[:, None]
        noise = torch.randn(len(part), 14, ROW_WIDTH, generator=generator) / ROW_WIDTH**0.5
        contents = [hashlib.sha256(photo.path.encode()).digest()[:16] for photo in part]
        views = F.normalize(text.mean(0) + 0.3 * seen @ text + 0.5 * noise, dim=-1)
        store.write_shard(store.next_shard(), part, contents, views)
    store.write_index(complete=True)


def label_rows(folder: Path, count: int, output: Path | None, fit_to: int | None) -> None:
    """Label a store of `write_rows`, and print seconds and megabytes."""
    from mlclip.config import PseudolabelConfig
    from mlclip.progress import SILENT
    from mlclip.teacher import in_blocks
    from mlclip.teacher.store import Key, Store

    in_blocks.FIT_PHOTOS = fit_to or in_blocks.FIT_PHOTOS
    torch.set_num_threads(1)
    start = resident()
    photos, store = row_photos(count), Store(folder, Key("embeddings", "0" * 64, "gelu", 224, ROW_VIEWS))
    lists = resident() - start
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    started = time.process_time()
    made_of = (row_names(), [-1] * ROW_NAMES, 100.0, PseudolabelConfig("centred"), None, SILENT)
    scores, _ = in_blocks.label_stored([store], photos, *made_of)
    seconds = time.process_time() - started
    peak = 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
    sizes = (peak, lists, scores.nbytes, peak - lists - scores.nbytes)
    bench.row(count, f"{seconds:.1f}", *(f"{size / 1e6:.0f}" for size in sizes))
    if output:
        torch.save(scores, output)


def in_a_process(task: Callable, *arguments: object) -> None:
    process = multiprocessing.get_context("spawn").Process(target=task, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{task.__name__} failed")


def rows_of_a_store(out: Path, counts: list[int]) -> None:
    bench.table("photos", "seconds", "peak, MB", "lists, MB", "table, MB", "rest, MB")
    for count in counts:
        in_a_process(write_rows, out / f"rows-{count}", count)
        in_a_process(label_rows, out / f"rows-{count}", count, out / f"rows-{count}.pt", None)
    if len(counts) > 1:
        print(f"fitted to all of {counts[1]}:", flush=True)
        in_a_process(label_rows, out / f"rows-{counts[1]}", counts[1], out / "rows-all.pt", counts[1])
        apart = (torch.load(out / f"rows-{counts[1]}.pt") - torch.load(out / "rows-all.pt")).abs()
        high = apart.flatten().kthvalue(int(0.99 * apart.numel())).values
        print(
            f"labels differ by {apart.mean():.1e} in the mean, {high:.1e} in 99 % of all and {apart.max():.1e} at most"
        )


def fit_of_scenes(out: Path, fit_to: int) -> None:
    """mAP of the demo's scenes with labels that are fitted to all of them, and to some."""
    from mlclip.teacher import in_blocks

    world, tables = bench.demo_world(out, 0), []
    os.environ["MLCLIP_CACHE"] = str(out / "cache")
    for count in (in_blocks.FIT_PHOTOS, fit_to):
        in_blocks.FIT_PHOTOS = count
        names = world.truth_train.classes
        tables.append(
            mlclip.pseudolabel(world.train, names, clip="tiny", method="centred", device="cpu", progress=mlclip.SILENT)
        )
    means = [f"{bench.mean_ap(table, world.truth_train):.2f}" for table in tables]
    apart = (tables[0].scores - tables[1].scores).abs()
    print(f"mAP fitted to all {len(apart)} scenes {means[0]} %, to {fit_to} of them {means[1]} %")
    print(f"labels differ by {apart.mean():.1e} in the mean and {apart.max():.1e} at most")


def jobs(out: Path, parts: int = 8, photos_per_part: int = 40) -> None:
    """Run `job.sh` of docs/scale.md on drawn photos in folders, kill one job, repeat it, and compare with a single run."""
    here = out / "jobs"
    shutil.rmtree(here, ignore_errors=True)
    scenes = sorted(Path(small_photos(out, parts * photos_per_part)).iterdir())
    for number in range(parts):
        folder = here / "photos" / f"{number:02d}"
        folder.mkdir(parents=True)
        for photo in scenes[number * photos_per_part : (number + 1) * photos_per_part]:
            os.link(photo, folder / photo.name)
        (here / f"part-{number:02d}.txt").write_text(f"photos/{number:02d}\n")
    script = (Path(__file__).parents[1] / "docs" / "scale.md").read_text().split("```sh\n")[1].split("```")[0]
    (here / "job.sh").write_text(script)
    environment = os.environ | {
        "MLCLIP_CACHE": str(here / "cache"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(command: str) -> int:
        return subprocess.run(command, shell=True, cwd=here, env=environment).returncode

    run(f"mlclip pseudolabel photos/00 --classes {names(20, out)} --clip tiny -o sample.pt -q")
    run("mlclip pseudolabel photos --like sample.pt --store store-all -o all.pt -q")
    killed = subprocess.Popen(["sh", "job.sh", "3"], cwd=here, env=environment, start_new_session=True)
    while not list(here.glob("store-03/shard-*")) and killed.poll() is None:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    print(f"job 3 killed: status {killed.wait()}, labels {(here / 'labels-03.pt').exists()}")
    print(f"xargs: status {run(f'seq 0 {parts - 1} | xargs -P 2 -n 1 sh job.sh')}")
    one, many = mlclip.read_labels(here / "all.pt"), mlclip.read_labels(str(here / "labels-*.pt"))
    print(f"{len(many)} photos; equal to the bit: {one.paths == many.paths and torch.equal(one.scores, many.scores)}")
    apart = (one.scores - many.aligned(one.paths, one.classes).scores).abs()
    print(f"{(apart > 0).any(1).sum()} photos differ, by {apart.max():.1e} at most")


@click.command(help=__doc__)
@bench.out("scale")
@bench.option("--photos", default="1000,5000,20000", callback=bench.numbers)
@bench.option("--classes", default="20,200,1000", callback=bench.numbers)
@click.option("--lists", is_flag=True, help="Only the memory of the lists, per photo.")
@bench.option("--rows", default="0", callback=bench.numbers, help="If given, only stores of so many drawn embeddings.")
@click.option("--scenes", type=int, help="Only the demo's scenes, with labels that are fitted to so many of them.")
@click.option("--jobs", "parts", type=(int, int), help="Only so many jobs with so many photos each.")
def main(
    out: Path,
    photos: list[int],
    classes: list[int],
    lists: bool,
    rows: list[int],
    parts: tuple | None,
    scenes: int | None,
) -> None:
    if lists:
        return lists_per_photo(out.resolve())
    if scenes:
        return fit_of_scenes(out.resolve(), scenes)
    if parts:
        return jobs(out.resolve(), *parts)
    if any(rows):
        return rows_of_a_store(out.resolve(), rows)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    labels, model = str(out / "labels.pt"), str(out / "model.pt")
    quiet = ["--overwrite", "-q", "-o"]
    shared = ["--clip", "tiny", *quiet, labels, "--method"]
    points: dict[str, list[tuple[int, float, float]]] = {}  # of each line through the times: size, seconds, peak
    bench.table("command", "photos", "classes", "views", "seconds", "peak, MB")

    def run(what: str, by: str, command: list[str], sizes: tuple[int, int, int], keep_cache: bool = False) -> None:
        seconds, peak = measure(command, out, keep_cache)
        bench.row(what, *sizes, f"{seconds:.1f}", f"{peak:.0f}")
        size = dict(zip(("photos", "classes", "views"), sizes, strict=True)).get(by, 0)
        points.setdefault(f"{what}, by {by}", []).append((size, seconds, peak))

    for count in photos:
        folder = small_photos(out, count)
        label = ["pseudolabel", folder, "--classes", names(20, out), *shared, "centred"]
        run("pseudolabel", "photos", label, (count, 20, 14))
        run("pseudolabel again", "photos", label, (count, 20, 14), keep_cache=True)
        if count == photos[0]:
            measure(["train", "--labels", labels, *STUDENT, *quiet, model], out)
        run("predict", "photos", ["predict", folder, "--model", model, "--format", "csv", "-q"], (count, 20, 1))
    middle = photos[len(photos) // 2]
    label = ["pseudolabel", small_photos(out, middle), *shared]
    measure([*label, "centred", "--classes", names(20, out)], out)
    for count in classes:
        run(
            "pseudolabel again",
            "classes",
            [*label, "centred", "--classes", names(count, out)],
            (middle, count, 14),
            keep_cache=True,
        )
    for grids, views in (("1", 1), ("1,2", 5), ("1,2,3", 14)):
        run(
            "pseudolabel",
            "views",
            [*label, "centred", "--classes", names(20, out), "--set", f"grids={grids}"],
            (middle, 20, views),
        )
    dense = [*label, "dense", "--classes", names(20, out)]
    run("pseudolabel, dense", "method", dense, (middle, 20, 14))
    run("pseudolabel, dense, again", "method", dense, (middle, 20, 14), keep_cache=True)
    print()
    for what, found in points.items():
        if len(found) > 1:
            slope, start = np.polyfit([size for size, _, _ in found], [seconds for _, seconds, _ in found], 1)
            worst = max(abs(start + slope * size - seconds) / seconds for size, seconds, _ in found)
            print(f"{what}: {start:.1f} s + {1000 * slope:.3f} ms each (largest deviation {100 * worst:.0f} %)")
            if what.endswith("by photos"):
                print(f"peak of {what}, {photos[-1]} to {photos[0]}: {found[-1][2] / found[0][2]:.2f} times")


if __name__ == "__main__":
    main()
