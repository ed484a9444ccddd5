"""How fast mlclip is, as ratios to plain loops measured in the same run: whole processes, in alternating order.

    python benchmarks/speed.py encode train predict --photos ../shared/voc12/photos/train

Each case runs mlclip's command and the loop of `reference_loops.py` in turn, A B A B ..., on the same photos, and prints the
median seconds of both and the median of the ratios. Weights are random: speed does not depend on their values. A ratio above
1 means that mlclip is faster. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mlclip.machine import keep_freed_memory

LOOPS = str(Path(__file__).with_name("reference_loops.py"))
MLCLIP = [sys.executable, "-m", "mlclip"]
ONLY = ""  # only cases with this text in their names are run


def seconds(command: list[str], cache: Path) -> float:
    """Wall time of one whole process, with an empty cache folder."""
    shutil.rmtree(cache, ignore_errors=True)
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                   env={**os.environ, "MLCLIP_CACHE": str(cache)})  # fmt: skip
    return time.perf_counter() - started


def compare(name: str, ours: list[str], reference: list[str], photos: int, rounds: int, out: Path) -> None:
    if ONLY not in name:
        return
    cache, pairs = out / "cache", []
    for _ in range(rounds):
        pairs.append((seconds(reference, cache), seconds(ours, cache)))
    theirs, own = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    spread = f"{min(a / b for a, b in pairs):.2f}-{max(a / b for a, b in pairs):.2f}"
    print(
        f"| {name} | {photos} | {theirs:.1f} | {own:.1f} | {photos / own:.1f} | **{ratio:.2f}** ({spread}) |",
        flush=True,
    )


def subset(photos: Path, count: int, out: Path) -> Path:
    """A folder with the first `count` photos."""
    folder = out / f"photos-{count}"
    if not folder.exists():
        folder.mkdir(parents=True)
        for file in sorted(photos.rglob("*.jpg"))[:count]:
            shutil.copyfile(file, folder / file.name)
    return folder


def random_clip(model: str, out: Path) -> Path:
    """A weight file of an open_clip model with random weights."""
    import open_clip

    file = out / f"{model}.pt"
    if not file.exists():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(model, pretrained=None).state_dict(), file)
    return file


def encode(photos: Path, rounds: int, out: Path) -> None:
    for model, count in (("ViT-B-32-quickgelu", 60), ("RN50-quickgelu", 60)):
        folder, weights = subset(photos, count, out), random_clip(model, out)
        ours = [*MLCLIP, "pseudolabel", str(folder), "--classes", "voc", "--clip", str(weights), "--overwrite", "-q", "-o",
                str(out / "labels.pt"), "--method", "centred"]  # fmt: skip
        reference = [sys.executable, LOOPS, "encode", str(folder), "--clip", str(weights), "--model", model]
        compare(f"encode, {model}, 14 views", ours, reference, count, rounds, out)


def forward(photos: Path, rounds: int, out: Path) -> None:
    """One forward pass of RN50x64, which is too slow here for whole runs: open_clip in float32 against our teacher."""
    import open_clip

    from mlclip.clip import load_clip
    from mlclip.teacher.scoring import Teacher

    weights = random_clip("RN50x64-quickgelu", out)
    keep_freed_memory()  # as the commands do; here open_clip gains from it, too
    reference = open_clip.create_model("RN50x64-quickgelu", pretrained=None).eval()
    teacher = Teacher(load_clip(str(weights)), precision="auto")
    pixels = torch.randint(0, 256, (4, 3, 448, 448), dtype=torch.uint8)
    calls = (lambda: reference.encode_image(pixels.float() / 255), lambda: teacher.embed_views(pixels))
    pairs = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            times = []
            for call in calls:
                started = time.perf_counter()
                call()
                times.append(time.perf_counter() - started)
            pairs.append(times)
    pairs = pairs[1:]  # the first round also warms up
    theirs, own = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(
        f"| one forward, RN50x64, {teacher.precision} | 4 | {theirs:.1f} | {own:.1f} | {4 / own:.2f} | **{ratio:.2f}** |",
        flush=True,
    )


def ceiling(photos: Path, rounds: int, out: Path) -> None:
    """The image encoder alone, without photos, as a share of the rate at which this machine multiplies matrices."""
    from torch.utils.flop_counter import FlopCounterMode

    from mlclip.clip import load_clip
    from mlclip.teacher.scoring import DTYPES, Teacher

    keep_freed_memory()  # as the commands do
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = 256 if device.type == "cuda" else 32

    def best(call: Callable[[], object]) -> float:
        """The shortest seconds of one call, after one that warms up."""
        times = []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return min(times[1:])

    print("\n| encoder alone | images/s | Tflop/s | matrix products, Tflop/s | share |\n|---|---|---|---|---|")
    for model in (
        "ViT-B-32-quickgelu",
        "RN50-quickgelu",
        *(["ViT-L-14-336-quickgelu", "RN50x64-quickgelu"] if count > 32 else []),
    ):
        teacher = Teacher(load_clip(str(random_clip(model, out))), device, "auto")
        pixels = torch.randint(0, 256, (count, 3, teacher.input_size, teacher.input_size), dtype=torch.uint8).to(device)
        torch.backends.mha.set_fastpath_enabled(False)  # which the counter does not know
        with FlopCounterMode(display=False) as counter:
            teacher.embed_views(pixels)
        torch.backends.mha.set_fastpath_enabled(True)
        seconds = best(lambda teacher=teacher, pixels=pixels: teacher.embed_views(pixels))
        side = 8192 if device.type == "cuda" else 2048
        left, right = (torch.rand(side, side, device=device).to(DTYPES[teacher.precision]) for _ in range(2))
        products = 2 * side**3 / best(lambda left=left, right=right: left @ right) / 1e12
        reached = counter.get_total_flops() / seconds / 1e12
        print(
            f"| {model}, {teacher.precision}, {device.type} | {count / seconds:.1f} | {reached:.3f} | {products:.3f} | "
            f"{100 * reached / products:.0f} % |",
            flush=True,
        )


FREED = """
import resource, sys, time, torch, torchvision
from mlclip.machine import keep_freed_memory
keep = sys.argv[1] == "kept" and keep_freed_memory()
training, arch, batch = sys.argv[2] == "train", sys.argv[3], int(sys.argv[4])
model = torchvision.models.get_model(arch).train(training).to(memory_format=torch.channels_last)
pixels = torch.rand(batch, 3, 224, 224).to(memory_format=torch.channels_last)
seconds = []
for _ in range(6):
    started = time.perf_counter()
    with torch.set_grad_enabled(training):
        result = model(pixels)
    if training:
        result.sum().backward()
    seconds.append(time.perf_counter() - started)
