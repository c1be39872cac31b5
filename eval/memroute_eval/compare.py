"""Is the difference between two agents more than chance? Paired tests on saved results.

Both agents answered the same examples, so the pairs are kept together: the bootstrap draws
examples, never answers, and the permutation test swaps the two agents' answers example by example
(under the null hypothesis of no difference either could have given either answer).

Sources: paired percentile bootstrap, Efron & Tibshirani (1993), ch. 13; Monte Carlo p-value
`(1 + exceedances) / (1 + permutations)`, Phipson & Smyth (2010); step-down correction, Holm (1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from memroute_env.errors import DataError, OptionError
from memroute_eval.metrics import METRICS, Outcomes, bootstrap_counts, metrics_of
from memroute_eval.results import paired_rows, taxonomy_of

__all__ = ["ALPHA", "Difference", "compare_agents", "compare_outcomes", "holm"]

ALPHA = 0.05
"""Level at which a difference is called significant, after correction."""

DEFAULT_METRICS = ("reward", "avg_f1", "exact_match")

_BLOCK = 500
"""Resamples in one matrix product."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Agent `a` minus agent `b` on one metric."""

    a: str
    b: str
    metric: str
    n: int
    """Examples that both answered."""
    value_a: float | None
    value_b: float | None
    difference: float | None
    """None where either value is undefined."""
    ci95: tuple[float, float] | None
    """Percentile-bootstrap interval of the difference."""
    p: float | None
    """Two-sided permutation p-value."""
    p_holm: float | None
    """The same, corrected for the number of pairs compared on this metric."""

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below `ALPHA`."""
        return self.p_holm is not None and self.p_holm < ALPHA

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**vars(self), "significant": self.significant}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family of p-values.

    Args:
        p_values: m values in [0, 1], in any order.

    Returns:
        Corrected values in the same order: the running maximum of `(m - rank) * p`, at most 1.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def compare_outcomes(
    a: Outcomes,
    b: Outcomes,
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    names: tuple[str, str] = ("a", "b"),
    resamples: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> list[Difference]:
    """Compare two agents on the same N examples.

    Args:
        a: The one agent's outcomes.
        b: The other's, row by row on the same examples.
        metrics: Names of `METRICS`.
        names: What the result calls them.
        resamples: Bootstrap resamples.
        permutations: Random swaps for the p-value, which is at least `1 / (permutations + 1)`.
        seed: Of both.

    Returns:
        One difference a metric; `p_holm` equals `p`.

    Raises:
        OptionError: For an unknown metric or a count below 1.
        DataError: If the examples differ or there are none.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise OptionError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    if resamples < 1 or permutations < 1:
        raise OptionError(
            f"resamples and permutations must be at least 1, got {resamples} and {permutations}"
        )
    if len(a) != len(b) or not np.array_equal(a.gold, b.gold):
        raise DataError(f"{names[0]} and {names[1]} were not measured on the same gold answers")
    if not len(a):
        raise DataError(f"{names[0]} and {names[1]} have no example that both answered")
    observed_a, observed_b = (_values(o, np.ones((1, len(a))), metrics)[0] for o in (a, b))
    observed = observed_a - observed_b
    drawn = _bootstrap(a, b, metrics, resamples, seed)
    p_values = _permutation_p(a, b, observed, metrics, permutations, seed)
    differences = []
    for i, metric in enumerate(metrics):
        defined = drawn[:, i][~np.isnan(drawn[:, i])]
        known = not np.isnan(observed[i]) and len(defined) > 0
        low, high = np.percentile(defined, [2.5, 97.5]) if known else (0.0, 0.0)
        differences.append(
            Difference(
                *names,
                metric,
                len(a),
                _defined(observed_a[i]),
                _defined(observed_b[i]),
                _defined(observed[i]),
                (float(low), float(high)) if known else None,
                float(p_values[i]) if known else None,
                float(p_values[i]) if known else None,
            )
        )
    return differences


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _values(outcomes: Outcomes, weights_BN: FloatArray, metrics: Sequence[str]) -> FloatArray:
    """Metrics under each weighting of the examples, shape (B, metrics)."""
    means = outcomes.per_example()
    if all(metric in means for metric in metrics):
        columns = np.stack([means[metric] for metric in metrics], axis=1)
        return weights_BN @ columns / weights_BN.sum(axis=1, keepdims=True)
    computed = metrics_of(outcomes, weights_BN)
    return np.stack([computed[metric] for metric in metrics], axis=1)


