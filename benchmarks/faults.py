"""Damaged files for every reader: each file must be read, or refused with InputError or Unreadable, in bounded memory.

    python benchmarks/faults.py --seconds 300
    python benchmarks/faults.py --only model.pt labels.csv --seconds 60 --seed 7

For each kind of file the script writes a valid one, changes it at random, and reads it. Changes are flipped bits, cut,
repeated, removed or zeroed parts, huge numbers, and other words. In a zip file the changes are made in the file, or inside
its entries, which then get a right checksum; in a tar file also in its headers. A case fails if another exception comes
out, if it takes longer than SLOW seconds, or if the memory of the process grows by more than FLOOR + GROWTH times the file's
size. Pictures have the limit of PICTURE bytes, because
their readers bound the number of pixels. Each kind runs in a process of its own. The table says how many files were
refused, how many were read, the largest growth of memory, and the longest time. The exit status is 1 if a case failed.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import random
import re
import resource
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fault_files
import numpy as np
import torch
from fault_files import CLASSES, REFUSED, Reader, text
from PIL import Image, features

from mlclip.clip import load_clip, read_state_dict
from mlclip.config import TrainConfig
from mlclip.files import load_plain, save_plain
from mlclip.images import open_image
from mlclip.images.list_file import read_paths
from mlclip.labels.class_names import fill_template, parse_classes
from mlclip.labels.table import Labels, read_labels, write_labels
from mlclip.labels.thresholds import read_thresholds, write_thresholds
from mlclip.student.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mlclip.student.model import Classifier
from mlclip.student.onnx_model import load_onnx
from mlclip.teacher.store import MANIFEST, Key, Store
from mlclip.training.start import start_training
from mlclip.training.state import identity_of

FLOOR, GROWTH = 64 << 20, 40  # bytes; times the size of the file
PICTURE = 2 << 30  # bytes: a picture may have MAX_PIXELS pixels, in RGB, RGBA and as read
ADDRESS_SPACE = 8 << 30  # bytes above what the process has at the start; a safety net
SLOW = 10.0  # seconds for one file
LONGEST_MESSAGE = 3000  # characters; some readers report what several of them say
LONG = 1 << 16  # bytes of the longest run of one repeated part
WORD = re.compile(rb"[\w.+-]+")
WORDS = (
    b"1e999",
    b"9" * 5000,
    b"9" * 400,
    b"-1",
    b"0",
    b"NaN",
    b"inf",
    b"null",
    b"true",
    b"[" * 5000,
    b'{"a":' * 2000,
    b"[]",
)
WORDS += (
    b'{"a":1}',
    b'""',
    b"\xff\xfe",
    b"\\ud800",
    b"\\u0000",
    b"\\n",
    b"\n",
    b"../..",
    b"/",
    b"0x" + b"f" * 5000,
    b"&#1;",
)
FAILURES_SHOWN = 3
HAS_ONNX = bool(find_spec("onnx") and find_spec("onnxruntime"))
KEY = Key("embeddings", "0" * 64, "quick_gelu", 64, (1, 2))


@dataclass
class Result:
    """What happened to the files of one kind."""

    cases: int = 0
    refused: int = 0
    growth: int = 0  # bytes, the largest
    slowest: float = 0.0  # seconds
    failures: list[str] = field(default_factory=list)


# Valid files


def _labels(count: int = 6) -> Labels:
    scores = torch.rand(count, len(CLASSES), generator=torch.Generator().manual_seed(0))
    meta = {
        "clip": {"name": "tiny", "sha256": "0" * 64, "logit_scale": 100.0},
        "prompts": CLASSES,
        "thresholds": [0.5] * 3,
    }
    return Labels([f"p{i}.jpg" for i in range(count)], CLASSES, scores, root="photos", meta=meta)


def _state(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {f"layer{i}.weight": torch.rand(4 + i, 3, generator=draw) for i in range(4)}


def _script_archive(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but OpenAI's files are its archives
        module = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5)).eval()
        torch.jit.trace(module, torch.rand(2, 4)).save(str(path))


def _safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(_state(), path)


def _model(path: Path) -> None:
    torch.manual_seed(0)
    save_checkpoint(Checkpoint(Classifier("mobilenet_v3_small", CLASSES, 64), torch.full((3,), 0.5), {}), path)


SMALL = TrainConfig(arch="mobilenet_v3_small", init="none", size=64, epochs=2, batch_size=2)


def _training_folder(path: Path) -> Labels:
    """Labels whose photos exist beside `path`."""
    labels = _labels()
    labels.root = str(path.parent / "photos")
    Path(labels.root).mkdir(exist_ok=True)
    for name in labels.paths:
        Image.new("RGB", (8, 8)).save(Path(labels.root) / name)
    return labels


def _resume(path: Path) -> None:
    from mlclip.distributed import Runtime
    from mlclip.training.state import save_state

    state = start_training(_training_folder(path), SMALL, Runtime(), offline=True)
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    save_state(state, path)


def _read_resume(path: Path) -> None:
    from mlclip.distributed import Runtime

    labels = _labels()
    labels.root = str(path.parent / "photos")
    assert identity_of(labels, SMALL)
    start_training(labels, SMALL, Runtime(), offline=True, resume_from=path)


def _shard(path: Path) -> None:
    content = {
        "format": "mlclip.embeddings",
        "version": 1,
        "content": torch.zeros(5, 16, dtype=torch.uint8),
        "bytes": [1] * 5,
        "embeddings": torch.rand(5, 5, 8).half(),
    }
    save_plain(content, path)


def _read_shard(path: Path) -> None:
    for mmap in (True, False):
        load_plain(path, kind="embeddings", made_by="mlclip pseudolabel", mmap=mmap)


def _manifest(path: Path) -> None:
    Store(path.parent / "made", KEY).write_manifest(complete=True)
    path.write_bytes((path.parent / "made" / MANIFEST).read_bytes())


def _read_manifest(path: Path) -> None:
    (path.parent / "store").mkdir(exist_ok=True)
    (path.parent / "store" / MANIFEST).write_bytes(path.read_bytes())
    Store(path.parent / "store", KEY)


def _onnx(path: Path) -> None:
    """A network that is not trained, with the operations of a real one."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["floats", "w"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 3, 32, 32])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "student", [pixels], [scores], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    entries = {"format": "mlclip.onnx", "version": "1", "classes": json.dumps(CLASSES)}
    for key, value in (entries | {"thresholds": "[0.5, 0.5, 0.5]", "size": "32"}).items():
        model.metadata_props.add(key=key, value=value)
    save(model, str(path))


