"""The pieces of a web page as text: its frame and colours, escaping, a bar, a histogram. No torch, no script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b1f26;--soft:#626b79;--line:#dfe3e9;--bar:#2f6fdb;
--faint:#c3cbd8}
@media(prefers-color-scheme:dark){:root{--page:#14171c;--card:#1d2229;--ink:#e6e9ee;--soft:#9aa4b2;--line:#313843;
--bar:#6ea0f5;--faint:#475061}}
*{box-sizing:border-box}
body{margin:0 auto;padding:28px 24px 60px;max-width:1240px;background:var(--page);color:var(--ink);
font:15px/1.45 system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:26px;margin:0;overflow-wrap:anywhere}h2{font-size:18px;margin:38px 0 12px}
p{margin:4px 0 0;color:var(--soft)}
.facts,.charts,.gallery{display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}
.facts{margin-top:20px}p+.charts{margin-top:12px}
.charts{grid-template-columns:repeat(auto-fit,minmax(310px,1fr))}
.gallery{grid-template-columns:repeat(auto-fill,minmax(215px,1fr));gap:14px}
.card,.chart,.fact{background:var(--card);border:1px solid var(--line);border-radius:8px}
.fact{padding:10px 14px}.fact b{display:block;font-size:22px;font-weight:600}
.fact span,small{color:var(--soft);font-size:13px}
.chart{padding:12px 14px;max-width:590px}.chart svg{display:block;width:100%;height:auto;margin-top:6px}
svg rect{fill:var(--bar)}svg text{fill:var(--soft);font-size:11px}svg line{stroke:var(--line)}svg circle{fill:var(--ink)}
svg .even{stroke:var(--soft);stroke-dasharray:4 4}svg .faint{fill:var(--faint)}
.wide{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%}
th,td{padding:6px 14px;text-align:left;border-bottom:1px solid var(--line);vertical-align:middle}
tr:last-child td{border-bottom:0}th{color:var(--soft);font-size:13px;font-weight:500;white-space:nowrap}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.best{white-space:nowrap;line-height:0}.best>*{width:56px;height:56px;margin-right:4px;border-radius:4px}
.none{display:inline-flex;align-items:center;justify-content:center;background:var(--line);color:var(--soft);font-size:12px;
line-height:1.2}
.card{overflow:hidden}.card>img,.card>.none{display:flex;width:100%;height:165px;object-fit:cover}
.words{padding:8px 12px 12px}.file{font-size:12px;color:var(--soft);overflow-wrap:anywhere;margin-bottom:4px}
.row{display:grid;grid-template-columns:minmax(0,1fr) 66px 34px;gap:8px;align-items:center;font-size:13px;
color:var(--soft)}
.row span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.row.on{color:var(--ink);font-weight:600}
.track{display:block;height:7px;min-width:60px;background:var(--line);border-radius:4px;overflow:hidden}
.track i{display:block;height:100%;background:var(--faint)}.on .track i,td .track i{background:var(--bar)}
.updates{display:grid;gap:14px}.strip{display:flex;flex-wrap:wrap;gap:8px;margin:4px 0}
figure{margin:0}figure img{display:block;border-radius:4px}figcaption{font-size:12px;color:var(--soft);margin-top:2px}
.mark{display:inline-block;width:9px;height:9px;border-radius:2px;margin-right:5px}
details{margin-top:14px}summary{cursor:views_found;color:var(--soft)}td.value{overflow-wrap:anywhere}
"""


def document(title: str, body: Iterable[str]) -> str:
    """A whole page that may load nothing but what stands in it."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def text(value: Any) -> str:
    """Escaped for HTML, with control characters and bytes that are not text shown as backslash escapes."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
    return escape("".join(shown))


def number(value: float, digits: int = 2) -> str:
    """With a comma at the thousands; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


def bar(score: float) -> str:
    """A horizontal bar, full at a score of 1 and empty for NaN."""
    percent = 0 if math.isnan(score) else 100 * score
    return f'<span class="track"><i style="width:{percent:.1f}%"></i></span>'


def histogram(caption: str, edges: Sequence[float], counts: Sequence[float]) -> str:
    """Inline SVG: bars over the bins, the highest count and three edges written out.

    ValueError unless there is one edge more than there are counts, all of them finite.
    """
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
    marks = [
        ("start", left, edges[0]),
        ("middle", width / 2, (edges[0] + edges[-1]) / 2),
        ("end", width - left, edges[-1]),
    ]
    words = "".join(f'<text x="{x}" y="{base + 15}" text-anchor="{side}">{edge:g}</text>' for side, x, edge in marks)
    total = sum(counts)
    share = f"{total:,.0f} in all, at most {most:,.0f} in one bar"
    return (
        f'<div class="chart">{text(caption)}<br><small>{share}</small>'
        f'<svg viewBox="0 0 {width} {base + 20}" role="img" aria-label="{text(caption)}">{"".join(bars)}'
        f'<line x1="{left}" x2="{width - left}" y1="{base}" y2="{base}"/>{words}</svg></div>'
    )


def diagram(caption: str, counts: Sequence[float], means: Sequence[float], shares: Sequence[float]) -> str:
    """Inline SVG of scores in [0, 1] against shares in [0, 1]: for each bin of equal width its count, a bar, and a dot.

    The bar is as high as the share; the dot stands at (mean score, share), on the dashed line where both are equal. Bins that
    count nothing stay empty.
    """
    width, height, top, left = 360, 180, 16, 42
    step, base = (width - left - 4) / len(counts), top + height
    across = step * len(counts)
    bars, dots = [], []
    for place, (count, mean, share) in enumerate(zip(counts, means, shares, strict=True)):
        if not count:
            continue
        x, y = left + place * step, base - height * share
        hint = f"<title>{count:,.0f} of mean score {mean:.3f}: {share:.3f} have the class</title>"
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
        f'<div class="chart">{text(caption)}<br><small>below: score, and how many cells have it</small>'
        f'<svg viewBox="0 0 {width} {base + 34}" role="img" aria-label="{text(caption)}">'
        f"{''.join(bars)}{axis}{even}{''.join(dots)}{words}</svg></div>"
    )


def _short(count: float) -> str:
    """A count in a few letters: 950, 1.2k, 34k, 5.6M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{letter}" if count < 10 * unit else f"{count / unit:.0f}{letter}"
    return f"{count:.0f}"
