"""Fingerprints of results: does a change of the code leave every label, weight and prediction equal to the bit?

    python benchmarks/fingerprints.py record before.json     # before the change
    python benchmarks/fingerprints.py check before.json      # after it: prints what differs, and exits with 1
    python benchmarks/fingerprints.py quick before.json      # the same, with a quarter of the commands

The commands of `mlclip` run on a few drawn scenes: four label methods × five trainings with one process, one of each with two
processes, predictions of model.pt, and predictions and an ONNX file made from it. A fingerprint is the sha256 of the numbers and
names in a file, without metadata and speeds. Fingerprints of another machine, or another version of torch, differ: record them
where you check them. Two runs on one machine agree, whatever else runs there: every process uses one thread.

It takes one minute on two free cores. The modules are imported once; each command runs in a fork of this process.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import os
import pkgutil
import runpy
import socket
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch

import mlclip
from mlclip.demo import write_scenes

FORK = get_context("fork")
LABELS = ("cdul", "ccd", "centred", "dense")
TRAININGS = ("fixed", "probe", "consistent", "cdul", "ccd")
STUDENT = ["--arch", "clip-resnet", "--init", "clip", "--size", "64"]
STEPS = ["--epochs", "2", "--batch-size", "8", "--lr", "1e-3"]
WARMUP = ["--set", "warmup=1"]  # the second epoch has two views, and updated labels
OTHER_STUDENTS = {  # on the dense labels
    "mobilenet_v2": ["--arch", "mobilenet_v2", "--init", "none", "--size", "64", "--epochs", "1"],
    "resnet18": ["--arch", "resnet18", "--init", "none", "--size", "64", "--epochs", "1"],
    "clip_head": ["--arch", "clip-head"],
    "probe_start": [*STUDENT, *STEPS, "--set", "head_init=probe", "--set", "augment=crop"],
}


def label(method: str) -> list[str]:
    return ["pseudolabel", "train", "--clip", "tiny", "--method", method, "-o", f"{method}.pt"]


def train(method: str, labels: str) -> list[str]:
    """The command that trains a student; with cdul and ccd, it also writes the labels as they are at the end."""
    name = f"{labels}_{method}"
    steps = {"probe": [], "fixed": STEPS}.get(method, [*STEPS, *WARMUP])
    updated = ["--save-labels", f"{name}_updated.pt"] if method in ("cdul", "ccd") else []
    return ["train", "--labels", f"{labels}.pt", "--method", method, *STUDENT, *steps, *updated, "-o", f"{name}.pt"]


def predict(model: str) -> list[str]:
    return ["predict", "test", "--model", model, "--format", "csv"]


def some() -> list[list[str]]:
    return [*map(label, LABELS), *(train(method, "dense") for method in TRAININGS), predict("dense_fixed.pt")]


def one_process() -> list[list[str]]:
    """Every command, in an order in which each finds its files."""
    commands = [label(method) for method in LABELS]
    commands += [train(method, labels) for labels in LABELS for method in TRAININGS]
    for name, student in OTHER_STUDENTS.items():
        commands.append(["train", "--labels", "dense.pt", *student, "-o", f"{name}.pt"])
    commands.append(
        ["calibrate", "train", "--model", "dense_fixed.pt", "--truth", "truth_train.csv", "-o", "calibrated.pt"]
    )
    commands.append(["export", "--model", "dense_fixed.pt", "-o", "model.onnx"])
    models = ("dense_fixed.pt", "calibrated.pt", "mobilenet_v2.pt", "clip_head.pt", "model.onnx")
    return commands + [predict(model) for model in models]


def two_processes() -> list[list[str]]:
    return [label(method) for method in LABELS] + [train(method, "dense") for method in TRAININGS]


def run_all(commands: list[list[str]], folder: Path, ranks: int) -> None:
    """Run the commands one after the other in a folder with scenes. SystemExit says which one failed."""
    write_scenes(folder, train=16, test=4)
    for number, arguments in enumerate(commands):
        name = "_".join(word for word in arguments if not word.startswith("-"))
        shared = "cache" if arguments[0] == "pseudolabel" else f"cache-{number}"
        environment = torchrun_environment(ranks) | {"MLCLIP_CACHE": str(folder / shared)}
        processes = [
            FORK.Process(target=run, args=(arguments, folder, environment | {"RANK": str(rank)}, f"{name}.{rank}"))
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit(f"mlclip {' '.join(arguments)} failed:\n{(folder / f'{name}.0.err').read_text()}")


def torchrun_environment(ranks: int) -> dict[str, str]:
    """What torchrun tells each rank, apart from RANK. One process alone is not told anything that matters."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def run(arguments: list[str], folder: Path, environment: dict[str, str], name: str) -> None:
    """Be `python -m mlclip` with these arguments: stdout goes to the file `name`.out, stderr to `name`.err."""
    os.chdir(folder)
    os.environ |= environment
    for number, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["mlclip", *arguments]
    runpy.run_module("mlclip", run_name="__main__", alter_sys=True)


