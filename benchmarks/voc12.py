"""Labels from real CLIP RN50x64 scores, and MobileNetV2 students on real photos of VOC 2012.

    python benchmarks/voc12.py --data ../shared/voc12 --seeds 0 1 2

The scores were stored as softmax(cosine / ln 100): the published run divided where it should have multiplied. The cosines
can be recovered up to a constant per row, and from them CLIP's own probabilities, softmax(100 · cosine). For the snippets' maximum
and minimum this gives the softmax of the best and worst cosine, which is close to the best and worst softmax.

Labels are written as labels.pt; `mlclip train` and `mlclip evaluate` do the rest. True labels are used only to report, and to
train the student of the row "truth". Results are appended to OUT/results.jsonl as soon as they are there, and a run that is
already in the file is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from math import log
from pathlib import Path

import numpy as np
import torch

from mlclip.config import PseudolabelConfig
from mlclip.labels.metrics import mean_average_precision
from mlclip.labels.table import Labels, read_labels, write_labels
from mlclip.methods import ccd, centred, profiles
from mlclip.methods.cdul import fuse
from mlclip.teacher.label import LEVEL_ROUNDS

# The classes with at least 10 positives in both parts.
EVALUATED = [
    "bottle",
    "car",
    "cat",
    "chair",
    "cow",
    "dog",
    "horse",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "tvmonitor",
]
STUDENT = ["--arch", "mobilenet_v2", "--size", "160", "--epochs", "4", "--batch-size", "32", "--lr", "1e-4"]
FIXED = ["--method", "fixed"]  # all students but one learn fixed labels from one view, so that only the labels differ
CONSISTENT = "centred, --method consistent"
ALONE = "centred, of these photos alone"  # "centred" is fitted to all photos with stored scores, which include these
COMPARED = ["global", "cdul ζ=0.5", "cdul ζ=0", "centred", ALONE, CONSISTENT, "truth"]
SETTINGS = PseudolabelConfig(method="centred")
LOGIT_SCALE = 100.0  # 1/τ of OpenAI's CLIP


def true_probabilities(stored: np.ndarray) -> torch.Tensor:
    """softmax(cosine / ln 100) as stored (N, C) -> CLIP's own softmax(100 · cosine), float32 (N, C)."""
    cosines = log(100) * np.log(stored.astype(np.float64))
    return torch.from_numpy(LOGIT_SCALE * cosines).softmax(-1).float()


def centred_labels(stored: Mapping[str, np.ndarray], rerank: bool = True) -> torch.Tensor:
    """Centred labels (N, C) of all stored photos. Only the best cosine of the snippets is known; it is used as one view."""
    views = []
    for name in ("global_", "alpha"):
        cosines = torch.from_numpy(log(100) * np.log(stored[name].astype(np.float64)))  # up to a constant per row
        views.append(cosines - cosines.mean(1, keepdim=True))
    cosines = torch.stack(views, 1).float()  # (N, 2, C)
    scale, labels = LOGIT_SCALE * SETTINGS.rank_scale, torch.zeros(len(cosines), cosines.shape[-1])
    for _ in range(LEVEL_ROUNDS):
        levels = torch.stack([level_of(view, 1 - labels) for view in cosines.unbind(1)])  # (2, C)
        logits = centred.centred_logits(cosines, levels, scale)
        labels = centred.presence(centred.pool_views(logits, 2), SETTINGS.prior_photos)
    if not rerank:
        return labels
    excess = centred.excess(cosines, levels)
    fitted = profiles.fit_profiles(profiles.statistics(excess, profiles.sure_views(logits, labels)))
    by_profiles = centred.pool_views(profiles.profile_logits(fitted, excess, SETTINGS.rank_scale), 2)
    return profiles.rerank_by_profiles(labels, by_profiles, fitted.shown, SETTINGS.prior_photos)


def level_of(cosines: torch.Tensor, absent: torch.Tensor) -> torch.Tensor:
    """Each class's level in one view of all photos (N, C), from photos weighted by `absent` (N, C)."""
    count = absent.sum(0)
    mean = (absent * cosines).sum(0) / count
    return centred.shrunk_levels(mean, (absent * (cosines - mean).square()).sum(0) / (count - 1), count)


def print_label_quality(data: Path) -> None:
    """Print the mAP of every label table on all 3,682 photos with stored scores, over all 20 classes."""
    stored = np.load(data / "rn50x64_scores.npz")
    ids, classes = stored["ids"].tolist(), stored["classes"].tolist()
    truth = Labels(ids, classes, torch.from_numpy(stored["truth"]).float())
    columns = (
        "labels of all photos",
        "mAP over 20 classes",
        "labels per photo: sum of scores",
        "scores of 0.5 or more",
    )
    print(f"\n| {' | '.join(columns)} |\n|---|---|---|---|")
    for name, scores in {**every_table(stored), "truth": truth.scores}.items():
        quality = 100 * mean_average_precision(Labels(ids, classes, scores), truth)[0]
        predicted = (scores >= 0.5).float().sum(1).mean()
        print(f"| {name} | {quality:.1f} | {scores.sum(1).mean():.2f} | {predicted:.2f} |")


