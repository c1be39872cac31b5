"""Confusion, calibration, targets and the published table against counting by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from memroute_env.errors import OptionError
from memroute_env.reward import Reward
from memroute_env.taxonomy import load_taxonomy
from memroute_eval.calibration import calibration_of
from memroute_eval.confusion import confusion_of
from memroute_eval.metrics import Outcomes
from memroute_eval.published import BENCHMARK_SIZES, PUBLISHED
from memroute_eval.report_view import category_intervals
from memroute_eval.targets import TARGETS, Status, check_targets

TAXONOMY = load_taxonomy("marketing")
REWARD = Reward(TAXONOMY)
MASKS = st.integers(0, TAXONOMY.num_masks - 1)


def outcomes(pairs, malformed=()):
    predicted, gold = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    broken = np.array([i in malformed for i in range(len(pairs))])
    return Outcomes.of(predicted, gold, broken, REWARD)


def mask(*ids):
    return TAXONOMY.mask(ids)


BRAND, STYLE, ROLE = "company.brand_core", "user.communication_style", "user.role_context"


def test_one_for_another_is_a_swap():
    got = confusion_of(outcomes([(mask(STYLE), mask(BRAND))]))
    assert [(s.gold, s.answered, s.mass) for s in got.top_swaps()] == [(BRAND, STYLE, 1.0)]
    assert got.missed.sum() == got.spurious.sum() == got.right.sum() == 0


def test_storing_what_is_nothing_is_a_swap_from_none():
    got = confusion_of(outcomes([(mask(BRAND, STYLE), mask("none"))]))
    assert {(s.gold, s.answered): s.mass for s in got.top_swaps()} == {
        ("none", BRAND): 0.5,
        ("none", STYLE): 0.5,
    }
    assert got.spurious.sum() == pytest.approx(1)


def test_too_little_and_too_much_are_no_swaps():
    short = confusion_of(outcomes([(mask(BRAND), mask(BRAND, STYLE))]))
    assert short.top_swaps() == [] and short.missed[short.ids.index(STYLE)] == 1
    long = confusion_of(outcomes([(mask(BRAND, ROLE), mask(BRAND))]))
    assert long.top_swaps() == [] and long.spurious[long.ids.index(ROLE)] == 1


def test_everything_in_a_malformed_answer_is_missed():
    got = confusion_of(outcomes([(0, mask("none")), (0, mask(BRAND))], malformed={0, 1}))
    assert got.missed.sum() == 2 and got.right.sum() == got.swapped.sum() == 0


@given(st.lists(st.tuples(MASKS, MASKS), min_size=1, max_size=20), st.sets(st.integers(0, 19)))
def test_confusion_adds_up_to_gold_and_answers(pairs, malformed):
    o = outcomes(pairs, malformed)
    got = confusion_of(o)
    _, predicted, gold = o.category_hits()
    assert got.right + got.swapped.sum(axis=1) + got.missed == pytest.approx(gold.sum(axis=0))
    assert got.right + got.swapped.sum(axis=0) + got.spurious == pytest.approx(predicted.sum(0))
    assert (got.missed > -1e-9).all() and (got.spurious > -1e-9).all()
    assert not got.swapped.diagonal().any()


def test_intervals_of_categories_agree_with_a_slow_bootstrap():
    rng = random.Random(1)
    small = TAXONOMY.small_sets(2)
    pairs = [(g if rng.random() < 0.6 else rng.choice(small), g) for g in rng.choices(small, k=150)]
    o = outcomes(pairs)
    place = TAXONOMY.all_ids.index(BRAND)
    draws = np.random.default_rng(2)
    slow = []
    for _ in range(1500):
        hits, predicted, gold = o[draws.integers(0, len(o), len(o))].category_hits()
        slow.append(2 * hits[:, place].sum() / (predicted + gold)[:, place].sum())
    low, high = np.percentile(slow, [2.5, 97.5])
    assert category_intervals(o)[BRAND] == pytest.approx((low, high), abs=0.15 * (high - low))
    nothing = outcomes([(mask("none"), mask("none"))])
    assert category_intervals(nothing)[BRAND] is None


def rows_of(pairs):
    return [{"gold": ["a"] if right else ["b"], "scores": {"a": score}} for score, right in pairs]


def test_calibration_agrees_with_counting():
    rng = random.Random(0)
    pairs = [(rng.random(), rng.random() < 0.4) for _ in range(500)]
    got = calibration_of(rows_of(pairs))
    assert got is not None
    ece = 0.0
    for b in range(10):
        inside = [(s, r) for s, r in pairs if b / 10 <= s < (b + 1) / 10]
        if inside:
            scores, rights = zip(*inside, strict=True)
            ece += len(inside) / 500 * abs(sum(scores) / len(scores) - sum(rights) / len(rights))
    assert got.ece == pytest.approx(ece)
    assert got.brier == pytest.approx(sum((s - r) ** 2 for s, r in pairs) / 500)
    assert sum(b.count for b in got.bins) == got.n == 500
    for b in got.bins:
        exact = binomtest(round(b.share * b.count), b.count).proportion_ci(method="wilson")
        assert b.ci95 == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_scores_that_say_what_happens_have_no_calibration_error():
    got = calibration_of(rows_of([(0.0, False)] * 5 + [(1.0, True)] * 5))
    assert got is not None and got.ece == got.brier == 0
    assert [(b.low, b.count) for b in got.bins] == [(0.0, 5), (0.9, 5)]


def test_an_agent_without_scores_has_no_calibration():
    assert calibration_of([{"gold": ["a"]}, {"gold": ["a"], "error": "timeout"}]) is None
    with pytest.raises(OptionError, match="at least 1"):
        calibration_of(rows_of([(0.5, True)]), bins=0)


def test_targets_pass_at_the_bound_and_are_unknown_without_a_figure():
    met = {t.metric: t.bound for t in TARGETS}
    status = {c.target.metric: c.status for c in check_targets(met)}
    assert status.pop("latency_p95_ms") is Status.FAIL  # under 200 ms, not at most
    assert set(status.values()) == {Status.PASS}
    assert {c.status for c in check_targets({})} == {Status.UNKNOWN}
    worse = {t.metric: t.bound + (0.01 if t.relation != ">=" else -0.01) for t in TARGETS}
    assert {c.status for c in check_targets(worse)} == {Status.FAIL}


def test_targets_of_the_oracle(results):
    got = {c.target.metric: c.status for c in check_targets(results["agents"]["oracle"])}
    assert got.pop("latency_p95_ms") is Status.UNKNOWN
    assert set(got.values()) == {Status.PASS}


def test_published_rows_are_consistent_with_their_parts():
    total = sum(BENCHMARK_SIZES.values())
    assert total == 50
    for row in PUBLISHED:
        f1 = sum(row.f1_by_difficulty[k] * n for k, n in BENCHMARK_SIZES.items()) / total
        exact = sum(row.exact_by_difficulty[k] * n for k, n in BENCHMARK_SIZES.items()) / total
        assert f1 == pytest.approx(row.avg_f1, abs=0.001)
        assert exact == pytest.approx(row.exact_match, abs=0.005)