def import_once() -> None:
    """Import what the commands need, so that their forks do not."""
    for module in pkgutil.walk_packages(mlclip.__path__, "mlclip."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def fingerprints(quick: bool) -> dict[str, str]:
    """{file and part: sha256} of everything that the commands write, in temporary folders."""
    import_once()
    with tempfile.TemporaryDirectory() as temporary:
        found: dict[str, str] = {}
        lanes = {"one": (some(), 1)} if quick else {"one": (one_process(), 1), "two": (two_processes(), 2)}
        processes = {}
        for name, (commands, ranks) in lanes.items():
            processes[name] = FORK.Process(target=run_all, args=(commands, Path(temporary, name), ranks))
            processes[name].start()
        for process in processes.values():
            process.join()
        if any(process.exitcode for process in processes.values()):
            raise SystemExit(1)
        for file in sorted(Path(temporary).glob("*/*")):
            for part, digest in parts(file):
                found[f"{file.relative_to(temporary)}: {part}"] = digest
        return found


def parts(file: Path) -> Iterator[tuple[str, str]]:
    """(part, sha256) of one file that a command wrote."""
    if file.suffix == ".pt" and ".resume" not in file.name:
        content = torch.load(file, weights_only=True)
        thresholds = content.get("thresholds", content.get("meta", {}).get("thresholds"))
        yield "thresholds", sha256(torch.as_tensor(thresholds, dtype=torch.float32))
        for name in ("paths", "classes", "scores", "weights"):
            if name in content:
                yield name, sha256(content[name])
    elif file.name.endswith(".log.csv"):
        with open(file, newline="") as opened:
            rows = [
                [value for name, value in row.items() if "per_second" not in name] for row in csv.DictReader(opened)
            ]
        yield "numbers", sha256(rows)
    elif file.suffix == ".out" and file.name.startswith("predict"):
        yield "stdout", sha256(file.read_text())
    elif file.name == "00000.jpg" or file.name == "classes.txt":
        yield "content", sha256(file.read_bytes().hex())


def sha256(content: object) -> str:
    """Of plain containers, text, numbers and tensors; the order of a dict does not matter."""
    digest = hashlib.sha256()
    for piece in pieces(content):
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()


def pieces(content: object) -> Iterator[bytes]:
    if isinstance(content, torch.Tensor):
        yield f"{content.dtype} {tuple(content.shape)}".encode()
        yield content.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(content, dict):
        for name in sorted(content):
            yield name.encode()
            yield from pieces(content[name])
    elif isinstance(content, list | tuple):
        yield f"list {len(content)}".encode()
        for item in content:
            yield from pieces(item)
    else:
        yield repr(content).encode()


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in ("record", "check", "quick"):
        raise SystemExit(__doc__)
    task, file = sys.argv[1], Path(sys.argv[2])
    before = json.loads(file.read_text()) if task != "record" else {}
    found = fingerprints(quick=task == "quick")
    if task == "record":
        file.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{file}: {len(found)} fingerprints")
        return
    wrong = [f"{name}: missing" for name in before if name not in found and task == "check"]
    wrong += [f"{name}: new" for name in found if name not in before]
    wrong += [f"{name}: different" for name in found if name in before and found[name] != before[name]]
    print("\n".join(wrong) or f"all {len(found)} fingerprints are equal")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
