"""Metrics against a slow, obvious implementation, scikit-learn, and what intervals must do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_env import Dataset, Reward, Taxonomy, load_taxonomy
from memroute_eval.metrics import (
    METRICS,
    Outcomes,
    bootstrap_counts,
    category_table,
    group_summaries,
    summarise,
)
from tests.properties.slow_reward import slow_score
from tests.properties.strategies import taxonomies

MARKETING = load_taxonomy("marketing")


def outcomes(
    taxonomy: Taxonomy, predicted: list[int | None], gold: list[int], reward: Reward | None = None
) -> Outcomes:
    """Outcomes of masks; None is malformed."""
    return Outcomes.of(
        np.array([p or 0 for p in predicted], np.int64),
        np.array(gold, np.int64),
        np.array([p is None for p in predicted]),
        reward or Reward(taxonomy),
    )


def slow_metrics(
    taxonomy: Taxonomy, predicted: list[int | None], gold: list[int]
) -> dict[str, float | None]:
    """The definitions of `METRICS`, one example at a time, on sets of names."""
    horizons = {c.id: str(c.horizon) for c in taxonomy.categories}
    scopes = {c.id: c.scope for c in taxonomy.categories}
    nothing = taxonomy.exclusive.id
    answers = [None if p is None else set(taxonomy.ids(p)) for p in predicted]
    truths = [set(taxonomy.ids(g)) for g in gold]
    pairs = list(zip(answers, truths, strict=True))
    n = len(pairs)
    scores = [
        (-1.0, 0.0, 0.0, 0.0, 0.0) if a is None else slow_score(a, t, horizons, scopes)
        for a, t in pairs
    ]

    def mean(values: list[float]) -> float:
        return sum(values) / n

    def ratio(top: float, bottom: float) -> float | None:
        return top / bottom if bottom else None

    per_category = []
    hits_all = predicted_all = gold_all = 0
    for name in taxonomy.all_ids:
        hits = sum(name in t and a is not None and name in a for a, t in pairs)
        named = sum(a is not None and name in a for a, _ in pairs)
        true = sum(name in t for _, t in pairs)
        hits_all, predicted_all, gold_all = hits_all + hits, predicted_all + named, gold_all + true
        if named + true:
            per_category.append(2 * hits / (named + true))
    none_hits = sum(a == {nothing} and t == {nothing} for a, t in pairs)
    stored = [a is not None and nothing not in a for a, _ in pairs]
    empty = [t == {nothing} for t in truths]
    return {
        "avg_f1": mean([s[1] for s in scores]),
        "exact_match": mean([float(a == t) for a, t in pairs]),
        "any_match": mean([float(a is not None and bool(a & t)) for a, t in pairs]),
        "temporal_accuracy": mean([float(s[2] == 1) for s in scores]),
        "scope_accuracy": mean([float(s[3] == 1) for s in scores]),
        "avg_categories": mean([0 if a is None else len(a) for a, _ in pairs]),
        "reward": mean([s[0] for s in scores]),
        "reward_f1": mean([s[1] for s in scores]),
        "reward_temporal": mean([s[2] for s in scores]),
        "reward_parity": mean([s[3] for s in scores]),
        "reward_efficiency": mean([s[4] for s in scores]),
        "malformed_rate": mean([float(a is None) for a, _ in pairs]),
        "macro_f1": sum(per_category) / len(per_category),
        "micro_f1": 2 * hits_all / (predicted_all + gold_all),
        "none_precision": ratio(none_hits, sum(a == {nothing} for a, _ in pairs)),
        "none_recall": ratio(none_hits, sum(empty)),
        "false_store_rate": ratio(
            sum(s and e for s, e in zip(stored, empty, strict=True)), sum(empty)
        ),
        "missed_store_rate": ratio(
            sum(not s and not e for s, e in zip(stored, empty, strict=True)), n - sum(empty)
        ),
    }


@settings(max_examples=120, deadline=None)
@given(taxonomies(max_storing=7), st.data())
def test_every_metric_equals_the_obvious_one(taxonomy: Taxonomy, data: st.DataObject) -> None:
    mask = st.integers(0, taxonomy.num_masks - 1)
    pairs = data.draw(st.lists(st.tuples(st.none() | mask, mask), min_size=1, max_size=12))
    predicted, gold = [p for p, _ in pairs], [g for _, g in pairs]
    expected = slow_metrics(taxonomy, predicted, gold)
    found = summarise(outcomes(taxonomy, predicted, gold), resamples=2)
    assert set(METRICS) == set(expected)
    assert found["n"] == len(pairs)
    for name in METRICS:
        if expected[name] is None:
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(expected[name], abs=1e-12), name


def test_macro_and_micro_f1_precision_and_recall_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    predicted, gold = rng.choice(MARKETING.small_sets(), (2, 400))
    made = outcomes(MARKETING, predicted.tolist(), gold.tolist())
    _, p, g = made.category_hits()
    report: dict[str, Any] = sklearn.classification_report(
        g, p, target_names=MARKETING.all_ids, output_dict=True, zero_division=0
    )
    summary = summarise(made, resamples=2)
    assert summary["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert summary["micro_f1"] == pytest.approx(report["micro avg"]["f1-score"])
    assert summary["none_precision"] == pytest.approx(report["none"]["precision"])
    assert summary["none_recall"] == pytest.approx(report["none"]["recall"])
    assert summary["avg_f1"] == pytest.approx(sklearn.f1_score(g, p, average="samples"))
    assert summary["exact_match"] == pytest.approx(sklearn.accuracy_score(g, p))
    table = category_table(made)
    for name in MARKETING.all_ids:
        for ours, theirs in (("f1", "f1-score"), ("precision",) * 2, ("recall",) * 2):
            assert table[name][ours] == pytest.approx(report[name][theirs])
        assert table[name]["support"] == report[name]["support"]


def test_a_malformed_answer_is_wrong_on_every_metric_and_never_dropped() -> None:
    right = summarise(outcomes(MARKETING, [1, 0, 6], [1, 0, 6]), resamples=2)
    partly = summarise(outcomes(MARKETING, [1, None, None], [1, 0, 6]), resamples=2)
    for name in ("avg_f1", "exact_match", "any_match", "temporal_accuracy", "scope_accuracy"):
        assert right[name] == 1
        assert partly[name] == pytest.approx(1 / 3)
    assert partly["n"] == 3
    assert partly["reward"] == pytest.approx((1 - 1 - 1) / 3)
    assert partly["malformed_rate"] == pytest.approx(2 / 3)
    assert partly["none_recall"] == 0
    assert partly["none_precision"] is None
    nothing = summarise(outcomes(MARKETING, [None], [0]), resamples=2)
    assert (nothing["macro_f1"], nothing["any_match"], nothing["avg_categories"]) == (0, 0, 0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.none() | st.sampled_from(MARKETING.small_sets()),
                  st.sampled_from(MARKETING.small_sets())),
        min_size=1,
        max_size=40,
    )
)  # fmt: skip
def test_intervals_lie_around_the_point(pairs: list[tuple[int | None, int]]) -> None:
    made = outcomes(MARKETING, [p for p, _ in pairs], [g for _, g in pairs])
    summary = summarise(made, resamples=200)
    means = [
        "avg_f1", "exact_match", "any_match", "temporal_accuracy", "scope_accuracy",
        "avg_categories", "reward", "reward_f1", "reward_efficiency", "malformed_rate",
    ]  # fmt: skip
    for name in METRICS:
        interval = summary["ci95"][name]
        assert (interval is None) == (summary[name] is None)
        if interval is None:
            continue
        low, high = interval
        assert low <= high
        if name in means:
            # The percentile interval of a mean contains the mean.
            assert low - 1e-12 <= summary[name] <= high + 1e-12, name


def test_intervals_shrink_with_the_number_of_examples() -> None:
    rng = np.random.default_rng(1)
    predicted, gold = rng.choice(MARKETING.small_sets(), (2, 3_200)).tolist()
    names = ("avg_f1", "exact_match", "reward", "temporal_accuracy", "macro_f1", "micro_f1")

    def width(n: int) -> float:
        made = outcomes(MARKETING, predicted[:n], gold[:n])
        intervals = summarise(made, resamples=300)["ci95"]
        return float(np.median([intervals[name][1] - intervals[name][0] for name in names]))

    # By the square root of n: a factor of four, then of two.
    assert width(50) > 2.5 * width(800) > 2.5 * 1.4 * width(3_200)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    share, covered = 0.3, 0
    for trial in range(150):
        hits = rng.random(120) < share
        made = outcomes(MARKETING, [1 if h else 2 for h in hits], [1] * 120)
        low, high = summarise(made, resamples=200, seed=trial)["ci95"]["exact_match"]
        covered += low <= share <= high
    assert 0.88 <= covered / 150 <= 1.0


def test_equal_seeds_give_equal_resamples() -> None:
    one, two = (bootstrap_counts(30, 20, seed=3) for _ in range(2))
    assert (one == two).all()
    assert (one.sum(axis=1) == 30).all()
    assert (bootstrap_counts(30, 20, seed=4) != one).any()
    made = outcomes(MARKETING, [1, 2, 3, 0], [1, 1, 3, 0])
    assert summarise(made, resamples=50, seed=5) == summarise(made, resamples=50, seed=5)


def test_groups_are_summaries_of_their_examples() -> None:
    predicted: list[int | None] = [1, 2, 3, None]
    gold = [1, 1, 3, 0]
    groups = group_summaries(outcomes(MARKETING, predicted, gold), ["b", "a", "b", "a"])
    assert list(groups) == ["a", "b"]
    assert groups["b"]["exact_match"] == 1
    assert groups["a"]["n"] == 2
    assert groups["a"]["malformed_rate"] == 0.5


def test_one_example_is_enough(small: Dataset) -> None:
    summary = summarise(outcomes(small.taxonomy, [1], [1]))
    assert summary["ci95"]["reward"] == [1.0, 1.0]
    assert summary["none_recall"] is None
    assert summary["false_store_rate"] is None