def _bootstrap(
    a: Outcomes, b: Outcomes, metrics: Sequence[str], resamples: int, seed: int
) -> FloatArray:
    """Differences in resamples of the examples, shape (resamples, metrics)."""
    blocks = []
    for start in range(0, resamples, _BLOCK):
        counts = bootstrap_counts(len(a), min(_BLOCK, resamples - start), seed + start)
        blocks.append(_values(a, counts, metrics) - _values(b, counts, metrics))
    return np.concatenate(blocks)


def _permutation_p(
    a: Outcomes,
    b: Outcomes,
    observed: FloatArray,
    metrics: Sequence[str],
    permutations: int,
    seed: int,
) -> FloatArray:
    """Two-sided p-values, shape (metrics,).

    Swapping the answers of some examples is a weighting of the 2N answers of both agents by 0 and
    1, so that every metric, ratios such as macro F1 included, is a matrix product.
    """
    both = Outcomes(
        np.concatenate([a.predicted, b.predicted]),
        np.concatenate([a.gold, b.gold]),
        np.concatenate([a.malformed, b.malformed]),
        a.taxonomy,
        np.concatenate([a.reward, b.reward]),
        np.concatenate([a.components, b.components]),
    )
    rng = np.random.Generator(np.random.PCG64([seed, len(a), 1]))
    exceed = np.zeros(len(metrics))
    for start in range(0, permutations, _BLOCK):
        swap = rng.random((min(_BLOCK, permutations - start), len(a))) < 0.5
        first = np.concatenate([~swap, swap], axis=1).astype(float)
        drawn = _values(both, first, metrics) - _values(both, 1 - first, metrics)
        # An undefined ratio is no evidence against the null hypothesis: it counts as an exceedance.
        exceed += (~(np.abs(drawn) < np.abs(observed) - 1e-12)).sum(axis=0)
    return (1 + exceed) / (1 + permutations)


def compare_agents(
    results: Mapping[str, Any],
    names: Sequence[str] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    resamples: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> list[Difference]:
    """Compare agents of (merged) results, Holm-corrected over the pairs of each metric.

    Args:
        results: As `read_results` or `merge_results` return them.
        names: Between which agents; all by default. In a pair, the one with the higher reward is
            `a`.
        metrics: Names of `METRICS`.
        pairs: Only these pairs `(a, b)` rather than every two of `names`.
        resamples: Bootstrap resamples.
        permutations: Random swaps for the p-value.
        seed: Of both.

    Returns:
        Pairs in order of reward; for each the metrics in the order given.

    Raises:
        DataError: If fewer than two agents are named, one is unknown, or gold answers differ.
        OptionError: For an unknown metric.
    """
    agents = results["agents"]
    chosen = [*agents] if names is None else [*names]
    for name in [*chosen, *(name for pair in pairs or () for name in pair)]:
        if name not in agents:
            raise DataError(f"no agent is called {name!r}; there are {', '.join(agents)}")
    if pairs is None:
        chosen.sort(key=lambda name: -agents[name]["reward"])
        pairs = [*combinations(chosen, 2)]
    if not pairs:
        raise DataError("a comparison needs at least two agents")
    taxonomy = taxonomy_of(results)
    table = []
    for a, b in pairs:
        rows_a, rows_b = paired_rows(agents[a], agents[b])
        table.append(
            compare_outcomes(
                Outcomes.from_rows(rows_a, taxonomy),
                Outcomes.from_rows(rows_b, taxonomy),
                metrics,
                names=(a, b),
                resamples=resamples,
                permutations=permutations,
                seed=seed,
            )
        )
    for column in range(len(metrics)):
        tested = [row for row in table if row[column].p is not None]
        corrected = holm([p for row in tested if (p := row[column].p) is not None])
        for row, p_holm in zip(tested, corrected, strict=True):
            row[column] = replace(row[column], p_holm=p_holm)
    return [difference for row in table for difference in row]