print(batch / min(seconds[2:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def freed(photos: Path, rounds: int, out: Path) -> None:
    """What it gives to keep freed memory: passes of torchvision's networks without mlclip's code, 224 px, best of four."""
    print(
        "\n| pass | batch | by default, photos/s | kept, photos/s | ratio | peak, MB | peak kept, MB |\n|---|---|---|---|---|---|---|"
    )
    for kind, arch, batch in (
        ("forward", "mobilenet_v2", 64),
        ("forward", "resnet50", 64),
        ("train", "mobilenet_v2", 32),
        ("train", "resnet50", 16),
    ):
        rates, peaks = [], []
        for how in ("default", "kept"):
            command = [sys.executable, "-c", FREED, how, kind, arch, str(batch)]
            rate, peak = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
            rates.append(rate)
            peaks.append(peak)
        ratio = f"**{rates[1] / rates[0]:.2f}**"
        print(
            f"| {kind}, {arch} | {batch} | {rates[0]:.1f} | {rates[1]:.1f} | {ratio} | {peaks[0]:.0f} | {peaks[1]:.0f} |",
            flush=True,
        )


def train(photos: Path, rounds: int, out: Path) -> None:
    epochs = 3
    for arch, size, count in (("mobilenet_v2", 160, 400), ("resnet50", 224, 100)):
        folder = subset(photos, count, out)
        labels = random_labels(folder, out)
        shared = ["--labels", str(labels), "--arch", arch, "--size", str(size), "--epochs", str(epochs)]
        ours = [*MLCLIP, "train", *shared, "--method", "fixed", "--init", "none", "--batch-size", "32", "--lr", "1e-4", "--overwrite",
                "-q", "-o", str(out / "model.pt")]  # fmt: skip
        reference = [sys.executable, LOOPS, "train", str(folder), *shared]
        compare(f"train, {arch}, {size} px, {epochs} epochs", ours, reference, count, rounds, out)


def random_labels(folder: Path, out: Path) -> Path:
    from mlclip.labels.table import Labels, write_labels

    paths = sorted(file.name for file in folder.glob("*.jpg"))
    scores = torch.rand(len(paths), 20, generator=torch.Generator().manual_seed(0))
    write_labels(
        Labels(paths, [f"class {c}" for c in range(20)], scores, root=str(folder)), out / "random.pt", overwrite=True
    )
    return out / "random.pt"


def predict(photos: Path, rounds: int, out: Path) -> None:
    count = 1000
    folder = subset(photos, count, out)
    labels = random_labels(subset(photos, 40, out), out)
    model = out / "predict.pt"
    subprocess.run([*MLCLIP, "train", "--labels", str(labels), "--arch", "mobilenet_v2", "--size", "224", "--method", "fixed", "--init",
                    "none", "--epochs", "1", "--overwrite", "-q", "-o", str(model)], check=True)  # fmt: skip
    ours = [*MLCLIP, "predict", str(folder), "--model", str(model), "--format", "csv", "-q"]
    reference = [sys.executable, LOOPS, "predict", str(folder), "--arch", "mobilenet_v2", "--size", "224"]
    compare("predict, mobilenet_v2, 224 px", ours, reference, count, rounds, out)


def main() -> None:
    tasks = {
        "encode": encode,
        "forward": forward,
        "train": train,
        "predict": predict,
        "ceiling": ceiling,
        "freed": freed,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*tasks, []], default=list(tasks))
    parser.add_argument("--photos", type=Path, default=Path("../shared/voc12/photos/train"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/speed"))
    parser.add_argument("--only", default="", help="run only the cases with this text in their names")
    args = parser.parse_args()
    globals()["ONLY"] = args.only
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    if set(args.tasks) - {"ceiling", "freed"}:
        print(
            "| case | photos | plain loop, s | mlclip, s | mlclip, photos/s | ratio (spread) |\n|---|---|---|---|---|---|"
        )
    for task in args.tasks:
        tasks[task](args.photos.resolve(), args.rounds, args.out.resolve())


if __name__ == "__main__":
    main()
