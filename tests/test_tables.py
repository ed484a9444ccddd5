"""Tables as other programs write them: what is read, what is asked, what is matched; and our files in other programs."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pandas
import pytest
import torch

from mlclip.cli import _status
from mlclip.cli.export import TOOLS
from mlclip.config import InputError, TableOptions
from mlclip.labels.class_files import read_thresholds, write_thresholds
from mlclip.labels.matching import enough_match, match_classes, match_paths
from mlclip.labels.metrics import matched_cells
from mlclip.labels.table import Labels, read_labels, write_labels
from mlclip.progress import Progress

NAN = math.nan
RECIPES = "docs/formats.md"
TWO = {"a.jpg": {"cat": 1, "dog": 0}, "b.jpg": {"cat": 0, "dog": 1}}
THREE = {"a.jpg": {"cat": 1, "dog": 1}, "b.jpg": {"cat": 0, "dog": 1}, "c.jpg": {"cat": 0, "dog": 0}}
VOC = {"a": {"cat": 1, "dog": 0}, "b": {"cat": 0, "dog": NAN}}


class Said(Progress):
    def __init__(self):
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


def read(tmp_path, text, known=(), name="t.csv", **options) -> tuple[dict, list[str]]:
    """{path: {class: score}} of a table, and the lines about how it was read."""
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    said = Said()
    labels = read_labels(tmp_path / name, TableOptions(**options), progress=said, known_classes=known)
    rows = zip(labels.paths, labels.scores.tolist(), strict=True)
    return {path: dict(zip(labels.classes, row, strict=True)) for path, row in rows}, said.lines


def equal(found: dict, wanted: dict) -> bool:
    return repr(found) == repr({path: {c: float(v) for c, v in row.items()} for path, row in wanted.items()})


ONE_COLUMN_PER_CLASS = {
    "paths as pandas' index": ",cat,dog\na.jpg,1,0\nb.jpg,0,1\n",
    "R's row names": '"path","cat","dog"\n"1","a.jpg",1,0\n"2","b.jpg",0,1\n',
    "yes and no": "path,cat,dog\na.jpg,yes,no\nb.jpg,N,Y\n",
    "decimal commas": "path;cat;dog\na.jpg;1,0;0,0\nb.jpg;0,0;1,0\n",
    "UTF-16 without a mark": "path\tcat\tdog\na.jpg\t1\t0\nb.jpg\t0\t1\n".encode("utf-16-le"),
    "a sep= line": "sep=;\r\npath;cat;dog\r\na.jpg;1;0\r\nb.jpg;0;1\r\n",
    "empty columns and rows at the end": "path,cat,dog,,\na.jpg,1,0,,\nb.jpg,0,1,,\n,,,,\n,,,,\n",
    "a blank header in the middle": "path,,cat,dog\na.jpg,,1,0\nb.jpg,,0,1\n",
    "blanks and a byte-order mark": '\ufeff path , "cat" ,dog\u200b\na.jpg, 1 ,0\nb.jpg,0,1 \n'.replace('"', ""),
    "a split": "path,split,cat,dog\na.jpg,train,1,0\nb.jpg,val,0,1\n",
    "fastai's is_valid": "path,cat,dog,is_valid\na.jpg,1,0,False\nb.jpg,0,1,True\n",
    "other text": "path,cat,dog,notes\na.jpg,1,0,blurry\nb.jpg,0,1,\n",
    "a column that only its cells explain": "Foto,cat,dog\na.jpg,1,0\nb.jpg,0,1\n",
    "a mask beside the photo": "image,mask,cat,dog\na.jpg,a_mask,1,0\nb.jpg,b_mask,0,1\n",
} | {
    f"the header {name!r}": f"{name},cat,dog\na.jpg,1,0\nb.jpg,0,1\n"
    for name in ("filename", "image", "image_id", "Path", "img", "name", "Image ID", "fname", "photo")
}


@pytest.mark.parametrize("text", ONE_COLUMN_PER_CLASS.values(), ids=ONE_COLUMN_PER_CLASS)
def test_a_table_with_a_column_per_class_has_the_same_labels_however_it_is_written(tmp_path, text):
    found, said = read(tmp_path, text)
    assert equal(found, TWO)
    assert all(str(tmp_path / "t.csv") in line and "\n" not in line for line in said)


NAMES_IN_ONE_COLUMN = {
    "semicolons": "filename,labels\na.jpg,cat;dog\nb.jpg,dog\nc.jpg,\n",
    "semicolons at the end": "filename,labels\na.jpg,cat; dog;\nb.jpg,dog;\nc.jpg,\n",
    "commas": 'filename,tags\na.jpg,"cat, dog"\nb.jpg,dog\nc.jpg,\n',
    "numbers about the photos": "Image Index,Finding Labels,Patient Age,Follow-up #\na.jpg,cat|dog,58,0\nb.jpg,dog,60,1\nc.jpg,,61,2\n",
    "COCO's names": 'image_id,file_name,category_id,category_name,bbox\n1,a.jpg,17,cat,"[1, 2]"\n1,a.jpg,18,dog,"[1, 2]"\n'
    '2,b.jpg,18,dog,"[0, 1]"\n3,c.jpg,,,\n',
    "commas between semicolons": "filename;tags\na.jpg;cat,dog\nb.jpg;dog\nc.jpg;\n",
    "pipes": "image,Labels\na.jpg,cat|dog\nb.jpg,dog\nc.jpg,\n",
    "JSON": 'image,labels\na.jpg,"[""cat"",""dog""]"\nb.jpg,"[""dog""]"\nc.jpg,[]\n',
    "Python": "image,labels\na.jpg,\"['cat', 'dog']\"\nb.jpg,['dog']\nc.jpg,[]\n",
    "fastai": "fname,labels,is_valid\na.jpg,cat;dog,True\nb.jpg,dog,False\nc.jpg,,False\n",
    "Label Studio": 'annotation_id,choice,id,image,lead_time\n1,"{""choices"": [""cat"", ""dog""]}",1,a.jpg,2.5\n'
    "2,dog,2,b.jpg,1.5\n3,,3,c.jpg,0.5\n",
    "one row per pair": "path,label\na.jpg,cat\na.jpg,dog\nb.jpg,dog\nc.jpg,\n",
    "boxes": "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,9,9,cat,0,0,1,1\na.jpg,9,9,dog,0,0,1,1\n"
    "a.jpg,9,9,dog,1,1,1,1\nb.jpg,9,9,dog,0,0,1,1\nc.jpg,9,9,,,,,\n",
}


@pytest.mark.parametrize("text", NAMES_IN_ONE_COLUMN.values(), ids=NAMES_IN_ONE_COLUMN)
def test_a_column_of_class_names_has_the_same_labels_however_it_is_written(tmp_path, text):
    assert equal(read(tmp_path, text)[0], THREE)


@pytest.mark.parametrize(
    ("text", "options", "wanted"),
    [
        ("path,cat,dog\na,1,-1\nb,-1,0\n", {}, VOC),
        ("path,cat,dog\na,1,-1\nb,-1,\n", {"minus_one": "absent"}, VOC),
        ("path,cat,dog\na,1,0\nb,0,-1\n", {"minus_one": "unknown"}, VOC),
        ("path,cat,dog\na,0.9,-1\nb,0.2,0\n", {}, {"a": {"cat": 0.9, "dog": NAN}, "b": {"cat": 0.2, "dog": 0}}),
        ("path,cat,dog\na,1,0\nb,no,?\n", {}, VOC),
        ("path,cat,dog\na,1,0\nb,0,n/a\n", {}, VOC),
        ("path,cat,dog\na,1,0\nb,0,NaN\n", {}, VOC),
        ("p,cat,dog\na,1,0\nb,0,?\n", {"path_column": "p"}, VOC),
        ("path,fold,cat,dog\nx,3,1,1\na,2,1,0\nb,2,0,?\n", {"split": "fold=2"}, VOC),
        ("path,split,cat,dog\nz,val,1,1\na,train,1,0\nb,train,0,?\n", {"split": "train"}, VOC),
        ("path,labels,is_valid\na,cat;dog,True\nb,dog,False\nc,cat,False\n", {"split": "is_valid=True"}, {"a": {"cat": 1, "dog": 1}}),
        ("path,class\na,potted plant\nb,dog\n", {}, {"a": {"potted plant": 1, "dog": 0}, "b": {"potted plant": 0, "dog": 1}}),
        ("path,labels\na,cat\nb,nan\n", {}, {"a": {"cat": 1}, "b": {"cat": NAN}}),
        ("path,cat,dog\na,1,-1\nb,-1,1\n", {}, {"a": {"cat": 1, "dog": 0}, "b": {"cat": 0, "dog": 1}}),
        ("foto;a,b;c\nx;1,0;1\n", {"path_column": "foto"}, {"x": {"a,b": 1, "c": 1}}),
    ],
)  # fmt: skip
def test_an_option_or_the_table_itself_decides_between_two_readings(tmp_path, text, options, wanted):
    found, _ = read(tmp_path, text, **options)
    rounded = {path: {name: round(score, 6) for name, score in row.items()} for path, row in found.items()}
    assert equal(rounded, wanted)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,cat,dog\na,1,-1\nb,0,0\n", ["line 2: '-1'", "(0 is then unknown)", '`minus_one="absent"`', '`minus_one="unknown"`']),
        ("image,photo,cat\nx,y,0\nz,u,1\n", ['`path_column="image"`', '`path_column="photo"`']),
        ("path,labels\na,potted plant\nb,dog\n", ["line 2: 'potted plant'", RECIPES]),
        ("path,labels\na,potted plant dog\nb,dog\nc,potted plant\n", ["'potted plant'", RECIPES]),
        ('path,labels\na,"cat;big, brown dog"\n', ["line 2", RECIPES]),
        ("path,label\na,1\nb,0\n", ["'label' has numbers", RECIPES]),
        ("path,label\na,3\nb,5\n", ["'3' is not a score", RECIPES]),
        ("path,label,cat\na,dog,0\nb,cat,1\n", ["'label'", "'cat'", RECIPES]),
        ("path,class,score\na,cat,1\na,dog,0\nb,cat,0\n", ["'class'", "'score'", RECIPES]),
        ("path,label,tag\na,dog,x\nb,cat,y\n", ["several columns", "'label'", "'tag'", RECIPES]),
        ("path,cat,dog\na,x,\nb,,x\n", ["no classes", RECIPES]),
        ("path,cat,dog\na,1,-\nb,0,1\n", ["line 2: '-'", RECIPES]),
        ("path,cat\na,85%\n", ["line 2: '85%'", "divide percentages by 100"]),
        ("path,species_name\na,tiger\nb,wolf\n", ["no classes", RECIPES]),
        ("Datei;K\xfche\na.jpg;1\n".encode("cp1252"), ["UTF-8"]),
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused_in_one_line_with_what_helps(tmp_path, text, words):
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    message = str(error.value)
    assert "t.csv" in message and "\n" not in message
    assert all(word in message for word in words), message


def test_the_classes_of_the_other_table_say_where_a_name_ends(tmp_path):
    text = "path,labels\na,potted plant\nb,dog\n"
    assert list(read(tmp_path, text, known=["dog", "potted plant"])[0]["a"]) == ["potted plant", "dog"]
    assert list(read(tmp_path, text, known=["dog", "potted", "plant"])[0]["a"]) == ["potted", "plant", "dog"]
    with pytest.raises(InputError, match="several"):
        read(tmp_path, text, known=["dog", "potted", "plant", "cow"][:2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "test"}, "'split' has train, val"),
        ({"split": "fold=1"}, "in no column"),
        ({"path_column": "photo"}, None),  # the table has `path`
    ],
)
def test_an_option_that_does_not_fit_the_table_is_refused_with_what_it_has(tmp_path, options, words):
    text = "path,split,cat\na,train,0\nb,val,1\n"
    if words is None:
        assert len(read(tmp_path, text, **options)[0]) == 2
    else:
        with pytest.raises(InputError, match=words):
            read(tmp_path, text, **options)


def test_every_applied_rule_is_said_once_and_a_table_of_ours_says_nothing(tmp_path):
    _, said = read(tmp_path, ";Image;split;cat;dog;\n0;a.jpg;val;yes;0,5;\n1;b.jpg;val;no;?;\n")
    for word in ("semicolons", "'Image'", "ignored", "'split'"):
        assert sum(word in line for line in said) == 1, (word, said)
    assert read(tmp_path, "path,cat,dog\na.jpg,1,0\nb.jpg,,0.5\n")[1] == []


def test_a_table_without_any_absent_class_gets_a_line_that_says_so(tmp_path):
    assert "empty cells are unknown" in read(tmp_path, "path,cat\na,1\nb,\n")[1][0]


# -- matching


@pytest.mark.parametrize(
    ("first", "second", "wanted", "words"),
    [
        (["a.jpg", "b.jpg"], ["b.jpg", "a.jpg"], [(0, 1), (1, 0)], None),
        (["a.jpg", "b.jpg"], ["A.JPG", "b.jpg"], [(0, 0), (1, 1)], "letter case"),
        (["a.jpg", "A.jpg"], ["A.JPG"], [], None),
        (["x/a.jpg"], ["x\\a.jpg"], [(0, 0)], "slashes"),
        (["x/a.jpg"], ["./x/a.jpg"], [(0, 0)], "slashes"),
        (["é.jpg"], ["e\u0301.jpg"], [(0, 0)], "accents"),
        (["x/1.jpg", "y/1.jpg"], ["/home/u/x/1.jpg", "/home/u/y/1.jpg"], [(0, 0), (1, 1)], "absolute"),
        (["x/1.jpg"], ["C:\\photos\\X\\1.JPG"], [(0, 0)], "absolute"),
        (["1.jpg", "2.jpg"], ["/p/1.jpg", "2.jpg"], [(0, 0), (1, 1)], "absolute"),
        (["1.jpg"], ["/p/1.jpg", "/q/1.jpg"], [], None),
        (["1.jpg"], ["file:///p/1.jpg"], [(0, 0)], "absolute"),
        (["2008_000008.jpg"], ["2008_000008"], [(0, 0)], "suffix"),
        (["JPEGImages/2008_000008.jpg"], ["2008_000008"], [(0, 0)], "suffix"),
        (["a.jpg", "a.png"], ["a"], [], None),
        (["a.jpg"], ["a.png"], [], None),
        (["train/1.jpg", "train/2.jpg"], ["imgs/train/1.jpg", "imgs/train/2.jpg"], [(0, 0), (1, 1)], "end of the path"),
        (["old/1.jpg"], ["new/1.jpg"], [], None),
        (["q/1.jpg", "3.jpg"], ["q/1.jpg", "q/3.jpg"], [(0, 0)], None),
    ],
)  # fmt: skip
def test_paths_match_where_one_pair_fits_and_the_rule_is_said(first, second, wanted, words):
    for one, two, pairs in ((first, second, wanted), (second, first, [(j, i) for i, j in wanted])):
        found, notes = match_paths(one, two)
        assert found == sorted(pairs)
        assert len(notes) == (words is not None) and all(words in note for note in notes), notes


def test_classes_match_in_any_spelling_that_is_unique():
    found, notes = match_classes(
        ["potted plant", "Cat", "tv-monitor", "dog"], ["dog", "pottedplant", "cat", "tv_monitor"]
    )
    assert found == [(0, 1), (1, 2), (2, 3), (3, 0)]
    assert len(notes) == 1 and "3 matched" in notes[0] and "potted plant = pottedplant" in notes[0]
    assert match_classes(["cat", "CAT"], ["Cat"])[0] == []


def test_matched_rows_and_classes_keep_their_own_scores():
    labels = Labels(["b.jpg", "a.jpg"], ["dog", "Cat"], torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
    truth = Labels(["A.JPG", "B.JPG"], ["cat", "dog"], torch.tensor([[1.0, 0], [0, 1]]))
    scores, known = matched_cells(labels, truth)
    assert torch.equal(scores, labels.scores) and known.tolist() == [[1, 0], [0, 1]]


def test_fewer_than_half_of_the_smaller_table_is_refused_unless_partial():
    labels = Labels([f"{n}.jpg" for n in range(10)], ["x", "y"], torch.ones(10, 2))
    truth = Labels(["0.jpg", "z1.jpg", "z2.jpg"], ["x", "y"], torch.ones(3, 2))
    with pytest.raises(InputError, match=r"only 1 of 3 photos of t\.csv are in p\.csv .*not there: z1\.jpg, z2\.jpg"):
        enough_match(labels, truth, "p.csv", "t.csv")
    enough_match(labels, truth, "p.csv", "t.csv", partial=True)
    few = truth.aligned(["0.jpg"], ["x"])  # few photos are enough if all of them match
    enough_match(labels, few, "p.csv", "t.csv")
    odd = Labels(labels.paths, ["x", "kat", "hund"], torch.ones(10, 3))
    three = Labels(labels.paths, ["x", "cat", "dog"], torch.ones(10, 3))
    with pytest.raises(InputError, match="only 1 of 3 classes"):
        enough_match(three, odd, "p.csv", "t.csv")


# -- the commands


@pytest.fixture
def scores(tmp_path, monkeypatch) -> Labels:
    monkeypatch.chdir(tmp_path)
    labels = Labels(
        ["a.jpg", "b.jpg", "c.jpg"], ["cat", "potted plant"], torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.3]])
    )
    write_labels(labels, "p.csv")
    return labels


def evaluated(capsys, text: str | bytes, *options: str) -> tuple[int, dict, str]:
    Path("truth.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    status = _status(["evaluate", "--labels", "p.csv", "--truth", "truth.csv", "--format", "json", *options])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out else {}, err


PLAIN = "path,cat,potted plant\na.jpg,1,0\nb.jpg,1,1\nc.jpg,0,0\n"


def test_evaluate_says_how_a_table_was_read_and_matched_and_takes_its_options(scores, capsys):
    status, plain, err = evaluated(capsys, PLAIN)
    assert status == 0 and "3 of 3 photos and 2 of 2 classes matched" in err
    text = ";Image;Cat;potted_plant\n0;A.JPG;True;False\n1;B.JPG;True;True\n2;C.JPG;False;False\n"
    assert "letter case" in evaluated(capsys, text)[2]
    text = PLAIN.replace("\n", ",val\n").replace("plant,val", "plant,split") + "z.jpg,1,1,test\n"
    _, found, err = evaluated(capsys, text, "--set", "split=val")
    assert found["AP"] == plain["AP"] and "3 of 4 rows" in err


def test_evaluate_names_the_options_of_the_command_line(scores, capsys):
    status, _, err = evaluated(capsys, "path,cat\na.jpg,1\nb.jpg,-1\nc.jpg,0\nd.jpg,0\n")
    assert status == 1 and "--set minus_one=absent or --set minus_one=unknown" in err and err.count("\n") == 1


def test_evaluate_fails_where_most_of_the_truth_is_not_in_the_scores_unless_partial(scores, capsys):
    write_labels(Labels([f"{n}.jpg" for n in "abcde"], ["cat"], torch.ones(5, 1)), "p.csv", overwrite=True)
    text = "path,cat\na.jpg,1\nb.jpg,0\nx.jpg,0\ny.jpg,0\nz.jpg,0\n"
    status, _, err = evaluated(capsys, text)
    assert status == 1 and "2 of 5 photos" in err and "--set", "partial=true" in err and "x.jpg" in err
    status, found, err = evaluated(capsys, text, "--set", "partial=true")
    assert status == 0 and found["photos_matched"] == 2 and "truth.csv: 2 of 5 photos" in err


NAMES = ["no", "NA", "null", "1e3", "=1+1"]


@pytest.mark.parametrize("form", ["l.pt", "l.csv", "l.json", "l.jsonl", *(tool for tool in TOOLS if tool != "folders")])
def test_what_mlclip_writes_it_reads_whatever_the_classes_are_called(tmp_path, monkeypatch, capsys, form):
    monkeypatch.chdir(tmp_path)
    labels = Labels([f"{n}.jpg" for n in range(6)], NAMES, torch.cat([torch.eye(5), torch.zeros(1, 5)]))
    (tmp_path / "0.jpg").touch()  # keywords need a photo that is there
    write_labels(labels, "labels.pt")
    if form in TOOLS:
        assert _status(["export", "--to", form, "-q"]) == 0
        spec = TOOLS[form][0] if form in ("csv", "exiftool") else f"{form}:{TOOLS[form][0]}"
    else:
        write_labels(labels, form, overwrite=True)
        spec = form
    assert _status(["evaluate", "--labels", "labels.pt", "--truth", spec, "--format", "json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["AP"] == dict.fromkeys(NAMES, 1.0) and found["photos_matched"] == 6
    assert ("'NA' in 'Subject' is the class of this name (1 rows)" in err) == (form == "exiftool")


def test_a_table_without_a_negative_has_no_map_unless_empty_means_absent(scores, capsys):
    text = "path,cat,potted plant\na.jpg,1,\nb.jpg,,1\nc.jpg,,\n"
    status, found, err = evaluated(capsys, text)
    assert (status, found) == (1, {}) and "there is no mAP" in err and "--set empty=absent" in err
    status, found, err = evaluated(capsys, text, "--set", "empty=absent")
    assert (status, found["mAP"]) == (0, 1.0)
    _, found, _ = evaluated(capsys, "path,cat,potted plant\na.jpg,1,1\nb.jpg,0,1\nc.jpg,0,\n")
    assert found["AP"] == {"cat": 1.0} and found["without_negatives"] == ["potted plant"]


def test_cells_that_were_wrong_or_refused_without_need(tmp_path):
    found, said = read(tmp_path, "path,labels\na,cat\nb,NA\nc,null\n")
    assert math.isnan(found["b"]["cat"]) and any("'NA' in 'labels' is unknown" in line for line in said)
    assert read(tmp_path, "path,labels\na,cat;NA\nb,NA\n")[0]["b"] == {"cat": 0, "NA": 1}
    long = json.dumps({"choices": ["cat"], "text": "x" * 200_000}).replace('"', '""')
    assert read(tmp_path, f'path,labels\na,"{long}"\nb,dog\n')[0]["a"] == {"cat": 1, "dog": 0}
    for number in ("1", "1.0"):
        assert match_paths(["00001.jpg", "00010.jpg"], [number, "10"])[0] == [(0, 0), (1, 1)]


# -- our files in other programs


def strange() -> Labels:
    scores = torch.tensor([[0.25, 1 / 3], [1, 0], [math.nan, 1e-7]])
    return Labels(["grüße 1.jpg", 'b "x", y.jpg', "日本.jpg"], ["Kühe", "potted plant"], scores)


def same(labels: Labels, frame: pandas.DataFrame) -> bool:
    known = torch.tensor(frame.to_numpy(dtype="float32"))
    return (
        list(frame.index) == labels.paths
        and list(frame.columns) == labels.classes
        and torch.equal(known.nan_to_num(-1), labels.scores.nan_to_num(-1))
    )


@pytest.mark.parametrize(
    "more", [{}, {"sep": ";", "decimal": ","}, {"sep": "\t", "encoding": "utf-16"}, {"encoding": "utf-8-sig"}]
)
@pytest.mark.parametrize("index", ["path", "number"])
def test_a_table_comes_back_from_pandas_with_the_same_labels(tmp_path, index, more):
    labels = strange()
    write_labels(labels, tmp_path / "l.csv")
    frame = pandas.read_csv(tmp_path / "l.csv", index_col="path" if index == "path" else None)
    frame.to_csv(tmp_path / "back.csv", **more)
    back = read_labels(tmp_path / "back.csv")
    assert same(labels, back.to_pandas())


def test_thresholds_come_back_from_pandas_and_a_spreadsheet(tmp_path):
    write_thresholds(tmp_path / "t.csv", ["Kühe", "dog"], [0.25, 0.5])
    frame = pandas.read_csv(tmp_path / "t.csv")
    for more in ({}, {"sep": ";", "decimal": ",", "encoding": "utf-8-sig", "index": False}):
        frame.to_csv(tmp_path / "back.csv", **more)
        assert read_thresholds(tmp_path / "back.csv", ["dog", "Kühe"], [0, 0]) == [0.5, 0.25]


# -- docs/formats.md


RECIPE_FILES = {
    "marks.csv": "path,cat,dog\na.jpg,x,x\nb.jpg,,x\n",
    "words.csv": "Datei;cat;dog\na.jpg;WAHR;WAHR\nb.jpg;FALSCH;WAHR\n",
    "percent.csv": "path,cat,dog\na.jpg,100%,100%\nb.jpg,0%,100%\n",
    "ones.csv": "path,cat,dog\na.jpg,1,1\nb.jpg,,1\n",
    "names.csv": "path,what is there\na.jpg,cat dog\nb.jpg,dog\n",
    "pairs.csv": "path,class,score\na.jpg,cat,1\na.jpg,dog,1\nb.jpg,cat,0\nb.jpg,dog,1\n",
    "numbers.csv": "id,age,cat,dog\n1,58,1,1\n2,60,0,1\n",
    "labelme/a.json": '{"imagePath": "a.jpg", "shapes": [{"label": "cat"}, {"label": "dog"}]}',
    "labelme/b.json": '{"imagePath": "b.jpg", "shapes": [{"label": "dog"}, {"label": "dog"}]}',
    "class-descriptions.csv": "/m/1,cat\n/m/2,dog\n",
    "val-labels.csv": "ImageID,Source,LabelName,Confidence\na,v,/m/1,1\na,v,/m/2,1\nb,v,/m/1,0\nb,v,/m/2,1\n",
}
PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_recipes_in_python_give_the_same_labels(tmp_path, monkeypatch, block):
    monkeypatch.chdir(tmp_path)
    Path("labelme").mkdir()
    for name, text in RECIPE_FILES.items():
        Path(name).write_text(text, encoding="utf-8")
    scores = torch.tensor([[0.9, 0.7], [0.1, 0.8]])
    write_labels(Labels(["a.jpg", "b.jpg"], ["cat", "dog"], scores), "labels.pt")
    exec(block, {})
    result = "truth.csv" if "truth.csv" in block else "binary.csv"
    assert read_labels(result).scores.tolist() == [[1, 1], [0, 1]] and read_labels(result).classes == ["cat", "dog"]


# -- tables that people have, through the command

REAL = {
    "Excel, German": "\ufeffDateiname;cat;potted plant\r\na.jpg;1,0;0,0\r\nb.jpg;1,0;1,0\r\nc.jpg;0,0;0,0\r\n".encode(),
    "Excel, Unicode text": "Photo\tcat\tpotted plant\r\na.jpg\tTRUE\tFALSE\r\nb.jpg\tTRUE\tTRUE\r\n"
    "c.jpg\tFALSE\tFALSE\r\n".encode("utf-16"),
    "Windows paths": "path,cat,potted_plant\nC:\\photos\\A.JPG,1,0\nC:\\photos\\B.JPG,1,1\nC:\\photos\\C.JPG,0,0\n",
    "ids without a suffix": "image_id,Cat,Potted Plant\na,1,0\nb,1,1\nc,0,0\n",
    "1 and -1": "image_id,cat,potted_plant\na.jpg,1,-1\nb.jpg,1,1\nc.jpg,-1,-1\n",
    "ExifTool": 'SourceFile,Subject\nphotos/a.jpg,cat\nphotos/b.jpg,"cat;potted plant"\nphotos/c.jpg,\n',
}  # fmt: skip


@pytest.mark.parametrize("text", REAL.values(), ids=REAL)
def test_evaluate_reads_tables_that_people_have(scores, capsys, text):
    _, wanted, _ = evaluated(capsys, PLAIN)
    status, found, err = evaluated(capsys, text)
    assert status == 0, err
    assert {name: found[name] for name in ("mAP", "ECE", "AP")} == {name: wanted[name] for name in ("mAP", "ECE", "AP")}
