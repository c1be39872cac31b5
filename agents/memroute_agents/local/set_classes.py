"""What the reward can tell apart: sets sorted into classes of equal reward against one gold set.

The reward of a set P against a gold set G depends on how many categories of each kind P has, where
two categories are of one kind if they have the same horizon and scope and are both in G or both
outside. So a family of tens of thousands of sets falls into a few hundred classes (60 categories of
two scopes and three horizons have 36,051 sets, in 84 classes against an empty gold set, 190 against
one of three), and sums over all sets are sums over classes:

    sum_P weight(P) f(P) = sum_v f(v) · prod_c e_{v_c}(weights of kind c)

with `v_c` the number of categories of kind c, and `e` the elementary symmetric polynomials.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memroute_env.reward import Reward

__all__ = ["SetClasses", "classes_of", "without_each"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class SetClasses(NamedTuple):
    """The classes of all sets of at most `max_size` storing categories, against one gold set.

    V classes, Q kinds of categories. Class 0 is the empty set: the exclusive answer.
    """

    kinds: tuple[IntArray, ...]
    """Positions of the storing categories of each kind."""
    counts: IntArray
    """(V, Q): how many categories of each kind the sets of a class have."""
    sizes: IntArray
    """(V,): how many in all."""
    rewards: FloatArray
    """(V,): what every set of the class is paid."""

    @classmethod
    def of(cls, reward: Reward, gold: int, max_size: int) -> SetClasses:
        """Sort the sets of the reward's taxonomy by what it pays them against a gold mask."""
        kinds: dict[tuple[object, ...], list[int]] = {}
        for i, category in enumerate(reward.taxonomy.storing):
            kind = (category.horizon, category.scope, bool(gold >> i & 1))
            kinds.setdefault(kind, []).append(i)
        members = list(kinds.values())
        room = np.array([len(m) for m in members])
        counts, masks = [], []
        for size in range(max_size + 1):
            for chosen in combinations_with_replacement(range(len(members)), size):
                count = np.bincount(np.array(chosen, np.int64), minlength=len(members))
                if (count <= room).all():
                    counts.append(count)
                    # Any set of the class will do: the first categories of each kind.
                    some = [1 << i for m, k in zip(members, count, strict=True) for i in m[:k]]
                    masks.append(sum(some))
        paid = reward.score_masks(np.array(masks, np.int64), np.full(len(masks), gold, np.int64))
        table = np.array(counts, np.int64)
        return cls(
            tuple(np.array(m, np.int64) for m in members),
            table,
            table.sum(axis=1),
            np.asarray(paid, np.float64),
        )

    def expectation(
        self, weights: FloatArray, scale: FloatArray, values: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Sums over all sets of value times weight, for N rows.

        The weight of a set is the product of its categories' weights and of its size's scale.

        Args:
            weights: (N, W), positive: of the storing categories.
            scale: (N, max_size + 1): of each size.
            values: (V,): of each class.

        Returns:
            The sum, (N,); the part of it from sets with each storing category, (N, W); the part
            from sets of each size, (N, max_size + 1).
        """
        rows, orders = len(weights), scale.shape[1]
        tiny = np.finfo(np.float64).tiny
        sums, others = [], []
        for members in self.kinds:
            w = weights[:, members]
            without = without_each(w, orders - 2)
            kind = np.ones((rows, orders))
            for k in range(1, orders):
                kind[:, k] = (w * without[k - 1]).sum(axis=1) / k
            sums.append(kind)
            others.append(without)
        each = values * scale[:, self.sizes]
        for q, kind in enumerate(sums):
            each *= kind[:, self.counts[:, q]]
        by_size = np.stack([each[:, self.sizes == z].sum(axis=1) for z in range(orders)], axis=1)
        by_category = np.zeros_like(weights)
        for q, members in enumerate(self.kinds):
            for k in range(1, orders):
                part = each[:, self.counts[:, q] == k].sum(axis=1) / np.maximum(sums[q][:, k], tiny)
                by_category[:, members] += weights[:, members] * others[q][k - 1] * part[:, None]
        return by_size.sum(axis=1), by_category, by_size


@lru_cache(maxsize=512)
def classes_of(reward: Reward, gold: int, max_size: int) -> SetClasses:
    """`SetClasses.of`, kept for the gold sets of late."""
    return SetClasses.of(reward, gold, max_size)


def without_each(weights: FloatArray, order: int) -> list[FloatArray]:
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
