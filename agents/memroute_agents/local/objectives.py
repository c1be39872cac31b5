"""What the policy is trained for: losses on logits, each with its gradient.

Every objective maps logits (N, K) of a batch to a mean loss and its gradient with respect to the
logits, (N, K), already divided by N. Supervised learning and both estimators of the policy
gradient are objectives behind this one interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from memroute_agents.local.sets import softmax

__all__ = [
    "SHARPNESS",
    "CrossEntropy",
    "ExactReward",
    "GroupReward",
    "Loss",
    "Objective",
    "Play",
    "SampledReward",
    "group_advantages",
]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

SHARPNESS = 4
"""Label smoothing goes to sets in proportion to their reward to this power."""

Play = Callable[[IntArray, IntArray], npt.NDArray[np.float64]]
"""Positions of conversations (M,) and answers as targets of the family (M,) to rewards (M,)."""


class Loss(NamedTuple):
    """Value and gradient of an objective on a batch."""

    value: float
    gradient: FloatArray
    """(N, K)."""
    reward: float
    """Mean reward: expected, or of the samples."""
    entropy: float
    """Mean entropy of the policy in nats."""
    kl: float
    """Mean KL divergence from the reference policy; 0 where there is none."""


class Objective(Protocol):
    """Anything that tells how to change the logits of some conversations."""

    def __call__(self, chosen: IntArray, logits: FloatArray) -> Loss:
        """Loss for conversations `chosen` (positions in the training data) with these logits."""
        ...


def group_advantages(rewards_NG: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rewards minus their group's mean, (N, G), scaled to make the gradient's estimate unbiased.

    The mean includes the answer itself, which shrinks the difference by (G - 1) / G.
    """
    size = rewards_NG.shape[1]
    return (rewards_NG - rewards_NG.mean(axis=1, keepdims=True)) * (size / max(size - 1, 1))


def _entropy(p: FloatArray) -> float:
    return float(-(p * np.log(p + 1e-12)).sum(axis=1).mean())


@dataclass
class CrossEntropy:
    """Negative log-likelihood of the gold set, weighted by example.

    Label noise: `smoothing` moves that share of the target to the sets in proportion to a power of
    what the reward pays them against the gold set, so that a wrong label costs less and near misses
    cost less than blunders.
    """

    targets: IntArray
    """(all,): position of each gold set in the family."""
    weights: FloatArray
    """(all,): mean 1."""
    payoff_KK: FloatArray
    smoothing: float = 0.0

    def __call__(self, chosen: IntArray, logits: FloatArray) -> Loss:
        """Weighted mean cross-entropy."""
        p = softmax(logits)
        n, gold = len(chosen), self.targets[chosen]
        weights = self.weights[chosen, None] / n
        target = np.zeros_like(p)
        target[np.arange(n), gold] = 1 - self.smoothing
        if self.smoothing:
            paid = self.payoff_KK[:, gold].T ** SHARPNESS
            target += self.smoothing * paid / paid.sum(axis=1, keepdims=True)
        value = -(weights * target * np.log(p + 1e-12)).sum()
        expected = (p * self.payoff_KK[:, gold].T).sum(axis=1).mean()
        gradient = (weights * (p - target)).astype(np.float32)
        return Loss(float(value), gradient, float(expected), _entropy(p), 0.0)


@dataclass
class ExactReward:
    """Expected reward through the payoff table, with a KL penalty to a reference policy.

    `J = sum_k p_k r_k`, `dJ/dlogit_k = p_k (r_k - J)`: no sampling noise, one matrix product.
    """

    targets: IntArray
    payoff_KK: FloatArray
    reference: FloatArray | None = None
    """(all, K) log-probabilities of the supervised policy."""
    kl_weight: float = 0.0
    entropy_weight: float = 0.0

    def __call__(self, chosen: IntArray, logits: FloatArray) -> Loss:
        """Mean of -J + kl_weight · KL - entropy_weight · entropy."""
        p = softmax(logits)
        rewards = self.payoff_KK[:, self.targets[chosen]].T
        expected = (p * rewards).sum(axis=1, keepdims=True)
        gradient = -p * (rewards - expected)
        value = -float(expected.mean())
        extra, extra_value, kl = _regularise(
            p, chosen, self.reference, self.kl_weight, self.entropy_weight
        )
        return Loss(
            value + extra_value,
            (gradient + extra) / len(chosen),
            float(expected.mean()),
            _entropy(p),
            kl,
        )


