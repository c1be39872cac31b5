"""The factorised family is the listed one wherever both exist, and serves where lists do not."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memroute_agents.local.checkpoint import load_policy, save_policy
from memroute_agents.local.factorised import FactorisedFamily
from memroute_agents.local.factorised_objectives import (
    FactorisedCrossEntropy,
    FactorisedExactReward,
    FactorisedReward,
)
from memroute_agents.local.objectives import CrossEntropy, ExactReward, Loss
from memroute_agents.local.policy import LocalPolicy
from memroute_agents.local.router import LocalAgent
from memroute_agents.local.set_classes import classes_of
from memroute_agents.local.sets import OBJECTIVES, SetFamily, family_of, softmax
from memroute_agents.local.training import Estimator, train_policy
from memroute_env import Dataset, Reward, Taxonomy, load_taxonomy
from tests.conftest import make_example
from tests.local.conftest import QUICK

MARKETING = load_taxonomy("marketing")
LISTED, FACTORISED = SetFamily(MARKETING), FactorisedFamily(MARKETING)
SCORES = arrays(np.float32, (3, 13), elements=st.floats(-30, 30, width=32))
SIZES = arrays(np.float32, 4, elements=st.floats(-5, 5, width=32))
FAST = settings(max_examples=60, deadline=None)


def large(categories: int = 60) -> Taxonomy:
    """A made-up taxonomy that is too large to list."""
    horizons = ("long", "medium", "short")
    entries = [
        {
            "id": f"c{i}",
            "description": f"things about word{i}",
            "scope": "company" if i % 2 else "user",
            "horizon": horizons[i % 3],
            "lifetime_days": ("never", 180, 30)[i % 3],
        }
        for i in range(categories)
    ]
    nothing = {
        "id": "nothing",
        "description": "the rest",
        "scope": "none",
        "horizon": "short",
        "exclusive": True,
    }
    return Taxonomy.from_dict(
        {"name": "large", "scopes": ["company", "user"], "category": [*entries, nothing]},
        source="test",
    )


@FAST
@given(SCORES, SIZES)
def test_every_set_has_the_probability_that_the_list_gives_it(
    scores: np.ndarray, sizes: np.ndarray
) -> None:
    listed, factorised = (f.logits(scores, sizes) for f in (LISTED, FACTORISED))
    expected = np.log(softmax(listed.astype(np.float64)) + 1e-300)
    for k, mask in enumerate(LISTED.masks):
        found = FACTORISED.log_prob(factorised, np.full(3, mask))
        assert np.allclose(found, expected[:, k], atol=2e-3), mask
    assert np.allclose(FACTORISED.marginals(factorised), LISTED.marginals(listed), atol=1e-4)


@FAST
@given(SCORES, SIZES, st.sampled_from(OBJECTIVES))
def test_decisions_are_as_good_as_the_lists(
    scores: np.ndarray, sizes: np.ndarray, objective: str
) -> None:
    listed, factorised = (f.logits(scores, sizes) for f in (LISTED, FACTORISED))
    value = LISTED.expected(softmax(listed), objective)  # type: ignore[arg-type]
    chosen = FACTORISED.decide(factorised, objective)  # type: ignore[arg-type]
    for n, mask in enumerate(chosen):
        k = int(np.flatnonzero(LISTED.masks == mask)[0])
        assert value[n, k] >= value[n].max() - 1e-4


@FAST
@given(SCORES, SCORES, SIZES)
def test_entropy_and_divergence_are_exact(
    scores: np.ndarray, others: np.ndarray, sizes: np.ndarray
) -> None:
    p, q = (softmax(LISTED.logits(s, sizes).astype(np.float64)) for s in (scores, others))
    logits, reference = (FACTORISED.logits(s, sizes) for s in (scores, others))
    partition = FACTORISED.partition(logits)
    entropy = -(p * np.log(p + 1e-300)).sum(axis=1)
    assert np.allclose(FACTORISED.entropy(logits, partition), entropy, atol=2e-3)
    divergence = (p * (np.log(p + 1e-300) - np.log(q + 1e-300))).sum(axis=1)
    assert np.allclose(FACTORISED.divergence(logits, partition, reference), divergence, atol=5e-3)


def some_logits(rows: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (
        rng.normal(0, 1.5, (rows, 13)).astype(np.float32),
        rng.normal(0, 1, 4).astype(np.float32),
    )


def assert_the_same(found: Loss, listed: Loss) -> None:
    """Values, and gradients of scores and size biases, which are what both families share."""
    for name in ("value", "entropy", "kl"):
        assert getattr(found, name) == pytest.approx(getattr(listed, name), abs=2e-5), name
    for one, two in zip(
        FACTORISED.pull_back(found.gradient), LISTED.pull_back(listed.gradient), strict=True
    ):
        assert np.allclose(one, two, atol=1e-5)


GOLD = np.array([0, 0b101, 0b11])
ALL = np.arange(3)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_supervised_gradient_is_the_lists(smoothing: float) -> None:
    scores, sizes = some_logits()
    weights = np.array([0.5, 1.0, 1.5], np.float32)
    listed = CrossEntropy(LISTED.closest(GOLD), weights, LISTED.payoff_KK, smoothing)
    found = FactorisedCrossEntropy(FACTORISED, GOLD, weights, smoothing)
    assert_the_same(
        found(ALL, FACTORISED.logits(scores, sizes)), listed(ALL, LISTED.logits(scores, sizes))
    )


@FAST
@given(
    arrays(np.float32, (3, 13), elements=st.floats(-8, 8, width=32)),
    SIZES,
    st.sampled_from([(0.0, 0.0), (0.05, 0.0), (0.3, 0.1)]),
)
def test_the_exact_policy_gradient_is_the_lists(
    scores: np.ndarray, sizes: np.ndarray, penalties: tuple[float, float]
) -> None:
    before, _ = some_logits()
    listed = ExactReward(
        LISTED.closest(GOLD),
        LISTED.payoff_KK,
        np.log(softmax(LISTED.logits(before, sizes))),
        *penalties,
    )
    factorised = FactorisedExactReward(
        FACTORISED, GOLD, FACTORISED.logits(before, sizes), *penalties
    )
    found = factorised(ALL, FACTORISED.logits(scores, sizes))
    expected = listed(ALL, LISTED.logits(scores, sizes))
    assert_the_same(found, expected)
    assert found.reward == pytest.approx(expected.reward, abs=2e-5)


def test_the_exact_policy_gradient_of_a_large_taxonomy_is_that_of_its_sets() -> None:
    taxonomy = large(31)
    rng = np.random.default_rng(5)
    family = FactorisedFamily(taxonomy)
    logits = rng.normal(0, 1, (2, family.num_categories + family.num_sizes)).astype(np.float32)
    gold = np.array([0, 0b1010001])
    found = FactorisedExactReward(family, gold)(np.arange(2), logits)
    masks = np.array(taxonomy.small_sets())
    p = softmax(family.logit(logits, np.tile(masks, (2, 1))))
    paid = Reward(taxonomy).score_masks(masks[None], gold[:, None])
    expected = (p * paid).sum(axis=1)
    assert found.reward == pytest.approx(expected.mean())
    push = p * (paid - expected[:, None])
    assert np.allclose(found.gradient, -push @ family.statistics_of(masks) / 2, atol=1e-7)


def test_classes_hold_every_set_once() -> None:
    classes = classes_of(Reward(large(40)), 0b100101, 3)
    assert classes.sizes.tolist() == sorted(classes.sizes.tolist())
    numbers = [1 + 40 + 780 + 9_880, *(comb(40, k) for k in range(4))]
    ones, scale = np.ones((1, 40)), np.ones((1, 4))
    total, _, by_size = classes.expectation(ones, scale, np.ones(len(classes.sizes)))
    assert [*total, *by_size[0]] == pytest.approx(numbers)
    # As the module says.
    counts = [len(classes_of(Reward(large(60)), gold, 3).sizes) for gold in (0, 0b111)]
    assert counts == [84, 190]
    assert len(large(60).small_sets()) == 36_051


def test_samples_come_with_their_probabilities() -> None:
    scores, sizes = some_logits(2)
    drawn = FACTORISED.sample(FACTORISED.logits(scores, sizes), 40_000, np.random.default_rng(1))
    expected = softmax(LISTED.logits(scores, sizes))
    for n in range(2):
        share = np.array([(drawn[n] == mask).mean() for mask in LISTED.masks])
        assert share.sum() == pytest.approx(1)
        # 40,000 draws: a standard error of at most 0.0025 for each set.
        assert np.abs(share - expected[n]).max() < 0.012


def test_the_sampled_gradient_converges_to_the_exact_one_of_the_list() -> None:
    scores, sizes = some_logits()
    gold = np.array([0, 0b101, 0b11])
    reward = Reward(MARKETING)
    exact = ExactReward(LISTED.closest(gold), LISTED.payoff_KK)(
        np.arange(3), LISTED.logits(scores, sizes)
    )
    sampled = FactorisedReward(
        lambda chosen, masks: reward.score_masks(masks, gold[chosen]), 256, (3,), family=FACTORISED
    )
    logits = FACTORISED.logits(scores, sizes)
    mean = np.mean([sampled(np.arange(3), logits).gradient for _ in range(300)], axis=0)
    expected, _ = LISTED.pull_back(exact.gradient)
    found, _ = FACTORISED.pull_back(mean)
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)


def test_penalties_pull_towards_the_reference() -> None:
    scores, sizes = some_logits()
    logits, reference = FACTORISED.logits(scores, sizes), FACTORISED.logits(0 * scores, sizes)
    indifferent = FactorisedReward(
        lambda chosen, masks: np.zeros(len(masks)),
        4_096,
        (4,),
        reference,
        1.0,
        family=FACTORISED,
    )
    before = indifferent(np.arange(3), logits).kl
    for _ in range(30):
        logits = (logits - 3.0 * indifferent(np.arange(3), logits).gradient).astype(np.float32)
    assert indifferent(np.arange(3), logits).kl < 0.2 * before


def test_a_larger_gold_set_becomes_its_best_paid_three() -> None:
    assert FACTORISED.closest(np.array([0, 0b111])).tolist() == [0, 0b111]
    (found,) = FACTORISED.closest(np.array([0b11111])).tolist()
    inside = [m for m in LISTED.masks.tolist() if m & ~0b11111 == 0 and m.bit_count() == 3]
    paid = LISTED.reward.score_masks(np.array(inside), np.full(len(inside), 0b11111))
    assert found in inside
    assert paid[inside.index(found)] == paid.max()


def test_only_taxonomies_that_are_too_large_are_factorised() -> None:
    assert isinstance(family_of(MARKETING), SetFamily)
    assert isinstance(family_of(large(29)), SetFamily)
    assert isinstance(family_of(large(30)), FactorisedFamily)
    assert isinstance(family_of(large(62)), FactorisedFamily)


def word_data(taxonomy: Taxonomy, per_category: int, offset: int) -> Dataset:
    rng = np.random.default_rng(offset)
    examples = []
    for i in range(per_category * taxonomy.num_storing):
        first, second = rng.choice(taxonomy.num_storing, 2, replace=False)
        gold = [f"c{first}"] if i % 3 else [f"c{first}", f"c{second}"]
        # No digits: the features take every number for the same.
        said = " and ".join(
            f"{'bdfgklmnprst'[int(c[1:]) // 6]}{'aeiouy'[int(c[1:]) % 6]}w" for c in gold
        )
        text = f"about the {said} please, number {offset} {i}"
        if i % 7 == 0:
            gold, text = ["nothing"], f"good morning {offset} {i}"
        examples.append(make_example(f"{offset}-{i}", gold, text, "ok", "fine"))
    return Dataset(examples, taxonomy)


def metrics_of(policy: LocalPolicy) -> dict[str, float]:
    """What training measured on validation data at its end."""
    metrics = policy.metadata["metrics"]
    assert isinstance(metrics, dict)
    return metrics


def test_a_large_taxonomy_is_learnt_saved_and_routed(tmp_path: Path) -> None:
    taxonomy = large()
    train, held_out = word_data(taxonomy, 30, 0), word_data(taxonomy, 2, 1)
    config = replace(QUICK, supervised=replace(QUICK.supervised, epochs=12, rate=256.0))
    policy = train_policy(train, held_out, config).policy
    assert metrics_of(policy)["val_exact"] > 0.9
    save_policy(policy, tmp_path / "policy.npz")
    agent = LocalAgent(load_policy(tmp_path / "policy.npz"))
    conversations = [e.conversation for e in held_out]
    decisions = agent.route(conversations)
    gold = [taxonomy.ids(int(m)) for m in held_out.gold_masks]
    right = [d.categories == g for d, g in zip(decisions, gold, strict=True)]
    assert np.mean(right) > 0.9
    assert decisions[1].scores is not None
    assert len(decisions[1].scores) == 61


@pytest.mark.parametrize("estimator", ["sampled", "exact"])
def test_the_policy_gradient_raises_the_reward_of_a_large_taxonomy(estimator: Estimator) -> None:
    taxonomy = large(36)
    train, held_out = word_data(taxonomy, 8, 0), word_data(taxonomy, 4, 1)
    schedule = replace(QUICK.supervised, epochs=1, rate=32.0)
    half = replace(QUICK, supervised=schedule, estimator="none", none_precision=0.0)
    start = train_policy(train, held_out, half).policy
    config = replace(
        half,
        supervised=replace(schedule, epochs=0),
        estimator=estimator,
        gradient_iterations=30,
        gradient_rate=200.0,
        groups=64,
        group_size=32,
        kl_weight=0.0,
        max_kl=10.0,
    )
    after = train_policy(train, held_out, config, warm_start=start).policy
    assert metrics_of(after)["val_reward"] > metrics_of(start)["val_reward"] + 0.01
