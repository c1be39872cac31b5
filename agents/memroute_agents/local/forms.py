"""The objectives in the form that a family of answers needs: over a list of sets, or factorised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from memroute_agents.local.factorised import FactorisedFamily
from memroute_agents.local.factorised_objectives import (
    FactorisedCrossEntropy,
    FactorisedExactReward,
    FactorisedReward,
)
from memroute_agents.local.objectives import CrossEntropy, ExactReward, Play, SampledReward
from memroute_agents.local.sets import AnswerFamily, SetFamily, softmax

__all__ = ["cross_entropy", "exact_reward", "reference_of", "sampled_reward"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def cross_entropy(
    family: AnswerFamily, targets: IntArray, weights: FloatArray, smoothing: float = 0.0
) -> CrossEntropy | FactorisedCrossEntropy:
    """The likelihood of gold sets, given as the family's targets."""
    if isinstance(family, FactorisedFamily):
        return FactorisedCrossEntropy(family, targets, weights, smoothing)
    return CrossEntropy(targets, weights, _listed(family).payoff_KK, smoothing)


def exact_reward(
    family: AnswerFamily, targets: IntArray, reference: FloatArray | None, kl_weight: float
) -> ExactReward | FactorisedExactReward:
    """The exact estimator of the policy gradient; `reference` is what `reference_of` gives."""
    if isinstance(family, FactorisedFamily):
        return FactorisedExactReward(family, targets, reference, kl_weight)
    return ExactReward(targets, _listed(family).payoff_KK, reference, kl_weight)


def sampled_reward(
    family: AnswerFamily,
    play: Play,
    group_size: int,
    seed: Sequence[int],
    reference: FloatArray | None = None,
    kl_weight: float = 0.0,
    entropy_weight: float = 0.0,
) -> SampledReward | FactorisedReward:
    """The sampled estimator of the policy gradient; `reference` is what `reference_of` gives."""
    rest = (group_size, seed, reference, kl_weight, entropy_weight)
    if isinstance(family, FactorisedFamily):
        return FactorisedReward(play, *rest, family=family)
    return SampledReward(play, *rest)


def reference_of(family: AnswerFamily, logits: FloatArray) -> FloatArray:
    """What the estimators know a policy by: log-probabilities of a list, or the logits."""
    return np.log(softmax(logits) + 1e-12) if isinstance(family, SetFamily) else logits


def _listed(family: AnswerFamily) -> SetFamily:
    assert isinstance(family, SetFamily)
    return family