def _read_onnx(path: Path) -> None:
    load_onnx(path).scores(np.zeros((2, 3, 32, 32), np.uint8))


def _template(path: Path) -> None:
    path.write_text("a photo of a {}.")


def _picture(kind: str, **options: Any) -> Reader:
    def make(path: Path) -> None:
        noise = random.Random(0).randbytes(48 * 40 * 3)
        Image.frombytes("RGB", (48, 40), noise).save(path, format=kind, **options)

    return Reader(make, open_image, is_picture=True)


READERS: dict[str, Reader] = {
    "archive.pt": Reader(_script_archive, read_state_dict),
    "state.pt": Reader(lambda path: torch.save({"state_dict": _state()}, path), read_state_dict),
    "old_state.pt": Reader(
        lambda path: torch.save(_state(), path, _use_new_zipfile_serialization=False), read_state_dict
    ),
    "clip.pt": Reader(lambda path: torch.save(_state(), path), load_clip),
    "weights.safetensors": Reader(_safetensors, read_state_dict),
    "labels.pt": Reader(lambda path: write_labels(_labels(), path), lambda path: read_labels(path).above_threshold()),
    "model.pt": Reader(_model, load_checkpoint),
    "model.resume.pt": Reader(_resume, _read_resume),
    "shard.pt": Reader(_shard, _read_shard),
    MANIFEST: Reader(_manifest, _read_manifest),
    "labels.csv": Reader(lambda path: write_labels(_labels(), path), read_labels),
    "labels.json": Reader(lambda path: write_labels(_labels(), path), lambda path: read_labels(path).above_threshold()),
    "labels.jsonl": Reader(lambda path: write_labels(_labels(), path), read_labels),
    "thresholds.csv": Reader(
        lambda path: write_thresholds(path, CLASSES, [0.1, 0.2, 0.3]),
        lambda path: read_thresholds(path, CLASSES, [0.5] * 3),
    ),
    "thresholds.json": Reader(
        lambda path: write_thresholds(path, CLASSES, [0.1, 0.2, 0.3]),
        lambda path: read_thresholds(path, CLASSES, [0.5] * 3),
    ),
    "classes.txt": Reader(text("cat\ndog = a small dog\n# comment\nbird\n"), parse_classes),
    "template.txt": Reader(_template, lambda path: fill_template(path.read_text(errors="replace"), "cat")),
    "list.txt": Reader(text("a.jpg\nb/c.jpg\n"), lambda path: read_paths(str(path))),
    **({"model.onnx": Reader(_onnx, _read_onnx)} if HAS_ONNX else {}),
    "photo.jpg": _picture("JPEG"),
    "progressive.jpg": _picture("JPEG", progressive=True),
    "photo.png": _picture("PNG"),
    "photo.bmp": _picture("BMP"),
    "photo.gif": _picture("GIF"),
    "photo.tif": _picture("TIFF", compression="tiff_lzw"),
    "photo.ppm": _picture("PPM"),
    **({"photo.webp": _picture("WEBP")} if features.check("webp") else {}),
    **({"photo.avif": _picture("AVIF")} if ".avif" in Image.registered_extensions() else {}),
    **fault_files.READERS,
}


