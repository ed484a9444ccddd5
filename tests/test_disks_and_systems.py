"""Full disks, read-only folders, and what differs on Windows and macOS. The systems' calls are replaced; only Linux runs here."""

from __future__ import annotations

import errno
import ntpath
import os
import posixpath
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from mlclip import files, machine
from mlclip.cli import _status, is_closed_pipe
from mlclip.config import InputError
from mlclip.files import cache_folder
from mlclip.images import find_images
from mlclip.images.names import LONGEST_NAME, output_names, photo_file
from mlclip.labels.table import Labels, write_labels
from mlclip.student.heatmaps import write_heatmaps

CLASSES = ["red", "green", "blue"]
NOBODY = 65534
WRITE = "import sys, os, signal; from mlclip import files\nwith files.atomic(sys.argv[1]) as file:\n file.write_text('half')\n"
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can do this")


@pytest.fixture
def inputs(photos, model_file, clip_file, tmp_path) -> Path:
    """A folder with photos, labels and true labels, and a model. All users may read it."""
    folder = Path(tempfile.mkdtemp(prefix="mlclip-test-"))
    try:
        folder.chmod(0o755)
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        shutil.copytree(photos, folder / "photos")
        shutil.copy(model_file, folder / "model.pt")
        shutil.copy(clip_file, folder / "clip.pt")
        scores = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
        paths = [f"{number:02d}.jpg" for number in range(12)]
        write_labels(Labels(paths, CLASSES, scores, root=str(folder / "photos")), folder / "labels.pt")
        write_labels(Labels(paths, CLASSES, scores.round()), folder / "truth.csv")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, mounted at the folder that is returned."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def commands(inputs: Path, output: Path) -> list[list[str]]:
    """Every command that writes, with its output in the folder `output`, and a file there that has earlier content."""
    run = ["--workers", "0", "--device", "cpu", "-q"]
    model, labels, photos = (str(inputs / name) for name in ("model.pt", "labels.pt", "photos"))
    small = ["--arch", "mobilenet_v3_small", "--init", "none", "--size", "64", "--epochs", "1"]
    label = ["pseudolabel", photos, "--clip", str(inputs / "clip.pt"), "--classes", "red,green", *run, "--overwrite"]
    return [
        [*label, "-o", str(output / "old.pt")],
        [*label, "-o", str(inputs / "out" / "made.pt"), "--store", str(output / "store")],
        ["train", "--labels", labels, *small, *run, "--overwrite", "-o", str(output / "old.pt")],
        ["calibrate", photos, "--model", model, "--truth", str(inputs / "truth.csv"), *run, "--overwrite", "-o", str(output / "old.pt")],
        ["report", "--labels", labels, "--overwrite", "-o", str(output / "old.html")],
        ["export", "--model", model, "--overwrite", "-o", str(output / "old.csv")],
        ["predict", photos, "--model", model, *run, "--heatmaps", str(output / "maps")],
        ["demo", "--dir", str(output / "demo"), "-q"],
    ]  # fmt: skip


OLD = ("old.pt", "old.html", "old.csv")


def refused(arguments: list[str], capfd) -> str:
    """The one line with which the command fails."""
    status = _status(arguments)
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert status == 1 and line.startswith("mlclip: "), (arguments, status, line)
    return line


