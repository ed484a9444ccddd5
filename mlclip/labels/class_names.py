"""Class names: presets, a user's own list, which of them a labelling uses, and the prompt templates. No torch here."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from ..config import InputError
from ..spelling import nearest, shorten
from .class_files import read_class_file
from .class_tree import ClassList, check_classes, name_key, named_classes

FEW_NAMES = 15  # with fewer names, photos that show none of them are often taken for one; see docs/results.md
DEFAULT_PRESET = "coco"  # used when no class names are given and no classes.txt is found
DEFAULT_NAMES = "these are COCO's 80 names (person, bicycle, car, ...)"
CLASS_FILE = "classes.txt"
CLASS_SUFFIXES = (".txt", ".csv", ".tsv", ".names", ".list", ".json", ".yaml", ".yml")

Classes = str | os.PathLike | Sequence[str] | Mapping[str, str]
Log = Callable[[str], None]

_VOC = """aeroplane=airplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable=dining table, dog,
horse, motorbike, person, pottedplant=potted plant, sheep, sofa, train, tvmonitor=tv monitor"""

_COCO = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop
sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
teddy bear, hair drier, toothbrush"""

_NUSWIDE = """airport, animal, beach, bear, birds, boats, book, bridge, buildings, cars, castle, cat, cityscape,
clouds, computer, coral, cow, dancing, dog, earthquake, elk, fire, fish, flags, flowers, food, fox, frost, garden,
glacier, grass, harbor, horses, house, lake, leaf, map, military, moon, mountain, nighttime, ocean, person, plane,
plants, police, protest, railroad, rainbow, reflection, road, rocks, running, sand, sign, sky, snow, soccer, sports,
statue, street, sun, sunset, surf, swimmers, tattoo, temple, tiger, tower, town, toy, train, tree, valley, vehicle,
water, waterfall, wedding, whales, window, zebra"""

# Prompt templates by name: those of the two papers, and a set whose text embeddings are averaged.
TEMPLATES: dict[str, list[str]] = {
    "paper-cdul": ["a photo of a {}"],
    "paper-ccd": ["a photo of the {}"],
    "ensemble": [
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of many {}.",
        "a close photo of a {}.",
        "a photo of a {} far away.",
        "a photo showing part of a {}.",
        "a {} among other things.",
        "a blurry photo of a {}.",
        "a {} indoors.",
        "a {} outdoors.",
    ],
}


def parse_classes(spec: str | os.PathLike) -> ClassList:
    r"""The classes in a user's text, as {label: prompt name}, in order.

    `spec` is a preset ("voc", "coco", "nuswide"), a class file, or a list such as "cat,dog=a small dog". Write "label = prompt
    name" where the two differ, and "animal > dog" for a class below another one; `\=` and `\>` are the characters themselves. A
    file with the name of a preset can be given as "./voc". `class_files` says how a class file is read. InputError for no class, a
    blank name, or a duplicate: upper and lower case are the same, and so are composed and decomposed letters.

    >>> parse_classes("cat, dog = a small dog")
    {'cat': 'cat', 'dog': 'a small dog'}
    >>> parse_classes("animal > dog, animal > cat").tree.parents
    {'dog': 'animal', 'cat': 'animal'}
    """
    text = os.fspath(spec)
    if text in CLASS_PRESETS:
        return ClassList(CLASS_PRESETS[text])
    if os.path.exists(text) and not os.path.isdir(text):
        return read_class_file(text)
    like_path = "/" in text or "\\" in text or text.lower().endswith(CLASS_SUFFIXES)
    if like_path and "," not in text and "=" not in text:
        raise InputError(f"{text!r} is no class file. Give a file, {', '.join(CLASS_PRESETS)}, or a list 'cat,dog'.")
    return named_classes(text.split(","), source=f"the class list {shorten([text[:60]])!r}")


def as_prompts(classes: Mapping[str, str] | Sequence[str] | str | os.PathLike) -> ClassList:
    """Classes in any form as {label: prompt name}: a dict of that kind, a list of names, or what `parse_classes` takes.

    A list item is "label" or "label = prompt name", with "animal > dog" as label where wanted; the labels of a dict are taken
    as they are. Raises InputError for the same mistakes as `parse_classes`.

    >>> as_prompts(["cat", "dog = a small dog"])
    {'cat': 'cat', 'dog': 'a small dog'}
    """
    if isinstance(classes, str | os.PathLike):
        return parse_classes(classes)
    mapping, source = isinstance(classes, Mapping), "the class list"
    names = [*classes, *classes.values()] if mapping else list(classes)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InputError(f"{source} contains {wrong[0]!r:.200}, which is not text. Write every class name as text.")
    if not mapping:
        return named_classes(names, source)
    given = classes if isinstance(classes, ClassList) else ClassList(classes)
    check_classes(given, source)
    return given


