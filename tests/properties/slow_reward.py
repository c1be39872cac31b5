"""The reward and the strict parser as the specification states them: slow, obvious, and written
without the package. The property tests compare with it, and the benchmarks race against it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container
from typing import NamedTuple

ORDER = ["long", "medium", "rolling", "evolving", "short"]
WRAPPING = "\"'`[](){}<>“”‘’«»"
ADJACENT = [{"long", "medium"}, {"medium", "short"}, {"medium", "rolling"}, {"rolling", "short"}]


class Breakdown(NamedTuple):
    total: float
    f1: float
    temporal: float
    parity: float
    efficiency: float


MALFORMED = Breakdown(-1.0, 0.0, 0.0, 0.0, 0.0)


def horizon(names: set[str], horizons: dict[str, str]) -> str:
    counts = Counter(horizons[name] for name in names)
    most = max(counts.values())
    return next(h for h in ORDER if counts.get(h) == most)


def scope(names: set[str], scopes: dict[str, str]) -> str:
    found = {scopes[name] for name in names}
    return found.pop() if len(found) == 1 else "mixed"


def slow_score(
    predicted: set[str], gold: set[str], horizons: dict[str, str], scopes: dict[str, str]
) -> Breakdown:
    f1 = 2 * len(predicted & gold) / (len(predicted) + len(gold))
    a, b = horizon(predicted, horizons), horizon(gold, horizons)
    temporal = 1.0 if a == b else 0.5 if {a, b} in ADJACENT else 0.0
    parity = 1.0 if scope(predicted, scopes) == scope(gold, scopes) else 0.0
    n = len(predicted)
    efficiency = 1.0 if n <= 3 else 0.7 if n == 4 else 0.4 if n == 5 else 0.0
    total = 0.6 * f1 + 0.2 * temporal + 0.1 * parity + 0.1 * efficiency
    return Breakdown(total, f1, temporal, parity, efficiency)


def slow_parse(text: str, known: Container[str], exclusive: str) -> set[str] | None:
    """The set that a text names, read strictly, or None if it is malformed.

    Reads what §3 lists in the order in which it lists it; the parser of the package also copes
    with wrappings within wrappings, invisible characters and exotic line breaks.
    """
    text = re.sub(r"^\s*(categories|category|answer)\s*:", "", text, flags=re.IGNORECASE)
    found = set()
    for item in re.split(r"[,\n]", text):
        item = re.sub(r"^([-*•]|\d+\.)\s*", "", item.strip())
        item = item.strip(WRAPPING).removesuffix(".").strip(WRAPPING)
        item = re.sub(r"\s", "", item).lower()
        if item and item not in known:
            return None
        if item:
            found.add(item)
    if not found or (exclusive in found and len(found) > 1):
        return None
    return found


def slow_score_text(
    text: str, gold: set[str], horizons: dict[str, str], scopes: dict[str, str], exclusive: str
) -> Breakdown:
    predicted = slow_parse(text, horizons, exclusive)
    return MALFORMED if predicted is None else slow_score(predicted, gold, horizons, scopes)
