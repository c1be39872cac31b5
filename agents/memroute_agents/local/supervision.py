"""What the supervised stage learns from: gold sets, their weights, evidence, and pairs.

A pair is two conversations read as one, which shows what either shows. Nothing has to be written
for it, and it teaches what few conversations do: that a second category does not make the first
less likely, and that an hour of small talk takes nothing away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memroute_agents.local.encoding import Encoded, Grouped
from memroute_agents.local.sets import MAX_SIZE, AnswerFamily
from memroute_env.conversation import Example

__all__ = ["Supervision"]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Supervision:
    """N conversations (of T encoded turns of users) with what is known about them."""

    data: Grouped
    gold: IntArray
    """(N,) masks."""
    whole: BoolArray
    """(N,): written in one piece, not composed of single messages."""
    evidence: BoolArray
    """(T, C): the encoded turns that are named as evidence."""

    @classmethod
    def of(
        cls, data: Encoded, examples: Sequence[Example], gold: IntArray, family: AnswerFamily
    ) -> Supervision:
        """From examples and their encoding."""
        evidence = np.zeros((len(data.turns), family.num_categories), np.bool_)
        column = {c: i for i, c in enumerate(family.taxonomy.all_ids)}
        for n, example in enumerate(examples):
            mine = slice(data.turn_starts[n], data.turn_starts[n + 1])
            for category_id, turns in example.labels.evidence.items():
                evidence[mine, column[category_id]] |= np.isin(data.turns[mine], turns)
        whole = np.array([e.metadata.source != "composed" for e in examples], np.bool_)
        return cls(Grouped.alone(data), gold, whole, evidence)

    def with_pairs(self, share: float, seed: int) -> Supervision:
        """These, then pairs of whole conversations that show at most three categories together.

        Args:
            share: How many pairs, as a share of the whole conversations.
            seed: Of the draw.
        """
        pool = np.flatnonzero(self.whole)
        count = int(share * len(pool))
        if not count:
            return self
        rng = np.random.default_rng([seed, 4])
        first, second = pool[rng.integers(len(pool), size=(2, 4 * count))]
        together = self.gold[first] | self.gold[second]
        few = np.array([mask.bit_count() <= MAX_SIZE for mask in together.tolist()], np.bool_)
        kept = np.flatnonzero(few & (first != second))[:count]
        if not len(kept):
            return self
        return Supervision(
            self.data.and_pairs(first[kept], second[kept]),
            np.concatenate([self.gold, together[kept]]),
            np.concatenate([self.whole, np.zeros(len(kept), np.bool_)]),
            self.evidence,
        )

    def weights(
        self, family: AnswerFamily, balance: float, whole_weight: float
    ) -> npt.NDArray[np.float32]:
        """Weight of each conversation, mean 1.

        Args:
            family: Whose sets the gold masks are read as.
            balance: A conversation weighs the inverse frequency of its set's rarest category to
                this power.
            whole_weight: Of a whole conversation, relative to composed ones and pairs.
        """
        bits = family.indicator_of(family.closest(self.gold)) > 0
        rarest = np.where(bits, bits.mean(axis=0), np.inf).min(axis=1)
        weights = rarest**-balance * np.where(self.whole, whole_weight, 1.0)
        return (weights / weights.mean()).astype(np.float32)
