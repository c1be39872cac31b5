"""What a factorised policy is trained for: the objectives of `objectives`, without a list of sets.

Logits are (N, C + Z): scores, then size biases. Values and gradients are those of the listed family
wherever both exist.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from memroute_agents.local.factorised import FactorisedFamily
from memroute_agents.local.objectives import SHARPNESS, GroupReward, Loss, group_advantages

__all__ = ["FactorisedCrossEntropy", "FactorisedExactReward", "FactorisedReward"]

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass
class FactorisedCrossEntropy:
    """Negative log-likelihood of the gold set, weighted by example; smoothed as `CrossEntropy`."""

    family: FactorisedFamily
    targets: IntArray
    """(all,) masks of gold sets."""
    weights: FloatArray
    """(all,): mean 1."""
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Near misses are looked up once for each gold set."""
        self._near: dict[int, DoubleArray] = {}

    def __call__(self, chosen: IntArray, logits: FloatArray) -> Loss:
        """Weighted mean; `reward` is that of the likeliest sets."""
        family, gold = self.family, self.targets[chosen]
        weights = self.weights[chosen] / len(chosen)
        partition = family.partition(logits)
        target = family.statistics_of(gold).astype(np.float64)
        if self.smoothing:
            near = np.stack([self._near_misses(mask) for mask in gold.tolist()])
            target += self.smoothing * (near - target)
        gradient = weights[:, None] * (partition.mean - target)
        value = float((weights * (partition.log_z - (target * logits).sum(axis=1))).sum())
        paid = family.reward.score_masks(family.decide(logits, "exact"), gold)
        entropy = float(family.entropy(logits, partition).mean())
        return Loss(value, gradient.astype(np.float32), float(paid.mean()), entropy, 0.0)

    def _near_misses(self, mask: int) -> DoubleArray:
        """(C + Z,): mean statistics of all sets, each in proportion to a power of its reward."""
        if mask not in self._near:
            family, classes = self.family, self.family.classes(mask)
            ones, scale = np.ones((1, family.width)), np.ones((1, family.num_sizes))
            paid = classes.rewards**SHARPNESS
            total, by_category, by_size = classes.expectation(ones, scale, paid)
            found = np.concatenate([by_category, by_size[:, :1], by_size], axis=1)
            self._near[mask] = found[0] / total[0]
        return self._near[mask]


@dataclass
class FactorisedExactReward:
    """Expected reward over all sets, with penalties, as `ExactReward`.

    The gradient of `E[R]` with respect to the logits is `E[R t] - E[R] E[t]`, where t are a set's
    statistics; that of the KL divergence from a reference is the covariance of t times the
    difference of the logits.
    """

    family: FactorisedFamily
    targets: IntArray
    """(all,) masks of gold sets."""
    reference: FloatArray | None = None
    """(all, C + Z) logits of the supervised policy."""
    kl_weight: float = 0.0
    entropy_weight: float = 0.0

    def __call__(self, chosen: IntArray, logits: FloatArray) -> Loss:
        """Mean of -J + kl_weight · KL - entropy_weight · entropy."""
        family = self.family
        partition = family.partition(logits)
        expected, product = family.expected_reward(logits, partition, self.targets[chosen])
        gradient = expected[:, None] * partition.mean - product
        entropy = float(family.entropy(logits, partition).mean())
        value, kl = -float(expected.mean()), 0.0
        towards = np.zeros(logits.shape)
        if self.reference is not None:
            reference = self.reference[chosen]
            kl = float(family.divergence(logits, partition, reference).mean())
            value += self.kl_weight * kl
            towards += self.kl_weight * (logits.astype(np.float64) - reference)
        if self.entropy_weight:
            value -= self.entropy_weight * entropy
            towards += self.entropy_weight * logits
        if towards.any():
            gradient += family.covariance(logits, partition, towards)
        return Loss(
            value,
            (gradient / len(chosen)).astype(np.float32),
            float(expected.mean()),
            entropy,
            kl,
        )


@dataclass
class FactorisedReward(GroupReward):
    """Policy gradient from groups of answers, with the group mean as baseline.

    The penalties (KL divergence from the reference, entropy) are paid as part of each answer's
    reward, as language-model trainers do; the reported KL divergence and entropy are exact. The
    reference is given as logits, (all, C + Z).
    """

    family: FactorisedFamily = field(kw_only=True)

    def __call__(self, chosen: IntArray, logits: FloatArray) -> Loss:
        """One on-policy group for each conversation."""
        family, group = self.family, self.group_size
        answers = family.sample(logits, group, self.rng)
        rewards = self.play(np.repeat(chosen, group), answers.ravel()).reshape(answers.shape)
        partition = family.partition(logits)
        log_p = family.logit(logits, answers) - partition.log_z[:, None]
        paid, kl = rewards - self.entropy_weight * log_p, 0.0
        if self.reference is not None:
            reference = self.reference[chosen]
            log_q = family.logit(reference, answers) - family.partition(reference).log_z[:, None]
            paid = paid - self.kl_weight * (log_p - log_q)
            kl = float(family.divergence(logits, partition, reference).mean())
        push = group_advantages(paid) / group
        pulled = np.einsum("ng,ngd->nd", push, family.statistics_of(answers))
        gradient = push.sum(axis=1, keepdims=True) * partition.mean - pulled
        return Loss(
            -float(paid.mean()),
            (gradient / len(chosen)).astype(np.float32),
            float(rewards.mean()),
            float(family.entropy(logits, partition).mean()),
            kl,
        )
