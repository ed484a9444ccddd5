"""How fast mlclip is, as ratios to plain loops measured in the same run, and how fast its parts and the whole way are.

    python benchmarks/speed.py --rounds 2 encode forward train predict
    python benchmarks/speed.py clip-head in-memory ceiling activation freed three-commands
    python benchmarks/speed.py onnx --model model.pt

Several tasks run one after the other. The first four run loops of `reference_loops.py` and mlclip's command in turn, A B A B ..., on
the same photos, and print the median seconds of each and the median of the ratios; above 1 means that mlclip is faster. Two loops
encode, a plain one in float32 and an expert's. Weights are random where speed does not depend on their values. Nothing else should
run on the machine.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import bench
import click
import torch

import mlclip
from mlclip.student.checkpoint import load_checkpoint
from mlclip.teacher.scoring import Teacher, cpu_bf16_is_faster

LOOPS = [sys.executable, str(Path(__file__).with_name("reference_loops.py"))]
MLCLIP = [sys.executable, "-m", "mlclip"]
QUIET = ["--overwrite", "--quiet"]


@dataclass
class Run:
    """Where the photos are, and how often a pair is measured."""

    photos: Path
    data: Path
    rounds: int
    out: Path
    headed: bool = False

    def subset(self, count: int) -> Path:
        """A folder with the first `count` photos."""
        folder = self.out / f"photos-{count}"
        if not folder.exists():
            folder.mkdir(parents=True)
            for file in sorted(self.photos.rglob("*.jpg"))[:count]:
                shutil.copyfile(file, folder / file.name)
        return folder

    def random_clip(self, model: str) -> Path:
        """A weight file of an open_clip model with random weights."""
        import open_clip

        file = self.out / f"{model}.pt"
        if not file.exists():
            torch.manual_seed(0)
            torch.save(open_clip.create_model(model, pretrained=None).state_dict(), file)
        return file

    def random_labels(self, folder: Path) -> Path:
        paths = sorted(file.name for file in folder.glob("*.jpg"))
        scores = torch.rand(len(paths), 20, generator=torch.Generator().manual_seed(0))
        labels = mlclip.Labels(paths, [f"class {c}" for c in range(20)], scores, root=str(folder))
        mlclip.write_labels(labels, self.out / "random.pt", overwrite=True)
        return self.out / "random.pt"

    def seconds(self, command: list[str]) -> float:
        """Wall time of one whole process, with an empty cache folder."""
        cache = self.out / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        started = time.perf_counter()
        environment = {**os.environ, "MLCLIP_CACHE": str(cache)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
        return time.perf_counter() - started

    def compare(self, name: str, photos: int, *calls: Callable[[], float]) -> None:
        """Measure the seconds of the plain loop, maybe of the expert's, and of mlclip in turn, and print the row."""
        *peers, own = zip(*([call() for call in calls] for _ in range(self.rounds)), strict=True)
        if not self.headed:
            columns = ("plain loop, s", "expert, s", "mlclip, s", "mlclip, photos/s", "ratio (spread)", "to the expert")
            bench.table("case", "photos", *columns)
            self.headed = True
        cells = [(f"{statistics.median(peer):.1f}", ratio(peer, own)) for peer in peers]
        (plain, to_plain), (expert, to_expert) = cells if len(cells) > 1 else (*cells, ("", ""))
        seconds = statistics.median(own)
        bench.row(name, photos, plain, expert, f"{seconds:.1f}", f"{photos / seconds:.1f}", to_plain, to_expert)

    def compare_commands(self, name: str, photos: int, *loops: list, ours: list) -> None:
        commands = [*([*LOOPS, *map(str, loop)] for loop in loops), [*MLCLIP, *map(str, ours)]]
        self.compare(name, photos, *(lambda command=command: self.seconds(command) for command in commands))


