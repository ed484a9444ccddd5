"""A model to hand over: a .safetensors file, and a card, one page of Markdown, that says only what is recorded in the model."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import CLIP_HEAD, InputError, PseudolabelConfig, TrainConfig, config_of, used_settings
from ..files import atomic, beside, check_output
from .checkpoint import Checkpoint, facts_of, load_checkpoint, save_checkpoint

NOT_RECORDED = "not recorded"
FOR_WHAT = """## For what, and for what not

For photos like those that it was trained on, and for these classes only: it has no class "something else". A photo has a class
if its score is at least the threshold of the class; the scores of two classes do not compare. The model does not say where a thing
is, or how many there are. Its labels come from another network and not from people, so it repeats that network's mistakes. Do not
let it decide about people, safety or health without a person who checks."""


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
    """The numbers of the last epoch, or of a probe's chosen row, in the `.log.csv` beside a model file; empty where there is none.

    >>> last_epoch("no-such-model.pt")
    {}
    """
    file = beside(model_file, ".log.csv")
    if not file.is_file():
        return {}
    found, rows = {}, list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8", errors="replace"))))
    row = next((row for row in rows if row.get("chosen") == "1"), rows[-1] if rows else {})
    for name, text in row.items():
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
        network["needs"] = "CLIP {name}, sha256 {sha256}".format(**model.needed)
    teacher = facts["teacher"]
    if isinstance(teacher, dict):
        teacher = {**teacher, "licence": teacher.get("licence") or NOT_RECORDED}
    lines = [f"| {_text(name)} | {t:.3f} |" for name, t in zip(model.classes, checkpoint.thresholds, strict=True)]
    parts = [
        f"# {_text(Path(file).stem)}",
        f"A multi-label image classifier for {len(model.classes)} classes, made with mlclip. `mlclip predict PHOTOS --model {name}` "
        "prints the classes of photos.",
        FOR_WHAT,
        *_how_good(facts, name),
        _section("Network", network, *network),
        _section("Teacher", teacher, "name", "sha256", "activation", "precision", "licence"),
        _section("Labels", _with_used_settings(PseudolabelConfig, facts["labels"]), "method", "templates", "settings"),
        _section("Training", _with_used_settings(TrainConfig, facts["training"]), "settings"),
        "## Classes and thresholds",
        "\n".join(["| class | threshold |", "|---|---|", *lines]),
    ]
    return "\n\n".join(parts) + "\n"


def _how_good(facts: Mapping[str, Any], name: str) -> list[str]:
    """What is recorded about the model's quality, and how to measure it."""
    measured, calibration = facts["measured"], facts["calibration"]
    parts = ["## How good"]
    if not (isinstance(measured, dict) and any("report_only" in key for key in measured)):
        command = f"mlclip evaluate PHOTOS --model {name} --truth TRUTH"
        parts.append(f"No mAP is recorded. `{command}` measures it on photos with true labels.")
    if isinstance(calibration, dict) and calibration.get("photos"):
        title = "True labels that scores and thresholds were fitted to (other photos will be worse than these)"
        names = ("photos", "positives", "macro_f1", "calibration_error")
        parts.append("#" + _section(title, calibration, *names))
    return [*parts, "#" + _section("Last epoch of the training", facts, "measured")]


def _with_used_settings(config: type, facts: Any) -> Any:
    """The facts with only those settings that the method used, where they are as this version records them."""
    try:
        recorded = facts["settings"]
        used = used_settings(config_of(config, dict(recorded)))
    except (InputError, KeyError, TypeError, ValueError):
        return facts
    return {**facts, "method": None, "settings": {key: value for key, value in used.items() if key in recorded}}


def _section(title: str, facts: Any, *names: str) -> str:
    """A section with the texts and numbers under `names` of a dict; of a dict under a name, those in it."""
    pairs: list[tuple[str, Any]] = []
    for name in names if isinstance(facts, dict) else ():
        value = facts.get(name)
        prefix = "positive photos of " if name == "positives" else ""
        pairs += [(prefix + key, item) for key, item in value.items()] if isinstance(value, dict) else [(name, value)]
    lines = []
    for name, value in pairs:
        if value not in (None, "", [], (), {}):
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            lines.append(f"- {_text(name)}: {_text(f'{value:g}' if isinstance(value, float) else text)}")
    return "\n".join([f"## {title}", "", *(lines or [NOT_RECORDED.capitalize() + "."])])


def _text(text: str) -> str:
    """Text on one line, with Markdown's special characters escaped."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", plain)
