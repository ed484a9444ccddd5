"""Tables of labels in the formats of other tools: what is written is read back, and a stranger's file cannot do harm."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from mlclip.cli import _status
from mlclip.cli.export import TOOLS
from mlclip.config import InputError
from mlclip.labels.table import Labels, export_labels, read_labels, read_truth, write_labels

PATHS = ["trip/1.jpg", "trip/a b&c%20#é.png", "2.jpg", "3.jpg"]
CLASSES = ["cat", 'dog "<&> x', "größe: #1"]
SCORED = ("label-studio", "coco")  # formats with scores that are read, too
NAN = float("nan")


@pytest.fixture
def labels(tmp_path) -> Labels:
    """A table with small photos, an unknown cell, and a photo without a class."""
    root = tmp_path / "photos"
    for number, path in enumerate(PATHS):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number, 0, 0)).save(root / path)
    scores = torch.tensor([[0.91234567, 0.2, 0.7], [0.3, NAN, 0.61], [0.05, 0.1, 0.2], [1.0, 0.5, 0.0]])
    clip = {"name": "RN50", "sha256": "ab", "logit_scale": 100.0}
    meta = {"thresholds": [0.4, 0.5, 0.6], "method": "centred", "clip": clip}
    return Labels(PATHS, CLASSES, scores, root=str(root), meta=meta)


def place(tool: str, folder: Path) -> Path:
    return folder / TOOLS[tool][0]


def export(labels: Labels, tool: str, folder: Path, **settings) -> Path:
    export_labels(labels, place(tool, folder), tool, **{"url_prefix": "/data/local-files/?d=", **settings})
    return place(tool, folder)


def chosen(labels: Labels) -> torch.Tensor:
    return (labels.scores >= labels.thresholds).float()


def set_aside(labels: Labels, **changes) -> Labels:
    return Labels(**{**vars(labels), **changes})


# Round trips


@pytest.mark.parametrize("tool", SCORED)
def test_scores_of_the_classes_that_reach_their_thresholds_are_read_back(tool, labels, tmp_path):
    again = read_labels(f"{tool}:{export(labels, tool, tmp_path)}")
    assert (again.paths, again.classes) == (labels.paths, labels.classes)
    expected = torch.where(chosen(labels) == 1, labels.scores, 0)
    if tool == "label-studio":  # it holds all scores, and knows what is unknown
        expected = labels.scores
    assert torch.allclose(again.scores, expected, atol=1e-6, equal_nan=True)
    everything = set_aside(labels, meta={"thresholds": 0.0})  # every known score is written
    again = read_labels(f"{tool}:{export(everything, tool, tmp_path / 'all')}")
    unknown = NAN if tool == "label-studio" else 0.0
    assert torch.allclose(again.scores, labels.scores.nan_to_num(unknown), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("tool", SCORED)
def test_as_true_labels_what_was_written_is_1_and_the_rest_0(tool, labels, tmp_path):
    truth = read_truth(f"{tool}:{export(labels, tool, tmp_path)}")
    assert torch.equal(truth.aligned(sorted(PATHS), CLASSES).scores, labels.aligned(sorted(PATHS), CLASSES).scores.ge(
        labels.thresholds).float())  # fmt: skip


def test_exiftool_gets_the_keywords_of_each_photo(labels, tmp_path):
    nested = set_aside(
        labels, classes=["cat", "dog", "kitten"], meta=labels.meta | {"hierarchy": {"parents": {"kitten": "cat"}}}
    )
    with open(export(nested, "exiftool", tmp_path), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["SourceFile"] for row in rows] == [str(Path(labels.root) / path) for path in PATHS]
    assert [row["Subject"] for row in rows] == ["cat; kitten", "kitten", "", "cat; dog"]
    assert rows[0]["HierarchicalSubject"] == "cat; cat|kitten"
    with pytest.raises(InputError, match="semicolon"):
        export(set_aside(labels, classes=["a;b", "c", "d"]), "exiftool", tmp_path / "b")


@pytest.mark.skipif(not shutil.which("exiftool"), reason="exiftool is not installed")
def test_exiftool_writes_the_keywords_into_photos(labels, tmp_path):
    file = export(labels, "exiftool", tmp_path)
    command = ["exiftool", f"-csv={file}", "-sep", "; ", "-overwrite_original", "-r", labels.root]
    subprocess.run(command, check=True, capture_output=True)
    shown = ["exiftool", "-json", "-Subject", str(Path(labels.root) / PATHS[0])]
    found = json.loads(subprocess.run(shown, check=True, capture_output=True).stdout)[0]["Subject"]
    assert found == [CLASSES[0], CLASSES[2]]


# The structure that the tools want


def test_label_studio_finds_the_photo_the_choices_and_their_names_in_the_configuration(labels, tmp_path):
    tasks = json.loads(export(labels, "label-studio", tmp_path).read_text())
    config = ElementTree.parse(tmp_path / "label-studio.config.xml").getroot()
    assert [each.get("value") for each in config.iter("Choice")] == CLASSES
    assert config.find("Choices").get("choice") == "multiple"
    (prediction,) = tasks[0]["predictions"]
    (result,) = prediction["result"]
    names = [config.find(part).get("name") for part in ("Choices", "Image")]
    assert [result["from_name"], result["to_name"]] == names
    assert result["value"]["choices"] == [CLASSES[0], CLASSES[2]]
    assert prediction["model_version"].endswith("centred, CLIP RN50")
    assert prediction["score"] == pytest.approx((0.91234567 + 0.7) / 2, abs=1e-6)
    assert tasks[2]["predictions"][0]["score"] == pytest.approx(0.8) and not tasks[2]["predictions"][0]["result"]
    urls = [task["data"]["image"] for task in tasks]
    assert all(url.startswith("/data/local-files/?d=") and "&" not in url for url in urls)
    assert [unquote(url).removeprefix("/data/local-files/?d=") for url in urls] == PATHS
    relative = json.loads(export(labels, "label-studio", tmp_path / "r", url_prefix="").read_text())
    assert relative[0]["data"]["image"] == "trip/1.jpg"


def test_corrections_in_label_studio_replace_the_predictions(labels, tmp_path):
    file = export(labels, "label-studio", tmp_path)
    tasks = json.loads(file.read_text())

    def answer(*names, **more):
        value = {"type": "choices", "from_name": "labels", "value": {"choices": list(names)}}
        return {"result": [value], **more}

    tasks[0]["annotations"] = [answer("cat"), answer("cat", CLASSES[1])]  # two people, who differ in one class
    tasks[1]["annotations"] = [answer("cat", was_cancelled=True)]
    tasks[3]["annotations"] = [answer("a new class")]
    file.write_text(json.dumps(tasks))
    truth = read_truth(f"label-studio:{file}")
    assert truth.paths == PATHS and truth.scores[1:3].isnan().all()  # nobody annotated these
    assert torch.equal(truth.aligned([PATHS[0], PATHS[3]], [*CLASSES, "a new class"]).scores.nan_to_num(9),
                       torch.tensor([[1.0, 9, 0, 0], [0, 0, 0, 1]]))  # fmt: skip
    file = file.rename(file.with_name("tasks[1].json"))  # no pattern: such a file exists
    scores = read_labels(f"label-studio:{file}")
    assert scores.paths == PATHS and torch.allclose(scores.scores[1, :3], labels.scores[1], atol=1e-6, equal_nan=True)


def test_a_foreign_export_of_label_studio_is_read_by_the_urls_of_its_photos(tmp_path):
    def task(url, *names):
        result = {"type": "choices", "from_name": "c", "value": {"choices": list(names)}}
        return {"data": {"picture": url}, "annotations": [{"result": [result]}]}

    urls = ["/data/upload/1/0a1b2c3d-1.jpg", "s3://bucket/dogs/2.jpg", "/data/local-files/?d=a%2Fb%20c.jpg"]
    (tmp_path / "tasks.json").write_text(json.dumps([task(url, "dog") for url in urls]))
    assert read_truth(f"label-studio:{tmp_path}/tasks.json").paths == ["1.jpg", "dogs/2.jpg", "a/b c.jpg"]


def test_boxes_count_controls_are_not_mixed_and_ground_truth_wins(tmp_path):
    def said(control, *names, kind="choices", **more):
        return {"result": [{"type": kind, "from_name": control, "value": {kind: [name]}} for name in names], **more}

    def read(*annotations, spec=""):
        task = {"data": {"image": "a.jpg"}, "annotations": list(annotations)}
        other = {"data": {"image": "b.jpg"}, "annotations": [{"result": []}]}
        (tmp_path / "t.json").write_text(json.dumps([task, other]))
        found = read_truth(f"label-studio:{tmp_path}/t.json{spec}")
        return {name: found.scores[:, c].tolist() for c, name in enumerate(found.classes)}

    assert read(said("l", "cat", "dog", "cat", kind="rectanglelabels")) == {"cat": [1, 0], "dog": [1, 0]}
    assert read(said("l", "cat"), said("l", "dog", ground_truth=True)) == {"dog": [1, 0]}
    weather = {"result": said("animal", "cat")["result"] + said("weather", "sun")["result"]}
    assert read(weather, spec=":weather") == {"sun": [1, 0]}
    with pytest.raises(InputError, match=r"controls animal, weather. Choose one: label-studio:.*t.json:animal"):
        read(weather)


# Hostile files


def refused(spec: str) -> str:
    """The message with which both ways to read `spec` refuse it."""
    with pytest.raises(InputError) as error:
        read_labels(spec)
    with pytest.raises(InputError):
        read_truth(spec)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


WRONG = [
    '{"data": {}}',
    '{"data": {"image": 3}}',
    '{"data": {"image": "a.jpg"}, "annotations": 3}',
    '{"data": {"image": "a.jpg"}, "predictions": [{"result": [{"type": "choices", "value": {"choices": [[]]}}]}]}',
    '{"data": {"image": "a.jpg"}, "meta": {"mlclip": {"path": "a", "scores": {"cat": 1e999}}}}',
]
JSON = ["", "{", "null", "[]", "{}", "[7]", "[" * 100_000, *(f"[{task}]" for task in WRONG)]
JSON += ['{"images": [], "categories": [], "annotations": []}', '{"images": [{"id": [], "file_name": "a"}]}']


@pytest.mark.parametrize("tool", SCORED)
@pytest.mark.parametrize("text", JSON, ids=range(len(JSON)))
def test_json_that_is_not_of_the_tool_is_refused(tool, text, tmp_path):
    (tmp_path / "labels.json").write_text(text)
    refused(f"{tool}:{tmp_path}/labels.json")
    assert "no-such" in refused(f"{tool}:{tmp_path}/no-such\0file")


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "csv"])
@pytest.mark.parametrize("path", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "C:\\x.jpg"])
def test_a_path_that_leads_out_of_the_folder_is_never_written(tool, path, tmp_path):
    with pytest.raises(InputError, match="leads out of their folder"):
        export(Labels([path], ["cat"], torch.ones(1, 1), root=str(tmp_path / "photos")), tool, tmp_path / "out")
    assert not list(tmp_path.rglob("x.*"))


def test_a_name_that_xml_cannot_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="XML has no such characters"):
        export(Labels(["a.jpg"], ["a\x01b"], torch.ones(1, 1), root=str(tmp_path / "p")), "label-studio", tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


# The command


def test_the_command_writes_each_format_and_refuses_to_replace_it(labels, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_labels(labels, "labels.pt")
    before = {file: file.read_bytes() for file in Path(labels.root).rglob("*") if file.is_file()}
    for tool, (output, _) in TOOLS.items():
        assert _status(["export", "--to", tool]) == 0, tool
        assert f"{output}: 4 photos; next: " in capfd.readouterr().err
        assert _status(["export", "--to", tool]) == 1
        assert "--overwrite" in capfd.readouterr().err
        assert _status(["export", "--to", tool, "--overwrite", "-q"]) == 0
    assert {file: file.read_bytes() for file in Path(labels.root).rglob("*") if file.is_file()} == before


def test_the_command_takes_thresholds_and_evaluates_what_it_wrote(labels, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_labels(labels, "labels.pt")
    assert _status(["export", "--to", "coco", "--threshold", "0.95"]) == 0
    assert read_labels("coco:coco.json").scores.sum() == 1
    Path("t.csv").write_text("class,threshold\ncat,0\n")
    assert _status(["export", "--to", "coco", "--threshold", "t.csv", "--overwrite"]) == 0
    assert (read_truth("coco:coco.json").scores[:, 0] == 1).all()
    assert _status(["evaluate", "--labels", "coco:coco.json", "--truth", "coco:coco.json", "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out)["mAP"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "csv", "--variant", "int8"], "--variant has no effect with --to"),
        (["--labels", "x.pt"], "--labels needs --to"),
        (["--url-prefix", "x"], "--url-prefix needs --to"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, message, capfd):
    assert _status(["export", *options]) == 2
    assert message in capfd.readouterr().err


def test_a_folder_for_each_class_links_to_its_photos(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (photos / "sub").mkdir()
    (photos / "00.jpg").rename(photos / "sub" / "00.jpg")
    scores = torch.tensor([[0.9, 0.8], [0.2, 0.7], [0.1, 0.1], [0.9, 0.1]])
    labels = Labels(["sub/00.jpg", "01.jpg", "02.jpg", "gone.jpg"], ["cat", "a/b"], scores, root=str(photos))
    write_labels(labels, "labels.pt")
    assert _status(["export", "--to", "folders"]) == 0
    found = {str(file.relative_to("by-class")): file for file in Path("by-class").rglob("*.jpg")}
    assert sorted(found) == ["a_b/01.jpg", "a_b/sub/00.jpg", "cat/sub/00.jpg"]
    assert all(file.is_symlink() and file.resolve().parent.is_relative_to(photos) for file in found.values())
    assert _status(["export", "--to", "folders"]) == 1 and _status(["export", "--to", "folders", "--overwrite"]) == 0
    assert _status(["export", "--to", "folders", "--root", str(tmp_path / "none"), "-o", "other"]) == 1
