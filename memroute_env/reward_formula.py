"""What the reward is: its numbers, its result, and its formula on arrays of sets.

`total = 0.6·f1 + 0.2·temporal + 0.1·parity + 0.1·efficiency`, in [0, 1]; a malformed text action
scores -1.0 with every component 0. The formula, the efficiency schedule and the horizon adjacency
define the project; all of them are fields of `RewardConfig`. How a reward is
looked up in place of being computed stands in `memroute_env.reward`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memroute_env.categories import HORIZONS, Horizon, Taxonomy
from memroute_env.errors import OptionError
from memroute_env.masks import popcount

__all__ = ["COMPONENTS", "BatchScores", "RewardBreakdown", "RewardConfig", "SetModel"]

COMPONENTS = ("f1", "temporal", "parity", "efficiency")
"""Names of the reward's components, in the order of every array that holds the four."""

MaskArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.float64]


def _default_adjacency() -> frozenset[frozenset[Horizon]]:
    pairs = [("long", "medium"), ("medium", "short"), ("medium", "rolling"), ("rolling", "short")]
    return frozenset(frozenset(Horizon(h) for h in pair) for pair in pairs)


@dataclass(frozen=True)
class RewardConfig:
    """Every number of the reward; the default is the specification's.

    The schedule and the adjacency may be given as any sequences, such as JSON holds.

    Raises:
        OptionError: If weights are negative or do not sum to 1, the efficiency schedule rises or
            leaves [0, 1], or an adjacency is not a pair of two horizons.
    """

    f1_weight: float = 0.6
    temporal_weight: float = 0.2
    parity_weight: float = 0.1
    efficiency_weight: float = 0.1
    efficiency: tuple[float, ...] = (1.0, 1.0, 1.0, 0.7, 0.4, 0.0)
    """Efficiency of an answer of 1, 2, 3, ... categories; the last value holds beyond."""
    adjacent: frozenset[frozenset[Horizon]] = field(default_factory=_default_adjacency)
    """Unordered pairs of horizons that count as close."""
    adjacent_score: float = 0.5
    """Temporal score of two different, adjacent horizons; equal ones score 1, others 0."""
    malformed: float = -1.0
    """Total of an answer that cannot be read."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if any(not 0 <= w <= 1 for w in self.weights) or abs(math.fsum(self.weights) - 1) > 1e-9:
            raise OptionError(
                f"reward weights must be in [0, 1] and sum to 1, got {self.weights} "
                f"with sum {math.fsum(self.weights):g}"
            )
        try:
            schedule = tuple(float(share) for share in self.efficiency)
            adjacent = frozenset(frozenset(pair) for pair in self.adjacent)
        except (TypeError, ValueError) as error:
            raise OptionError(
                "efficiency must be a sequence of numbers and adjacent one of pairs of horizons, "
                f"got {self.efficiency!r} and {self.adjacent!r} ({error})"
            ) from None
        # A frozen dataclass; its hash, by which tables are found, needs what can be hashed.
        object.__setattr__(self, "efficiency", schedule)
        object.__setattr__(self, "adjacent", adjacent)
        falling = all(a >= b for a, b in zip(schedule, schedule[1:], strict=False))
        if not schedule or not falling or not all(0 <= e <= 1 for e in schedule):
            raise OptionError(
                f"the efficiency schedule must fall within [0, 1] as answers grow, got {schedule}"
            )
        if not 0 <= self.adjacent_score <= 1:
            raise OptionError(f"adjacent_score must be in [0, 1], got {self.adjacent_score}")
        for pair in self.adjacent:
            if len(pair) != 2 or any(h not in HORIZONS for h in pair):
                raise OptionError(f"an adjacency is a pair of two horizons, got {set(pair)}")
        if not math.isfinite(self.malformed):
            raise OptionError(f"the malformed score must be finite, got {self.malformed}")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """Weights in the order of `COMPONENTS`."""
        return (self.f1_weight, self.temporal_weight, self.parity_weight, self.efficiency_weight)


class RewardBreakdown(NamedTuple):
    """The reward of one answer."""

    total: float
    """In [0, 1], or the malformed score."""
    f1: float
    """2·|P∩G| / (|P|+|G|), in [0, 1]."""
    temporal: float
    """1 for equal horizons, 0.5 for adjacent ones, else 0 (by default)."""
    parity: float
    """1 if both sets have the same scope, else 0."""
    efficiency: float
    """By the size of the answer: 1.0 up to three, 0.7, 0.4, 0.0 (by default)."""
    malformed: str = ""
    """Empty, or why the answer could not be read."""


class BatchScores(NamedTuple):
    """Rewards of a batch with their components, each of shape (N,), float64, as in a breakdown."""

    total: FloatArray
    f1: FloatArray
    temporal: FloatArray
    parity: FloatArray
    efficiency: FloatArray


class SetModel:
    """The reward's formula on arrays of masks, without any per-mask table.

    It defines every value: the tables are filled from it.
    """

    def __init__(self, taxonomy: Taxonomy, config: RewardConfig) -> None:
        """Turn the taxonomy's horizons and scopes into bit patterns."""
        self.config = config
        self.num_storing = taxonomy.num_storing
        bit = [1 << i for i in range(taxonomy.num_storing)]
        self.horizon_masks = np.array(
            [
                sum(b for b, c in zip(bit, taxonomy.storing, strict=True) if c.horizon == h)
                for h in HORIZONS
            ]
        )
        self.scope_masks = np.array(
            [
                sum(b for b, c in zip(bit, taxonomy.storing, strict=True) if c.scope == s)
                for s in taxonomy.scopes
            ]
        )
        self.exclusive_horizon = HORIZONS.index(taxonomy.exclusive.horizon)
        self.mixed = len(taxonomy.scopes)
        self.temporal = np.array(
            [
                [
                    1.0
                    if a == b
                    else config.adjacent_score * (frozenset((a, b)) in config.adjacent)
                    for b in HORIZONS
                ]
                for a in HORIZONS
            ]
        )
        self.efficiency = np.array(
            [
                config.efficiency[min(max(size, 1), len(config.efficiency)) - 1]
                for size in range(taxonomy.num_storing + 1)
            ]
        )

    def horizon(self, masks: MaskArray) -> npt.NDArray[np.intp]:
        """The most frequent horizon of each set, as its position in `HORIZONS`."""
        counts = np.stack([popcount(masks & m) for m in self.horizon_masks])
        # argmax takes the first of equals, and HORIZONS is in tie-breaking order.
        return np.where(masks == 0, self.exclusive_horizon, counts.argmax(axis=0))

    def scope(self, masks: MaskArray) -> npt.NDArray[np.intp]:
        """The scope of each set: its position in the taxonomy's, then `mixed`, then none."""
        present = np.stack([(masks & m) != 0 for m in self.scope_masks])
        several = present.sum(axis=0) > 1
        return np.where(
            masks == 0, self.mixed + 1, np.where(several, self.mixed, present.argmax(axis=0))
        )

    def score(self, predicted: MaskArray, gold: MaskArray) -> BatchScores:
        """Totals and components of pairs of valid masks; the shape stays."""
        size_p, size_g = popcount(predicted), popcount(gold)
        return self.combine(
            self.horizon(predicted),
            self.horizon(gold),
            self.scope(predicted),
            self.scope(gold),
            size_p,
            size_g,
            popcount(predicted & gold),
        )

    def combine(
        self,
        horizon_p: npt.NDArray[np.intp],
        horizon_g: npt.NDArray[np.intp],
        scope_p: npt.NDArray[np.intp],
        scope_g: npt.NDArray[np.intp],
        size_p: npt.NDArray[np.intp],
        size_g: npt.NDArray[np.intp],
        shared: npt.NDArray[np.intp],
    ) -> BatchScores:
        """Components and totals from what matters about each pair of sets (sizes in bits)."""
        both_exclusive = (size_p == 0) & (size_g == 0)
        # The exclusive answer is a set of one category, though its mask has no bit.
        elements = np.maximum(size_p, 1) + np.maximum(size_g, 1)
        f1 = 2.0 * np.where(both_exclusive, 1, shared) / elements
        temporal = self.temporal[horizon_p, horizon_g]
        parity = (scope_p == scope_g).astype(np.float64)
        efficiency = self.efficiency[size_p]
        a, b, c, d = self.config.weights
        total = a * f1 + (b * temporal + c * parity + d * efficiency)
        perfect = (f1 == 1) & (temporal == 1) & (parity == 1) & (efficiency == 1)
        # Weights sum to 1 only up to rounding; a perfect answer is exactly 1 all the same.
        total = np.where(perfect, 1.0, np.minimum(total, 1.0))
        return BatchScores(total, f1, temporal, parity, efficiency)