def ratio(theirs: Sequence[float], own: Sequence[float]) -> str:
    """The median and the spread of the ratios of seconds that were measured in turn."""
    ratios = [a / b for a, b in zip(theirs, own, strict=True)]
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f})"


@click.group(chain=True, help=__doc__)
@bench.data
@click.option(
    "--photos", type=click.Path(path_type=Path), help="Folder of photos.  [default: photos/train of the data]"
)
@bench.option("--rounds", default=3, help="How often each pair is measured.")
@bench.out("speed")
@click.pass_context
def main(context: click.Context, data: Path, photos: Path | None, rounds: int, out: Path) -> None:
    data, out = data.resolve(), out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    context.obj = Run((photos or data / "photos" / "train").resolve(), data, rounds, out)
    cores, threads = os.cpu_count(), torch.get_num_threads()
    print(f"{cores} cores, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {threads} threads")


count = bench.option("--count", type=int, help="Photos, where they should not be as many as in the table of results.")


@main.command()
@count
@click.pass_obj
def encode(run: Run, count: int | None) -> None:
    """14 views of each photo through CLIP's image encoder."""
    count = count or 60
    for model in ("ViT-B-32-quickgelu", "RN50-quickgelu"):
        folder, weights = run.subset(count), run.random_clip(model)
        ours = ["pseudolabel", folder, "--classes", "voc", "--clip", weights, "--method", "centred", *QUIET]
        ours += ["-o", run.out / "labels.pt"]
        plain = ["encode", folder, "--clip", weights, "--model", model]
        expert = [*plain, "--expert", "bf16" if cpu_bf16_is_faster() else "fp32"]
        run.compare_commands(f"encode, {model}, 14 views", count, plain, expert, ours=ours)


@main.command()
@click.pass_obj
def forward(run: Run) -> None:
    """One forward pass of RN50x64, which is too slow for whole runs: open_clip in float32 against our teacher."""
    import open_clip

    mlclip.keep_freed_memory()  # as the commands do; here open_clip gains from it, too
    weights = run.random_clip("RN50x64-quickgelu")
    reference = open_clip.create_model("RN50x64-quickgelu", pretrained=None).eval()
    teacher = Teacher(mlclip.load_clip(str(weights)), precision="auto")
    pixels = torch.randint(0, 256, (4, 3, 448, 448), dtype=torch.uint8)
    calls = (lambda: reference.encode_image(pixels.float() / 255), lambda: teacher.embed_views(pixels))
    with torch.inference_mode():
        for call in calls:
            call()  # warms up
        run.compare(f"one forward, RN50x64, {teacher.precision}", 4, *(lambda call=call: timed(call) for call in calls))


