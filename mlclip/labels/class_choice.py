"""Which classes, contrast names and prompt templates a labelling uses, where the user may have named none."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from .class_names import TEMPLATES, ClassList, as_prompts, parse_classes, shorten, without_classes

FEW_NAMES = 15  # with fewer names, photos that show none of them are often taken for one; see docs/results.md
DEFAULT_PRESET = "coco"  # used when no class names are given and no classes.txt is found
CLASS_FILE = "classes.txt"

Classes = str | os.PathLike | Sequence[str] | Mapping[str, str]
Log = Callable[[str], None]


def find_classes(classes: Classes | None, root: str, log: Log) -> ClassList:
    """The classes to label, label -> prompt name.

    None looks for classes.txt in the photos' folder `root`, in its parent folder, and in the current folder, then takes
    the preset DEFAULT_PRESET; `log` is told which, and how a class file was read. Raises InputError for names that cannot be
    used.
    """
    if classes is not None:
        return _told(as_prompts(classes), log)
    for folder in (root, os.path.dirname(root), os.getcwd()):
        file = os.path.join(folder, CLASS_FILE)
        if os.path.isfile(file):
            log(f"class names from {os.path.relpath(file)}")
            return _told(parse_classes(file), log)
    log(f"no `classes` given and no {CLASS_FILE} found: using the {DEFAULT_PRESET} preset with 80 names")
    return parse_classes(DEFAULT_PRESET)


def find_contrast(contrast: Classes | None, classes: Mapping[str, str], log: Log) -> dict[str, str]:
    """The contrast names, label -> prompt name, without those that are classes. With few classes and no contrast, `log` gets advice."""
    asked = _told(as_prompts(contrast), log) if contrast else {}
    kept = without_classes(asked, classes)
    if len(kept) < len(asked):
        log(
            f"`contrast`: {shorten([name for name in asked if name not in kept])} ignored, because classes have these names"
        )
    if 1 < len(classes) < FEW_NAMES and not kept:
        log(
            f"only {len(classes)} class names: if many photos show none of them, name what else they show with `contrast`"
        )
    return kept


def _told(classes: ClassList, log: Log) -> ClassList:
    for note in classes.notes:
        log(note)
    return classes


def templates_for(templates: str | Sequence[str], method: str) -> list[str]:
    """The prompt templates: those given, each a template with {} or the name of a set; else those of the method's paper."""
    if not templates:
        return TEMPLATES["paper-ccd" if method == "ccd" else "paper-cdul"]
    names = [templates] if isinstance(templates, str) else templates
    return [line for name in names for line in TEMPLATES.get(name, [name])]
