"""The commands as a user types them: output, exit status, and files."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mlclip.cli import _status
from mlclip.demo import KINDS, write_scenes
from mlclip.labels.table import read_labels
from mlclip.student.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder with drawn scenes, labels by the tiny CLIP, and a student trained on them: made by the first two commands."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=40, test=10, seed=5)
    small = ["--arch", "clip-resnet", "--init", "clip", "--size", "64", "--epochs", "1", "--lr", "1e-3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLCLIP_CACHE", str(folder / "cache"))
        assert _status(["pseudolabel", "train/", "--clip", "tiny"]) == 0
        assert _status(["train", "--labels", "labels.pt", *small]) == 0
    return folder


@pytest.fixture
def mlclip(monkeypatch, capfd):
    """Runs a command in the folder `cwd`, without a process."""

    def run(*args: object, cwd: Path, stdin: str = "") -> SimpleNamespace:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = _status([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=status, stdout=out, stderr=err)

    return run


def test_without_a_command_the_help_is_printed_line_by_line(mlclip, tmp_path):
    done = mlclip(cwd=tmp_path)
    asked = mlclip("--help", cwd=tmp_path)
    assert (done.stdout + done.stderr).strip() == asked.stdout.strip() and len(asked.stdout.splitlines()) > 20


def test_csv_json_and_jsonl_contain_the_same_scores_and_the_chosen_classes(mlclip, scenes):
    texts = {f: mlclip("predict", "test", "--format", f, cwd=scenes).stdout for f in ("csv", "json", "jsonl")}
    table = list(csv.DictReader(io.StringIO(texts["csv"])))
    whole, lines = json.loads(texts["json"]), [json.loads(line) for line in texts["jsonl"].splitlines()]
    assert whole == lines
    assert [row["path"] for row in table] == [item["path"] for item in lines]
    assert all(abs(float(row["star"]) - item["scores"]["star"]) < 1e-5 for row, item in zip(table, lines, strict=True))
    assert list(table[0]) == ["path", *KINDS]
    for form, text in texts.items():
        (scenes / f"p.{form}").write_text(text)
        back, first = read_labels(scenes / f"p.{form}"), lines[0]["scores"][KINDS[0]]
        assert back.classes == list(KINDS) and back.scores[0, 0] == pytest.approx(first, abs=1e-5)
    top = json.loads(mlclip("predict", "test", "--format", "json", "--topk", 2, cwd=scenes).stdout)
    assert all(len(item["labels"]) == len(item["scores"]) == 2 for item in top)
    low = json.loads(mlclip("predict", "test", "--format", "json", "--threshold", 0, cwd=scenes).stdout)
    assert all(len(item["labels"]) == len(KINDS) for item in low)


def test_evaluate_takes_labels_or_a_model(mlclip, scenes):
    labels = mlclip("evaluate", "--labels", "labels.pt", "--truth", "truth_train.csv", "--format", "json", cwd=scenes)
    assert 0.3 < json.loads(labels.stdout)["mAP"] <= 1
    model = mlclip("evaluate", "test", "--model", "model.pt", "--truth", "truth_test.csv", cwd=scenes)
    assert model.returncode == 0 and "mAP" in model.stdout
    assert mlclip("evaluate", "--truth", "truth_test.csv", "--model", "model.pt", cwd=scenes).returncode == 2
    table = mlclip("evaluate", "--truth", "truth_train.csv", cwd=scenes)  # of labels.pt
    error = json.loads(labels.stdout)["ECE"]
    assert 0 < error < 1 and f"(ECE): {100 * error:.1f} %" in table.stderr and "ECE" not in table.stdout


def test_evaluate_tells_what_did_not_match(mlclip, scenes, tmp_path):
    lines = (scenes / "truth_train.csv").read_text().splitlines()
    lines = [lines[0] + ",unicorn", *(line + ",0" for line in lines[1:31]), "elsewhere.jpg" + ",0" * (len(KINDS) + 1)]
    (tmp_path / "truth.csv").write_text("\n".join(lines) + "\n")
    command = ["evaluate", "--labels", scenes / "labels.pt", "--truth", "truth.csv"]
    done = mlclip(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    classes = len(KINDS)
    assert f"labels.pt: 30 of 40 photos and {classes} of {classes} classes matched" in done.stderr
    assert f"truth.csv: 30 of 31 photos and {classes} of {classes + 1} classes matched" in done.stderr
    assert "unicorn" in done.stderr and "elsewhere.jpg" in done.stderr
    result = json.loads(mlclip(*command, "--format", "json", cwd=tmp_path).stdout)
    assert (result["photos_matched"], result["photos"]) == (30, 40)
    assert (result["classes_matched"], result["classes"]) == (classes, classes)
    assert result["unmatched"]["truth_photos"] == ["elsewhere.jpg"]
    assert result["unmatched"]["truth_classes"] == ["unicorn"]
    assert len(result["unmatched"]["photos"]) == 10 and result["unmatched"]["classes"] == []


def test_report_shows_predictions_with_their_photos_and_other_thresholds(mlclip, scenes, tmp_path):
    done = mlclip("predict", "test", "--format", "csv", cwd=scenes)
    (tmp_path / "p.csv").write_text(done.stdout)
    shown = ["--labels", "p.csv", "--truth", scenes / "truth_test.csv", "--root", scenes / "test"]
    done = mlclip("report", *shown, cwd=tmp_path)
    assert done.returncode == 0 and "p.csv has no thresholds: 0.5 is used" in done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "could not be opened" not in page and "Scores against the truth, report only" in page and "≥ 0.50" in page
    (tmp_path / "t.csv").write_text("class,threshold\nstar,0.25\n")
    done = mlclip("report", *shown, "--threshold", "t.csv", "--overwrite", cwd=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert done.returncode == 0 and page.count("≥ 0.25") == 1 and page.count("≥ 0.50") == len(KINDS) - 1


@pytest.mark.parametrize("form", ["pt", "csv", "json", "jsonl"])
def test_a_table_of_predictions_keeps_the_thresholds_and_is_continued(form, mlclip, scenes, tmp_path):
    table, model = f"scores.{form}", ["--model", scenes / "model.pt"]
    first = sorted((scenes / "test").iterdir())[:3]
    (tmp_path / "imgs").mkdir()
    for file in first:
        shutil.copy(file, tmp_path / "imgs")
    done = mlclip("predict", "imgs", *model, "-o", table, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "") and f"{table}: 3 photos; next: mlclip report" in done.stderr
    whole = read_labels(tmp_path / table)
    limits = load_checkpoint(scenes / "model.pt").thresholds
    assert torch.allclose(whole.thresholds, limits, atol=1e-6) and len({*limits.tolist()}) > 1
    export = ["export", "--to", "exiftool", "--labels", table, "--root", "imgs"]
    mlclip(*export, "-o", "own.csv", cwd=tmp_path)
    mlclip(*export, "--threshold", scenes / "model.pt", "-o", "model.csv", cwd=tmp_path)
    assert (tmp_path / "own.csv").read_text() == (tmp_path / "model.csv").read_text()

    (tmp_path / "imgs" / first[0].name).unlink()
    shutil.copy(sorted((scenes / "test").iterdir())[3], tmp_path / "imgs" / "new.jpg")
    assert mlclip("predict", "imgs", *model, "-o", table, cwd=tmp_path).returncode == 1
    done = mlclip("predict", "imgs", *model, "-o", table, "--append", cwd=tmp_path)
    assert done.returncode == 0 and "has 2 of 3 photos: 1 are new" in done.stderr
    longer = read_labels(tmp_path / table)
    assert longer.paths == [*whole.paths, "new.jpg"] and torch.equal(longer.scores[:3], whole.scores)
    (tmp_path / "imgs" / "damaged.jpg").write_bytes(b"none")
    done = mlclip("predict", "imgs", *model, "-o", table, "--append", cwd=tmp_path)
    assert done.returncode == 3 and "damaged.jpg" in done.stderr and read_labels(tmp_path / table).paths == longer.paths
    if form == "csv":  # it stores no folder: a hidden file beside it does
        (tmp_path / "imgs").rename(tmp_path / "others")
        done = mlclip("predict", "others", *model, "-o", table, "--append", cwd=tmp_path)
        assert done.returncode == 1 and f"the photos in {table} are in {tmp_path / 'imgs'}" in done.stderr
        (tmp_path / "others").rename(tmp_path / "imgs")
        shutil.copy(first[0], tmp_path / "imgs" / "new.jpg")  # another photo of the same name
        assert "2 are new" in mlclip("predict", "imgs", *model, "-o", table, "--append", cwd=tmp_path).stderr
        assert torch.allclose(read_labels(tmp_path / table).scores[3], whole.scores[0], atol=1e-4)
    other = mlclip("predict", "imgs", *model, "-o", table, "--append", "--threshold", "0.9", cwd=tmp_path)
    assert other.returncode == 1 and "has other classes or thresholds than the model" in other.stderr


def test_exported_thresholds_can_be_edited_and_used(mlclip, scenes, tmp_path):
    model = ["--model", scenes / "model.pt"]
    assert mlclip("export", *model, "-o", "t.csv", cwd=tmp_path).returncode == 0
    command = ["predict", scenes / "test", *model, "--format", "json"]
    plain = json.loads(mlclip(*command, cwd=tmp_path).stdout)
    assert json.loads(mlclip(*command, "--threshold", "t.csv", cwd=tmp_path).stdout) == plain
    (tmp_path / "t.json").write_text('{"star": 0, "moon": 1}')
    done = json.loads(mlclip(*command, "--threshold", "t.json", cwd=tmp_path).stdout)
    assert all("star" in item["labels"] and "moon" not in item["labels"] for item in done)
    others = [{name for name in item["labels"] if name not in ("star", "moon")} for item in plain]
    assert [{name for name in item["labels"] if name not in ("star", "moon")} for item in done] == others
    (tmp_path / "t.csv").write_text("class,threshold\nunicorn,0.5\n")
    wrong = mlclip(*command, "--threshold", "t.csv", cwd=tmp_path)
    assert wrong.returncode == 1 and wrong.stdout == ""
    assert wrong.stderr.splitlines()[-1].startswith("mlclip: t.csv names unknown classes: unicorn")


def test_calibrate_writes_a_new_model_and_keeps_the_old_one(mlclip, scenes, tmp_path):
    lines = (scenes / "truth_train.csv").read_text().splitlines()
    (tmp_path / "few.csv").write_text("\n".join(lines[:26]) + "\n")
    command = ["calibrate", scenes / "train", "--model", scenes / "model.pt", "--truth", "few.csv"]
    before = (scenes / "model.pt").read_bytes()
    done = mlclip(*command, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert (scenes / "model.pt").read_bytes() == before
    assert "25 of 40 photos" in done.stderr and "positives" in done.stderr
    assert "on the 25 photos used for the fit" in done.stderr
    assert "fewer than 3 positive photos of" in done.stderr
    made = load_checkpoint(tmp_path / "calibrated.pt")
    assert made.meta["calibration"]["photos"] == 25
    again = mlclip(*command, cwd=tmp_path)
    assert again.returncode == 1 and "--overwrite" in again.stderr
    scores = mlclip("predict", scenes / "test", "--model", "calibrated.pt", "--format", "csv", cwd=tmp_path)
    assert scores.returncode == 0
    same = mlclip("calibrate", scenes / "train", "--model", "calibrated.pt", *command[4:], "-o", "calibrated.pt", "--overwrite",
                  cwd=tmp_path)  # fmt: skip
    assert same.returncode == 0, same.stderr
    assert torch.equal(load_checkpoint(tmp_path / "calibrated.pt").model.scale, made.model.scale)


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["pseudolabel", "nowhere", "--clip", "tiny"], 1, "nowhere"),
        (["pseudolabel", "train", "--clip", "no-such-clip"], 1, "no-such-clip"),
        (["pseudolabel", "train", "--clip", "tiny", "--classes", "cat"], 1, "--contrast"),
        (["pseudolabel", "train", "--clip", "tiny", "--method", "cdul", "--set", "zeta=7"], 2, "zeta is 7"),
        (["pseudolabel", "train", "--clip", "tiny", "--set", "zeta=0.3"], 2, "Use --method cdul"),
        (["pseudolabel"], 2, "IMAGES"),
        (["pseudolabel", "train", "--clip", "ViT-B/32", "--offline", "-o", "x.pt"], 1, "ViT-B-32.pt"),
        (["train", "--labels", "nothing.pt", "-o", "x.pt"], 1, "mlclip pseudolabel"),
        (["train", "--arch", "resnt18", "--init", "none", "-o", "x.pt"], 1, "Did you mean 'resnet18'"),
        (["train", "--device", "toaster", "-o", "x.pt"], 1, "--device toaster"),
        (["predict", "test", "--model", "labels.pt"], 1, "mlclip train"),
        (["predict", "empty"], 1, "empty"),
        (["calibrate", "test", "--truth", "gone.csv"], 1, "gone.csv"),
        (["calibrate", "test", "--truth", "truth_train.csv", "--model", "labels.pt"], 1, "mlclip train"),
        (["calibrate", "test"], 2, "--truth"),
        (["report", "--root", "empty", "-o", "new.html"], 1, "none of the 40 photos"),
        (["evaluate", "--labels", "labels.pt", "--truth", "gone.csv"], 1, "gone.csv not found. A table of true labels"),
        (["predict", "test", "--threshold", "nan"], 2, "--threshold is nan"),
        (["predict", "test", "--threshold", "0.5", "--topk", "2"], 2, "--topk cannot be combined with --threshold"),
        (["predict", "test", "--threshold", "0.5", "--format", "csv"], 2, "no effect with --format csv"),
        (["pseudolabel", "train", "--clip", "tiny", "--set", "rank_scale=inf"], 2, "rank_scale is inf"),
        (["predict", "test", "--threshold", "gone.csv"], 1, "gone.csv not found"),
    ],
)
def test_a_mistake_is_one_line_that_names_it_and_no_file_is_written(scenes, args, status, words, monkeypatch, capfd):
    monkeypatch.chdir(scenes)
    (scenes / "empty").mkdir(exist_ok=True)
    before = sorted(p.name for p in scenes.iterdir())
    if args[0] == "pseudolabel" and "-o" not in args and len(args) > 1:
        args = [*args, "-o", "x.pt"]
    assert _status(args) == status
    err = capfd.readouterr().err
    assert words in err and (status == 2 or err.splitlines()[-1].startswith("mlclip: "))
    assert sorted(p.name for p in scenes.iterdir()) == before


def test_an_existing_output_is_kept_without_overwrite(mlclip, scenes):
    before = (scenes / "labels.pt").read_bytes()
    done = mlclip("pseudolabel", "train", "--clip", "tiny", cwd=scenes)
    assert done.returncode == 1 and "--overwrite" in done.stderr
    assert (scenes / "labels.pt").read_bytes() == before


def test_a_killed_pseudolabel_continues_and_gives_the_same_labels(mlclip, scenes, tmp_path):
    command = [sys.executable, "-m", "mlclip", "pseudolabel", str(scenes / "train"), "--clip", "tiny"]
    process = subprocess.Popen([*command, "-o", "cut.pt"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    time.sleep(4)
    process.kill()
    assert process.wait(60) in (0, -signal.SIGKILL)
    assert mlclip(*command[3:], "-o", "cut.pt", "--overwrite", cwd=tmp_path).returncode == 0
    cut, whole = read_labels(tmp_path / "cut.pt"), read_labels(scenes / "labels.pt")
    assert cut.paths == whole.paths
    assert torch.equal(cut.scores, whole.scores)
    assert not list(tmp_path.glob(".*.tmp"))


def test_few_class_names_lead_to_advice_about_contrast_and_contrast_drops_class_names(mlclip, scenes, tmp_path):
    few = ["--classes", "star,house,moon"]
    label = ["pseudolabel", scenes / "train", "--clip", "tiny", *few, "--overwrite"]
    alone = mlclip(*label, cwd=tmp_path)
    assert alone.returncode == 0 and "only 3 class names" in alone.stderr and "--contrast" in alone.stderr
    plain = mlclip(*label, "--contrast", "key", "-o", "plain.pt", cwd=tmp_path)
    twice = mlclip(*label, "--contrast", "key,Star", "-o", "twice.pt", cwd=tmp_path)
    assert "only 3 class names" not in plain.stderr and "ignored" not in plain.stderr
    assert "--contrast: Star ignored" in twice.stderr
    assert torch.equal(read_labels(tmp_path / "plain.pt").scores, read_labels(tmp_path / "twice.pt").scores)


def test_cache_lists_stores_and_weights_and_clears_them(mlclip, scenes, own_cache, tmp_path):
    folder = own_cache
    shutil.copytree(scenes / "cache", folder, dirs_exist_ok=True)
    (folder / "RN50.pt").write_bytes(bytes(2_000_000))
    (folder / "mine.txt").write_text("not a file of mlclip")
    listed = mlclip("cache", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert lines[0].split("  ")[0] == "what" and lines[2].startswith("CLIP RN50") and "2.0 MB" in lines[2]
    assert any(line.startswith("embeddings") and " 40 " in line and time.strftime("%Y-") in line for line in lines)
    assert "in total" in listed.stderr

    refused = mlclip("cache", "--clear", stdin="n\n", cwd=tmp_path)
    assert refused.returncode == 0 and "Delete" in refused.stderr
    assert mlclip("cache", "--weights", cwd=tmp_path).returncode == 2

    cleared = mlclip("cache", "--clear", "--yes", cwd=tmp_path)
    assert cleared.returncode == 0 and "freed" in cleared.stderr
    left = mlclip("cache", cwd=tmp_path).stdout
    assert "embeddings" not in left and "CLIP RN50" in left
    assert mlclip("cache", "--clear", "--weights", stdin="y\n", cwd=tmp_path).returncode == 0
    assert "nothing to delete" in mlclip("cache", "--clear", cwd=tmp_path).stderr
    assert (folder / "mine.txt").is_file() and not (folder / "RN50.pt").exists()


def test_file_names_cannot_send_control_characters_to_the_terminal(mlclip, scenes, tmp_path):
    name = "a\x1b]0;b\n\x9b2J.jpg"
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / name).write_bytes((scenes / "train" / "00000.jpg").read_bytes())
    (tmp_path / "p" / f"bad{name}").write_text("<html>")
    model = ["--model", scenes / "model.pt"]
    commands = [
        ["predict", "p", *model],
        ["predict", f"gone{name}", *model],
        ["pseudolabel", "p", "--clip", "tiny", "--classes", "star,moon", "-o", f"{name}.pt"],
        ["report", "--labels", f"{name}.pt", "-o", f"{name}.html"],
        ["evaluate", "--labels", f"{name}.pt", "--truth", f"gone{name}"],
        ["export", *model[:2], "-o", f"{name}.csv"],
        ["report", name],
    ]
    for command in commands:
        done = mlclip(*command, cwd=tmp_path)
        printed = done.stdout + done.stderr
        assert "Traceback" not in printed and "a" in printed
        assert not any(c in printed for c in ("\x1b", "\x9b", "b\n")), command
    assert (tmp_path / f"{name}.html").is_file()


def test_true_labels_can_be_used_for_training_with_a_root(mlclip, scenes, tmp_path):
    small = ["--arch", "mobilenet_v3_small", "--init", "none", "--size", 64, "--epochs", 1]
    truth = ["--labels", scenes / "truth_train.csv", "--root", scenes / "train"]
    done = mlclip("train", *truth, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.pt").exists()
