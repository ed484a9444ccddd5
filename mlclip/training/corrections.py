"""What corrections do after a fit: they calibrate scores and thresholds, as `mlclip calibrate` does with true labels.

Letters: N photos, C classes.
"""

from __future__ import annotations

from torch import Tensor

from ..images import Photo
from ..labels.corrections import corrections_of, known_corrections
from ..labels.table import Labels
from ..progress import Progress
from ..student.calibrate import ENOUGH, FEWEST, calibrate
from ..student.checkpoint import Checkpoint


def calibrate_by_corrections(
    checkpoint: Checkpoint, labels: Labels, photos: list[Photo], held_out: Tensor, progress: Progress
) -> Checkpoint:
    """The model with scores and thresholds fitted to the corrections in `labels`; unchanged where they are too few.

    `held_out` (N, C) are scores of heads that were not fitted to the photo: on the photos of a fit, scores are too sure. The
    corrections must be of ENOUGH photos, and FEWEST of them must confirm a label and FEWEST contradict one. Without the rule,
    a person who marks only what is wrong would teach the model that every high score is wrong.
    """
    if not corrections_of(labels):
        return checkpoint
    table = Labels([photo.path for photo in photos], labels.classes, held_out)
    readable = [path for path, bad in zip(table.paths, held_out.isnan().any(1).tolist(), strict=True) if not bad]
    known, usable = known_corrections(labels), set(readable)
    known = known.aligned([path for path in known.paths if path in usable], known.classes)
    missing = _missing(checkpoint, table, known)
    if missing:
        progress.log(f"scores are not calibrated: {missing}")
        return checkpoint
    found = calibrate(checkpoint, table.aligned(readable, table.classes), known)
    progress.log(f"scores and thresholds are calibrated with the corrections of {found.photos} photos")
    return found.checkpoint


def _missing(checkpoint: Checkpoint, table: Labels, known: Labels) -> str:
    """What the corrections `known` lack to calibrate; "" if they are enough."""
    if len(known) < ENOUGH:
        return f"{len(known)} photos are corrected, {ENOUGH} are needed"
    predicted = table.aligned(known.paths, known.classes).scores >= checkpoint.thresholds  # (M, C)
    cells = ~known.scores.isnan()
    right = int(((predicted == (known.scores == 1)) & cells).sum())
    wrong = int(cells.sum()) - right
    if min(right, wrong) < FEWEST:
        return f"of the corrections, {right} agree with the model and {wrong} do not; mark right and wrong labels, {FEWEST} of each"
    return ""
