"""Damaged files of each kind that mlclip reads: each is read, or refused in one line. The damage is random, from a fixed seed."""

from __future__ import annotations

import io
import json
import random
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_onnx import write_small_onnx

import mlclip
from mlclip.cli import _status
from mlclip.labels.class_names import CLASS_PRESETS

CASES = 8  # damaged files of each kind
CLASSES = ["cat", "dog", "bird"]
WORD = re.compile(rb"[\w.+-]+")
WORDS = (b"1e999", b"9" * 5000, b"-1", b"NaN", b"null", b"[" * 5000, b"[]", b'{"a":1}', b"\xff\xfe", b"\\n", b"../..")


VOC_XML = """<annotation><filename>00.jpg</filename><object><name>cat</name><difficult>0</difficult></object>
<object><name>dog</name><difficult>1</difficult></object></annotation>"""
OTHER_XML = "<annotation><filename>01.jpg</filename><object><name>dog</name></object></annotation>"
COCO = {
    "images": [{"id": 1, "file_name": "00.jpg"}, {"id": 2, "file_name": "01.jpg"}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [{"id": n, "image_id": n, "category_id": n, "bbox": [1, 2, 3, 4], "iscrowd": 0} for n in (1, 2)],
}
SETTINGS = '[train]\nepochs = 2\nlr = 1e-3\narch = "resnet18"\nresume = true\n[pseudolabel]\ngrids = [1, 2]\n'
TEXTS = {  # files of text, and the command that reads each; commands print one line for a file that they refuse
    "semicolons.csv": ("path;cat;dog\n00.jpg;0,5;1\n01.jpg;0,25;\n", "evaluate --labels FILE --truth truth.csv"),
    "names.csv": ("path,labels\n00.jpg,cat;dog\n01.jpg,\n", "evaluate --labels labels.pt --truth FILE"),
    "corrections.csv": ("path,class,value\n00.jpg,cat,1\n", "review --labels labels.pt --corrections FILE"),
    "thresholds.csv": ("class,threshold\ncat,0.1\ndog,0.2\nbird,0.3\n", "predict photos --model model.pt --threshold FILE"),
    "tree.txt": ("animal > dog = a small dog\nday\nnight\nexclusive: day, night\n", "pseudolabel photos --clip tiny --classes FILE"),
    "classes.json": ('{"cat": "a cat", "d=g": "a dog"}', "pseudolabel photos --clip tiny --classes FILE"),
    "list.txt": ("photos/00.jpg\nphotos/01.jpg\n", "predict @FILE --model model.pt"),
    "column.csv": ("file,n\nphotos/00.jpg,1\nphotos/01.jpg,2\n", "predict @FILE:file --model model.pt"),
    "settings.toml": (SETTINGS, "train --labels labels.pt --config FILE --set help"),
    "coco.json": (json.dumps(COCO), "evaluate --labels labels.pt --truth coco:FILE"),
    "voc/Annotations/00.xml": (VOC_XML, "evaluate --labels labels.pt --truth voc:voc"),
    "voc/Annotations/01.xml": (OTHER_XML, "evaluate --labels labels.pt --truth voc:voc"),
    "nus/ImageList/Imagelist.txt": ("00.jpg\n01.jpg\n", "evaluate --labels labels.pt --truth nuswide:nus"),
}  # fmt: skip
MADE = {  # files that mlclip writes, by the command that reads each
    "labels.pt": "evaluate --labels FILE --truth truth.csv",
    "labels.csv": "evaluate --labels FILE --truth truth.csv",
    "labels.json": "evaluate --labels FILE --truth truth.csv",
    "labels.jsonl": "evaluate --labels FILE --truth truth.csv",
    "tasks.json": "evaluate --labels label-studio:FILE --truth truth.csv",
    "model.pt": "predict photos --model FILE",
    "model.safetensors": "predict photos --model FILE",
    "model.onnx": "predict photos --model FILE",
    "clip.pt": "pseudolabel photos --clip FILE --classes cat,dog --method cdul",
    "shards.tar": "predict FILE --model model.pt",
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    """A folder with a valid file of each kind."""
    folder = tmp_path_factory.mktemp("valid")
    (folder / "photos").mkdir()
    for number in range(4):
        Image.frombytes("RGB", (48, 40), random.Random(number).randbytes(5760)).save(
            folder / f"photos/{number:02d}.jpg"
        )
    scores = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    labels = mlclip.Labels([f"{n:02d}.jpg" for n in range(4)], CLASSES, scores, root=str(folder / "photos"))
    for name in ("labels.pt", "labels.csv", "labels.json", "labels.jsonl"):
        mlclip.write_labels(labels, folder / name)
    (folder / "truth.csv").write_text("path,cat,dog,bird\n00.jpg,1,0,0\n01.jpg,0,1,0\n02.jpg,0,1,1\n")
    student = {"arch": "mobilenet_v3_small", "init": "none", "size": 64, "epochs": 1, "batch_size": 4}
    mlclip.train(labels, folder / "model.pt", progress=mlclip.SILENT, device="cpu", **student)
    write_small_onnx(folder / "model.onnx", CLASSES)
    assert _status(f"export --model {folder}/model.pt -o {folder}/model.safetensors".split()) == 0
    assert _status(f"export --to label-studio --labels {folder}/labels.pt -o {folder}/tasks.json".split()) == 0
    torch.save(mlclip.load_clip("tiny").state_dict(), folder / "clip.pt")
    with tarfile.open(folder / "shards.tar", "w") as archive:
        archive.add(folder / "photos/00.jpg", "0.jpg")
    for name, (content, _) in TEXTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "nus/Groundtruth/AllLabels").mkdir(parents=True)
    for concept in CLASS_PRESETS["nuswide"]:
        (folder / f"nus/Groundtruth/AllLabels/Labels_{concept}.txt").write_text("0\n1\n")
    return folder


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The file with one change. In a zip file it is most often inside an entry, which gets a right checksum."""
    if data.startswith(b"PK") and rng.random() < 0.7:
        with zipfile.ZipFile(io.BytesIO(data)) as old:
            entries = {name: old.read(name) for name in old.namelist()}
        pickles = [name for name in entries if name.endswith(".pkl")]
        chosen = rng.choice(pickles if rng.random() < 0.8 else list(entries))
        entries[chosen] = damaged(entries[chosen] or b"\0", rng)
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as new:
            for name, content in entries.items():
                new.writestr(name, content)
        return target.getvalue()
    start = rng.randrange(len(data))
    end = start + rng.choice((1, 4, 16, 256, 1 + len(data) // 4))
    change = rng.choice(("flip", "cut", "repeat", "remove", "zero", "huge", "word", "word"))
    if change == "flip":
        return data[:start] + bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 :]
    if change == "word":  # text keeps its structure
        found = WORD.search(data, start) or WORD.search(data)
        start, end = found.span() if found else (start, end)
        return data[:start] + rng.choice(WORDS) + data[end:]
    new = {"cut": b"", "repeat": 50 * data[start:end], "remove": b"", "zero": bytes(len(data[start:end])),
           "huge": rng.choice((b"\xff" * 8, b"\xff" * 4, b"\x7f\xff\xff\xff"))}[change]  # fmt: skip
    return data[:start] + new + (b"" if change == "cut" else data[end:]) or b"\0"


@pytest.mark.parametrize("name", [*TEXTS, *MADE])
def test_a_damaged_file_is_read_or_refused_in_one_line(valid, tmp_path, monkeypatch, capfd, name):
    for other in valid.iterdir():
        (tmp_path / other.name).symlink_to(other)
    monkeypatch.chdir(tmp_path)
    file, top = tmp_path / f"damaged-{Path(name).name}", name.split("/")[0]
    if "/" in name:  # the data set is read as a folder
        (tmp_path / top).unlink()
        file = tmp_path / name
        for other in [path for path in (valid / top).rglob("*") if path.is_file()]:
            (tmp_path / other.relative_to(valid)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / other.relative_to(valid)).write_bytes(other.read_bytes())
    command = {**{name: line for name, (_, line) in TEXTS.items()}, **MADE}[name].replace("FILE", file.name).split()
    command += ["-o", "new.pt", "--overwrite"] if command[0] == "pseudolabel" else []
    content, rng = (valid / name).read_bytes(), random.Random(name)
    for data in (content, *(damaged(content, rng) for _ in range(CASES))):
        file.write_bytes(data)
        status = _status(command)
        out, err = capfd.readouterr()
        last = (err.splitlines() or [""])[-1]
        assert status == 0 if data == content else status in (0, 1, 2, 3), (status, err)
        assert status not in (1, 2) or (last.startswith("mlclip: ") and not out and len(last) < 3000), (out, err)
        assert "Traceback" not in err and "llocat" not in last, err
