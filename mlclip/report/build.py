"""The sections of the page about a table: facts, advice, charts, classes, settings. All text in them is escaped.

Letters: N photos, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from PIL import ImageOps
from torch import Tensor

from ..labels.metrics import matched_cells, mean_average_precision
from ..labels.review import diagnose
from ..labels.table import Labels
from ..methods.calibration import expected_calibration_error, reliability
from ..spelling import shorten
from . import html as page
from .pictures import bias_section, photo_of, reading, update_section, where_section

BEST_PER_CLASS, BEST_IN_TOTAL = 5, 600  # thumbnails in the table of classes
SHOWN_SKIPPED, SHOWN_LETTERS = 500, 600  # limits of the folded tables: rows, and characters per setting
BINS = 20
RELIABILITY_BINS = 10  # in the diagram; the calibration error uses the usual 15
EMPTY_NAMED = 1000  # photos without a label that are listed
# Entries of `meta` that the page shows elsewhere, or not at all.
ELSEWHERE = {"histograms", "skipped", "thresholds", "bias", "bias_photos", "update", "where", "corrections", "content"}

Quality = tuple[float, dict[str, float]]  # mAP and {class: AP}


def report_sections(labels: Labels, *, truth: Labels | None = None) -> list[str]:
    """Classes, scores, and the content of `labels.meta`. `truth` adds the AP of each class, and scores against the share of positives.

    "histograms" of `meta`, {name: {"edges": [...], "counts": [...]}}, are drawn. Raises InputError if `truth` shares no photo or no
    class with the labels, or if `meta` is damaged.
    """
    quality = None if truth is None else mean_average_precision(labels, truth)
    clip = labels.meta.get("clip") or {}
    origin = {"method": labels.meta.get("method"), "CLIP": clip.get("name"), "its licence": clip.get("licence")}
    origin["photos in"] = labels.root
    return [
        f"<p>{' · '.join(f'{name} {page.text(value)}' for name, value in origin.items() if value)}</p>",
        _facts(labels, quality),
        _advice(labels),
        _charts(labels),
        _reliability(labels, truth),
        _class_table(labels, quality),
        bias_section(labels),
        update_section(labels),
        where_section(labels),
        _about(labels),
    ]


def _facts(labels: Labels, quality: Quality | None) -> str:
    counts = (labels.scores >= labels.thresholds).sum(1).float()  # (N,) labels per photo
    facts = {
        "photos": f"{len(labels):,}",
        "classes": f"{len(labels.classes):,}",
        "labels per photo": page.number(counts.mean().item()),
        "photos without a label": f"{int((counts == 0).sum()):,}",
        "mean top-1 score": page.number(_top1(labels).mean().item()),
    }
    if skipped := labels.meta.get("skipped"):
        facts["photos skipped"] = f"{len(skipped):,}"
    if quality:
        facts["mAP in %, report only"] = page.number(100 * quality[0], 1)
    tiles = (f'<div class="fact"><b>{value}</b><span>{name}</span></div>' for name, value in facts.items())
    return f'<div class="facts">{"".join(tiles)}</div>'


def _advice(labels: Labels) -> str:
    """Advice about names and prompts; "" for predictions and truth, which have no prompts."""
    if "prompts" not in labels.meta:
        return ""
    found = diagnose(labels)
    lines = "".join(f"<li>{page.text(line)}</li>" for line in found.advice)
    advice = f"<h2>What to look at</h2><ul>{lines}</ul>" if lines else ""
    if not found.empty:
        return advice
    count = f"{len(found.empty):,} of {found.known:,} photos fit no class"
    named = page.text(shorten(found.empty, EMPTY_NAMED))
    return f"{advice}<details><summary>{count}</summary><p>{named}</p></details>"


def _top1(labels: Labels) -> Tensor:
    """The highest score of each photo with at least one known score, (at most N,)."""
    known = labels.scores[~labels.scores.isnan().all(1)]
    return known.nan_to_num(-1).amax(1) if len(known) else known.new_empty(0)


def _charts(labels: Labels) -> str:
    edges = [place / BINS for place in range(BINS + 1)]
    counts = torch.histc(_top1(labels), BINS, 0, 1).tolist()
    charts = [page.histogram("Top-1 score of each photo", edges, counts)]
    with reading("the histograms"):
        for name, data in (labels.meta.get("histograms") or {}).items():
            edges, counts = ([float(number) for number in data[key]] for key in ("edges", "counts"))
            charts.append(page.histogram(f"CLIP's top-1 confidence: {name}", edges, counts))
    return f'<h2>Confidence</h2><div class="charts">{"".join(charts)}</div>'


def _reliability(labels: Labels, truth: Labels | None) -> str:
    """A diagram of scores against the share of positives, with the calibration error; "" without truth."""
    if truth is None:
        return ""
    scores, targets = matched_cells(labels, truth)
    found = reliability(scores, targets, RELIABILITY_BINS)
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


def _class_table(labels: Labels, quality: Quality | None) -> str:
    best = min(BEST_PER_CLASS, max(1, BEST_IN_TOTAL // max(len(labels.classes), 1)), len(labels))
    scores, rows = (part.T.tolist() for part in labels.scores.nan_to_num(-1).topk(best, dim=0))  # C lists of `best`
    thresholds, means = labels.thresholds, labels.scores.nanmean(0).tolist()
    counts = (labels.scores >= thresholds).sum(0).tolist()
    lines = []
    for c, name in enumerate(labels.classes):
        shown = [(labels.paths[row], score) for row, score in zip(rows[c], scores[c], strict=True) if score >= 0]
        pictures = [_picture(labels.root, path, f"{path}: {score:.3f}") for path, score in shown]
        count = f"{counts[c]:,} <small>≥ {thresholds[c]:.2f}</small>"
        ap = f'<td class="number">{page.number(100 * quality[1].get(name, math.nan), 1)}</td>' if quality else ""
        lines.append(
            f'<tr><td>{page.text(name)}</td><td class="number">{page.number(means[c], 3)}</td>'
            f'<td>{page.bar(means[c])}</td><td class="number">{count}</td>{ap}'
            f'<td class="best">{"".join(pictures)}</td></tr>'
        )
    ap_head = '<th class="number">AP in %, report only</th>' if quality else ""
    head = f'<th>class</th><th class="number">mean score</th><th></th><th class="number">photos</th>{ap_head}'
    table = f"<table><tr>{head}<th>photos with the highest scores</th></tr>{''.join(lines)}</table>"
    return f'<h2>Classes</h2><div class="wide">{table}</div>'


def _picture(root: str, path: str, hint: str) -> str:
    """An <img> of the centre of a photo; a grey field if it cannot be opened."""
    size, hint, photo = (112, 112), page.text(hint), photo_of(root, path, (112, 112))
    if photo is None:
        return f'<span class="none" title="{hint}">no photo</span>'
    source = page.data_uri(page.jpeg(ImageOps.fit(photo, size)))
    return f'<img src="{source}" alt="{hint}" title="{hint}" loading="lazy">'


def _about(labels: Labels) -> str:
    """The content of `meta` and the skipped photos, each in a folded table."""
    settings = {name: value for name, value in labels.meta.items() if name not in {*ELSEWHERE, "fitted"}}
    parts = {"Settings": list(_flat(settings)), "Skipped photos": (labels.meta.get("skipped") or [])[:SHOWN_SKIPPED]}
    folded = []
    for name, pairs in parts.items():
        lines = (f'<tr><td>{page.text(key)}</td><td class="value">{page.text(value)}</td></tr>' for key, value in pairs)
        if pairs:
            table = f'<div class="wide"><table>{"".join(lines)}</table></div>'
            folded.append(f"<details><summary>{name}</summary>{table}</details>")
    return "".join(folded)


def _flat(meta: dict, before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in meta.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{before}{name}", text if len(text) <= SHOWN_LETTERS else text[:SHOWN_LETTERS] + " ..."