@needs_root
def test_on_a_full_disk_every_command_names_the_file_and_keeps_the_earlier_one(inputs, small_disk, capfd, monkeypatch):
    for name in OLD:
        (small_disk / name).write_text("earlier")
    with pytest.raises(OSError, match="No space left"), open(small_disk / "rest", "wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass
    for arguments in commands(inputs, small_disk):
        line = refused(arguments, capfd)
        assert str(small_disk) in line, line
    assert {(small_disk / name).read_text() for name in OLD} == {"earlier"}
    assert not [path for path in small_disk.rglob("*") if path.suffix in (".tmp", ".lock") or path.name == "lock"]
    assert os.listdir(inputs / "out") == []
    monkeypatch.setenv("MLCLIP_CACHE", str(small_disk / "cache"))
    assert str(small_disk / "cache") in refused(commands(inputs, inputs)[0], capfd)


@needs_root
def test_an_ordinary_user_in_a_read_only_folder_gets_one_line_and_nothing_changes(inputs, capfd, monkeypatch):
    folder = inputs / "readonly"
    folder.mkdir(mode=0o755)
    for name in OLD:
        (folder / name).write_text("earlier")
    monkeypatch.chdir(inputs)
    for arguments in commands(inputs, folder):  # all modules are imported before the user changes
        if arguments[0] != "demo":
            refused([*arguments[:-1], str(inputs / "model.pt" / "impossible")], capfd)
    os.seteuid(NOBODY)
    try:
        for arguments in commands(inputs, folder):
            line = refused(arguments, capfd)
            assert str(folder) in line or "cache" in line, line
        private = inputs / "photos" / "00.jpg"
        os.seteuid(0)
        private.chmod(0o600)
        os.seteuid(NOBODY)
        status = _status(["predict", "photos", "--model", "model.pt", "--workers", "0", "--format", "csv"])
        out, err = capfd.readouterr()
        assert status == 3 and "00.jpg: no permission" in err and "00.jpg" not in out
    finally:
        os.seteuid(0)
    assert sorted(os.listdir(folder)) == sorted(OLD) and (folder / "old.pt").read_text() == "earlier"


# Paths in tables


OUTSIDE = ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "..", ".", "a/../.."]
OUTSIDE_ON_WINDOWS = [
    r"..\x.jpg",
    r"D:\x.jpg",
    "D:x.jpg",
    r"\\server\share\x.jpg",
    "//server/share/x.jpg",
    r"C:\photosX\x.jpg",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leads_out_of_the_folder_of_the_photos_is_refused(path, tmp_path):
    with pytest.raises(InputError, match="is not in") as error:
        photo_file("/photos", path, system=posixpath)
    assert "`root`" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", [*OUTSIDE, *OUTSIDE_ON_WINDOWS])
def test_on_windows_a_drive_a_share_or_a_backslash_does_not_lead_out_either(path):
    with pytest.raises(InputError, match="is not in"):
        photo_file("C:\\photos", path, system=ntpath)
    assert photo_file("C:\\photos", "a/1.jpg", system=ntpath) == "C:\\photos\\a\\1.jpg"
    assert photo_file("C:\\Photos", "c:\\photos\\1.jpg", system=ntpath) == "c:\\photos\\1.jpg"


@pytest.mark.parametrize("suffix", [".pt", ".csv"])
@pytest.mark.parametrize("path", ["../secret.png", "ABSOLUTE", "photos/../../secret.png", "C:\\..\\secret.png"])
def test_labels_with_paths_out_of_their_folder_read_no_photo(inputs, capfd, monkeypatch, suffix, path):
    folder = inputs / "photos"
    Image.new("RGB", (40, 40), (1, 254, 1)).save(inputs / "secret.png")
    path = str(inputs / "secret.png") if path == "ABSOLUTE" else path
    labels = Labels(["00.jpg", path], CLASSES, torch.rand(2, 3), root=str(folder))
    write_labels(labels, inputs / f"bad{suffix}")
    monkeypatch.chdir(inputs)
    shared = ["--labels", f"bad{suffix}", "--root", str(folder)]
    train = ["train", *shared, *["--arch", "mobilenet_v3_small", "--init", "none", "-o", "new.pt"]]
    if path.startswith("C:"):  # a name like any other on Linux, of a photo that does not exist
        assert _status(["report", *shared]) == 0
        assert "1 photos could not be opened" in capfd.readouterr().err
        return
    for arguments in (["report", *shared], train):
        line = refused(arguments, capfd)
        assert path in line and "--root" in line
    assert not Path("report.html").exists() and not Path("new.pt").exists()
    inside = _status(["report", "--labels", f"bad{suffix}", "--root", str(inputs)]) == 0
    assert inside == os.path.isabs(path)  # an absolute path may lie in the folder of the photos


def test_photos_of_several_folders_are_below_the_common_folder(tmp_path, capfd, monkeypatch, clip_file):
    files = [tmp_path / "a" / "x" / "1.png", tmp_path / "b" / "1.png"]
    for file in files:
        file.parent.mkdir(parents=True)
        Image.linear_gradient("L").resize((40, 40)).save(file)
    monkeypatch.chdir(tmp_path / "a")
    shared = ["--workers", "0", "--device", "cpu"]
    label = ["pseudolabel", str(files[0]), "../b", "--clip", str(clip_file), "--classes", "red,green", *shared]
    assert _status(label) == 0
    assert _status(["report"]) == 0
    assert "could not be opened" not in Path("report.html").read_text()
    small = ["--arch", "mobilenet_v3_small", "--init", "none", "--size", "64", "--epochs", "1", "--batch-size", "2"]
    assert _status(["train", *small, *shared]) == 0


# Names of files that are written


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["A.jpg", "a.jpg", "B/x.jpg", "b/x.jpg"], ["A.jpg.h", "a.jpg~2.h", "B/x.jpg.h", "b/x.jpg~2.h"]),
        (["é.jpg", "e\u0301.jpg"], ["é.jpg.h", "e\u0301.jpg~2.h"]),
        (["../../x.jpg", "/x.jpg", "./x.jpg"], ["x.jpg.h", "x.jpg~2.h", "x.jpg~3.h"]),
        (["..", "/"], ["_.h", "_~2.h"]),
        (["aux.jpg", "a:b?.jpg"], ["aux.jpg.h", "a:b?.jpg.h"]),
    ],
)
def test_names_of_outputs_differ_without_upper_and_lower_case_and_stay_in_their_folder(paths, names):
    assert output_names(paths, ".h", windows=False) == names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("CON", "_CON.h"),
        ("con.jpg", "_con.jpg.h"),
        ("aux .txt", "_aux .txt.h"),
        ("sub/lpt1.tar.gz", "sub/_lpt1.tar.gz.h"),
        ("COM¹", "_COM¹.h"),
        ("console.jpg", "console.jpg.h"),
        ("a. . /b.jpg", "a____/b.jpg.h"),
        ('<>:"|?*\\\x07.jpg', "_________.jpg.h"),
        ("..\\..\\x.jpg", ".._.._x.jpg.h"),
    ],
)
def test_names_that_windows_forbids_are_changed_there(path, name):
    assert output_names([path], ".h", windows=True) == [name]
    assert not ntpath.isabs(name) and not ntpath.splitdrive(name)[0]


