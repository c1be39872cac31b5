"""The reward as the specification states it: slow, obvious, and written without the package."""

from __future__ import annotations

from collections import Counter

ORDER = ["long", "medium", "rolling", "evolving", "short"]
ADJACENT = [{"long", "medium"}, {"medium", "short"}, {"medium", "rolling"}, {"rolling", "short"}]


def horizon(names: set[str], horizons: dict[str, str]) -> str:
    counts = Counter(horizons[name] for name in names)
    most = max(counts.values())
    return next(h for h in ORDER if counts.get(h) == most)


def scope(names: set[str], scopes: dict[str, str]) -> str:
    found = {scopes[name] for name in names}
    return found.pop() if len(found) == 1 else "mixed"


def slow_score(
    predicted: set[str], gold: set[str], horizons: dict[str, str], scopes: dict[str, str]
) -> tuple[float, float, float, float, float]:
    """(total, f1, temporal, parity, efficiency)."""
    f1 = 2 * len(predicted & gold) / (len(predicted) + len(gold))
    a, b = horizon(predicted, horizons), horizon(gold, horizons)
    temporal = 1.0 if a == b else 0.5 if {a, b} in ADJACENT else 0.0
    parity = 1.0 if scope(predicted, scopes) == scope(gold, scopes) else 0.0
    n = len(predicted)
    efficiency = 1.0 if n <= 3 else 0.7 if n == 4 else 0.4 if n == 5 else 0.0
    return (
        0.6 * f1 + 0.2 * temporal + 0.1 * parity + 0.1 * efficiency,
        f1,
        temporal,
        parity,
        efficiency,
    )
