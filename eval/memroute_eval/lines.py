"""Lines of a chart before they are drawn: thinned, smoothed, their labels kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

__all__ = ["Line", "spread", "strokes"]

_SMOOTHED_FROM = 60
"""Points from which a line is drawn with its running mean."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: int = 0
    """Which of the sheet's line styles (`l0`, `l1`, ...)."""


def spread(targets: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Positions near `targets` that are at least `gap` apart and, if they fit, in [top, bottom]."""
    order = sorted(range(len(targets)), key=lambda i: targets[i])
    placed: dict[int, float] = {}
    last = top - gap
    for i in order:
        last = placed[i] = max(targets[i], last + gap)
    limit = bottom
    for i in reversed(order):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return [placed[i] for i in range(len(targets))]


def strokes(line: Line) -> list[tuple[str, Line]]:
    """What is drawn of a line: itself, or a thin version and its running mean if it is long."""
    thin = _thinned(line)
    if len(line.xs) < _SMOOTHED_FROM:
        return [("line", thin)]
    return [("raw", thin), ("line", _running_mean(thin))]


def _thinned(line: Line, most: int = 240) -> Line:
    """At most `most` points: means over equal runs of consecutive points."""
    n = len(line.xs)
    if n <= most:
        return line
    edges = [round(i * n / most) for i in range(most + 1)]

    def means(values: Sequence[float]) -> list[float]:
        return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]

    return replace(line, xs=means(line.xs), ys=means(line.ys))


def _running_mean(line: Line) -> Line:
    """Means over a tenth of the points.

    Windows are centred, and narrow towards the start, where curves are steep; at the end they lose
    their right half, so that the last value is a mean too.
    """
    n = len(line.ys)
    half = max(1, n // 20)
    ys = []
    for i in range(n):
        reach = min(half, i)
        window = line.ys[i - reach : i + reach + 1]
        ys.append(sum(window) / len(window))
    return replace(line, ys=ys)
