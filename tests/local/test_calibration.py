"""How sure the policy is, and of how many categories: fitted to held-out data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from memroute_agents.local.calibration import (
    COLDEST,
    FEWEST,
    HOTTEST,
    STEP,
    calibrate,
    reluctance,
)
from memroute_agents.local.encoding import Encoded
from memroute_agents.local.factorised import FactorisedFamily
from memroute_agents.local.factorised_objectives import FactorisedCrossEntropy
from memroute_agents.local.objectives import CrossEntropy
from memroute_agents.local.policy import Calibration, LocalPolicy, Parameters
from memroute_agents.local.router import LocalAgent
from memroute_agents.local.sets import SetFamily
from memroute_env import Dataset
from tests.local.conftest import MARKETING


def likelihood(policy: LocalPolicy, gold: np.ndarray) -> CrossEntropy | FactorisedCrossEntropy:
    targets, ones = policy.family.closest(gold), np.ones(len(gold), np.float32)
    if isinstance(policy.family, FactorisedFamily):
        return FactorisedCrossEntropy(policy.family, targets, ones)
    assert isinstance(policy.family, SetFamily)
    return CrossEntropy(targets, ones, policy.family.payoff_KK)


def loss(policy: LocalPolicy, batch: Encoded, gold: np.ndarray, calibration: Calibration) -> float:
    changed = replace(policy, calibration=calibration)
    return -float(
        changed.family.log_prob(changed.logits(batch), changed.family.closest(gold)).mean()
    )


def drawn(policy: LocalPolicy, batch: Encoded, seed: int = 0) -> np.ndarray:
    """Gold masks that the policy, as it is calibrated, would be right about."""
    assert isinstance(policy.family, SetFamily)
    logits = policy.logits(batch)
    gumbel = np.random.default_rng(seed).gumbel(size=logits.shape)
    return policy.family.masks_of((logits + gumbel).argmax(axis=1))


@pytest.fixture
def batch(random_policy: LocalPolicy, train: Dataset) -> Encoded:
    return random_policy.encoder([e.conversation for e in train])


def test_nothing_is_what_an_untrained_policy_starts_with(
    random_policy: LocalPolicy, batch: Encoded
) -> None:
    assert np.array_equal(random_policy.logits(batch), random_policy.forward(batch).logits)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_known_temperature_and_known_shifts_are_found(
    random_policy: LocalPolicy, batch: Encoded, temperature: float
) -> None:
    # Weak scores: else nearly all sets have three categories, and nothing tells of the others.
    weak = {
        name: array / np.float32(4) for name, array in random_policy.parameters.arrays().items()
    }
    random_policy = replace(random_policy, parameters=Parameters(**weak))
    truth = Calibration(temperature, np.array([0.0, 0.0, 1.0, -1.0], np.float32))
    batch = batch.take(np.tile(np.arange(batch.size), 8))
    gold = drawn(replace(random_policy, calibration=truth), batch)
    found = calibrate(random_policy, batch, likelihood(random_policy, gold))
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    apart = found.size_shift - found.size_shift[1]
    assert apart[2] == pytest.approx(1, abs=0.2)
    assert apart[3] == pytest.approx(-1, abs=0.2)
    assert loss(random_policy, batch, gold, found) < loss(random_policy, batch, gold, truth) + 1e-3


def test_the_factorised_family_is_calibrated_alike(
    random_policy: LocalPolicy, batch: Encoded
) -> None:
    gold = drawn(random_policy, batch)
    listed = calibrate(random_policy, batch, likelihood(random_policy, gold))
    factorised = replace(random_policy, family=FactorisedFamily(MARKETING))
    same = calibrate(factorised, batch, likelihood(factorised, gold))
    assert same.temperature == pytest.approx(listed.temperature, rel=0.01)
    assert np.allclose(same.size_shift, listed.size_shift, atol=0.02)


def test_its_own_calibration_does_not_matter(random_policy: LocalPolicy, batch: Encoded) -> None:
    gold = drawn(random_policy, batch)
    odd = replace(random_policy, calibration=Calibration(3.0, np.ones(4, np.float32)))
    first = calibrate(random_policy, batch, likelihood(random_policy, gold))
    second = calibrate(odd, batch, likelihood(odd, gold))
    assert first.temperature == second.temperature
    assert np.array_equal(first.size_shift, second.size_shift)


def test_the_temperature_alone(random_policy: LocalPolicy, batch: Encoded) -> None:
    gold = drawn(
        replace(random_policy, calibration=Calibration(2.0, np.zeros(4, np.float32))), batch
    )
    found = calibrate(random_policy, batch, likelihood(random_policy, gold), sizes=False)
    assert found.temperature == pytest.approx(2, rel=0.2)
    assert not found.size_shift.any()


def test_a_handful_of_conversations_moves_little(
    random_policy: LocalPolicy, batch: Encoded
) -> None:
    few = batch.take(np.arange(3))
    gold = np.array([1, 2, 4])
    found = calibrate(random_policy, few, likelihood(random_policy, gold))
    assert np.abs(found.size_shift).max() < len(gold)
    assert COLDEST <= found.temperature <= HOTTEST + 1e-6
    assert loss(random_policy, few, gold, found) <= loss(
        random_policy, few, gold, Calibration.none(4)
    )


def precision_of_none(policy: LocalPolicy, batch: Encoded, gold: np.ndarray) -> float:
    return float((gold[policy.decide(batch) == 0] == 0).mean())


@pytest.fixture
def doubtful(random_policy: LocalPolicy, batch: Encoded) -> tuple[LocalPolicy, np.ndarray]:
    """A policy that answers `none` a third of the time, and truths that it is often wrong about."""
    calibration = Calibration(1.0, np.array([5.0, 3.0, 0.0, -3.0], np.float32))
    policy = replace(random_policy, calibration=calibration)
    return policy, drawn(policy, batch)


def test_reluctance_is_the_least_that_makes_none_as_right_as_wanted(
    doubtful: tuple[LocalPolicy, np.ndarray], batch: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memroute_agents.local.calibration.DEAREST", 1.0)
    policy, gold = doubtful
    before = precision_of_none(policy, batch, gold)
    wanted = before + 0.03
    found = reluctance(policy, batch, gold, wanted)
    assert found > 0
    for tried, enough in ((found, True), (found - STEP, False)):
        changed = replace(policy, calibration=policy.calibration._replace(reluctance=tried))
        assert (precision_of_none(changed, batch, gold) >= wanted) is enough
        assert np.array_equal(changed.logits(batch), policy.logits(batch))
    assert reluctance(policy, batch, gold, before) == 0


def test_reluctance_is_not_bought_at_any_price(
    doubtful: tuple[LocalPolicy, np.ndarray], batch: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, gold = doubtful
    wanted = precision_of_none(policy, batch, gold) + 0.25
    assert reluctance(policy, batch, gold, wanted) == 0
    monkeypatch.setattr("memroute_agents.local.calibration.DEAREST", 1.0)
    assert reluctance(policy, batch, gold, wanted) > 0
    # Where `none` is never right, no reluctance makes it so.
    assert reluctance(policy, batch, np.maximum(gold, 1), 0.5) == 0


def test_reluctance_is_not_learnt_from_a_handful(
    doubtful: tuple[LocalPolicy, np.ndarray], batch: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, gold = doubtful
    nothing = np.flatnonzero(policy.decide(batch) == 0)
    right, wrong = nothing[gold[nothing] == 0], nothing[gold[nothing] != 0]
    few = np.concatenate([right[: FEWEST - 2], wrong[:1]])
    monkeypatch.setattr("memroute_agents.local.calibration.DEAREST", 1.0)
    assert len(few) == FEWEST - 1
    assert reluctance(policy, batch.take(few), gold[few], 0.95) == 0


def test_the_agent_is_as_reluctant_as_the_policy(
    doubtful: tuple[LocalPolicy, np.ndarray], train: Dataset
) -> None:
    policy, _ = doubtful
    conversations = [e.conversation for e in train]
    shares = []
    for tried in (0.0, 1.0):
        calibration = policy.calibration._replace(reluctance=tried)
        decisions = LocalAgent(replace(policy, calibration=calibration)).route(conversations)
        shares.append(np.mean([d.categories == ("none",) for d in decisions]))
    assert shares[0] > shares[1]
