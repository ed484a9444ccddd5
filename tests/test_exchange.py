"""Tables of labels in the formats of other tools: what is written is read back, and a stranger's file cannot do harm."""

from __future__ import annotations

import csv
import doctest
import json
import os
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from mlclip.cli import _status
from mlclip.config import ExportConfig, InputError, OptionError
from mlclip.labels.datasets import read_truth
from mlclip.labels.exchange import READERS, export_labels, label_studio, read_scores
from mlclip.labels.exchange import chosen as chosen_module
from mlclip.labels.table import Labels, read_labels, write_labels

PATHS = ["trip/1.jpg", "trip/a b&c%20#é.png", "2.jpg", "3.jpg"]
CLASSES = ["cat", 'dog "<&> x', "größe: #1"]
SCORED = ("label-studio", "cvat", "fiftyone", "coco")  # formats with scores that are read, too
NAN = float("nan")


@pytest.fixture
def labels(tmp_path) -> Labels:
    """A table with small photos, an unknown cell, and a photo without a class."""
    root = tmp_path / "photos"
    for number, path in enumerate(PATHS):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number, 0, 0)).save(root / path)
    scores = torch.tensor([[0.91234567, 0.2, 0.7], [0.3, NAN, 0.61], [0.05, 0.1, 0.2], [1.0, 0.5, 0.0]])
    meta = {
        "thresholds": [0.4, 0.5, 0.6],
        "method": "centred",
        "clip": {"name": "RN50", "sha256": "ab", "logit_scale": 100.0},
    }
    return Labels(PATHS, CLASSES, scores, root=str(root), meta=meta)


def place(tool: str, folder: Path) -> Path:
    return folder / ExportConfig.OUTPUTS[tool]


def export(labels: Labels, tool: str, folder: Path, **settings) -> Path:
    export_labels(labels, place(tool, folder), ExportConfig(tool, **settings))
    return place(tool, folder)


def chosen(labels: Labels) -> torch.Tensor:
    return (labels.scores >= labels.thresholds).float()


def set_aside(labels: Labels, **changes) -> Labels:
    return Labels(**{**vars(labels), **changes})


@pytest.mark.parametrize("module", [chosen_module, label_studio])
def test_the_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


# Round trips


