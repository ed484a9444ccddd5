"""The kinds of things in the demo scenes. Each is a few strokes in a square from -1 to 1; y points down.

Kinds differ in shape and texture. Some are similar on purpose (wheel and clock, ladder and fence, mushroom and umbrella), so
that the teacher can confuse them. Colours carry no information about the kind.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from math import cos, pi, sin, sqrt

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = Iterable[tuple[float, float]]
SUPERSAMPLING = 2  # things are drawn this much larger and then reduced, which smooths their edges


def random_colour(rng: Generator, *, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """A random RGB colour (0-255) of any hue. Saturation and value are uniform in the given ranges within [0, 1]."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return tuple(round(255 * channel) for channel in rgb)


class Pen:
    """Draws on a square tile in coordinates from -1 to 1, rotated and stretched. Holds the three colours of the thing."""

    def __init__(self, tile: Image.Image, rng: Generator, *, turn: float, stretch: float):
        self.draw = ImageDraw.Draw(tile)
        self.half = tile.width / 2
        self.rng = rng
        self.body = random_colour(rng, saturation=(0.35, 1.0), value=(0.55, 1.0))
        self.accent = random_colour(rng, saturation=(0.0, 0.6), value=(0.75, 1.0))
        self.ink = random_colour(rng, saturation=(0.2, 1.0), value=(0.05, 0.35))
        shape = np.diag([min(1.0, stretch), min(1.0, 1 / stretch)]) * 0.8  # corners stay on the tile after rotation
        self.matrix = np.array([[cos(turn), -sin(turn)], [sin(turn), cos(turn)]]) @ shape

    def _pixels(self, points: Points) -> list[tuple[float, float]]:
        xy = np.asarray(list(points), dtype=float) @ self.matrix.T
        return [(x, y) for x, y in (xy + 1) * self.half]

    def line(self, points: Points, width: float, colour: Colour | None = None) -> None:
        """A line through the points, in ink by default."""
        pixels = max(1, round(width * self.half * 0.8))
        self.draw.line(self._pixels(points), fill=colour or self.ink, width=pixels, joint="curve")

    def fill(self, points: Points, colour: Colour | None = None, *, edge: float = 0.07) -> None:
        """A filled polygon, in the body colour by default, with an ink edge of width `edge`."""
        points = list(points)
        self.draw.polygon(self._pixels(points), fill=colour or self.body)
        if edge:
            self.line([*points, points[0], points[1]], edge)

    def disc(self, x: float, y: float, r: float, colour: Colour | None = None, *, ry: float = 0, edge: float = 0.07):
        """A filled circle, or an ellipse if `ry` is not 0."""
        self.fill(arc(x, y, r, 0, 2, ry=ry)[:-1], colour, edge=edge)


def arc(x: float, y: float, r: float, start: float, end: float, *, ry: float = 0) -> list[tuple[float, float]]:
    """Points along an arc. Angles are in half turns, measured from the right, clockwise on the screen."""
    angles = np.linspace(start * pi, end * pi, 25)
    return [(x + r * cos(a), y + (ry or r) * sin(a)) for a in angles]


def _around(count: int, r: float, *, phase: float = 0) -> list[tuple[float, float]]:
    return [(r * cos(a), r * sin(a)) for a in np.arange(count) * 2 * pi / count + phase]


def _star(pen: Pen) -> None:
    points = int(pen.rng.integers(5, 7))
    outer, inner = _around(points, 1.0, phase=-pi / 2), _around(points, 0.42, phase=-pi / 2 + pi / points)
    pen.fill([p for pair in zip(outer, inner, strict=True) for p in pair])


def _flower(pen: Pen) -> None:
    for x, y in _around(int(pen.rng.integers(5, 8)), 0.62):
        pen.disc(x, y, 0.36)
    pen.disc(0, 0, 0.32, pen.accent)


def _ball(pen: Pen) -> None:
    pen.disc(0, 0, 0.95, edge=0)
    for y in np.linspace(-0.66, 0.66, int(pen.rng.integers(3, 5))):
        half = sqrt(0.9 - y * y)
        pen.line([(-half, y), (half, y)], 0.2, pen.accent)
    pen.line(arc(0, 0, 0.95, 0, 2.1), 0.08)


