"""The ordinary path: the commands as processes, as people type them, with the default workers, threads, cache and precision.

The folder of photos has a damaged, an animated, a turned and a CMYK one. The current folder is not the repository.
"""

from __future__ import annotations

import os
import shutil
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
from mlclip.images.batches import in_threads, read_batches

MLCLIP = [sys.executable, "-m", "mlclip"]


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


@pytest.mark.parametrize("command", [["models"], ["cache"], ["--help"]])
def test_a_list_in_a_narrow_encoding(command, tmp_path):
    done = run(*command, folder=tmp_path, PYTHONIOENCODING="cp1252")
    assert done.stdout or command == ["cache"]  # which is empty


def changed_namespace(*unshare: str) -> list[str]:
    """The start of a command line that runs mlclip in other Linux namespaces; skips the test where that is not allowed."""
    if not shutil.which("unshare") or subprocess.run(["unshare", *unshare, "true"], capture_output=True).returncode:
        pytest.skip(f"this process may not run `unshare {' '.join(unshare)}`")
    return ["unshare", *unshare]


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
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    photos = find_images(tmp_path).photos[:count]
    assert list(in_threads(str, range(count), batch_size=1, num_threads=workers)) == [["0"], ["1"]][:count]
    batches = list(read_batches(photos, 8, batch_size=1, num_threads=workers))
    assert [int(batch.pixels.max()) for batch in batches] == [0, 40][:count]
    for device in (torch.device("cpu"), None):
        loaded = photo_batches(PhotoViews(photos, 8), batch_size=1, num_workers=workers, device=device)
        assert [int(views.max()) for _, views, _ in loaded] == [0, 40][:count]
