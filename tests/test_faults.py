"""Bad inputs through the command line: what is skipped with status 3, what is refused in one line, and what is used."""

from __future__ import annotations

import csv
import io
import os
import socket
import struct
import sys
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from weight_files import Malicious

from mlclip import cli, images
from mlclip.files import locked
from mlclip.labels.table import Labels, read_labels, write_labels
from mlclip.student import predict
from mlclip.teacher import pseudolabel
from mlclip.training import start

CLASSES = ["red", "green", "blue"]


# Photos


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def scene(width: int = 96, height: int = 64) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def turned(orientation: int) -> bytes:
    """The scene as a camera stores it that was held in another way: turned pixels, and how to turn them back."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    image = scene() if orientation == 1 else scene().transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "PNG", exif=exif)


def huge_header() -> bytes:
    """A PNG whose header says 20,000 × 20,000 pixels."""
    small = encoded(Image.new("RGB", (9, 9)), "PNG")
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


JPEG, PNG = encoded(scene(), "JPEG", quality=95), encoded(scene(), "PNG")
GREY = scene().convert("L")
FLOATS = Image.fromarray(np.asarray(GREY, np.float32) * 1000)
SKIPPED = {  # file name: content, and a word of the reason
    "01.jpg": (b"", "empty file"),
    "02.jpg": (b"<html>404</html>", "looks like HTML"),
    "02b.jpg": (b'{"error": 1}', "looks like JSON"),
    "03.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    "04.jpg": (JPEG[: len(JPEG) // 2], "damaged or cut short"),
    "05.png": (PNG[: len(PNG) // 2], "damaged or cut short"),
    "06.jpg": (JPEG[: len(JPEG) // 2] + JPEG[:400] + JPEG[len(JPEG) // 2 + 400 :], "damaged"),
    "07.png": (PNG[:200] + bytes([PNG[200] ^ 1]) + PNG[201:], "wrong checksum"),
    "10.tif": (encoded(FLOATS, "TIFF"), "float pixels from"),
    "17.png": (huge_header(), "too large"),
    "18.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "looks like PostScript"),
    "18b.jpg": (b"%PDF-1.4\n", "looks like PDF"),
    "19.heic": (b"\0\0\0\x18ftypheic" + bytes(400), "pillow-heif"),
    "20-one.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), "one colour"),
}
GIF = [scene(), scene().rotate(90)]
TRANSPARENT = scene().convert("RGBA")
TRANSPARENT.paste((255, 0, 0, 0), (0, 0, 20, 40))
WHITE = scene()
WHITE.paste("white", (0, 0, 20, 40))
USED = {
    "08.png": PNG[:-12],
    "09-deep.png": encoded(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "PNG"),
    "09-flat.png": encoded(GREY, "PNG"),
    "11.jpg": encoded(scene().convert("CMYK"), "JPEG"),
    "12.png": encoded(TRANSPARENT, "PNG"),
    "12-white.png": encoded(WHITE, "PNG"),
    "13.gif": encoded(GREY.quantize(8), "GIF", transparency=0),
    "14.gif": encoded(GIF[0], "GIF", save_all=True, append_images=GIF[1:]),
    "16.jpg": JPEG[:2] + b"\xff\xe1\x00\x10Exif\0\0" + b"\xff" * 8 + JPEG[2:],
    "20.png": encoded(scene().resize((1, 2)), "PNG"),
    "20-wide.png": encoded(scene().resize((5000, 1)), "PNG"),
    "20-high.png": encoded(scene().resize((2, 5000)), "PNG"),
    "21.JPG": JPEG,
    "21.JpG": JPEG,
    "21.jpeg": JPEG,
    "21.tiff": encoded(scene(), "TIFF"),
    "21.bmp": encoded(scene(), "BMP"),
    "21.webp": encoded(scene(), "WEBP"),
    "22.jpg": PNG,
    "28/a/1.jpg": JPEG,
    "28/b/1.jpg": PNG,
    "29 a, 'b' \"c\".jpg": JPEG,
    "29\nline.jpg": JPEG,
    "-29.jpg": JPEG,
    "29 😀.jpg": JPEG,
    os.fsdecode(b"29\xff.jpg"): JPEG,
    **{f"15-{number}.png": turned(number) for number in range(1, 9)},
}


def test_bad_photos_are_skipped_with_a_reason_and_unusual_ones_are_used(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    folder = tmp_path / "p"
    for name, data in {**{name: data for name, (data, _) in SKIPPED.items()}, **USED}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "30-broken.jpg").symlink_to("nowhere")
    (folder / "30-loop").symlink_to(folder)
    os.mkfifo(folder / "30-pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(folder)  # the path of a socket must be short
        listener.bind("30-socket.jpg")
        monkeypatch.chdir(tmp_path)
        status, out, err = command("pseudolabel p --clip CLIP --classes red,green,blue --method cdul")
    assert (status, out) == (3, "") and "frames or pages: 1, such as 14.gif" in err
    with open("labels.skipped.csv", newline="", encoding="utf-8") as file:
        skipped = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    labels = read_labels("labels.pt")
    assert set(skipped) == {*SKIPPED, "30-broken.jpg", "30-pipe.jpg", "30-socket.jpg"}
    assert set(labels.paths) == set(USED)
    assert {name: reason for name, reason in skipped.items() if SKIPPED.get(name, ("", ""))[1] not in reason} == {}
    reasons = [skipped[f"30-{name}.jpg"] for name in ("broken", "pipe", "socket")]
    assert reasons == ["a broken link", *["a named pipe or a device, not a file"] * 2]
    row = dict(zip(labels.paths, labels.scores, strict=True))
    same = [["09-deep.png", "09-flat.png"], ["12.png", "12-white.png"], ["08.png", "22.jpg", "28/b/1.jpg"]]
    same += [[f"15-{number}.png" for number in range(1, 9)], ["21.JPG", "21.JpG", "16.jpg"]]
    assert all(torch.allclose(row[name], row[names[0]], atol=1e-3) for names in same for name in names)


@pytest.mark.parametrize("sources", [["p"], ["p/00.jpg", "p/01.jpg"]])
def test_if_no_photo_can_be_read_nothing_is_written(command, tmp_path, sources):
    (tmp_path / "p").mkdir()
    for name in ("00.jpg", "01.jpg"):
        (tmp_path / "p" / name).write_bytes(b"<html>")
    status, _, err = command("pseudolabel", *sources, "--clip", "CLIP", "--classes", "red,green")
    assert status == 1 and "0 of 2 photos" in err and os.listdir(tmp_path) == ["p"]


def test_photos_that_vanish_after_they_were_listed_are_skipped(command, photos, model_file, monkeypatch):
    def vanish(find):
        def listed(*arguments):
            found = find(*arguments)
            (photos / "03.jpg").unlink(missing_ok=True)
            return found

        return listed

    picture = (photos / "03.jpg").read_bytes()
    for module in (predict, pseudolabel):
        monkeypatch.setattr(module, "find_images", vanish(images.find_images))
    monkeypatch.setattr(start, "labelled_photos", vanish(start.labelled_photos))
    commands = [
        ["pseudolabel", "photos", "--clip", "CLIP", "--classes", "red,green,blue"],
        ["train --arch mobilenet_v3_small --init none --size 64 --epochs 1 --batch-size 12"],
        ["predict", "photos", "--model", model_file, "--format", "csv"],
        ["predict", "photos", "--model", model_file, "--format", "csv", "--heatmaps", "maps"],
        ["calibrate", "photos", "--model", model_file, "--truth", "truth.csv"],
    ]
    Path("truth.csv").write_text("path,red\n00.jpg,1\n03.jpg,1\n05.jpg,0\n")
    for arguments in commands:
        if arguments[0].startswith("train"):
            scores = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
            table = Labels([f"{n:02d}.jpg" for n in range(12)], CLASSES, scores, str(photos))
            write_labels(table, "labels.pt", overwrite=True)
        (photos / "03.jpg").write_bytes(picture)
        status, out, err = command(*arguments)
        assert status == 3 and "03.jpg: the file no longer exists" in err, (arguments, err)
        assert "03.jpg" not in out
    assert len(os.listdir("maps")) == 11


# Classes and prompts


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", "empty.txt"], "empty.txt"),
        (["--classes", "cat," + "very " * 80 + "long"], "tokens"),
        (["--classes", "cat,dog", "--template", "a photo"], "{}"),
        (["--classes", "binary.txt"], "binary.txt"),
    ],
)
def test_unusable_classes_and_prompts_are_refused_in_one_line(command, photos, tmp_path, options, words):
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    before = set(os.listdir(tmp_path))
    status, out, err = command("pseudolabel", "photos", "--clip", "CLIP", *options)
    assert (status, out) == (1, "") and words in err.splitlines()[-1] and err.splitlines()[-1].startswith("mlclip: ")
    assert set(os.listdir(tmp_path)) == before


def test_true_labels_with_other_classes_are_refused_with_the_difference(command, photos, model_file, tmp_path):
    (tmp_path / "t.csv").write_text("path,cat,dog,cow\n" + "".join(f"{n:02d}.jpg,1,0,1\n" for n in range(12)))
    status, _, err = command("calibrate", "photos", "--model", model_file, "--truth", "t.csv")
    assert status == 1 and "cat, dog, cow" in err and "red, green, blue" in err
    scores = Labels([f"{n:02d}.jpg" for n in range(12)], CLASSES, torch.rand(12, 3))
    write_labels(scores, "l.pt")
    status, _, err = command("evaluate", "--labels", "l.pt", "--truth", "t.csv")
    assert status == 1 and "cat, dog, cow" in err and "red, green, blue" in err


# Files


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "photos", "--model", "bad.pt"],
        ["train", "--labels", "bad.pt"],
        ["report", "--labels", "bad.pt"],
        ["evaluate", "--labels", "bad.pt", "--truth", "bad.pt"],
        ["pseudolabel", "photos", "--clip", "bad.pt", "--classes", "a,b"],
        ["export", "--model", "bad.pt", "-o", "t.csv"],
        ["calibrate", "photos", "--model", "bad.pt", "--truth", "t.csv"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_malicious_cut_and_empty_files_are_refused_by_every_command(command, photos, tmp_path, model_file, arguments):
    (tmp_path / "t.csv").write_text("path,red\n00.jpg,1\n")
    arguments = ["t2.csv" if word == "t.csv" and arguments[0] == "export" else word for word in arguments]
    stream = io.BytesIO()
    torch.save({"format": "mlclip.model", "x": Malicious("ran")}, stream)
    for data in (stream.getvalue(), model_file.read_bytes()[:9999], b""):
        (tmp_path / "bad.pt").write_bytes(data)
        status, out, err = command(*arguments)
        assert (status, out) == (1, "") and "bad.pt" in err.splitlines()[-1]
        assert sorted(os.listdir(tmp_path)) == ["bad.pt", "photos", "t.csv"]


def test_outputs_whose_names_differ_after_a_dot_have_separate_companions(command, photos):
    (photos / "03.jpg").write_bytes(b"")
    for name in ("lr1.5.pt", "lr1.6.pt"):
        assert command("pseudolabel", "photos", "--clip", "CLIP", "--classes", "red,green", "-o", name)[0] == 3
    assert {name for name in os.listdir() if "skipped" in name} == {"lr1.5.skipped.csv", "lr1.6.skipped.csv"}


# Running


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "the GPU is out of memory. Lower --batch-size or --workers, or"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "this machine is out of memory. Lower --batch-size",
        ),
        (MemoryError(), "this machine is out of memory. Lower --batch-size"),
        (OSError(28, "No space left on device", "/x/y.pt"), "/x/y.pt: No space left on device"),
    ],
)
def test_too_little_memory_or_space_is_one_line_with_the_options_to_lower(command, monkeypatch, error, words):
    monkeypatch.setattr(cli.predict, "invoke", Mock(side_effect=error))
    status, _, err = command("predict", "photos")
    assert status == 1 and err.startswith(f"mlclip: {words}") and len(err.splitlines()) == 1
    assert "Lower batch_size (--set batch_size=16) or --workers" in cli.explain(MemoryError(), cli.pseudolabel)


def test_other_errors_of_the_program_are_not_hidden(command, monkeypatch):
    for error in (RuntimeError("a bug"), OSError(22, "Invalid argument")):
        monkeypatch.setattr(cli.predict, "invoke", Mock(side_effect=error))
        with pytest.raises(type(error)):
            command("predict", "photos")


@pytest.mark.parametrize("lock", ["store", "model"])
def test_a_second_run_at_the_same_output_is_refused(command, photos, tmp_path, lock):
    if lock == "store":
        arguments = ["pseudolabel", "photos", "--clip", "CLIP", "--classes", "red,green", "--store", "s"]
        file = tmp_path / "s" / "lock"
    else:
        write_labels(Labels(["00.jpg"], CLASSES, torch.rand(1, 3), str(photos)), "labels.pt")
        arguments, file = ["train", "--arch", "mobilenet_v3_small", "--init", "none"], tmp_path / ".model.pt.lock"
    with locked(file, "it"):
        before = sorted(os.listdir(tmp_path))
        status, _, err = command(*arguments)
        assert status == 1 and f"another mlclip process is {'using' if lock == 'store' else 'writing'}" in err
        assert sorted(os.listdir(tmp_path)) == before
