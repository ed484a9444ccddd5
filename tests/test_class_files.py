"""Class files as people have them, and the hierarchy and exclusive groups in them."""

from __future__ import annotations

import json
import sys
import time
import unicodedata

import pytest

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
        '["cat", "hot dog"]', '{"0": "cat", "1": "hot dog"}', '{"1": "hot dog", "0": "cat"}', '{"hot dog": 1, "cat": 0}',
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
        ("1: person\n13: stop sign\n", ["1: person", "13: stop sign"]),
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
    assert any("part of the names" in line for line in said)
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
        ("- cat\n- dog\n", "docs/formats.md", "c.txt"),
        ('"cat",\n"dog",\n', "docs/formats.md", "c.txt"),
        ("n02123045 cat, kitty\nn07697537\thot dog\n", "docs/formats.md", "c.txt"),
        ("\n".join(f"a{n} > a{n + 1}" for n in range(5000)), "levels", "c.txt"),
    ],
)
def test_a_file_with_two_readings_or_none_is_refused(tmp_path, text, word, name):
    refused(tmp_path, text, word, name=name)


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
        ("a > b\nb\n", ("'b' twice",)),
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
