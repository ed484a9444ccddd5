"""Class files as people have them, and the hierarchy and exclusive groups in them."""

from __future__ import annotations

import json
import sys
import time
import unicodedata

import pytest
from PIL import Image

from mlclip.cli import _status
from mlclip.config import InputError
from mlclip.labels import class_tree
from mlclip.labels.class_names import as_prompts, find_classes, find_contrast, parse_classes


def read(tmp_path, text, name="c.txt"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return parse_classes(file)


def refused(tmp_path, text, *words, name="c.txt"):
    with pytest.raises(InputError) as error:
        read(tmp_path, text, name)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in (name, *words)), error.value


@pytest.mark.parametrize(
    "text",
    [
        "1. cat\n2. hot dog\n", "1) cat\r\n2) hot dog\r\n", "(1) cat\n(2) hot dog", "0: cat\n1: hot dog\n", "0 cat\n1 hot dog\n",
        "0\tcat\n1\thot dog\n", "0,cat\n1,hot dog\n", "\ufeff1. cat\n\n# two\n2. hot dog\n",
        "cat  # a pet\nhot dog\n", "cat, hot dog", " \u200bcat\u00a0\u200b\nhot\u00a0dog\u200d\n",
        '["cat", "hot dog"]', "['cat', 'hot dog']", "CLASSES = ('cat', # x\n 'hot dog',)", "{0: 'cat', 1: 'hot dog'}",
        "1 001.cat\n2 002.hot dog",
        '{"0": "cat", "1": "hot dog"}', '{"1": "hot dog", "0": "cat"}', '{"hot dog": 1, "cat": 0}',
        '{"names": ["cat", "hot dog"]}', '{"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "hot dog"}]}',
        '1. cat \n2. hot dog'.encode("utf-16"),
    ],
)  # fmt: skip
def test_every_form_of_a_list_of_names_gives_the_same_classes(tmp_path, text):
    classes = read(tmp_path, text)
    assert classes == {"cat": "cat", "hot dog": "hot dog"} and list(classes) == ["cat", "hot dog"]


@pytest.mark.parametrize(
    "text", ["nc: 2\nnames: [cat, 'hot dog']\n", "names:\n  0: cat\n  1: hot dog # x\n", "- cat\n- hot dog"]
)
def test_yaml_is_read_where_pyyaml_is_installed(tmp_path, text, monkeypatch):
    assert list(read(tmp_path, text, "data.yaml")) == ["cat", "hot dog"]
    monkeypatch.setitem(sys.modules, "yaml", None)
    refused(tmp_path, text, "pip install pyyaml", name="data.yaml")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("3 wheeler\n4 wheeler\n", ["3 wheeler", "4 wheeler"]),  # the numbers do not run
        ("1 door\n2 doors\nconvertible\n", ["1 door", "2 doors", "convertible"]),  # not in every line
        ("1 cat", ["1 cat"]),
        ("C#\nlocomotive #9\nrock & roll\n", ["C#", "locomotive #9", "rock & roll"]),
        ("hot dog, red\ncat\n", ["hot dog, red", "cat"]),
        ("猫\n犬\nكلب\nкошка\nकुत्ता\n", ["猫", "犬", "كلب", "кошка", "कुत्ता"]),
        ("می\u200cخواهم\nب\n", ["می\u200cخواهم", "ب"]),  # the joiner is a part of the word
        ("n01 road\nM4\n", ["n01 road", "M4"]),
        (
            "Audi S4 Sedan 2012\nBMW X3 SUV 2012\nFord GT 2006",
            ["Audi S4 Sedan 2012", "BMW X3 SUV 2012", "Ford GT 2006"],
        ),
        ("a: b = a: b\nc: d = c: d\n", ["a: b", "c: d"]),
        ("[unknown]\ncat\n", ["[unknown]", "cat"]),
    ],
)
def test_a_name_that_only_looks_like_another_form_stays(tmp_path, text, names):
    assert list(read(tmp_path, text)) == names


