"""The family of answers that the local policy chooses from, and what is worth what.

The policy is a softmax over candidate *sets*, not thirteen separate decisions: `none` and every set
of at most three of the storing categories (299 for marketing, the environment's `discrete`
actions). It cannot answer with an invalid set; its log-probability, entropy, expected reward and
the gradient of the expected reward are exact.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from memroute_env.reward import Reward, RewardConfig
from memroute_env.taxonomy import Taxonomy

__all__ = ["OBJECTIVES", "Objective", "SetFamily"]

FloatArray = npt.NDArray[np.float32]
Objective: TypeAlias = Literal["reward", "f1", "exact"]
OBJECTIVES: tuple[Objective, ...] = ("reward", "f1", "exact")

MAX_SETS = 20_000
"""Largest family: beyond it sets of three, then of two, are left out."""


class SetFamily:
    """Candidate sets of a taxonomy with their indicator and payoff matrices.

    C counts all categories (the exclusive one last), K the sets.

    Args:
        taxonomy: Whose sets.
        config: Of the reward that payoffs are measured in.
    """

    def __init__(self, taxonomy: Taxonomy, config: RewardConfig | None = None) -> None:
        """See the class."""
        self.taxonomy = taxonomy
        self.reward = Reward(taxonomy, config)
        size = 3
        while size > 1 and len(taxonomy.small_sets(size)) > MAX_SETS:
            size -= 1
        self.max_size = size
        self.masks = np.array(taxonomy.small_sets(size), np.int64)
        width = taxonomy.num_storing
        indicator = np.zeros((len(self.masks), width + 1), np.float32)
        indicator[:, :width] = self.masks[:, None] >> np.arange(width) & 1
        indicator[:, width] = self.masks == 0
        self.indicator_KC = indicator
        """(K, C) float32: which categories each set has."""
        sizes = np.where(self.masks == 0, 0, indicator[:, :width].sum(axis=1)).astype(int)
        self.sizes_KZ = np.eye(size + 1, dtype=np.float32)[sizes]
        """(K, sizes) float32: one-hot size of each set; size 0 is the exclusive answer."""

    def __len__(self) -> int:
        """K."""
        return len(self.masks)

    @cached_property
    def payoff_KK(self) -> FloatArray:
        """(answer, truth) float32: the reward of every pair of candidate sets."""
        return self.reward.table(self.masks, self.masks).astype(np.float32)

    @cached_property
    def _decoders(self) -> dict[str, FloatArray]:
        f1 = self.reward.score_masks(self.masks[:, None], self.masks[None, :], components=True).f1
        return {
            "reward": np.ascontiguousarray(self.payoff_KK.T),
            "f1": np.ascontiguousarray(f1.T.astype(np.float32)),
        }

    def closest(self, masks_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Position of each mask in the family; a larger set maps to its best-paid candidate.

        Args:
            masks_N: Valid masks.

        Returns:
            (N,) positions.
        """
        position = {int(mask): k for k, mask in enumerate(self.masks)}
        found = np.array([position.get(int(mask), -1) for mask in masks_N], np.int64)
        for n in np.flatnonzero(found < 0):
            paid = self.reward.score_masks(self.masks, np.full(len(self), masks_N[n]))
            found[n] = int(paid.argmax())
        return found

    def decode(self, probabilities_NK: FloatArray, objective: Objective = "reward") -> FloatArray:
        """Expected value of answering each candidate, under the policy as belief: (N, K).

        The answer with the highest value is the decision: the Bayes act, exact and batched.
        """
        if objective == "exact":
            return probabilities_NK
        return probabilities_NK @ self._decoders[objective]