def _wheel(pen: Pen) -> None:
    for x, y in _around(int(pen.rng.integers(5, 9)), 0.85):
        pen.line([(0, 0), (x, y)], 0.1, pen.accent)
    pen.line(arc(0, 0, 0.86, 0, 2.1), 0.24, pen.ink)
    pen.disc(0, 0, 0.22)


def _clock(pen: Pen) -> None:
    pen.disc(0, 0, 0.95)
    pen.disc(0, 0, 0.76, pen.accent, edge=0)
    for x, y in _around(12, 1.0):
        pen.line([(0.6 * x, 0.6 * y), (0.72 * x, 0.72 * y)], 0.07)
    for length, width, turn in ((0.36, 0.12, pen.rng.random()), (0.58, 0.08, pen.rng.random())):
        pen.line([(0, 0), (length * cos(2 * pi * turn), length * sin(2 * pi * turn))], width)


def _doughnut(pen: Pen) -> None:
    pen.line(arc(0, 0, 0.66, 0, 2.1), 0.62, pen.ink)
    pen.line(arc(0, 0, 0.66, 0, 2.1), 0.48, pen.body)
    for x, y in _around(int(pen.rng.integers(9, 13)), 0.66):
        a = pen.rng.uniform(0, pi)
        dx, dy = 0.09 * cos(a), 0.09 * sin(a)
        pen.line([(x - dx, y - dy), (x + dx, y + dy)], 0.08, pen.accent)


def _ladder(pen: Pen) -> None:
    for y in np.linspace(-0.75, 0.75, int(pen.rng.integers(5, 7))):
        pen.line([(-0.42, y), (0.42, y)], 0.12, pen.accent)
    for x in (-0.42, 0.42):
        pen.line([(x, -1), (x, 1)], 0.2, pen.ink)
        pen.line([(x, -0.97), (x, 0.97)], 0.13, pen.body)


def _fence(pen: Pen) -> None:
    for y in (-0.25, 0.4):
        pen.line([(-1, y), (1, y)], 0.15, pen.ink)
    for x in np.linspace(-0.8, 0.8, int(pen.rng.integers(4, 6))):
        pen.fill([(x - 0.14, 0.8), (x - 0.14, -0.45), (x, -0.75), (x + 0.14, -0.45), (x + 0.14, 0.8)])


def _fish(pen: Pen) -> None:
    pen.fill([(0.35, 0), (1, -0.5), (0.85, 0), (1, 0.5)], pen.accent)
    pen.disc(-0.2, 0, 0.78, ry=0.48)
    for x in (-0.15, 0.1, 0.35):
        pen.line(arc(x - 0.3, 0, 0.3, -0.35, 0.35, ry=0.42), 0.07, pen.accent)
    pen.disc(-0.65, -0.1, 0.11, pen.accent)


def _leaf(pen: Pen) -> None:
    upper = [(x, -0.52 * cos(x * pi / 1.8) ** 0.8) for x in np.linspace(-0.89, 0.89, 13)]
    pen.fill([*upper, *[(x, -y) for x, y in reversed(upper)]])
    pen.line([(-0.9, 0), (1.1, 0)], 0.09)
    for x in (-0.5, -0.15, 0.2, 0.5):
        for side in (-1, 1):
            pen.line([(x + 0.1, 0), (x - 0.12, side * 0.3)], 0.06)


def _mushroom(pen: Pen) -> None:
    pen.fill([(-0.22, 0), (0.22, 0), (0.32, 0.95), (-0.32, 0.95)], pen.accent)
    pen.fill(arc(0, 0.08, 0.95, 1, 2, ry=1.0))
    for x, y in ((-0.5, -0.25), (0.05, -0.6), (0.5, -0.2), (-0.05, -0.15)):
        pen.disc(x, y, 0.15, pen.accent, edge=0)


def _umbrella(pen: Pen) -> None:
    pen.line([(0, -0.9), (0, 0.7), *arc(0.2, 0.7, 0.2, 1, 0)], 0.12)
    top = arc(0, 0, 0.98, 1, 2, ry=0.85)
    scallops = [p for x in (0.65, 0.0, -0.65) for p in arc(x, 0, 0.325, 2, 1, ry=0.2)]
    pen.fill([*top, *scallops])
    for x in (-0.325, 0.325):
        pen.line([(0, -0.85), (x, -0.1)], 0.08, pen.accent)