def timed(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


@main.command()
@count
@click.pass_obj
def train(run: Run, count: int | None) -> None:
    """Three epochs of fine-tuning with fixed labels."""
    for arch, size, photos in (("mobilenet_v2", 160, 400), ("resnet50", 224, 100)):
        folder = run.subset(count or photos)
        shared = ["--labels", run.random_labels(folder), "--arch", arch, "--size", size, "--epochs", 3]
        ours = ["train", *shared, "--method", "fixed", "--init", "none", "--batch-size", 32, "--lr", 1e-4, *QUIET]
        ours += ["-o", run.out / "model.pt"]
        plain, name = ["train", folder, *shared], f"train, {arch}, {size} px, 3 epochs"
        run.compare_commands(name, count or photos, plain, ours=ours)


@main.command()
@count
@click.pass_obj
def predict(run: Run, count: int | None) -> None:
    """Scores of every photo by a MobileNetV2."""
    labels, model = run.random_labels(run.subset(40)), run.out / "predict.pt"
    student = ["--arch", "mobilenet_v2", "--size", "224"]
    training = ["train", "--labels", labels, *student, "--init", "none", "--epochs", 1, *QUIET, "-o", model]
    subprocess.run([*MLCLIP, *map(str, training)], check=True)
    folder = run.subset(count or 1000)
    ours = ["predict", folder, "--model", model, "--format", "csv", "--quiet"]
    run.compare_commands("predict, mobilenet_v2, 224 px", count or 1000, ["predict", folder, *student], ours=ours)


@main.command("clip-head")
@count
@click.pass_obj
def clip_head(run: Run, count: int | None) -> None:
    """Predictions of a small student and of heads on CLIP's RN50, in turn: one pass at twice CLIP's side, and 14 views."""
    from mlclip.student.clip_head import ClipHead, clip_of
    from mlclip.student.model import Classifier

    mlclip.keep_freed_memory()  # as the commands do
    folder, names = run.subset(count or 60), [f"class {c}" for c in range(20)]
    teacher = Teacher(mlclip.load_clip(str(run.random_clip("RN50-quickgelu"))), precision="auto")
    channels, needed = teacher.clip.embed_dim, clip_of(teacher)
    models = {
        "mobilenet_v2, 224 px": Classifier("mobilenet_v2", names, 224),
        f"head on RN50, once, 448 px, {teacher.precision}": ClipHead(names, 448, (1,), 7, "mean", channels, needed),
        f"head on RN50, 14 views, {teacher.precision}": ClipHead(names, 224, (1, 2, 3), 0, "mean", channels, needed),
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(run.rounds + 1):  # the first one warms up
        for name, model in models.items():
            model = model.use(teacher) if isinstance(model, ClipHead) else model
            checkpoint = mlclip.Checkpoint(model, torch.full((20,), 0.5))
            seconds[name].append(timed(lambda c=checkpoint: mlclip.predict(folder, c, progress=mlclip.SILENT)))
    bench.table("model", "photos", "photos/s", "speed beside the small student (spread)")
    first = next(iter(seconds.values()))[1:]
    for name, (_, *measured) in seconds.items():
        rate = (count or 60) / statistics.median(measured)
        bench.row(name, count or 60, f"{rate:.1f}", ratio(first, measured))


@main.command("in-memory")
@click.pass_obj
def in_memory(run: Run) -> None:
    """One photo from memory, `load_model(...).predict(bytes)`, beside the network of the model alone, in turn, on the CPU."""
    from mlclip.student.model import Classifier, fold_batch_norm

    mlclip.keep_freed_memory()  # as the commands do
    photo = next(iter(sorted(run.photos.rglob("*.jpg")))).read_bytes()
    bench.table("model", "network alone, ms", "predict(bytes), ms", "ratio (quartiles)")
    for arch, size in (("mobilenet_v2", 224), ("resnet101", 448)):
        model = Classifier(arch, [f"class {c}" for c in range(20)], size).eval()
        checkpoint = mlclip.Checkpoint(model, torch.full((20,), 0.5))
        network, pixels = fold_batch_norm(model), torch.from_numpy(checkpoint.transform(photo))
        network, pixels = (part.to(memory_format=torch.channels_last) for part in (network, pixels))
        with torch.inference_mode():
            calls = (lambda n=network, x=pixels: n(x), lambda c=checkpoint: c.predict(photo))
            rounds = [[timed(call) for call in calls] for _ in range(20 * run.rounds + 3)][3:]
        alone, whole = zip(*rounds, strict=True)
        low, middle, high = statistics.quantiles([b / a for a, b in rounds])
        milliseconds = [f"{1000 * statistics.median(part):.1f}" for part in (alone, whole)]
        bench.row(f"{arch}, {size} px", *milliseconds, f"**{middle:.2f}** ({low:.2f}-{high:.2f})")


@main.command()
@click.pass_obj
def ceiling(run: Run) -> None:
    """The image encoder alone, without photos, as a share of the rate at which this machine multiplies matrices."""
    from torch.utils.flop_counter import FlopCounterMode

    mlclip.keep_freed_memory()  # as the commands do
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, side = (256, 8192) if device.type == "cuda" else (32, 2048)
    models = ["ViT-B-32-quickgelu", "RN50-quickgelu"]
    models += ["ViT-L-14-336-quickgelu", "RN50x64-quickgelu"] if device.type == "cuda" else []
    bench.table("encoder alone", "images/s", "Tflop/s", "matrix products, Tflop/s", "share")
    for model in models:
        teacher = Teacher(mlclip.load_clip(str(run.random_clip(model))), device, "auto")
        size = teacher.input_size
        pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8).to(device)
        torch.backends.mha.set_fastpath_enabled(False)  # which the counter does not know
        with FlopCounterMode(display=False) as counter:  # also warms up
            teacher.embed_views(pixels)
        torch.backends.mha.set_fastpath_enabled(True)
        left, right = (torch.rand(side, side, device=device).to(teacher.clip.dtype) for _ in range(2))
        left @ right
        calls = (partial(teacher.embed_views, pixels), partial(torch.matmul, left, right))
        seconds, product = (min(timed(call) for _ in range(run.rounds)) for call in calls)
        reached, products = counter.get_total_flops() / seconds / 1e12, 2 * side**3 / product / 1e12
        cells = (f"{images / seconds:.1f}", f"{reached:.3f}", f"{products:.3f}", f"{100 * reached / products:.0f} %")
        bench.row(f"{model}, {teacher.precision}, {device.type}", *cells)


@main.command()
@click.pass_obj
def activation(run: Run) -> None:
    """The encoder of ViT-B/32 alone on the CPU: QuickGELU as it stands, folded into SiLU as the teacher has it, and in int8."""
    mlclip.keep_freed_memory()  # as the commands do
    file = str(run.random_clip("ViT-B-32-quickgelu"))
    teacher, single = (Teacher(mlclip.load_clip(file), "cpu", precision) for precision in ("auto", "fp32"))
    plain = mlclip.load_clip(file).visual.to(teacher.clip.dtype, memory_format=torch.channels_last)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it will remove this
        int8 = torch.ao.quantization.quantize_dynamic(single.clip.visual, {torch.nn.Linear})
    encoders = {f"QuickGELU, {teacher.precision}": plain, f"SiLU, {teacher.precision}": teacher.clip.visual}
    encoders |= {"SiLU, int8 linear layers": int8}
    pixels, tokens = torch.rand(8, 3, 224, 224), torch.rand(8, 50, 768)
    with torch.inference_mode():
        found = [each(pixels.to(each.conv1.weight.dtype)).float() for each in encoders.values()]
        cosines = [torch.cosine_similarity(each, found[0]).min() for each in found]
        blocks = [(each.transformer.resblocks[0], tokens.to(each.conv1.weight.dtype)) for each in encoders.values()]
        calls = [partial(block, x, None) for block, x in blocks]
        rounds = ([timed(call, time.process_time) for call in calls] for _ in range(50 * run.rounds))
        seconds = list(zip(*rounds, strict=True))
    bench.table("encoder of ViT-B/32", "a block with 8 views, ms of CPU time", "ratio (quartiles)", "lowest cosine")
    for name, own, cosine in zip(encoders, seconds, cosines, strict=True):
        low, middle, high = statistics.quantiles([a / b for a, b in zip(seconds[0], own, strict=True)])
        milliseconds = 1000 * statistics.median(own)
        bench.row(name, f"{milliseconds:.0f}", f"**{middle:.3f}** ({low:.2f}-{high:.2f})", f"{cosine:.4f}")


FREED = """
import resource, sys, time, mlclip, torch, torchvision
keep = sys.argv[1] == "kept" and mlclip.keep_freed_memory()
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


@main.command()
@click.pass_obj
def freed(run: Run) -> None:
    """What it gives to keep freed memory: passes of torchvision's networks without mlclip's code, 224 px, best of four."""
    bench.table("pass", "batch", "by default, photos/s", "kept, photos/s", "ratio", "peak, MB", "peak kept, MB")
    batches = {"forward, mobilenet_v2": 64, "forward, resnet50": 64, "train, mobilenet_v2": 32, "train, resnet50": 16}
    for name, batch in batches.items():
        found = []
        for how in ("default", "kept"):
            command = [sys.executable, "-c", FREED, how, *name.split(", "), str(batch)]
            found.append(map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()))
        (rate, peak), (kept, kept_peak) = found
        rates = (f"{rate:.1f}", f"{kept:.1f}", f"**{kept / rate:.2f}**")
        bench.row(name, batch, *rates, f"{peak:.0f}", f"{kept_peak:.0f}")


@main.command()
@count
@click.pass_obj
def three_commands(run: Run, count: int | None) -> None:
    """The three commands of the README with their defaults. The only options are the files that would otherwise be downloaded."""
    count, out = count or 1000, run.out / "three_commands"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    photos, total = run.subset(count), 0.0
    bench.table("command", "photos", "seconds")
    for command in (
        ["pseudolabel", photos, "--classes", "voc", "--clip", run.random_clip("ViT-B-32-quickgelu")],
        ["train", "--init", run.data / "mobilenet_v2_imagenet.pth"],
        ["predict", photos],
    ):
        environment = {**os.environ, "MLCLIP_CACHE": str(out / "cache")}
        with open(out / f"{command[0]}.txt", "w") as printed:
            running = {"cwd": out, "env": environment, "stdout": printed, "stderr": printed}
            seconds = timed(partial(subprocess.run, [*MLCLIP, *map(str, command)], check=True, **running))
        total += seconds
        bench.row(command[0], count, f"{seconds:.0f}")
    bench.row("all three", count, f"{total:.0f}")


@main.command()
@click.option("--model", required=True, help="The student.")
@click.option("--only", help="Evaluate only these classes, separated by commas.")
@count
@click.pass_obj
def onnx(run: Run, model: str, only: str | None, count: int | None) -> None:
    """mAP, file size and photos per second of PyTorch and of ONNX: decoding, resizing and the network. Photos of VOC 2012.

    int8 weights have 7 bits, as `mlclip export` makes them, or 8.
    """
    from onnxruntime import quantization

    def of_8_bits(*args, of_7_bits=quantization.quantize_static, **settings):
        of_7_bits(*args, **settings | {"reduce_range": False})

    test, files = sorted((run.data / "photos" / "test").glob("*.jpg"))[:count], {"PyTorch": Path(model)}
    checkpoint, photos = load_checkpoint(model), mlclip.find_images([run.photos])  # not the test photos
    for variant, name in (("fp32", "fp32"), ("int8", "int8, 7 bits"), ("int8", "int8, 8 bits")):
        file = files[f"ONNX {name}"] = run.out / f"{name}.onnx"
        inside = mock.patch.object(quantization, "quantize_static", of_8_bits) if "8 bits" in name else nullcontext()
        with inside:
            found = mlclip.export_onnx(checkpoint, file, variant=variant, photos=photos if variant == "int8" else None)
        print(f"{name}: {found}", flush=True)
    bench.table("model", "mAP (%)", "size (MB)", "photos/s")
    for name, file in files.items():
        seconds = []
        for _ in range(run.rounds + 1):  # the first one warms up
            started = time.perf_counter()
            labels = mlclip.predict(test, str(file), device="cpu", progress=mlclip.SILENT)
            seconds.append(time.perf_counter() - started)
        chosen = only.split(",") if only else None
        found = mlclip.evaluate(labels, run.data / "truth_test.csv", only=chosen, partial=True, progress=mlclip.SILENT)
        speed = len(test) / statistics.median(seconds[1:])
        bench.row(name, f"{100 * found.mean_average_precision:.2f}", f"{file.stat().st_size / 1e6:.1f}", f"{speed:.1f}")


if __name__ == "__main__":
    main()
