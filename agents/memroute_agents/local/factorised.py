"""The softmax over sets for taxonomies with too many sets to list: the same, factorised.

`p(S) = p(k) · p(S | k)`: first how many categories (0: the exclusive answer), then which, given how
many. With `w_c = exp(score_c)` the sets of size k together weigh `exp(b_k) · e_k(w)`, where `e_k`
is the k-th elementary symmetric polynomial, a sum over all sets of size k that a recursion over the
categories computes in C steps of sums of positive numbers:

    e_k(w_1..w_j) = e_k(w_1..w_{j-1}) + w_j · e_{k-1}(w_1..w_{j-1})

Log-probability, marginals, entropy, KL divergence and expected reward are exact; samples are drawn
category by category. Only decisions for the expected reward or F1 look at a part of the family: the
sets over the `SHORTLIST` likeliest categories, with the policy renormalised on them. (Elementary
symmetric polynomials as the normaliser of a distribution over subsets of given size: Chen, Dempster
and Liu, "Weighted finite population sampling to maximize entropy", Biometrika 81, 1994.)
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memroute_agents.local.set_classes import SetClasses, classes_of, without_each
from memroute_agents.local.sets import MAX_SIZE, Objective, softmax
from memroute_env.categories import HORIZONS
from memroute_env.reward import Reward, RewardConfig
from memroute_env.reward_formula import SetModel
from memroute_env.taxonomy import Taxonomy

__all__ = ["SHORTLIST", "FactorisedFamily", "Partition"]

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SHORTLIST = 12
"""Likeliest categories whose sets compete in a decision: 299 sets, as in the marketing taxonomy."""

_AT_ONCE = 1_024
"""Decisions made together."""


class Partition(NamedTuple):
    """What the recursion leaves, for N rows."""

    log_z: DoubleArray
    """(N,): log of the sum over all sets of exp(logit)."""
    marginals: DoubleArray
    """(N, C): probability that a category is in the answer, the exclusive one last."""
    sizes: DoubleArray
    """(N, Z): probability of each size."""

    @property
    def mean(self) -> DoubleArray:
        """(N, C + Z): mean of `FactorisedFamily.statistics_of` over the family."""
        return np.concatenate([self.marginals, self.sizes], axis=1)


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
        size = min(SHORTLIST, self.width)
        small = np.array([m for m in range(1 << size) if m.bit_count() <= MAX_SIZE])
        self._slots = (small[:, None] >> np.arange(size) & 1).astype(np.float64)
        self._slot_sizes = self._slots.sum(axis=1).astype(int)
        elements = np.maximum(self._slot_sizes, 1)
        shared = self._slots @ self._slots.T
        shared[0, 0] = 1  # the exclusive answer is a set of one category, though it has no slot
        self._slot_f1 = 2 * shared / (elements[:, None] + elements)
        self._model = SetModel(taxonomy, self.reward.config)
        self._paid_beside_f1 = self._beside_f1()

    def _beside_f1(self) -> DoubleArray:
        """(V, V): what the reward pays beside F1; V combinations of horizon, scope and size."""
        model = self._model
        shape = (len(HORIZONS), model.mixed + 2, self.num_sizes)
        horizon, scope, size = (axis.ravel() for axis in np.indices(shape))
        n = len(size)
        pairs = [np.broadcast_to(axis[:, None], (n, n)) for axis in (horizon, scope, size)]
        (h, s, k), nothing = pairs, np.zeros((n, n), np.intp)
        paid = model.combine(h, h.T, s, s.T, k, k.T, nothing)
        return paid.total - model.config.f1_weight * paid.f1

    def classes(self, gold: int) -> SetClasses:
        """All sets, sorted by what they are paid against a gold mask."""
        return classes_of(self.reward, gold, MAX_SIZE)

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
        others = without_each(weights, MAX_SIZE - 1)
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
            chance = np.cumsum(w * without_each(w, left - 1)[-1], axis=1)
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
        found = np.empty(len(logits), np.int64)
        for start in range(0, len(logits), _AT_ONCE):
            piece = slice(start, start + _AT_ONCE)
            found[piece] = self._decide(logits[piece], objective)
        return found

    def _decide(self, logits: FloatArray, objective: Objective) -> IntArray:
        values, rows = logits.astype(np.float64), np.arange(len(logits))[:, None]
        # Scores and marginals order the storing categories alike.
        marginals = self.partition(logits).marginals[:, : self.width]
        listed = np.argsort(-marginals, axis=1, kind="stable")[:, : self._slots.shape[1]]
        masks = self._bits[listed] @ self._slots.T.astype(np.int64)
        value = values[rows, listed] @ self._slots.T
        value += values[:, self.num_categories :][:, self._slot_sizes]
        value[:, 0] += values[:, self.width]
        if objective != "exact":
            belief = softmax(value)
            value = belief @ self._slot_f1
            if objective == "reward":
                # What the reward pays beside F1 depends on the sets' horizons, scopes and sizes.
                model = self._model
                kind = model.horizon(masks) * (model.mixed + 2) + model.scope(masks)
                kind = kind * self.num_sizes + self._slot_sizes
                beliefs = np.zeros((len(values), len(self._paid_beside_f1)))
                np.add.at(beliefs, (rows, kind), belief)
                value *= model.config.f1_weight
                value += (beliefs @ self._paid_beside_f1.T)[rows, kind]
        return np.asarray(masks[rows[:, 0], value.argmax(axis=1)], np.int64)

    def entropy(self, logits: FloatArray, partition: Partition) -> DoubleArray:
        """Entropy of each row's distribution in nats: (N,)."""
        return partition.log_z - (partition.mean * logits).sum(axis=1)

    def divergence(
        self, logits: FloatArray, partition: Partition, reference: FloatArray
    ) -> DoubleArray:
        """KL divergence of each row's distribution from a reference's logits: (N,)."""
        difference = (partition.mean * (logits.astype(np.float64) - reference)).sum(axis=1)
        return difference - partition.log_z + self.partition(reference).log_z

    def expected_reward(
        self, logits: FloatArray, partition: Partition, gold: IntArray
    ) -> tuple[DoubleArray, DoubleArray]:
        """Expected reward of each row's distribution against its gold mask: (N,).

        Also the expectation of reward times `statistics_of`, (N, C + Z): with the mean statistics
        it makes the gradient of the expected reward.
        """
        weights, scale = self._weights(logits, partition)
        total = np.empty(len(logits))
        product = np.zeros((len(logits), self.num_categories + self.num_sizes))
        for mask in np.unique(gold).tolist():
            rows = np.flatnonzero(gold == mask)
            classes = self.classes(mask)
            found, by_category, by_size = classes.expectation(
                weights[rows], scale[rows], classes.rewards
            )
            total[rows] = found
            product[rows, : self.width] = by_category
            product[rows, self.width] = by_size[:, 0]
            product[rows, self.num_categories :] = by_size
        return total, product

    def covariance(
        self, logits: FloatArray, partition: Partition, direction: DoubleArray
    ) -> DoubleArray:
        """Covariance matrix of `statistics_of` under each row's distribution times a vector.

        Args:
            logits: (N, C + Z).
            partition: Theirs.
            direction: (N, C + Z).

        Returns:
            (N, C + Z).
        """
        weights, scale = self._weights(logits, partition)
        width, cut = self.width, self.num_categories
        along, nothing, by_size = direction[:, :width], direction[:, width], direction[:, cut:]
        others = without_each(weights, MAX_SIZE - 1)
        # (N, W, Z): a category in a set of a size; a set of k counts for each of its k.
        joint = np.zeros((*weights.shape, self.num_sizes))
        for k in range(1, self.num_sizes):
            joint[:, :, k] = weights * others[k - 1] * scale[:, k : k + 1]
        second = np.zeros_like(direction)
        second[:, :width] = along * partition.marginals[:, :width]
        second[:, :width] += np.einsum("nwz,nz->nw", joint, by_size)
        for n, w in enumerate(weights):
            rest = np.maximum(w.sum() - w[:, None] - w, 0)
            pairs = w[:, None] * w * (scale[n, 2] + scale[n, 3] * rest)
            np.fill_diagonal(pairs, 0)
            second[n, :width] += pairs @ along[n]
        second[:, cut:] = np.einsum("nwz,nw->nz", joint, along) + partition.sizes * by_size
        none = partition.sizes[:, 0] * (nothing + by_size[:, 0])
        second[:, width] = none
        second[:, cut] = none
        mean = partition.mean
        return second - mean * (mean * direction).sum(axis=1, keepdims=True)

    def _weights(self, logits: FloatArray, partition: Partition) -> tuple[DoubleArray, DoubleArray]:
        """Weights of the storing categories, (N, W), and scales of sizes, (N, Z).

        A set's probability is the product of its categories' weights times its size's scale.
        """
        values = logits.astype(np.float64)
        top = values[:, : self.width].max(axis=1, keepdims=True)
        weights = np.exp(values[:, : self.width] - top)
        exponents = top * np.arange(self.num_sizes) + values[:, self.num_categories :]
        exponents[:, 0] += values[:, self.width]
        exponents -= partition.log_z[:, None]
        return weights, np.exp(np.minimum(exponents, 700.0))
