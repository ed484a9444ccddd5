"""The ordinary path: the commands as processes, as people type them, with the default workers, threads, cache and precision.

The folder of photos has a damaged, an animated, a turned and a CMYK one. The current folder is not the repository. Only what makes the
student small is set, as in the README's example.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlclip.demo import write_scenes
from mlclip.images import PhotoViews, find_images, photo_batches
from mlclip.images.views import in_threads, read_batches

STUDENT = ["--arch", "clip-resnet", "--init", "clip", "--size", "64"]
READABLE = ["00000.jpg", "00001.jpg", "00002.jpg", "00003.jpg", "animated.gif", "cmyk.jpg", "turned.jpg"]
MLCLIP = [sys.executable, "-m", "mlclip"]
# A warning is an error, but for a temporary folder that torch 2.6 leaves until Python ends.
STRICT = [sys.executable, "-W", "error", "-W", "default::ResourceWarning", "-m", "mlclip"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mlclip"]


def environment(**changes: str | None) -> dict[str, str]:
    """That of a user: the number of threads is not set. A change to None takes a variable out."""
    users = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {name: value for name, value in (users | changes).items() if value is not None}


def run(
    *args: str,
    folder: Path,
    status: int = 0,
    program: Sequence[str] = MLCLIP,
    stdout=subprocess.PIPE,
    **changes: str | None,
) -> subprocess.CompletedProcess:
    """One command in `folder`; AssertionError if it ends with another status or with a traceback."""
    done = subprocess.run(
        [*program, *args], cwd=folder, stdout=stdout, stderr=subprocess.PIPE, timeout=240, env=environment(**changes)
    )
    errors = done.stderr.decode(errors="replace")
    assert done.returncode == status, errors
    assert "Traceback" not in errors, errors
    return done


def lists_the_damaged_photo(done: subprocess.CompletedProcess) -> bool:
    return b"1 skipped:\n  damaged.jpg: " in done.stderr


def draw_photos(folder: Path) -> None:
    """folder/imgs with seven readable photos and a damaged one, and their true labels in folder/truth.csv."""
    write_scenes(folder, train=4, test=0)
    imgs = (folder / "train").rename(folder / "imgs")
    (folder / "truth_train.csv").rename(folder / "truth.csv")
    scenes = [Image.open(imgs / f"{number:05d}.jpg") for number in range(4)]
    scenes[0].save(imgs / "animated.gif", save_all=True, append_images=scenes[1:])
    scenes[1].convert("CMYK").save(imgs / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90°
    scenes[2].save(imgs / "turned.jpg", exif=exif)
    whole = (imgs / "00003.jpg").read_bytes()
    (imgs / "damaged.jpg").write_bytes(whole[: len(whole) // 2])


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """A folder with imgs/, truth.csv and labels.pt, and the cache of the command that labelled them."""
    folder = tmp_path_factory.mktemp("labelled")
    draw_photos(folder)
    cache = {"MLCLIP_CACHE": str(folder / "cache")}
    done = run("pseudolabel", "imgs", "--clip", "tiny", folder=folder, status=3, program=STRICT, **cache)
    assert lists_the_damaged_photo(done)
    return folder


@pytest.fixture(scope="module")
def trained(labelled, tmp_path_factory) -> Path:
    """A copy of `labelled` with model.pt and model.onnx, which `mlclip train` and `mlclip export` made."""
    folder = tmp_path_factory.mktemp("trained") / "here"
    shutil.copytree(labelled, folder)
    cache = {"MLCLIP_CACHE": str(folder / "cache")}
    run("train", *STUDENT, folder=folder, **cache)
    run("export", folder=folder, **cache)
    return folder


@pytest.fixture
def here(labelled, tmp_path, monkeypatch) -> Path:
    """A copy of `labelled` for one test."""
    shutil.copytree(labelled, tmp_path / "here")
    monkeypatch.setenv("MLCLIP_CACHE", str(tmp_path / "here" / "cache"))
    return tmp_path / "here"


def content(file: Path) -> dict[str, torch.Tensor]:
    """The numbers of a labels.pt or model.pt."""
    content = torch.load(file, weights_only=True)
    return content["weights"] if "weights" in content else {"scores": content["scores"]}


def same(first: Path, second: Path) -> bool:
    one, two = content(first), content(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("method", ["cdul", "ccd", "centred"])  # dense, the default here, made the labels of `here`
def test_every_method_labels_the_photos_and_lists_the_damaged_one(method, here):
    command = ["pseudolabel", "imgs", "--clip", "tiny", "--method", method, "-o", "new.pt"]
    assert lists_the_damaged_photo(run(*command, folder=here, status=3))
    assert torch.load(here / "new.pt", weights_only=True)["paths"] == READABLE
    for name in ("new.skipped.csv", "labels.skipped.csv"):
        with open(here / name, newline="") as file:
            assert [row["path"] for row in csv.DictReader(file)] == ["damaged.jpg"]


def interrupt_after_first_epoch(*args: str, folder: Path) -> str:
    """Run a command, send it Ctrl-C after its first epoch, and return what it said."""
    process = subprocess.Popen(
        [*MLCLIP, *args],
        cwd=folder,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("epoch 1:"):
            process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, "".join(lines)
    return "".join(lines)


def test_a_training_and_the_same_one_interrupted_and_resumed(here):  # ccd's label update is the longest step
    again = ["train", "--method", "ccd", *STUDENT, "-o", "again.pt"]
    said = interrupt_after_first_epoch(*again, folder=here)
    assert "Traceback" not in said and "finished work is kept: add --resume to continue" in said
    done = run(*again, "--resume", folder=here)
    assert b"continuing after epoch" in done.stderr
    done = run("train", "--method", "ccd", *STUDENT, folder=here, program=STRICT)
    assert b"next: mlclip predict PHOTO" in done.stderr
    assert same(here / "model.pt", here / "again.pt")


def test_a_model_predicts_draws_is_calibrated_and_measured_and_a_page_is_made(trained, tmp_path):
    folder = tmp_path / "here"
    shutil.copytree(trained, folder)
    done = run("predict", "imgs", "--heatmaps", "maps", "--format", "json", folder=folder, status=3)
    assert [row["path"] for row in json.loads(done.stdout)] == READABLE
    assert lists_the_damaged_photo(done)
    assert len(list((folder / "maps").iterdir())) == len(READABLE)
    measured = run("evaluate", "imgs", "--model", "model.pt", "--truth", "truth.csv", folder=folder, status=3)
    assert b"\nmAP " in measured.stdout
    run("calibrate", "imgs", "--truth", "truth.csv", folder=folder, status=3)
    run("report", "--labels", "labels.pt", folder=folder)
    assert "animated.gif" in (folder / "report.html").read_text()
    run("review", "--model", "model.pt", folder=folder)  # the damaged photo has no label, so it is not read
    run("predict", "imgs/animated.gif", "imgs/turned.jpg", folder=folder, program=STRICT)


def test_torchrun_labels_and_trains_without_restarts_though_a_photo_is_damaged(tmp_path):
    draw_photos(tmp_path)
    done = run("pseudolabel", "imgs", "--clip", "tiny", folder=tmp_path, program=TORCHRUN)
    assert b"  damaged.jpg: " in done.stderr
    assert torch.load(tmp_path / "labels.pt", weights_only=True)["paths"] == READABLE
    run("train", *STUDENT, folder=tmp_path, program=TORCHRUN)
    assert (tmp_path / "model.pt").is_file()


# The commands below predict with model.onnx: it starts without torch, and its output takes the same way.


@pytest.fixture
def many_photos(trained, tmp_path) -> Path:
    """A folder with a model.onnx and enough photos that their scores fill several buffers, one with a name that is not ASCII."""
    shutil.copy(trained / "model.onnx", tmp_path)
    (tmp_path / "imgs").mkdir()
    for number in range(40):
        shutil.copy(trained / "imgs" / "00000.jpg", tmp_path / "imgs" / f"{number:02d}.jpg")
    shutil.copy(trained / "imgs" / "00000.jpg", tmp_path / "imgs" / "über 猫.jpg")
    return tmp_path


PREDICT = ["predict", "imgs", "--model", "model.onnx", "--format"]


@pytest.mark.parametrize(("form", "unbuffered"), [("table", "1"), ("json", "1"), ("jsonl", "")])
def test_a_full_disk_is_an_error_of_one_line_and_a_pipe_gets_all(form, unbuffered, many_photos):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        done = run(*PREDICT, form, folder=many_photos, status=1, stdout=full, PYTHONUNBUFFERED=unbuffered)
    assert b"No space left on device" in done.stderr
    done = run(*PREDICT, form, folder=many_photos, PYTHONUNBUFFERED=unbuffered)
    assert len(done.stdout.decode().split(".jpg")) == 42
    assert form != "json" or len(json.loads(done.stdout)) == 41


@pytest.mark.parametrize(
    ("form", "encoding"),
    [("table", "ascii"), ("table", None), ("csv", "cp1252")],
)
def test_a_terminal_that_cannot_show_a_name_gets_the_rest(form, encoding, many_photos):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} if encoding is None else {}
    done = run(*PREDICT, form, folder=many_photos, PYTHONIOENCODING=encoding, **locale)
    assert done.stdout.count(b".jpg") == 41


def test_a_reader_that_has_seen_enough_is_no_error(many_photos):
    first_line = ["sh", "-c", '"$@" | head -n 1', "sh", *MLCLIP]
    done = run(*PREDICT, "jsonl", folder=many_photos, program=first_line)
    assert json.loads(done.stdout)["path"] == "00.jpg" and b"Broken" not in done.stderr


def test_a_closed_stdout_is_an_error_of_one_line_and_a_closed_stderr_none(many_photos):
    without = {stream: ["sh", "-c", f'"$@" {stream}>&-', "sh", *MLCLIP] for stream in (1, 2)}
    done = run(*PREDICT, "csv", folder=many_photos, status=1, program=without[1])
    assert b"mlclip: the output cannot be written: stdout is closed" in done.stderr
    done = run(*PREDICT, "csv", folder=many_photos, program=without[2])
    assert done.stdout.count(b".jpg") == 41
    for program in without.values():  # the status tells what nobody could read
        run("predict", "imgs", "--model", "none.pt", folder=many_photos, status=1, program=program)


@pytest.mark.parametrize("command", [["models"], ["cache"], ["--help"]])
def test_a_list_in_a_narrow_encoding(command, tmp_path):
    done = run(*command, folder=tmp_path, PYTHONIOENCODING="cp1252")
    assert done.stdout or command == ["cache"]  # which is empty


def changed_namespace(*unshare: str) -> list[str]:
    """The start of a command line that runs mlclip in other Linux namespaces; skips the test where that is not allowed."""
    if not shutil.which("unshare") or subprocess.run(["unshare", *unshare, "true"], capture_output=True).returncode:
        pytest.skip(f"this process may not run `unshare {' '.join(unshare)}`")
    return ["unshare", *unshare]


@pytest.mark.parametrize(
    "command", [["pseudolabel", "imgs", "--clip", "tiny"], ["train", "--method", "probe", *STUDENT]]
)
def test_a_cache_that_cannot_be_written_is_used_where_it_has_all_embeddings(command, here, labelled):
    """Root may write everywhere. So the cache is mounted again, read-only, for this command alone.

    The photos are those of `labelled`: the store of embeddings in the cache belongs to their folder.
    """
    command = [str(labelled / "imgs") if word == "imgs" else word for word in command]
    mount = 'mount --bind "$MLCLIP_CACHE" "$MLCLIP_CACHE" && mount -o remount,ro,bind "$MLCLIP_CACHE"'
    refused = '! touch "$MLCLIP_CACHE/new" 2>/dev/null'
    program = [*changed_namespace("--mount"), "sh", "-c", f'{mount} && {refused} && "$@"', "sh", *MLCLIP]
    run(*command, "-o", "new.pt", folder=here, status=3 if command[0] == "pseudolabel" else 0, program=program)
    assert command[0] == "train" or same(here / "new.pt", here / "labels.pt")


@pytest.mark.parametrize("command", [["cache"], ["pseudolabel", "imgs", "--clip", "tiny"]])
def test_a_user_without_a_home_folder_is_told_which_variable_helps(command, tmp_path):
    """As with `docker run --user 12345`."""
    draw_photos(tmp_path)
    nobody = {"HOME": None, "MLCLIP_CACHE": None, "XDG_CACHE_HOME": None}
    program = [*changed_namespace("--user", "--map-user=12345"), *MLCLIP]
    done = run(*command, folder=tmp_path, status=1, program=program, **nobody)
    assert b"MLCLIP_CACHE" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_workers_give_what_no_workers_give(workers, count, tmp_path):
    for number in range(max(count, 1)):
        pixels = np.full((8, 8, 3), 40 * number + 10, np.uint8)
        pixels[0] = 0  # a picture of one colour is no photo
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    photos = find_images(tmp_path).photos[:count]
    assert list(in_threads(str, range(count), batch_size=1, num_threads=workers)) == [["0"], ["1"]][:count]
    batches = list(read_batches(photos, 8, batch_size=1, num_threads=workers))
    assert [int(batch.pixels.max()) for batch in batches] == [10, 50][:count]
    for device in (torch.device("cpu"), None):
        loaded = photo_batches(PhotoViews(photos, 8), batch_size=1, num_workers=workers, device=device)
        assert [int(views.max()) for _, views, _ in loaded] == [10, 50][:count]
