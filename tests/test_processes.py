"""Several processes (torchrun, gloo) have the same results as one: equal labels, and with equal batches equal losses up to rounding.

With this file as a script, torchrun runs one of its functions on every rank. Each rank plays a machine of its own; all have one cache.
"""

from __future__ import annotations

import atexit
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import Told

import mlclip
from mlclip.config import InputError, OptionError
from mlclip.distributed import Distributed, Runtime, rank_device, restarted, start_distributed
from mlclip.files import locked
from mlclip.images import find_images
from mlclip.labels.table import Labels, read_labels
from mlclip.progress import SILENT, Progress
from mlclip.student.checkpoint import load_checkpoint
from mlclip.student.model import Classifier
from mlclip.teacher.fill import filled_stores
from mlclip.teacher.scoring import Teacher
from mlclip.teacher.store import Key, Store
from mlclip.training import loop
from mlclip.training.start import sync_batch_norm

CLASSES = ["red", "green", "blue"]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
HERE = ["--device", "cpu"]


def log_rows(model: Path) -> list[dict[str, str]]:
    with open(model.with_suffix(".log.csv"), newline="") as file:
        return list(csv.DictReader(file))


def launch(ranks: int, task: str, folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Run `task` of this file on some ranks; each rank works in `folder`/machine-R, and all have the cache in `folder`."""
    launcher = [*LAUNCHER[:-1], str(ranks), *options]
    command = [*launcher, __file__, task, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=ENV)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def machines(photos, clip_file, tmp_path) -> Path:
    """A folder with three machines. Each has copies of the photos, with other modification times, and the weight file."""
    (photos / "05.jpg").write_bytes(b"")  # 11 readable photos: the parts have different lengths
    for rank in range(3):
        shutil.copytree(photos, tmp_path / f"machine-{rank}" / "photos")
        for file in (tmp_path / f"machine-{rank}" / "photos").iterdir():
            os.utime(file, ns=(rank, 10**18 + rank))
        shutil.copy(clip_file, tmp_path / f"machine-{rank}" / "clip.pt")
    return tmp_path


def enter_machine(folder: Path, rank: int) -> None:
    home = folder / f"machine-{rank}"
    os.chdir(home)
    os.environ |= {"HOME": str(home), "MLCLIP_CACHE": str(folder / "cache")}


def label_photos(**settings) -> Labels:
    rest = {"output": "labels.pt", "clip": "clip.pt", "method": "ccd", "device": "cpu"} | settings
    return mlclip.pseudolabel("photos", ["red", "green", "blue"], progress=SILENT, **rest)


def train_student(output: str, method: str, progress: Progress = SILENT, **settings) -> None:
    rest = {"root": "photos", "init": "none", "arch": "resnet18", "size": 64, "device": "cpu"}
    if method != "probe":
        rest |= {"lr": 1e-5, "batch_size": 6, "precision": "fp32"}
    mlclip.train("labels.pt", output, method=method, progress=progress, **rest | settings)


def label_and_train() -> None:
    label_photos()
    train_student("model.pt", "ccd", epochs=2, warmup=1, clip="clip.pt", save_labels="updated.json")
    label_photos(output="dense.pt", method="dense")
    train_student("probe.pt", "probe")
    mlclip.pseudolabel("photos", like="dense.pt", clip="clip.pt", output="again.pt", device="cpu", progress=SILENT)
    # steps of 10 and 1 photos: one of two processes has no photo in the last
    aligned = {"epochs": 2, "warmup": 1, "average": 0.5, "batch_size": 10}
    train_student("aligned.pt", "cdul", save_labels="aligned.json", **aligned)


def test_several_machines_make_the_labels_and_the_model_of_one(machines, monkeypatch):
    launch(2, "label_and_train", machines)
    results = machines / "machine-0"
    assert not (machines / "machine-1" / "labels.pt").exists()  # the main rank writes it, and reads it for all
    monkeypatch.setenv("HOME", "")  # both are restored at the end
    monkeypatch.chdir(machines)
    enter_machine(machines, 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each rank: another number rounds differently
    label_and_train()
    torch.set_num_threads(threads)
    for name, tolerance in {"labels.pt": 2e-3, "updated.json": 2e-3, "dense.pt": 5e-3, "aligned.json": 2e-3}.items():
        one, several = read_labels(name), read_labels(results / name)
        assert one.paths == several.paths and len(one) == 11
        assert one.meta["skipped"] == several.meta["skipped"]
        assert torch.allclose(one.scores, several.scores, atol=tolerance), name
    assert [path for path, _ in read_labels(results / "labels.pt").meta["skipped"]] == ["05.jpg"]
    assert torch.allclose(read_labels(results / "again.pt").scores, read_labels(results / "dense.pt").scores, atol=1e-6)
    for name in ("model.pt", "probe.pt", "aligned.pt"):
        one, several = (load_checkpoint(folder / name).model.state_dict() for folder in (Path(), results))
        assert all(torch.allclose(one[key].float(), several[key].float(), atol=2e-3) for key in one), name
    losses = [[float(row["loss"]) for row in log_rows(folder / "aligned.pt")] for folder in (Path(), results)]
    assert len(losses[0]) == 2 and losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert not [file for rank in range(2) for file in (machines / f"machine-{rank}").glob("model.*update*")]


def refusals() -> dict[str, str]:
    """What ranks say if only one of them has a problem: name of the problem -> message of this rank."""
    rank, messages = int(os.environ["RANK"]), {}

    def attempt(name: str, run: Callable[[], object]) -> None:
        try:
            run()
        except InputError as error:
            messages[name] = str(error)

    label_photos(store="../common")
    encoded, embed_views = [], Teacher.embed_views
    Teacher.embed_views = lambda teacher, views: encoded.append(len(views)) or embed_views(teacher, views)
    label_photos(output="again.pt", store="../common")
    Teacher.embed_views = embed_views
    messages["encoded again"] = str(sum(encoded))
    attempt("separate", lambda: label_photos(output="a.pt", store="own"))
    Path("foreign").mkdir()
    if rank == 0:
        Path("foreign", "mine.txt").write_text("mine")
        Path("foreign", "lock").write_text("mine")
    attempt("foreign", lambda: label_photos(output="a.pt", store="foreign"))
    attempt("exists", label_photos)
    with locked(Path(".model.pt.lock"), "the model") if rank == 0 else nullcontext():
        attempt("locked", lambda: train_student("model.pt", "fixed", epochs=2))
    attempt("settings", lambda: train_student("model.pt", "fixed", epochs=2 + rank))
    attempt("at work", lambda: fail_on_rank_1(start_distributed("cpu")))
    shutil.copy("photos/00.jpg", "photos/20.jpg") if rank == 1 else None
    attempt("photos", lambda: label_photos(output="a.pt"))
    Path("photos/20.jpg").unlink(missing_ok=True)
    Path("photos/00.jpg").write_bytes(b"") if rank == 1 else None
    attempt("size", lambda: label_photos(output="a.pt"))
    return messages


def fail_on_rank_1(distributed: Distributed) -> None:
    with distributed.together():
        if distributed.rank == 1:
            raise OptionError("it cannot be")


def test_an_error_of_one_rank_ends_every_rank_with_the_same_message(machines):
    launch(2, "refusals", machines)
    names = sorted(file.name for file in (machines / "common").iterdir())
    assert names == ["mlclip-store.json", "photos.pt", "shard-000000-0.pt", "shard-000000-1.pt"]
    several = [read_labels(machines / "machine-0" / name) for name in ("labels.pt", "again.pt")]
    assert all(torch.allclose(labels.scores, several[0].scores, atol=2e-3) and len(labels) == 11 for labels in several)
    main, other = (json.loads((machines / f"machine-{rank}" / "result.json").read_text()) for rank in range(2))
    assert main == other and main["encoded again"] == "0"
    assert main["separate"].startswith("rank 1 does not see the store own of rank 0. All ranks need one folder")
    assert main["foreign"].startswith("foreign holds other files")
    assert main["exists"].startswith("labels.pt already exists")
    assert main["locked"].startswith("another mlclip process is writing model.pt")
    assert main["settings"].startswith("rank 1 and rank 0 differ in `epochs`")
    assert main["at work"] == "rank 1: it cannot be"
    assert main["photos"].startswith("rank 1 and rank 0 differ in the photo 20.jpg. Every rank needs the same photos")
    assert main["size"].startswith("rank 1 and rank 0 differ in the photo 00.jpg.")
    assert (machines / "machine-0" / "foreign" / "lock").read_text() == "mine"


def killed() -> None:
    """A job in which rank 1 is killed while it trains, and which then comes to an end."""
    if not Path("labels.pt").exists() and not restarted():
        label_photos()
    if int(os.environ["RANK"]) == 1 and not restarted():
        kill_at(loop, "weight_epoch", call=2)
    told = Told()
    train_student("model.pt", "fixed", told, epochs=2)
    Path("lines.txt").write_text("\n".join(told.lines))


def kill_at(owner: object, name: str, call: int) -> None:
    """Kill this process at the given call of a function."""
    function, calls = getattr(owner, name), []

    def counted(*args, **settings):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **settings)

    setattr(owner, name, counted)


def test_a_job_whose_rank_is_killed_continues_when_torchrun_restarts_it(machines):
    launch(2, "killed", machines, "--max-restarts", "1")
    results = machines / "machine-0"
    assert len(read_labels(results / "labels.pt")) == 11
    for rank in range(2):  # also the rank that has no resume file
        assert "continuing after epoch 1" in (machines / f"machine-{rank}" / "lines.txt").read_text()
    assert len(log_rows(results / "model.pt")) == 2 and not (results / "model.resume.pt").exists()


def end_without_stopping() -> None:
    """Write the names of the threads at the end. This runs after what is registered later."""
    file, tasks = Path("threads.txt").resolve(), Path("/proc/self/task")
    atexit.register(lambda: file.write_text(" ".join((task / "comm").read_text() for task in tasks.iterdir())))
    start_distributed("cpu").all_gather(torch.ones(1))
    import_module("torch.distributed.nn.functional")  # as training does; it may keep the group


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not list threads")
def test_no_thread_of_the_process_group_is_left_when_a_script_ends(tmp_path):
    for rank in range(2):
        (tmp_path / f"machine-{rank}").mkdir()
    launch(2, "end_without_stopping", tmp_path)
    left = [(tmp_path / f"machine-{rank}" / "threads.txt").read_text() for rank in range(2)]
    assert all(left) and not any("gloo" in names for names in left)


def test_a_photo_that_no_rank_has_is_an_error(photos, tmp_path, monkeypatch):
    found, key = find_images([photos]).photos, Key("embeddings", "0" * 64, "gelu", 64)
    monkeypatch.setattr(Store, "write_shard", lambda *_: None)
    wanted = [(tmp_path / "store", key)]
    with (
        pytest.raises(InputError, match=r"^12 of 12 photos are neither in the store .* nor skipped, such as 00\.jpg"),
        filled_stores(wanted, found, lambda pixels, _: [torch.zeros(len(pixels), 1, 4)], 64**2, 4, Runtime()),
    ):
        pass


def test_leftovers_of_killed_processes_are_deleted_and_do_not_make_a_folder_foreign(photos, tmp_path):
    folder, key = tmp_path / "store", Key("embeddings", "0" * 64, "gelu", 64)
    folder.mkdir()
    for name in (".token-0a", ".shard-000000-1.pt.0123abcd-77.tmp", ".photos.pt.tmp"):
        (folder / name).touch()
    with Store(folder, key).writing(1):
        assert {file.name for file in folder.iterdir()} == {"lock", "mlclip-store.json"}


def gpus(monkeypatch, count: int, **environment: int) -> list:
    """Pretend to have some GPUs, and to be a rank that torchrun started. Returns the devices that were set."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    return chosen


@pytest.mark.parametrize("device", ["cuda", "auto", "CUDA"])
def test_each_rank_of_a_machine_takes_a_gpu_of_its_own(device, monkeypatch):
    chosen = gpus(monkeypatch, 4, RANK=6, LOCAL_RANK=2, LOCAL_WORLD_SIZE=4)
    assert rank_device(device) == torch.device("cuda", 2) and chosen == [torch.device("cuda", 2)]


def test_one_gpu_for_all_ranks_of_a_machine_is_refused_and_one_rank_may_name_its_gpu(monkeypatch):
    gpus(monkeypatch, 4, RANK=1, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2)
    with pytest.raises(InputError, match=r'^`device="cuda:0"` would put all 2 processes of this machine on one GPU'):
        rank_device("cuda:0")
    assert rank_device("cpu") == torch.device("cpu")
    chosen = gpus(monkeypatch, 4, RANK=1, LOCAL_RANK=0, LOCAL_WORLD_SIZE=1)
    assert rank_device("cuda:3") == torch.device("cuda", 3) and chosen == [torch.device("cuda", 3)]


@pytest.mark.parametrize(("launcher", "status"), [({"TORCHELASTIC_RUN_ID": "job"}, 0), ({}, 3)])
def test_a_finished_job_with_skipped_photos_is_not_started_again(launcher, status):
    code = "from mlclip import cli; cli._status = lambda _: 3; cli.main([])"
    assert subprocess.run([sys.executable, "-c", code], env=ENV | launcher).returncode == status


def test_on_gpus_the_batch_norm_of_torch_is_used_with_the_same_weights():
    model, images = Classifier("resnet18", CLASSES, 64), torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    before, logits = {k: v.clone() for k, v in model.state_dict().items()}, model.eval()(images)
    sync_batch_norm(model, Distributed(0, 2, torch.device("cuda")))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(module, torch.nn.SyncBatchNorm) for module in norms)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.eval()(images), logits)


def test_on_gpus_an_empty_batch_in_half_precision_is_normalised_in_float32(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.nn.SyncBatchNorm, "forward", lambda _, features: seen.append(features.dtype))
    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    sync_batch_norm(norm, Distributed(0, 2, torch.device("cuda")))
    for photos in (0, 3):
        norm(torch.zeros(photos, 4, 2, 2, dtype=torch.bfloat16))
    assert seen == [torch.float32, torch.bfloat16]


def test_the_batch_norm_of_one_process_does_not_change():
    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    sync_batch_norm(norm, Distributed())
    assert type(norm[0]) is torch.nn.BatchNorm2d


if __name__ == "__main__":
    task, base = globals()[sys.argv[1]], Path(sys.argv[2])
    enter_machine(base, int(os.environ["RANK"]))
    Path("result.json").write_text(json.dumps(task()))
