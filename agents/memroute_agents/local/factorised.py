"""The softmax over sets for taxonomies with too many sets to list: the same, factorised.

`p(S) = p(k) · p(S | k)`: first how many categories (0: the exclusive answer), then which, given how
many. With `w_c = exp(score_c)` the sets of size k together weigh `exp(b_k) · e_k(w)`, where `e_k`
is the k-th elementary symmetric polynomial, a sum over all sets of size k that a recursion over the
categories computes in C steps of sums of positive numbers:

    e_k(w_1..w_j) = e_k(w_1..w_{j-1}) + w_j · e_{k-1}(w_1..w_{j-1})

Log-probability, marginals, entropy and KL divergence are exact; samples are drawn category by
category. Only decisions for the expected reward or F1 look at a part of the family: the sets over
the `SHORTLIST` likeliest categories, with the policy renormalised on them. (Elementary symmetric
polynomials as the normaliser of a distribution over subsets of given size: Chen, Dempster and Liu,
"Weighted finite population sampling to maximize entropy", Biometrika 81, 1994.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memroute_agents.local.objectives import GroupReward, Loss, group_advantages
from memroute_agents.local.sets import MAX_SIZE, Objective, softmax
from memroute_env.reward import Reward, RewardConfig
from memroute_env.taxonomy import Taxonomy

__all__ = ["SHORTLIST", "FactorisedCrossEntropy", "FactorisedFamily", "FactorisedReward"]

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SHORTLIST = 12
"""Likeliest categories whose sets compete in a decision: 299 sets, as in the marketing taxonomy."""


class Partition(NamedTuple):
    """What the recursion leaves, for N rows."""

    log_z: DoubleArray
    """(N,): log of the sum over all sets of exp(logit)."""
    marginals: DoubleArray
    """(N, C): probability that a category is in the answer, the exclusive one last."""
    sizes: DoubleArray
    """(N, Z): probability of each size."""


class FactorisedFamily:
    """All sets of at most three storing categories, and the exclusive answer, unlisted.

    Targets are masks; logits are the scores followed by the size biases: (N, C + Z).

    Args:
        taxonomy: Whose sets; at least three storing categories.
        config: Of the reward.
    """

    def __init__(self, taxonomy: Taxonomy, config: RewardConfig | None = None) -> None:
        """See the class."""
        self.taxonomy = taxonomy
        self.reward = Reward(taxonomy, config)
        self.width = taxonomy.num_storing
        self.num_categories, self.num_sizes = self.width + 1, MAX_SIZE + 1
        self._bits = np.int64(1) << np.arange(self.width)
        small = np.array([m for m in range(1 << SHORTLIST) if m.bit_count() <= MAX_SIZE])
        self._slots = (small[:, None] >> np.arange(SHORTLIST) & 1).astype(np.float64)
        self._slot_sizes = self._slots.sum(axis=1).astype(int)

    def logits(self, scores_NC: FloatArray, size_bias_Z: FloatArray) -> FloatArray:
        """(N, C + Z)."""
        bias = np.broadcast_to(size_bias_Z, (len(scores_NC), self.num_sizes))
        return np.concatenate([scores_NC, bias], axis=1)

    def pull_back(self, gradient: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The gradients of scores (N, C) and size biases (Z,)."""
        cut = self.num_categories
        return gradient[:, :cut], gradient[:, cut:].sum(axis=0)

    def closest(self, masks_N: IntArray) -> IntArray:
        """The masks themselves; a larger one becomes its best-paid subset of three."""
        found = np.array(masks_N, np.int64)
        for n, mask in enumerate(found.tolist()):
            if mask.bit_count() > MAX_SIZE:
                held = [1 << b for b in range(self.width) if mask >> b & 1]
                inside = np.array([sum(c) for c in combinations(held, MAX_SIZE)], np.int64)
                paid = self.reward.score_masks(inside, np.full(len(inside), mask))
                found[n] = inside[int(paid.argmax())]
        return found

    def masks_of(self, targets: IntArray) -> IntArray:
        """The same."""
        return targets

    def indicator_of(self, targets_N: IntArray) -> FloatArray:
        """(..., C): which categories each target has."""
        storing = (targets_N[..., None] & self._bits) != 0
        return np.concatenate([storing, (targets_N == 0)[..., None]], axis=-1).astype(np.float32)

    def statistics_of(self, targets: IntArray) -> FloatArray:
        """(..., C + Z): a set's categories and its one-hot size; a logit is linear in them."""
        indicator = self.indicator_of(targets)
        sizes = indicator[..., : self.width].sum(axis=-1).astype(int)
        return np.concatenate([indicator, np.eye(self.num_sizes, dtype=np.float32)[sizes]], axis=-1)

    def partition(self, logits: FloatArray) -> Partition:
        """Normaliser, marginals and sizes, in float64."""
        values = logits.astype(np.float64)
        scores, bias = values[:, : self.width], values[:, self.num_categories :]
        top = scores.max(axis=1, keepdims=True)
        weights = np.exp(scores - top)
        others = _without_each(weights, MAX_SIZE - 1)
        # Every set of size k is counted once for each of its k categories.
        sums = np.ones((len(values), self.num_sizes))
        for k in range(1, self.num_sizes):
            sums[:, k] = (weights * others[k - 1]).sum(axis=1) / k
        tiny = np.finfo(np.float64).tiny
        terms = np.log(np.maximum(sums, tiny)) + top * np.arange(self.num_sizes) + bias
        terms[:, 0] += values[:, self.width]
        highest = terms.max(axis=1, keepdims=True)
        log_z = highest[:, 0] + np.log(np.exp(terms - highest).sum(axis=1))
        sizes = np.exp(terms - log_z[:, None])
        marginals = np.empty((len(values), self.num_categories))
        marginals[:, self.width] = sizes[:, 0]
        # Sets of k that hold c: w_c times the sets of k - 1 among the others.
        share = np.zeros_like(weights)
        for k in range(1, self.num_sizes):
            share += sizes[:, k : k + 1] / np.maximum(sums[:, k : k + 1], tiny) * others[k - 1]
        marginals[:, : self.width] = weights * share
        return Partition(log_z, marginals, sizes)

    def logit(self, logits: FloatArray, targets: IntArray) -> DoubleArray:
        """Unnormalised log-probabilities of targets, (N,) or (N, G)."""
        statistics = self.statistics_of(targets).astype(np.float64)
        return np.einsum("n...d,nd->n...", statistics, logits.astype(np.float64))

    def log_prob(self, logits: FloatArray, targets_N: IntArray) -> FloatArray:
        """Log-probability of one target for each row: (N,)."""
        found = self.logit(logits, targets_N) - self.partition(logits).log_z
        return found.astype(np.float32)

    def marginals(self, logits: FloatArray) -> FloatArray:
        """Probability of each category: (N, C)."""
        return self.partition(logits).marginals.astype(np.float32)

    def sample(self, logits: FloatArray, group: int, rng: np.random.Generator) -> IntArray:
        """Answers drawn from the policy: masks (N, group)."""
        sizes = self.partition(logits).sizes
        cumulative = np.cumsum(sizes, axis=1)
        cumulative /= cumulative[:, -1:]
        drawn = (rng.random((len(logits), group, 1)) > cumulative[:, None, :-1]).sum(axis=2).ravel()
        scores = logits[:, : self.width].astype(np.float64)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True)).repeat(group, axis=0)
        masks = np.zeros(len(drawn), np.int64)
        for left in range(MAX_SIZE, 0, -1):
            rows = np.flatnonzero(drawn >= left)
            w = weights[rows]
            # The chance that c is among `left` more: its weight times what completes the set.
            chance = np.cumsum(w * _without_each(w, left - 1)[-1], axis=1)
            threshold = rng.random((len(rows), 1)) * chance[:, -1:]
            chosen = np.minimum((chance <= threshold).sum(axis=1), self.width - 1)
            masks[rows] |= self._bits[chosen]
            weights[rows, chosen] = 0
        return masks.reshape(len(logits), group)

    def decide(self, logits: FloatArray, objective: Objective = "reward") -> IntArray:
        """The mask with the highest expected objective: (N,).

        `exact` is the mode of the whole family; `reward` and `f1` compare the sets over the
        shortlist (see the module).
        """
        values = logits.astype(np.float64)
        marginals = self.partition(logits).marginals[:, : self.width]
        size = min(SHORTLIST, self.width)
        found = np.zeros(len(values), np.int64)
        keep = self._slots[:, size:].sum(axis=1) == 0
        slots, sizes = self._slots[keep][:, :size], self._slot_sizes[keep]
        for n, row in enumerate(values):
            # Scores and marginals order the storing categories alike.
            listed = np.argsort(-marginals[n], kind="stable")[:size]
            masks = (slots.astype(np.int64) * self._bits[listed]).sum(axis=1)
            value = slots @ row[listed] + row[self.num_categories :][sizes]
            value[masks == 0] += row[self.width]
            if objective != "exact":
                belief = softmax(value[None].astype(np.float32))[0]
                paid = self.reward.score_masks(masks[:, None], masks[None, :], components=True)
                value = (paid.total if objective == "reward" else paid.f1) @ belief
            found[n] = masks[int(value.argmax())]
        return found

    def entropy(self, logits: FloatArray, partition: Partition) -> DoubleArray:
        """Entropy of each row's distribution in nats: (N,)."""
        mean = np.concatenate([partition.marginals, partition.sizes], axis=1)
        return partition.log_z - (mean * logits).sum(axis=1)

    def divergence(
        self, logits: FloatArray, partition: Partition, reference: FloatArray
    ) -> DoubleArray:
        """KL divergence of each row's distribution from a reference's logits: (N,)."""
        mean = np.concatenate([partition.marginals, partition.sizes], axis=1)
        difference = (mean * (logits.astype(np.float64) - reference)).sum(axis=1)
        return difference - partition.log_z + self.partition(reference).log_z


