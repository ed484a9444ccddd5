"""A folder labelled in parts by the values of one fit, and several files of labels read as one table."""

from __future__ import annotations

import json

import pytest
import torch

from mlclip import InputError, Labels, Progress, read_labels, train, write_labels
from mlclip.cli import _status
from mlclip.demo import write_scenes
from mlclip.labels.parts import missing_numbers

PARTS = ("a", "b", "c")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder with drawn scenes in three folders: labels of the sample in a, and of all by these values, together and in parts."""
    folder = tmp_path_factory.mktemp("parts")
    write_scenes(folder / "drawn", train=17, test=0, seed=3)
    for number, photo in enumerate(sorted((folder / "drawn" / "train").iterdir())):
        place = folder / "photos" / PARTS[number // 8]
        place.mkdir(parents=True, exist_ok=True)
        photo.rename(place / photo.name)
    (folder / "photos" / "b" / "broken.jpg").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        classes = ["--classes", "drawn/classes.txt", "--clip", "tiny", "--method", "centred", "-q"]
        patch.setenv("MLCLIP_CACHE", str(folder / "cache"))
        assert _status(["pseudolabel", "photos/a", *classes, "-o", "sample.pt"]) == 0
        assert (
            _status(["pseudolabel", "photos", "--like", "sample.pt", "-o", "whole.pt", "--store", "store", "-q"]) == 3
        )
        for number, part in enumerate(PARTS):
            more = ["--like", "sample.pt", "--store", f"store-{part}", "-o", f"labels-{number}.pt", "-q"]
            assert _status(["pseudolabel", f"photos/{part}", *more]) == (3 if part == "b" else 0)
        yield folder


def test_parts_have_the_labels_of_a_single_run(parts):
    whole, joined = read_labels("whole.pt"), read_labels("labels-*.pt")
    assert joined.paths == whole.paths and joined.root == whole.root and joined.classes == whole.classes
    assert torch.equal(joined.scores, whole.scores)
    assert torch.equal(joined.meta["content"], whole.meta["content"])
    assert joined.meta["skipped"] == whole.meta["skipped"] == [["b/broken.jpg", joined.meta["skipped"][0][1]]]
    for key in ("clip", "settings", "thresholds", "prompts"):
        assert joined.meta[key] == whole.meta[key]
    assert "store" not in joined.meta and joined.meta["fitted"].keys() == whole.meta["fitted"].keys()
    listed = read_labels([f"labels-{number}.pt" for number in (2, 0)])
    assert listed.paths == [f"c/{path}" for path in read_labels("labels-2.pt").paths] + joined.paths[:8]


def test_train_evaluate_and_report_take_a_pattern(parts, capfd, monkeypatch):
    whole = read_labels("whole.pt")
    monkeypatch.setattr("mlclip.training.train.train_student", lambda table, *_, **__: table)
    assert torch.equal(train("labels-*.pt", "model.pt", progress=Progress(), device="cpu").scores, whole.scores)
    write_labels(Labels(whole.paths, whole.classes, (whole.scores >= whole.thresholds).float()), "truth.csv")
    found = []
    for labels in ("whole.pt", "labels-*.pt"):
        assert _status(["evaluate", "--labels", labels, "--truth", "truth.csv", "--format", "json", "-q"]) == 0
        found.append(json.loads(capfd.readouterr().out))
    assert found[0] == found[1] and found[0]["photos_matched"] == 17
    assert _status(["report", "--labels", "labels-*.pt", "-o", "page.html", "-q"]) == 0
    with pytest.raises(InputError, match=r"`save_labels` labels-1\.pt would replace"):
        train(["labels-0.pt", "labels-1.pt"], "other.pt", save_labels="labels-1.pt", progress=Progress())


def test_corrections_of_parts_are_kept(parts, tmp_path):
    files = []
    for number in (0, 1):
        part = read_labels(f"labels-{number}.pt")
        part.meta["corrections"] = {part.paths[0]: {part.classes[0]: 1}}
        write_labels(part, tmp_path / f"{number}.json")
        files.append(tmp_path / f"{number}.json")
    first = [path for number, part in enumerate("ab") for path in [f"{part}/{read_labels(files[number]).paths[0]}"]]
    assert read_labels(files).meta["corrections"] == {path: {part.classes[0]: 1} for path in first}


def of_other_teacher(part: Labels) -> None:
    part.meta["clip"] = part.meta["clip"] | {"sha256": "0" * 64}


def of_other_fit(part: Labels) -> None:
    part.meta["fitted"]["levels"][0, 0] += 1


def with_other_classes(part: Labels) -> None:
    part.classes = part.classes[::-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of_other_teacher, "their teacher's sha256 differ"),
        (of_other_fit, "their fitted values differ"),
        (with_other_classes, "their classes differ"),
        (lambda part: part.meta.update(thresholds=0.3), "their thresholds differ"),
        (lambda part: part.meta.pop("fitted"), "their fitted values differ"),
    ],
)
def test_parts_of_different_kinds_are_an_error_that_names_the_file(parts, tmp_path, change, words):
    part = read_labels("labels-1.pt")
    change(part)
    write_labels(part, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=f"odd.pt and labels-0.pt are of different kinds: {words}"):
        read_labels(["labels-0.pt", tmp_path / "odd.pt"])


def test_a_photo_in_two_parts_and_a_pattern_without_files_are_an_error(parts, capfd):
    assert _status(["train", "--labels", "nothing-*.pt"]) == 1
    assert "nothing-*.pt: no file has such a name" in capfd.readouterr().err
    path = read_labels("whole.pt").paths[0]
    with pytest.raises(InputError, match=f"the photo {path} is in labels-0.pt and in whole.pt"):
        read_labels(["labels-0.pt", "whole.pt"])


def test_a_missing_part_gets_a_warning(parts, tmp_path):
    lines = []
    progress = Progress()
    progress.log = lines.append
    for number in (0, 2):
        write_labels(read_labels(f"labels-{number}.pt"), tmp_path / f"labels-{number}.pt")
    assert len(read_labels(str(tmp_path / "labels-*.pt"), progress=progress)) == 9
    assert len(lines) == 1 and "labels-2.pt: there is no file with number 1" in lines[0]
    assert missing_numbers(["2026-05-01.pt", "2026-05-08.pt"]) == [] == missing_numbers(["a.pt", "b-1.pt"])
