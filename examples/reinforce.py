"""REINFORCE on memory routing, the whole idea in one file: `python examples/reinforce.py`.

From rewards alone (training sees no gold set), with nothing but NumPy: hashed n-grams, a softmax
over sets of categories, a learnt baseline, Adam. Half a minute on two cores. The policy that ships
(`memroute train local`) has better features and a supervised start; the idea is this one.
"""

from __future__ import annotations

from argparse import ArgumentParser

import gymnasium as gym
import numpy as np

import memroute_env
from memroute_env.views import hash_features


def reinforce(
    steps: int, envs: int = 1_024, dim: int = 8_192, rate: float = 0.02, entropy: float = 0.03
) -> float:
    """Train on the train split and print how the policy does on the validation split.

    Args:
        steps: Updates, each from one conversation and one sampled answer an environment.
        envs: Parallel environments.
        dim: Buckets of the hashed n-grams.
        rate: Learning rate of Adam.
        entropy: Weight of the bonus that keeps the policy exploring.

    Returns:
        The last mean reward on the validation split, of the likeliest answers.
    """
    env = gym.make_vec("MemoryRoutingDiscrete-v0", num_envs=envs, split="train", feature_dim=dim)
    validation = memroute_env.load_dataset("marketing", "validation")
    reward_of = memroute_env.Reward(validation.taxonomy)
    unseen = hash_features(validation.texts, dim)

    # Action k is a set. Its logit is the sum of its categories' scores and of a score of its size.
    masks = np.array(validation.taxonomy.small_sets())
    has = (masks[:, None] >> np.arange(validation.taxonomy.num_storing)) & 1
    sets = np.hstack([has, np.eye(4)[has.sum(axis=1)]]).astype(np.float32)  # (actions, scores)

    weights = np.zeros((dim, sets.shape[1] + 1), np.float32)  # the last column is the baseline
    momentum, scale = np.zeros_like(weights), np.zeros_like(weights)
    rng = np.random.default_rng(0)
    rows, score = np.arange(envs), 0.0
    observations, _ = env.reset(seed=0)

    for step in range(1, steps + 1):
        outputs = observations @ weights
        logits = outputs[:, :-1] @ sets.T
        policy = np.exp(logits - logits.max(axis=1, keepdims=True))
        policy /= policy.sum(axis=1, keepdims=True)
        actions = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        next_observations, rewards, *_ = env.step(actions)

        # Gradient of E[advantage * log pi(action)] + entropy * H(pi), with respect to the logits.
        advantages = (rewards - outputs[:, -1]).astype(np.float32)
        surprise = np.log(policy + 1e-9)
        mean_surprise = (policy * surprise).sum(axis=1, keepdims=True)
        ascent = -policy * (advantages[:, None] + entropy * (surprise - mean_surprise))
        ascent[rows, actions] += advantages
        gradient = observations.T @ np.hstack([ascent @ sets, advantages[:, None]]) / envs

        momentum = 0.9 * momentum + 0.1 * gradient
        scale = 0.99 * scale + 0.01 * gradient**2
        mean, variance = momentum / (1 - 0.9**step), scale / (1 - 0.99**step)
        weights += rate * mean / (np.sqrt(variance) + 1e-6)
        observations = next_observations

        if step % 100 == 0 or step == steps:
            answers = masks[(unseen @ weights[:, :-1] @ sets.T).argmax(axis=1)]
            parts = reward_of.score_masks(answers, validation.gold_masks, components=True)
            score = float(parts.total.mean())
            exact = (answers == validation.gold_masks).mean()
            print(
                f"step {step:5}  train reward {rewards.mean():.3f}  validation: reward {score:.3f}"
                f"  F1 {parts.f1.mean():.3f}  exact {exact:.1%}",
                flush=True,
            )
    return score


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=800, help="updates, at least 1")
    steps = parser.parse_args().steps
    if steps < 1:
        parser.error(f"argument --steps: must be at least 1, got {steps}")
    reinforce(steps)