def test_long_names_of_photos_are_shortened_and_stay_different(model_file, tmp_path):
    names = [f"{'ä' * 120}{letter}.png" for letter in "xy"]
    (tmp_path / "p").mkdir()
    for name in names:
        Image.linear_gradient("L").resize((40, 40)).save(tmp_path / "p" / name)
    from mlclip.student.checkpoint import load_checkpoint

    photos = find_images([tmp_path / "p"]).photos
    drawn = write_heatmaps(photos, [[(0, 0.5)]] * 2, load_checkpoint(model_file), tmp_path / "maps", num_workers=0)
    assert drawn == 2 and len(os.listdir(tmp_path / "maps")) == 2
    assert all(len(os.fsencode(name)) <= LONGEST_NAME + len(".heatmap.jpg") for name in os.listdir(tmp_path / "maps"))


# Windows


class Msvcrt:
    """The locks of Windows by those of Linux. A lock of a process that holds it itself is refused, too, as there."""

    LK_NBLCK = 2

    def __init__(self):
        import fcntl

        self.fcntl = fcntl

    def locking(self, file: int, mode: int, count: int) -> None:
        assert mode == self.LK_NBLCK and count == 1
        try:
            self.fcntl.flock(file, self.fcntl.LOCK_EX | self.fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error


@pytest.fixture
def windows(monkeypatch):
    """`files` as on Windows: without fcntl, with msvcrt; an open file cannot be deleted."""
    pytest.importorskip("fcntl")
    monkeypatch.setattr(files, "msvcrt", Msvcrt())
    monkeypatch.setattr(files, "fcntl", None)
    unlink = Path.unlink

    def refuse_open(path, missing_ok=False):
        held = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if os.path.islink(link)]
        if str(path) in held:
            raise PermissionError(errno.EACCES, "The file is used by another process")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse_open)