def _house(pen: Pen) -> None:
    pen.fill([(-0.75, -0.1), (0.75, -0.1), (0.75, 0.9), (-0.75, 0.9)])
    for row, y in enumerate((0.15, 0.4, 0.65)):
        pen.line([(-0.7, y), (0.7, y)], 0.05, pen.accent)
        for x in np.arange(-0.5, 0.6, 0.4) + 0.2 * (row % 2):
            pen.line([(x, y), (x, y + 0.25)], 0.05, pen.accent)
    pen.fill([(-1, -0.1), (0, -0.95), (1, -0.1)], pen.accent)
    pen.fill([(-0.18, 0.9), (-0.18, 0.4), (0.18, 0.4), (0.18, 0.9)], pen.ink)


def _tree(pen: Pen) -> None:
    pen.fill([(-0.14, 0.4), (0.14, 0.4), (0.14, 1), (-0.14, 1)], pen.accent)
    for y, half in ((0.6, 0.75), (0.15, 0.6), (-0.25, 0.42)):
        pen.fill([(-half, y), (0, y - 0.75), (half, y)])


def _key(pen: Pen) -> None:
    pen.line([(-0.3, 0), (0.95, 0)], 0.26, pen.ink)
    pen.line([(-0.3, 0), (0.92, 0)], 0.15, pen.body)
    for x in (0.6, 0.85):
        pen.line([(x, 0.05), (x, 0.4)], 0.17, pen.ink)
    pen.line(arc(-0.6, 0, 0.32, 0, 2.1), 0.3, pen.ink)
    pen.line(arc(-0.6, 0, 0.32, 0, 2.1), 0.18, pen.body)


def _kite(pen: Pen) -> None:
    pen.line([(0, 0.4), (0.15, 0.7), (-0.1, 0.85), (0.1, 1.1)], 0.08)
    top, right, bottom, left = np.array([(0, -1), (0.68, -0.3), (0, 0.6), (-0.68, -0.3)])
    for i in range(3):
        for j in range(3):
            cell = [(u / 3, v / 3) for u, v in ((i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1))]
            corners = [
                (1 - u) * (1 - v) * top + u * (1 - v) * right + u * v * bottom + (1 - u) * v * left for u, v in cell
            ]
            pen.fill(corners, pen.body if (i + j) % 2 else pen.accent, edge=0)
    pen.line([top, right, bottom, left, top], 0.08)


def _moon(pen: Pen) -> None:
    pen.fill([*arc(0, 0, 0.95, 0.35, 1.65), *arc(0.42, 0, 0.78, 1.5, 0.5)])


def _ladybird(pen: Pen) -> None:
    pen.disc(0, -0.7, 0.34, pen.ink)
    pen.disc(0, 0.1, 0.84)
    pen.line([(0, -0.7), (0, 0.92)], 0.08)
    for x, y in ((0.4, -0.25), (0.5, 0.2), (0.3, 0.58)):
        for side in (-1, 1):
            pen.disc(side * x, y, 0.14, pen.ink, edge=0)


_ROUND = (_star, _flower, _ball, _wheel, _clock, _doughnut)
_OTHERS = (_ladder, _fence, _fish, _leaf, _mushroom, _umbrella, _house, _tree, _key, _kite, _moon, _ladybird)
_DRAWERS = {draw.__name__[1:]: draw for draw in (*_ROUND, *_OTHERS)}
KINDS: tuple[str, ...] = tuple(_DRAWERS)


def draw_thing(kind: str, size: int, rng: Generator) -> Image.Image:
    """One thing of `kind` (one of KINDS) on a transparent RGBA tile of size × size pixels, in random colours, rotation and stretch."""
    tile = Image.new("RGBA", (SUPERSAMPLING * size,) * 2, (40, 40, 40, 0))
    pen = Pen(tile, rng, turn=rng.uniform(-0.22, 0.22) * pi, stretch=rng.uniform(0.78, 1.28))
    _DRAWERS[kind](pen)
    return tile.reduce(SUPERSAMPLING)
