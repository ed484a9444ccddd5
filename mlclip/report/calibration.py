"""The section of a report that compares scores with the truth: a reliability diagram. It influences nothing."""

from __future__ import annotations

import math

from ..labels.metrics import matched_cells
from ..labels.table import Labels
from ..methods.calibration import expected_calibration_error, reliability
from . import html as page

SHOWN_BINS = 10  # in the diagram; the calibration error uses the usual 15


def calibration_section(labels: Labels, truth: Labels | None) -> str:
    """A diagram of scores against the share of positives, with the calibration error; "" without truth."""
    if truth is None:
        return ""
    scores, targets = matched_cells(labels, truth)
    found = reliability(scores, targets, SHOWN_BINS)
    error = expected_calibration_error(scores, targets)
    if math.isnan(error):  # no true label is known
        return ""
    words = (
        f"Expected calibration error {100 * error:.1f} %, over {int(found.count.sum()):,} pairs of a photo and a class with a "
        "known true label. A dot above the line means that photos show the class more often than the scores say; a dot below "
        "the line, less often."
    )
    chart = page.diagram("Share of photos with the class, by score", *(part.tolist() for part in found))
    return f'<h2>Scores against the truth, report only</h2><p>{words}</p><div class="charts">{chart}</div>'
