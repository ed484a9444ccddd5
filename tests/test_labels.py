"""The table of labels, its files, the comparison of two tables, and class names."""

from __future__ import annotations

import json
import math
import os
import sys

import pytest
import torch
from sklearn.metrics import average_precision_score

from mlclip.config import InputError
from mlclip.labels.class_files import read_thresholds, write_thresholds
from mlclip.labels.class_names import (
    CLASS_PRESETS,
    TEMPLATES,
    as_prompts,
    check_class_count,
    fill_template,
    parse_classes,
)
from mlclip.labels.matching import match_tables
from mlclip.labels.metrics import average_precision, mean_average_precision
from mlclip.labels.table import Labels, read_labels, write_labels

SUFFIXES = (".pt", ".csv", ".json", ".jsonl")
NAN = math.nan
UNUSUAL = [
    "a/1.jpg", "b/1.jpg", "-dash.jpg", "comma, and 'quote'.jpg", 'double "quoted".jpg', "new\nline.jpg", "carriage\rreturn.jpg",
    "both\r\n.jpg", " blanks around ", "tab\there.jpg", "emoji \U0001f431.jpg", "grüße.jpg", os.fsdecode(b"latin1-\xe9\xff.jpg"),
    "=1+1.jpg", "line\u2028separator.jpg", "#hash.jpg", "path",
]  # fmt: skip


def table(rows=5, classes=3, seed=0, meta=None):
    scores = torch.rand(rows, classes, generator=torch.Generator().manual_seed(seed))
    names = [f"class {c}, with a comma" for c in range(classes)]
    return Labels([f"p{i}.jpg" for i in range(rows)], names, scores, root="photos", meta=meta or {})


def same(a, b):
    return (
        a.paths == b.paths and a.classes == b.classes and torch.equal(a.scores.nan_to_num(-1), b.scores.nan_to_num(-1))
    )


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


