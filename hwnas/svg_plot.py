"""Plots of a report as inline SVG: axes with round ticks, dots, crosses and lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["COLOURS", "Plot", "number"]

#: Of dots and lines, in this order.
COLOURS = ("#3567b8", "#d06a00", "#1b6e3c", "#7a3fa0")
_GRID, _LIMIT = "#e6eaef", "#b3261e"
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 30, 20, 60

Points = Sequence[tuple[float, float]]


def number(value: object, digits: int = 4) -> str:
    """A number for the reader; a dash for anything else."""
    return f"{value:.{digits}g}" if isinstance(value, int | float) and math.isfinite(value) else "–"


class Plot:
    """One figure, drawn in the units of its data.

    Parameters
    ----------
    xs, ys
        Every value that is going to be drawn: they set the axes. None may be empty, all must be finite.
    width, height
        Of the figure in pixels.
    """

    def __init__(self, xs: Sequence[float], ys: Sequence[float], *, width: int = 800, height: int = 400) -> None:
        self.width, self.height = width, height
        self._x, self._y = _range(xs), _range(ys)
        self._marks: list[str] = []
        for tick in _ticks(*self._x):
            x, _ = self._place(tick, self._y[0])
            self._marks.append(f'<path d="M{x:.1f} {_TOP}V{height - _BOTTOM}" stroke="{_GRID}"/>')
            label = f'<text x="{x:.1f}" y="{height - _BOTTOM + 18}" text-anchor="middle">{number(tick)}</text>'
            self._marks.append(label)
        for tick in _ticks(*self._y):
            _, y = self._place(self._x[0], tick)
            self._marks.append(f'<path d="M{_LEFT} {y:.1f}H{width - _RIGHT}" stroke="{_GRID}"/>')
            self._marks.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        (x0, x1), (y0, y1) = self._x, self._y
        across = (x - x0) / (x1 - x0) * (self.width - _LEFT - _RIGHT)
        return _LEFT + across, _TOP + (y1 - y) / (y1 - y0) * (self.height - _TOP - _BOTTOM)

    def limit(self, x: float, text: str) -> None:
        """A dashed vertical line, such as a budget."""
        at, _ = self._place(x, self._y[0])
        path = f'<path d="M{at:.1f} {_TOP}V{self.height - _BOTTOM}" stroke="{_LIMIT}" stroke-dasharray="5 4"/>'
        self._marks += [path, f'<text x="{at - 5:.1f}" y="{_TOP + 12}" text-anchor="end">{escape(text)}</text>']

    def dots(self, points: Points) -> None:
        """Half-transparent dots."""
        for x, y in (self._place(*point) for point in points):
            self._marks.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[0]}" fill-opacity=".45"/>',
            )

    def cross(self, x: float, y: float, title: str) -> None:
        """A cross with a text that shows under the pointer."""
        left, top = self._place(x, y)
        self._marks.append(
            f'<path d="M{left - 6:.1f} {top:.1f}h12M{left:.1f} {top - 6:.1f}v12" stroke="{COLOURS[1]}" '
            f'stroke-width="2.5"><title>{escape(title)}</title></path>'
        )

    def line(self, points: Points, colour: str) -> None:
        """A polyline; of many points, an even choice of 400 is drawn."""
        step = max(1, math.ceil(len(points) / 400))
        kept = [*points[::step], *points[-1:]]
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self._place(*point) for point in kept))
        self._marks.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>')

    def svg(self, caption: str, label: str, *, y_label: str = "") -> str:
        """The figure.

        Parameters
        ----------
        caption
            Below the figure; as HTML.
        label
            What a screen reader says.
        y_label
            Beside the vertical axis.
        """
        middle = (self.height - _BOTTOM + _TOP) // 2
        side = f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{y_label}</text>'
        below = f'x="{(_LEFT + self.width - _RIGHT) // 2}" y="{self.height - 12}" text-anchor="middle"'
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(label)}">'
            f"{''.join(self._marks)}<text {below}>{caption}</text>{side if y_label else ''}</svg>"
        )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that divide an interval into four to nine parts."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    return [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
