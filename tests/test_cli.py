"""The commands as a user types them: what they print where, their exit statuses, what they leave behind."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from mlclip.clip.registry import TINY_FILE
from mlclip.labels import Labels, read_labels, write_labels
from mlclip.world import KINDS, write_world


def mlclip(*args, cwd, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mlclip", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, **more)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small drawn world, labelled by the tiny CLIP, and a student of those labels: the three commands."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, train=40, test=10, seed=5)
    environment = {**os.environ, "MLCLIP_CACHE": str(folder / "cache")}
    options = {"cwd": folder, "env": environment}
    first = mlclip("pseudolabel", "train/", "--clip", "tiny", "--workers", 0, **options)
    small = ["--arch", "clip-resnet", "--init", "clip", "--size", 64, "--epochs", 1, "--lr", "1e-3"]
    second = mlclip("train", "--labels", "labels.pt", *small, "--workers", 0, **options)
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    assert first.stdout == second.stdout == ""
    return folder


def test_the_three_commands_find_what_the_one_before_left(world):
    done = mlclip("predict", "test/00000.jpg", "--workers", 0, cwd=world)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["photo", "classes"]
    assert "00000.jpg" in done.stdout


def test_class_names_are_found_beside_the_photos(world):
    assert read_labels(world / "labels.pt").classes == list(KINDS)


def test_csv_json_and_jsonl_say_the_same(world):
    texts = {
        f: mlclip("predict", "test", "--format", f, "--workers", 0, cwd=world).stdout for f in ("csv", "json", "jsonl")
    }
    table = list(csv.DictReader(io.StringIO(texts["csv"])))
    whole, lines = json.loads(texts["json"]), [json.loads(line) for line in texts["jsonl"].splitlines()]
    assert whole == lines
    assert [row["path"] for row in table] == [item["path"] for item in lines]
    assert all(abs(float(row["star"]) - item["scores"]["star"]) < 1e-5 for row, item in zip(table, lines, strict=True))
    assert list(table[0]) == ["path", *KINDS]


def test_topk_and_threshold_choose(world):
    top = json.loads(mlclip("predict", "test", "--format", "json", "--topk", 2, "--workers", 0, cwd=world).stdout)
    assert all(len(item["labels"]) == len(item["scores"]) == 2 for item in top)
    every = json.loads(
        mlclip("predict", "test", "--format", "json", "--threshold", 0, "--workers", 0, cwd=world).stdout
    )
    assert all(len(item["labels"]) == len(KINDS) for item in every)


def test_evaluate_judges_labels_and_models(world):
    labels = mlclip("evaluate", "--labels", "labels.pt", "--truth", "truth_train.csv", "--format", "json", cwd=world)
    assert 0.3 < json.loads(labels.stdout)["mAP"] <= 1
    model = mlclip("evaluate", "test", "--model", "model.pt", "--truth", "truth_test.csv", "--workers", 0, cwd=world)
    assert model.returncode == 0 and "mAP" in model.stdout
    assert mlclip("evaluate", "--truth", "truth_test.csv", cwd=world).returncode == 2


def test_report_makes_a_page(world):
    assert mlclip("report", "-o", "r.html", "--truth", "truth_train.csv", cwd=world).returncode == 0
    assert "<html" in (world / "r.html").read_text()


def test_skipped_photos_are_listed_beside_the_output_and_the_status_is_3(world, tmp_path):
    (tmp_path / "p").mkdir()
    for name in ("00001.jpg", "00002.jpg"):
        (tmp_path / "p" / name).write_bytes((world / "train" / name).read_bytes())
    (tmp_path / "p" / "bad.jpg").write_text("<html>")
    done = mlclip("pseudolabel", "p", "--clip", "tiny", "--classes", "star,moon", "--workers", 0, cwd=tmp_path)
    assert done.returncode == 3
    assert "bad.jpg" in done.stderr and "bad.jpg" in (tmp_path / "labels.skipped.csv").read_text()
    assert len(read_labels(tmp_path / "labels.pt")) == 2
    predicted = mlclip("predict", "p", "--model", world / "model.pt", "--format", "csv", "--workers", 0, cwd=tmp_path)
    assert predicted.returncode == 3
    assert len(predicted.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["pseudolabel", "nowhere", "--clip", "tiny"], 1, "nowhere"),
        (["pseudolabel", "train", "--clip", "no-such-clip"], 1, "no-such-clip"),
        (["pseudolabel", "train", "--clip", "tiny", "--classes", "cat"], 1, "--contrast"),
        (["pseudolabel", "train", "--clip", "tiny", "--method", "cdul", "--zeta", "7"], 2, "--zeta"),
        (["pseudolabel", "train", "--clip", "tiny", "--zeta", "0.3"], 2, "add --method cdul"),
        (["pseudolabel"], 2, "IMAGES"),
        (["pseudolabel", "train", "--clip", "ViT-B/32", "--offline", "-o", "x.pt"], 1, "ViT-B-32.pt"),
        (["train", "--labels", "nothing.pt", "-o", "x.pt"], 1, "mlclip pseudolabel"),
        (["train", "--arch", "lenet", "--init", "none", "-o", "x.pt"], 1, "resnet18"),
        (["train", "--device", "toaster", "-o", "x.pt"], 1, "--device toaster"),
        (["predict", "test", "--model", "labels.pt"], 1, "mlclip train"),
        (["predict", "empty"], 1, "empty"),
    ],
)
def test_a_mistake_is_one_line_that_names_it_and_leaves_nothing(world, args, status, words):
    (world / "empty").mkdir(exist_ok=True)
    before = sorted(p.name for p in world.iterdir())
    if args[0] == "pseudolabel" and "-o" not in args and len(args) > 1:
        args = [*args, "-o", "x.pt"]
    done = mlclip(*args, cwd=world, env={**os.environ, "MLCLIP_CACHE": str(world / "cache")})
    assert done.returncode == status, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    if status == 1:
        assert done.stderr.splitlines()[-1].startswith("mlclip: ")
    assert sorted(p.name for p in world.iterdir()) == before


def test_an_existing_output_is_kept_unless_overwrite_is_given(world):
    before = (world / "labels.pt").read_bytes()
    done = mlclip("pseudolabel", "train", "--clip", "tiny", cwd=world)
    assert done.returncode == 1 and "--overwrite" in done.stderr
    assert (world / "labels.pt").read_bytes() == before


def test_a_labels_file_that_is_a_malicious_pickle_runs_nothing(tmp_path):
    class Bad:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save(Bad(), tmp_path / "labels.pt")
    done = mlclip("train", "--labels", "labels.pt", "--init", "none", cwd=tmp_path)
    assert done.returncode == 1 and not (tmp_path / "ran").exists()


def test_killed_at_any_moment_pseudolabel_goes_on_and_ends_as_if_never_stopped(world, tmp_path):
    environment = {**os.environ, "MLCLIP_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "mlclip", "pseudolabel", str(world / "train"), "--clip", "tiny", "--workers", "0"]
    for wait, how in ((0.8, signal.SIGTERM), (1.5, signal.SIGKILL), (2.5, signal.SIGTERM)):
        process = subprocess.Popen([*command, "-o", "cut.pt"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        time.sleep(wait)
        process.send_signal(how)
        assert process.wait(60) in (-signal.SIGKILL, 130, 0, -signal.SIGTERM)  # the last: before Python listens
    subprocess.run([*command, "-o", "cut.pt", "--overwrite"], cwd=tmp_path, env=environment, check=True)
    cut, whole = read_labels(tmp_path / "cut.pt"), read_labels(world / "labels.pt")
    assert cut.paths == whole.paths
    assert torch.equal(cut.scores, whole.scores)
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_closed_pipe_is_quiet(world):
    command = f"{sys.executable} -m mlclip predict test --format jsonl --workers 0 -q | head -n 1"
    done = subprocess.run(command, shell=True, cwd=world, capture_output=True, text=True)
    assert json.loads(done.stdout)["path"]
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr


def test_models_lists_every_teacher(tmp_path):
    done = mlclip("models", cwd=tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("RN50x64", "ViT-L/14@336px", "tiny", "448 px"))


def test_the_tiny_clip_is_shipped():
    assert TINY_FILE.is_file()


def test_truth_as_labels_can_be_trained_on_with_a_root(world, tmp_path):
    small = ["--arch", "resnet18", "--init", "none", "--size", 64, "--epochs", 1, "--workers", 0]
    truth = ["--labels", world / "truth_train.csv", "--root", world / "train"]
    done = mlclip("train", *truth, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.pt").exists()


def test_labels_written_as_csv_are_read_back(tmp_path):
    labels = Labels(["a.jpg"], ["x", "y"], torch.tensor([[0.25, 1.0]]))
    write_labels(labels, tmp_path / "t.csv")
    assert torch.equal(read_labels(tmp_path / "t.csv").scores, labels.scores)
