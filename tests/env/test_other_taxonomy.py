"""The whole environment on a made-up taxonomy of customer support: 5 + 1 categories."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from memroute_env import (
    Dataset,
    MemoryRoutingEnv,
    MemoryRoutingVectorEnv,
    Reward,
    Taxonomy,
    build_messages,
    load_dataset,
    load_taxonomy,
    parse_answer,
)
from memroute_env.conversation import write_examples
from tests.conftest import SUPPORT_TOML, make_example


@pytest.fixture
def shop(support: Taxonomy) -> Dataset:
    examples = [
        make_example(f"e{mask}", list(support.ids(mask)), f"message number {mask}")
        for mask in range(support.num_masks)
    ]
    return Dataset(examples, support)


def test_every_size_comes_from_the_taxonomy(shop: Dataset) -> None:
    assert len(shop) == 32
    assert MemoryRoutingEnv(shop, action="multibinary").action_space == gym.spaces.MultiBinary(5)
    # none, 5 of one, 10 of two, 10 of three
    assert MemoryRoutingEnv(shop, action="discrete").action_space == gym.spaces.Discrete(26)
    assert MemoryRoutingEnv(shop, observation="index").observation_space == gym.spaces.Discrete(32)


@pytest.mark.parametrize("action", ["text", "multidiscrete", "multibinary", "discrete"])
@pytest.mark.parametrize("observation", ["text", "features", "index"])
def test_passes_the_checker_in_every_view(shop: Dataset, observation: str, action: str) -> None:
    env = gym.make("MemoryRouting-v0", dataset=shop, observation=observation, action=action)
    check_env(env.unwrapped)


def test_every_pair_of_sets_is_paid_as_the_reward_says(shop: Dataset, support: Taxonomy) -> None:
    env, reward = MemoryRoutingEnv(shop), Reward(support)
    for gold in range(32):
        for predicted in range(32):
            env.reset(options={"index": gold})
            _, total, _, _, info = env.step(", ".join(support.ids(predicted)))
            assert total == reward.score(predicted, gold).total
            assert info["predicted"] == support.ids(predicted)
            assert info["gold"] == support.ids(gold)


def test_the_vector_environment_agrees(shop: Dataset, support: Taxonomy) -> None:
    env = MemoryRoutingVectorEnv(32, shop, action="multibinary", autoreset_mode="Disabled")
    _, info = env.reset(seed=0)
    bits = np.arange(32)[:, None] >> np.arange(5) & 1
    _, rewards, _, _, after = env.step(bits)
    expected = Reward(support).score_masks(np.arange(32), shop.gold_masks[info["index"]])
    assert (rewards == expected).all()
    assert after["predicted"][0] == ("nothing",)


def test_marketing_ids_mean_nothing_here(shop: Dataset, support: Taxonomy) -> None:
    env = MemoryRoutingEnv(shop)
    env.reset(seed=0)
    assert env.step("company.brand_core")[1] == -1.0
    env.reset(seed=0)
    assert env.step("none")[1] == -1.0
    assert parse_answer("Nothing", support).mask == 0


def test_from_files_through_gym_make(shop: Dataset, tmp_path: Path) -> None:
    data, toml = tmp_path / "shop.jsonl", tmp_path / "shop.toml"
    write_examples(data, shop)
    toml.write_text(SUPPORT_TOML)
    env = gym.make("MemoryRouting-v0", dataset=str(data), taxonomy=str(toml))
    env.reset(options={"id": "e8"})
    assert env.step("shop.policy")[1] == 1.0
    assert load_dataset(data, taxonomy=toml).sha256 == shop.sha256


def test_prompts_name_these_categories_and_no_others(shop: Dataset, support: Taxonomy) -> None:
    text = json.dumps(build_messages(shop[0].conversation, support))
    assert all(category_id in text for category_id in support.all_ids)
    assert not any(c in text for c in load_taxonomy("marketing").all_ids)