def every_table(stored: np.lib.npyio.NpzFile) -> dict[str, torch.Tensor]:
    """Labels (N, C) in [0, 1] of all photos with stored scores, by every method."""
    whole, highest, lowest = (true_probabilities(stored[name]) for name in ("global_", "alpha", "beta"))
    bias = ccd.complete_bias(ccd.class_bias(whole))
    return {
        "global": whole,
        "cdul ζ=0.5": fuse(whole, torch.where(highest >= 0.5, highest, lowest)),  # cdul.aggregate from the two
        "cdul ζ=0": fuse(whole, highest),  # extremes: scores of single snippets are not stored
        "ccd": ccd.debias(whole, bias),  # CCD's own prompt and larger view would need the encoder
        "ccd, not debiased": ccd.debias(whole, torch.ones_like(bias)),
        "ccd, no floor": ccd.debias(whole, bias, floor=0.0),
        "centred, no profiles": centred_labels(stored, rerank=False),
        "centred": centred_labels(stored),
    }


def make_labels(data: Path) -> dict[str, Labels]:
    """Labels of the training photos by every method, and their true labels."""
    stored = np.load(data / "rn50x64_scores.npz")
    truth = read_labels(data / "truth_train.csv")
    row_of = {identifier: row for row, identifier in enumerate(stored["ids"].tolist())}
    rows = [row_of[Path(path).stem] for path in truth.paths]
    top1 = true_probabilities(stored["global_"][rows]).amax(-1).mean()
    print(f"mean top-1 probability of the whole photos: {top1:.3f} (0.85-0.9 means the logit scale is right)")
    tables = {name: scores[rows] for name, scores in every_table(stored).items()} | {"truth": truth.scores}
    tables[CONSISTENT] = tables["centred"]
    tables[ALONE] = centred_labels({name: stored[name][rows] for name in ("global_", "alpha")})
    root, classes = str((data / "photos" / "train").resolve()), stored["classes"].tolist()
    if classes != truth.classes:
        raise SystemExit(f"classes differ: {classes} and {truth.classes}")
    return {name: Labels(truth.paths, classes, scores, root=root) for name, scores in tables.items()}


def mean_ap(labels: Labels, truth: Labels) -> float:
    """mAP in percent over the twelve evaluated classes."""
    return 100 * mean_average_precision(labels, truth.aligned(truth.paths, EVALUATED))[0]


def run_student(name: str, labels: Labels, data: Path, out: Path, seed: int, extra: list[str]) -> dict:
    """Train and evaluate one student with the ordinary commands; its mAP in percent, and seconds."""
    tag = "".join(c if c.isalnum() else "-" for c in name) + f"-{seed}"
    file, model = out / f"{tag}.labels.pt", out / f"{tag}.model.pt"
    write_labels(labels, file, overwrite=True)
    command = [sys.executable, "-m", "mlclip"]
    started = time.monotonic()
    weights = ["--init", str(data / "mobilenet_v2_imagenet.pth")]
    training = [*STUDENT, *(["--method", "consistent"] if name == CONSISTENT else FIXED), *weights, *extra]
    subprocess.run([*command, "train", "--labels", file, *training, "--seed", str(seed), "-o", model, "--overwrite"],
                   check=True)  # fmt: skip
    seconds = time.monotonic() - started
    evaluation = ["evaluate", "--model", model, data / "photos" / "test", "--truth", data / "truth_test.csv", "--only",
                  ",".join(EVALUATED), "--format", "json"]  # fmt: skip
    result = json.loads(subprocess.run([*command, *evaluation], check=True, stdout=subprocess.PIPE).stdout)
    return {"labels": name, "seed": seed, "mAP": 100 * result["mAP"], "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/voc12"), help="folder of the photos and stored scores"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/voc12"), help="folder of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labels", nargs="+", default=COMPARED, help="names of the label tables to train on")
    parser.add_argument("extra", nargs="*", help="further options of `mlclip train`, after --")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    truth = read_labels(args.data / "truth_train.csv")
    tables = {n: t for n, t in make_labels(args.data).items() if n in args.labels}
    results_file = args.out / "results.jsonl"
    done = [json.loads(line) for line in results_file.read_text().splitlines()] if results_file.exists() else []
    for seed in args.seeds:
        for name, labels in tables.items():
            if not any(r["labels"] == name and r["seed"] == seed for r in done):
                done.append(run_student(name, labels, args.data.resolve(), args.out, seed, args.extra))
                with results_file.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    print_label_quality(args.data)
    print("\n| labels | labels on train | student on test, mean (range) | seeds |\n|---|---|---|---|")
    for name, labels in tables.items():
        scores = [r["mAP"] for r in done if r["labels"] == name and r["seed"] in args.seeds] or [float("nan")]
        print(
            f"| {name} | {mean_ap(labels, truth):.1f} | {np.mean(scores):.1f} ({min(scores):.1f}-{max(scores):.1f}) | {len(scores)} |"
        )


if __name__ == "__main__":
    main()
