"""A student to hand over: a `.safetensors` file, and its card beside it, one page of Markdown.

The card says only what is recorded in the model.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import CLIP_HEAD
from ..files import atomic, beside, check_output
from .checkpoint import Checkpoint, facts_of, load_checkpoint, save_checkpoint

NOT_RECORDED = "not recorded"


def hand_over(model_file: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Write the model in `model_file` to `output`, a .safetensors file, and its card to the same name with .md.

    The numbers of the last epoch come from the `.log.csv` beside `model_file`, if it exists. Returns the card. InputError if the
    model cannot be read, or if one of the files exists and `overwrite` is not set.
    """
    card = beside(output, ".md")
    for file in (output, card):
        check_output(file, overwrite=overwrite)
    checkpoint = load_checkpoint(model_file)
    measured = last_epoch(model_file) or checkpoint.meta.get("measured") or {}
    checkpoint = replace(checkpoint, meta={**checkpoint.meta, "measured": measured})
    text = model_card(checkpoint, output)
    save_checkpoint(checkpoint, output)
    with atomic(card) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return card


def last_epoch(model_file: str | Path) -> dict[str, float]:
    """The numbers of the last epoch in the `.log.csv` beside a model file; empty where there is none.

    >>> last_epoch("no-such-model.pt")
    {}
    """
    file = beside(model_file, ".log.csv")
    if not file.is_file():
        return {}
    found, rows = {}, list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8", errors="replace"))))
    for name, text in (rows[-1] if rows else {}).items():
        try:
            found[str(name)] = float(text)
        except (TypeError, ValueError):
            continue
    return found


def model_card(checkpoint: Checkpoint, file: str | Path) -> str:
    """The card of a model, as Markdown. `file` is the name of the model's file."""
    model, facts, name = checkpoint.model, facts_of(checkpoint.meta), Path(file).name
    network = {"network": model.arch, "input": f"RGB, {model.size} × {model.size} pixels"}
    network["parameters"] = f"{sum(weight.numel() for weight in model.parameters()):,}"
    if model.arch == CLIP_HEAD:
        network["needs"] = f"CLIP {model.needed.name}, sha256 {model.needed.sha256}"
    teacher = facts["teacher"]
    if isinstance(teacher, dict):
        teacher = {**teacher, "licence": teacher.get("licence") or NOT_RECORDED}
    lines = [f"| {_text(name)} | {t:.3f} |" for name, t in zip(model.classes, checkpoint.thresholds, strict=True)]
    parts = [
        f"# {_text(Path(file).stem)}",
        f"A multi-label image classifier for {len(model.classes)} classes, made with mlclip. `mlclip predict PHOTOS --model {name}` "
        "prints the classes of photos.",
        _section("Network", network, *network),
        _section("Teacher", teacher, "name", "sha256", "activation", "precision", "licence"),
        _section("Labels", facts["labels"], "method", "templates", "settings"),
        _section("Training", facts["training"], "settings"),
        _section("Calibration", facts["calibration"], "source", "photos", "positives"),
        _section("Measured in the last epoch of the training", facts, "measured"),
        "## Classes\n\nA photo has a class if its score is at least the threshold.",
        "\n".join(["| class | threshold |", "|---|---|", *lines]),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, facts: Any, *names: str) -> str:
    """A section with the texts and numbers under `names` of a dict; of a dict under a name, those in it."""
    pairs: list[tuple[str, Any]] = []
    for name in names if isinstance(facts, dict) else ():
        value = facts.get(name)
        prefix = "positive photos of " if name == "positives" else ""
        pairs += [(prefix + key, item) for key, item in value.items()] if isinstance(value, dict) else [(name, value)]
    lines = []
    for name, value in pairs:
        if value not in (None, "", [], {}):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append(f"- {_text(name)}: {_text(f'{value:g}' if isinstance(value, float) else text)}")
    return "\n".join([f"## {title}", "", *(lines or [NOT_RECORDED.capitalize() + "."])])


def _text(text: str) -> str:
    """Text on one line, with Markdown's special characters escaped."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", plain)
