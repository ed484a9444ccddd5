"""The card of a model that is handed over: one page of Markdown. It says only what is recorded in the model."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import CLIP_HEAD
from ..files import beside
from .checkpoint import Checkpoint
from .safetensors_file import facts_of

LONGEST_LOG = 16 << 20  # bytes
NOT_RECORDED = "not recorded"
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")


def last_epoch(model_file: str | Path) -> dict[str, float]:
    """The numbers of the last epoch in the `.log.csv` beside a model file; empty where there is none.

    >>> last_epoch("no-such-model.pt")
    {}
    """
    file = beside(model_file, ".log.csv")
    if not file.is_file() or file.stat().st_size > LONGEST_LOG:
        return {}
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8", errors="replace"))))
    found = {}
    for name, text in (rows[-1] if rows else {}).items():
        try:
            found[str(name)] = float(text)
        except (TypeError, ValueError):
            continue
    return found


def model_card(checkpoint: Checkpoint, file: str | Path) -> str:
    """The card of a model, as Markdown. `file` is the name of the model's file."""
    model, facts, name = checkpoint.model, facts_of(checkpoint.meta), Path(file).name
    photos = f"`mlclip predict PHOTOS --model {name}` prints the classes of photos."
    parts = [
        f"# {_text(Path(file).stem)}",
        f"A multi-label image classifier for {len(model.classes)} classes, made with mlclip. {photos}",
        _list("Network", _network(model)),
        _list("Teacher", _teacher(facts["teacher"])),
        _list("Labels", _pairs(facts["labels"], ("method", "templates", "settings"))),
        _list("Training", _pairs(facts["training"], ("settings",))),
        _list("Calibration", _calibration(facts["calibration"])),
        _list("Measured in the last epoch of the training", [(k, f"{v:g}") for k, v in _numbers(facts["measured"])]),
        _classes(model.classes, checkpoint.thresholds.tolist()),
    ]
    return "\n\n".join(parts) + "\n"


def _network(model: Any) -> list[tuple[str, str]]:
    lines = [("network", model.arch), ("input", f"RGB, {model.size} × {model.size} pixels")]
    lines.append(("parameters", f"{sum(weight.numel() for weight in model.parameters()):,}"))
    if model.arch == CLIP_HEAD:
        lines.append(("needs", f"CLIP {model.needed.name}, sha256 {model.needed.sha256}"))
    return lines


def _teacher(teacher: Any) -> list[tuple[str, str]]:
    if not isinstance(teacher, Mapping):
        return []
    found = [(key, str(teacher[key])) for key in ("name", "sha256", "activation", "precision") if key in teacher]
    return [*found, ("licence", str(teacher.get("licence") or NOT_RECORDED))]


def _pairs(facts: Any, names: Sequence[str]) -> list[tuple[str, str]]:
    """The texts and numbers under `names`; of a dict, those in it."""
    found = []
    for name in names:
        value = facts.get(name) if isinstance(facts, Mapping) else None
        entries = value.items() if isinstance(value, Mapping) else [(name, value)]
        found += [(str(key), _shown(item)) for key, item in entries if item not in (None, "", [], {})]
    return found


def _calibration(calibration: Any) -> list[tuple[str, str]]:
    return _pairs(calibration, ("source", "photos")) + [
        (f"positive photos of {name}", str(count)) for name, count in _entries(calibration, "positives")
    ]


def _entries(facts: Any, name: str) -> Iterable[tuple[Any, Any]]:
    value = facts.get(name) if isinstance(facts, Mapping) else None
    return value.items() if isinstance(value, Mapping) else ()


def _numbers(measured: Any) -> Iterable[tuple[str, float]]:
    entries = _entries({"all": measured}, "all")
    return [(str(key), value) for key, value in entries if isinstance(value, int | float)]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _list(title: str, pairs: Sequence[tuple[str, str]]) -> str:
    lines = [f"- {_text(name)}: {_text(value)}" for name, value in pairs]
    return "\n".join([f"## {title}", "", *(lines or [NOT_RECORDED.capitalize() + "."])])


def _classes(classes: Sequence[str], thresholds: Sequence[float]) -> str:
    rows = [f"| {_text(name)} | {limit:.3f} |" for name, limit in zip(classes, thresholds, strict=True)]
    head = ["## Classes", "", "A photo has a class if its score is at least the threshold.", ""]
    return "\n".join([*head, "| class | threshold |", "|---|---|", *rows])


def _text(text: str) -> str:
    """Text on one line, with Markdown's special characters escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join("".join(c if c.isprintable() else " " for c in text).split()))