def _without_each(weights: DoubleArray, order: int) -> list[DoubleArray]:
    """e_0, ..., e_order of all weights of a row but one, for each one left out: (N, C) each.

    From what comes before it and what comes after it: subtracting it from the whole would lose
    every digit where one weight dominates.
    """
    n, width = weights.shape
    before, after = np.zeros((2, order + 1, n, width + 1))
    before[0] = after[0] = 1
    for c in range(width):
        d = width - 1 - c
        for k in range(1, order + 1):
            before[k, :, c + 1] = before[k, :, c] + weights[:, c] * before[k - 1, :, c]
            after[k, :, d] = after[k, :, d + 1] + weights[:, d] * after[k - 1, :, d + 1]
    return [
        sum(
            (before[j, :, :-1] * after[k - j, :, 1:] for j in range(k + 1)),
            np.zeros((n, width)),
        )
        for k in range(order + 1)
    ]


@dataclass
class FactorisedCrossEntropy:
    """Negative log-likelihood of the gold set, weighted by example."""

    family: FactorisedFamily
    targets: IntArray
    """(all,) masks of gold sets."""
    weights: FloatArray
    """(all,): mean 1."""

    def __call__(self, chosen: IntArray, logits: FloatArray) -> Loss:
        """Weighted mean; `reward` is that of the likeliest sets."""
        family, gold = self.family, self.targets[chosen]
        weights = self.weights[chosen] / len(chosen)
        partition = family.partition(logits)
        mean = np.concatenate([partition.marginals, partition.sizes], axis=1)
        gradient = weights[:, None] * (mean - family.statistics_of(gold))
        value = float((weights * (partition.log_z - family.logit(logits, gold))).sum())
        paid = family.reward.score_masks(family.decide(logits, "exact"), gold)
        entropy = float(family.entropy(logits, partition).mean())
        return Loss(value, gradient.astype(np.float32), float(paid.mean()), entropy, 0.0)


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
        mean = np.concatenate([partition.marginals, partition.sizes], axis=1)
        pulled = np.einsum("ng,ngd->nd", push, family.statistics_of(answers))
        gradient = push.sum(axis=1, keepdims=True) * mean - pulled
        return Loss(
            -float(paid.mean()),
            (gradient / len(chosen)).astype(np.float32),
            float(rewards.mean()),
            float(family.entropy(logits, partition).mean()),
            kl,
        )
