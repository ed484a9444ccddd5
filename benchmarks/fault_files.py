"""Valid files of other programs, and what mlclip does with each: data sets, annotation tools, tables, shards, folders of a CLIP.

`faults.py` damages them and reads them again. Each maker writes a file that is as small as possible but has every part that the
reader looks at.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image

from mlclip.cli import cli
from mlclip.cli.settings_file import SECTIONS, read_settings
from mlclip.clip import load_clip
from mlclip.clip.folders import to_our_names
from mlclip.config import ExportConfig, InputError, TableOptions
from mlclip.images import Unreadable, find_images, open_image
from mlclip.images.list_file import read_paths
from mlclip.labels.class_names import CLASS_PRESETS, parse_classes
from mlclip.labels.corrections import read_corrections
from mlclip.labels.export import export_labels
from mlclip.labels.table import Labels, read_labels, read_truth
from mlclip.student.checkpoint import _load_safetensors as load_safetensors
from mlclip.student.checkpoint import _save_safetensors as save_safetensors

REFUSED = (InputError, Unreadable)
CLASSES = ["cat", "dog", "bird"]


@dataclass(frozen=True)
class Reader:
    """A kind of file: `make` writes a valid one, `read` is what the program does with it."""

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    is_picture: bool = False


def text(content: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    """Writes a text file."""
    return lambda path: path.write_text(content, encoding) and None


def all_of(*reads: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Reads in several ways, each of them even where one refuses the file."""

    def read(place: Any) -> None:
        refusals = []
        for each in reads:
            try:
                each(place)
            except REFUSED as error:
                refusals.append(str(error))
        if refusals:
            raise InputError(" / ".join(refusals))

    return read


def named(*kinds: str, read: Callable[[str], Any] = read_truth) -> Callable[[Path], None]:
    """Reads a place by the names `kind:place`; "" stands for no kind."""
    return all_of(*(lambda place, kind=kind: read(f"{kind}:{place}" if kind else str(place)) for kind in kinds))


def inside(make: Callable[[Path], None], name: str, read: Callable[[Path], Any]) -> Reader:
    """A file that is `name` in a folder: `make` writes the whole folder, and `read` reads it."""

    def write(path: Path) -> None:
        folder = path.parent / "folder"
        (folder / name).parent.mkdir(parents=True)
        make(folder)
        path.write_bytes((folder / name).read_bytes())

    def reread(path: Path) -> None:
        folder = path.parent / "folder"
        (folder / name).write_bytes(path.read_bytes())
        read(folder)

    return Reader(write, reread)


