"""Which categories are missed, stored without need, or taken for one another.

In an example with m gold categories missed and s answered without need, `k = min(m, s)` of the
mistakes are swaps: something was stored, but elsewhere. Which was swapped for which cannot be
known, so each of the m x s pairs carries k / (m s) of a swap. What is left of the m are plain
misses (nothing took their place), what is left of the s plain additions. Mass is conserved: right,
swapped and missed add up to a category's gold count; right, swapped and added to its answers.
The exclusive category counts like any other, so that storing something for a `none` conversation
is a swap from `none`; a malformed answer is no answer, and everything in it is missed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memroute_eval.metrics import Outcomes

__all__ = ["Confusion", "Swap", "confusion_of"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Swap:
    """A gold category that was answered as another."""

    gold: str
    answered: str
    mass: float
    """Examples, counted in fractions where several mistakes coincide."""


@dataclass(frozen=True)
class Confusion:
    """Mistakes over C categories, the exclusive one last."""

    ids: tuple[str, ...]
    right: FloatArray
    """(C,): gold and answered."""
    missed: FloatArray
    """(C,): gold, not answered, and nothing answered in its place."""
    spurious: FloatArray
    """(C,): answered beside everything that was gold."""
    swapped: FloatArray
    """(C, C): gold category (row) answered as another (column); the diagonal is 0."""

    def top_swaps(self, count: int = 8) -> list[Swap]:
        """The most frequent swaps, those of no mass left out; ties in taxonomy order."""
        flat = [
            Swap(self.ids[i], self.ids[j], float(self.swapped[i, j]))
            for i, j in np.argwhere(self.swapped > 1e-9)
        ]
        return sorted(flat, key=lambda swap: -swap.mass)[:count]


def confusion_of(outcomes: Outcomes) -> Confusion:
    """Count right, missed, spurious and swapped categories over the examples."""
    hits, predicted, gold = outcomes.category_hits()
    missed_NC, spurious_NC = gold - hits, predicted - hits
    m = missed_NC.sum(axis=1)
    s = spurious_NC.sum(axis=1)
    swaps = np.minimum(m, s)
    pair = np.divide(swaps, m * s, out=np.zeros_like(swaps), where=swaps > 0)
    swapped = (missed_NC * pair[:, None]).T @ spurious_NC
    return Confusion(
        outcomes.taxonomy.all_ids,
        hits.sum(axis=0),
        missed_NC.sum(axis=0) - swapped.sum(axis=1),
        spurious_NC.sum(axis=0) - swapped.sum(axis=0),
        swapped,
    )
