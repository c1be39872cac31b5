"""Do an agent's scores mean what they say? Reliability bins and expected calibration error.

Every (example, category) pair with a score is one prediction "this category belongs to the gold
set". Equal-width bins and the count-weighted gap between mean score and observed share are the ECE
of Guo et al. (2017), in the one-vs-rest form; the Brier score is the mean squared error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memroute_env.errors import OptionError

__all__ = ["Calibration", "ReliabilityBin", "calibration_of"]

_Z = 1.959963984540054
"""97.5% quantile of the normal distribution."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions with scores in [low, high); the last bin includes 1."""

    low: float
    high: float
    count: int
    mean_score: float
    share: float
    """Share of them that were right, in [0, 1]."""
    ci95: tuple[float, float]
    """Wilson interval of `share`."""


@dataclass(frozen=True)
class Calibration:
    """How far an agent's scores can be trusted."""

    n: int
    """Scored (example, category) pairs."""
    ece: float
    """Expected calibration error in [0, 1]; 0 is perfect."""
    brier: float
    """Mean squared error in [0, 1]; 0 is perfect."""
    bins: tuple[ReliabilityBin, ...]
    """Non-empty bins, in order."""


def calibration_of(rows: Sequence[Mapping[str, Any]], bins: int = 10) -> Calibration | None:
    """Calibration of an agent's rows.

    Args:
        rows: Rows of results; those without `scores` are passed over.
        bins: Equal-width bins over [0, 1].

    Returns:
        None if no row has scores.

    Raises:
        OptionError: If `bins` is below 1.
    """
    if bins < 1:
        raise OptionError(f"bins must be at least 1, got {bins}")
    pairs = [
        (score, category_id in row["gold"])
        for row in rows
        if row.get("scores") and not row.get("error")
        for category_id, score in row["scores"].items()
    ]
    if not pairs:
        return None
    scores, right = np.array(pairs, float).T
    index = np.minimum((scores * bins).astype(int), bins - 1)
    table = []
    for b in range(bins):
        inside = index == b
        count = int(inside.sum())
        if count:
            share = float(right[inside].mean())
            table.append(
                ReliabilityBin(
                    b / bins,
                    (b + 1) / bins,
                    count,
                    float(scores[inside].mean()),
                    share,
                    _wilson(share, count),
                )
            )
    gaps = sum(b.count * abs(b.mean_score - b.share) for b in table)
    brier = float(((scores - right) ** 2).mean())
    return Calibration(len(scores), gaps / len(scores), brier, tuple(table))


def _wilson(share: float, n: int) -> tuple[float, float]:
    """95% score interval of a binomial share (Wilson, 1927)."""
    z2 = _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
