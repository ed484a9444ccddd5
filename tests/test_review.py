"""What looks wrong in labels, which of them a person is asked about, and corrections: their file, and what they do to trainings."""

from __future__ import annotations

import csv
import io
import math

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

import mlclip
from mlclip.cli import cli
from mlclip.config import InputError, TrainConfig
from mlclip.labels.review import correct, corrected_cells, diagnose, questions, read_corrections, wrong_labels
from mlclip.labels.table import Labels, read_labels, write_labels
from mlclip.methods.linear_head import fit_head
from mlclip.progress import SILENT
from mlclip.report.build import report_sections
from mlclip.training.loop import train_student

CLASSES = ["red", "green", "blue"]
SMALL = {"arch": "resnet18", "init": "none", "size": 64}


@pytest.fixture
def labels(photos) -> Labels:
    scores = F.one_hot(torch.arange(12) % 3).float() * 0.8 + 0.1
    return Labels([f"{n:02d}.jpg" for n in range(12)], CLASSES, scores, root=str(photos))


def write(path, text):
    path.write_text(text)
    return path


def test_a_file_of_corrections_is_read_with_quotes_and_repeated_lines(tmp_path):
    file = write(
        tmp_path / "c.csv", 'path,class,value\n"a,b.jpg",red,1\nc.jpg, red ,0\npath,class,value\nc.jpg,red,0\n'
    )
    assert read_corrections(file) == {"a,b.jpg": {"red": 1}, "c.jpg": {"red": 0}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,red\na,1\n", "line 1: the line is not"),
        ("path,class,value\na,red\n", "line 2: 2 cells"),
        ("path,class,value\na,red,yes\n", "line 2: 'yes' is not a value"),
        ("path,class,value\n,red,1\n", "line 2: the path or the class is empty"),
        ("path,class,value\na,red,1\nb,red,1\na,red,0\n", "line 4: 0 for 'red' in a, but line 2 says 1"),
    ],
)
def test_an_error_names_the_line(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as error:
        read_corrections(write(tmp_path / "c.csv", text))
    assert "\n" not in str(error.value)


def test_corrected_labels_are_0_or_1_are_kept_in_the_file_and_a_later_correction_wins(labels, tmp_path):
    found = correct(labels, {"00.jpg": {"red": 0, "blue": 0}, "gone.jpg": {"red": 1}})
    assert (found.used, found.changed, found.unknown) == (2, 1, [("gone.jpg", "red", 1)])
    assert found.labels.scores[0].tolist() == pytest.approx([0.0, 0.1, 0.0])
    assert labels.scores[0, 0] == pytest.approx(0.9)  # the table itself has not changed
    write_labels(found.labels, tmp_path / "labels.pt")
    again = correct(read_labels(tmp_path / "labels.pt"), {"00.jpg": {"red": 1}}).labels
    cells = corrected_cells(again, again.paths)
    assert cells[0, 0] == 1 and cells[0, 2] == 0 and int((~cells.isnan()).sum()) == 2
    with pytest.raises(InputError, match="pink"):
        correct(labels, {"00.jpg": {"pink": 1}})
    with pytest.raises(InputError, match="no correction fits the labels"):
        correct(labels, {"gone.jpg": {"red": 1}})


def test_a_correction_counts_as_often_as_its_weight_says():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    targets = torch.rand(40, 2, generator=generator, dtype=torch.float64)
    weights = torch.ones(40, 2)
    weights[:10] = 3
    weight, bias = fit_head(features, targets, 0.1, weights)
    rows = torch.cat([features, features[:10], features[:10]])  # the same mean, penalty and axes do not matter
    repeated = fit_head(rows, torch.cat([targets, targets[:10], targets[:10]]), 0.1 * 40 / 60)
    assert torch.allclose(weight, repeated[0], atol=1e-4) and torch.allclose(bias, repeated[1], atol=1e-4)


@pytest.mark.parametrize("method", ["cdul", "consistent", "fixed"])
def test_a_training_never_changes_a_corrected_label(labels, method, tmp_path):
    corrected = correct(labels, {"00.jpg": {"red": 0}, "01.jpg": {"red": 1}}).labels
    config = TrainConfig(
        method=method, epochs=2, batch_size=4, lr=1e-2, **SMALL, **({"warmup": 1} if method != "fixed" else {})
    )
    save = {"save_labels": tmp_path / "new.pt"} if method == "cdul" else {}
    model = train_student(corrected, tmp_path / "model.pt", config=config, **save)
    assert model.meta["labels_meta"]["corrections"]["00.jpg"] == {"red": 0}
    if save:
        new = read_labels(tmp_path / "new.pt")
        assert new.scores[0, 0] == 0 and new.scores[1, 0] == 1 and not torch.equal(new.scores, corrected.scores)


def test_a_larger_weight_brings_the_probe_closer_to_the_correction(labels, tmp_path):
    scores = []
    for weight in (0.5, 20.0):
        config = {"method": "probe", "correction_weight": weight, **SMALL}
        model = mlclip.train(
            labels, tmp_path / "model.pt", corrections={"00.jpg": {"red": 0}}, overwrite=True, device="cpu", num_workers=0,
            progress=SILENT, **config,
        )  # fmt: skip
        scores.append(float(mlclip.predict([labels.root], model, num_workers=0, progress=SILENT).scores[0, 0]))
    assert scores[1] < scores[0]


def test_labels_near_the_threshold_and_labels_that_a_model_contradicts_are_asked_first():
    label = torch.tensor([[0.95, 0.5, 0.05, math.nan]])
    assert wrong_labels(label).tolist()[0] == pytest.approx([0.05, 0.5, 0.05, 0.5])
    assert wrong_labels(label, torch.tensor([[0.05, 0.9, 0.05, math.nan]]))[0, 0] == pytest.approx(0.5)
    labels = Labels(["a", "b", "c"], ["x"], torch.tensor([[0.9], [0.55], [0.1]]))
    assert [q.path for q in questions(labels, count=3)] == ["b", "a", "c"]
    model = Labels(["c", "a", "b"], ["x"], torch.tensor([[0.1], [0.01], [0.95]]))
    first = questions(labels, model, count=1)[0]
    assert (first.path, first.name, first.reason) == ("a", "x", "label yes, model no")


def test_twenty_near_duplicates_do_not_come_first_and_classes_take_turns():
    scores = torch.full((23, 2), 0.02)
    scores[:20, 0] = 0.5 + 0.001 * torch.arange(20)  # the same photo, twenty times
    scores[20], scores[21], scores[22] = torch.tensor([0.35, 0.9]), torch.tensor([0.02, 0.4]), torch.tensor([0.7, 0.3])
    labels = Labels([str(n) for n in range(23)], ["x", "y"], scores)
    first = questions(labels, count=4)
    assert sum(int(question.path) < 20 for question in first) == 1 and {q.name for q in first} == {"x", "y"}
    every = questions(labels, count=1000)
    assert len({(q.path, q.name) for q in every}) == len(every) == 46
    done = correct(labels, {"0": {"x": 1, "y": 0}}).labels
    assert len(questions(done, count=1000)) == 44


def test_the_command_prints_a_table_or_a_csv_that_can_be_edited_into_corrections(labels, tmp_path):
    write_labels(labels, tmp_path / "labels.pt")
    done = CliRunner().invoke(cli, ["review", "--labels", str(tmp_path / "labels.pt"), "-n", "3", "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 3 and rows[0].keys() == {"path", "class", "score", "reason"}
    shown = CliRunner().invoke(cli, ["review", "--labels", str(tmp_path / "labels.pt"), "-n", "3"]).stdout
    assert len(shown.splitlines()) == 5 and rows[0]["path"] in shown


def test_a_model_with_other_spellings_of_the_classes_contradicts_the_same_labels():
    labels = Labels(["a.jpg", "b.jpg"], ["potted plant", "cat"], torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    model = Labels(["b.JPG", "a.jpg"], ["Cat", "potted_plant"], torch.tensor([[0.1, 0.2], [0.1, 0.2]]))
    first, second = questions(labels, model, 2)
    assert {(q.path, q.name) for q in (first, second)} == {("a.jpg", "potted plant"), ("b.jpg", "cat")}
    assert first.reason == second.reason == "label yes, model no"


def table(scores: torch.Tensor, classes: list[str]) -> Labels:
    return Labels([f"{n:02d}.jpg" for n in range(len(scores))], classes, scores)


def good(photos: int = 40, classes: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.arange(photos) % classes, classes).float() * 0.9 + 0.03


def test_good_labels_get_no_advice():
    found = diagnose(table(good(), ["a", "b", "c", "d"]))
    assert found.advice == []
    assert found.photos == [10] * 4 and all(abs(value - 0.93) < 1e-6 for value in found.sure)


def test_classes_in_no_photo_and_in_nearly_all_photos_are_named():
    scores = good()
    scores[:, 1], scores[:, 2] = 0.01, 0.9
    found = diagnose(table(scores, ["cat", "unicorn", "thing", "dog"]))
    assert found.dead == ["unicorn"] and found.frequent == ["thing"]
    assert any("No photo shows unicorn" in line and "other words" in line for line in found.advice)
    assert any("thing" in line and "`contrast`" in line for line in found.advice)


def test_classes_with_more_doubtful_than_certain_labels_are_named():
    scores = good()
    scores[::4, 0] = 0.3
    scores[0, 0] = 0.9
    labels = table(scores, ["a", "b", "c", "d"])
    assert diagnose(labels).doubtful == ["a"]
    labels.meta["method"] = "cdul"  # its labels often lie in the middle
    assert diagnose(labels).doubtful == []


def test_two_names_for_the_same_photos_are_a_confused_pair():
    scores = good()
    scores[:, 3] = scores[:, 0]
    found = diagnose(table(scores, ["sofa", "dog", "cat", "couch"]))
    assert found.confused == [("sofa", "couch", 1.0)]
    assert any("sofa and couch" in line for line in found.advice)


def test_with_few_photos_no_class_is_called_missing_or_too_frequent():
    scores = torch.tensor([[0.9, 0.01]] * 3)
    found = diagnose(table(scores, ["a", "b"]))
    assert found.photos == [3, 0] and found.dead == [] and found.frequent == []


def report_of(labels):
    return "".join(report_sections(labels))


def test_photos_without_a_class_are_all_listed_and_get_advice_if_there_are_many():
    scores = good()
    scores[:4] = 0.01
    few = diagnose(table(scores, ["a", "b", "c", "d"]))
    assert few.empty == ["00.jpg", "01.jpg", "02.jpg", "03.jpg"] and few.advice == []
    labels = table(scores, ["a", "b", "c", "d"])
    labels.meta["prompts"] = labels.classes
    assert "4 of 40 photos fit no class" in report_of(labels) and "What to look at" not in report_of(labels)
    scores[:12] = 0.01
    found = diagnose(table(scores, ["a", "b", "c", "d"]))
    assert len(found.empty) == 12 and any("`contrast`" in line for line in found.advice)
    labels.scores = scores
    assert "What to look at" in report_of(labels)
    del labels.meta["prompts"]  # predictions or true labels, which were not made with prompts
    assert "What to look at" not in report_of(labels)


def test_unknown_labels_are_ignored():
    scores = good()
    scores[:, 0] = float("nan")
    scores[5] = float("nan")
    found = diagnose(table(scores, ["a", "b", "c", "d"]))
    assert found.photos[0] == 0 and found.dead == [] and "05.jpg" not in found.empty
    assert found.known == 39


def test_each_class_has_its_own_threshold():
    labels = table(good() * 0.3, ["a", "b", "c", "d"])
    assert diagnose(labels).dead == ["a", "b", "c", "d"]
    labels.meta["thresholds"] = [0.15] * 4
    found = diagnose(labels)
    assert found.photos == [10] * 4 and found.dead == [] and found.advice == []
