"""The comparison's statistics against slow, obvious implementations and scipy."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from memroute_env.errors import DataError, OptionError
from memroute_env.reward import Reward
from memroute_env.taxonomy import load_taxonomy
from memroute_eval.compare import compare_agents, compare_outcomes, holm
from memroute_eval.metrics import Outcomes, metrics_of

TAXONOMY = load_taxonomy("marketing")
REWARD = Reward(TAXONOMY)
SMALL = TAXONOMY.small_sets()


def outcomes(n: int, skill: float, seed: int, gold_seed: int = 0, malformed: float = 0.0):
    """An agent that gives the gold answer with probability `skill`, else a random small set."""
    golds = random.Random(gold_seed)
    rng = random.Random(seed)
    gold = np.array([golds.choice(SMALL) for _ in range(n)], np.int64)
    answers = np.array([g if rng.random() < skill else rng.choice(SMALL) for g in gold], np.int64)
    broken = np.array([rng.random() < malformed for _ in range(n)])
    answers[broken] = 0
    return Outcomes.of(answers, gold, broken, REWARD)


def one(differences, metric):
    return next(d for d in differences if d.metric == metric)


def value(o: Outcomes, metric: str) -> float:
    return float(metrics_of(o, np.ones((1, len(o))))[metric][0])


def test_permutation_p_value_agrees_with_scipys_paired_test():
    a, b = outcomes(60, 0.6, 1), outcomes(60, 0.45, 2)
    got = one(compare_outcomes(a, b, permutations=20_000), "reward")
    expected = stats.permutation_test(
        (a.reward, b.reward),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=False,
        rng=np.random.default_rng(0),
    )
    assert 0.005 < expected.pvalue < 0.5
    assert got.p == pytest.approx(expected.pvalue, abs=0.012)


def test_p_value_of_exact_match_agrees_with_the_exact_mcnemar_test():
    a, b = outcomes(80, 0.7, 3), outcomes(80, 0.5, 4)
    hit_a, hit_b = a.per_example()["exact_match"], b.per_example()["exact_match"]
    only_a, only_b = int((hit_a > hit_b).sum()), int((hit_b > hit_a).sum())
    exact = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
    got = one(compare_outcomes(a, b, permutations=40_000), "exact_match")
    assert got.p == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("metric", ["macro_f1", "micro_f1", "reward"])
def test_p_value_of_any_metric_agrees_with_all_swaps(metric):
    n = 9
    a, b = outcomes(n, 0.9, 5), outcomes(n, 0.2, 6)
    observed = abs(value(a, metric) - value(b, metric))
    extreme = 0
    for swap in itertools.product([False, True], repeat=n):
        mask = np.array(swap)
        first = Outcomes.of(
            np.where(mask, b.predicted, a.predicted), a.gold, np.zeros(n, bool), REWARD
        )
        second = Outcomes.of(
            np.where(mask, a.predicted, b.predicted), a.gold, np.zeros(n, bool), REWARD
        )
        extreme += abs(value(first, metric) - value(second, metric)) >= observed - 1e-12
    got = one(compare_outcomes(a, b, (metric,), permutations=20_000), metric)
    assert got.p == pytest.approx(extreme / 2**n, abs=0.015)


@pytest.mark.parametrize("metric", ["reward", "macro_f1", "false_store_rate"])
def test_interval_agrees_with_a_slow_paired_bootstrap(metric):
    a, b = outcomes(120, 0.7, 7), outcomes(120, 0.5, 8)
    rng = np.random.default_rng(9)
    slow = []
    for _ in range(1500):
        rows = rng.integers(0, len(a), len(a))
        slow.append(value(a[rows], metric) - value(b[rows], metric))
    low, high = np.nanpercentile(slow, [2.5, 97.5])
    got = one(compare_outcomes(a, b, (metric,), resamples=4000), metric)
    assert got.ci95 == pytest.approx((low, high), abs=0.15 * (high - low))
    assert got.difference == pytest.approx(value(a, metric) - value(b, metric))


def test_null_hypothesis_is_rejected_about_as_often_as_the_level_says():
    rejected = sum(
        (
            one(
                compare_outcomes(
                    outcomes(40, 0.5, 2 * s + 100, s),
                    outcomes(40, 0.5, 2 * s + 101, s),
                    resamples=1,
                    permutations=400,
                ),
                "reward",
            ).p
            or 1
        )
        < 0.05
        for s in range(300)
    )
    low, high = stats.binom.ppf([0.001, 0.999], 300, 0.05)
    assert low <= rejected <= high


def test_an_agent_does_not_differ_from_itself():
    a = outcomes(50, 0.5, 1)
    for difference in compare_outcomes(a, a, ("reward", "macro_f1"), permutations=200):
        assert difference.difference == 0
        assert difference.ci95 == (0, 0)
        assert difference.p == 1


@given(st.integers(0, 2**16), st.integers(0, 2**16))
def test_comparison_is_antisymmetric(seed_a, seed_b):
    a, b = outcomes(25, 0.6, seed_a, malformed=0.1), outcomes(25, 0.4, seed_b)
    metrics = ("reward", "macro_f1")
    forth = compare_outcomes(a, b, metrics, resamples=50, permutations=50)
    back = compare_outcomes(b, a, metrics, resamples=50, permutations=50)
    for one_way, other_way in zip(forth, back, strict=True):
        assert one_way.difference == pytest.approx(-(other_way.difference or 0))
        assert one_way.p == other_way.p


def test_undefined_metric_has_no_p_value():
    gold = np.array([1, 2, 4], np.int64)
    a = Outcomes.of(gold, gold, np.zeros(3, bool), REWARD)
    got = compare_outcomes(a, a, ("false_store_rate",), permutations=50)[0]
    assert (got.difference, got.ci95, got.p, got.significant) == (None, None, None, False)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_textbook_step_down(p_values):
    m = len(p_values)
    corrected = holm(p_values)
    for alpha in (0.01, 0.05, 0.2, 0.5):
        rejected = set()
        for rank, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
            if min(1.0, (m - rank) * p_values[i]) > alpha:
                break
            rejected.add(i)
        assert {i for i in range(m) if corrected[i] <= alpha} == rejected
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))


def test_pairs_are_made_of_examples_that_both_answered(results):
    agents = {k: dict(v) for k, v in results["agents"].items()}
    broken = [dict(row) for row in agents["random:uniform"]["examples"]]
    broken[0] = {k: broken[0][k] for k in ("id", "gold", "difficulty", "domain")} | {
        "error": "timeout"
    }
    agents["random:uniform"]["examples"] = broken[::-1]
    got = compare_agents(
        {**results, "agents": agents}, ["oracle", "random:uniform"], resamples=50, permutations=50
    )
    assert {d.n for d in got} == {len(broken) - 1}


def test_more_than_two_agents_are_corrected_over_the_pairs(results):
    got = compare_agents(results, resamples=50, permutations=500)
    for metric in ("reward", "avg_f1", "exact_match"):
        family = [d for d in got if d.metric == metric]
        assert len(family) == 3
        assert [d.p_holm for d in family] == holm([d.p for d in family if d.p is not None])
    assert (got[0].a, got[-1].a) == ("oracle", got[-1].a)


def test_what_cannot_be_compared_is_said(results):
    with pytest.raises(DataError, match="at least two"):
        compare_agents(results, ["oracle"])
    with pytest.raises(DataError, match="no agent is called 'nobody'"):
        compare_agents(results, ["oracle", "nobody"])
    with pytest.raises(OptionError, match="unknown metric 'f2'"):
        compare_agents(results, metrics=("f2",))
    with pytest.raises(DataError, match="same gold"):
        compare_outcomes(outcomes(5, 1, 1, 1), outcomes(5, 1, 1, 2))
