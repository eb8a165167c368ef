"""Plots of the page as SVG of a few kB each: curves, and a scatter of points that name their clips.

Colours are the page's: series k has the class `s{k}`. Text and axes are drawn in `currentColor`.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34  # margins of a plot in its own units
CURVE_POINTS = 100  # of one curve, at most
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Point:
    """A point of a scatter: its coordinates, the number of its clip on the page, and what to say of it."""

    x: float
    y: float
    clip: int
    title: str


@dataclass(frozen=True)
class _Scale:
    """From numbers to places on a plot, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, logarithmic: bool) -> "_Scale":
        low, high = min(values), max(values)
        if logarithmic:
            return cls(low / 1.3, high * 1.3, start, end, True)
        margin = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
        return cls(low - margin, high + margin, start, end, False)

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.logarithmic else (self.low, self.high)
        share = ((math.log(value) if self.logarithmic else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if not self.logarithmic:
            return self._within(MaxNLocator(4).tick_values(self.low, self.high))
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        tens = self._within(10.0**decade for decade in decades)
        if len(tens) > 2:
            return tens[:: -(-len(tens) // 6)]
        return self._within(factor * 10.0**decade for decade in decades for factor in (1, 2, 5))

    def _within(self, ticks: Iterable[float]) -> list[float]:
        return [float(tick) for tick in ticks if self.low <= tick <= self.high]


def curves_svg(curves: Mapping[int, np.ndarray], *, x_label: str, y_label: str, width: int = 220) -> str:
    """Curves over 1, 2, 3, ... on logarithmic axes; a curve of one value is a dot.

    Args:
        curves: positive floats `[E]` by number of the series.
        x_label, y_label: of the axes.
        width: of the drawing in its own units.

    Returns:
        An `<svg>` element; nothing where there is no positive value.
    """
    height = 130
    usable = {k: np.where(np.isfinite(c) & (c > 0), c, np.nan) for k, c in curves.items() if len(c)}
    values = [value for curve in usable.values() for value in curve if not math.isnan(value)]
    if not values:
        return ""
    longest = max(map(len, usable.values()))
    x = _Scale.over([1, max(longest, 2)], LEFT, width - RIGHT, True)
    y = _Scale.over(values, height - BOTTOM, TOP, True)
    parts = []
    for number, curve in usable.items():
        places = np.unique(np.geomspace(1, len(curve), CURVE_POINTS).round().astype(int))
        points = [(x(i), y(curve[i - 1])) for i in places if not math.isnan(curve[i - 1])]
        if len(points) == 1:
            parts.append(f'<circle class="s{number}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3.5"/>')
        elif points:
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(f'<polyline class="s{number}" points="{line}"/>')
    return _plot("curves", width, height, x, y, x_label, y_label, "".join(parts))


def scatter_svg(
    series: Mapping[int, Sequence[Point]],
    *,
    x_label: str,
    y_label: str,
    level: tuple[float, str] | None = None,
    width: int = 460,
) -> str:
    """Points, x on a logarithmic axis.

    Args:
        series: points with positive x by number of the series.
        x_label, y_label: of the axes.
        level: a y to draw a line at, and what it is.
        width: of the drawing in its own units.

    Returns:
        An `<svg>` element; nothing where there is no point.
    """
    height = 230
    points = [point for some in series.values() for point in some]
    if not points:
        return ""
    x = _Scale.over([point.x for point in points], LEFT, width - RIGHT, True)
    y = _Scale.over([point.y for point in points] + ([level[0]] if level else []), height - BOTTOM, TOP, False)
    parts = []
    if level:
        at = y(level[0])
        parts.append(f'<path class="level" d="M{LEFT} {at:.1f}H{width - RIGHT}"/>')
        parts.append(f'<text x="{LEFT + 4}" y="{at + 12:.1f}">{html.escape(level[1])}</text>')
    for number, some in series.items():
        parts += [
            f'<circle class="s{number}" cx="{x(p.x):.1f}" cy="{y(p.y):.1f}" r="4" data-clip="{p.clip}">'
            f"<title>{html.escape(p.title)}</title></circle>"
            for p in some
        ]
    return _plot("scatter", width, height, x, y, x_label, y_label, "".join(parts))


def _plot(kind: str, width: int, height: int, x: _Scale, y: _Scale, x_label: str, y_label: str, inside: str) -> str:
    """Axes with ticks around what is drawn inside."""
    bottom, middle, centre = height - BOTTOM, (height - BOTTOM + TOP) / 2, (LEFT + width - RIGHT) / 2
    x_label, y_label = html.escape(x_label), html.escape(y_label)
    grid = "".join(f"M{x(tick):.1f} {TOP}V{bottom}" for tick in x.ticks())
    grid += "".join(f"M{LEFT} {y(tick):.1f}H{width - RIGHT}" for tick in y.ticks())
    labels = [f'<text class="x" x="{x(tick):.1f}" y="{bottom + 14}">{tick_text(tick)}</text>' for tick in x.ticks()]
    labels += [f'<text class="y" x="{LEFT - 5}" y="{y(tick) + 4:.1f}">{tick_text(tick)}</text>' for tick in y.ticks()]
    return (
        f'<svg class="plot {kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{y_label} against {x_label}"><path class="grid" d="{grid}"/>'
        f'{"".join(labels)}<text class="x" x="{centre}" y="{height - 4}">{x_label}</text>'
        f'<text class="x" transform="translate(10 {middle}) rotate(-90)">{y_label}</text>{inside}</svg>'
    )


def tick_text(value: float) -> str:
    """`0.002`, `50`, `1,000`, `10⁻⁵`."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return scientific(value, 0).removeprefix("1×")
    return f"{value:,.6g}".replace("-", "−")


def scientific(value: float, decimals: int) -> str:
    """`3.1×10⁻⁵`."""
    mantissa, exponent = f"{value:.{decimals}e}".split("e")
    return f"{mantissa}×10{str(int(exponent)).translate(SUPERSCRIPTS)}".replace("-", "−")
