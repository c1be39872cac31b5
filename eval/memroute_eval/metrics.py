"""Metrics of an agent's answers, with bootstrap intervals.

`METRICS` defines each. A malformed answer is wrong on every metric and
never dropped; only calls that *failed* (no answer at all) are left out, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memroute_env.reward import Reward
from memroute_env.taxonomy import Taxonomy

__all__ = ["METRICS", "Outcomes", "bootstrap_counts", "metrics_of", "summarise"]

FloatArray = npt.NDArray[np.float64]

_MEANS = (
    "avg_f1",
    "exact_match",
    "any_match",
    "temporal_accuracy",
    "scope_accuracy",
    "avg_categories",
    "reward",
    "reward_f1",
    "reward_temporal",
    "reward_parity",
    "reward_efficiency",
    "malformed_rate",
)
_RATIOS = (
    "macro_f1",
    "micro_f1",
    "none_precision",
    "none_recall",
    "false_store_rate",
    "missed_store_rate",
)
METRICS = _MEANS + _RATIOS
"""Every metric, in the order of the JSON.

`avg_f1`, `exact_match`, `any_match`: means over examples. `temporal_accuracy`: share with equal
horizons. `scope_accuracy`: share with equal scopes. `avg_categories`: categories an answer (the
exclusive one counts as one, malformed as none). `reward` and its components: as the environment
pays them. `macro_f1`, `micro_f1`: over categories that occur in gold or answers, the exclusive one
included. `none_precision`, `none_recall`: of the exclusive category. `false_store_rate`: share of
gold-`none` examples for which something was stored. `missed_store_rate`: share of examples with
something to store for which `none` (or nothing readable) was answered.
"""


@dataclass(frozen=True)
class Outcomes:
    """What happened on N examples, as arrays of shape (N,)."""

    predicted: npt.NDArray[np.int64]
    """Masks; 0 where malformed (look at `malformed` first)."""
    gold: npt.NDArray[np.int64]
    malformed: npt.NDArray[np.bool_]
    taxonomy: Taxonomy
    reward: FloatArray
    """Totals as the environment paid them."""
    components: FloatArray
    """(N, 4): f1, temporal, parity, efficiency."""

    def __len__(self) -> int:
        """N."""
        return len(self.gold)

    @classmethod
    def of(
        cls,
        predicted: npt.NDArray[np.int64],
        gold: npt.NDArray[np.int64],
        malformed: npt.NDArray[np.bool_],
        reward: Reward,
    ) -> Outcomes:
        """Outcomes of given masks, scored by `reward`."""
        scores = reward.score_masks(predicted, gold, components=True)
        components = np.stack(scores[1:], axis=1)
        components[malformed] = 0.0
        total = np.where(malformed, reward.config.malformed, scores.total)
        return cls(predicted, gold, malformed, reward.taxonomy, total, components)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], taxonomy: Taxonomy) -> Outcomes:
        """Outcomes of the answered rows of a result, with the rewards that were paid."""
        predicted = [taxonomy.mask(row["predicted"]) if row["predicted"] else 0 for row in rows]
        names = ("reward_f1", "reward_temporal", "reward_parity", "reward_efficiency")
        return cls(
            np.array(predicted, np.int64),
            np.array([taxonomy.mask(row["gold"]) for row in rows], np.int64),
            np.array([bool(row["malformed"]) for row in rows], np.bool_),
            taxonomy,
            np.array([row["reward"] for row in rows], float),
            np.array([[row[name] for name in names] for row in rows], float).reshape(-1, 4),
        )

    def __getitem__(self, rows: npt.NDArray[Any]) -> Outcomes:
        """The same for a subset of the examples."""
        return Outcomes(
            self.predicted[rows],
            self.gold[rows],
            self.malformed[rows],
            self.taxonomy,
            self.reward[rows],
            self.components[rows],
        )

    def per_example(self) -> dict[str, FloatArray]:
        """Metrics that are means over examples, each of shape (N,)."""
        fine = ~self.malformed
        both_none = (self.predicted == 0) & (self.gold == 0)
        sizes = np.maximum(_popcount(self.predicted), 1)
        f1, temporal, parity, efficiency = self.components.T
        return {
            "avg_f1": f1.copy(),
            "exact_match": ((self.predicted == self.gold) & fine).astype(float),
            "any_match": ((((self.predicted & self.gold) != 0) | both_none) & fine).astype(float),
            "temporal_accuracy": (temporal == 1.0).astype(float),
            "scope_accuracy": (parity == 1.0).astype(float),
            "avg_categories": np.where(fine, sizes, 0).astype(float),
            "reward": self.reward.copy(),
            "reward_f1": f1.copy(),
            "reward_temporal": temporal.copy(),
            "reward_parity": parity.copy(),
            "reward_efficiency": efficiency.copy(),
            "malformed_rate": self.malformed.astype(float),
        }

    def category_hits(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """True positives, predicted and gold, each 0/1 of shape (N, categories), exclusive last."""
        width = self.taxonomy.num_storing
        bits = np.arange(width)
        predicted = np.empty((len(self), width + 1))
        gold = np.empty((len(self), width + 1))
        predicted[:, :width] = self.predicted[:, None] >> bits & 1
        gold[:, :width] = self.gold[:, None] >> bits & 1
        predicted[:, width] = self.predicted == 0
        gold[:, width] = self.gold == 0
        predicted[self.malformed] = 0
        return predicted * gold, predicted, gold


def _popcount(masks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return ((masks[:, None] >> np.arange(62)) & 1).sum(axis=1)


def bootstrap_counts(n: int, resamples: int, seed: int) -> FloatArray:
    """How often each of n examples is drawn: shape (resamples, n), every row sums to n."""
    rng = np.random.Generator(np.random.PCG64([seed, n]))
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def metrics_of(outcomes: Outcomes, counts_BN: FloatArray) -> dict[str, FloatArray]:
    """Every metric under each weighting of the examples.

    Args:
        outcomes: N examples.
        counts_BN: Weights of shape (B, N); a row of ones is the plain metric.

    Returns:
        Metric to values of shape (B,); NaN where a ratio has no denominator.
    """
    totals = counts_BN.sum(axis=1)
    result = {name: counts_BN @ values / totals for name, values in outcomes.per_example().items()}
    hits, predicted, gold = (counts_BN @ values for values in outcomes.category_hits())
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * hits / (predicted + gold)
        present = (predicted + gold) > 0
        result["macro_f1"] = np.where(present, f1, 0).sum(axis=1) / present.sum(axis=1)
        result["micro_f1"] = 2 * hits.sum(axis=1) / (predicted + gold).sum(axis=1)
        result["none_precision"] = hits[:, -1] / predicted[:, -1]
        result["none_recall"] = hits[:, -1] / gold[:, -1]
        stored = (outcomes.predicted != 0) & ~outcomes.malformed
        nothing = outcomes.gold == 0
        result["false_store_rate"] = (counts_BN @ (stored & nothing)) / (counts_BN @ nothing)
        result["missed_store_rate"] = (counts_BN @ (~stored & ~nothing)) / (counts_BN @ ~nothing)
    return result


def summarise(outcomes: Outcomes, *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Every metric with its 95% percentile-bootstrap interval.

    Args:
        outcomes: At least one example.
        resamples: Bootstrap resamples.
        seed: Of the resampling; equal seeds and sizes give equal resamples, hence paired intervals.

    Returns:
        `n`, each metric (None where it is undefined, such as the precision of an answer that was
        never given), and `ci95` with `[low, high]` (or None) for each.
    """
    n = len(outcomes)
    point = metrics_of(outcomes, np.ones((1, n)))
    block = max(1, 20_000_000 // max(n, 1))
    drawn: dict[str, list[FloatArray]] = {name: [] for name in METRICS}
    for start in range(0, resamples, block):
        counts = bootstrap_counts(n, min(block, resamples - start), seed + start)
        for name, values in metrics_of(outcomes, counts).items():
            drawn[name].append(values)
    summary: dict[str, Any] = {"n": n}
    intervals: dict[str, list[float] | None] = {}
    for name in METRICS:
        value = float(point[name][0])
        values = np.concatenate(drawn[name])
        values = values[~np.isnan(values)]
        summary[name] = None if np.isnan(value) else value
        intervals[name] = (
            [float(v) for v in np.percentile(values, [2.5, 97.5])]
            if len(values) and not np.isnan(value)
            else None
        )
    summary["ci95"] = intervals
    return summary


def group_summaries(
    outcomes: Outcomes, keys: Sequence[str], *, resamples: int = 400, seed: int = 0
) -> Mapping[str, Any]:
    """`summarise` for every value of `keys` (one a row), in sorted order."""
    labels = np.array(keys)
    return {
        str(key): summarise(outcomes[labels == key], resamples=resamples, seed=seed)
        for key in sorted(set(keys))
    }


def category_table(outcomes: Outcomes) -> dict[str, dict[str, float | int | None]]:
    """Precision, recall, F1 and support of every category."""
    hits, predicted, gold = (values.sum(axis=0) for values in outcomes.category_hits())
    table: dict[str, dict[str, float | int | None]] = {}
    for i, category_id in enumerate(outcomes.taxonomy.all_ids):
        tp, p, g = float(hits[i]), float(predicted[i]), float(gold[i])
        table[category_id] = {
            "support": int(g),
            "predicted": int(p),
            "precision": tp / p if p else None,
            "recall": tp / g if g else None,
            "f1": 2 * tp / (p + g) if p + g else None,
        }
    return table