def test_composed_and_decomposed_letters_are_one_name(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert list(read(tmp_path, f"{decomposed}\ntea\n")) == [composed, "tea"]
    assert list(as_prompts([decomposed, "tea"])) == [composed, "tea"]
    refused(tmp_path, f"{composed}\n{decomposed}\n", "twice")


def test_the_rule_that_was_applied_is_logged(tmp_path):
    said = []
    (tmp_path / "classes.txt").write_text("1. cat\n2. dog\n")
    find_classes(None, str(tmp_path), said.append)
    assert "classes.txt: the lines are numbered: the numbers are left out" in said
    (tmp_path / "more.txt").write_text("7 seas\n9 lives\n")
    find_contrast(tmp_path / "more.txt", {"cat": "cat", "dog": "dog"}, said.append)
    assert len(said) == 2
    said.clear()
    (tmp_path / "classes.txt").write_text("cat\ndog = a small dog\n")
    assert find_classes(tmp_path / "classes.txt", ".", said.append)["dog"] == "a small dog" and not said


@pytest.mark.parametrize(
    ("text", "word", "name"),
    [
        ("cat\tdog\nbird\n", "tab", "c.txt"),
        ("[", "JSON", "c.json"),
        ("[" * 100_000, "JSON", "c.json"),
        ("[null]", "not a class name", "c.json"),
        ("3", "no class names", "c.json"),
        ("names: 3\n", "no class names", "data.yaml"),
        ("names: [cat, dog\n", "not YAML", "data.yaml"),
    ],
)
def test_a_file_with_two_readings_or_none_is_refused(tmp_path, text, word, name):
    refused(tmp_path, text, word, name=name)


FRAMES = {
    "/a/airfield 0\n/a/airplane_cabin 1\n": "'/a/airfield 0' and '/a/airplane_cabin 1'",
    "- cat\n- dog\n": "'- cat'", '"cat",\n"dog",\n': "cat", "'cat': 0,\n'dog': 1,\n": "cat", "imgs/a.jpg\nimgs/b.jpg\n": "imgs",
    "n02123045 cat, kitty\nn07697537\thot dog\n": "n02123045", "n02085620-Chihuahua\nn02085782-Japanese_spaniel\n": "-Chihuahua",
    "id,name\n1,cat\n2,dog\n": "'id,name' and '1,cat'", "1: person\n13: stop sign\n": "1: person",
    "cat 3\ndog 1\nhot dog 2\n": "'cat 3'", "1 person\n2 bicycle\n13 stop sign\n": "1 person", "item {\nid: 1\nname: 'cat'\n}\n": "item {",
}  # fmt: skip


@pytest.mark.parametrize("text", FRAMES, ids=range(len(FRAMES)))
def test_a_frame_that_no_rule_knows_is_refused_with_two_lines_as_they_would_be_read(tmp_path, text):
    refused(tmp_path, text, FRAMES[text], "one name in each line", "docs/formats.md")


def test_names_of_programs_are_read_as_words_and_said_once(tmp_path):
    classes = read(tmp_path, "traffic_light\npottedPlant\nTV_set = television\nYouTube logo\n")
    assert list(classes) == ["traffic_light", "pottedPlant", "TV_set", "YouTube logo"]
    assert list(classes.values()) == ["traffic light", "potted plant", "television", "YouTube logo"]
    assert classes.notes == [
        "CLIP reads traffic_light as 'traffic light', pottedPlant as 'potted plant'; `name = prompt` decides otherwise"
    ]
    refused(tmp_path, "hot_dog\ncat\nhot dog\n", "'hot_dog = hot dog' (line 1) and 'hot dog' (line 3)")
    refused(tmp_path, "n02084071\nn02121808\n", "2 ids without words", "`n02084071 = dog`")
    assert read(tmp_path, "n02084071 = dog\ncat\n") == {"n02084071": "dog", "cat": "cat"}


def test_all_names_that_are_there_twice_are_named_with_their_lines(tmp_path):
    twice = "'cat' (line 2) and 'Cat' (line 4), 'dog' (line 3) and 'dog' (line 6)"
    refused(tmp_path, "# c\ncat\ndog\nCat\n\ndog\nsun\n", twice)


# -- hierarchy and groups


def test_a_hierarchy_of_any_depth_makes_the_parents_classes(tmp_path):
    classes = read(tmp_path, "animal > pet > dog = a small dog\nanimal > fox\nanimal = an animal\nsun\n")
    assert classes == {"animal": "an animal", "pet": "pet", "dog": "a small dog", "fox": "fox", "sun": "sun"}
    assert classes.tree.parents == {"pet": "animal", "dog": "pet", "fox": "animal"} and classes.tree.groups == []


def test_a_backslash_keeps_the_characters_of_the_syntax(tmp_path):
    assert read(tmp_path, "a \\> b\nx\\=y = x is y\n") == {"a > b": "a > b", "x=y": "x is y"}
    assert list(read(tmp_path, json.dumps(["a > b", "c = d", "e\\f"]))) == ["a > b", "c = d", "e\\f"]
    assert list(as_prompts({"a > b": "x", "c": "y"})) == ["a > b", "c"]


def test_exclusive_groups_are_read_and_kept_by_as_prompts(tmp_path):
    classes = read(tmp_path, "day\nnight\nsun\nExclusive: day, night\n")
    assert list(classes) == ["day", "night", "sun"] and as_prompts(classes).tree.groups == [["day", "night"]]
    numbered = read(tmp_path, "0: day\n1: night\nexclusive: day, night\n")
    assert list(numbered) == ["day", "night"] and numbered.tree.groups == [["day", "night"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a > b\nb > a\n", ("below itself",)),
        ("a > c\nb > c\n", ("'c'", "'a'", "'b'")),
        ("a > \n", ("blank",)),
        ("a > b\nb\n", ("twice: 'b' (line 1) and 'b' (line 2)",)),
        ("a > b\nA > c\n", ("'a' and 'A'",)),
        ("day\nnight\nexclusive: day, nihgt\n", ("'nihgt'", "Did you mean 'night'?")),
        ("day\nnight\nexclusive: day\n", ("two classes",)),
        ("a\nb\nc\nexclusive: a, b\nexclusive: b, c\n", ("'b' twice",)),
        ("a > b\nexclusive: a, b\n", ("cannot exclude each other",)),
    ],
)
def test_a_hierarchy_that_contradicts_itself_is_refused(tmp_path, text, words):
    refused(tmp_path, text, *words)


LONG = 40_000


@pytest.mark.parametrize(
    "text",
    [
        f"cat{' ' * LONG}dog\nbird\n",
        f"cat{',' * LONG}dog\nbird\n",
        "\n".join(f"a{n}" for n in range(LONG)) + f"\nexclusive: {', '.join(f'a{n}' for n in range(LONG))}",
    ],
)
def test_long_runs_and_long_groups_are_read_in_linear_time(tmp_path, text):
    started = time.process_time()
    read(tmp_path, text)
    assert time.process_time() - started < 3  # it took from 10 seconds to several minutes


def test_a_parent_that_a_table_lacks_is_replaced_by_the_next_one_above():
    tree = class_tree.ClassTree({"c": "b", "b": "a"}, [["c", "x", "y"]])
    assert tree.parent_columns(["c", "a"]) == [1, -1] and tree.parent_columns(["c"]) == [-1]
    assert tree.group_columns(["y", "c"]) == [[1, 0]] and tree.group_columns(["y"]) == []
    assert class_tree.ClassTree.of({"hierarchy": tree.plain()}) == tree and not class_tree.ClassTree.of({})


def test_without_names_the_first_and_a_closing_line_say_that_they_are_cocos_80(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLCLIP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "imgs").mkdir()
    for number in range(2):
        Image.linear_gradient("L").rotate(90 * number).convert("RGB").save(f"imgs/{number}.png")
    assert _status(["pseudolabel", "imgs", "--clip", "tiny"]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert "COCO's 80 names" in lines[0] and "--classes" in lines[0] and "imgs/classes.txt" in lines[0]
    assert ["COCO's 80 names" in line for line in lines].count(True) == 2 and "COCO's 80 names" in "".join(lines[-3:])
    first = "80 prompts as English: 'a photo of a person', 'a photo of a bicycle', 'a photo of a car'"
    assert any(first in line for line in lines)
    (tmp_path / "classes.txt").write_text("猫\ndog\n")  # beside the command, and one folder up
    assert _status(["pseudolabel", "imgs", "--clip", "tiny", "--overwrite"]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "class names from classes.txt" and not any("COCO" in line for line in lines)
    assert any("warning: " in line and "`猫 = cat`" in line for line in lines)
