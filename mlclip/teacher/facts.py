"""Which CLIP made some labels, and with which settings: recorded with the labels, and compared when a CLIP is needed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..clip.pixels import pixels_of
from ..config import InputError
from .scoring import Teacher


def teacher_facts(teacher: Teacher, logit_scale: float, view_size: int) -> dict[str, Any]:
    """The facts about a teacher as plain containers, for the labels' `meta["clip"]`."""
    facts = {"name": teacher.name, "sha256": teacher.sha256, "activation": teacher.clip.activation}
    facts |= {"precision": teacher.precision, "pixels": teacher.pixels.as_plain(), "licence": teacher.licence}
    if teacher.logit_bias is not None:
        facts["logit_bias"] = teacher.logit_bias
    return facts | {"logit_scale": logit_scale, "view_size": view_size}


def check_same_teacher(made: Mapping[str, Any], teacher: Teacher) -> None:
    """InputError if `teacher` is not the CLIP that `made` describes: other weights, another activation or other pixels.

    Facts that older labels do not have are not compared; without pixels, OpenAI's were used.
    """
    if teacher.sha256 != made["sha256"]:
        raise InputError(
            f"CLIP {teacher.name} did not make these labels; {made['name']} (sha256 {made['sha256'][:12]}...) did. "
            "Use that one, or pass `other_teacher=True`."
        )
    activation, pixels = made.get("activation", teacher.clip.activation), pixels_of(made.get("pixels"))
    if activation != teacher.clip.activation:
        raise InputError(
            f"the labels were made with activation {activation}, but CLIP {teacher.name} is loaded with "
            f"{teacher.clip.activation}. Load it with the same one, or pass `other_teacher=True`."
        )
    if not pixels.same_as(teacher.pixels):
        raise InputError(
            f"the labels were made with other pixels ({pixels}) than CLIP {teacher.name} is loaded with "
            f"({teacher.pixels}). Load it with the same ones, or pass `other_teacher=True`."
        )
