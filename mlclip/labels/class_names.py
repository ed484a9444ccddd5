"""The names classes go by: presets, a user's own list, and the sentences they are put into. No torch here."""

from __future__ import annotations

import codecs
import os
from collections.abc import Collection, Iterable, Mapping

from ..config import InputError

LARGEST_CLASS_FILE = 4_000_000  # bytes; a longer file is surely something else

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

# Prompt templates by name: the two papers' own, and a mixture whose embeddings are averaged.
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


def decode_text(data: bytes, errors: str = "strict") -> str:
    """Text as people's editors save it: UTF-8, or UTF-16 where a byte-order mark says so; the mark itself is dropped.

    `errors` is for the UTF-8 case: "surrogateescape" keeps undecodable bytes of file names; "strict" raises
    UnicodeDecodeError.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors)


def shorten(names: Collection[str], most: int = 8) -> str:
    """The first names of a list for a one-line message: `cat, dog, ... (20 in all)`."""
    text = ", ".join(list(names)[:most])
    return f"{text}, ... ({len(names)} in all)" if len(names) > most else text


def parse_classes(spec: str | os.PathLike) -> dict[str, str]:
    """The classes a user means, label -> name to put into prompts, in order.

    `spec` is a preset ("voc", "coco", "nuswide"; a file of that name can be given as "./voc"), a text file with one
    class on each line, or a list such as "cat,dog=a small dog". After "=" stands the prompt name where it differs
    from the label. In a file, blank lines and lines that begin with "#" are ignored.
    Raises InputError for no class at all, a blank name, a duplicate (upper and lower case are the same), a binary file.
    """
    text = os.fspath(spec)
    if text in CLASS_PRESETS:
        return dict(CLASS_PRESETS[text])
    if os.path.isfile(text):
        return _named(_lines_of(text), source=text)
    if "," not in text and "=" not in text and _looks_like_path(text):
        raise InputError(
            f"{text!r} is no class file; give one, a preset ({', '.join(CLASS_PRESETS)}) or a list 'cat,dog'"
        )
    return _named(text.split(","), source=f"the class list {shorten([text[:60]])!r}")


def check_class_count(classes: Collection[str], contrast: Collection[str] = ()) -> None:
    """InputError if the scores could only be 1: CLIP compares names with each other, so it takes two or more."""
    if len(classes) == 0:
        raise InputError("no classes given; name them with --classes")
    if len(classes) + len(contrast) < 2:
        raise InputError(
            f"a single class ({next(iter(classes))!r}) would score 1.0 on every photo, as CLIP compares names with "
            'each other; name things that may be there instead, such as --contrast "landscape,building,food"'
        )


def without_classes(contrast: Mapping[str, str], classes: Mapping[str, str]) -> dict[str, str]:
    """The contrast names, label -> prompt name, that are none of the classes, by either name and in any case.

    A class that had to compete with itself would lose half of every photo.
    """
    taken = {_key(name) for name in [*classes, *classes.values()]}
    return {label: prompt for label, prompt in contrast.items() if not {_key(label), _key(prompt)} & taken}


def fill_template(template: str, name: str) -> str:
    """The prompt: `name` put where `template` has its one `{}`; braces in the name are kept. InputError otherwise."""
    count = template.count("{}")
    if count != 1:
        raise InputError(
            f"the prompt template {template!r} has {{}} {count} times; write it once, where the class name goes"
        )
    return template.replace("{}", name)


def _looks_like_path(text: str) -> bool:
    return any(mark in text for mark in ("/", "\\")) or text.lower().endswith(
        (".txt", ".csv", ".tsv", ".names", ".list")
    )


def _lines_of(path: str) -> list[str]:
    remedy = "give a text file in UTF-8 with one class name on each line"
    try:
        if os.path.getsize(path) > LARGEST_CLASS_FILE:
            raise InputError(f"{path} is too large to be a list of class names; {remedy}")
        with open(path, "rb") as file:
            text = decode_text(file.read())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; {remedy}") from error
    if any(ord(c) < 32 and c not in "\t\n\r\f" for c in text):
        raise InputError(f"{path} is a binary file; {remedy}")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _named(entries: Iterable[str], source: str) -> dict[str, str]:
    """Entries `label` or `label = prompt name` -> dict, checked."""
    classes: dict[str, str] = {}
    for entry in entries:
        label, equals, prompt = (part.strip() for part in entry.partition("="))
        if not label or (equals and not prompt):
            raise InputError(
                f"{source} has a blank class name ({entry.strip()!r}); write `label` or `label = prompt name`"
            )
        if label in classes:
            raise InputError(f"{source} names the class {label!r} twice; remove one")
        classes[label] = prompt or label
    if not classes:
        raise InputError(f"{source} holds no class name; write one on each line")
    _refuse_twins(list(classes), source, "classes")
    _refuse_twins(list(classes.values()), source, "prompt names")
    return classes


def _refuse_twins(names: list[str], source: str, kind: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        key = _key(name)
        if key in seen:
            raise InputError(f"{source} has the {kind} {seen[key]!r} and {name!r}, which are the same; remove one")
        seen[key] = name


def _key(name: str) -> str:
    """What two spellings of one name share."""
    return " ".join(name.casefold().split())


# What `--classes voc` and its like stand for: label -> prompt name, in the data set's own order.
CLASS_PRESETS: dict[str, dict[str, str]] = {
    "voc": _named(_VOC.split(","), "voc"),
    "coco": _named(_COCO.split(","), "coco"),
    "nuswide": _named(_NUSWIDE.split(","), "nuswide"),
}
