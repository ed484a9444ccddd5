"""Kills at random moments: does the next run end with the result of an uninterrupted one?

    python benchmarks/kills.py --kills 60 --seed 0

`mlclip pseudolabel` and `mlclip train` (every method) are started again and again and stopped at a random moment by SIGKILL, SIGTERM
or SIGINT, until each has had its share of kills; then they run to the end. Their tensors must equal those of a run that was
never stopped, and no lock and no temporary file may be left. Shards are small here, so that there is something to lose.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench
import click
import torch

import mlclip
from mlclip.demo import write_scenes

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SMALL_SHARDS = (
    "import sys, mlclip.teacher.fill as e; e.SHARD_PHOTOS = 4;from mlclip.cli import main; main(sys.argv[1:])"
)
COMMANDS = ("pseudolabel", *mlclip.TrainConfig.METHODS)
STUDENT = ["--arch", "clip-resnet", "--init", "clip", "--size", "64"]
STEPS = ["--epochs", "4", "--batch-size", "8", "--lr", "1e-3"]


def command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-c", SMALL_SHARDS, *arguments, "--device", "cpu", "--quiet"]


def run(arguments: list[str], folder: Path) -> None:
    """One run to its end."""
    environment = {**os.environ, "MLCLIP_CACHE": str(folder / "cache")}
    done = subprocess.run(command(arguments), cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"a run that nobody stopped failed: {arguments}\n{done.stderr}")


def kill_once(arguments: list[str], folder: Path, seconds: float, chance: random.Random) -> tuple[str, bool]:
    """Start a run and stop it after a random time below `seconds`: the signal's name, and whether it was still running."""
    environment = {**os.environ, "MLCLIP_CACHE": str(folder / "cache")}
    process = subprocess.Popen(
        command(arguments), cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    chosen = chance.choice(SIGNALS)
    try:
        process.wait(chance.uniform(0, seconds))
        return chosen.name, False
    except subprocess.TimeoutExpired:
        process.send_signal(chosen)
        process.wait(60)
        return chosen.name, True


def equal(first: object, second: object) -> bool:
    """Whether two contents of .pt files hold the same tensors and values."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first.nan_to_num(-1), second.nan_to_num(-1))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[name], second[name]) for name in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def leftovers(folder: Path) -> list[str]:
    """Names of the locks and temporary files that a finished run should not leave."""
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    return [
        n for n in names if n.endswith((".tmp", ".lock")) or n == "lock" or ".resume." in n or n.startswith("part-")
    ]


def case(
    name: str, first: list[str], again: list[str], output: str, start: Path, kills: int, chance: random.Random
) -> None:
    """Kill `first`, then `again` and again; run to the end; compare `output` with an uninterrupted run's; print a row."""
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary) / "whole", Path(temporary) / "killed"
        shutil.copytree(start, whole)
        shutil.copytree(start, killed)
        started = time.monotonic()
        run(first, whole)
        seconds = time.monotonic() - started
        hits: dict[str, int] = {}
        rounds = equal_rounds = 0
        left: list[str] = []
        while sum(hits.values()) < kills:
            signal_name, hit = kill_once(again if (killed / "started").exists() else first, killed, seconds, chance)
            (killed / "started").touch()
            if hit:
                hits[signal_name] = hits.get(signal_name, 0) + 1
            if not hit or sum(hits.values()) % 3 == 0 or sum(hits.values()) == kills:
                if not (killed / output).exists():
                    run(again, killed)
                found, wanted = (torch.load(place / output, weights_only=True) for place in (killed, whole))
                parts = ("scores", "paths") if "scores" in wanted else ("weights", "thresholds")
                rounds += 1
                equal_rounds += all(equal(found[part], wanted[part]) for part in parts)
                left += leftovers(killed)
                shutil.rmtree(killed)
                shutil.copytree(start, killed)
        text = ", ".join(f"{count} {signal_name}" for signal_name, count in sorted(hits.items()))
        bench.row(name, f"{sum(hits.values())} ({text})", f"{equal_rounds} of {rounds}", ", ".join(left) or 0)


@click.command(help=__doc__)
@click.option("--kills", default=60, show_default=True, help="Of each command.")
@click.option("--only", default=",".join(COMMANDS), show_default=True, help="pseudolabel, or methods of training.")
@click.option("--scenes", default=24, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, only: str, scenes: int, seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        start = Path(temporary) / "start"
        write_scenes(start, train=scenes, test=0)
        bench.table("command", "kills", "resumed runs equal to an uninterrupted one", "files left behind")
        label = ["pseudolabel", "train", "--clip", "tiny"]
        if "pseudolabel" in only.split(","):
            case("pseudolabel", label, label, "labels.pt", start, kills, chance)
        run(label, start)
        shutil.rmtree(start / "cache")
        methods = [method for method in only.split(",") if method != "pseudolabel"]
        for method in methods:
            steps = [] if method == "probe" else [*STEPS, *(["--set", "warmup=1"] if method != "fixed" else [])]
            train = ["train", "--method", method, *STUDENT, *steps]
            case(f"train, {method}", train, [*train, "--resume"], "model.pt", start, -(-kills // len(methods)), chance)


if __name__ == "__main__":
    main()