def test_on_windows_a_second_run_is_refused_and_the_lock_file_is_removed(windows, tmp_path):
    with files.locked(tmp_path / "lock", "it"):
        second = files.locked(tmp_path / "lock", "it")
        with pytest.raises(InputError, match="another mlclip process is writing it"):
            second.__enter__()
    assert not (tmp_path / "lock").exists()
    with files.locked(tmp_path / "lock", "it"):
        pass


def test_on_windows_replacing_a_file_that_is_open_is_tried_again(windows, tmp_path, monkeypatch):
    replace, calls = os.replace, []

    def busy(source, target):
        calls.append(target)
        if len(calls) < 3:
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    monkeypatch.setattr(files, "REPLACE_SECONDS", (0, 0, 0))
    with files.atomic(tmp_path / "x.csv") as temporary:
        temporary.write_text("new")
    assert len(calls) == 3 and (tmp_path / "x.csv").read_text() == "new"
    monkeypatch.setattr(files, "REPLACE_SECONDS", ())
    calls.clear()
    with pytest.raises(InputError, match=r"cannot write .*x\.csv"), files.atomic(tmp_path / "x.csv") as temporary:
        temporary.write_text("newer")
    assert (tmp_path / "x.csv").read_text() == "new" and os.listdir(tmp_path) == ["x.csv"]


def test_on_windows_a_closed_pipe_is_an_invalid_argument_and_no_failure(monkeypatch):
    error = OSError(errno.EINVAL, "Invalid argument")
    assert not is_closed_pipe(error)
    monkeypatch.setattr(sys, "platform", "win32")
    assert is_closed_pipe(error)


def test_temporary_files_of_killed_processes_are_deleted_by_the_next_write_and_others_stay(tmp_path):
    left, kept = [".old.pt.00000001.tmp", ".log.csv.deadbeef.tmp"], [".notes.5.tmp", ".old.pt.tmp"]
    for name in [*left, *kept]:
        (tmp_path / name).touch()
    files.remove_temporaries.cache_clear()
    with files.atomic(tmp_path / "alive.csv") as alive:
        os.utime(alive, (0, 0))  # a clock that jumps makes no file a left one
        subprocess.run([sys.executable, "-c", WRITE, tmp_path / "new.csv"], check=True)
        assert alive.exists()
        alive.write_text("x")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "new.csv", "alive.csv"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_write_that_was_killed_leaves_nothing_after_the_next_one(tmp_path):
    code = WRITE + " os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", code, tmp_path / "a.csv"], check=False)
    assert killed.returncode == -signal.SIGKILL and len(list(tmp_path.glob(".a.csv.*.tmp"))) == 1
    files.remove_temporaries.cache_clear()
    with files.atomic(tmp_path / "other.csv") as temporary:
        temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]


FAULTS = """
import resource, sys, torch
from mlclip.machine import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
for _ in range(20):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(1 << 24)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_kept_memory_needs_no_new_pages_and_a_choice_of_the_user_stands(monkeypatch):
    def faults(how: str) -> tuple[int, int]:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        kept, count = done.stdout.split()
        return int(kept), int(count)

    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    kept, count = faults("keep")
    if not kept:
        pytest.skip("this system has no glibc")
    assert count < 1000 < faults("default")[1]  # 64 MB are 16,384 pages
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "100000")
    assert faults("keep")[0] == 0


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/x\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "25000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            0.25,
        ),
    ],
)
def test_the_quota_of_a_container_is_read_from_its_control_group(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert min(machine._cpu_quotas(tmp_path), default=None) == cores


def test_half_a_core_means_one_thread_and_one_worker(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "_cpu_quotas", lambda root: iter([0.5]))
    monkeypatch.setattr(machine, "_allowed_cores", lambda: 4)
    assert machine.available_cores() == machine.default_workers() == 1
    machine.limit_threads()
    assert os.environ.pop("OMP_NUM_THREADS") == "1"


def test_the_cache_is_where_the_environment_says_and_a_user_without_a_home_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("MLCLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mlclip"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where there is no home folder
    with pytest.raises(InputError, match="Set the environment variable MLCLIP_CACHE"):
        cache_folder()
