"""The family of answers that the local policy chooses from, and what is worth what.

The policy is a softmax over candidate *sets*, not thirteen separate decisions: `none` and every set
of at most three of the storing categories (299 for marketing, the environment's `discrete`
actions). It cannot answer with an invalid set; its log-probability, entropy, expected reward and
the gradient of the expected reward are exact. Taxonomies with too many sets to list them have the
same distribution in another form (`memroute_agents.local.factorised`).

N counts conversations, C all categories (the exclusive one last), Z set sizes, K sets.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from memroute_env.reward import Reward, RewardConfig
from memroute_env.taxonomy import Taxonomy

__all__ = ["OBJECTIVES", "AnswerFamily", "Objective", "SetFamily", "family_of", "softmax"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Objective: TypeAlias = Literal["reward", "f1", "exact"]
MAX_SIZE = 3
"""Most categories in a candidate set: the reward pays larger ones less."""
OBJECTIVES: tuple[Objective, ...] = ("reward", "f1", "exact")

MAX_SETS = 4_096
"""Largest family that is listed set by set (29 storing categories): its payoff table takes 64 MiB
and grows with the square. Larger ones are factorised."""


Logits = TypeVar("Logits", npt.NDArray[np.float32], npt.NDArray[np.float64])


def softmax(logits: Logits) -> Logits:
    """Row-wise softmax, stable; float32 or float64, as given."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


class AnswerFamily(Protocol):
    """A distribution over valid sets, given a score for each category and a bias for each size.

    `logits` are whatever array of N rows determines the distribution: dividing it by a temperature
    tempers the distribution. `targets` name sets in the family's own way; `masks_of` translates.
    """

    taxonomy: Taxonomy
    reward: Reward
    num_categories: int
    """C."""
    num_sizes: int
    """Z: 0 is the exclusive answer, then one, two, ... categories."""

    def logits(self, scores_NC: FloatArray, size_bias_Z: FloatArray) -> FloatArray:
        """The distributions' parameters: (N, any)."""
        ...

    def pull_back(self, gradient: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The gradients of scores (N, C) and size biases (Z,) from that of the logits."""
        ...

    def closest(self, masks_N: IntArray) -> IntArray:
        """Targets for masks; a larger set than the family has maps to its best-paid member."""
        ...

    def masks_of(self, targets: IntArray) -> IntArray:
        """Masks of targets, in any shape."""
        ...

    def indicator_of(self, targets_N: IntArray) -> FloatArray:
        """(N, C): which categories each target has."""
        ...

    def log_prob(self, logits: FloatArray, targets_N: IntArray) -> FloatArray:
        """Log-probability of one target for each row: (N,)."""
        ...

    def marginals(self, logits: FloatArray) -> FloatArray:
        """Probability of each category: (N, C)."""
        ...

    def decide(self, logits: FloatArray, objective: Objective = "reward") -> IntArray:
        """The mask with the highest expected objective, the policy taken as belief: (N,)."""
        ...


def family_of(taxonomy: Taxonomy, config: RewardConfig | None = None) -> AnswerFamily:
    """The family of a taxonomy: listed if it has at most `MAX_SETS` sets, else factorised."""
    n = taxonomy.num_storing
    if 1 + n + n * (n - 1) // 2 + n * (n - 1) * (n - 2) // 6 <= MAX_SETS:
        return SetFamily(taxonomy, config)
    from memroute_agents.local.factorised import FactorisedFamily

    return FactorisedFamily(taxonomy, config)


class SetFamily:
    """Candidate sets of a taxonomy with their indicator and payoff matrices.

    Targets are positions in the list of sets, logits have shape (N, K).

    Args:
        taxonomy: Whose sets.
        config: Of the reward that payoffs are measured in.
    """

    def __init__(self, taxonomy: Taxonomy, config: RewardConfig | None = None) -> None:
        """See the class."""
        self.taxonomy = taxonomy
        self.reward = Reward(taxonomy, config)
        self.masks = np.array(taxonomy.small_sets(MAX_SIZE), np.int64)
        width = taxonomy.num_storing
        indicator = np.zeros((len(self.masks), width + 1), np.float32)
        indicator[:, :width] = self.masks[:, None] >> np.arange(width) & 1
        indicator[:, width] = self.masks == 0
        self.indicator_KC = indicator
        """(K, C) float32: which categories each set has."""
        sizes = np.where(self.masks == 0, 0, indicator[:, :width].sum(axis=1)).astype(int)
        self.sizes_KZ = np.eye(int(sizes.max()) + 1, dtype=np.float32)[sizes]
        """(K, Z) float32: one-hot size of each set; size 0 is the exclusive answer."""
        self.num_categories, self.num_sizes = width + 1, self.sizes_KZ.shape[1]

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

    def logits(self, scores_NC: FloatArray, size_bias_Z: FloatArray) -> FloatArray:
        """(N, K): the sum of a set's scores plus the bias of its size."""
        bias: FloatArray = self.sizes_KZ @ size_bias_Z
        return scores_NC @ self.indicator_KC.T + bias

    def pull_back(self, gradient: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The gradients of scores (N, C) and size biases (Z,)."""
        return gradient @ self.indicator_KC, gradient.sum(axis=0) @ self.sizes_KZ

    def closest(self, masks_N: IntArray) -> IntArray:
        """Position of each mask in the family; a larger set maps to its best-paid candidate."""
        position = {int(mask): k for k, mask in enumerate(self.masks)}
        found = np.array([position.get(int(mask), -1) for mask in masks_N], np.int64)
        for n in np.flatnonzero(found < 0):
            paid = self.reward.score_masks(self.masks, np.full(len(self), masks_N[n]))
            found[n] = int(paid.argmax())
        return found

    def masks_of(self, targets: IntArray) -> IntArray:
        """Masks at positions, in any shape."""
        return self.masks[targets]

    def indicator_of(self, targets_N: IntArray) -> FloatArray:
        """(N, C): which categories each target has."""
        return self.indicator_KC[targets_N]

    def log_prob(self, logits: FloatArray, targets_N: IntArray) -> FloatArray:
        """Log-probability of one target for each row: (N,)."""
        return np.log(softmax(logits)[np.arange(len(logits)), targets_N] + 1e-12)

    def marginals(self, logits: FloatArray) -> FloatArray:
        """Probability of each category: (N, C)."""
        return softmax(logits) @ self.indicator_KC

    def decide(self, logits: FloatArray, objective: Objective = "reward") -> IntArray:
        """The mask with the highest expected objective: the Bayes act, exact and batched."""
        return self.masks[self.expected(softmax(logits), objective).argmax(axis=1)]

    def expected(self, probabilities_NK: FloatArray, objective: Objective = "reward") -> FloatArray:
        """Expected value of answering each candidate, with the probabilities as belief: (N, K)."""
        if objective == "exact":
            return probabilities_NK
        return probabilities_NK @ self._decoders[objective]
