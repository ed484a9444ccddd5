"""What a user names: the classes to look for, what else may be there, and the sentences both are put into."""

from __future__ import annotations

import os

FEW_NAMES = 15  # below which photos that show none of them are mistaken for one, see docs/results.md
WITHOUT_A_LIST = "coco"  # the preset taken when no class names are given and none lie about


def class_names(spec: str | None, root: str, log) -> dict[str, str]:
    """The classes asked for; else classes.txt in the photos' folder, beside it, or here; else a preset, said aloud."""
    from ..labels.class_names import parse_classes

    if spec:
        return parse_classes(spec)
    for folder in (root, os.path.dirname(root), os.getcwd()):
        file = os.path.join(folder, "classes.txt")
        if os.path.isfile(file):
            log(f"class names from {os.path.relpath(file)}")
            return parse_classes(file)
    log(f"no --classes given and no classes.txt found: using the {WITHOUT_A_LIST} preset's 80 names")
    return parse_classes(WITHOUT_A_LIST)


def contrast_names(spec: str | None, classes: dict[str, str], log) -> dict[str, str]:
    """The contrast names asked for, less those that are classes."""
    from ..labels.class_names import parse_classes, shorten, without_classes

    given = parse_classes(spec) if spec else {}
    kept = without_classes(given, classes)
    if len(kept) < len(given):
        log(f"--contrast: {shorten([name for name in given if name not in kept])} left out, as classes are so called")
    if 1 < len(classes) < FEW_NAMES and not kept:
        log(
            f"only {len(classes)} names: if many photos show none of them, add --contrast with names of what else is there"
        )
    return kept


def prompt_templates(given: tuple[str, ...], method: str) -> list[str]:
    """The prompts asked for, each a template or the name of a set of them; else those of the method's paper."""
    from ..labels.class_names import TEMPLATES

    if not given:
        return TEMPLATES["paper-ccd" if method == "ccd" else "paper-cdul"]
    return [line for name in given for line in TEMPLATES.get(name, [name])]