@dataclass
class GroupReward:
    """What every sampled estimator holds: how answers are played, and what they are penalised for.

    Draws of epoch e depend on (seed, e) alone, so that a resumed run draws the same.
    """

    play: Play
    group_size: int
    seed: Sequence[int]
    reference: FloatArray | None = None
    """(all, any): the supervised policy, in the form that the estimator compares with."""
    kl_weight: float = 0.0
    entropy_weight: float = 0.0

    def __post_init__(self) -> None:
        """Begin with epoch 0."""
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Draw as epoch `epoch` does."""
        self.rng = np.random.default_rng([*self.seed, epoch])


@dataclass
class SampledReward(GroupReward):
    """Importance-sampled policy gradient with a group mean as baseline.

    For each conversation a group of answers is drawn from the behaviour policy (the logits that
    `draw` saw), played through the environment, and weighted by `(reward - group mean) ·
    p(answer) / behaviour(answer)`: what the language-model agent does, and what any agent can do
    that sees only rewards. The reference is given as log-probabilities, (all, K).
    """

    def __call__(self, chosen: IntArray, logits: FloatArray) -> Loss:
        """One on-policy group for each conversation: behaviour and policy coincide."""
        answers, rewards = self.draw(chosen, logits)
        return self.surrogate(chosen, logits, logits, answers, rewards)

    def draw(
        self, chosen: IntArray, logits: FloatArray
    ) -> tuple[IntArray, npt.NDArray[np.float64]]:
        """Groups of answers and their rewards, each (N, group_size)."""
        p = softmax(logits).astype(np.float64)
        cumulative = np.cumsum(p / p.sum(axis=1, keepdims=True), axis=1)
        uniform = self.rng.random((len(chosen), self.group_size))
        answers = np.stack(
            [row.searchsorted(u, side="right") for row, u in zip(cumulative, uniform, strict=True)]
        ).clip(0, p.shape[1] - 1)
        rewards = self.play(np.repeat(chosen, self.group_size), answers.ravel())
        return answers, rewards.reshape(answers.shape)

    def surrogate(
        self,
        chosen: IntArray,
        logits: FloatArray,
        behaviour_logits: FloatArray,
        answers: IntArray,
        rewards: npt.NDArray[np.float64],
    ) -> Loss:
        """Loss and gradient from groups that `behaviour_logits` drew."""
        p, behaviour = softmax(logits), softmax(behaviour_logits)
        rows = np.arange(len(chosen))[:, None]
        advantage = group_advantages(rewards)
        ratio = p[rows, answers] / np.maximum(behaviour[rows, answers], 1e-8)
        push = advantage * ratio / self.group_size
        gradient = p * push.sum(axis=1, keepdims=True)
        np.subtract.at(gradient, (np.broadcast_to(rows, answers.shape), answers), push)
        extra, extra_value, kl = _regularise(
            p, chosen, self.reference, self.kl_weight, self.entropy_weight
        )
        value = -float((advantage * ratio).mean()) + extra_value
        return Loss(
            value,
            ((gradient + extra) / len(chosen)).astype(np.float32),
            float(rewards.mean()),
            _entropy(p),
            kl,
        )


def _regularise(
    p: FloatArray,
    chosen: IntArray,
    reference: FloatArray | None,
    kl_weight: float,
    entropy_weight: float,
) -> tuple[FloatArray, float, float]:
    """Gradient and value of `kl_weight · KL(p, reference) - entropy_weight · H(p)`, and the KL."""
    log_p = np.log(p + 1e-12)
    gradient = np.zeros_like(p)
    value = kl = 0.0
    if reference is not None:
        difference = log_p - reference[chosen]
        each = (p * difference).sum(axis=1, keepdims=True)
        kl = float(each.mean())
        gradient += kl_weight * p * (difference - each)
        value += kl_weight * kl
    if entropy_weight:
        negative = (p * log_p).sum(axis=1, keepdims=True)
        gradient += entropy_weight * p * (log_p - negative)
        value += entropy_weight * float(negative.mean())
    return gradient, value, kl
