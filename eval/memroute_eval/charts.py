"""Small inline SVG drawings for the report: bars with intervals, curves, reliability diagrams.

Everything is plain markup with class names; colours, light and dark, are the style sheet's. No
style attributes: the page's content policy forbids them, injected ones included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup, escape

from memroute_eval.calibration import ReliabilityBin
from memroute_eval.lines import Line, spread, strokes

__all__ = ["bar", "line_chart", "reliability_chart", "ticks"]

_WIDTH, _HEIGHT = 380, 224
_TOP, _BOTTOM, _LEFT = 12, 30, 46
_CHARACTER = 6.1
"""Mean width of a character at the labels' 11 px."""


def bar(
    value: float | None, interval: Sequence[float] | None = None, *, full: float = 1.0
) -> Markup:
    """A horizontal bar with its 95% interval as a whisker.

    The number stands beside it as text, so that the drawing is hidden from screen readers.

    Args:
        value: In [0, full]; None and negative values draw an empty track.
        interval: `[low, high]`.
        full: Value of a bar of full width.
    """

    def x(v: float) -> str:
        return f"{100 * min(max(v / full, 0.0), 1.0):.1f}"

    parts = ['<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">']
    parts.append('<rect class="track" width="100" height="10"/>')
    if value is not None:
        parts.append(f'<rect class="fill" width="{x(value)}" height="10"/>')
        if interval is not None:
            low, high = (x(v) for v in interval)
            shape = f"M{low} 5H{high}M{low} 2V8M{high} 2V8"
            parts.append(f'<path class="halo" d="{shape}"/><path class="ci" d="{shape}"/>')
    return Markup("".join(parts) + "</svg>")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Up to `most` + 1 round numbers in [low, high]: 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    """A number for a label: three significant digits, thousands as k."""
    size = abs(value)
    if size >= 10_000:
        return f"{value / 1000:.3g}k"
    if size != 0 and size < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3g}" if size < 1000 else f"{value:.0f}"


def _range(lines: Sequence[Line]) -> tuple[float, float]:
    """The vertical range: from 0 unless that is far below the lines, to 1 where that is near."""
    low = min(min(line.ys) for line in lines)
    high = max(max(line.ys) for line in lines)
    if 0 <= low < 0.4 * high:
        low = 0.0
    if high == low:
        low, high = low - 0.5, high + 0.5
    margin = 0.05 * (high - low)
    top = 1.0 if high <= 1 < high + 4 * margin else high + margin
    return (low if low == 0 else low - margin), top


def line_chart(title: str, lines: Sequence[Line], x_label: str = "step") -> Markup:
    """Lines over steps, each labelled at its end with its name and last value.

    Args:
        title: What the chart shows, for screen readers.
        lines: At least one, each of at least one point.
        x_label: Unit of the horizontal axis.
    """
    named = [f"{_number(strokes(line)[-1][1].ys[-1])} {_shorten(line.label)}" for line in lines]
    right = 14 + _CHARACTER * max(len(label) for label in named)
    width, height = _WIDTH - right, _HEIGHT - _BOTTOM
    x_low = min(min(line.xs) for line in lines)
    x_high = max(max(line.xs) for line in lines)
    y_low, y_high = _range(lines)

    def x(v: float) -> float:
        return _LEFT + (v - x_low) / ((x_high - x_low) or 1) * (width - _LEFT)

    def y(v: float) -> float:
        return height - (v - y_low) / (y_high - y_low) * (height - _TOP)

    described = "; ".join(
        f"{line.label}: from {_number(line.ys[0])} to {_number(line.ys[-1])}" for line in lines
    )
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(f"{title} over {x_label}. {described}.")}">'
    ]
    for tick in ticks(y_low, y_high):
        parts.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{width:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 7}" y="{y(tick) + 4:.1f}" '
            f'text-anchor="end">{_number(tick)}</text>'
        )
    for tick in ticks(x_low, x_high, 4):
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{height + 17}" '
            f'text-anchor="middle">{_number(tick)}</text>'
        )
    parts.append(
        f'<text class="tick" x="{_WIDTH}" y="{height + 17}" text-anchor="end">'
        f"{escape(x_label)}</text>"
    )
    for line in lines:
        for kind, drawn in strokes(line):
            points = " ".join(
                f"{x(a):.1f},{y(b):.1f}" for a, b in zip(drawn.xs, drawn.ys, strict=True)
            )
            parts.append(f'<polyline class="{kind} l{line.style % 8}" points="{points}"/>')
    means = [strokes(line)[-1][1] for line in lines]
    ends = spread([y(line.ys[-1]) for line in means], 13, _TOP, height - 2)
    for line, label, at in zip(means, named, ends, strict=True):
        parts.append(
            f'<circle class="end l{line.style % 8}" cx="{x(line.xs[-1]):.1f}" '
            f'cy="{y(line.ys[-1]):.1f}" r="2.6"/>'
        )
        parts.append(
            f'<text class="label l{line.style % 8}" x="{width + 8:.1f}" y="{at + 4:.1f}">'
            f"{escape(label)}</text>"
        )
    return Markup("".join(parts) + "</svg>")


def _shorten(label: str, most: int = 18) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def reliability_chart(name: str, bins: Sequence[ReliabilityBin]) -> Markup:
    """Observed share over mean score, with Wilson intervals; the diagonal is perfect.

    Args:
        name: The agent's, for screen readers.
        bins: Non-empty bins in order.
    """
    left, top, side = 40, 8, 220

    def x(v: float) -> str:
        return f"{left + v * side:.1f}"

    def y(v: float) -> str:
        return f"{top + (1 - v) * side:.1f}"

    described = "; ".join(
        f"score {b.mean_score:.2f}: {b.share:.0%} right of {b.count}" for b in bins
    )
    parts = [
        f'<svg class="chart square" viewBox="0 0 280 268" role="img" '
        f'aria-label="{escape(f"Reliability of {name}. {described}.")}">'
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path class="grid" d="M{left} {y(tick)}H{left + side}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{float(y(tick)) + 4:.1f}" '
            f'text-anchor="end">{tick:.0%}</text>'
        )
        parts.append(
            f'<text class="tick" x="{x(tick)}" y="{top + side + 16}" '
            f'text-anchor="middle">{tick:.0%}</text>'
        )
    parts.append(
        f'<text class="tick" x="{left + side / 2}" y="{top + side + 33}" '
        f'text-anchor="middle">score</text>'
    )
    parts.append(f'<path class="ideal" d="M{x(0)} {y(0)}L{x(1)} {y(1)}"/>')
    for one, other in pairwise(bins):
        parts.append(
            f'<path class="line l0" d="M{x(one.mean_score)} {y(one.share)}'
            f'L{x(other.mean_score)} {y(other.share)}"/>'
        )
    largest = max(b.count for b in bins)
    for b in bins:
        low, high = b.ci95
        parts.append(f'<path class="ci" d="M{x(b.mean_score)} {y(low)}V{y(high)}"/>')
        radius = 2.5 + 5 * math.sqrt(b.count / largest)
        parts.append(
            f'<circle class="end l0" cx="{x(b.mean_score)}" cy="{y(b.share)}" r="{radius:.1f}">'
            f"<title>{b.count} scores in [{b.low:.1f}, {b.high:.1f}]: mean {b.mean_score:.2f}, "
            f"right {b.share:.0%}</title></circle>"
        )
    return Markup("".join(parts) + "</svg>")