@pytest.mark.parametrize("tool", SCORED)
def test_scores_of_the_classes_that_reach_their_thresholds_are_read_back(tool, labels, tmp_path):
    again = read_labels(f"{tool}:{export(labels, tool, tmp_path)}")
    assert (again.paths, again.classes) == (labels.paths, labels.classes)
    expected = torch.where(chosen(labels) == 1, labels.scores, 0)
    if tool == "label-studio":  # it holds all scores, and knows what is unknown
        expected = labels.scores
    assert torch.allclose(again.scores, expected, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("tool", SCORED)
def test_with_the_threshold_0_every_known_score_is_written(tool, labels, tmp_path):
    everything = set_aside(labels, meta={"thresholds": 0.0})
    again = read_scores(f"{tool}:{export(everything, tool, tmp_path)}")
    unknown = NAN if tool == "label-studio" else 0.0
    assert torch.allclose(again.scores, labels.scores.nan_to_num(unknown), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("tool", [*SCORED, "xmp"])
def test_as_true_labels_what_was_written_is_1_and_the_rest_0(tool, labels, tmp_path):
    truth = read_truth(f"{tool}:{export(labels, tool, tmp_path)}")
    assert torch.equal(truth.aligned(sorted(PATHS), CLASSES).scores, labels.aligned(sorted(PATHS), CLASSES).scores.ge(
        labels.thresholds).float())  # fmt: skip


def test_a_csv_holds_scores_or_0_and_1_or_a_line_per_photo_and_class(labels, tmp_path):
    same = read_labels(export(labels, "csv", tmp_path / "a", csv_form="scores"))
    assert torch.allclose(same.scores, labels.scores, atol=1e-6, equal_nan=True) and same.paths == PATHS
    marks = read_labels(export(labels, "csv", tmp_path / "b", csv_form="binary")).scores
    assert torch.equal(marks.nan_to_num(9), chosen(labels).masked_fill(labels.scores.isnan(), 9))
    with open(export(labels, "csv", tmp_path / "c", csv_form="long"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 3 - 1  # no line for the unknown cell
    assert rows[0] == {"path": "trip/1.jpg", "class": "cat", "score": "0.9123456", "label": "1"}


def test_ultralytics_gets_the_numbers_of_the_classes_and_links_or_copies(labels, tmp_path):
    for copy in (False, True):
        folder = export(labels, "yolo-cls", tmp_path / str(copy), copy_photos=copy)
        files = [(folder / "labels" / "train" / path).with_suffix(".txt").read_text() for path in PATHS]
        assert files == ["0\n2\n", "2\n", "", "0\n1\n"]
        photo = folder / "images" / "train" / PATHS[1]
        assert photo.is_symlink() != copy
        assert photo.read_bytes() == Path(labels.root, PATHS[1]).read_bytes()
    names = [line.split(": ", 1)[1] for line in (folder / "data.yaml").read_text("utf-8").splitlines()[-3:]]
    assert list(map(json.loads, names)) == CLASSES


def test_photos_that_would_share_a_file_of_labels_are_refused_and_those_that_do_not_exist_are_skipped(labels, tmp_path):
    (Path(labels.root) / "2.png").touch()
    twins = set_aside(labels.aligned(PATHS[:3], CLASSES), paths=["2.jpg", "2.png", "3.jpg"])
    with pytest.raises(InputError, match=r"2\.jpg and 2\.png would have the same file"):
        export(twins, "yolo-cls", tmp_path)
    (Path(labels.root) / "3.jpg").unlink()
    for tool in ("yolo-cls", "fiftyone"):
        written = export_labels(labels, tmp_path / tool, ExportConfig(tool))
        assert (written.photos, written.skipped) == (3, [("3.jpg", "the photo does not exist")])
        with pytest.raises(InputError, match=r"Pass the folder of the photos as `root`"):
            export(set_aside(labels, root=str(tmp_path / "elsewhere")), tool, tmp_path)


# The structure that the tools want


def test_label_studio_finds_the_photo_the_choices_and_their_names_in_the_configuration(labels, tmp_path):
    tasks = json.loads(export(labels, "label-studio", tmp_path).read_text())
    config = ElementTree.parse(tmp_path / "label-studio.config.xml").getroot()
    assert [each.get("value") for each in config.iter("Choice")] == CLASSES
    assert config.find("Choices").get("choice") == "multiple"
    (prediction,) = tasks[0]["predictions"]
    (result,) = prediction["result"]
    assert (result["from_name"], result["to_name"]) == (
        config.find("Choices").get("name"),
        config.find("Image").get("name"),
    )
    assert result["value"]["choices"] == [CLASSES[0], CLASSES[2]] and prediction["model_version"].endswith(
        "centred, CLIP RN50"
    )
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
    assert truth.paths == [PATHS[0], PATHS[3]]  # what nobody looked at is not a true label
    assert torch.equal(truth.aligned(truth.paths, [*CLASSES, "a new class"]).scores.nan_to_num(9),
                       torch.tensor([[1.0, 9, 0, 0], [0, 0, 0, 1]]))  # fmt: skip
    scores = read_labels(f"label-studio:{file}")
    assert scores.paths == PATHS and torch.allclose(scores.scores[1, :3], labels.scores[1], atol=1e-6, equal_nan=True)


def test_a_foreign_export_of_label_studio_is_read_by_the_urls_of_its_photos(tmp_path):
    def task(url, *names):
        result = {"type": "choices", "from_name": "c", "value": {"choices": list(names)}}
        return {"data": {"picture": url}, "annotations": [{"result": [result]}]}

    urls = ["/data/upload/1/0a1b2c3d-1.jpg", "s3://bucket/dogs/2.jpg", "/data/local-files/?d=a%2Fb%20c.jpg"]
    (tmp_path / "tasks.json").write_text(json.dumps([task(url, "dog") for url in urls]))
    assert read_truth(f"label-studio:{tmp_path}/tasks.json").paths == ["1.jpg", "dogs/2.jpg", "a/b c.jpg"]


def test_cvat_finds_declared_labels_and_shapes_count_as_classes(labels, tmp_path):
    file = export(labels, "cvat", tmp_path)
    root = ElementTree.parse(file).getroot()
    assert root.findtext("version") == "1.1"
    assert [each.findtext("name") for each in root.iter("label")] == CLASSES
    assert [each["name"] for each in json.loads((tmp_path / "cvat.labels.json").read_text())] == CLASSES
    image = root.findall("image")[2]  # it had no class; a person draws two boxes
    for _ in range(2):
        ElementTree.SubElement(image, "box", {"label": "cat", "xtl": "1"})
    ElementTree.ElementTree(root).write(file)
    assert read_truth(f"cvat:{file}").scores[2].tolist() == [1, 0, 0]


def test_fiftyone_finds_the_photos_and_its_own_exports_are_read(labels, tmp_path):
    folder = export(labels, "fiftyone", tmp_path)
    content = json.loads((folder / "labels.json").read_text())
    assert all(os.path.isfile(file) for file in content["labels"]) and content["classes"] == CLASSES
    assert read_labels(f"fiftyone:{folder}").root == labels.root
    own = tmp_path / "own"
    (own / "data" / "x").mkdir(parents=True)
    (own / "data" / "x" / "1.png").touch()
    entries = {"x/1": [0, {"label": 1, "confidence": 0.25}], "x/2": None, "x/3": "cat"}
    (own / "labels.json").write_text(json.dumps({"classes": ["cat", "dog"], "labels": entries}))
    table = read_labels(f"fiftyone:{own}")
    assert table.paths == ["x/1.png", "x/2", "x/3"]
    assert torch.equal(table.scores.nan_to_num(9), torch.tensor([[1, 0.25], [9, 9], [1, 0]]))


# Hostile files


def refused(spec: str) -> str:
    """The message with which both ways to read `spec` refuse it."""
    with pytest.raises(InputError) as error:
        read_labels(spec)
    with pytest.raises(InputError):
        read_truth(spec)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


DEEP = "[" * 100_000
JSON = ["", "{", "null", "7", "[]", "{}", "[7]", "[null]", "[[]]", DEEP, '[{"data": {}}]', '[{"data": {"image": 3}}]']
JSON += [
    '[{"data": {"image": "a.jpg"}, "annotations": 3}]',
    '[{"data": {"image": "a.jpg"}, "annotations": [{"result": [3]}]}]',
]
JSON += [
    '[{"data": {"image": "a.jpg"}, "predictions": [{"result": [{"type": "choices", "value": {"choices": [[]]}}]}]}]'
]
JSON += ['[{"data": {"image": "a.jpg"}, "meta": {"mlclip": {"path": "a", "scores": {"cat": 1e999}}}}]']
JSON += [
    '{"labels": {"a": [[]]}}',
    '{"labels": {"a": {"label": "x", "confidence": 2}}}',
    '{"labels": {"a": [true]}, "classes": []}',
]
JSON += [
    '{"labels": {"": "cat"}}',
    '{"classes": [3], "labels": {}}',
    '{"classes": ["cat"], "labels": {"../..": "cat"}}',
]
JSON += ['{"images": [], "categories": [], "annotations": []}', '{"images": 3, "categories": [], "annotations": []}']
JSON += [
    '{"images": [{"id": 1, "file_name": 3}], "categories": [], "annotations": []}',
    '{"images": [{"id": [], "file_name": "a"}]}',
]


@pytest.mark.parametrize("tool", ["label-studio", "fiftyone", "coco"])
@pytest.mark.parametrize("text", JSON, ids=range(len(JSON)))
def test_json_that_is_not_of_the_tool_is_refused(tool, text, tmp_path):
    file = tmp_path / "labels.json"
    file.write_text(text)
    if tool == "coco":  # read_truth has its own reader
        with pytest.raises(InputError):
            read_labels(f"coco:{file}")
    else:
        refused(f"{tool}:{tmp_path if tool == 'fiftyone' else file}")


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;">]><annotations><image name="&c;"/></annotations>'
XML = ["", "<", "x", "<annotations/>", BOMB, "<a>" * 5000, '<annotations><image name=".."/></annotations>']
XML += ['<annotations><image name="a.jpg"/></annotations>', '<?xml version="1.0" encoding="wrong"?><annotations/>']
XML += ['<annotations><image name="a"><tag label="x"><attribute name="score">2</attribute></tag></image></annotations>']
XML += [
    '<annotations><image name="a"/><image name="./a"/></annotations>',
    '<annotations xmlns="x"><image name="a"/></annotations>',
]


@pytest.mark.parametrize("text", XML, ids=range(len(XML)))
def test_xml_that_is_not_of_the_tool_is_refused(text, tmp_path):
    (tmp_path / "a.jpg.xmp").write_text(text)
    if "score" not in text:  # which is no matter to true labels
        refused(f"cvat:{tmp_path}/a.jpg.xmp")
    refused(f"xmp:{tmp_path}")


@pytest.mark.parametrize("tool", READERS)
def test_a_missing_file_is_an_error_of_one_line(tool, tmp_path):
    assert "no-such" in refused(f"{tool}:{tmp_path}/no-such")
    assert "no-such" in refused(f"{tool}:{tmp_path}/no-such\0file")


@pytest.mark.parametrize("tool", [tool for tool in ExportConfig.OUTPUTS if tool != "csv"])
@pytest.mark.parametrize("path", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "C:\\x.jpg"])
def test_a_path_that_leads_out_of_the_folder_is_never_written(tool, path, tmp_path):
    with pytest.raises(InputError, match="leads out of their folder"):
        export(Labels([path], ["cat"], torch.ones(1, 1), root=str(tmp_path / "photos")), tool, tmp_path / "out")
    assert not list(tmp_path.rglob("x.*"))


@pytest.mark.parametrize(
    ("tool", "name"), [("cvat", "a\x01b"), ("label-studio", "a\x01b"), ("xmp", "\udcff"), ("cvat", "\udcff")]
)
def test_a_name_that_xml_cannot_store_is_refused(tool, name, tmp_path):
    with pytest.raises(InputError, match="XML has no such characters"):
        export(Labels(["a.jpg"], [name], torch.ones(1, 1), root=str(tmp_path / "p")), tool, tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


# The command


def test_the_command_writes_each_format_and_refuses_to_replace_it(labels, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_labels(labels, "labels.pt")
    before = {file: file.read_bytes() for file in Path(labels.root).rglob("*") if file.is_file()}
    for tool, output in ExportConfig.OUTPUTS.items():
        assert _status(["export", "--to", tool]) == 0, tool
        assert f"{output}: 4 photos; next: " in capfd.readouterr().err
        if tool != "xmp":  # whose sidecars are merged
            assert _status(["export", "--to", tool]) == 1
            assert "--overwrite" in capfd.readouterr().err
        assert _status(["export", "--to", tool, "--overwrite", "-q"]) == 0
    assert {file: file.read_bytes() for file in Path(labels.root).rglob("*") if file.is_file()} == before


def test_the_command_takes_thresholds_and_evaluates_what_it_wrote(labels, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_labels(labels, "labels.pt")
    assert _status(["export", "--to", "cvat", "--threshold", "0.95"]) == 0
    assert read_labels("cvat:cvat.xml").scores.sum() == 1
    Path("t.csv").write_text("class,threshold\ncat,0\n")
    assert _status(["export", "--to", "cvat", "--threshold-file", "t.csv", "--overwrite"]) == 0
    assert (read_truth("cvat:cvat.xml").scores[:, 0] == 1).all()
    assert _status(["evaluate", "--labels", "cvat:cvat.xml", "--truth", "cvat:cvat.xml", "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out)["mAP"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "csv", "--variant", "int8"], "--variant has no effect with --to"),
        (["--labels", "x.pt"], "--labels needs --to"),
        (["--sidecar-name", "stem"], "--sidecar-name needs --to"),
        (["--to", "csv", "--sidecar-name", "stem"], "--sidecar-name has no effect with --to csv. Use --to xmp."),
        (["--to", "xmp", "--beside-photos", "-o", "x"], "-o has no effect with --beside-photos"),
        (["--to", "csv", "--threshold", "1", "--threshold-file", "x"], "cannot be combined"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, message, capfd):
    assert _status(["export", *options]) == 2
    assert message in capfd.readouterr().err


def test_a_setting_must_be_one_of_its_choices():
    with pytest.raises(OptionError, match="`csv_form` is wide: it must be one of scores, binary, long"):
        ExportConfig("csv", csv_form="wide")