# Changes


def _place(data: bytes, rng: random.Random) -> tuple[int, int]:
    """The start and end of a part of the data, often a short one."""
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 4, 16, 256, 1 + len(data) // 4)))


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = _place(data, rng)
    times = (1, 2, 50, LONG // (end - start) if end - start <= 16 else 1)
    return data[:end] + data[start:end] * rng.choice(times) + data[end:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start, end = _place(data, rng)
    return data[:start] + data[end:]


def _zero(data: bytes, rng: random.Random) -> bytes:
    start, end = _place(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


def _huge(data: bytes, rng: random.Random) -> bytes:
    """A huge, negative or zero number in place of some bytes; in text also as digits, and brackets."""
    number = rng.choice((0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 20000, 10**9, 2**62))
    layout = rng.choice(["<B", "<H", ">H", "<I", ">I", "<Q", ">Q"])
    binary = struct.pack(layout, number % 256 ** struct.calcsize(layout))
    new = rng.choice((binary, binary, rng.choice(WORDS)))
    start = rng.randrange(len(data))
    return data[:start] + new + data[start + (len(new) if rng.random() < 0.7 else 0) :]


def _word(data: bytes, rng: random.Random) -> bytes:
    """Another word in place of a whole one: an odd one, or one from another place of the file. A text keeps its structure."""
    found = WORD.search(data, rng.randrange(len(data))) or WORD.search(data)
    other = WORD.search(data, rng.randrange(len(data)))
    if found is None:
        return _huge(data, rng)
    new = other[0] if other and rng.random() < 0.3 else rng.choice(WORDS)
    return data[: found.start()] + new + data[found.end() :]


CHANGES = (_flip, _cut, _repeat, _remove, _zero, _huge, _huge, _word, _word, _word)


def _changed_inside(data: bytes, rng: random.Random) -> bytes:
    """A zip file with a change in one entry, most often the pickle, under a right checksum; sometimes compressed."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    pickles = [name for name in entries if name.endswith(".pkl")]
    name = rng.choice(pickles if rng.random() < 0.8 else list(entries))
    entries[name] = rng.choice(CHANGES)(entries[name] or b"\0", rng)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED) as new:
        for name, content in entries.items():
            new.writestr(name, content)
    return target.getvalue()


def _changed_header(data: bytes, rng: random.Random) -> bytes:
    """A tar file with a change in one header of a member, or in the block behind it, under a right checksum."""
    headers = [at for at in range(0, len(data) - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE) if _is_tar(data[at:])]
    start = rng.choice(headers)
    middle, end = start + tarfile.BLOCKSIZE, start + 2 * tarfile.BLOCKSIZE
    if rng.random() < 0.3:
        return data[:middle] + _same_length(data[middle:end], rng) + data[end:]
    header = _same_length(data[start:middle], rng)
    header = header[:148] + b" " * 8 + header[156:]
    return data[:start] + header[:148] + b"%06o\0 " % sum(header) + header[156:] + data[middle:]


def _same_length(data: bytes, rng: random.Random) -> bytes:
    return rng.choice(CHANGES)(data, rng)[: len(data)].ljust(len(data), b"\0")


def _is_tar(data: bytes) -> bool:
    return data[257:262] == b"ustar"


def changed(data: bytes, rng: random.Random) -> bytes:
    """The file with one random change, or with a few."""
    for _ in range(rng.choice((1, 1, 1, 3))):
        deeper = _changed_inside if data.startswith(b"PK") else _changed_header if _is_tar(data) else None
        change = deeper if deeper and rng.random() < 0.7 else rng.choice(CHANGES)
        try:
            data = change(data, rng) or b"\0"
        except Exception:  # zipfile and zlib may raise anything
            data = _flip(data, rng)  # the zip is already too damaged to change its entries
    return data


# Running


def _status(field_name: str) -> int:
    """A line of Linux's /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field_name}:"))


def _give_back_freed_memory() -> None:
    """Return the memory that this process has freed to the system, with glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def growth_of(action: Callable[[], Any]) -> tuple[int, BaseException | None]:
    """By how many bytes the memory of the process grows at most during `action`, and the exception it raises.

    Linux gives the exact peak. On other systems only a growth above every earlier one is seen.
    """
    exact, error = Path("/proc/self/clear_refs").exists(), None
    if exact:
        _give_back_freed_memory()  # else `action` can use it, and nothing grows
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS") if exact else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        action()
    except Exception as caught:
        error = caught
    after = _status("VmHWM") if exact else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(0, after - before), error


def check(name: str, folder: Path, *, seed: int, seconds: float = 0.0, cases: int = 0) -> Result:
    """Read changed files of one kind, for some seconds or a number of cases."""
    reader, rng, result = READERS[name], random.Random(f"{seed} {name}"), Result()
    path = folder / name
    reader.make(path)
    valid = path.read_bytes()
    try:
        reader.read(path)
    except REFUSED as error:
        if name != "clip.pt":  # which is a state dict, but not of a CLIP
            raise AssertionError(f"the valid {name} is refused: {error}") from error
    end = time.monotonic() + seconds
    while result.cases < cases or (not cases and time.monotonic() < end):
        data = changed(valid, rng)
        path.write_bytes(data)
        started = time.monotonic()
        growth, error = growth_of(lambda: reader.read(path))
        took = time.monotonic() - started
        result.cases += 1
        result.refused += isinstance(error, REFUSED)
        result.growth, result.slowest = max(result.growth, growth), max(result.slowest, took)
        limit = PICTURE if reader.is_picture else FLOOR + GROWTH * len(data)
        problem = _problem(error, growth > limit, took > SLOW)
        if problem:
            result.failures.append(f"{name}, case {result.cases} of seed {seed}: {problem}")
    return result


def _problem(error: BaseException | None, too_much: bool, too_long: bool) -> str:
    problems = ["too much memory"] * too_much + ["too slow"] * too_long
    if error and not isinstance(error, REFUSED):
        place = traceback.extract_tb(error.__traceback__)[-1]
        problems.append(f"{type(error).__name__}: {str(error)[:100]!r} at {Path(place.filename).name}:{place.lineno}")
    if isinstance(error, REFUSED) and ("\n" in str(error) or "allocate" in str(error)):
        problems.append(f"a message of several lines or about memory: {str(error)[:100]!r}")
    if isinstance(error, REFUSED) and len(str(error)) > LONGEST_MESSAGE:
        problems.append(f"a message of {len(str(error))} characters: {str(error)[:100]!r}")
    return ", ".join(problems)


def _child(name: str, seed: int, seconds: float) -> None:
    """Check one kind in this process and print the result as JSON."""
    torch.set_num_threads(1)
    if Path("/proc/self/status").exists():
        limit = _status("VmSize") + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(check(name, Path(folder), seed=seed, seconds=seconds))))


def _in_child(name: str, seed: int, seconds: float) -> Result:
    command = [sys.executable, __file__, "--child", name, "--seed", str(seed), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * seconds + 120)
    if done.returncode:
        return Result(failures=[f"{name}: the process ended with {done.returncode}: {done.stderr.strip()[-300:]}"])
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="for all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", choices=READERS, default=list(READERS), metavar="KIND", help="default: all"
    )
    parser.add_argument("--child", choices=READERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.child, options.seed, options.seconds)
        return 0
    failures = []
    print(f"{'kind':22} {'files':>7} {'refused':>8} {'read':>7} {'MB more':>8} {'slowest':>8} {'failed':>7}")
    for name in options.only:
        found = _in_child(name, options.seed, options.seconds / len(options.only))
        failures += found.failures
        print(
            f"{name:22} {found.cases:7} {found.refused:8} {found.cases - found.refused:7} {found.growth / 1e6:8.1f} "
            f"{found.slowest:7.2f}s {len(found.failures):7}",
            flush=True,
        )
        for line in found.failures[:FAILURES_SHOWN]:
            print(f"  {line}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
