"""The page of `mlclip report`: a gallery to mark labels right or wrong, a view of each class, and the report.

Letters: N photos in the page, C classes.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from ..config import InputError, ReportConfig
from ..files import atomic
from ..images.names import photo_file
from ..labels.matching import match_tables, placed
from ..labels.review import belief, corrections_of, matched_belief, questions, sorted_out, wrong_labels
from ..labels.table import Labels
from ..progress import SILENT, Progress
from . import html as page
from .build import report_sections
from .pictures import Thumbnails, make_thumbnails, photo_of

SCALE = 10_000  # scores in the page are whole numbers from 0 to SCALE, −1 = unknown
SUGGESTED = 200  # labels that the page suggests to look at


def write_page(
    labels: Labels,
    output: str | Path,
    *,
    predictions: Labels | None = None,
    truth: Labels | None = None,
    title: str | None = None,
    looks: ReportConfig | None = None,
    progress: Progress = SILENT,
) -> Thumbnails:
    """Write the page of `labels` to `output`. It loads nothing but its thumbnails, see `make_thumbnails`, and the photos.

    `predictions` are a model's scores of the same photos; the page shows where it contradicts the labels. `truth` adds curves
    and true labels, marked as "report only". Corrections in `labels` are marked at first; the page also writes those that fit
    none of its photos and classes. With more than `looks.limit` photos, those that are most worth a look are shown, or with
    the order "random" any. Raises InputError if a table shares no photo or no class with the labels, if no photo can be
    opened, or if `meta` is damaged.
    """
    title, looks = title or "Labels", looks or ReportConfig()
    sections = report_sections(labels, truth=truth)  # of all photos, before any is left out
    asked = questions(labels, predictions, min(SUGGESTED, len(labels)))
    shown = _shown(labels, predictions, looks, [question.path for question in asked])
    if shown.paths and not any(photo_of(shown.root, path, (1, 1)) for path in shown.paths):
        what = f"none of the {len(shown):,} photos, such as {shown.paths[0]!r:.200}, can be opened in {shown.root}"
        raise InputError(f"{what}. Pass the folder of the photos as `root`.")
    pictures = make_thumbnails(shown.root, shown.paths, output, looks.thumbnails, progress)
    row, column = ({name: i for i, name in enumerate(names)} for names in (shown.paths, shown.classes))
    marked, others = sorted_out(corrections_of(labels), shown)
    data = _tables(shown, predictions, truth) | {
        "paths": shown.paths,
        "classes": shown.classes,
        "key": page_key(shown),
        "sort": looks.sort,
        "thumbnails": pictures.sources,
        "originals": [pictures.sources[i] and _address(shown.root, path, output) for path, i in row.items()],
        "groups": pictures.alike,
        "review": [[row[q.path], column[q.name]] for q in asked if q.path in row],
        "corrections": [[row[path], column[name], value] for path, name, value in marked],
        "others": others,
        "given": hashlib.sha256(repr(marked).encode("utf-8", "surrogateescape")).hexdigest()[:16],
    }
    words = []
    if len(shown) < len(labels):
        which = "chosen at random" if looks.sort == "random" else "those that are most worth a look"
        words.append(f"The gallery has {len(shown):,} of {len(labels):,} photos, {which}.")
    if pictures.failed:
        words.append(f"{pictures.failed:,} of the photos could not be opened in {page.text(labels.root)}.")
    report = "\n".join([f"<p>{' '.join(words)}</p>" if words else "", *sections])
    body = Template(page.source("page.html")).substitute(title=page.text(title), report=report)
    with atomic(output) as temporary:
        temporary.write_text(page.document(title, body, data), encoding="utf-8")
    return pictures


def page_key(labels: Labels) -> str:
    """A name for the marks of these labels in the browser: it depends on paths, classes and scores."""
    digest = hashlib.sha256(repr((labels.classes, labels.paths)).encode("utf-8", "surrogateescape"))
    digest.update(labels.scores.numpy().tobytes())
    return digest.hexdigest()[:16]


def _address(root: str, path: str, output: str | Path) -> str:
    """The address of a photo from the page `output`, whose folder may move together with that of the photos."""
    file = photo_file(root, path)
    try:
        relative = os.path.relpath(file, os.path.dirname(os.path.abspath(output)))
    except ValueError:  # another drive of Windows
        return Path(file).as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _shown(labels: Labels, predictions: Labels | None, looks: ReportConfig, first: list[str]) -> Labels:
    """At most `looks.limit` photos, in their order: those of `first`, then those with the most suspicious label; or at random."""
    if len(labels) <= looks.limit:
        return labels
    model = None if predictions is None else matched_belief(labels, predictions)
    most = wrong_labels(belief(labels), model).amax(1)  # (N,)
    place = {path: row for row, path in enumerate(labels.paths)}
    most[[place[path] for path in first]] = 2.0
    if looks.sort == "random":
        most = torch.rand(len(labels), generator=torch.Generator().manual_seed(0))
    rows = most.topk(looks.limit).indices.sort().values.tolist()
    return labels.aligned([labels.paths[row] for row in rows], labels.classes)


def _tables(labels: Labels, predictions: Labels | None, truth: Labels | None) -> dict[str, Any]:
    """Scores, a model's scores and the truth as the page reads them, and the thresholds."""
    own = whole_thresholds(labels.thresholds)
    tables = {"scale": SCALE, "scores": packed(labels.scores, labels.thresholds), "thresholds": own.tolist()}
    tables |= {"predictions": "", "truth": "", "model_thresholds": []}
    if predictions is not None:
        found = _like(labels, predictions)
        tables["predictions"] = packed(found.scores, found.thresholds)
        tables["model_thresholds"] = whole_thresholds(found.thresholds).tolist()
    if truth is not None:
        found = _like(labels, truth)
        tables["truth"] = packed(found.scores, found.thresholds)
    return tables


def _like(labels: Labels, other: Labels) -> Labels:
    """The scores and thresholds of `other` in the rows and columns of `labels`; NaN, and ½, where it has none."""
    match, thresholds = match_tables(labels, other), torch.full((len(labels.classes),), 0.5)
    columns, other_columns = torch.tensor(match.columns).T
    thresholds[columns] = other.thresholds[other_columns]
    scores = placed(other.scores, match, labels.scores.shape)
    return replace(labels, scores=scores, meta={"thresholds": thresholds.tolist()})


def whole_thresholds(thresholds: Tensor) -> Tensor:
    """Thresholds (C,) in [0, 1] as whole numbers; only 0 stays 0.

    >>> whole_thresholds(torch.tensor([0.0, 0.5, 0.00001]))
    tensor([   0, 5000,    1])
    """
    whole = (thresholds.double() * SCALE).round().long()
    return torch.where(thresholds > 0, whole.clamp(min=1), whole)


def packed(scores: Tensor, thresholds: Tensor) -> str:
    """Scores (N, C) as base64 of int16 numbers from 0 to SCALE, −1 = unknown. Rounding never moves a score over its threshold."""
    limits, whole = whole_thresholds(thresholds), (scores.nan_to_num(0).double() * SCALE).round().long()
    reached = scores >= thresholds
    whole = torch.where(reached, torch.maximum(whole, limits), torch.minimum(whole, limits - 1)).clamp(min=0)
    whole = torch.where(scores.isnan(), -1, whole)
    return base64.b64encode(whole.numpy().astype("<i2").tobytes()).decode()
