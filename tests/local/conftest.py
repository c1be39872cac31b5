"""A small corpus, and a policy that was trained on it once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memroute_agents.local.checkpoint import save_policy
from memroute_agents.local.encoding import Encoder
from memroute_agents.local.features import FeatureConfig
from memroute_agents.local.optimise import Schedule
from memroute_agents.local.policy import LocalPolicy
from memroute_agents.local.sets import SetFamily
from memroute_agents.local.training import TrainConfig, train_policy
from memroute_data_gen.compose import compose
from memroute_env import Dataset, load_taxonomy

MARKETING = load_taxonomy("marketing")
QUICK = TrainConfig(
    features=FeatureConfig(bits=15),
    supervised=Schedule(epochs=8, rate=128.0, evidence_weight=0.5, warm_up=10),
    gradient_iterations=3,
    groups=32,
    group_size=8,
)


@pytest.fixture(scope="session")
def train() -> Dataset:
    return Dataset(list(compose(600, seed=1)), MARKETING, name="composed", split="train")


@pytest.fixture(scope="session")
def held_out() -> Dataset:
    return Dataset(list(compose(150, seed=2, split="validation")), MARKETING, name="held out")


@pytest.fixture(scope="session")
def trained(train: Dataset, held_out: Dataset) -> LocalPolicy:
    return train_policy(train, held_out, QUICK).policy


@pytest.fixture(scope="session")
def checkpoint(trained: LocalPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.npz"
    save_policy(trained, path)
    return path


@pytest.fixture(scope="session")
def random_policy(train: Dataset) -> LocalPolicy:
    """Few features, random weights: for checks of gradients."""
    config = FeatureConfig(word_orders=(1,), stem_lengths=(), bits=6)
    encoder = Encoder.fit([e.conversation for e in train], config)
    policy = LocalPolicy.untrained(SetFamily(MARKETING), encoder)
    rng = np.random.default_rng(0)
    for array in policy.parameters.arrays().values():
        array[...] = rng.normal(0, 0.5, array.shape)
    return policy
