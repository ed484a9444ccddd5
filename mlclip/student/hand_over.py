"""A student to hand over: a `.safetensors` file, and its card beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..files import atomic, beside, check_output
from .card import last_epoch, model_card
from .checkpoint import load_checkpoint, save_checkpoint


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