def assert_refused(file, text, word, read=read_labels):
    """The file of this text is refused in one line with its name and the word."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=word) as error:
        read(file)
    assert file.name in one_line(error)


# -- the type


@pytest.mark.parametrize(
    ("paths", "classes", "scores", "word"),
    [
        (["a"], ["x", "y"], [[0.1]], "shape"),
        (["a", "a"], ["x"], [[0.1], [0.2]], "'a'"),
        (["a"], ["x", "x"], [[0.1, 0.2]], "'x'"),
        (["a"], ["x"], [[1.5]], "1.5"),
        (["a"], ["x"], [[-0.1]], "-0.1"),
        (["a"], ["x"], [[math.inf]], "inf"),
        ([""], ["x"], [[0.1]], "blank"),
        ([3], ["x"], [[0.1]], "not text"),
    ],
)
def test_a_table_with_inconsistent_or_invalid_parts_is_refused(paths, classes, scores, word):
    with pytest.raises(InputError, match=word):
        Labels(paths, classes, torch.tensor(scores))


def test_above_threshold_gives_the_names_of_each_photo_best_first():
    scores = torch.tensor([[0.6, 0.9, 0.5], [0.4, NAN, 0.1], [0.7, 0.7, 1.0]])
    labels = Labels(["a", "b", "c"], ["x", "y", "z"], scores)
    assert labels.above_threshold() == [["y", "x", "z"], [], ["z", "x", "y"]]
    labels.meta["thresholds"] = {"x": 0.4, "z": 1.0}
    assert labels.above_threshold() == [["y", "x"], ["x"], ["z", "x", "y"]]
    assert Labels([], ["x"], torch.empty(0, 1)).above_threshold() == []


def test_to_pandas_has_one_row_per_path_and_one_column_per_class():
    pytest.importorskip("pandas")
    labels = table()
    labels.scores[0, 0] = NAN
    frame = labels.to_pandas()
    assert frame.index.name == "path" and list(frame.index) == labels.paths and list(frame.columns) == labels.classes
    assert same(labels, Labels(list(frame.index), list(frame.columns), torch.tensor(frame.to_numpy())))
    frame.iloc[:] = 0
    assert labels.scores[1:].min() > 0  # the frame is a copy


def test_to_pandas_without_pandas_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        table().to_pandas()


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_thresholds_are_read_back_and_missing_classes_keep_their_default(tmp_path, suffix):
    classes, file = ['a "b", c', "Ärger", "class"], tmp_path / f"t{suffix}"
    write_thresholds(file, classes, [0.25, 0.5, 1.0])
    assert read_thresholds(file, classes, [0.0] * 3) == [0.25, 0.5, 1.0]
    assert read_thresholds(file, ["class", *classes[:2], "more"], [0.9] * 4) == [1.0, 0.25, 0.5, 0.9]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "class,threshold\ncow,0.5\n", "t.csv names unknown classes: cow. The classes are cat, dog"),
        ("t.json", '{"c\\now": 0.5}', r"t.json names unknown classes: c\now. The classes are cat, dog"),
        ("t.csv", "class,threshold\ncat,1.5\n", "t.csv, line 2: '1.5' is not a threshold"),
        ("t.csv", "class,threshold\ncat,\n", "t.csv, line 2: '' is not a threshold of 'cat'"),
        ("t.csv", "class,threshold\ncat,0.5\ncat,0.6\n", "t.csv, line 3: the class 'cat' is already in line 2"),
        ("t.csv", "class,threshold\ncat\n", "t.csv, line 2: 1 cells, but line 1 has 2"),
        ("t.csv", "cat,0.5\n", "t.csv, line 1: the line is not `class,threshold`"),
        ("t.json", '{"cat": 2}', "t.json: '2' is not a threshold"),
        ("t.json", '{"cat": true}', "t.json: 'True' is not a threshold of 'cat'"),
        ("t.json", "[0.5]", "t.json contains no thresholds"),
        ("t.json", "{", "t.json, line 1: not JSON"),
        ("gone.csv", None, "gone.csv not found. `mlclip export -o thresholds.csv`"),
    ],
)
def test_an_unusable_threshold_file_is_refused_in_one_line(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        read_thresholds(tmp_path / name, ["cat", "dog"], [0.5, 0.5])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_aligned_reorders_rows_and_columns_and_names_missing_classes():
    labels = table()
    turned = labels.aligned(labels.paths[::-1], labels.classes[:0:-1])
    assert torch.equal(turned.scores, labels.scores.flip(0)[:, [2, 1]]) and turned.root == "photos"
    with pytest.raises(InputError, match=r"unicorn.*class 0"):
        labels.aligned(labels.paths, ["unicorn"])
    labels.meta["thresholds"] = [0.1, 0.2, 0.3]
    assert labels.aligned(labels.paths, labels.classes[::-2]).thresholds.tolist() == pytest.approx([0.3, 0.1])
    assert labels.meta["thresholds"] == [0.1, 0.2, 0.3] and table().thresholds.tolist() == [0.5] * 3


# -- files


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_scores_and_unusual_names_are_read_back_exactly_in_every_format(tmp_path, suffix):
    labels = table(200, 7)
    labels.scores[0] = torch.tensor([0.0, 1.0, NAN, 1e-38, 1e-45, 1 - 2**-24, 1 / 3])
    for each in (labels, Labels(UNUSUAL, ["x", 'a "b", c'], torch.rand(len(UNUSUAL), 2))):
        write_labels(each, tmp_path / f"l{suffix}", overwrite=True)
        assert same(each, read_labels(tmp_path / f"l{suffix}"))


def test_true_labels_in_a_csv_are_1_0_and_empty_and_a_file_name_that_is_not_utf8_keeps_its_bytes(tmp_path):
    labels = Labels([os.fsdecode(b"\xe9.jpg")], ["x", "y", "z"], torch.tensor([[1, 0, NAN]]))
    write_labels(labels, tmp_path / "l.csv")
    assert (tmp_path / "l.csv").read_bytes() == b"path,x,y,z\n\xe9.jpg,1,0,\n"


def test_the_csv_can_be_read_by_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    labels = Labels(UNUSUAL, ["x", 'a "b", c'], torch.rand(len(UNUSUAL), 2))
    labels.scores[0, 1] = NAN
    write_labels(labels, tmp_path / "l.csv")
    # With pyarrow, pandas holds names that are not UTF-8 only as objects.
    frame = pandas.read_csv(tmp_path / "l.csv", dtype={"path": object}, encoding_errors="surrogateescape")
    paths = frame.pop("path").tolist()
    scores = torch.tensor(frame.to_numpy(), dtype=torch.float32)
    assert same(labels, Labels(paths, list(frame.columns), scores))
    assert labels.to_pandas().index.tolist() == labels.paths


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_output_is_ascii_and_contains_no_nan_or_infinity(tmp_path, suffix):
    fitted = {"offsets": torch.tensor([-torch.inf, 1.0])}  # of a class without a sure photo
    labels = Labels(UNUSUAL, ["x"], torch.full((len(UNUSUAL), 1), NAN), meta=fitted)
    write_labels(labels, tmp_path / f"l{suffix}")
    text = (tmp_path / f"l{suffix}").read_bytes().decode("ascii")
    for part in [text] if suffix == ".json" else text.splitlines():
        json.loads(part, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_root_and_meta_are_stored_with_the_table(tmp_path, suffix):
    meta = {"method": "cdul", "settings": {"zeta": 0.5, "temperature": None}, "skipped": [["a.jpg", "cut"]]}
    write_labels(table(meta=meta), tmp_path / f"l{suffix}")
    back = read_labels(tmp_path / f"l{suffix}")
    assert back.root == "photos" and back.meta == meta


def test_meta_that_cannot_be_read_back_is_not_written(tmp_path):
    with pytest.raises(TypeError, match=r"PosixPath|WindowsPath"):
        write_labels(table(meta={"a": [{"b": tmp_path}]}), tmp_path / "l.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_existing_file_is_replaced_only_with_overwrite(tmp_path, suffix):
    path = tmp_path / f"l{suffix}"
    write_labels(table(), path)
    with pytest.raises(InputError, match="`overwrite=True`"):
        write_labels(table(seed=1), path)
    assert same(read_labels(path), table())
    write_labels(table(seed=1), path, overwrite=True)
    assert same(read_labels(path), table(seed=1)) and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["l.dat", "labels", "l.pth"])
def test_an_unknown_suffix_is_refused_and_the_four_known_ones_are_named(tmp_path, name):
    for call in (lambda: write_labels(table(), tmp_path / name), lambda: read_labels(tmp_path / name)):
        with pytest.raises(InputError, match=r"\.pt, \.csv, \.json or \.jsonl"):
            call()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_and_a_folder_are_refused_with_their_name(tmp_path, suffix):
    with pytest.raises(InputError, match=f"gone{suffix} not found"):
        read_labels(tmp_path / f"gone{suffix}")
    (tmp_path / f"d{suffix}").mkdir()
    with pytest.raises(InputError, match=f"d{suffix}"):
        read_labels(tmp_path / f"d{suffix}")
    with pytest.raises(InputError, match="folder"):
        write_labels(table(), tmp_path / f"d{suffix}", overwrite=True)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_csv_from_a_spreadsheet_is_read_with_its_byte_order_mark_and_line_ends(tmp_path, encoding, end):
    text = end.join([" cat , path,dog", "1,grüße.jpg,0", "", ",b.jpg, 0.5 ", ""])
    (tmp_path / "l.csv").write_bytes(text.encode(encoding))
    labels = read_labels(tmp_path / "l.csv")
    assert labels.paths == ["grüße.jpg", "b.jpg"] and labels.classes == ["cat", "dog"]
    assert same(labels, Labels(labels.paths, ["cat", "dog"], torch.tensor([[1, 0], [NAN, 0.5]])))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "`path`"),
        ("size,cat\n3,1\n", "no column `path`"),
        ("a.jpg,1\nb.jpg,0\n", "line 1: the first line has a photo"),
        ("path,cat\na,1\nb,perhaps\n", "line 3: 'perhaps'"),
        ("path,cat\na,1\nb\n", "line 3: 1 cells"),
        ("path,cat\na,1,0\n", "line 2: 3 cells"),
        ("path,cat\na,1.1\n", "line 2: '1.1'"),
        ("path,cat\na,1\nb,0\na,0\n", "line 4: the path 'a' is already in line 2"),
        ("path,cat,cat\na,1,1\n", "line 1: the class 'cat'"),
        ("path,cat,\na,1,1\n", "line 1: a class has no name"),
        ("path,cat\n,1\n", "line 2: a path has no name"),
        ('path,cat\n"a"b,1\n', "line 2"),
        ("path\na\n", "no classes"),
        ('path,cat\n"a\nb",1\nc,2\n', "line 4"),  # line ends inside quotes count
    ],
)
def test_a_damaged_csv_is_refused_with_its_name_and_line(tmp_path, text, word):
    assert_refused(tmp_path / "l.csv", text, word)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"path": "a", "scores": {"x": 1}}\n{"path": "b"', "line 2: not JSON"),
        ('{"path": "a", "scores": {"x": 2}}', "line 1: '2'"),
        ('\n{"path": "a", "scores": [1]}', "line 2: it is not like"),
        ('{"path": 3, "scores": {"x": 1}}', "line 1"),
        ('{"path": "a", "scores": {"x": 1}}\n{"path": "a", "scores": {"x": 1}}', "line 2: the path 'a'"),
        ("[" * 100_000, "line 1"),
        ("", "no classes"),
    ],
)
def test_a_damaged_jsonl_is_refused_with_its_name_and_line(tmp_path, text, word):
    assert_refused(tmp_path / "l.jsonl", text, word)


def test_a_class_that_is_missing_in_a_jsonl_line_is_unknown_for_that_photo(tmp_path):
    (tmp_path / "l.jsonl").write_text(
        '{"path": "a", "scores": {"x": 1}}\n{"path": "b", "scores": {"y": 0}, "more": 1}\n'
    )
    assert same(read_labels(tmp_path / "l.jsonl"), Labels(["a", "b"], ["x", "y"], torch.tensor([[1, NAN], [NAN, 0]])))


def test_a_damaged_json_is_refused_with_its_name(tmp_path):
    write_labels(table(), tmp_path / "good.json")
    good = json.loads((tmp_path / "good.json").read_text())
    bad = [{"format": "x"}, {"version": 1}, {"scores": [[0.1]] * 5}, {"classes": None}, {"paths": 3}, {"scores": None}]
    for change in bad:
        assert_refused(tmp_path / "bad.json", json.dumps(good | change), r"bad\.json")


def test_a_pt_with_wrong_entries_is_refused_with_its_name(tmp_path):
    write_labels(table(), tmp_path / "l.pt")
    good = torch.load(tmp_path / "l.pt", weights_only=True)
    scores = good["scores"]
    wrong = [scores[:2], scores.double(), scores + 1, scores[0]]
    for change in [*({"scores": s} for s in wrong), {"paths": [1] * 5}, {"classes": "abc"}]:
        torch.save(good | change, tmp_path / "bad.pt")
        with pytest.raises(InputError, match=r"bad\.pt"):
            read_labels(tmp_path / "bad.pt")


# -- comparing two tables


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_average_precision_equals_sklearn_with_ties_and_unknown_truth(seed, levels):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (300,), generator=generator) / levels
    truth = (torch.rand(300, generator=generator) < 0.2).float()
    truth[torch.rand(300, generator=generator) < 0.1] = NAN
    known = ~truth.isnan()
    assert average_precision(scores, truth) == pytest.approx(
        average_precision_score(truth[known], scores[known]), abs=1e-9
    )


def test_average_precision_by_hand():
    """The example of the docstring; scores equal in half precision; no positives or rows; a missing score never helps."""
    truth = torch.tensor([1.0, 0, 1])
    assert average_precision(torch.tensor([0.9, 0.8, 0.7]), truth) == pytest.approx(5 / 6, abs=1e-12)
    assert average_precision(torch.tensor([0.9999999, 0.99999994]), torch.tensor([0.0, 1.0])) == 1.0
    for known in (torch.zeros(3), torch.full((3,), NAN), torch.empty(0)):
        assert math.isnan(average_precision(torch.rand(len(known)), known))
    missing, low = (average_precision(torch.tensor([0.9, 0.1, last]), truth) for last in (NAN, 0.2))
    assert missing < low
    with pytest.raises(InputError, match="other than 1 and 0"):
        average_precision(torch.rand(3), torch.tensor([0.3, 0, 1]))


def test_map_matches_rows_by_path_and_classes_by_name():
    labels, flips = table(40, 4), torch.randint(2, (40, 4), generator=torch.Generator().manual_seed(1)).float()
    truth = Labels(labels.paths, labels.classes, flips)
    expected = [average_precision_score(flips[:, c], labels.scores[:, c]) for c in range(4)]
    shuffled = truth.aligned(labels.paths[::-1], [labels.classes[i] for i in (2, 0, 3, 1)])
    for known in (truth, shuffled):
        mean, each = mean_average_precision(labels, known)
        assert list(each) == labels.classes
        assert list(each.values()) == pytest.approx(expected, abs=1e-9)
        assert mean == pytest.approx(sum(expected) / 4, abs=1e-9)


def test_a_class_without_positives_is_listed_but_not_counted():
    labels = Labels(["a", "b"], ["x", "y"], torch.rand(2, 2))
    mean, each = mean_average_precision(labels, Labels(["a", "b"], ["x", "y"], torch.tensor([[1, 0], [1, NAN]])))
    assert math.isnan(mean) and math.isnan(each["x"])  # no negative photo
    labels.scores[:, 0] = torch.tensor([0.9, 0.1])
    mean, each = mean_average_precision(labels, Labels(["a", "b"], ["x", "y"], torch.tensor([[1, 0], [0, NAN]])))
    assert mean == each["x"] == 1.0 and math.isnan(each["y"])
    mean, _ = mean_average_precision(labels, Labels(["a", "b"], ["y"], torch.zeros(2, 1)))
    assert math.isnan(mean)


def test_tables_without_a_shared_photo_or_class_are_refused_with_examples():
    labels = Labels(["a.jpg"], ["cat"], torch.ones(1, 1))
    with pytest.raises(InputError, match=r"'a\.jpg' and 'b\.jpg'"):
        mean_average_precision(labels, Labels(["b.jpg"], ["cat"], torch.ones(1, 1)))
    with pytest.raises(InputError, match=r"cat \| dog"):
        mean_average_precision(labels, Labels(["a.jpg"], ["dog"], torch.ones(1, 1)))
    with pytest.raises(InputError, match="no photo"):
        mean_average_precision(labels, Labels([], ["cat"], torch.ones(0, 1)))


def test_the_summary_of_a_match_counts_photos_and_classes_and_names_the_first_without_a_match():
    labels = Labels([f"{n:02d}.jpg" for n in range(12)], ["cat", "dog"], torch.rand(12, 2))
    truth = Labels(["01.jpg", "07.jpg", "x.jpg"], ["cow", "cat"], torch.ones(3, 2))
    assert match_tables(labels, truth).summary() == [
        "labels: 2 of 12 photos and 1 of 2 classes matched "
        "(photos not matched: 00.jpg, 02.jpg, 03.jpg, ... (10 in total); classes not matched: dog)",
        "truth: 2 of 3 photos and 1 of 2 classes matched (photos not matched: x.jpg; classes not matched: cow)",
    ]
    complete = match_tables(labels, labels).summary("model.pt", "truth.csv")
    assert complete == [f"{name}: 12 of 12 photos and 2 of 2 classes matched" for name in ("model.pt", "truth.csv")]


# -- class names


def test_the_presets_have_the_number_and_order_of_classes_of_their_data_sets():
    assert {name: len(classes) for name, classes in CLASS_PRESETS.items()} == {"voc": 20, "coco": 80, "nuswide": 81}
    assert list(CLASS_PRESETS["voc"]) == sorted(CLASS_PRESETS["voc"])
    assert list(CLASS_PRESETS["nuswide"]) == sorted(CLASS_PRESETS["nuswide"])
    assert CLASS_PRESETS["voc"]["tvmonitor"] == "tv monitor" and CLASS_PRESETS["voc"]["cat"] == "cat"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_class_file_is_read_with_any_encoding_and_line_end_of_an_editor(tmp_path, encoding, end):
    text = end.join(["# animals", "", " cat ", "chien = a dog, small", "  # end", "C#", ""])
    (tmp_path / "c.txt").write_bytes(text.encode(encoding))
    assert parse_classes(tmp_path / "c.txt") == {"cat": "cat", "chien": "a dog, small", "C#": "C#"}


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "no class name"),
        (b"\n# only\n", "no class name"),
        (b"cat\ndog\ncat \n", r"'cat' \(line 1\) and 'cat' \(line 3\)"),
        (b"cat\nCAT\n", r"'cat' \(line 1\) and 'CAT' \(line 2\)"),
        (b"a=x\nb=x\n", r"'a = x' \(line 1\) and 'b = x' \(line 2\)"),
        (b"cat =\n", "blank"),
        (b"= cat\n", "blank"),
        (b"caf\xe9\ntea\n", "UTF-8"),
        (b"\x89PNG\r\n", "UTF-8"),
        (b"PK\x03\x04\0\0cat", "UTF-8"),
        (b"c\0\0\0t\0\n\0", "UTF-8"),
        (b"\xff\xfec", "UTF-8"),
    ],
)
def test_an_unusable_class_file_is_refused_with_its_name(tmp_path, data, word):
    assert_refused(tmp_path / "c.txt", data, word, parse_classes)


def test_classes_are_accepted_as_a_dict_a_list_or_a_text(tmp_path):
    (tmp_path / "c.txt").write_text("cat\ndog = a small dog\n")
    expected = {"cat": "cat", "dog": "a small dog"}
    forms = (expected, ["cat", "dog = a small dog"], ("cat", "dog=a small dog"), "cat,dog=a small dog")
    for classes in (*forms, str(tmp_path / "c.txt"), tmp_path / "c.txt"):
        assert as_prompts(classes) == expected and list(as_prompts(classes)) == list(expected)
    as_prompts(expected)["bird"] = "bird"
    assert "bird" not in expected
    as_prompts("voc").clear()
    assert as_prompts("voc") == CLASS_PRESETS["voc"] and len(CLASS_PRESETS["voc"]) == 20
    assert as_prompts(["hot dog, with mustard"]) == {"hot dog, with mustard": "hot dog, with mustard"}


@pytest.mark.parametrize(
    ("classes", "word"),
    [
        ([], "no class name"),
        ({}, "no class name"),
        (["cat", " "], "blank"),
        (["cat", "dog ="], "blank"),
        ({"cat": ""}, "blank"),
        ({" ": "cat"}, "blank"),
        (["cat", "cat"], r"'cat' \(entry 1\) and 'cat'"),
        (["cat", "CAT"], r"'cat' \(entry 1\) and 'CAT'"),
        ({"a": "x", "b": "X"}, "'a = x' and 'b = X'"),
        (["cat", 3], "3, which is not text"),
        ({"cat": None}, "None, which is not text"),
        ("cat,,dog", "blank"),
        ("", "blank"),
        ("cat,dog,Dog", r"'dog' \(entry 2\) and 'Dog'"),
        ("missing.txt", "no class file"),
        ("no/such/file", "no class file"),
    ],
)
def test_unusable_classes_are_refused_in_every_form(classes, word):
    with pytest.raises(InputError, match=word) as error:
        as_prompts(classes)
    one_line(error)


def test_a_single_class_needs_contrast_names():
    with pytest.raises(InputError, match=r"'cat'.*`contrast`"):
        check_class_count(["cat"])
    with pytest.raises(InputError, match=r"no classes given.*`classes`"):
        check_class_count([], ["dog"])
    check_class_count({"cat": "cat"}, ["dog"])


def test_a_template_inserts_the_name_unchanged():
    assert fill_template("a photo of a {}", "{}{0} {x}") == "a photo of a {}{0} {x}"
    assert all(fill_template(template, "cat") for templates in TEMPLATES.values() for template in templates)
    for template in ("a photo", "{} and {}", "{0}"):
        with pytest.raises(InputError, match="once"):
            fill_template(template, "cat")
