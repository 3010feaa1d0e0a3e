"""Charts as inline SVG: a stacked histogram and a line chart, drawn in the page's own colours.

Every chart is an image with a name and a description for those who do not see it. Colours are CSS classes, so that the
page's light and dark schemes reach into the drawing. Lengths are in the drawing's own units; the page scales it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

WIDTH, HEIGHT = 380, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 18, 34
MAX_SERIES = 8
"""Line styles that the stylesheet tells apart."""


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` onto 0 to 1, evenly."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Axis:
        """An axis that holds all finite values."""
        held = [v for v in values if math.isfinite(v)]
        low, high = min(held, default=1.0), max(held, default=1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        return cls(low, high)

    def place(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values inside the axis, near `wanted` of them."""
        rough = (self.high - self.low) / wanted
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Numbers of an axis, with as many digits as tell neighbours apart."""
    if len(ticks) < 2:
        return [short(t) for t in ticks]
    step, largest = min(b - a for a, b in pairwise(ticks)), max(map(abs, ticks))
    last = math.floor(math.log10(step) + 1e-9)
    if largest < 10_000 and step >= 1e-4:
        return [f"{t:.{max(0, -last)}f}" for t in ticks]
    labels = [short(t) for t in ticks]
    digits = 1 + math.floor(math.log10(largest)) - last
    return labels if len(set(labels)) == len(labels) else [f"{t:.{digits}g}" for t in ticks]


def short(value: float) -> str:
    """A number in few characters: 1234 as 1.23k, 0.05 as 0.05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}".replace("e-0", "e-")


@dataclass(frozen=True)
class Mark:
    """A value of the horizontal axis to point out, and which side of it is rejected."""

    value: float
    label: str
    better: str
    """high or low: the side that is kept"""


def histogram(
    name: str,
    description: str,
    edges: Sequence[float],
    layers: Mapping[str, Sequence[int]],
    mark: Mark | None,
) -> Markup:
    """Stacked bars over bins.

    Args:
        edges: of the bins, increasing, one more than there are bins.
        layers: counts per bin by CSS class, from the bottom up. A bin that is not empty is at least a hair tall.
    """
    x_axis = Axis(edges[0], edges[-1])
    totals = [sum(column) for column in zip(*layers.values(), strict=True)]
    y_axis = Axis(0, max(1, *totals))
    parts = [_frame(x_axis, y_axis, whole_counts=True), *_bars(x_axis, y_axis, edges, layers)]
    if mark is not None:
        parts.append(_mark(x_axis, mark))
    return _svg(name, description, parts)


def _bars(
    x_axis: Axis, y_axis: Axis, edges: Sequence[float], layers: Mapping[str, Sequence[int]]
) -> Iterable[Markup]:
    for index, (low, high) in enumerate(pairwise(edges)):
        left, right = _x(x_axis, low), _x(x_axis, high)
        foot = _y(y_axis, 0)
        for css, counts in layers.items():
            if not counts[index]:
                continue
            tall = max(1.2, _y(y_axis, 0) - _y(y_axis, counts[index]))
            foot -= tall
            yield Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                css, left + 0.5, foot, max(0.8, right - left - 1), tall
            )


def _mark(x_axis: Axis, mark: Mark) -> Markup:
    """The threshold as a line, its rejected side shaded, its label on the side with more room."""
    place = min(1.0, max(0.0, x_axis.place(mark.value)))
    at, low_end, high_end = LEFT + place * (WIDTH - LEFT - RIGHT), LEFT, WIDTH - RIGHT
    start, stop = (low_end, at) if mark.better == "high" else (at, high_end)
    anchor, shift = ("start", 5) if place < 0.5 else ("end", -5)
    return Markup(
        '<rect class="shade" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>'
        '<line class="mark" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>'
        '<text class="marklabel" x="{:.1f}" y="{}" text-anchor="{}">{}</text>'
    ).format(
        start, TOP, max(0.0, stop - start), HEIGHT - TOP - BOTTOM, at, at, TOP - 6, HEIGHT - BOTTOM,
        at + shift, TOP - 6, anchor, mark.label,
    )  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One line: its name and its points, in the order of x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    name: str,
    description: str,
    series: Sequence[Series],
    *,
    x_label: str,
    include: Sequence[float] = (),
) -> Markup:
    """Lines over a common horizontal axis. Points that are not finite break a line.

    Args:
        include: values that the vertical axis holds whatever the lines do.
    """
    if len(series) > MAX_SERIES:
        raise ValueError(f"chart {name!r} has {len(series)} lines; at most {MAX_SERIES} can be told apart")
    x_axis = Axis.over(v for s in series for v in s.x)
    y_axis = Axis.over([*include, *(v for s in series for v in s.y)])
    lines = [
        Markup('<path class="line {}" d="{}"/>').format("only" if len(series) == 1 else f"line{i}", d)
        for i, s in enumerate(series)
        if (d := _path(s, x_axis, y_axis))
    ]
    label = Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(
        WIDTH - RIGHT, HEIGHT - 4, x_label
    )
    return _svg(name, description, [_frame(x_axis, y_axis), *lines, label])


def _path(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    """Path data; a single point becomes a short dash, so that it is seen."""
    steps, pen_down = [], False
    for x, y in zip(series.x, series.y, strict=True):
        if not math.isfinite(y):
            pen_down = False
            continue
        steps.append(f"{'L' if pen_down else 'M'}{_x(x_axis, x):.1f} {_y(y_axis, y):.1f}")
        pen_down = True
    return " ".join(steps) + ("h2" if len(steps) == 1 else "")


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _frame(x_axis: Axis, y_axis: Axis, *, whole_counts: bool = False) -> Markup:
    """Grid lines and the numbers of both axes."""
    parts = []
    heights = [t for t in y_axis.ticks(4) if t == round(t) or not whole_counts]
    for tick, label in zip(heights, tick_labels(heights), strict=True):
        y = _y(y_axis, tick)
        line = '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
        text = '<text class="axis" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
        parts.append(Markup(line).format(LEFT, WIDTH - RIGHT, y, y))
        parts.append(Markup(text).format(LEFT - 6, y + 4, label))
    for tick, label in zip(x_axis.ticks(6), tick_labels(x_axis.ticks(6)), strict=True):
        text = '<text class="axis" x="{:.1f}" y="{}" text-anchor="middle">{}</text>'
        parts.append(Markup(text).format(_x(x_axis, tick), HEIGHT - BOTTOM + 15, label))
    return Markup("").join(parts)


def _svg(name: str, description: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, f"{name}: {description}", Markup("").join(parts)
    )