def check_class_count(classes: Collection[str], contrast: Collection[str] = ()) -> None:
    """InputError if there are fewer than two names: CLIP compares names with each other, so one name always scores 1."""
    if len(classes) == 0:
        raise InputError("no classes given. Name them with `classes`.")
    if len(classes) + len(contrast) < 2:
        name = next(iter(classes))
        near = nearest(name, CLASS_PRESETS)
        hint = f" Did you mean the preset {near!r}?" if near else ""
        raise InputError(
            f"the single class {name!r:.200} would score 1.0 on every photo, because CLIP compares names with each other.{hint} "
            "Add names of other things in the photos with `contrast`, for example landscape,building,food."
        )


def fill_template(template: str, name: str) -> str:
    """The prompt: `template` with `name` in place of its one `{}`. Braces in the name stay. InputError without exactly one `{}`."""
    count = template.count("{}")
    if count != 1:
        raise InputError(f"the prompt template {template!r:.200} contains {{}} {count} times. Write it once.")
    return template.replace("{}", name)


def find_classes(classes: Classes | None, root: str, log: Log) -> ClassList:
    """The classes to label, label -> prompt name.

    None looks for classes.txt in the photos' folder `root`, in its parent folder, and in the current folder, then takes
    the preset DEFAULT_PRESET; `log` is told which, and how a class file was read.
    """
    if classes is not None:
        return _told(as_prompts(classes), log)
    for folder in (root, os.path.dirname(root), os.getcwd()):
        file = os.path.join(folder, CLASS_FILE)
        if os.path.isfile(file):
            with suppress(ValueError):  # Windows: the file is on another drive
                file = os.path.relpath(file)
            log(f"class names from {file}")
            return _told(parse_classes(file), log)
    log(f"no class names given: {DEFAULT_NAMES}. Name your own with `classes`, or in {os.path.join(root, CLASS_FILE)}")
    return parse_classes(DEFAULT_PRESET)


def find_contrast(contrast: Classes | None, classes: Mapping[str, str], log: Log) -> dict[str, str]:
    """The contrast names, label -> prompt name. With few classes and no contrast, `log` gets advice.

    Names that are also classes, as label or prompt name and in any case, are left out: a class that competes with itself
    would lose half of its score.
    """
    asked = _told(as_prompts(contrast), log) if contrast else {}
    taken = {name_key(name) for name in [*classes, *classes.values()]}
    kept = {label: prompt for label, prompt in asked.items() if not {name_key(label), name_key(prompt)} & taken}
    if len(kept) < len(asked):
        log(f"`contrast`: {shorten([name for name in asked if name not in kept])} ignored, as classes have these names")
    if 1 < len(classes) < FEW_NAMES and not kept:
        log(f"only {len(classes)} class names: if many photos show others, name what they show with `contrast`")
    return kept


def _told(classes: ClassList, log: Log) -> ClassList:
    for note in classes.notes:
        log(note)
    return classes


def show_prompts(templates: Sequence[str], classes: Mapping[str, str], english: bool, log: Log) -> None:
    """Tell `log` three of the prompts, and of names without Latin letters, which an `english` text encoder does not know."""
    names = list(classes.values())
    shown, count = [repr(fill_template(templates[0], name)) for name in names[:3]], len(names) * len(templates)
    shown += ["..."] if count > 3 else []
    log(f"CLIP reads {count} prompts{' as English' if english else ''}: {', '.join(shown)}")
    letters = {name: [unicodedata.name(letter, "") for letter in name if letter.isalpha()] for name in names}
    foreign = [name for name, of_name in letters.items() if of_name and not any("LATIN" in each for each in of_name)]
    if foreign and english:
        line = f"warning: this CLIP does not know the letters of {shorten(foreign)}. Give English words"
        log(f"{line}, such as `{foreign[0]} = cat`")


def templates_for(templates: str | Sequence[str], method: str) -> list[str]:
    """The prompt templates: those given, each a template with {} or the name of a set; else those of the method's paper."""
    if not templates:
        return TEMPLATES["paper-ccd" if method == "ccd" else "paper-cdul"]
    names = [templates] if isinstance(templates, str) else templates
    return [line for name in names for line in TEMPLATES.get(name, [name])]


# The classes of public data sets: label -> prompt name, in the order of the data set.
CLASS_PRESETS: dict[str, dict[str, str]] = {
    "voc": named_classes(_VOC.split(","), "voc"),
    "coco": named_classes(_COCO.split(","), "coco"),
    "nuswide": named_classes(_NUSWIDE.split(","), "nuswide"),
}
