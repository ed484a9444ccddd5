"""The part of a page about labels that sets scores against the truth: a reliability diagram. Report only."""

from __future__ import annotations

import math

from ..labels.metrics import matched_cells
from ..labels.table import Labels
from ..methods.calibration import expected_calibration_error, reliability
from . import html as page

SHOWN_BINS = 10  # of the diagram; its number is of the usual 15


def calibration_section(labels: Labels, truth: Labels | None) -> str:
    """How far scores are from the share of positives, drawn; nothing without truth."""
    if truth is None:
        return ""
    scores, answers = matched_cells(labels, truth)
    found = reliability(scores, answers, SHOWN_BINS)
    error = expected_calibration_error(scores, answers)
    if math.isnan(error):  # no cell is known
        return ""
    said = (
        f"Expected calibration error {100 * error:.1f} %, over {int(found.count.sum()):,} pairs of a photo and a class whose "
        "truth is known. A dot above the line: the class is there more often than its scores say; below it, less often."
    )
    chart = page.diagram("How many have the class, by score", *(part.tolist() for part in found))
    return f'<h2>Scores against the truth, report only</h2><p>{said}</p><div class="charts">{chart}</div>'
