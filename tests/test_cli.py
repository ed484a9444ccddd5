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
from mlclip.demo import KINDS, write_scenes
from mlclip.labels.table import Labels, read_labels, write_labels
from mlclip.student.checkpoint import load_checkpoint


def mlclip(*args, cwd, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mlclip", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, **more)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small drawn world, labelled by the tiny CLIP, and a student of those labels: the three commands."""
    folder = tmp_path_factory.mktemp("world")
    write_scenes(folder, train=40, test=10, seed=5)
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


def test_evaluate_says_how_calibrated_scores_are(world):
    judged = ["evaluate", "--labels", "labels.pt", "--truth", "truth_train.csv"]
    error = json.loads(mlclip(*judged, "--format", "json", cwd=world).stdout)["ECE"]
    done = mlclip(*judged, cwd=world)
    assert 0 < error < 1 and f"(ECE): {100 * error:.1f} %" in done.stderr and "ECE" not in done.stdout


def test_predictions_can_be_reported_with_their_photos_and_other_thresholds(world, tmp_path):
    done = mlclip("predict", "test", "--format", "csv", "--workers", 0, cwd=world)
    (tmp_path / "p.csv").write_text(done.stdout)
    shown = ["--labels", "p.csv", "--truth", world / "truth_test.csv", "--root", world / "test"]
    assert mlclip("report", *shown, cwd=tmp_path).returncode == 0
    page = (tmp_path / "report.html").read_text()
    assert "could not be opened" not in page and "Scores against the truth, report only" in page and "≥ 0.50" in page
    (tmp_path / "t.csv").write_text("class,threshold\nstar,0.25\n")
    done = mlclip("report", *shown, "--threshold-file", "t.csv", "--overwrite", cwd=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert done.returncode == 0 and page.count("≥ 0.25") == 1 and page.count("≥ 0.50") == len(KINDS) - 1


def test_thresholds_are_written_changed_and_given_back(world, tmp_path):
    model = ["--model", world / "model.pt"]
    assert mlclip("export", *model, "-o", "t.csv", cwd=tmp_path).returncode == 0
    asked = ["predict", world / "test", *model, "--format", "json", "--workers", 0]
    plain = json.loads(mlclip(*asked, cwd=tmp_path).stdout)
    assert json.loads(mlclip(*asked, "--threshold-file", "t.csv", cwd=tmp_path).stdout) == plain
    (tmp_path / "t.json").write_text('{"star": 0, "moon": 1}')
    done = json.loads(mlclip(*asked, "--threshold-file", "t.json", cwd=tmp_path).stdout)
    assert all("star" in item["labels"] and "moon" not in item["labels"] for item in done)
    others = [{name for name in item["labels"] if name not in ("star", "moon")} for item in plain]
    assert [{name for name in item["labels"] if name not in ("star", "moon")} for item in done] == others
    both = mlclip(*asked, "--threshold-file", "t.csv", "--threshold", 0.5, cwd=tmp_path)
    assert both.returncode == 2 and "give one of the two" in both.stderr
    (tmp_path / "t.csv").write_text("class,threshold\nunicorn,0.5\n")
    wrong = mlclip(*asked, "--threshold-file", "t.csv", cwd=tmp_path)
    assert wrong.returncode == 1 and wrong.stderr.splitlines()[-1].startswith("mlclip: t.csv names unicorn")
    assert wrong.stdout == ""


def test_a_few_true_labels_calibrate_a_model_and_the_old_one_is_kept(world, tmp_path):
    lines = (world / "truth_train.csv").read_text().splitlines()
    (tmp_path / "few.csv").write_text("\n".join(lines[:26]) + "\n")
    given = ["calibrate", world / "train", "--model", world / "model.pt", "--truth", "few.csv", "--workers", 0]
    before = (world / "model.pt").read_bytes()
    done = mlclip(*given, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert (world / "model.pt").read_bytes() == before
    assert "25 of 40 photos have true labels" in done.stderr and "positives" in done.stderr
    assert "on the photos it was fitted to, so flattering" in done.stderr
    assert "fewer than 3 positives for" in done.stderr
    made = load_checkpoint(tmp_path / "calibrated.pt")
    assert made.meta["calibration"]["photos"] == 25
    again = mlclip(*given, cwd=tmp_path)
    assert again.returncode == 1 and "--overwrite" in again.stderr
    scores = mlclip(
        "predict", world / "test", "--model", "calibrated.pt", "--format", "csv", "--workers", 0, cwd=tmp_path
    )
    assert scores.returncode == 0
    same = mlclip("calibrate", world / "train", "--model", "calibrated.pt", *given[4:], "-o", "calibrated.pt", "--overwrite",
                  cwd=tmp_path)  # fmt: skip
    assert same.returncode == 0, same.stderr
    assert torch.equal(load_checkpoint(tmp_path / "calibrated.pt").model.scale, made.model.scale)


def test_calibrating_with_photos_that_cannot_be_read_ends_with_3_and_lists_them(world, tmp_path):
    (tmp_path / "p").mkdir()
    for n in range(6):
        (tmp_path / "p" / f"{n:05d}.jpg").write_bytes((world / "train" / f"{n:05d}.jpg").read_bytes())
    (tmp_path / "p" / "00003.jpg").write_text("<html>")
    given = ["calibrate", "p", "--model", world / "model.pt", "--truth", world / "truth_train.csv", "--workers", 0]
    done = mlclip(*given, "-o", "c.pt", cwd=tmp_path)
    assert done.returncode == 3 and (tmp_path / "c.pt").exists()
    assert "00003.jpg" in (tmp_path / "c.skipped.csv").read_text()


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
        (["calibrate", "test", "--truth", "gone.csv"], 1, "gone.csv"),
        (["calibrate", "test", "--truth", "truth_train.csv", "--model", "labels.pt"], 1, "mlclip train"),
        (["calibrate", "test"], 2, "--truth"),
        (["evaluate", "--labels", "labels.pt", "--truth", "gone.csv"], 1, "gone.csv not found; a table of truth"),
        (["predict", "test", "--threshold", "nan"], 2, "--threshold is nan"),
        (["predict", "test", "--threshold", "0.5", "--topk", "2"], 2, "leave it or --threshold away"),
        (["predict", "test", "--threshold", "0.5", "--format", "csv"], 2, "csv holds every score"),
        (["pseudolabel", "train", "--clip", "tiny", "--rank-scale", "inf"], 2, "--rank-scale is inf"),
        (["predict", "test", "--threshold-file", "gone.csv", "--workers", "0"], 1, "gone.csv not found"),
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
        # SIGTERM before Python listens to it; SIGINT, 130 to a shell, where an interrupt cut into an import that compiles code
        assert process.wait(60) in (0, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
    subprocess.run([*command, "-o", "cut.pt", "--overwrite"], cwd=tmp_path, env=environment, check=True)
    cut, whole = read_labels(tmp_path / "cut.pt"), read_labels(world / "labels.pt")
    assert cut.paths == whole.paths
    assert torch.equal(cut.scores, whole.scores)
    assert not list(tmp_path.glob(".*.tmp"))


def test_few_names_are_advised_contrast_and_contrast_loses_what_is_a_class(world, tmp_path):
    label = [
        "pseudolabel",
        world / "train",
        "--clip",
        "tiny",
        "--workers",
        0,
        "--classes",
        "star,house,moon",
        "--overwrite",
    ]
    alone = mlclip(*label, cwd=tmp_path)
    assert alone.returncode == 0 and "only 3 names" in alone.stderr and "--contrast" in alone.stderr
    plain = mlclip(*label, "--contrast", "key", "-o", "plain.pt", cwd=tmp_path)
    twice = mlclip(*label, "--contrast", "key,Star", "-o", "twice.pt", cwd=tmp_path)
    assert "only 3 names" not in plain.stderr and "left out" not in plain.stderr
    assert "--contrast: Star left out" in twice.stderr
    assert torch.equal(read_labels(tmp_path / "plain.pt").scores, read_labels(tmp_path / "twice.pt").scores)


def test_a_truth_without_any_positive_judges_nothing(world, tmp_path):
    (tmp_path / "none.csv").write_text("path,star\n" + "".join(f"{n:05d}.jpg,0\n" for n in range(3)))
    done = mlclip("evaluate", "--labels", world / "labels.pt", "--truth", "none.csv", cwd=tmp_path)
    assert done.returncode == 1 and "no positive of star" in done.stderr and done.stdout == ""


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


def test_two_trainings_cannot_write_one_model_at_once(world, tmp_path):
    from mlclip.files import locked

    small = ["--arch", "clip-resnet", "--init", "clip", "--size", 64, "--epochs", 1, "--workers", 0]
    train = ["train", "--labels", world / "labels.pt", *small, "-o", "m.pt"]
    with locked(tmp_path / ".m.pt.lock", "m.pt"):
        refused = mlclip(*train, cwd=tmp_path)
    assert refused.returncode == 1 and "another mlclip process is writing m.pt" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    assert mlclip(*train, cwd=tmp_path).returncode == 0
    assert not (tmp_path / ".m.pt.lock").exists()
