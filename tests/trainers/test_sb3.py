"""Stable-Baselines3 trains on the numeric views as they are."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import memroute_env  # noqa: F401  # registers the environments

pytest.importorskip("stable_baselines3", reason="needs stable-baselines3: memroute-env[trainers]")
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize(
    ("env_id", "gain"), [("MemoryRoutingFeatures-v0", 0.03), ("MemoryRoutingDiscrete-v0", 0.01)]
)
def test_ppo_learns_more_than_chance(env_id: str, gain: float) -> None:
    """Both are measured on every conversation of the split, once.

    On the discrete view the best constant answer, where PPO ends in so short a training, is worth
    0.026 more than chance: the margin is what can be told from nothing, not what can be learnt.
    """
    from stable_baselines3 import PPO

    env = gym.make(env_id, split="validation", feature_dim=64)
    model = PPO("MlpPolicy", env, n_steps=256, batch_size=64, seed=0, device="cpu", gamma=0.0)

    def mean_reward(trained: bool) -> float:
        rewards = []
        for index in range(len(env.unwrapped.dataset)):  # type: ignore[attr-defined]
            observation, _ = env.reset(options={"index": index})
            action = (
                model.predict(observation, deterministic=True)[0]
                if trained
                else env.action_space.sample()
            )
            rewards.append(float(env.step(action)[1]))
        return float(np.mean(rewards))

    env.action_space.seed(0)
    chance = mean_reward(trained=False)
    model.learn(16_384)
    assert mean_reward(trained=True) > chance + gain
