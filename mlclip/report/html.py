"""Parts of a web page as text: the frame, escaping, bars, histograms and diagrams. No torch."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


@cache
def source(name: str) -> str:
    """The text of a file of this folder: a style sheet or the script."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def document(title: str, body: str, data: Any) -> str:
    """A complete page with the script page.js, which reads `data`.

    Its content security policy allows this one script, by its hash, the pictures in the page, and those from where the page is:
    thumbnails in a folder, and the original photos. Nothing else is loaded. The data is JSON with every "<" escaped, so no name in
    it can end the element.
    """
    script = source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; "
    policy += f"script-src 'sha256-{digest}'; base-uri 'none'"
    content = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<style>\n{source("style.css")}{source("page.css")}</style></head><body class="page">\n{body}\n'
        f'<script type="application/json" id="data">{content}</script>\n<script>{script}</script>\n</body></html>\n'
    )


def text(value: Any) -> str:
    """Text escaped for HTML; control characters and undecodable bytes become backslash escapes."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
    return escape("".join(shown))


def number(value: float, digits: int = 2) -> str:
    """A number with commas between the thousands; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


def bar(score: float) -> str:
    """A horizontal bar, full at a score of 1 and empty for NaN."""
    percent = 0 if math.isnan(score) else 100 * score
    return f'<span class="track"><i style="width:{percent:.1f}%"></i></span>'


def jpeg(image: Image.Image, quality: int = 75) -> bytes:
    """A picture as the bytes of a JPEG file."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def data_uri(jpeg: bytes) -> str:
    """The source of an <img> that is inside the page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def figure(picture: Image.Image, caption: str, colour: str = "") -> str:
    """A picture with a caption; a `colour` marks it."""
    mark = f'<i class="mark" style="background:{colour}"></i>' if colour else ""
    size, words = f'width="{picture.width}" height="{picture.height}"', text(caption)
    return f'<figure><img src="{data_uri(jpeg(picture))}" alt="{words}" {size}><figcaption>{mark}{words}</figcaption></figure>'


def histogram(caption: str, edges: Sequence[float], counts: Sequence[float]) -> str:
    """Inline SVG: one bar per bin, with the total, the highest count and three of the edges."""
    if len(edges) != len(counts) + 1 or not counts or not all(map(math.isfinite, [*edges, *counts])):
        raise ValueError(f"{len(edges)} edges, {len(counts)} counts")
    width, height, top, left = 360, 130, 14, 4
    most, step = max(counts), (width - 2 * left) / len(counts)
    bars = []
    for place, count in enumerate(counts):
        tall = height * count / most if most else 0
        x, y = left + place * step, top + height - tall
        hint = f"<title>{edges[place]:.2f} to {edges[place + 1]:.2f}: {count:,.0f}</title>"
        bars.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{step - 1.5:.1f}" height="{tall:.1f}">{hint}</rect>')
    base = top + height
    places = {"start": left, "middle": width / 2, "end": width - left}
    shown = (edges[0], (edges[0] + edges[-1]) / 2, edges[-1])
    words = "".join(
        f'<text x="{x}" y="{base + 15}" text-anchor="{side}">{edge:g}</text>'
        for (side, x), edge in zip(places.items(), shown, strict=True)
    )
    total = sum(counts)
    share = f"{total:,.0f} in total, at most {most:,.0f} in one bar"
    return (
        f'<div class="chart">{text(caption)}<br><small>{share}</small>'
        f'<svg viewBox="0 0 {width} {base + 20}" role="img" aria-label="{text(caption)}">{"".join(bars)}'
        f'<line x1="{left}" x2="{width - left}" y1="{base}" y2="{base}"/>{words}</svg></div>'
    )


def diagram(caption: str, counts: Sequence[float], means: Sequence[float], shares: Sequence[float]) -> str:
    """Inline SVG, scores in [0, 1] against shares in [0, 1]: a bar, a dot and a count for each of the bins of equal width.

    The height of the bar is the share. The dot is at (mean score, share): on the dashed line if both are equal. Bins with a
    count of 0 stay empty.
    """
    width, height, top, left = 360, 180, 16, 42
    step, base = (width - left - 4) / len(counts), top + height
    across = step * len(counts)
    bars, dots = [], []
    for place, (count, mean, share) in enumerate(zip(counts, means, shares, strict=True)):
        if not count:
            continue
        x, y = left + place * step, base - height * share
        hint = f"<title>{count:,.0f} with mean score {mean:.3f}: a share of {share:.3f} has the class</title>"
        bars.append(
            f'<rect class="faint" x="{x:.1f}" y="{y:.1f}" width="{step - 1.5:.1f}" height="{height * share:.1f}">{hint}</rect>'
        )
        dots.append(f'<circle cx="{left + across * mean:.1f}" cy="{y:.1f}" r="3.5">{hint}</circle>')
        dots.append(f'<text x="{x + step / 2:.1f}" y="{base + 29}" text-anchor="middle">{_short(count)}</text>')
    even = f'<line class="even" x1="{left}" y1="{base}" x2="{left + across:.1f}" y2="{top}"/>'
    axis = f'<line x1="{left}" y1="{base}" x2="{left + across:.1f}" y2="{base}"/>'
    marks = [(left + across * mark, base + 14, "middle", f"{mark:g}") for mark in (0, 0.5, 1)]
    marks += [(left - 6, base - height * mark + 4, "end", f"{mark:.0%}") for mark in (0.5, 1)]
    words = "".join(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{side}">{word}</text>' for x, y, side, word in marks)
    return (
        f'<div class="chart">{text(caption)}<br><small>below: the score, and the number of cells with it</small>'
        f'<svg viewBox="0 0 {width} {base + 34}" role="img" aria-label="{text(caption)}">'
        f"{''.join(bars)}{axis}{even}{''.join(dots)}{words}</svg></div>"
    )


def _short(count: float) -> str:
    """A short form of a count: 950, 1.2k, 34k, 5.6M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{letter}" if count < 10 * unit else f"{count / unit:.0f}{letter}"
    return f"{count:.0f}"