def photo(file: Path) -> None:
    """A photo, with its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24), (200, 100, 50)).save(file)


# Data sets


def _coco(path: Path) -> None:
    boxes = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [1.5, 2, 3, 4], "iscrowd": 1},
        {"id": 3, "image_id": 2, "category_id": 1},
    ]
    images = [
        {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9, "neg_category_ids": [2]},
        {"id": 2, "file_name": "b/c.jpg"},
    ]
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path.write_text(json.dumps({"images": images, "categories": names, "annotations": boxes}))


_VOC_XML = """<annotation><filename>p0.jpg</filename><size><width>9</width><height>9</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>8</xmax><ymax>9</ymax></bndbox></object>
<object><name>dog</name><difficult>1</difficult></object></annotation>
"""


def _voc(folder: Path) -> None:
    for place in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / "Annotations" / "p0.xml").write_text(_VOC_XML)
    (folder / "ImageSets" / "Main" / "val.txt").write_text("p0\np1\n")
    (folder / "ImageSets" / "Main" / "cat_val.txt").write_text("p0  1\np1 -1\n")
    photo(folder / "JPEGImages" / "p0.jpg")


def _voc_reader(name: str, *specs: str) -> Reader:
    return inside(_voc, name, all_of(*(lambda folder, spec=spec: read_truth(spec.format(folder)) for spec in specs)))


def _nuswide(folder: Path) -> None:
    """The 83 files of a NUS-WIDE of three photos."""
    for part in ("Groundtruth/AllLabels", "ImageList"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "ImageList" / "Imagelist.txt").write_text("a\\1.jpg\na\\2.jpg\nb\\1.jpg\n")
    for concept in CLASS_PRESETS["nuswide"]:
        (folder / "Groundtruth" / "AllLabels" / f"Labels_{concept}.txt").write_text("0\n1\n0\n")


DATA_SETS = {
    "coco.json": Reader(_coco, named("coco", "")),
    "voc.xml": _voc_reader("Annotations/p0.xml", "voc:{}", "{}"),
    "voc-split.txt": _voc_reader("ImageSets/Main/val.txt", "voc:{}:val"),
    "voc-class.txt": _voc_reader("ImageSets/Main/cat_val.txt", "voc:{}:val"),
    "nuswide-list.txt": inside(_nuswide, "ImageList/Imagelist.txt", named("nuswide")),
    "nuswide-labels.txt": inside(_nuswide, "Groundtruth/AllLabels/Labels_animal.txt", named("nuswide")),
}


# Annotation tools and photo managers


def _table(root: Path) -> Labels:
    """Labels whose photos exist."""
    for name in ("a.jpg", "b.jpg"):
        photo(root / name)
    return Labels(["a.jpg", "b.jpg"], CLASSES, torch.tensor([[0.9, 0.2, 0.7], [0.1, 0.8, 0.3]]), root=str(root))


def _exported(to: str) -> Callable[[Path], None]:
    return lambda path: export_labels(_table(path.parent / "photos"), path, ExportConfig(to), overwrite=True) and None


def _label_studio(path: Path) -> None:
    """Tasks with an annotation, with our scores, and with a prediction only."""
    _exported("label-studio")(path)
    ours, other = json.loads(path.read_text())
    reviewed = {**ours, "data": {"image": "/data/upload/3/0a1b2c3d-c.jpg"}, "annotations": ours["predictions"]}
    other = {"data": other["data"], "predictions": other["predictions"]}
    path.write_text(json.dumps([ours, other, {**reviewed, "meta": {}}]))


TOOLS = {
    "label-studio.json": Reader(_label_studio, all_of(named("label-studio"), named("label-studio", read=read_labels))),
    "coco-scores.json": Reader(_exported("coco"), all_of(named("coco", read=read_labels), named("coco"))),
}


# Tables, names and settings


_SEMICOLONS = "Image;cat;dog;split;width\na.jpg;0,5;1;train;640\nb.jpg;0,25;;val;480\n"
_NAMES = "\tfilename\tlabels\n0\ta.jpg\tcat|dog\n1\tb.jpg\t\n2\tc.jpg\tbird\n"
_CORRECTIONS = 'path,class,value\na.jpg,cat,1\n"b, c.jpg",dog,0\npath,class,value\na.jpg,cat,1\n'
_TREE = "# animals\nanimal > pet > dog = a small dog\nanimal > cat\nday\nnight\nexclusive: day, night\n"
_SETTINGS = """name = 1
[train]
epochs = 2
lr = 1e-3
arch = "resnet18"
resume = true
average = 0.5
root = "photos"
[pseudolabel]
grids = [1, 2]
template = ["a photo of a {}"]
workers = 0
[predict]
device = "cpu"
"""


def _read_table(path: Path) -> None:
    all_of(read_labels, lambda path: read_labels(path, TableOptions(split="split=train")))(path)


def _read_settings(path: Path) -> None:
    top = click.Context(cli, info_name="mlclip")
    commands = [click.Context(cli.commands[name], parent=top, info_name=name) for name in SECTIONS]
    all_of(*(lambda path, ctx=ctx: read_settings(str(path), ctx.command, ctx) for ctx in commands))(path)


TABLES = {
    "semicolons.csv": Reader(text(_SEMICOLONS), _read_table),
    "utf16.csv": Reader(text(_SEMICOLONS.replace(";", "\t"), "utf-16"), read_labels),
    "names.csv": Reader(text(_NAMES), lambda path: read_labels(path, known_classes=CLASSES)),
    "corrections.csv": Reader(text(_CORRECTIONS), read_corrections),
    "tree.txt": Reader(text(_TREE), parse_classes),
    "classes.json": Reader(text('{"cat": "a cat", "d=g": "a dog", "b\\u00efrd": "a bird"}'), parse_classes),
    "classes.yaml": Reader(text("nc: 2\nnames: ['cat', \"dog, big\"]  # two\n"), parse_classes),
    "settings.toml": Reader(text(_SETTINGS.removeprefix("name = 1\n")), _read_settings),
}


# Photos in other places


def _shard(path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("0001.png", f"{'long' * 30}/é.png", "0001.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(picture.getvalue())
            archive.addfile(info, io.BytesIO(picture.getvalue()))


def _read_shard(path: Path) -> None:
    found = find_images([path])
    all_of(*(lambda _, photo=photo: open_image(photo.file) for photo in found.photos))(path)


def _parquet(path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    names = [f"folder/p{n}.jpg" for n in range(20)]
    table = pyarrow.table({"path": names, "n": list(range(20)), "kind": pyarrow.array(names).dictionary_encode()})
    write_table(table, path, row_group_size=8)


def _read_column(path: Path) -> None:
    all_of(*(lambda path, column=column: read_paths(f"{path}{column}") for column in ("", ":kind")))(path)


PLACES = {
    "shard.tar": Reader(_shard, _read_shard),
    "column.csv": Reader(text('path,kind\na.jpg,x.jpg\n"b, c.jpg",y.jpg\n'), _read_column),
    "column.tsv": Reader(text("path\tkind\na.jpg\tx.jpg\nb.jpg\ty.jpg\n"), _read_column),
    **({"column.parquet": Reader(_parquet, _read_column)} if find_spec("pyarrow") else {}),
}


# A CLIP in a folder, and a student to hand over


def _hugging_face_state(width: int = 4, vocabulary: int = 49408) -> dict[str, torch.Tensor]:
    """The tensors of a `CLIPModel` with one block in each encoder."""
    block = {f"self_attn.{part}_proj": (width, width) for part in "qkv"} | {"self_attn.out_proj": (width, width)}
    block |= {"layer_norm1": (width,), "layer_norm2": (width,), "mlp.fc1": (8, width), "mlp.fc2": (width, 8)}
    shapes = {
        f"{side}_model.encoder.layers.0.{name}": shape for side in ("text", "vision") for name, shape in block.items()
    }
    shapes |= dict.fromkeys(
        ("text_model.final_layer_norm", "vision_model.pre_layrnorm", "vision_model.post_layernorm"), (width,)
    )
    state = {f"{name}.weight": torch.ones(shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": torch.ones(shape[0]) for name, shape in shapes.items()}
    embeddings = {"token_embedding": (vocabulary, width), "position_embedding": (77, width)}
    state |= {f"text_model.embeddings.{name}.weight": torch.ones(shape) for name, shape in embeddings.items()}
    embeddings = {"patch_embedding": (width, 3, 16, 16), "position_embedding": (5, width)}
    state |= {f"vision_model.embeddings.{name}.weight": torch.ones(shape) for name, shape in embeddings.items()}
    state |= {f"{name}_projection.weight": torch.ones(2, width) for name in ("text", "visual")}
    return state | {"vision_model.embeddings.class_embedding": torch.ones(width), "logit_scale": torch.ones(())}


def _open_clip_folder(folder: Path) -> None:
    vision = {"image_size": 32, "layers": 1, "width": 4, "patch_size": 16, "head_width": 2}
    language = {"context_length": 77, "vocab_size": 49408, "width": 4, "heads": 2, "layers": 1}
    pixels = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "shortest"}
    model = {"embed_dim": 2, "quick_gelu": True, "vision_cfg": vision, "text_cfg": language}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": pixels}))
    torch.save(to_our_names(_hugging_face_state()), folder / "open_clip_pytorch_model.bin")


def _hugging_face_folder(folder: Path) -> None:
    language = {
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 49408,
        "eos_token_id": 2,
    }
    vision = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    config = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 2}
    pixels = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.4, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    pixels |= {"resample": 3, "size": {"shortest_edge": 32}, "do_normalize": True}
    (folder / "config.json").write_text(json.dumps({**config, "text_config": language, "vision_config": vision}))
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    state, parts = _hugging_face_state(), [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    places = {name: parts[name.startswith("vision")] for name in state}
    for part in parts:
        torch.save({name: tensor for name, tensor in state.items() if places[name] == part}, folder / part)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _student(path: Path) -> None:
    meta = {"settings": {"lr": 0.1}, "labels_meta": {"method": "centred", "clip": {"name": "RN50"}}, "measured": {}}
    meta["hierarchy"] = {"parents": {"dog": "cat"}, "groups": [["cat", "bird"]]}
    weights = {"head.weight": torch.ones(3, 4, 1, 1), "trunk.count": torch.tensor(7)}
    content = {"arch": "mobilenet_v3_small", "classes": CLASSES, "size": 64, "thresholds": torch.full((3,), 0.5)}
    save_safetensors({**content, "weights": weights, "meta": meta}, path)


MODELS = {
    "open_clip_config.json": inside(_open_clip_folder, "open_clip_config.json", load_clip),
    **{
        name: inside(_hugging_face_folder, name, load_clip)
        for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json", "pytorch_model.bin.index.json")
    },
    **({"student.safetensors": Reader(_student, load_safetensors)} if find_spec("safetensors") else {}),
}
READERS: dict[str, Reader] = {**DATA_SETS, **TOOLS, **TABLES, **PLACES, **MODELS}
